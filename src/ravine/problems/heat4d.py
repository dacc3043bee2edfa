"""The heat equation in four coordinates of space, with soft conditions."""

import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from ravine.calculus import partials
from ravine.domains import Box
from ravine.formulations import boundary, initial, residual
from ravine.models import MLP, Compose, Scale
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import PointReference, Problem
from ravine.samplers import Sobol

CONDUCTIVITY = 0.25
TEST_POINTS = 2**13


def solution(z):
    """exp(−π²t) Σ sin 2πxᵢ, of a point (or of a leading axis of coordinates in NumPy)."""
    numpy = np if isinstance(z, np.ndarray) else jnp
    return numpy.exp(-4 * CONDUCTIVITY * numpy.pi**2 * z[4]) * numpy.sin(2 * numpy.pi * z[:4]).sum(axis=0)


def equation(u, z):
    """(u_t − ¼ Δu)/π²: scaled to the size of u."""
    diffusion = {(axis, axis): -CONDUCTIVITY for axis in range(4)}
    return partials(u, z, {4: 1.0} | diffusion)[0] / jnp.pi**2


def heat4d(
    *, points: int = 2000, width: int = 64, depth: int = 1, sampling: Sampling = "fixed", weight: float = 10.0
) -> Problem:
    """u_t = ¼ Δu on (0, 1)⁴ × (0, 1], start and boundary values from u = exp(−π²t) Σ sin 2πxᵢ.

    Soft conditions, both of weight `weight`. Reference: exact, at 8,192 Sobol points. Best published relative L2 error
    seen: 3.9e-7 (energy natural gradient).
    """
    box = Box((0.0,) * 5, (1.0,) * 5, time=True)
    some = max(points // 4, 1)
    test = qmc.Sobol(5, scramble=True, rng=np.random.default_rng(0)).random(TEST_POINTS)
    network = lambda key: MLP(5, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(
            residual("pde", equation),
            initial("ic", solution, weight=weight),
            boundary("bc", solution, weight=weight),
        ),
        sampler=sampled(Sobol(box, pde=points, ic=some, bc=some), sampling, every=300),
        model=lambda key: Compose(Scale(box.low, box.high), network(key)),
        reference=PointReference(test, np.asarray(solution(test.T))),
        name="heat4d",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling, "weight": weight},
    )
