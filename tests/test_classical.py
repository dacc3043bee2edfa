"""The classical test functions: at least as many solved as SciPy solves, with no more evaluations in the median.

A run counts as solved once Σ r² has come down to a known minimum by all but 10⁻¹⁰ of the way. What is counted are the
points at which the loss (with its gradient, where the method asks for both) was evaluated until then, by either side.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize as so

import ravine as rv
from cases import step
from classical import FUNCTIONS

CLOSE, BUDGET = 1e-10, 1000
FEW = ("rosenbrock", "beale", "brown_dennis", "wood", "broyden_tridiagonal", "freudenstein_roth")

OURS = {
    "levenberg_marquardt": lambda: rv.levenberg_marquardt(acceleration=False),
    "bfgs": rv.bfgs,
    "trust_region_newton": rv.trust_region_newton,
    "lbfgs": lambda: rv.lbfgs(memory=10),
}


def first_within(name: str, values: list[float], counts: list[int]) -> int | None:
    """The count at which Σ r² came close to the minimum where the run ended; None where it ended at none."""
    values = np.minimum.accumulate(np.where(np.isfinite(values), values, np.inf))
    for minimum in FUNCTIONS[name].minima:
        close = CLOSE * abs(values[0] - minimum) + 1e-6 * minimum
        # Known minima have seven digits.
        if abs(values[-1] - minimum) <= close:
            return counts[int(np.argmax(values <= minimum + close))]
    return None


@functools.cache
def functions_of(name: str):
    """Value and gradient, Hessian, residuals and their Jacobian, compiled, of NumPy vectors."""
    residuals = FUNCTIONS[name].residuals
    loss = lambda x: jnp.sum(residuals(x) ** 2) / 2
    made = (jax.value_and_grad(loss), jax.hessian(loss), residuals, jax.jacfwd(residuals))
    return [jax.jit(function) for function in made]


def peer(name: str, method: str) -> int | None:
    """SciPy's counterpart of a method."""
    both, hessian, residuals, jacobian = functions_of(name)
    start, values = np.array(FUNCTIONS[name].start), []

    def loss(x):
        value, grad = both(x)
        values.append(2 * float(value))
        return float(value), np.asarray(grad)

    def rows(x):
        found = np.asarray(residuals(x))
        values.append(float(found @ found))
        return found

    with np.errstate(all="ignore"):
        if method == "levenberg_marquardt":
            slopes = lambda x: np.asarray(jacobian(x))
            so.least_squares(rows, start, slopes, ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=BUDGET)
        elif method == "bfgs":
            so.minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-12, "maxiter": BUDGET})
        elif method == "lbfgs":
            options = {"gtol": 1e-12, "ftol": 0.0, "maxfun": BUDGET, "maxiter": BUDGET}
            so.minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
        else:
            curved = lambda x: np.asarray(hessian(x))
            options = {"gtol": 1e-12, "maxiter": BUDGET}
            so.minimize(loss, start, jac=True, hess=curved, method="trust-ncg", options=options)
    values = values[:BUDGET]
    return first_within(name, values, list(range(1, len(values) + 1)))


def ours(name: str, method: str) -> int | None:
    residuals = FUNCTIONS[name].residuals
    objective, theta = rv.Objective.from_residuals(lambda x, _: residuals(x), jnp.array(FUNCTIONS[name].start))
    optimizer = OURS[method]()
    state = optimizer.init(objective, theta)
    values, counts, patience = [2 * float(objective(theta, None))], [1], 0
    while counts[-1] < BUDGET and patience < 3:
        theta, state, info = step(optimizer, objective, theta, state, None)
        made = int(info.work.evaluations)
        # The point that a step starts from was counted as a trial of the step before.
        made -= 1 if len(counts) == 1 or method == "levenberg_marquardt" else 0
        values.append(2 * float(info.value))
        counts.append(counts[-1] + made)
        patience = int(info.failures)
    return first_within(name, values, counts)


def compare(names, method):
    found = {name: (ours(name, method), peer(name, method)) for name in names}
    print(method, found)
    both = np.array([pair for pair in found.values() if None not in pair])
    solved = [sum(pair[side] is not None for pair in found.values()) for side in (0, 1)]
    return solved, np.median(both[:, 0] / both[:, 1]), found


@pytest.mark.parametrize("method", OURS)
def test_a_few(method):
    """A guard that is quick: all are solved, with about as many evaluations. The claim is the whole table's."""
    (solved, _), ratio, found = compare(FEW, method)
    assert solved == len(FEW), found
    assert ratio <= 1.2, found


@pytest.mark.slow
@pytest.mark.parametrize("method", OURS)
def test_all(method):
    (solved, theirs), ratio, found = compare(FUNCTIONS, method)
    assert solved >= theirs, found
    assert ratio <= 1, found
