"""ravine: training scientific machine-learning models well.

Names are imported when they are first used (PEP 562), so that `import ravine`, and with it `ravine --help`, does not
wait for JAX. A new public name goes into three places below: the import that type checkers read, the table, `__all__`;
a test compares them.
"""

import importlib
import importlib.util
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ravine import models, problems
    from ravine._results import Stop, Work
    from ravine.calculus import (
        divergence,
        gradient,
        hessian_diagonal,
        laplacian,
        partials,
        taylor,
    )
    from ravine.callbacks import Checkpoint, Event
    from ravine.checkpoint import load
    from ravine.constraints import bounded, frozen, positive, scaled
    from ravine.domains import Box, Region
    from ravine.easy import least_squares, minimise
    from ravine.formulations import (
        boundary,
        initial,
        logistic,
        penalty,
        residual,
        supervised,
    )
    from ravine.hardware import keep_memory, use_cores
    from ravine.hosts import join_hosts
    from ravine.layout import Layout
    from ravine.objective import Linearisation, Objective
    from ravine.optim.anderson import Anderson
    from ravine.optim.auto import auto
    from ravine.optim.backtracking import GridSearch, NonMonotone
    from ravine.optim.barzilai_borwein import BarzilaiBorwein
    from ravine.optim.block_coordinate import BlockCoordinate
    from ravine.optim.conjugate import NonlinearCG
    from ravine.optim.curvature import SR1, Curvature, GaussNewtonMatrix, Hessian, LimitedSR1
    from ravine.optim.first_order import Steepest, Transform
    from ravine.optim.forecast import Forecast, forecast
    from ravine.optim.gauss_newton import GaussNewton
    from ravine.optim.grouped import Grouped
    from ravine.optim.interop import to_optax
    from ravine.optim.kron import Kronecker
    from ravine.optim.ladder import Ladder
    from ravine.optim.learning_rate import Majorisation, Polyak, Sharpness
    from ravine.optim.matrix_free import MatrixFree
    from ravine.optim.momentum import HeavyBall, Nesterov
    from ravine.optim.newton import HessianFree, Newton, NewtonCG, NystromNewton
    from ravine.optim.optimizer import Direction, Info, Optimizer, Search, State
    from ravine.optim.path import Along, Found, Line, Path, Previous
    from ravine.optim.phase import Phase, Plan, Tolerance
    from ravine.optim.presets import (
        METHODS,
        Method,
        adabelief,
        adagrad,
        adagrad_norm,
        adahessian,
        adam,
        adamw,
        amsgrad,
        anagram,
        anderson,
        arc,
        asgd,
        averaged,
        barzilai_borwein,
        bfgs,
        block_coordinate,
        broyden_class,
        cubic_newton,
        damped_lbfgs,
        dfp,
        dogleg,
        ekfac,
        energy_natural_gradient,
        from_optax,
        gauss_newton,
        gradient_descent,
        growing_batch,
        heavy_ball,
        hessian_free,
        kfac,
        large_batch_lbfgs,
        lbfgs,
        levenberg_marquardt,
        lion,
        lsr1,
        matrix_free_gauss_newton,
        multibatch_lbfgs,
        muon,
        nadam,
        natural_gradient,
        nesterov,
        newton,
        newton_cg,
        nonlinear_cg,
        nys_newton_cg,
        polyak,
        rmsprop,
        saddle_free_newton,
        saga,
        sarah,
        schedule_free,
        sgd,
        shampoo,
        sketched_gauss_newton,
        soap,
        sophia,
        spring,
        sqn,
        sr1,
        ssbfgs,
        ssbroyden,
        stochastic_gauss_newton,
        stochastic_levenberg_marquardt,
        storm,
        subsampled_newton_cg,
        svrg,
        trust_region_cg,
        trust_region_gauss_newton,
        trust_region_newton,
    )
    from ravine.optim.projection import Projecting, variable_projection
    from ravine.optim.quasi_newton import LBFGS, Broyden
    from ravine.optim.search import Armijo, Damping, Fixed, Wolfe
    from ravine.optim.shampoo import SOAP, Shampoo
    from ravine.optim.sketched import Probe, Sketched, Truncated
    from ravine.optim.spring import Capped, Spring
    from ravine.optim.stochastic import AdagradNorm, Averaged, Growing
    from ravine.optim.stochastic_curvature import (
        SQN,
        AdaHessian,
        Fresh,
        HeldOut,
        MultiBatch,
        Sophia,
    )
    from ravine.optim.switches import below, noisy, slowing, stalled
    from ravine.optim.trust_region import (
        Cauchy,
        Cubic,
        Dogleg,
        Exact,
        Lanczos,
        Radius,
        Steihaug,
        TrustRegion,
    )
    from ravine.optim.variance_reduction import SAGA, SARAH, STORM, SVRG
    from ravine.problems.problem import GridReference, ParameterReference, PointReference, Problem, relative_l2
    from ravine.run import History, Run
    from ravine.samplers import (
        RAD,
        Constant,
        Grid,
        Minibatches,
        Overlapping,
        Redrawn,
        Sampler,
        Sobol,
        Uniform,
    )
    from ravine.terms import Minibatch, Term, Weighted, identity, squared
    from ravine.train import train

