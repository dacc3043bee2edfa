"""Poisson's equation on the unit square, at a frequency of choice."""

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
    """(−Δu − 2k²π² sin kπx sin kπy)/2k²π²: scaled to the size of u."""

    k: int

    def __call__(self, u, z):
        source = jnp.sin(self.k * jnp.pi * z[0]) * jnp.sin(self.k * jnp.pi * z[1])
        return -laplacian(u, z) / (2 * (self.k * jnp.pi) ** 2) - source


def zero(z):
    """The boundary values."""
    return jnp.zeros((), z.dtype)


def interior(z):
    """16 x(1 − x) y(1 − y): zero on the boundary, one in the middle."""
    return 16 * z[0] * (1 - z[0]) * z[1] * (1 - z[1])


def poisson2d(
    *, k: int = 1, points: int = 1000, width: int = 20, depth: int = 2, sampling: Sampling = "fixed"
) -> Problem:
    """−Δu = 2k²π² sin kπx sin kπy on (0, 1)², u = 0 on the boundary; u = sin kπx sin kπy.

    The boundary condition holds by construction. Reference: exact, on a 101 × 101 grid. Best published relative L2
    error seen for k = 1: 1.2e-7 (energy natural gradient, soft condition).
    """
    if k < 1:
        raise ValueError(f"poisson2d: k is {k}, but must be a whole number of at least 1.")
    box = Box((0.0, 0.0), (1.0, 1.0), time=False)
    x = np.linspace(0, 1, 101)
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(residual("pde", Equation(k)),),
        sampler=sampled(Sobol(box, pde=points), sampling, every=300),
        model=lambda key: Constrained(Compose(Scale(box.low, box.high), network(key)), zero, interior),
        reference=GridReference((x, x), reference.poisson2d(x[:, None], x[None, :], k), ("x", "y")),
        name="poisson2d",
        options={"k": k, "points": points, "width": width, "depth": depth, "sampling": sampling},
    )
