"""Methods by the names that people say. Each is a direction and a search, and nothing else."""

from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method as Method, called as called, made
from ravine.optim.presets.first_order import (
    FIRST_ORDER,
    adam as adam,
    anderson as anderson,
    barzilai_borwein as barzilai_borwein,
    block_coordinate as block_coordinate,
    conflict_free as conflict_free,
    from_optax as from_optax,
    gradient_descent as gradient_descent,
    heavy_ball as heavy_ball,
    nesterov as nesterov,
    nonlinear_cg as nonlinear_cg,
    pcgrad as pcgrad,
    polyak as polyak,
)
from ravine.optim.presets.gauss_newton import (
    GAUSS_NEWTON,
    gauss_newton as gauss_newton,
    levenberg_marquardt as levenberg_marquardt,
    matrix_free_gauss_newton as matrix_free_gauss_newton,
)
from ravine.optim.presets.kron import (
    KRONECKER,
    ekfac as ekfac,
    kfac as kfac,
)
from ravine.optim.presets.natural_gradient import (
    NATURAL_GRADIENT,
    anagram as anagram,
    energy_natural_gradient as energy_natural_gradient,
    natural_gradient as natural_gradient,
    sketched_gauss_newton as sketched_gauss_newton,
    spring as spring,
)
from ravine.optim.presets.newton import (
    NEWTON,
    arc as arc,
    cubic_newton as cubic_newton,
    dogleg as dogleg,
    hessian_free as hessian_free,
    newton as newton,
    newton_cg as newton_cg,
    nys_newton_cg as nys_newton_cg,
    saddle_free_newton as saddle_free_newton,
    subsampled_newton_cg as subsampled_newton_cg,
    trust_region_cg as trust_region_cg,
    trust_region_gauss_newton as trust_region_gauss_newton,
    trust_region_newton as trust_region_newton,
)
from ravine.optim.presets.quasi_newton import (
    QUASI_NEWTON,
    bfgs as bfgs,
    broyden_class as broyden_class,
    damped_lbfgs as damped_lbfgs,
    dfp as dfp,
    lbfgs as lbfgs,
    lsr1 as lsr1,
    sr1 as sr1,
    ssbfgs as ssbfgs,
    ssbroyden as ssbroyden,
)
from ravine.optim.presets.stochastic import (
    STOCHASTIC,
    adabelief as adabelief,
    adagrad as adagrad,
    adagrad_norm as adagrad_norm,
    adamw as adamw,
    amsgrad as amsgrad,
    asgd as asgd,
    averaged as averaged,
    growing_batch as growing_batch,
    lion as lion,
    muon as muon,
    nadam as nadam,
    rmsprop as rmsprop,
    saga as saga,
    sarah as sarah,
    schedule_free as schedule_free,
    sgd as sgd,
    shampoo as shampoo,
    soap as soap,
    storm as storm,
    svrg as svrg,
)
from ravine.optim.presets.stochastic_second_order import (
    STOCHASTIC_SECOND_ORDER,
    adahessian as adahessian,
    large_batch_lbfgs as large_batch_lbfgs,
    multibatch_lbfgs as multibatch_lbfgs,
    sophia as sophia,
    sqn as sqn,
    stochastic_gauss_newton as stochastic_gauss_newton,
    stochastic_levenberg_marquardt as stochastic_levenberg_marquardt,
)

METHODS: dict[str, Method] = {
    **FIRST_ORDER,
    **STOCHASTIC,
    **QUASI_NEWTON,
    **NEWTON,
    **GAUSS_NEWTON,
    **KRONECKER,
    **NATURAL_GRADIENT,
    **STOCHASTIC_SECOND_ORDER,
}


def method(text: str) -> Optimizer:
    """The optimizer of a method in words: `lbfgs`, `spring(ridge=1e-6, momentum=0.5)`.

    **Raises:** `ValueError` for an unknown name, an unknown setting, and what the method itself refuses.
    """
    return made(METHODS, text)
