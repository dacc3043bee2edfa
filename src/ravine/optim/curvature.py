"""Second-order models of the loss: where the matrix B of gᵀs + ½sᵀBs comes from.

A `Curvature` is a value that `Newton`, `NewtonCG` and `TrustRegion` take: the Hessian, on the whole batch or a part of
it, the Gauss–Newton matrix, or a matrix learnt from differences of gradients that, unlike that of `Broyden`, may be
indefinite.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, Batch, Float, PyTree, RandomKey, Scalar, Square, Vector
from ravine.blocks import on_first
from ravine.linalg import products
from ravine.objective import Linearisation, Objective
from ravine.optim.path import Previous
from ravine.terms import Weighted, points_of


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """B in a basis of eigenvectors that, where it is not complete, contains the gradient: `values` ascending, `slopes`
    Vᵀg, `lift`, which takes coefficients to a vector, and what it cost."""

    values: Float[Array, "k"]
    slopes: Float[Array, "k"]
    lift: Callable[[Float[Array, "k"]], Vector]
    work: Work


class Quadratic:
    """B at one point, as products or as a matrix. Lives within one traced step.

    `product_cost` is what a product costs, `matrix_cost` what the matrix does, beyond algebra.
    """

    def __init__(
        self,
        lin: Linearisation,
        product: Callable[[Vector], Vector],
        matrix: Callable[[], Square],
        *,
        product_cost: Work | None = None,
        matrix_cost: Work | None = None,
    ):
        self.lin, self.product, self.matrix = lin, product, matrix
        self.product_cost = Work() if product_cost is None else product_cost
        self.matrix_cost = Work() if matrix_cost is None else matrix_cost

    def spectrum(self, grad: Vector) -> Spectrum:
        """All eigenvalues and eigenvectors, on the first device. **Cost:** the matrix, about 9n³ flops, 3n² numbers."""
        mesh = self.lin.objective.mesh

        def decompose(kept, grad):
            values, vectors = jnp.linalg.eigh(kept[0])
            return (vectors,), (values, grad @ vectors)

        kept, (values, slopes) = on_first(mesh, decompose, (self.matrix(),), grad)
        lift = lambda coefficients: on_first(mesh, lambda kept, c: (kept, kept[0] @ c), kept, coefficients)[1]
        return Spectrum(values, slopes, lift, self.matrix_cost + Work(inner=1))


class Curvature(eqx.Module):
    """Where B comes from. Abstract: `init(objective, theta) -> state`; `(lin, state, previous, *, key) -> (quadratic,
    state)`, arguments as those of a `Direction`."""

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        """The state before the first step."""
        del objective, theta

    def __call__(
        self, lin: Linearisation, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[Quadratic, PyTree]:
        """B at the point of `lin`, and the next state."""
        raise NotImplementedError


class Hessian(Curvature):
    """∇²L, on the whole batch or on a random `share` of the points of each term, drawn anew at each step.

    Terms that see their points together, and the batches of bare losses and residuals, are taken whole.
    `group` is how many columns of the matrix are made at once (see `ravine.linalg.products`).

    **Raises:** `ValueError` for a share that is not in (0, 1].

    **Cost:** about six evaluations (of the share) a product, counted as two products with a Jacobian; n of them for the
    matrix.

    Richard Byrd, Gillian Chin, Will Neveitt and Jorge Nocedal, *On the use of stochastic Hessian information in
    optimization methods for machine learning*, SIAM J. Optim. 2011.
    """

    share: float = eqx.field(static=True, default=1.0)
    group: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"Hessian: share is {self.share}, but it is a part of the points: in (0, 1].")

    def __call__(
        self, lin: Linearisation, state: None, previous: Previous, *, key: RandomKey
    ) -> tuple[Quadratic, None]:
        if self.share < 1:
            lin = lin.objective.linearise(lin.theta, part_of(lin.objective, lin.batch, self.share, key))
        size, dtype = lin.theta.shape[0], lin.theta.dtype
        product = lambda v: lin.anew().hessian_product(v)

        def matrix() -> Square:
            columns = products(product, jnp.eye(size, dtype=dtype), self.group)
            return (columns + columns.T) / 2

        cost = Work(products=2 * size)
        return Quadratic(lin, product, matrix, product_cost=Work(products=2), matrix_cost=cost), None


class GaussNewtonMatrix(Curvature):
    """JᵀJ of the whitened rows: positive semidefinite.

    **Raises:** `ValueError` when the objective is a bare scalar loss.

    **Cost:** about five evaluations a product; m rows and mn² flops for the matrix.
    """

    def init(self, objective: Objective, theta: Vector) -> None:
        objective.require_curvature(
            "A Gauss–Newton model needs", "ravine.trust_region_newton(), ravine.trust_region_cg()"
        )

    def __call__(
        self, lin: Linearisation, state: None, previous: Previous, *, key: RandomKey
    ) -> tuple[Quadratic, None]:
        product = lambda v: lin.anew().curvature_product(v)
        return Quadratic(lin, product, lin.gram, product_cost=Work(products=2), matrix_cost=Work(rows=lin.rows)), None


def part_of(objective: Objective, batch: Batch, share: float, key: RandomKey) -> Batch:
    """A random part of the points of each term, without repetition: at least one point, weights scaled up to match."""
    batch = points_of(batch)
    if objective.bare:
        return batch
    found = dict(batch)
    for number, term in enumerate(objective.terms):
        if term.whole or term.name not in batch:
            continue
        entry = batch[term.name]
        points = entry.points if isinstance(entry, Weighted) else entry
        count = jax.tree.leaves(points)[0].shape[0]
        size = max(1, math.ceil(share * count))
        chosen = jax.random.choice(jax.random.fold_in(key, number), count, (size,), replace=False)
        taken = jax.tree.map(lambda leaf, chosen=chosen: leaf[chosen], points)
        found[term.name] = (
            Weighted(taken, entry.weights[chosen] * (count / size)) if isinstance(entry, Weighted) else taken
        )
    return found


# --------------------------------------------------------------------------------------------- learnt from gradients


def _pair(previous: Previous) -> tuple[Vector, Vector, Array]:
    """s, y, and whether the last step made any."""
    assert previous.y is not None, "a quasi-Newton model needs a search with gradients"
    return previous.s, previous.y, (previous.count > 0) & ~previous.failed


class _Matrix(eqx.Module):
    matrix: Square
    fresh: Array


class SR1(Curvature):
    """The symmetric rank-one matrix: B⁺ = B + rrᵀ/(rᵀs), r = y − Bs, which need not be positive definite.

    A pair is skipped where |rᵀs| < `guard` ‖r‖‖s‖ (Nocedal and Wright, 2006, equation 6.26). The first B is yᵀy/yᵀs · I
    where that is positive, before any pair max(1, ‖∇L‖) · I.

    **Cost:** 6n² flops, n² numbers.

    Andrew Conn, Nicholas Gould and Philippe Toint, *Convergence of quasi-Newton matrices generated by the symmetric
    rank one update*, Math. Program. 1991.
    """

    guard: float = 1e-8

    def init(self, objective: Objective, theta: Vector) -> _Matrix:
        return _Matrix(jnp.eye(theta.shape[0], dtype=theta.dtype), jnp.array(True))

    def __call__(
        self, lin: Linearisation, state: _Matrix, previous: Previous, *, key: RandomKey
    ) -> tuple[Quadratic, _Matrix]:
        s, y, good = _pair(previous)
        sy = jnp.dot(s, y)
        first = jnp.where(good & (sy > 0), jnp.dot(y, y) / jnp.where(sy > 0, sy, 1), _first(lin))
        matrix = jnp.where(state.fresh, first * jnp.eye(s.shape[0], dtype=s.dtype), state.matrix)
        r = y - matrix @ s
        rs = jnp.dot(r, s)
        used = good & (jnp.abs(rs) >= self.guard * jnp.linalg.norm(r) * jnp.linalg.norm(s)) & (rs != 0)
        matrix = matrix + jnp.where(used, 1 / jnp.where(used, rs, 1), 0) * jnp.outer(r, r)
        return Quadratic(lin, lambda v: matrix @ v, lambda: matrix), _Matrix(matrix, state.fresh & ~good)


def _first(lin: Linearisation) -> Scalar:
    """The curvature before any is known: a step no longer than one."""
    return jnp.maximum(jnp.linalg.norm(lin.grad), 1)


class _Pairs(eqx.Module):
    s: Float[Array, "k n"]
    y: Float[Array, "k n"]
    scale: Scalar


class LimitedSR1(Curvature):
    """The symmetric rank-one matrix of the last `memory` pairs: B = γI + ΨᵀM⁺Ψ, Ψ = Y − γS, M = D + L + Lᵀ − γSSᵀ.

    S and Y hold the pairs as rows; D and L are the diagonal and the strictly lower part of SYᵀ. γ is yᵀy/yᵀs of the
    newest pair for which that is positive. Pairs are skipped as in `SR1`; a singular M is inverted on its range.

    **Cost:** 8·memory·n flops a product, 4·memory²·n a step; 2·memory·n numbers.

    Richard Byrd, Jorge Nocedal and Robert Schnabel, *Representations of quasi-Newton matrices and their use in limited
    memory methods*, Math. Program. 1994, theorem 5.1; its eigenvalues as in Johannes Brust, Jennifer Erway and Roummel
    Marcia, *On solving L-SR1 trust-region subproblems*, Comput. Optim. Appl. 2017, section 3.
    """

    memory: int = eqx.field(static=True, default=20)
    guard: float = 1e-8

    def init(self, objective: Objective, theta: Vector) -> _Pairs:
        zeros = jnp.zeros((self.memory, theta.shape[0]), theta.dtype)
        return _Pairs(zeros, zeros, jnp.zeros((), theta.dtype))

    def __call__(
        self, lin: Linearisation, state: _Pairs, previous: Previous, *, key: RandomKey
    ) -> tuple["_Compact", _Pairs]:
        s, y, good = _pair(previous)
        sy, yy = jnp.dot(s, y), jnp.dot(y, y)
        known = jnp.where(state.scale > 0, state.scale, _first(lin))
        r = y - _Compact(lin, state, known).product(s)
        rs, size = jnp.dot(r, s), jnp.linalg.norm(s)
        used = good & (jnp.abs(rs) >= self.guard * jnp.linalg.norm(r) * size) & (rs != 0)
        scale = jnp.where(good & (sy > 0), yy / jnp.where(sy > 0, sy, 1), known)
        # The oldest pair is row 0: D and L need the order. B does not change with the length of a pair; rounding does.
        unit = jnp.where(used, 1 / jnp.where(used, size, 1), 0)
        shift = lambda rows, new: jnp.where(used, jnp.concatenate([rows[1:], unit * new[None]]), rows)
        kept = jnp.where(good & (sy > 0), scale, state.scale)
        state = _Pairs(shift(state.s, s), shift(state.y, y), kept)
        return _Compact(lin, state, scale), state


class _Compact(Quadratic):
    """B of `LimitedSR1`: γI + VᵀΛV with at most `memory` orthonormal rows V."""

    def __init__(self, lin: Linearisation, state: _Pairs, scale: Scalar):
        s, y = state.s, state.y
        sy = s @ y.T
        middle = jnp.tril(sy) + jnp.tril(sy, -1).T - scale * (s @ s.T)
        psi = y - scale * s
        size = jnp.linalg.norm(psi, axis=1)
        size = jnp.where(size > 0, size, 1)
        psi, middle = psi / size[:, None], middle / size[:, None] / size[None, :]
        # ΨΨᵀ = Q diag(σ²) Qᵀ gives orthonormal rows; what is rounding there, and empty slots, drop out.
        spread, turn = jnp.linalg.eigh(psi @ psi.T)
        basis, keep = _rows(spread, turn)
        half = turn.T * jnp.where(keep, jnp.sqrt(jnp.maximum(spread, 0)), 0)[:, None]  # Ψ = halfᵀ basis·Ψ
        core = half @ _pseudo_inverse(middle) @ half.T
        values, turn = jnp.linalg.eigh((core + core.T) / 2)
        self.values, self.vectors, self.scale = values, turn.T @ (basis @ psi), scale
        super().__init__(lin, self._product, self._matrix)

    def _product(self, v: Vector) -> Vector:
        return self.scale * v + (self.values * (self.vectors @ v)) @ self.vectors

    def _matrix(self) -> Square:
        eye = jnp.eye(self.vectors.shape[1], dtype=self.vectors.dtype)
        return self.scale * eye + (self.vectors.T * self.values[None, :]) @ self.vectors

    def spectrum(self, grad: Vector) -> Spectrum:
        """The eigenvectors that are not for γ, and the part of the gradient in the eigenspace of γ."""
        slopes = self.vectors @ grad
        rest = grad - slopes @ self.vectors
        size = jnp.linalg.norm(rest)
        rest = rest / jnp.where(size > 0, size, 1)
        values = jnp.append(self.scale + self.values, self.scale)
        slopes = jnp.append(slopes, size)
        order = jnp.argsort(values)
        rows = jnp.concatenate([self.vectors, rest[None]])[order]
        return Spectrum(values[order], slopes[order], lambda coefficients: coefficients @ rows, Work())


def _rows(spread: Array, turn: Array) -> tuple[Array, Array]:
    """The rows that make Ψ orthonormal, diag(1/σ) Qᵀ, and which of them are more than rounding."""
    keep = spread > spread.shape[0] * jnp.finfo(spread.dtype).eps * jnp.maximum(spread[-1], 0)
    inverse = jnp.where(keep, 1 / jnp.sqrt(jnp.where(keep, spread, 1)), 0)
    return inverse[:, None] * turn.T, keep


def _pseudo_inverse(matrix: Any) -> Any:
    """Of a symmetric matrix, whose scale is made even first."""
    diagonal = jnp.sqrt(jnp.maximum(jnp.max(jnp.abs(matrix), axis=1), jnp.finfo(matrix.dtype).tiny))
    values, vectors = jnp.linalg.eigh(matrix / diagonal[:, None] / diagonal[None, :])
    size = jnp.abs(values)
    keep = size > 1e3 * jnp.finfo(matrix.dtype).eps * jnp.max(size)
    inverse = jnp.where(keep, 1 / jnp.where(keep, values, 1), 0)
    return ((vectors * inverse[None, :]) @ vectors.T) / diagonal[:, None] / diagonal[None, :]
