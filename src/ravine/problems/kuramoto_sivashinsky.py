"""The Kuramoto–Sivashinsky equation: fourth derivatives, steep fronts, and the onset of chaos."""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ravine.calculus import partials
from ravine.domains import Box
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Periodic, Scale
from ravine.problems import spectral
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.problems.windows import in_windows
from ravine.samplers import Sobol

ADVECTION, GROWTH, DAMPING = 100 / 16, 100 / 16**2, 100 / 16**4
RATE = 10.0


class Equation(eqx.Module):
    """e^(−10s) (u_t + 100/16 u u_x + 100/16² u_xx + 100/16⁴ u_xxxx)/10, s the time since the window began.

    The linear part amplifies what is wrong at time t by up to e^(25 (T − t)) later on: early residuals count more.
    """

    window: float = eqx.field(static=True)

    def __call__(self, u, z):
        linear = {1: 1.0, (0, 0): GROWTH, (0, 0, 0, 0): DAMPING}
        value, u_x, balance = partials(u, z, (), 0, linear)
        return jnp.exp(-RATE * jnp.mod(z[1], self.window)) * (balance + ADVECTION * value * u_x) / 10


def start(z):
    """u(x, 0) = cos x (1 + sin x)."""
    return jnp.cos(z[0]) * (1 + jnp.sin(z[0]))


def odd(z):
    """(1 − e^(−10t)) cos x: zero at t = 0, and odd about x = π/2."""
    return -jnp.expm1(-RATE * z[1]) * jnp.cos(z[0])


def kuramoto_sivashinsky(
    *,
    end: float = 0.5,
    points: int = 1500,
    width: int = 24,
    depth: int = 3,
    harmonics: int = 5,
    sampling: Sampling = "rad",
    windows: int = 3,
) -> Problem:
    """u_t + 100/16 u u_x + 100/16² u_xx + 100/16⁴ u_xxxx = 0, periodic on [0, 2π], u(x, 0) = cos x (1 + sin x).

    For t ≤ `end`. Start and periodicity hold by construction, and so does the symmetry that start and equation share,
    u(π − x) = −u(x): u = cos x (1 + sin x) + (1 − e^(−10t)) cos x N(t, cos k(x − π/2)), k ≤ `harmonics`, so that points
    are needed on half of the circle only. Time is cut into `windows`, each with a network of its own that goes on from
    the one before (`ravine.problems.in_windows`): one network for t ≤ 0.5 stays at an error of 0.4 with a loss of
    1e-10, since errors at t grow by up to e^(25 (T − t)). For the same reason residuals are weighted by e^(−10s), s the
    time since the window began.
    Reference: ETDRK4 Fourier spectral solution (relative error below 1e-7), 257 points, 101 times for t ≤ 1. Best
    published relative L2 error seen: 2.7e-5 for t ≤ 0.5, 1.4e-4 for t ≤ 1 (self-scaled Broyden, time windows).
    """
    exact = spectral.kuramoto_sivashinsky()
    last = int(np.searchsorted(exact.t, end + 1e-9))
    if not 0 < end <= 1 or last < 2:
        raise ValueError(f"kuramoto_sivashinsky: end is {end}, but must lie between 0.01 and 1.")
    half = Box((np.pi / 2, 0.0), (1.5 * np.pi, end), time=True)
    embedding = Compose(
        Scale((np.pi / 2, 0.0), (2.5 * np.pi, end / windows), span=(np.pi, 1.0)),
        Periodic(0, 2 * np.pi, harmonics=harmonics, even=True),
    )
    network = lambda key: MLP(1 + harmonics, "scalar", width=width, depth=depth, key=key)
    problem = Problem(
        terms=(residual("pde", Equation(end / windows)),),
        sampler=sampled(Sobol(half, pde=points), sampling, every=300),
        model=lambda key: Constrained(Compose(embedding, network(key)), start, odd),
        reference=GridReference((exact.x, exact.t[:last]), exact.u[:, :last], ("x", "t")),
        name="kuramoto_sivashinsky",
        options={
            "end": end,
            "points": points,
            "width": width,
            "depth": depth,
            "harmonics": harmonics,
            "sampling": sampling,
            "windows": windows,
        },
    )
    if windows == 1:
        return problem
    return dataclasses.replace(in_windows(problem, windows), name=problem.name, options=problem.options)
