"""Quasi-Newton directions: −H∇L, with H built from the differences of gradients along the way.

Every pair (s, y) was taken on one batch (`Previous`), so a redraw of points never enters a pair; H itself is still the
inverse Hessian of the old sample, so points should be held for hundreds of steps.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._types import Array, Float, RandomKey, Scalar, Square, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

Update = Callable[[Vector, Vector, Vector, Scalar], tuple[Scalar, Scalar]]


def unscaled(s: Vector, y: Vector, hy: Vector, b: Scalar) -> tuple[Scalar, Scalar]:
    """(τ, φ) = (1, 1): BFGS."""
    del y, hy, b
    one = jnp.ones((), s.dtype)
    return one, one


def self_scaled(s: Vector, y: Vector, hy: Vector, b: Scalar) -> tuple[Scalar, Scalar]:
    """(τ, φ) = (min(1, 1/b), 1): self-scaled BFGS, with b = sᵀBs/yᵀs.

    Mehiddin Al-Baali, *Numerical experience with a class of self-scaling quasi-Newton algorithms*, 1998.
    """
    del y, hy
    return jnp.minimum(1, 1 / b), jnp.ones((), s.dtype)


def self_scaled_broyden(s: Vector, y: Vector, hy: Vector, b: Scalar) -> tuple[Scalar, Scalar]:
    """(τ, φ) of the self-scaled Broyden method: θ and τ balance the eigenvalues of the scaled H.

    Al-Baali, 1998; Jorge Urbán, Petros Stefanou and José Pons, *Unveiling the optimization process of physics informed
    neural networks: how accurate and competitive can PINNs be?*, J. Comput. Phys. 2025, section 2.2.
    """
    tiny = jnp.finfo(s.dtype).eps
    h = jnp.dot(y, hy) / jnp.dot(y, s)
    a = jnp.maximum(b * h - 1, tiny)  # never negative in exact arithmetic (Cauchy–Schwarz)
    c = jnp.sqrt(a / (1 + a))
    rho_minus = jnp.minimum(1, h * (1 - c))
    theta_minus, theta_plus = (rho_minus - 1) / a, 1 / rho_minus
    theta = jnp.maximum(theta_minus, jnp.minimum(theta_plus, (1 - b) / b))
    sigma = 1 + theta * a
    sigma_n = jnp.abs(sigma) ** (-1 / max(s.shape[0] - 1, 1))
    rho = jnp.minimum(1, 1 / b)
    positive = jnp.where(theta > 0, theta, 1)
    tau = jnp.where(theta <= 0, jnp.minimum(rho * sigma_n, sigma), rho * jnp.minimum(sigma_n, 1 / positive))
    phi = (1 - theta) / (1 + a * theta)
    return tau, phi


class _DenseState(eqx.Module):
    inverse: Square
    fresh: Array


class Broyden(Direction):
    """d = −H∇L with a dense H from the Broyden family, entirely on the device:

    H⁺ = (H − Hy(Hy)ᵀ/(yᵀHy) + φ (yᵀHy) vvᵀ)/τ + ssᵀ/(yᵀs),  v = s/(yᵀs) − Hy/(yᵀHy).

    `update(s, y, Hy, b) -> (τ, φ)` chooses the member, with b = sᵀBs/yᵀs = −t sᵀ∇L/yᵀs for the accepted t.

    A pair is skipped when yᵀs ≤ ε ‖s‖‖y‖ (relative, since an absolute guard fires on most late steps and stalls); H
    goes back to a scaled identity when the search failed or when −H∇L does not point downhill. With `scale`, the first
    H is yᵀs/yᵀy · I (Nocedal and Wright, 2006, equation 6.20).

    **Cost:** about 10 n² flops a step; the 8n² bytes of H are read three times and written once.
    """

    update: Update
    scale: bool = eqx.field(static=True, default=True)

    def init(self, objective: Objective, theta: Vector) -> _DenseState:
        return _DenseState(jnp.eye(theta.shape[0], dtype=theta.dtype), jnp.array(True))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _DenseState, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _DenseState]:
        s, y, grad = previous.s, previous.y, lin.grad
        assert y is not None, "a quasi-Newton direction needs a search with gradients"
        assert previous.grad is not None
        sy, yy = jnp.dot(s, y), jnp.dot(y, y)
        guard = jnp.finfo(s.dtype).eps * jnp.sqrt(jnp.dot(s, s) * yy)
        good = (previous.count > 0) & ~previous.failed & (sy > guard)
        sy, yy = jnp.where(good, sy, 1), jnp.where(good, yy, 1)
        first = sy / yy if self.scale else jnp.ones((), s.dtype)
        # A fresh H stands for factor·I, whatever is stored: it is reset, and first scaled, without a pass of its own.
        fresh = state.fresh | previous.failed
        factor = jnp.where(good, first, 1)
        # Two products with vectors: one with both columns would have H packed, and take twice the time of the two.
        hy, hg = (
            jnp.where(fresh, factor * v, jnp.matmul(state.inverse, v, precision=lax.Precision.HIGHEST))
            for v in (y, grad)
        )
        yhy = jnp.where(good, jnp.dot(y, hy), 1)
        # B s = −t∇L, except from factor·I.
        b = jnp.where(fresh, jnp.dot(s, s) / factor, -previous.t * jnp.dot(s, previous.grad)) / sy
        tau, phi = self.update(s, y, hy, jnp.where(good, b, 1))
        good = good & (yhy > 0) & jnp.isfinite(phi) & (tau > 0)
        tau, phi = jnp.where(good, tau, 1), jnp.where(good, phi, 0)
        # H⁺ = H/τ + c₁ (Hy)(Hy)ᵀ + c₂ (s(Hy)ᵀ + (Hy)sᵀ) + c₃ ssᵀ, with all c zero when the pair is skipped.
        c1 = jnp.where(good, (phi - 1) / (tau * yhy), 0)
        c2 = jnp.where(good, -phi / (tau * sy), 0)
        c3 = jnp.where(good, phi * yhy / (tau * sy**2) + 1 / sy, 0)
        left, right = c1 * hy + c2 * s, c2 * hy + c3 * s
        direction = -(hg / tau + left * jnp.dot(hy, grad) + right * jnp.dot(s, grad))
        place = jnp.arange(s.shape[0])
        old = jnp.where(fresh, jnp.where(place[:, None] == place[None, :], factor, 0), state.inverse)
        inverse = old / tau + (left[:, None] * hy[None, :] + right[:, None] * s[None, :])
        fresh = (fresh & ~good) | ~(jnp.dot(direction, grad) < 0)
        # From the identity, a first trial of length one at most.
        direction = jnp.where(fresh, -grad / jnp.maximum(jnp.linalg.norm(grad), 1), direction)
        return Line(direction, grad), _DenseState(inverse, fresh)


class _LimitedState(eqx.Module):
    s: Float[Array, "k n"]
    y: Float[Array, "k n"]
    count: Array


class LBFGS(Direction):
    """d = −H∇L with H from the last `memory` pairs by the two-loop recursion, started from yᵀs/yᵀy · I.

    Jorge Nocedal, *Updating quasi-Newton matrices with limited storage*, 1980. Pairs are guarded and the memory is
    dropped as in `Broyden`. **Cost:** 4·memory·n flops and 2·memory·n numbers of storage.
    """

    memory: int = eqx.field(static=True, default=20)
    scale: bool = eqx.field(static=True, default=True)

    def init(self, objective: Objective, theta: Vector) -> _LimitedState:
        zeros = jnp.zeros((self.memory, theta.shape[0]), theta.dtype)
        return _LimitedState(zeros, zeros, jnp.int32(0))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _LimitedState, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _LimitedState]:
        grad = lin.grad
        s, y, count = state.s, state.y, jnp.where(previous.failed, 0, state.count)
        assert previous.y is not None, "a quasi-Newton direction needs a search with gradients"
        sy = jnp.dot(previous.s, previous.y)
        guard = jnp.finfo(s.dtype).eps * jnp.linalg.norm(previous.s) * jnp.linalg.norm(previous.y)
        good = (previous.count > 0) & ~previous.failed & (sy > guard)
        slot = count % self.memory
        s = s.at[slot].set(jnp.where(good, previous.s, s[slot]))
        y = y.at[slot].set(jnp.where(good, previous.y, y[slot]))
        count = jnp.where(good, count + 1, count)
        direction = -self._apply(s, y, count, grad)
        broken = ~(jnp.dot(direction, grad) < 0)
        count = jnp.where(broken, 0, count)
        steepest = -grad / jnp.maximum(jnp.linalg.norm(grad), 1)
        direction = jnp.where(count == 0, steepest, direction)
        return Line(direction, grad), _LimitedState(s, y, count)

    def _apply(self, s, y, count, vector):
        stored = jnp.minimum(count, self.memory)
        rho = jnp.sum(s * y, axis=1)
        rho = jnp.where(rho > 0, 1 / jnp.where(rho > 0, rho, 1), 0)

        def slot(age):  # age 0 is the newest
            return (count - 1 - age) % self.memory

        def down(age, carry):
            q, alphas = carry
            i = slot(age)
            alpha = rho[i] * jnp.dot(s[i], q)
            return q - alpha * y[i], alphas.at[i].set(alpha)

        q, alphas = lax.fori_loop(0, stored, down, (vector, jnp.zeros(self.memory, vector.dtype)))
        newest = slot(0)
        yy = jnp.dot(y[newest], y[newest])
        scale = jnp.dot(s[newest], y[newest]) / jnp.where(yy > 0, yy, 1)
        q = jnp.where(self.scale & (stored > 0), scale, 1) * q

        def up(step, q):
            i = slot(stored - 1 - step)
            return q + s[i] * (alphas[i] - rho[i] * jnp.dot(y[i], q))

        return lax.fori_loop(0, stored, up, q)
