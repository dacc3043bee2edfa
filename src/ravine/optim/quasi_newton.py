"""Quasi-Newton directions: −H∇L, with H built from the differences of gradients along the way.

Every pair (s, y) was taken on one batch (`Previous`), so a redraw of points never enters a pair; H itself is still the
inverse Hessian of the old sample, so points should be held for hundreds of steps.
"""

import dataclasses
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from ravine._types import Array, Float, RandomKey, Scalar, Square, Vector
from ravine.blocks import SharedRows, after, on_rows, whole_multiple
from ravine.linalg import shifted_cholesky
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

SYMMETRISE = 64  # panels between two symmetrisations of a dense inverse
UNIT = 64  # H is stored with a multiple of so many rows, so that devices can share them

Update = Callable[[Vector, Vector, Vector, Scalar], tuple[Scalar, Scalar]]


def unscaled(s: Vector, y: Vector, hy: Vector, b: Scalar) -> tuple[Scalar, Scalar]:
    """(τ, φ) = (1, 1): BFGS."""
    del y, hy, b
    one = jnp.ones((), s.dtype)
    return one, one


class Member(eqx.Module):
    """(τ, φ) = (1, φ): a member of Broyden's class; φ = 1 is BFGS, φ = 0 DFP, between them lies the convex class.

    A φ below −1/(bh − 1), h = yᵀHy/yᵀs, would make H indefinite; it is raised to nine tenths of that bound.

    Charles Broyden, *Quasi-Newton methods and their application to function minimisation*, Math. Comput. 1967; Roger
    Fletcher, *A new approach to variable metric algorithms*, Comput. J. 1970, for the bound.
    """

    phi: float

    def __call__(self, s: Vector, y: Vector, hy: Vector, b: Scalar) -> tuple[Scalar, Scalar]:
        a = jnp.maximum(b * jnp.dot(y, hy) / jnp.dot(y, s) - 1, jnp.finfo(s.dtype).eps)
        return jnp.ones((), s.dtype), jnp.maximum(jnp.asarray(self.phi, s.dtype), -0.9 / a)


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
    """H = scale · base + panel · core · panelᵀ, where base is the identity while `identity` holds.

    `base` may have more rows and columns than H, which are zero.
    """

    base: SharedRows
    identity: Array
    scale: Scalar
    panel: Float[Array, "n k"]
    core: Float[Array, "k k"]
    count: Array  # pairs in the panel
    merged: Array  # panels that went into base
    product: Vector  # H∇L
    fresh: Array  # whether H knows nothing yet

    @property
    def inverse(self) -> Square:
        """H as one matrix, for diagnostics. **Cost:** 4·delay·n² flops."""
        size = self.panel.shape[0]
        stored = self.base.matrix[:size, :size]
        base = jnp.where(self.identity, jnp.eye(size, dtype=stored.dtype), stored)
        return self.scale * base + self.panel @ self.core @ self.panel.T


