"""Burgers' equation: a smooth start steepens into a layer of width ν."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ravine.calculus import partials
from ravine.domains import Box
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Odd, Scale
from ravine.problems import reference
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

VISCOSITY = 0.01 / np.pi


@dataclasses.dataclass(frozen=True)
class Equation:
    """u_t + u u_x − ν u_xx."""

    viscosity: float

    def __call__(self, u, z):
        value, u_x, diffused = partials(u, z, (), 0, {1: 1.0, (0, 0): -self.viscosity})
        return diffused + value * u_x


def start(z):
    """u(x, 0) = −sin πx, which vanishes at x = ±1."""
    return -jnp.sin(jnp.pi * z[0])


def interior(z):
    """t (1 − x²): zero at t = 0 and x = ±1."""
    return z[1] * (1 - z[0] ** 2)


def burgers(*, points: int = 3000, width: int = 16, depth: int = 4, sampling: Sampling = "rad") -> Problem:
    """u_t + u u_x = ν u_xx on [−1, 1] × [0, 1], ν = 0.01/π, u(x, 0) = −sin πx, u(±1, t) = 0.

    The conditions hold by construction, and so does the symmetry that start and equation share: u = −sin πx +
    t (1 − x²) (N(x, t) − N(−x, t))/2 is odd in x, so that points are needed for x > 0 only. Reference: the Cole–Hopf
    solution by quadrature (error below 1e-11) on a 257 × 101 grid of the whole domain. Best published relative L2 error
    seen: 1.6e-8 (self-scaled Broyden).
    """
    half = Box((0.0, 0.0), (1.0, 1.0), time=True)
    x, t = np.linspace(-1, 1, 257), np.linspace(0, 1, 101)
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(residual("pde", Equation(VISCOSITY)),),
        sampler=sampled(Sobol(half, pde=points), sampling, every=300),
        model=lambda key: Constrained(
            Odd(Compose(Scale((-1.0, 0.0), (1.0, 1.0)), network(key)), axis=0), start, interior
        ),
        reference=GridReference((x, t), reference.burgers(x[:, None], t[None, :], VISCOSITY), ("x", "t")),
        name="burgers",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
