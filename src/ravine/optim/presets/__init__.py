"""Methods by the names that people say. Each is a direction and a search, and nothing else."""

from ravine.optim.presets._method import Method
from ravine.optim.presets.first_order import FIRST_ORDER, adam, from_optax, gradient_descent
from ravine.optim.presets.gauss_newton import (
    GAUSS_NEWTON,
    gauss_newton,
    levenberg_marquardt,
    matrix_free_gauss_newton,
)
from ravine.optim.presets.newton import (
    NEWTON,
    arc,
    cubic_newton,
    dogleg,
    hessian_free,
    newton,
    newton_cg,
    nys_newton_cg,
    saddle_free_newton,
    subsampled_newton_cg,
    trust_region_cg,
    trust_region_gauss_newton,
    trust_region_newton,
)
from ravine.optim.presets.quasi_newton import (
    QUASI_NEWTON,
    bfgs,
    broyden_class,
    damped_lbfgs,
    dfp,
    lbfgs,
    lsr1,
    sr1,
    ssbfgs,
    ssbroyden,
)
from ravine.optim.presets.stochastic import STOCHASTIC, sgd

METHODS: dict[str, Method] = {**FIRST_ORDER, **STOCHASTIC, **QUASI_NEWTON, **NEWTON, **GAUSS_NEWTON}

__all__ = [
    "METHODS",
    "Method",
    "adam",
    "arc",
    "bfgs",
    "broyden_class",
    "cubic_newton",
    "damped_lbfgs",
    "dfp",
    "dogleg",
    "from_optax",
    "gauss_newton",
    "gradient_descent",
    "hessian_free",
    "lbfgs",
    "levenberg_marquardt",
    "lsr1",
    "matrix_free_gauss_newton",
    "newton",
    "newton_cg",
    "nys_newton_cg",
    "saddle_free_newton",
    "sgd",
    "sr1",
    "ssbfgs",
    "ssbroyden",
    "subsampled_newton_cg",
    "trust_region_cg",
    "trust_region_gauss_newton",
    "trust_region_newton",
]
