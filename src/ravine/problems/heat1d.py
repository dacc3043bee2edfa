"""The heat equation on an interval."""

import jax.numpy as jnp
import numpy as np

from ravine.calculus import partials
from ravine.domains import Box
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Scale
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

CONDUCTIVITY = 0.25


def equation(u, z):
    """u_t − ¼ u_xx."""
    return partials(u, z, {1: 1.0, (0, 0): -CONDUCTIVITY})[0]


def start(z):
    """u(x, 0) = sin πx."""
    return jnp.sin(jnp.pi * z[0])


def interior(z):
    """4 t x (1 − x): zero at t = 0 and at both ends."""
    return 4 * z[1] * z[0] * (1 - z[0])


def heat1d(*, points: int = 1000, width: int = 20, depth: int = 2, sampling: Sampling = "fixed") -> Problem:
    """u_t = ¼ u_xx on (0, 1) × (0, 1], u(x, 0) = sin πx, u(0, t) = u(1, t) = 0; u = exp(−π²t/4) sin πx.

    The conditions hold by construction. Reference: exact, on a 101 × 101 grid. Best published relative L2 error seen:
    6.2e-8 (K-FAC, soft conditions).
    """
    box = Box((0.0, 0.0), (1.0, 1.0), time=True)
    x, t = np.linspace(0, 1, 101), np.linspace(0, 1, 101)
    exact = np.sin(np.pi * x)[:, None] * np.exp(-CONDUCTIVITY * np.pi**2 * t)[None, :]
    exact[[0, -1]] = 0
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(residual("pde", equation),),
        sampler=sampled(Sobol(box, pde=points), sampling, every=300),
        model=lambda key: Constrained(Compose(Scale(box.low, box.high), network(key)), start, interior),
        reference=GridReference((x, t), exact, ("x", "t")),
        name="heat1d",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