class Broyden(Direction):
    """d = −H∇L with a dense H from the Broyden family, entirely on the device:

    H⁺ = (H − Hy(Hy)ᵀ/(yᵀHy) + φ (yᵀHy) vvᵀ)/τ + ssᵀ/(yᵀs),  v = s/(yᵀs) − Hy/(yᵀHy).

    `update(s, y, Hy, b) -> (τ, φ)` chooses the member, with b = sᵀBs/yᵀs = −t sᵀ∇L/yᵀs for the accepted t.

    A pair is skipped when yᵀs ≤ ε ‖s‖‖y‖ (relative, since an absolute guard fires on most late steps and stalls); H
    goes back to a scaled identity when the search failed or when −H∇L does not point downhill. With `repair`, every so
    many panels, and whenever −H∇L does not point downhill, a Cholesky factor is tried, and where there is none H + τI
    takes the place of H (τ as `shifted_cholesky` finds it): what was learnt is kept. With `scale`, the first
    H is yᵀs/yᵀy · I (Nocedal and Wright, 2006, equation 6.20).

    Updates are delayed: the last ones, up to `delay`, are kept as a panel of low rank, and added to the stored matrix
    all at once by matrix products. A step then reads H once, for Hy; H∇L follows from it by H∇L⁺ = H∇L + Hy, and is
    computed anew with each panel, and whenever the points changed. Several devices share the rows of H out: what a step
    costs beside the gradient is reading it.

    **Cost:** about 6n² + 16·delay·n flops a step; the 8n² bytes of H are read once, and rewritten every `delay` steps.
    """

    update: Update
    scale: bool = eqx.field(static=True, default=True)
    delay: int = eqx.field(static=True, default=16)
    repair: int = eqx.field(static=True, default=0)

    def init(self, objective: Objective, theta: Vector) -> _DenseState:
        size, dtype = theta.shape[0], theta.dtype
        stored = whole_multiple(size, UNIT)
        return _DenseState(
            base=SharedRows(jnp.zeros((stored, stored), dtype)),
            identity=jnp.array(True),
            scale=jnp.ones((), dtype),
            panel=jnp.zeros((size, 2 * self.delay), dtype),
            core=jnp.zeros((2 * self.delay, 2 * self.delay), dtype),
            count=jnp.int32(0),
            merged=jnp.int32(0),
            product=jnp.zeros_like(theta),
            fresh=jnp.array(True),
        )

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _DenseState, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _DenseState]:
        s, y, grad, mesh = previous.s, previous.y, lin.grad, lin.objective.mesh
        assert y is not None, "a quasi-Newton direction needs a search with gradients"
        assert previous.grad is not None
        sy, yy = jnp.dot(s, y), jnp.dot(y, y)
        guard = jnp.finfo(s.dtype).eps * jnp.sqrt(jnp.dot(s, s) * yy)
        good = (previous.count > 0) & ~previous.failed & (sy > guard)
        sy, yy = jnp.where(good, sy, 1), jnp.where(good, yy, 1)
        state = self._reset_if(state.fresh | previous.failed, state, jnp.where(good & self.scale, sy / yy, 1))
        # Devices gather H y, and with other points the gradient: one after the other (see `on_rows`).
        hy = self._apply(state, after(grad, y), mesh)
        yhy = jnp.where(good, jnp.dot(y, hy), 1)
        # B s = −t∇L, except from factor·I.
        b = jnp.where(state.fresh, jnp.dot(s, s) / state.scale, -previous.t * jnp.dot(s, previous.grad)) / sy
        tau, phi = self.update(s, y, hy, jnp.where(good, b, 1))
        good = good & (yhy > 0) & (yhy < jnp.inf) & jnp.isfinite(phi) & (tau > 0)
        tau, phi = jnp.where(good, tau, 1), jnp.where(good, phi, 0)
        # H⁺ = H/τ + c₁ (Hy)(Hy)ᵀ + c₂ (s(Hy)ᵀ + (Hy)sᵀ) + c₃ ssᵀ, with all c zero when the pair is skipped.
        c1 = jnp.where(good, (phi - 1) / (tau * yhy), 0)
        c2 = jnp.where(good, -phi / (tau * sy), 0)
        c3 = jnp.where(good, phi * yhy / (tau * sy**2) + 1 / sy, 0)
        hg = jnp.where(state.fresh, state.scale * grad, state.product + hy)
        hg = hg / tau + (c1 * hy + c2 * s) * jnp.dot(hy, grad) + (c2 * hy + c3 * s) * jnp.dot(s, grad)
        # H∇L follows from the last one only where ∇L does: not when the points changed, nor before the first pair.
        follows = state.fresh | jnp.all(grad - previous.grad == y)
        # Finite whatever happened: the panel is forgotten by its core alone.
        hy, s = jnp.where(good, hy, 0), jnp.where(good, s, 0)
        state = self._append(state, hy, s, tau, jnp.stack([jnp.stack([c1, c2]), jnp.stack([c2, c3])]), hg)
        due = (state.count == self.delay) | ~follows
        uphill = ~state.fresh & ~(jnp.dot(state.product, grad) > 0) if self.repair else jnp.array(False)
        state = self._merge_if(due | uphill, state, grad, uphill, mesh)
        fresh = (state.fresh & ~good) | ~(jnp.dot(state.product, grad) > 0)
        # From the identity, a first trial of length one at most.
        direction = jnp.where(fresh, -grad / jnp.maximum(jnp.linalg.norm(grad), 1), -state.product)
        return Line(direction, grad), dataclasses.replace(state, fresh=fresh)

    def _reset_if(self, fresh: Array, state: _DenseState, factor: Scalar) -> _DenseState:
        """H = factor·I where `fresh`. The stored matrix is not touched: it counts for nothing while `identity`."""
        return dataclasses.replace(
            state,
            identity=state.identity | fresh,
            scale=jnp.where(fresh, factor, state.scale),
            core=jnp.where(fresh, 0, state.core),
            count=jnp.where(fresh, 0, state.count),
            fresh=fresh,
        )

    def _apply(self, state: _DenseState, v: Vector, mesh: Mesh | None) -> Vector:
        """H v."""
        _, full = on_rows(mesh, _times, state.base, v)
        return state.scale * jnp.where(state.identity, v, full) + state.panel @ (state.core @ (v @ state.panel))

    def _append(self, state: _DenseState, hy: Vector, s: Vector, tau: Scalar, block: Array, hg: Vector) -> _DenseState:
        """H/τ + [Hy s] block [Hy s]ᵀ."""
        zero, place = jnp.int32(0), 2 * state.count
        return dataclasses.replace(
            state,
            scale=state.scale / tau,
            panel=lax.dynamic_update_slice(state.panel, jnp.stack([hy, s], axis=1), (zero, place)),
            core=lax.dynamic_update_slice(state.core / tau, block, (place, place)),
            count=state.count + 1,
            product=hg,
        )

    def _merge_if(self, due: Array, state: _DenseState, grad: Vector, uphill: Array, mesh: Mesh | None) -> _DenseState:
        """The panel added to the stored matrix, and H∇L computed from it, where `due`."""
        # Without the matrix, of which the devices would be sent all.
        rest = eqx.tree_at(lambda one: one.base, state, None)
        base, product = on_rows(mesh, self._merged, state.base, due, rest, grad, uphill)
        return dataclasses.replace(
            state,
            base=base,
            product=product,
            identity=state.identity & ~due,
            scale=jnp.where(due, 1, state.scale),
            core=jnp.where(due, 0, state.core),
            count=jnp.where(due, 0, state.count),
            merged=state.merged + due.astype(jnp.int32),
        )

    def _merged(self, share, first, gather, due, state: _DenseState, grad: Vector, uphill: Array):
        """A share of the rows of H, and H∇L, after a merge where it is `due`."""
        own, stored = share.shape
        place = first + jnp.arange(own)

        def merge(carry):
            _, share, _ = carry
            base = jnp.where(state.identity, _identity(place, grad.shape[0], share), share)
            panel = jnp.pad(state.panel, ((0, stored - grad.shape[0]), (0, 0)))
            half = jnp.matmul(panel[place], state.core, precision=lax.Precision.HIGHEST)
            share = state.scale * base + jnp.matmul(half, panel.T, precision=lax.Precision.HIGHEST)
            # Rounding makes it asymmetric, a little more with each panel; a transpose costs more than the products.
            due = state.merged % SYMMETRISE == SYMMETRISE - 1
            share = lax.cond(due, lambda a: (a + gather(a)[:, place].T) / 2, lambda a: a, share)
            if self.repair:
                due = uphill | (state.merged % self.repair == self.repair - 1)
                share = lax.cond(due, lambda a: _mended(gather(a), grad.shape[0])[place], lambda a: a, share)
            return jnp.array(False), share, _times(share, first, gather, grad)[1]

        # A loop of one turn or none rather than `cond`: XLA carries the matrix through a loop in place, and copies it
        # at a branch.
        _, share, product = lax.while_loop(lambda carry: carry[0], merge, (due, share, state.product))
        return share, product