__version__ = "0.1.0"

# Where each public name lives; the modules themselves, `ravine.models` and the like, need no entry.
_NAMES_OF = {
    "_results": (
        "Stop",
        "Work",
    ),
    "calculus": (
        "divergence",
        "gradient",
        "hessian_diagonal",
        "laplacian",
        "partials",
        "taylor",
    ),
    "callbacks": (
        "Checkpoint",
        "Event",
    ),
    "checkpoint": ("load",),
    "constraints": (
        "bounded",
        "frozen",
        "positive",
        "scaled",
    ),
    "domains": (
        "Box",
        "Region",
    ),
    "easy": (
        "least_squares",
        "minimise",
    ),
    "formulations": (
        "boundary",
        "initial",
        "logistic",
        "penalty",
        "residual",
        "supervised",
    ),
    "hardware": (
        "keep_memory",
        "use_cores",
    ),
    "hosts": ("join_hosts",),
    "layout": ("Layout",),
    "objective": (
        "Linearisation",
        "Objective",
    ),
    "optim.anderson": ("Anderson",),
    "optim.auto": ("auto",),
    "optim.backtracking": (
        "GridSearch",
        "NonMonotone",
    ),
    "optim.barzilai_borwein": ("BarzilaiBorwein",),
    "optim.block_coordinate": ("BlockCoordinate",),
    "optim.conjugate": ("NonlinearCG",),
    "optim.curvature": (
        "SR1",
        "Curvature",
        "GaussNewtonMatrix",
        "Hessian",
        "LimitedSR1",
    ),
    "optim.first_order": (
        "Steepest",
        "Transform",
    ),
    "optim.forecast": (
        "Forecast",
        "forecast",
    ),
    "optim.gauss_newton": ("GaussNewton",),
    "optim.grouped": ("Grouped",),
    "optim.interop": ("to_optax",),
    "optim.kron": ("Kronecker",),
    "optim.ladder": ("Ladder",),
    "optim.learning_rate": (
        "Majorisation",
        "Polyak",
        "Sharpness",
    ),
    "optim.matrix_free": ("MatrixFree",),
    "optim.momentum": (
        "HeavyBall",
        "Nesterov",
    ),
    "optim.newton": (
        "HessianFree",
        "Newton",
        "NewtonCG",
        "NystromNewton",
    ),
    "optim.optimizer": (
        "Direction",
        "Info",
        "Optimizer",
        "Search",
        "State",
    ),
    "optim.path": (
        "Along",
        "Found",
        "Line",
        "Path",
        "Previous",
    ),
    "optim.phase": (
        "Phase",
        "Plan",
        "Tolerance",
    ),
    "optim.presets": (
        "METHODS",
        "Method",
        "adabelief",
        "adagrad",
        "adagrad_norm",
        "adahessian",
        "adam",
        "adamw",
        "amsgrad",
        "anagram",
        "anderson",
        "arc",
        "asgd",
        "averaged",
        "barzilai_borwein",
        "bfgs",
        "block_coordinate",
        "broyden_class",
        "cubic_newton",
        "damped_lbfgs",
        "dfp",
        "dogleg",
        "ekfac",
        "energy_natural_gradient",
        "from_optax",
        "gauss_newton",
        "gradient_descent",
        "growing_batch",
        "heavy_ball",
        "hessian_free",
        "kfac",
        "large_batch_lbfgs",
        "lbfgs",
        "levenberg_marquardt",
        "lion",
        "lsr1",
        "matrix_free_gauss_newton",
        "multibatch_lbfgs",
        "muon",
        "nadam",
        "natural_gradient",
        "nesterov",
        "newton",
        "newton_cg",
        "nonlinear_cg",
        "nys_newton_cg",
        "polyak",
        "rmsprop",
        "saddle_free_newton",
        "saga",
        "sarah",
        "schedule_free",
        "sgd",
        "shampoo",
        "sketched_gauss_newton",
        "soap",
        "sophia",
        "spring",
        "sqn",
        "sr1",
        "ssbfgs",
        "ssbroyden",
        "stochastic_gauss_newton",
        "stochastic_levenberg_marquardt",
        "storm",
        "subsampled_newton_cg",
        "svrg",
        "trust_region_cg",
        "trust_region_gauss_newton",
        "trust_region_newton",
    ),
    "optim.projection": (
        "Projecting",
        "variable_projection",
    ),
    "optim.quasi_newton": (
        "LBFGS",
        "Broyden",
    ),
    "optim.search": (
        "Armijo",
        "Damping",
        "Fixed",
        "Wolfe",
    ),
    "optim.shampoo": (
        "SOAP",
        "Shampoo",
    ),
    "optim.sketched": (
        "Probe",
        "Sketched",
        "Truncated",
    ),
    "optim.spring": (
        "Capped",
        "Spring",
    ),
    "optim.stochastic": (
        "AdagradNorm",
        "Averaged",
        "Growing",
    ),
    "optim.stochastic_curvature": (
        "SQN",
        "AdaHessian",
        "Fresh",
        "HeldOut",
        "MultiBatch",
        "Sophia",
    ),
    "optim.switches": (
        "below",
        "noisy",
        "slowing",
        "stalled",
    ),
    "optim.trust_region": (
        "Cauchy",
        "Cubic",
        "Dogleg",
        "Exact",
        "Lanczos",
        "Radius",
        "Steihaug",
        "TrustRegion",
    ),
    "optim.variance_reduction": (
        "SAGA",
        "SARAH",
        "STORM",
        "SVRG",
    ),
    "problems.problem": (
        "GridReference",
        "ParameterReference",
        "PointReference",
        "Problem",
        "relative_l2",
    ),
    "run": (
        "History",
        "Run",
    ),
    "samplers": (
        "RAD",
        "Constant",
        "Grid",
        "Minibatches",
        "Overlapping",
        "Redrawn",
        "Sampler",
        "Sobol",
        "Uniform",
    ),
    "terms": (
        "Minibatch",
        "Term",
        "Weighted",
        "identity",
        "squared",
    ),
    "train": ("train",),
}
_HOME = {name: f"ravine.{module}" for module, names in _NAMES_OF.items() for name in names}

