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
    from ravine.calculus import divergence, gradient, hessian_diagonal, laplacian, partials, taylor
    from ravine.callbacks import Checkpoint, Event
    from ravine.checkpoint import load
    from ravine.domains import Box, Region
    from ravine.easy import least_squares, minimise
    from ravine.formulations import boundary, initial, logistic, penalty, residual, supervised
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
    from ravine.optim.ladder import Ladder
    from ravine.optim.learning_rate import Majorisation, Polyak, Sharpness
    from ravine.optim.matrix_free import MatrixFree
    from ravine.optim.momentum import HeavyBall, Nesterov
    from ravine.optim.newton import HessianFree, Newton, NewtonCG, NystromNewton
    from ravine.optim.optimizer import Direction, Info, Optimizer, Search, State
    from ravine.optim.path import Along, Found, Line, Path, Previous
    from ravine.optim.phase import Phase, Plan, below, stalled
    from ravine.optim.presets import (
        METHODS,
        Method,
        adabelief,
        adagrad,
        adagrad_norm,
        adahessian,
        adam,
        anderson,
        barzilai_borwein,
        adamw,
        amsgrad,
        asgd,
        averaged,
        bfgs,
        block_coordinate,
        broyden_class,
        cubic_newton,
        damped_lbfgs,
        dfp,
        dogleg,
        from_optax,
        gauss_newton,
        gradient_descent,
        heavy_ball,
        hessian_free,
        lbfgs,
        levenberg_marquardt,
        lsr1,
        matrix_free_gauss_newton,
        nesterov,
        newton,
        newton_cg,
        nonlinear_cg,
        nys_newton_cg,
        polyak,
        saddle_free_newton,
        sgd,
        sr1,
        ssbfgs,
        ssbroyden,
        subsampled_newton_cg,
        trust_region_cg,
        trust_region_gauss_newton,
        trust_region_newton,
    )
    from ravine.optim.quasi_newton import LBFGS, Broyden
    from ravine.optim.search import Armijo, Damping, Fixed, Wolfe
    from ravine.optim.trust_region import Cauchy, Cubic, Dogleg, Exact, Radius, Steihaug, TrustRegion
        growing_batch,
        large_batch_lbfgs,
        lbfgs,
        levenberg_marquardt,
        lion,
        matrix_free_gauss_newton,
        multibatch_lbfgs,
        muon,
        nadam,
        rmsprop,
        saga,
        sarah,
        schedule_free,
        sgd,
        shampoo,
        soap,
        sophia,
        sqn,
        ssbfgs,
        ssbroyden,
        stochastic_gauss_newton,
        stochastic_levenberg_marquardt,
        storm,
        svrg,
    )
    from ravine.optim.quasi_newton import LBFGS, Broyden
    from ravine.optim.search import Armijo, Damping, Fixed, Wolfe
    from ravine.optim.shampoo import SOAP, Shampoo
    from ravine.optim.stochastic import AdagradNorm, Averaged, Growing
    from ravine.optim.stochastic_curvature import SQN, AdaHessian, Fresh, HeldOut, MultiBatch, Sophia
    from ravine.optim.variance_reduction import SAGA, SARAH, STORM, SVRG
    from ravine.problems.problem import GridReference, ParameterReference, Problem, relative_l2
    from ravine.run import History, Run
    from ravine.samplers import RAD, Constant, Grid, Minibatches, Overlapping, Redrawn, Sampler, Sobol, Uniform
    from ravine.terms import Minibatch, Term, Weighted, identity, squared
    from ravine.train import train

__version__ = "0.1.0"