def _identity(place: Array, size: int, like: Array) -> Array:
    """The rows `place` of I of `size`, with zeros from there on."""
    return ((place[:, None] == jnp.arange(like.shape[1])[None, :]) & (place[:, None] < size)).astype(like.dtype)


def _times(share: Array, first: Array | int, gather: Callable[[Array], Array], v: Vector) -> tuple[Array, Vector]:
    """The matrix times v, which is shorter where the matrix is padded."""
    del first
    longer = jnp.pad(v, (0, share.shape[1] - v.shape[0]))
    return share, gather(jnp.matmul(share, longer, precision=lax.Precision.HIGHEST))[: v.shape[0]]


def _mended(inverse: Square, size: int) -> Square:
    """H + τI, symmetric, with τ = 0 where H is positive definite. **Cost:** n³/3 flops for each τ."""
    inner = inverse[:size, :size]
    inner = (inner + inner.T) / 2
    _, shift, _ = shifted_cholesky(inner, jnp.zeros((), inverse.dtype), attempts=24)
    place = jnp.arange(size)
    return inverse.at[:size, :size].set(inner.at[place, place].add(shift))


class _LimitedState(eqx.Module):
    s: Float[Array, "k n"]
    y: Float[Array, "k n"]
    count: Array


def _write(rows: Float[Array, "k n"], slot: Array, row: Vector, good: Array) -> Float[Array, "k n"]:
    """`row` in its slot where `good`. As slices, which XLA writes in place; a scatter would copy all rows."""
    place = (slot, jnp.zeros_like(slot))
    kept = lax.dynamic_slice(rows, place, (1, rows.shape[1]))
    return lax.dynamic_update_slice(rows, jnp.where(good, row[None, :], kept), place)


