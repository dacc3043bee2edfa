"""Optimistix: BFGS with its default dense inverse and search, in `lax.scan` chunks. New points start anew."""

import equinox as eqx
import jax
import optimistix as optx  # pyright: ignore[reportMissingImports]

from benchmarks.points import CHUNK, Redraw
from benchmarks.start import Start
from benchmarks.statements import given
from benchmarks.trace import Trace

STEPS = 20  # in one chunk


def run(start: Start, trace: Trace) -> None:
    problem = given(start)
    theta, points = problem.theta, problem.points
    # Tolerances end a solve; here the clock does.
    solver = optx.BFGS(rtol=1e-16, atol=1e-16)

    def function(theta, points):
        return problem.flat_loss(theta, points), None

    @eqx.filter_jit
    def init(theta, points):
        shape = jax.eval_shape(lambda: function(theta, points)[0])
        return solver.init(function, theta, points, {}, shape, None, frozenset())

    @eqx.filter_jit
    def advance(theta, state, points):
        arrays, static = eqx.partition(state, eqx.is_array)

        def one(carry, _):
            theta, arrays = carry
            theta, state, _ = solver.step(function, theta, points, {}, eqx.combine(arrays, static), frozenset())
            return (theta, eqx.filter(state, eqx.is_array)), None

        (theta, arrays), _ = jax.lax.scan(one, (theta, arrays), length=STEPS)
        return theta, eqx.combine(arrays, static)

    state = init(theta, points)
    jax.block_until_ready(advance(theta, state, points)[0])
    loss = jax.jit(problem.flat_loss)
    loss(theta, points)
    predict = jax.jit(lambda theta: problem.statement.predict(problem.unravel(theta), start.grid))
    residual = jax.jit(
        lambda theta, pool: problem.statement.residuals(problem.unravel(theta), {**points, "pde": pool})["pde"]
    )
    redraw = Redraw(start)
    residual(theta, redraw.pool())

    trace.compiled(predict, theta)
    steps = 0
    while not trace.over:
        theta, state = advance(theta, state, points)
        jax.block_until_ready(theta)
        steps += STEPS
        if trace.due:
            with trace.paused():
                value = loss(theta, points)
            trace.record(theta, loss=value, steps=steps, evaluations=steps)
        if steps % CHUNK == 0:
            fresh = redraw(lambda pool, at=theta: residual(at, pool))
            if fresh is not None:
                points = jax.tree.map(jax.numpy.asarray, fresh)
                state = init(theta, points)
