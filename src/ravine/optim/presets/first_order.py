"""Methods that use the gradient alone, on the full batch."""

import functools

import optax

from ravine._types import Callable, Count, Scalar
from ravine.optim.first_order import Steepest, Transform
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.search import Armijo, Fixed

Rate = float | Callable[[Count], Scalar]  # a number, or a schedule: step number -> number


def from_optax(transformation: optax.GradientTransformation) -> Optimizer:
    """Any Optax transformation, learning rate included. One gradient a step."""
    return Optimizer(Transform(transformation), Fixed(1.0))


def adam(rate: Rate = 1e-3, *, b1: float = 0.9, b2: float = 0.999) -> Optimizer:
    """Adam (Kingma and Ba, 2015). One gradient a step; noise is welcome. Fast early, then it stalls."""
    return Optimizer(Transform(_adam(b1, b2)), Fixed(rate))


# Optax makes new functions at every call, for which everything would be compiled anew; so each is made once, and the
# rate, which Optax would hide in them, is the search's.
@functools.cache
def _adam(b1: float, b2: float) -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(b1, b2), optax.scale(-1.0))


def gradient_descent(rate: Rate | None = None) -> Optimizer:
    """Gradient descent with an Armijo search, or with a fixed rate. One gradient and one to two evaluations a step."""
    return Optimizer(Steepest(), Armijo() if rate is None else Fixed(rate))


FIRST_ORDER = catalogue(
    Method(adam, "first order", "1 gradient", "2n", "Kingma and Ba, 2015"),
    Method(gradient_descent, "first order", "1 gradient, 1–2 values", "0", "Cauchy, 1847; Armijo, 1966"),
)
