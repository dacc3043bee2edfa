"""Functions that return a `Term`: what a formulation is, and all that it is."""

from ravine.formulations.data import logistic, penalty, softmax, supervised
from ravine.formulations.operators import operator, operator_residual
from ravine.formulations.strong import boundary, initial, neumann, periodic, residual, robin
from ravine.formulations.variational import Sines, energy, weak

__all__ = [
    "Sines",
    "boundary",
    "energy",
    "initial",
    "logistic",
    "neumann",
    "operator",
    "operator_residual",
    "penalty",
    "periodic",
    "residual",
    "robin",
    "softmax",
    "supervised",
    "weak",
]
