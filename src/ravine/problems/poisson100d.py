"""Poisson's equation in a hundred dimensions, with a network of 1.3 million parameters."""

import jax.numpy as jnp

from ravine.problems._defaults import Sampling
from ravine.problems._poisson import Equation, poisson
from ravine.problems.problem import Problem

DIMENSION = 100


def solution(z):
    """u = 3‖x‖²/100: one on average over the cube."""
    return 3 * jnp.sum(z**2, axis=0) / DIMENSION


def source(z):
    """−Δu = −6."""
    return jnp.full((), -6.0, z.dtype)


def poisson100d(
    *, points: int = 100, width: int | None = None, depth: int = 4, sampling: Sampling = "redraw"
) -> Problem:
    """−Δu = −6 on (0, 1)¹⁰⁰, u = 3‖x‖²/100 on the boundary.

    The boundary condition is soft. The network is 768-768-512-512 (1,325,057 parameters) unless `width` is given;
    points are drawn anew every step. Reference: exact, at 8,192 Sobol points. Best published relative L2 error seen:
    3.6e-3 (SPRING).
    """
    return poisson(
        "poisson100d",
        DIMENSION,
        solution,
        Equation(source, 6.0),
        (768, 768, 512, 512),
        points=points,
        width=width,
        depth=depth,
        sampling=sampling,
        weight=1.0,
    )
