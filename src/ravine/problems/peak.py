"""A peak a hundredth of the domain wide: what sampling is studied on."""

import jax.numpy as jnp
import numpy as np

from ravine.calculus import laplacian
from ravine.domains import Box
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Scale
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

SHARPNESS = 1000.0


def solution(z):
    """exp(−1000 r²), r the distance to (½, ½)."""
    return jnp.exp(-SHARPNESS * ((z[0] - 0.5) ** 2 + (z[1] - 0.5) ** 2))


def equation(u, z):
    """(−Δu − f)/4000 with f = (4000 − 4·10⁶ r²) u*: scaled to the size of u."""
    square = (z[0] - 0.5) ** 2 + (z[1] - 0.5) ** 2
    return -laplacian(u, z) / (4 * SHARPNESS) - (1 - SHARPNESS * square) * solution(z)


def zero(z):
    """The boundary values: exp(−250) at most."""
    return jnp.zeros((), z.dtype)


def interior(z):
    """(1 − x²)(1 − y²): zero on the boundary, one in the middle."""
    return (1 - z[0] ** 2) * (1 - z[1] ** 2)


def peak(*, points: int = 2000, width: int = 20, depth: int = 3, sampling: Sampling = "rad") -> Problem:
    """−Δu = f on (−1, 1)², u = 0 on the boundary; u = exp(−1000 ((x − ½)² + (y − ½)²)).

    The boundary condition holds by construction. The source is zero to rounding on 98 % of the domain, so that of 2,000
    uniform points some tens see it. Reference: exact, on a 257 × 257 grid.
    """
    box = Box((-1.0, -1.0), (1.0, 1.0), time=False)
    x = np.linspace(-1, 1, 257)
    wave = np.exp(-SHARPNESS * (x - 0.5) ** 2)
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(residual("pde", equation),),
        # Half of the points go to a sixtieth of the domain: from the usual pool each there would be drawn many times.
        sampler=sampled(Sobol(box, pde=points), sampling, every=100, pool=32),
        model=lambda key: Constrained(Compose(Scale(box.low, box.high), network(key)), zero, interior),
        reference=GridReference((x, x), wave[:, None] * wave[None, :], ("x", "y")),
        name="peak",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
