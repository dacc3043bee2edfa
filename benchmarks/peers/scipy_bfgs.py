"""SciPy: BFGS on a jitted gradient. The inverse Hessian is carried over to new points (`hess_inv0`)."""

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
    inverse = None
    while not trace.over:
        options = {"gtol": 0.0, "maxiter": CHUNK if start.adaptive else 10**9, "hess_inv0": inverse}
        found = scipy.optimize.minimize(function, theta, jac=True, method="BFGS", callback=callback, options=options)
        theta = found.x
        if found.nit == 0 and inverse is None:
            trace.stop = f"BFGS makes no step: {found.message}"
            trace.record(theta, loss=found.fun, steps=steps, evaluations=evaluations)
            return
        # After a search that failed it starts from the identity again.
        inverse = (found.hess_inv + found.hess_inv.T) / 2 if found.status != 2 else None
        if inverse is not None and not positive(inverse):
            inverse = None
        fresh = redraw(lambda pool, at=theta: residual(at, pool))
        points = points if fresh is None else jax.tree.map(jnp.asarray, fresh)


def positive(matrix: np.ndarray) -> bool:
    """Whether a symmetric matrix is positive definite."""
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True
