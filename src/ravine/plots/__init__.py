"""Figures: the sheet of a run, a comparison of methods, and every diagnostic. The only package that imports matplotlib.

It keeps no state of pyplot and needs no display. Functions that draw a part take the axes first.
"""

from ravine.plots.diagnostics import (
    bands,
    conflicts,
    densities,
    diagnosis,
    modes,
    residuals,
    slices,
    spectra,
)
from ravine.plots.sheets import Curve, comparison, convergence, save, solution

__all__ = [
    "Curve",
    "bands",
    "comparison",
    "conflicts",
    "convergence",
    "densities",
    "diagnosis",
    "modes",
    "residuals",
    "save",
    "slices",
    "solution",
    "spectra",
]