__all__ = [
    "LBFGS",
    "METHODS",
    "RAD",
    "SAGA",
    "SARAH",
    "SOAP",
    "SQN",
    "SR1",
    "STORM",
    "SVRG",
    "AdaHessian",
    "AdagradNorm",
    "Along",
    "Anderson",
    "Armijo",
    "Averaged",
    "BarzilaiBorwein",
    "BlockCoordinate",
    "Box",
    "Broyden",
    "Capped",
    "Cauchy",
    "Checkpoint",
    "Constant",
    "Cubic",
    "Curvature",
    "Damping",
    "Direction",
    "Dogleg",
    "Event",
    "Exact",
    "Fixed",
    "Forecast",
    "Found",
    "Fresh",
    "GaussNewton",
    "GaussNewtonMatrix",
    "Grid",
    "GridReference",
    "GridSearch",
    "Grouped",
    "Growing",
    "HeavyBall",
    "HeldOut",
    "Hessian",
    "HessianFree",
    "History",
    "Info",
    "Kronecker",
    "Ladder",
    "Lanczos",
    "Layout",
    "LimitedSR1",
    "Line",
    "Linearisation",
    "Majorisation",
    "MatrixFree",
    "Method",
    "Minibatch",
    "Minibatches",
    "MultiBatch",
    "Nesterov",
    "Newton",
    "NewtonCG",
    "NonMonotone",
    "NonlinearCG",
    "NystromNewton",
    "Objective",
    "Optimizer",
    "Overlapping",
    "ParameterReference",
    "Path",
    "Phase",
    "Plan",
    "PointReference",
    "Polyak",
    "Previous",
    "Probe",
    "Problem",
    "Projecting",
    "Radius",
    "Redrawn",
    "Region",
    "Run",
    "Sampler",
    "Search",
    "Shampoo",
    "Sharpness",
    "Sketched",
    "Sobol",
    "Sophia",
    "Spring",
    "State",
    "Steepest",
    "Steihaug",
    "Stop",
    "Term",
    "Tolerance",
    "Transform",
    "Truncated",
    "TrustRegion",
    "Uniform",
    "Weighted",
    "Wolfe",
    "Work",
    "adabelief",
    "adagrad",
    "adagrad_norm",
    "adahessian",
    "adam",
    "adamw",
    "amsgrad",
    "anagram",
    "anderson",
    "arc",
    "asgd",
    "auto",
    "averaged",
    "barzilai_borwein",
    "below",
    "bfgs",
    "block_coordinate",
    "boundary",
    "bounded",
    "broyden_class",
    "cubic_newton",
    "damped_lbfgs",
    "dfp",
    "divergence",
    "dogleg",
    "ekfac",
    "energy_natural_gradient",
    "forecast",
    "from_optax",
    "frozen",
    "gauss_newton",
    "gradient",
    "gradient_descent",
    "growing_batch",
    "heavy_ball",
    "hessian_diagonal",
    "hessian_free",
    "identity",
    "initial",
    "join_hosts",
    "keep_memory",
    "kfac",
    "laplacian",
    "large_batch_lbfgs",
    "lbfgs",
    "least_squares",
    "levenberg_marquardt",
    "lion",
    "load",
    "logistic",
    "lsr1",
    "matrix_free_gauss_newton",
    "minimise",
    "models",
    "multibatch_lbfgs",
    "muon",
    "nadam",
    "natural_gradient",
    "nesterov",
    "newton",
    "newton_cg",
    "noisy",
    "nonlinear_cg",
    "nys_newton_cg",
    "partials",
    "penalty",
    "polyak",
    "positive",
    "problems",
    "relative_l2",
    "residual",
    "rmsprop",
    "saddle_free_newton",
    "saga",
    "sarah",
    "scaled",
    "schedule_free",
    "sgd",
    "shampoo",
    "sketched_gauss_newton",
    "slowing",
    "soap",
    "sophia",
    "spring",
    "sqn",
    "squared",
    "sr1",
    "ssbfgs",
    "ssbroyden",
    "stalled",
    "stochastic_gauss_newton",
    "stochastic_levenberg_marquardt",
    "storm",
    "subsampled_newton_cg",
    "supervised",
    "svrg",
    "taylor",
    "to_optax",
    "train",
    "trust_region_cg",
    "trust_region_gauss_newton",
    "trust_region_newton",
    "use_cores",
    "variable_projection",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif not name.startswith("__") and importlib.util.find_spec(f"ravine.{name}") is not None:
        value = importlib.import_module(f"ravine.{name}")
    else:
        raise AttributeError(f"module 'ravine' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """Importing a submodule binds its name in the package; where a public name is the same, as `train` is, it stays."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
