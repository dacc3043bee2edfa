"""ravine: training scientific machine-learning models well."""

from ravine import models, problems
from ravine._results import Stop, Work
from ravine.calculus import divergence, gradient, hessian_diagonal, laplacian, partials, taylor
from ravine.callbacks import Checkpoint, Event
from ravine.checkpoint import load
from ravine.domains import Box, Region
from ravine.easy import least_squares, minimise
from ravine.formulations import boundary, initial, logistic, penalty, residual, supervised
from ravine.objective import Layout, Linearisation, Objective, Term, Weighted, identity, squared
from ravine.optim.auto import auto
from ravine.optim.first_order import Steepest, Transform
from ravine.optim.gauss_newton import GaussNewton
from ravine.optim.optimizer import Direction, Info, Optimizer, Search, State
from ravine.optim.path import Along, Found, Line, Path, Previous
from ravine.optim.phase import Phase, Plan, below, stalled
from ravine.optim.presets import (
    METHODS,
    adam,
    bfgs,
    from_optax,
    gauss_newton,
    gradient_descent,
    lbfgs,
    levenberg_marquardt,
    sgd,
    ssbfgs,
    ssbroyden,
)
from ravine.optim.quasi_newton import LBFGS, Broyden
from ravine.optim.search import Armijo, Damping, Fixed, Wolfe
from ravine.problems.problem import GridReference, ParameterReference, Problem, relative_l2
from ravine.run import History, Run
from ravine.samplers import RAD, Constant, Grid, Minibatches, Redrawn, Sampler, Sobol, Uniform
from ravine.train import train

__version__ = "0.1.0"

__all__ = [name for name in dir() if not name.startswith("_")]
