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
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

UNIT = 64  # a factor of H is stored with a multiple of so many rows, so that devices can share them

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
    """H = ZZᵀ with Z = scale · (baseᵀ + left · rightᵀ).

    `base` is the identity while `identity` holds, and has the rows of Zᵀ, so that devices share Z out by columns; there
    may be more of them than parameters, which are zero. So have `right` and `factored`.
    """

    base: SharedRows | None  # None on its way to the devices, which hold their shares
    identity: Array
    scale: Scalar
    left: Float[Array, "n k"]  # columns in the space of parameters
    right: Float[Array, "m k"]  # and in that of the factor
    count: Array  # pairs in the panel
    factored: Float[Array, "m"]  # Zᵀ∇L
    product: Vector  # H∇L
    fresh: Array  # whether H knows nothing yet

    @property
    def factor(self) -> Float[Array, "n m"]:
        """Z as one matrix. **Cost:** 4·delay·n² flops."""
        assert self.base is not None
        stored = self.base.matrix.T
        base = jnp.where(self.identity, jnp.eye(*stored.shape, dtype=stored.dtype), stored)
        return self.scale * (base + self.left @ self.right.T)

    @property
    def inverse(self) -> Square:
        """H as one matrix, for diagnostics. **Cost:** 2n³ flops."""
        return self.factor @ self.factor.T


