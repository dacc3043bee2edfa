"""First-order methods made for minibatches."""

import functools

import optax

from ravine.optim.first_order import Transform
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.presets.first_order import Rate
from ravine.optim.search import Fixed


def sgd(rate: Rate = 1e-2, *, momentum: float | None = None) -> Optimizer:
    """Stochastic gradient descent, with momentum if wanted. One gradient a step; noise is welcome."""
    return Optimizer(Transform(_momentum(momentum)), Fixed(rate))


@functools.cache
def _momentum(decay: float | None) -> optax.GradientTransformation:
    return optax.chain(optax.identity() if decay is None else optax.trace(decay), optax.scale(-1.0))


STOCHASTIC = catalogue(Method(sgd, "stochastic first order", "1 gradient", "0 or n", "Robbins and Monro, 1951"))
