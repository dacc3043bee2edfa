"""Optax: L-BFGS with its own zoom line search, in `lax.scan` chunks. New points start a new memory."""

import jax
import jax.numpy as jnp
import optax

from benchmarks.points import CHUNK, Redraw
from benchmarks.start import Start
from benchmarks.statements import given
from benchmarks.trace import Trace

STEPS = 20  # in one chunk


def run(start: Start, trace: Trace) -> None:
    problem = given(start)
    optimizer = optax.lbfgs(memory_size=20)
    theta, points = problem.theta, problem.points
    state = optimizer.init(theta)

    def chunk(theta, state, points):
        def loss(theta):
            return problem.flat_loss(theta, points)

        value_and_grad = optax.value_and_grad_from_state(loss)

        def one(carry, _):
            theta, state = carry
            value, grad = value_and_grad(theta, state=state)
            updates, state = optimizer.update(grad, state, theta, value=value, grad=grad, value_fn=loss)
            trials = optax.tree_utils.tree_get(state, "info").num_linesearch_steps
            return (optax.apply_updates(theta, updates), state), (value, trials)

        (theta, state), (values, trials) = jax.lax.scan(one, (theta, state), length=STEPS)
        return theta, state, jnp.asarray(values)[-1], trials.sum()

    advance = jax.jit(chunk).lower(theta, state, points).compile()
    predict = jax.jit(lambda theta: problem.statement.predict(problem.unravel(theta), start.grid))
    residual = jax.jit(
        lambda theta, pool: problem.statement.residuals(problem.unravel(theta), {**points, "pde": pool})["pde"]
    )
    redraw = Redraw(start)
    residual(theta, redraw.pool())

    trace.compiled(predict, theta)
    steps = evaluations = 0
    while not trace.over:
        theta, state, loss, trials = advance(theta, state, points)
        evaluations += int(trials)
        steps += STEPS
        if trace.due:
            trace.record(theta, loss=loss, steps=steps, evaluations=evaluations)
        if steps % CHUNK == 0:
            fresh = redraw(lambda pool, at=theta: residual(at, pool))
            if fresh is not None:
                points, state = jax.tree.map(jnp.asarray, fresh), optimizer.init(theta)
