"""Methods by the names that people say. Each is a direction and a search, and nothing else."""

import functools
from collections.abc import Callable

import optax

from ravine._types import Any
from ravine.optim.first_order import Steepest, Transform
from ravine.optim.gauss_newton import GaussNewton, Solver, Space
from ravine.optim.matrix_free import MatrixFree
from ravine.optim.optimizer import Optimizer
from ravine.optim.quasi_newton import LBFGS, Broyden, self_scaled, self_scaled_broyden, unscaled
from ravine.optim.search import Armijo, Damping, Fixed, Wolfe

Rate = float | Callable[[Any], Any]  # a number, or a schedule: step number -> number


def from_optax(transformation: optax.GradientTransformation) -> Optimizer:
    """Any Optax transformation, learning rate included. One gradient a step."""
    return Optimizer(Transform(transformation), Fixed(1.0))


def sgd(rate: Rate = 1e-2, *, momentum: float | None = None) -> Optimizer:
    """Stochastic gradient descent, with momentum if wanted. One gradient a step; noise is welcome."""
    return Optimizer(Transform(_momentum(momentum)), Fixed(rate))


def adam(rate: Rate = 1e-3, *, b1: float = 0.9, b2: float = 0.999) -> Optimizer:
    """Adam (Kingma and Ba, 2015). One gradient a step; noise is welcome. Fast early, then it stalls."""
    return Optimizer(Transform(_adam(b1, b2)), Fixed(rate))


# Optax makes new functions at every call, for which everything would be compiled anew; so each is made once, and the
# rate, which Optax would hide in them, is the search's.
@functools.cache
def _momentum(decay: float | None) -> optax.GradientTransformation:
    return optax.chain(optax.identity() if decay is None else optax.trace(decay), optax.scale(-1.0))


@functools.cache
def _adam(b1: float, b2: float) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(b1, b2), optax.scale(-1.0))


def gradient_descent(rate: Rate | None = None) -> Optimizer:
    """Gradient descent with an Armijo search, or with a fixed rate. One gradient and one to two evaluations a step."""
    return Optimizer(Steepest(), Armijo() if rate is None else Fixed(rate))


def lbfgs(*, memory: int = 20) -> Optimizer:
    """Limited-memory BFGS with a strong Wolfe search. One gradient a step, 2·memory·n numbers."""
    return Optimizer(LBFGS(memory), Wolfe())


def bfgs() -> Optimizer:
    """BFGS with a dense inverse and a strong Wolfe search. One gradient and 10n² flops a step, n² numbers."""
    return Optimizer(Broyden(unscaled), Wolfe())


def ssbfgs() -> Optimizer:
    """Self-scaled BFGS (Al-Baali, 1998). Cost as BFGS; stands ill-conditioned starts."""
    return Optimizer(Broyden(self_scaled), Wolfe())


def ssbroyden() -> Optimizer:
    """Self-scaled Broyden (Urbán, Stefanou and Pons, 2025). Cost as BFGS; the method of choice for PINNs."""
    return Optimizer(Broyden(self_scaled_broyden), Wolfe())


def gauss_newton(*, space: Space = "auto", solver: Solver = "cholesky", ridge: float = 1e-12) -> Optimizer:
    """Gauss–Newton with an Armijo search along the all but undamped step. Needs residuals and a sane start."""
    return Optimizer(GaussNewton(space=space, acceleration=False, solver=solver, ridge=ridge), Armijo(longest=1.0))


def levenberg_marquardt(
    *, space: Space = "auto", solver: Solver = "cholesky", acceleration: bool = True, damping: float = 1e-3
) -> Optimizer:
    """Levenberg–Marquardt with gain-ratio damping and geodesic acceleration. Needs residuals; from any start."""
    return Optimizer(GaussNewton(space=space, acceleration=acceleration, solver=solver), Damping(damping))


def matrix_free_gauss_newton(
    *, rank: int = 48, damping: float = 1e-3, tolerance: float | None = None, iterations: int = 200
) -> Optimizer:
    """Levenberg–Marquardt by preconditioned conjugate gradients: no matrix, (rank + 12)·n numbers, any m and n."""
    return Optimizer(MatrixFree(rank, tolerance=tolerance, iterations=iterations), Damping(damping))


METHODS: dict[str, Callable[[], Optimizer]] = {
    method.__name__: method
    for method in (
        adam,
        sgd,
        gradient_descent,
        lbfgs,
        bfgs,
        ssbfgs,
        ssbroyden,
        gauss_newton,
        levenberg_marquardt,
        matrix_free_gauss_newton,
    )
}
