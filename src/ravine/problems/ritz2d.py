"""Poisson's equation on the unit square as the minimum of the Dirichlet energy."""

import jax.numpy as jnp
import numpy as np

from ravine.domains import Box
from ravine.formulations import energy
from ravine.models import MLP, Compose, Constrained, Scale
from ravine.problems._variational import Points, placed
from ravine.problems.poisson2d import interior, zero
from ravine.problems.problem import GridReference, Problem


def density(features, z):
    """½ |∇v|² − f v with f = 2π² sin πx sin πy."""
    value, slope = features
    source = 2 * jnp.pi**2 * jnp.sin(jnp.pi * z[0]) * jnp.sin(jnp.pi * z[1])
    return jnp.vdot(slope, slope) / 2 - source * value


def ritz2d(*, points: int = 900, width: int = 20, depth: int = 2, rule: Points = "gauss") -> Problem:
    """E(v) = ∫ ½ |∇v|² − 2π² sin πx sin πy v over (0, 1)², v = 0 on the boundary; u = sin πx sin πy.

    The boundary condition holds by construction. `rule`: "gauss" for Gauss–Legendre quadrature, or Monte Carlo on
    "sobol" points, or "uniform" ones drawn at every step. Reference: exact, on a 101 × 101 grid.
    """
    box = Box((0.0, 0.0), (1.0, 1.0), time=False)
    x = np.linspace(0, 1, 101)
    exact = np.sin(np.pi * x)[:, None] * np.sin(np.pi * x)[None, :]
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(energy("energy", density),),
        sampler=placed(rule, box, energy=points),
        model=lambda key: Constrained(Compose(Scale(box.low, box.high), network(key)), zero, interior),
        reference=GridReference((x, x), exact, ("x", "y")),
        name="ritz2d",
        options={"points": points, "width": width, "depth": depth, "rule": rule},
    )
