"""The Helmholtz equation with a soft boundary condition: what weights are studied on."""

import jax.numpy as jnp
import numpy as np

from ravine.calculus import laplacian
from ravine.domains import Box
from ravine.formulations import boundary, residual
from ravine.models import MLP, Compose, Scale
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

SIZE = 17 * np.pi**2  # of Δu beside u


def equation(u, z):
    """Δu + u − f with f = (1 − 17π²) sin πx sin 4πy."""
    return laplacian(u, z) + u(z) - (1 - SIZE) * jnp.sin(jnp.pi * z[0]) * jnp.sin(4 * jnp.pi * z[1])


def helmholtz_soft(
    *,
    points: int = 2000,
    width: int = 30,
    depth: int = 2,
    sampling: Sampling = "fixed",
    weight: float = 10.0,
    scaled: bool = True,
) -> Problem:
    """Δu + u = f on (−1, 1)², u = 0 on the boundary, softly; u = sin πx sin 4πy.

    `scaled`: the residual counts by its size beside u, weight (17π²)⁻², and the boundary `weight`; without, both count
    as they are but for `weight`, and with weight=1 the boundary is all but ignored: the weighting study. Reference:
    exact, on a 129 × 129 grid. Best published relative L2 error seen: 1e-3 (adaptive weights under Adam).
    """
    box = Box((-1.0, -1.0), (1.0, 1.0), time=False)
    x = np.linspace(-1, 1, 129)
    exact = np.sin(np.pi * x)[:, None] * np.sin(4 * np.pi * x)[None, :]
    exact[[0, -1]] = 0
    exact[:, [0, -1]] = 0
    # Sines in units in which both frequencies are near one.
    scale = Scale(box.low, box.high, span=(2.0, 6.0))
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, activation=jnp.sin, key=key)
    return Problem(
        terms=(
            residual("pde", equation, weight=float(SIZE**-2) if scaled else 1.0),
            boundary("bc", 0.0, weight=weight),
        ),
        sampler=sampled(Sobol(box, pde=points, bc=max(points // 5, 1)), sampling, every=300),
        model=lambda key: Compose(scale, network(key)),
        reference=GridReference((x, x), exact, ("x", "y")),
        name="helmholtz_soft",
        options={
            "points": points,
            "width": width,
            "depth": depth,
            "sampling": sampling,
            "weight": weight,
            "scaled": scaled,
        },
    )
