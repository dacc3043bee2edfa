"""Anderson's acceleration: the combination of the last points at which the gradient would be smallest."""

import equinox as eqx
import jax.numpy as jnp

from ravine._types import Array, Float, RandomKey, Vector
from ravine.linalg import damped_qr, solve_qr
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

DOWNHILL = 1e-5  # the least cosine between a direction and −∇L


class _Pairs(eqx.Module):
    """The last steps and differences of gradients, each divided by the norm of the latter."""

    s: Float[Array, "k n"]
    y: Float[Array, "k n"]
    count: Array


class Anderson(Direction):
    """d = −Sᵀγ − α(g − Yᵀγ), γ = argmin ‖g − Yᵀγ‖² + ridge ‖γ‖², with the last `memory` pairs as rows of S and Y.

    It accelerates (type II) the iteration θ ← θ − αg: of the points spanned by the last steps that one is taken where
    the gradient, were it linear, would be smallest, and from there a gradient step. Rows are divided by ‖y‖, so that
    `ridge` has no unit. α is `rate`, or sᵀy/yᵀy of the newest pair (‖s‖/‖y‖ where that is negative).

    A direction that is not downhill (as near saddles, whose gradients are small too) is replaced by −αg and the memory
    dropped, as after a failed search. Let the search accept t = 1 where it can, and rise at times (`NonMonotone`).

    Donald Anderson, *Iterative procedures for nonlinear integral equations*, 1965; Homer Walker and Peng Ni, *Anderson
    acceleration for fixed-point iterations*, 2011, which shows that on linear equations with all pairs kept it is
    GMRES; Damien Scieur, Alexandre d'Aspremont and Francis Bach, *Regularized nonlinear acceleration*, 2016, for the
    ridge.

    **Cost:** 4n·memory² flops for a QR factorisation; 2n·memory numbers.
    """

    memory: int = eqx.field(static=True, default=10)
    ridge: float = 1e-10
    rate: float | None = None

    def __check_init__(self):
        if self.memory < 1:
            raise ValueError(f"Anderson: memory is {self.memory}, but at least one pair must be kept.")

    def init(self, objective: Objective, theta: Vector) -> _Pairs:
        zeros = jnp.zeros((self.memory, theta.shape[0]), theta.dtype)
        return _Pairs(zeros, zeros, jnp.int32(0))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Pairs, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Pairs]:
        s, y, grad = previous.s, previous.y, lin.grad
        assert y is not None, "Anderson's acceleration needs a search with gradients"
        size, sy = jnp.linalg.norm(y), jnp.dot(s, y)
        good = (previous.count > 0) & ~previous.failed & (size > 0)
        count = jnp.where(previous.failed, 0, state.count)
        slot, norm = count % self.memory, jnp.where(good, size, 1)
        # Without a pair, a step of length one at most.
        learnt = jnp.where(sy > 0, sy / norm, jnp.linalg.norm(s)) / norm
        learnt = jnp.where(good, learnt, 1 / jnp.maximum(jnp.linalg.norm(grad), 1))
        rate = learnt if self.rate is None else jnp.asarray(self.rate, grad.dtype)
        rows = [jnp.where(good, kept.at[slot].set(new / norm), kept) for kept, new in ((state.s, s), (state.y, y))]
        count = jnp.where(good, count + 1, count)
        live = (jnp.arange(self.memory, dtype=jnp.int32) < count)[:, None]
        kept_s, kept_y = (jnp.where(live, row, 0) for row in rows)
        gamma = solve_qr(*damped_qr(kept_y.T, jnp.asarray(self.ridge, grad.dtype)), grad)
        direction = -gamma @ kept_s - rate * (grad - gamma @ kept_y)
        downhill = -jnp.dot(grad, direction) > DOWNHILL * jnp.linalg.norm(grad) * jnp.linalg.norm(direction)
        count = jnp.where(downhill, count, 0)
        return Line(jnp.where(downhill, direction, -rate * grad), grad), _Pairs(kept_s, kept_y, count)
