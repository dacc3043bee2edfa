"""Convection at high speed: easy to write, and the standard example of a PINN that does not train."""

import jax.numpy as jnp
import numpy as np

from ravine.calculus import partials
from ravine.domains import Box
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Periodic, Scale
from ravine.problems import reference
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

SPEED = 40.0


def equation(u, z):
    """(u_t + 40 u_x)/40: scaled to the size of u_x."""
    return partials(u, z, {0: 1.0, 1: 1 / SPEED})[0]


def start(z):
    """u(x, 0) = sin x."""
    return jnp.sin(z[0])


def elapsed(z):
    """t: zero where the initial condition holds."""
    return z[1]


def convection(*, points: int = 1500, width: int = 30, depth: int = 2, sampling: Sampling = "fixed") -> Problem:
    """u_t + 40 u_x = 0 on [0, 2π] × [0, 1], periodic in x, u(x, 0) = sin x.

    Periodicity and the initial condition hold by construction. Reference: sin(x − 40t) on a 257 × 101 grid. Best
    published relative L2 error seen: 1.9e-3 (NysNewton-CG, soft conditions).
    """
    box = Box((0.0, 0.0), (2 * np.pi, 1.0), time=True)
    x, t = np.linspace(0, 2 * np.pi, 257), np.linspace(0, 1, 101)
    # Time runs over [−20, 20], the unit in which the speed is one: the phase x − 40t then varies alike in both.
    scale = Scale(box.low, box.high, span=(1.0, SPEED / 2))
    network = lambda key: MLP(3, "scalar", width=width, depth=depth, activation=jnp.sin, key=key)
    return Problem(
        terms=(residual("pde", equation),),
        sampler=sampled(Sobol(box, pde=points), sampling, every=300),
        model=lambda key: Constrained(Compose(scale, Periodic(0, 2.0), network(key)), start, elapsed),
        reference=GridReference((x, t), reference.convection(x[:, None], t[None, :], SPEED), ("x", "t")),
        name="convection",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
