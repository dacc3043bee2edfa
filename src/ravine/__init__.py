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
    from ravine.optim.auto import auto
    from ravine.optim.curvature import SR1, Curvature, GaussNewtonMatrix, Hessian, LimitedSR1
    from ravine.optim.first_order import Steepest, Transform
    from ravine.optim.forecast import Forecast, forecast
    from ravine.optim.gauss_newton import GaussNewton
    from ravine.optim.ladder import Ladder
    from ravine.optim.matrix_free import MatrixFree
    from ravine.optim.newton import HessianFree, Newton, NewtonCG, NystromNewton
    from ravine.optim.optimizer import Direction, Info, Optimizer, Search, State
    from ravine.optim.path import Along, Found, Line, Path, Previous
    from ravine.optim.phase import Phase, Plan, below, stalled
    from ravine.optim.presets import (
        METHODS,
        Method,
        adam,
        arc,
        bfgs,
        broyden_class,
        cubic_newton,
        damped_lbfgs,
        dfp,
        dogleg,
        from_optax,
        gauss_newton,
        gradient_descent,
        hessian_free,
        lbfgs,
        levenberg_marquardt,
        lsr1,
        matrix_free_gauss_newton,
        newton,
        newton_cg,
        nys_newton_cg,
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
    from ravine.optim.trust_region import Cauchy, Cubic, Dogleg, Exact, Lanczos, Radius, Steihaug, TrustRegion
    from ravine.problems.problem import GridReference, ParameterReference, Problem, relative_l2
    from ravine.run import History, Run
    from ravine.samplers import RAD, Constant, Grid, Minibatches, Redrawn, Sampler, Sobol, Uniform
    from ravine.terms import Term, Weighted, identity, squared
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
    "optim.auto": ("auto",),
    "optim.first_order": ("Steepest", "Transform"),
    "optim.forecast": ("Forecast", "forecast"),
    "optim.gauss_newton": ("GaussNewton",),
    "optim.matrix_free": ("MatrixFree",),
    "optim.optimizer": ("Direction", "Info", "Optimizer", "Search", "State"),
    "optim.path": ("Along", "Found", "Line", "Path", "Previous"),
    "optim.phase": ("Phase", "Plan", "below", "stalled"),
    "optim.curvature": ("SR1", "Curvature", "GaussNewtonMatrix", "Hessian", "LimitedSR1"),
    "optim.ladder": ("Ladder",),
    "optim.newton": ("HessianFree", "Newton", "NewtonCG", "NystromNewton"),
    "optim.trust_region": ("Cauchy", "Cubic", "Dogleg", "Exact", "Lanczos", "Radius", "Steihaug", "TrustRegion"),
    "optim.presets": (
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
    ),
    "optim.quasi_newton": ("LBFGS", "Broyden"),
    "optim.search": ("Armijo", "Damping", "Fixed", "Wolfe"),
    "problems.problem": ("GridReference", "ParameterReference", "Problem", "relative_l2"),
    "run": ("History", "Run"),
    "samplers": ("RAD", "Constant", "Grid", "Minibatches", "Redrawn", "Sampler", "Sobol", "Uniform"),
    "terms": ("Term", "Weighted", "identity", "squared"),
    "train": ("train",),
}
_HOME = {name: f"ravine.{module}" for module, names in _NAMES_OF.items() for name in names}

__all__ = [
    "LBFGS",
    "METHODS",
    "RAD",
    "SR1",
    "Along",
    "Armijo",
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
    "GaussNewton",
    "GaussNewtonMatrix",
    "Grid",
    "GridReference",
    "Hessian",
    "HessianFree",
    "History",
    "Info",
    "Ladder",
    "Lanczos",
    "Layout",
    "LimitedSR1",
    "Line",
    "Linearisation",
    "MatrixFree",
    "Method",
    "Minibatches",
    "Newton",
    "NewtonCG",
    "NystromNewton",
    "Objective",
    "Optimizer",
    "ParameterReference",
    "Path",
    "Phase",
    "Plan",
    "Previous",
    "Problem",
    "Radius",
    "Redrawn",
    "Region",
    "Run",
    "Sampler",
    "Search",
    "Sobol",
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
    "adam",
    "arc",
    "auto",
    "below",
    "bfgs",
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
    "hessian_diagonal",
    "hessian_free",
    "identity",
    "initial",
    "join_hosts",
    "keep_memory",
    "laplacian",
    "lbfgs",
    "least_squares",
    "levenberg_marquardt",
    "load",
    "logistic",
    "lsr1",
    "matrix_free_gauss_newton",
    "minimise",
    "models",
    "newton",
    "newton_cg",
    "nys_newton_cg",
    "partials",
    "penalty",
    "problems",
    "relative_l2",
    "residual",
    "saddle_free_newton",
    "sgd",
    "squared",
    "sr1",
    "ssbfgs",
    "ssbroyden",
    "stalled",
    "subsampled_newton_cg",
    "supervised",
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
