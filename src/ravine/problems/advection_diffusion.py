"""Advection that carries everything into a corner: two boundary layers of width 0.01, and one along the diagonal."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ravine.calculus import gradient_and_laplacian
from ravine.domains import Region
from ravine.formulations import residual
from ravine.models import MLP, Compose, Constrained, Scale
from ravine.problems import spectral
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Sobol

DIFFUSION = 0.01
GRADING = 2.0


def equation(u, z):
    """u_x + u_y − 0.01 Δu − 1."""
    (u_x, u_y), second = gradient_and_laplacian(u, z)
    return u_x + u_y - DIFFUSION * second - 1


def zero(z):
    """The boundary values."""
    return jnp.zeros((), z.dtype)


def layers(z):
    """xy/(x + y + 0.01) Π (1 − e^((x−1)/0.01)): zero on the boundary, with the layers of the solution.

    The product solves the equation without its right-hand side along each outflow edge; the first factor is of the size
    of min(x, y), the solution without diffusion.
    """
    x, y = z[0], z[1]
    outflow = jnp.expm1((x - 1) / DIFFUSION) * jnp.expm1((y - 1) / DIFFUSION)
    return x * y / (x + y + DIFFUSION) * outflow


def graded(unit):
    """x = ½ + ½ tanh(2(2s − 1))/tanh 2: seven times as many points at an edge as evenly, half as many in the middle."""
    return (1 + jnp.tanh(GRADING * (2 * unit - 1)) / np.tanh(GRADING)) / 2


class Square(eqx.Module):
    """(0, 1)², with points that crowd towards the edges: evenly drawn ones would miss the corners of the layers."""

    time: bool = eqx.field(static=True, default=False)

    def region(self, where: str, *, time: bool = False) -> Region:
        """The interior; there is no other."""
        del where, time
        return Region(2, graded)


def advection_diffusion(*, points: int = 2000, width: int = 20, depth: int = 3, sampling: Sampling = "rad") -> Problem:
    """u_x + u_y − 0.01 Δu = 1 on (0, 1)², u = 0 on the boundary.

    The boundary condition holds by construction, u = xy/(x + y + 0.01) Π (1 − e^((x_i − 1)/0.01)) N, with the
    exponential layers that asymptotic theory predicts at x = 1 and y = 1; what is left to the network is the layer
    along the diagonal, and the corners. Reference: spectral elements (relative error below 1e-10), 201 × 201 grid. Best
    published relative L2 error seen: 1e-2 (preconditioned quasi-Newton, ResNet, soft condition).
    """
    exact = spectral.advection_diffusion()
    network = lambda key: MLP(2, "scalar", width=width, depth=depth, key=key)
    return Problem(
        terms=(residual("pde", equation),),
        sampler=sampled(Sobol(Square(), pde=points), sampling, every=300),
        model=lambda key: Constrained(Compose(Scale((0.0, 0.0), (1.0, 1.0)), network(key)), zero, layers),
        reference=GridReference((exact.x, exact.y), exact.u, ("x", "y")),
        name="advection_diffusion",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
