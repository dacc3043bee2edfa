"""Optimistix: Levenberg–Marquardt with its default QR, stepped as its documentation shows. New points start anew."""

import equinox as eqx
import jax
import optimistix as optx  # pyright: ignore[reportMissingImports]

from benchmarks.points import CHUNK, Redraw
from benchmarks.start import Start
from benchmarks.statements import Given, given
from benchmarks.trace import Trace


def stepper(problem: Given):
    """`init(theta, points) -> state` and `step(theta, state, points) -> (theta, state)`."""
    # Tolerances end a solve; here the clock does.
    solver = optx.LevenbergMarquardt(rtol=1e-16, atol=1e-16)

    def rows(theta, points):
        return problem.statement.rows(problem.unravel(theta), points), None

    @eqx.filter_jit
    def init(theta, points):
        shape = jax.eval_shape(lambda: rows(theta, points)[0])
        return solver.init(rows, theta, points, {}, shape, None, frozenset())

    @eqx.filter_jit
    def step(theta, state, points):
        theta, state, _ = solver.step(rows, theta, points, {}, state, frozenset())
        return theta, state

    return init, step


def run(start: Start, trace: Trace) -> None:
    problem = given(start)
    theta, points = problem.theta, problem.points
    init, step = stepper(problem)
    state = init(theta, points)
    jax.block_until_ready(step(theta, state, points)[0])
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
        theta, state = step(theta, state, points)
        jax.block_until_ready(theta)
        steps += 1
        if trace.due:
            with trace.paused():
                value = loss(theta, points)
            trace.record(theta, loss=value, steps=steps, evaluations=steps)
        if steps % CHUNK == 0:
            fresh = redraw(lambda pool, at=theta: residual(at, pool))
            if fresh is not None:
                points = jax.tree.map(jax.numpy.asarray, fresh)
                state = init(theta, points)
