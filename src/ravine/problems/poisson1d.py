"""Poisson's equation on an interval, at a frequency of choice."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ravine.calculus import laplacian
from ravine.domains import Box
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Scale
from ravine.problems import reference
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol


@dataclasses.dataclass(frozen=True)
class Equation:
    """(−u″ − k²π² sin kπx)/k²π²: scaled to the size of u."""

    k: int

    def __call__(self, u, z):
        return -laplacian(u, z) / (self.k * jnp.pi) ** 2 - jnp.sin(self.k * jnp.pi * z[0])


def zero(z):
    """The boundary values."""
    return jnp.zeros((), z.dtype)


def interior(z):
    """4x (1 − x): zero at both ends, one in the middle."""
    return 4 * z[0] * (1 - z[0])


def poisson1d(
    *, k: int = 1, points: int = 256, width: int = 20, depth: int = 2, sampling: Sampling = "fixed"
) -> Problem:
    """−u″ = k²π² sin kπx on (0, 1), u(0) = u(1) = 0; u = sin kπx.

    The conditions hold by construction. Reference: exact, on 1,001 points.
    """
    if k < 1:
        raise ValueError(f"poisson1d: k is {k}, but must be a whole number of at least 1.")
    box = Box((0.0,), (1.0,))
    x = np.linspace(0, 1, 1001)
    network = lambda key: MLP(1, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(residual("pde", Equation(k)),),
        sampler=sampled(Sobol(box, pde=points), sampling, every=300),
        model=lambda key: Constrained(Compose(Scale((0.0,), (1.0,)), network(key)), zero, interior),
        reference=GridReference((x,), reference.poisson1d(x, k), ("x",)),
        name="poisson1d",
        options={"k": k, "points": points, "width": width, "depth": depth, "sampling": sampling},
    )