# Where each public name lives; the modules themselves, `ravine.models` and the like, need no entry.
_NAMES_OF = {
    "_results": ("Stop", "Work"),
    "calculus": ("divergence", "gradient", "hessian_diagonal", "laplacian", "partials", "taylor"),
    "callbacks": ("Checkpoint", "Event"),
    "checkpoint": ("load",),
    "domains": ("Box", "Region"),
    "easy": ("least_squares", "minimise"),
    "formulations": ("boundary", "initial", "logistic", "penalty", "residual", "supervised"),
    "hardware": ("keep_memory", "use_cores"),
    "hosts": ("join_hosts",),
    "layout": ("Layout",),
    "objective": ("Linearisation", "Objective"),
    "optim.anderson": ("Anderson",),
    "optim.auto": ("auto",),
    "optim.backtracking": ("GridSearch", "NonMonotone"),
    "optim.barzilai_borwein": ("BarzilaiBorwein",),
    "optim.block_coordinate": ("BlockCoordinate",),
    "optim.conjugate": ("NonlinearCG",),
    "optim.first_order": ("Steepest", "Transform"),
    "optim.forecast": ("Forecast", "forecast"),
    "optim.gauss_newton": ("GaussNewton",),
    "optim.learning_rate": ("Majorisation", "Polyak", "Sharpness"),
    "optim.matrix_free": ("MatrixFree",),
    "optim.momentum": ("HeavyBall", "Nesterov"),
    "optim.optimizer": ("Direction", "Info", "Optimizer", "Search", "State"),
    "optim.path": ("Along", "Found", "Line", "Path", "Previous"),
    "optim.phase": ("Phase", "Plan", "below", "stalled"),
    "optim.curvature": ("SR1", "Curvature", "GaussNewtonMatrix", "Hessian", "LimitedSR1"),
    "optim.ladder": ("Ladder",),
    "optim.newton": ("HessianFree", "Newton", "NewtonCG", "NystromNewton"),
    "optim.trust_region": ("Cauchy", "Cubic", "Dogleg", "Exact", "Radius", "Steihaug", "TrustRegion"),
    "optim.presets": (
        "METHODS",
        "Method",
        "adabelief",
        "adagrad",
        "adagrad_norm",
        "adahessian",
        "adam",
        "anderson",
        "barzilai_borwein",
        "adamw",
        "amsgrad",
        "asgd",
        "averaged",
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
        "block_coordinate",
        "from_optax",
        "gauss_newton",
        "gradient_descent",
        "heavy_ball",
        "lbfgs",
        "levenberg_marquardt",
        "lsr1",
        "matrix_free_gauss_newton",
        "newton",
        "newton_cg",
        "nys_newton_cg",
        "saddle_free_newton",
        "nesterov",
        "nonlinear_cg",
        "polyak",
        "sgd",
        "sr1",
        "ssbfgs",
        "ssbroyden",
        "subsampled_newton_cg",
        "trust_region_cg",
        "trust_region_gauss_newton",
        "trust_region_newton",
        "growing_batch",
        "large_batch_lbfgs",
        "lbfgs",
        "levenberg_marquardt",
        "lion",
        "matrix_free_gauss_newton",
        "multibatch_lbfgs",
        "muon",
        "nadam",
        "rmsprop",
        "saga",
        "sarah",
        "schedule_free",
        "sgd",
        "shampoo",
        "soap",
        "sophia",
        "sqn",
        "ssbfgs",
        "ssbroyden",
        "stochastic_gauss_newton",
        "stochastic_levenberg_marquardt",
        "storm",
        "svrg",
    ),
    "optim.quasi_newton": ("LBFGS", "Broyden"),
    "optim.search": ("Armijo", "Damping", "Fixed", "Wolfe"),
    "optim.shampoo": ("SOAP", "Shampoo"),
    "optim.stochastic": ("AdagradNorm", "Averaged", "Growing"),
    "optim.stochastic_curvature": ("SQN", "AdaHessian", "Fresh", "HeldOut", "MultiBatch", "Sophia"),
    "optim.variance_reduction": ("SAGA", "SARAH", "STORM", "SVRG"),
    "problems.problem": ("GridReference", "ParameterReference", "Problem", "relative_l2"),
    "run": ("History", "Run"),
    "samplers": ("RAD", "Constant", "Grid", "Minibatches", "Overlapping", "Redrawn", "Sampler", "Sobol", "Uniform"),
    "terms": ("Minibatch", "Term", "Weighted", "identity", "squared"),
    "train": ("train",),
}
_HOME = {name: f"ravine.{module}" for module, names in _NAMES_OF.items() for name in names}

__all__ = [
    "LBFGS",
    "METHODS",
    "RAD",
    "SR1",
    "SAGA",
    "SARAH",
    "SOAP",
    "SQN",
    "STORM",
    "SVRG",
    "AdaHessian",
    "AdagradNorm",
    "Along",
    "Anderson",
    "Armijo",
    "BarzilaiBorwein",
    "BlockCoordinate",
    "Averaged",
    "Box",
    "Broyden",
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
    "HeavyBall",
    "Hessian",
    "HessianFree",
    "Growing",
    "HeldOut",
    "History",
    "Info",
    "Ladder",
    "Layout",
    "LimitedSR1",
    "Line",
    "Linearisation",
    "Majorisation",
    "MatrixFree",
    "Method",
    "Minibatch",
    "Minibatches",
    "Nesterov",
    "Newton",
    "NewtonCG",
    "NonMonotone",
    "NonlinearCG",
    "NystromNewton",
    "MultiBatch",
    "Objective",
    "Optimizer",
    "Overlapping",
    "ParameterReference",
    "Path",
    "Phase",
    "Plan",
    "Polyak",
    "Previous",
    "Problem",
    "Radius",
    "Redrawn",
    "Region",
    "Run",
    "Sampler",
    "Search",
    "Sharpness",
    "Shampoo",
    "Sobol",
    "Sophia",
    "State",
    "Steepest",
    "Steihaug",
    "Stop",
    "Term",
    "Transform",
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
    "anderson",
    "auto",
    "barzilai_borwein",
    "adamw",
    "amsgrad",
    "asgd",
    "auto",
    "averaged",
    "below",
    "bfgs",
    "block_coordinate",
    "boundary",
    "broyden_class",
    "cubic_newton",
    "damped_lbfgs",
    "dfp",
    "divergence",
    "dogleg",
    "forecast",
    "from_optax",
    "gauss_newton",
    "gradient",
    "gradient_descent",
    "heavy_ball",
    "growing_batch",
    "hessian_diagonal",
    "hessian_free",
    "identity",
    "initial",
    "join_hosts",
    "keep_memory",
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
    "nesterov",
    "newton",
    "newton_cg",
    "nonlinear_cg",
    "nys_newton_cg",
    "multibatch_lbfgs",
    "muon",
    "nadam",
    "partials",
    "penalty",
    "polyak",
    "problems",
    "relative_l2",
    "residual",
    "saddle_free_newton",
    "rmsprop",
    "saga",
    "sarah",
    "schedule_free",
    "sgd",
    "shampoo",
    "soap",
    "sophia",
    "sqn",
    "squared",
    "sr1",
    "ssbfgs",
    "ssbroyden",
    "stalled",
    "subsampled_newton_cg",
    "stochastic_gauss_newton",
    "stochastic_levenberg_marquardt",
    "storm",
    "supervised",
    "svrg",
    "taylor",
    "train",
    "trust_region_cg",
    "trust_region_gauss_newton",
    "trust_region_newton",
    "use_cores",
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
