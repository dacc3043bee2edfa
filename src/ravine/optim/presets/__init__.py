"""Methods by the names that people say. Each is a direction and a search, and nothing else."""

from ravine.optim.presets._method import Method
from ravine.optim.presets.first_order import (
    FIRST_ORDER,
    adam,
    anderson,
    barzilai_borwein,
    block_coordinate,
    from_optax,
    gradient_descent,
    heavy_ball,
    nesterov,
    nonlinear_cg,
    polyak,
)
from ravine.optim.presets.gauss_newton import (
    GAUSS_NEWTON,
    gauss_newton,
    levenberg_marquardt,
    matrix_free_gauss_newton,
)
from ravine.optim.presets.quasi_newton import QUASI_NEWTON, bfgs, lbfgs, ssbfgs, ssbroyden
from ravine.optim.presets.stochastic import STOCHASTIC, sgd

METHODS: dict[str, Method] = {**FIRST_ORDER, **STOCHASTIC, **QUASI_NEWTON, **GAUSS_NEWTON}

__all__ = [
    "METHODS",
    "Method",
    "adam",
    "anderson",
    "barzilai_borwein",
    "bfgs",
    "block_coordinate",
    "from_optax",
    "gauss_newton",
    "gradient_descent",
    "heavy_ball",
    "lbfgs",
    "levenberg_marquardt",
    "matrix_free_gauss_newton",
    "nesterov",
    "nonlinear_cg",
    "polyak",
    "sgd",
    "ssbfgs",
    "ssbroyden",
]
