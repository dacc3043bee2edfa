"""Methods by the names that people say. Each is a direction and a search, and nothing else."""

from ravine.optim.presets._method import Method
from ravine.optim.presets.first_order import FIRST_ORDER, adam, from_optax, gradient_descent
from ravine.optim.presets.gauss_newton import (
    GAUSS_NEWTON,
    gauss_newton,
    levenberg_marquardt,
    matrix_free_gauss_newton,
)
from ravine.optim.presets.kron import KRONECKER, ekfac, kfac
from ravine.optim.presets.quasi_newton import QUASI_NEWTON, bfgs, lbfgs, ssbfgs, ssbroyden
from ravine.optim.presets.stochastic import STOCHASTIC, sgd

METHODS: dict[str, Method] = {**FIRST_ORDER, **STOCHASTIC, **QUASI_NEWTON, **GAUSS_NEWTON, **KRONECKER}

__all__ = [
    "METHODS",
    "Method",
    "adam",
    "bfgs",
    "ekfac",
    "from_optax",
    "gauss_newton",
    "gradient_descent",
    "kfac",
    "lbfgs",
    "levenberg_marquardt",
    "matrix_free_gauss_newton",
    "sgd",
    "ssbfgs",
    "ssbroyden",
]
