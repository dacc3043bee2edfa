"""SciPy: L-BFGS-B on a jitted gradient, with the settings that DeepXDE gives it (100 pairs, no tolerance)."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from benchmarks.points import CHUNK, Redraw
from benchmarks.start import Start
from benchmarks.statements import given
from benchmarks.trace import Trace


def run(start: Start, trace: Trace) -> None:
    problem = given(start)
    theta, points = np.asarray(problem.theta), problem.points
    value_and_grad = jax.jit(jax.value_and_grad(problem.flat_loss))
    value_and_grad(theta, points)
    predict = jax.jit(lambda theta: problem.statement.predict(problem.unravel(theta), start.grid))
    residual = jax.jit(
        lambda theta, pool: problem.statement.residuals(problem.unravel(theta), {**points, "pde": pool})["pde"]
    )
    redraw = Redraw(start)
    residual(theta, redraw.pool())

    steps = evaluations = 0

    def function(theta):
        nonlocal evaluations
        evaluations += 1
        value, grad = value_and_grad(theta, points)
        return float(value), np.asarray(grad)

    def callback(intermediate_result):
        nonlocal steps
        steps += 1
        if trace.due:
            trace.record(intermediate_result.x, loss=intermediate_result.fun, steps=steps, evaluations=evaluations)
        if trace.over:
            raise StopIteration

    trace.compiled(predict, theta)
    options = {
        "maxcor": 100,
        "ftol": 0.0,
        "gtol": 0.0,
        "maxls": 50,
        "maxfun": 10**9,
        "maxiter": CHUNK if start.adaptive else 10**9,
    }
    while not trace.over:
        found = scipy.optimize.minimize(
            function, theta, jac=True, method="L-BFGS-B", callback=callback, options=options
        )
        theta = found.x
        if found.nit == 0:
            trace.stop = f"L-BFGS-B makes no step: {found.message}"
            trace.record(theta, loss=found.fun, steps=steps, evaluations=evaluations)
            return
        fresh = redraw(lambda pool, at=theta: residual(at, pool))
        points = points if fresh is None else jax.tree.map(jnp.asarray, fresh)