class Broyden(Direction):
    """d = −H∇L with a dense H from the Broyden family, entirely on the device:

    H⁺ = (H − Hy(Hy)ᵀ/(yᵀHy) + φ (yᵀHy) vvᵀ)/τ + ssᵀ/(yᵀs),  v = s/(yᵀs) − Hy/(yᵀHy).

    `update(s, y, Hy, b) -> (τ, φ)` chooses the member, with b = sᵀBs/yᵀs = −t sᵀ∇L/yᵀs for the accepted t.

    Not H is stored but a factor Z of H = ZZᵀ, and Z⁺ = Z(I + QTQᵀ)/√τ, where the two columns of Q span Zᵀy and
    Z⁻¹s = −t Zᵀ∇L, and (I + T)² is a matrix of two rows whose elements are sums and products of positive numbers (see
    `_root`). So H is positive definite by construction, whatever is rounded, and Z has half as many digits between its
    largest and its least singular value as H between its eigenvalues. It matters late: H itself loses its small
    eigenvalues to rounding as soon as the others are 10¹⁶ times as large, no longer points downhill, and has to be
    learnt anew again and again.

    A pair is skipped when yᵀs ≤ ε ‖s‖‖y‖ (relative, since an absolute guard fires on most late steps and stalls); H
    goes back to a scaled identity when the search failed or when −H∇L does not point downhill. With `scale`, the first
    H is yᵀs/yᵀy · I (Nocedal and Wright, 2006, equation 6.20).

    Updates are delayed: the last ones, up to `delay`, are kept as a panel of low rank, and added to the stored matrix
    all at once by a matrix product. A step then reads Z twice, for Zᵀy and Hy; Zᵀ∇L and H∇L follow from them by
    H∇L⁺ = H∇L + Hy, and are computed anew with each panel, and whenever the points changed. Several devices share Z
    out: what a step costs beside the gradient is reading it.

    Michael Powell, *Updating conjugate directions by the BFGS formula*, Math. Program. 1987, for factors of H; the
    symmetric root of the update, for all of the family and scaled, is ours.

    **Cost:** about 8n² + 8·delay·n flops a step; the 8n² bytes of Z are read twice, and rewritten every `delay` steps.
    """

    update: Update
    scale: bool = eqx.field(static=True, default=True)
    delay: int = eqx.field(static=True, default=16)

    def init(self, objective: Objective, theta: Vector) -> _DenseState:
        size, dtype = theta.shape[0], theta.dtype
        stored = whole_multiple(size, UNIT)
        return _DenseState(
            base=SharedRows(jnp.zeros((stored, size), dtype)),
            identity=jnp.array(True),
            scale=jnp.ones((), dtype),
            left=jnp.zeros((size, 2 * self.delay), dtype),
            right=jnp.zeros((stored, 2 * self.delay), dtype),
            count=jnp.int32(0),
            factored=jnp.zeros(stored, dtype),
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
        factor = jnp.where(good & self.scale, sy / yy, 1)
        state = self._reset_if(state.fresh | previous.failed, state, jnp.sqrt(factor))
        # Devices add up H y, and with other points the gradient: one after the other (see `on_rows`).
        zy, hy = self._products(state, after(grad, y), mesh)
        # Z⁻¹s = −t Zᵀ∇L, except from factor·I.
        zs = jnp.where(state.fresh, _longer(s, zy.shape[0]) / state.scale, -previous.t * state.factored)
        q, r = _orthonormal(zy, zs)
        good = good & jnp.isfinite(r[0]) & (r[0] > 0) & (r[1] > 0)
        r = jnp.where(good, r, 1)
        b = (r[1] ** 2 + r[2] ** 2) / (r[0] * r[1])
        tau, phi = self.update(s, y, hy, b)
        root, square = _root(r, tau, phi)
        good = good & jnp.all(jnp.isfinite(root)) & (tau > 0) & jnp.isfinite(tau)
        tau, keep = jnp.where(good, tau, 1), lambda x: jnp.where(good, x, 0)
        # Finite whatever happened, and zero when the pair is skipped.
        q, root, square = keep(q), keep(root), keep(square)
        first = hy / r[0]
        second = jnp.where(r[2] > 0, (s - r[1] * first) / jnp.where(r[2] > 0, r[2], 1), 0)
        zq = keep(jnp.stack([first, second], axis=1))
        # With this gradient and the old H; then with the new one.
        zg = jnp.where(state.fresh, state.scale * _longer(grad, zy.shape[0]), state.factored + zy)
        hg = jnp.where(state.fresh, state.scale**2 * grad, state.product + hy)
        along = zg @ q
        zg = (zg + q @ (root @ along)) / jnp.sqrt(tau)
        hg = (hg + zq @ (square @ along)) / tau
        # They follow from the last ones only where ∇L does: not when the points changed, nor before the first pair.
        follows = state.fresh | jnp.all(grad - previous.grad == y)
        state = self._append(state, zq @ root, q, tau, zg, hg)
        state = self._merge_if((state.count == self.delay) | ~follows, state, grad, mesh)
        fresh = (state.fresh & ~good) | ~(jnp.dot(state.product, grad) > 0)
        # From the identity, a first trial of length one at most.
        direction = jnp.where(fresh, -grad / jnp.maximum(jnp.linalg.norm(grad), 1), -state.product)
        return Line(direction, grad), dataclasses.replace(state, fresh=fresh)

    def _reset_if(self, fresh: Array, state: _DenseState, factor: Scalar) -> _DenseState:
        """Z = factor·I where `fresh`. The stored matrix is not touched: it counts for nothing while `identity`."""
        return dataclasses.replace(
            state,
            identity=state.identity | fresh,
            scale=jnp.where(fresh, factor, state.scale),
            left=jnp.where(fresh, 0, state.left),
            right=jnp.where(fresh, 0, state.right),
            count=jnp.where(fresh, 0, state.count),
            fresh=fresh,
        )

    def _products(self, state: _DenseState, v: Vector, mesh: Mesh | None) -> tuple[Float[Array, "m"], Vector]:
        """Zᵀv and H v."""
        base, rest = _apart(state)
        return on_rows(mesh, _twice, base, rest, v)[1]

    def _append(self, state: _DenseState, left: Array, right: Array, tau: Scalar, zg: Array, hg: Vector) -> _DenseState:
        """Z/√τ + left · rightᵀ/√τ."""
        place = (jnp.int32(0), 2 * state.count)
        return dataclasses.replace(
            state,
            left=lax.dynamic_update_slice(state.left, left / state.scale, place),
            right=lax.dynamic_update_slice(state.right, right, place),
            scale=state.scale / jnp.sqrt(tau),
            count=state.count + 1,
            factored=zg,
            product=hg,
        )

    def _merge_if(self, due: Array, state: _DenseState, grad: Vector, mesh: Mesh | None) -> _DenseState:
        """The panel added to the stored matrix, and Zᵀ∇L and H∇L computed from it, where `due`."""
        base, rest = _apart(state)
        base, (factored, product) = on_rows(mesh, _merged, base, due, rest, grad)
        return dataclasses.replace(
            state,
            base=base,
            factored=factored,
            product=product,
            identity=state.identity & ~due,
            scale=jnp.where(due, 1, state.scale),
            left=jnp.where(due, 0, state.left),
            right=jnp.where(due, 0, state.right),
            count=jnp.where(due, 0, state.count),
        )


def _longer(v: Vector, length: int) -> Float[Array, "m"]:
    """v, and zeros."""
    return jnp.pad(v, (0, length - v.shape[0]))


def _apart(state: _DenseState) -> tuple[SharedRows, _DenseState]:
    """The stored matrix, and the rest without it, which would be sent whole to every device."""
    assert state.base is not None
    return state.base, dataclasses.replace(state, base=None)


def _orthonormal(zy: Array, zs: Array) -> tuple[Float[Array, "m 2"], Float[Array, "3"]]:
    """[Zᵀy Z⁻¹s] = QR: Q, and r₁₁, r₁₂, r₂₂ of R. Where both are parallel to rounding, r₂₂ and its column are zero."""
    size = jnp.linalg.norm(zy)
    first = zy / jnp.where(size > 0, size, 1)
    along = jnp.dot(first, zs)
    rest = zs - along * first
    again = jnp.dot(first, rest)  # once more: what the first left in is as large as its rounding
    rest = rest - again * first
    across = jnp.linalg.norm(rest)
    apart = across > 64 * jnp.finfo(zs.dtype).eps * jnp.abs(along)
    second = jnp.where(apart, rest / jnp.where(apart, across, 1), 0)
    return jnp.stack([first, second], axis=1), jnp.stack([size, along + again, jnp.where(apart, across, 0)])


def _root(r: Float[Array, "3"], tau: Scalar, phi: Scalar) -> tuple[Float[Array, "2 2"], Float[Array, "2 2"]]:
    """T and A − I, where A = (I + T)² and Z⁺ = Z(I + QTQᵀ)/√τ.

    With h = yᵀHy/yᵀs = r₁₁/r₁₂ and a = (r₂₂/r₁₂)², which is bh − 1, the update in the basis Q is

        A = [[τ/h, τ√a/h], [τ√a/h, 1 + φa + τa/h]],  det A = (1 + φa) τ/h.

    NaN where A is not positive definite, which is where 1 + φa is not.
    """
    h, slant = r[0] / r[1], r[2] / r[1]
    corner, rest = tau / h, 1 + phi * slant**2
    matrix = jnp.array([[corner, corner * slant], [corner * slant, rest + corner * slant**2]])
    both = jnp.sqrt(jnp.where(rest > 0, corner * rest, jnp.nan))  # √det A
    eye = jnp.eye(2, dtype=r.dtype)
    # The root of a matrix of two rows, by Cayley and Hamilton.
    root = (matrix + both * eye) / jnp.sqrt(matrix[0, 0] + matrix[1, 1] + 2 * both)
    return root - eye, matrix - eye


def _identity(place: Array, like: Array) -> Array:
    """The rows `place` of I, with zeros below."""
    return (place[:, None] == jnp.arange(like.shape[1])[None, :]).astype(like.dtype)


def _twice(share: Array, first: Array | int, total: Callable, state: _DenseState, v: Vector):
    """Zᵀv and ZZᵀv, from a share of the rows of the stored Zᵀ: one sum over devices."""
    own, size, stored = share.shape[0], v.shape[0], state.right.shape[0]
    times = jnp.matmul(share, v, precision=lax.Precision.HIGHEST)
    times = jnp.where(state.identity, lax.dynamic_slice_in_dim(_longer(v, stored), first, own), times)
    z = state.scale * (times + lax.dynamic_slice_in_dim(state.right, first, own) @ (v @ state.left))
    back = jnp.matmul(z, share, precision=lax.Precision.HIGHEST)
    whole = lax.dynamic_update_slice_in_dim(jnp.zeros(stored, z.dtype), z, first, axis=0)
    whole, back = jnp.split(total(jnp.concatenate([whole, back])), [stored])
    back = jnp.where(state.identity, whole[:size], back)
    return share, (whole, state.scale * (back + state.left @ (whole @ state.right)))


def _merged(share: Array, first: Array | int, total: Callable, due: Array, state: _DenseState, grad: Vector):
    """A share of the rows of the stored Zᵀ, Zᵀ∇L and H∇L, after a merge where it is `due`."""
    own = share.shape[0]
    right = lax.dynamic_slice_in_dim(state.right, first, own)
    empty = dataclasses.replace(
        state,
        identity=jnp.array(False),
        scale=jnp.ones_like(state.scale),
        left=jnp.zeros_like(state.left),
        right=jnp.zeros_like(state.right),
    )

    def merge(carry):
        _, share, _ = carry
        base = jnp.where(state.identity, _identity(first + jnp.arange(own), share), share)
        share = state.scale * (base + jnp.matmul(right, state.left.T, precision=lax.Precision.HIGHEST))
        return jnp.array(False), *_twice(share, first, total, empty, grad)

    # A loop of one turn or none rather than `cond`: XLA carries the matrix through a loop in place, and copies it at a
    # branch.
    known = state.factored, state.product
    _, share, found = lax.while_loop(lambda carry: carry[0], merge, (due, share, known))
    return share, found


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
        # The newest y is known before it is stored, and not read from where it then is: XLA would compute its slot a
        # second time for that, and copy all rows twice a step to do so.
        last = jnp.where(good, new, y[(count - 1) % self.memory])
        s, y = (_write(a, slot, row, good) for a, row in ((s, previous.s), (y, after(last, new))))
        count = jnp.where(good, count + 1, count)
        direction = -self._apply(s, y, last, count, grad)
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

    def _apply(self, s, y, last, count, vector):
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
        yy = jnp.dot(last, last)
        scale = jnp.dot(s[newest], last) / jnp.where(yy > 0, yy, 1)
        q = jnp.where(self.scale & (stored > 0), scale, 1) * q

        def up(step, q):
            i = slot(stored - 1 - step)
            return q + s[i] * (alphas[i] - rho[i] * jnp.dot(y[i], q))

        return lax.fori_loop(0, stored, up, q)
