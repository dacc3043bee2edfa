"""Two frequencies fifteen times apart on many periods: what domain decomposition is studied on."""

import jax.numpy as jnp
import numpy as np

from ravine.calculus import partials
from ravine.domains import interval
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Scale
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

SLOW, FAST = 1.0, 15.0


def equation(u, z):
    """(u′ − ω₁ cos ω₁x − ω₂ cos ω₂x)/ω₂, ω = (1, 15): scaled to the size of u."""
    (slope,) = partials(u, z, 0)
    return (slope - SLOW * jnp.cos(SLOW * z[0]) - FAST * jnp.cos(FAST * z[0])) / FAST


def zero(z):
    """The value at x = 0."""
    return jnp.zeros((), z.dtype)


def away(z):
    """x/2π: zero where the condition holds."""
    return z[0] / (2 * jnp.pi)


def multiscale1d(*, points: int = 1000, width: int = 40, depth: int = 2, sampling: Sampling = "fixed") -> Problem:
    """u′ = ω₁ cos ω₁x + ω₂ cos ω₂x on (−2π, 2π), ω = (1, 15), u(0) = 0; u = sin x + sin 15x.

    The condition holds by construction. Reference: exact, on 2,001 points. Best published relative L2 error seen: 1e-3
    (FBPINN, Adam).
    """
    domain = interval(-2 * np.pi, 2 * np.pi)
    x = np.linspace(-2 * np.pi, 2 * np.pi, 2001)
    # Sines in units in which the fast frequency is near one.
    scale = Scale(domain.low, domain.high, span=60.0)
    network = lambda key: MLP(1, "scalar", width=width, depth=depth, activation=jnp.sin, key=key)
    return Problem(
        terms=(residual("pde", equation),),
        sampler=sampled(Sobol(domain, pde=points), sampling, every=300),
        model=lambda key: Constrained(Compose(scale, network(key)), zero, away),
        reference=GridReference((x,), np.sin(SLOW * x) + np.sin(FAST * x), ("x",)),
        name="multiscale1d",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
