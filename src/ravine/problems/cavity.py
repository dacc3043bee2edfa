"""The lid-driven cavity: steady Navier–Stokes equations for a stream function, every condition by construction."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine.domains import Box
from ravine.formulations import residual
from ravine.jets import taylor
from ravine.models import MLP, Compose, Constrained, Curl, Distance, Outputs, Scale
from ravine.models.layers import add, product
from ravine.problems import spectral
from ravine.problems._defaults import Sampling, sampled
from ravine.problems.problem import PointReference, Problem
from ravine.samplers import Sobol

REYNOLDS = 100.0
# Lines at angles of 60°: sums over them of polynomials of degree up to five in (cos, sin) are three times the mean over
# the circle, so that invariant operators of that order come from three Taylor passes.
DIRECTIONS = ((1.0, 0.0), (1 / 2, 3**0.5 / 2), (-1 / 2, 3**0.5 / 2))


def equation(u, z):
    """ρ (Δ²ψ/Re − ψ_y Δψ_x + ψ_x Δψ_y) for the stream function ψ of u.

    ρ is the product of the squared distances to the corners at the lid, where the terms of the equation are infinite.
    With D along unit vectors e at angles of 60°: ∇ψ = ⅔ Σ e Dψ, ∇Δψ = 8/9 Σ e D³ψ and Δ²ψ = 8/9 Σ D⁴ψ.
    """
    directions, rest = jnp.asarray(DIRECTIONS, z.dtype), (jnp.zeros_like(z),) * 3
    _, curves = taylor(u.stream, z, tuple((direction, *rest) for direction in directions))
    first, _, third, fourth = (jnp.stack(along) for along in zip(*curves, strict=True))
    x, y = 2 / 3 * (first @ directions)
    carried_x, carried_y = 8 / 9 * (third @ directions)
    below = (1 - z[1]) ** 2
    distance = (z[0] ** 2 + below) * ((1 - z[0]) ** 2 + below)
    return distance * (8 / 9 * jnp.sum(fourth) / REYNOLDS - y * carried_x + x * carried_y)


class Lift(eqx.Module):
    """A stream function with the velocity of the lid, 4x(1 − x), and none at the walls.

    Near either corner it is the local solution, πb² − 2ab − 2(a² + b²) atan(b/a) with the distances a from the wall and
    b from the lid, in which velocity gradients jump as they must.
    """

    def __call__(self, z):
        return self.taylor(z, ())[0]

    def taylor(self, z, curves):
        """See `ravine.taylor`: products, and the angle by nested forward mode."""
        left, y = (jax.tree.map(lambda leaf, i=i: leaf[i], (z, curves)) for i in (0, 1))
        complement = lambda jet: (1 - jet[0], jax.tree.map(jnp.negative, jet[1]))
        right, b = complement(left), complement(y)

        def corner(a, other):
            pair, slopes = jax.tree.map(lambda *leaves: jnp.stack(leaves), a, b)
            # At the corner itself the angle has no derivative, but r² times it has: zero.
            pair = jnp.where(jnp.any(pair != 0), pair, jnp.ones_like(pair))
            angle = taylor(lambda at: jnp.arctan2(at[1], at[0]), pair, slopes)
            square = product(b, b)
            parts = square, product(a, b), product(add(product(a, a), square), angle)
            local = jax.tree.map(lambda one, two, three: jnp.pi * one - 2 * two - 2 * three, *parts)
            return product(product(other, other), local)

        return product(product(y, y), add(corner(left, right), corner(right, left)))


def cavity(*, points: int = 2000, width: int = 20, depth: int = 3, sampling: Sampling = "rad") -> Problem:
    """u · ∇u = −∇p + Δu/100, div u = 0 on (0, 1)², u = 0 at the walls but (4x(1 − x), 0) at the lid y = 1.

    The model is the curl of a stream function ψ = lift + (16 x(1 − x) y(1 − y))² N/10: free of divergence, with every
    condition by construction, and no pressure; the equation is that of the vorticity, of fourth order in ψ. The error
    is that of the velocity. Reference: spectral Galerkin method with the corner solution taken out, 101 × 101 grid.
    Best published relative L2 error seen: none for this lid.
    """
    box = Box((0.0, 0.0), (1.0, 1.0), time=False)
    exact = spectral.cavity()
    grid = np.stack([axis.ravel() for axis in np.meshgrid(exact.x, exact.y, indexing="ij")], axis=1)
    network = lambda key: Compose(Scale(box.low, box.high), MLP(2, "scalar", width=width, depth=depth, key=key))
    # Stream functions are of size 0.1.
    scaled = lambda key: Outputs(network(key), scale=0.1)
    factor = Distance(box.low, box.high, power=2)
    return Problem(
        terms=(residual("pde", equation),),
        sampler=sampled(Sobol(box, pde=points), sampling, every=300),
        model=lambda key: Curl(Constrained(scaled(key), Lift(), factor)),
        reference=PointReference(grid, exact.u.reshape(-1, 2)),
        name="cavity",
        options={"points": points, "width": width, "depth": depth, "sampling": sampling},
    )