class LBFGS(Direction):
    """d = −H∇L with H from the last `memory` pairs by the two-loop recursion, started from yᵀs/yᵀy · I.

    Jorge Nocedal, *Updating quasi-Newton matrices with limited storage*, 1980. Pairs are guarded and the memory is
    dropped as in `Broyden`. With `damped`, y is replaced by θy + (1 − θ)Bs where yᵀs < 0.2 sᵀBs, so that it equals that
    (Michael Powell, *Algorithms for nonlinear constraints that use Lagrangian functions*, Math. Program. 1978; Mehiddin
    Al-Baali, Lucio Grandinetti and Ornella Pisnenko, *Damped techniques for the limited memory BFGS method for
    large-scale optimization*, J. Optim. Theory Appl. 2014): a pair of bad curvature then teaches a little instead of
    being skipped. Bs = −t∇L needs no product. **Cost:** 4·memory·n flops and 2·memory·n numbers of storage.
    """

    memory: int = eqx.field(static=True, default=20)
    scale: bool = eqx.field(static=True, default=True)
    damped: bool = eqx.field(static=True, default=False)

    def init(self, objective: Objective, theta: Vector) -> _LimitedState:
        zeros = jnp.zeros((self.memory, theta.shape[0]), theta.dtype)
        return _LimitedState(zeros, zeros, jnp.int32(0))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _LimitedState, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _LimitedState]:
        grad = lin.grad
        s, y, count = state.s, state.y, jnp.where(previous.failed, 0, state.count)
        assert previous.y is not None, "a quasi-Newton direction needs a search with gradients"
        new = self._damped(previous, count) if self.damped else previous.y
        sy = jnp.dot(previous.s, new)
        guard = jnp.finfo(s.dtype).eps * jnp.linalg.norm(previous.s) * jnp.linalg.norm(new)
        good = (previous.count > 0) & ~previous.failed & (sy > guard)
        slot = count % self.memory
        s, y = (_write(a, slot, row, good) for a, row in ((s, previous.s), (y, new)))
        count = jnp.where(good, count + 1, count)
        direction = -self._apply(s, y, count, grad)
        broken = ~(jnp.dot(direction, grad) < 0)
        count = jnp.where(broken, 0, count)
        steepest = -grad / jnp.maximum(jnp.linalg.norm(grad), 1)
        direction = jnp.where(count == 0, steepest, direction)
        return Line(direction, grad), _LimitedState(s, y, count)

    def _damped(self, previous: Previous, count: Array) -> Vector:
        assert previous.y is not None
        assert previous.grad is not None
        # Without pairs B is what makes the first step no longer than one.
        plain = jnp.maximum(jnp.linalg.norm(previous.grad), 1) * previous.s
        bs = jnp.where(count == 0, plain, -previous.t * previous.grad)
        sy, sbs = jnp.dot(previous.s, previous.y), jnp.dot(previous.s, bs)
        bad = sy < 0.2 * sbs
        theta = jnp.where(bad, 0.8 * sbs / jnp.where(bad, sbs - sy, 1), 1)
        return theta * previous.y + (1 - theta) * bs

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
