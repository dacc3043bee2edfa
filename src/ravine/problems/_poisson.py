"""What the Poisson problems in many dimensions share: a soft boundary condition, and an error at scattered points."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import qmc

from ravine.calculus import laplacian
from ravine.domains import Box
from ravine.formulations import boundary, residual
from ravine.models import MLP, Compose, Scale
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import PointReference, Problem
from ravine.samplers import Uniform

TEST_POINTS = 2**13


@dataclasses.dataclass(frozen=True)
class Equation:
    """(−Δu − f)/scale."""

    source: Callable[[Any], Any]
    scale: float

    def __call__(self, u, z):
        return (-laplacian(u, z) - self.source(z)) / self.scale


def poisson(
    name: str,
    dimension: int,
    solution: Callable[[Any], Any],
    equation: Equation,
    widths: tuple[int, ...],
    *,
    points: int,
    width: int | None,
    depth: int,
    sampling: Sampling,
    weight: float,
) -> Problem:
    """−Δu = f on (0, 1)ᵈ with u = `solution` on the boundary, softly; the network has `widths` unless `width` is given.

    `solution` is a function of one point (and of a leading axis of points in NumPy, which `reference` uses).
    """
    box = Box((0.0,) * dimension, (1.0,) * dimension, time=False)
    terms = (residual("pde", equation), boundary("bc", solution, weight=weight))
    sampler = Uniform(box, pde=points, bc=max(points // 4, 1))
    hidden = widths if width is None else (width,) * depth
    network = lambda key: MLP(dimension, "scalar", width=hidden, key=key)
    test = qmc.Sobol(dimension, scramble=True, rng=np.random.default_rng(0)).random(TEST_POINTS)
    return Problem(
        terms=terms,
        sampler=sampled(sampler, sampling, every=1 if sampling == "redraw" else 300),
        model=lambda key: Compose(Scale(box.low, box.high), network(key)),
        reference=PointReference(test, np.asarray(solution(test.T))),
        name=name,
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
