"""Optax: Adam in `lax.scan` chunks, learning rate 1e-3 with the exponential decay that jaxpi uses."""

import jax
import optax

from benchmarks.points import CHUNK, Redraw
from benchmarks.start import Start
from benchmarks.statements import given
from benchmarks.trace import Trace

STEPS = 100  # in one chunk


def run(start: Start, trace: Trace) -> None:
    problem = given(start)
    optimizer = optax.adam(optax.exponential_decay(1e-3, transition_steps=2000, decay_rate=0.9))
    params, points = problem.params, problem.points
    state = optimizer.init(params)

    def chunk(params, state, points):
        def one(carry, _):
            params, state = carry
            loss, grad = jax.value_and_grad(problem.statement.loss)(params, points)
            updates, state = optimizer.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), loss

        (params, state), losses = jax.lax.scan(one, (params, state), length=STEPS)
        return params, state, losses[-1]

    advance = jax.jit(chunk).lower(params, state, points).compile()
    predict = jax.jit(lambda params: problem.statement.predict(params, start.grid))
    residual = jax.jit(lambda params, pool: problem.statement.residuals(params, {**points, "pde": pool})["pde"])
    redraw = Redraw(start)
    residual(params, redraw.pool())

    trace.compiled(predict, params)
    steps = 0
    while not trace.over:
        params, state, loss = advance(params, state, points)
        jax.block_until_ready(loss)
        steps += STEPS
        if trace.due:
            trace.record(params, loss=loss, steps=steps, evaluations=steps)
        if steps % CHUNK == 0:
            fresh = redraw(lambda pool, at=params: residual(at, pool))
            points = points if fresh is None else jax.tree.map(jax.numpy.asarray, fresh)
