"""Gradient surgery: terms whose gradients conflict are reconciled before a direction sees their sum."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._types import Array, Float, PyTree, RandomKey, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Previous

Rule = Callable[[Float[Array, "k n"], RandomKey], Vector]


class Surgery(Direction):
    """A direction that is given `rule(gradients of the terms, key)` in place of their sum ∇L.

    What it bends that into need not go down on L, so the search should be a rate (`Fixed`). With one term both rules
    return its gradient. **Cost:** k²n flops for k terms, and their k gradients, which take no longer than ∇L.
    """

    direction: Direction
    rule: Rule = eqx.field(static=True)

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        return self.direction.init(objective, theta)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[PyTree, PyTree]:
        chosen = self.rule(lin.by_term[1], key)
        own = lin.objective.linearise(theta, lin.batch, value=lin.value, grad=chosen)
        return self.direction(own, theta, state, previous, key=key)


def projected(grads: Float[Array, "k n"], key: RandomKey) -> Vector:
    """PCGrad: each gradient, in turn and in random order, loses its component against each other one; their sum.

    Tianhe Yu et al., *Gradient surgery for multi-task learning*, NeurIPS 2020, algorithm 1. Computed in the
    coordinates of the k gradients, from their products alone.
    """
    count, products = grads.shape[0], _products(grads)
    sizes = jnp.diagonal(products)

    def one(number, key):
        order = jax.random.permutation(key, count)

        def remove(turn, place):
            other = order[turn]
            dot = jnp.dot(place, products[other])
            against = (other != number) & (dot < 0)
            return place.at[other].add(jnp.where(against, -dot / jnp.where(against, sizes[other], 1), 0))

        return lax.fori_loop(0, count, remove, jnp.where(jnp.arange(count) == number, 1, 0).astype(grads.dtype))

    places = jax.vmap(one)(jnp.arange(count), jax.random.split(key, count))
    return jnp.sum(places, axis=0) @ grads


def equal_angles(grads: Float[Array, "k n"], key: RandomKey) -> Vector:
    """ConFIG: the direction that makes the same angle with each gradient, as long as the gradients' sum along it.

    Qiang Liu, Mengyu Chu and Nils Thuerey, *ConFIG: towards conflict-free training of physics informed neural
    networks*, ICLR 2025, equations 2 and 3: g = (Σ g_kᵀu) u with u along Ĝ⁺1, Ĝ the rows of unit gradients. The
    pseudo-inverse is taken through the k×k products ĜĜᵀ.
    """
    del key
    norms = jnp.linalg.norm(grads, axis=1, keepdims=True)
    units = grads / jnp.where(norms > 0, norms, 1)
    inverse = jnp.linalg.pinv(_products(units), rtol=units.shape[0] * jnp.finfo(units.dtype).eps, hermitian=True)
    along = jnp.sum(inverse, axis=1) @ units
    size = jnp.linalg.norm(along)
    along = along / jnp.where(size > 0, size, 1)
    return jnp.sum(grads @ along) * along


def _products(rows: Float[Array, "k n"]) -> Float[Array, "k k"]:
    return jnp.matmul(rows, rows.T, precision=lax.Precision.HIGHEST)
