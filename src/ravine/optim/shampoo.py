"""Matrix preconditioners from gradients alone: one matrix a side of each parameter array.

A parameter array with two axes or more is seen as a matrix, its first axis against all others; one with fewer is
preconditioned entry by entry. A side longer than `largest` goes without a matrix.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._types import Array, Float, Matrix, RandomKey, Square, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous


def matrices(objective: Objective, vector: Vector) -> list[Array]:
    """The parameter arrays that lie in a flat vector, those with axes enough as matrices."""
    parts = objective.layout.split(vector)
    return [part.reshape(part.shape[0], -1) if part.ndim > 1 else part for part in parts]


def _flat(parts: list[Array], like: Vector) -> Vector:
    return jnp.concatenate([part.reshape(-1) for part in parts]).astype(like.dtype)


def _sides(shape: tuple[int, ...], largest: int) -> list[int | None]:
    """The lengths of the sides that get a matrix, None for one that does not."""
    return [size if size <= largest else None for size in shape]


class _Side(eqx.Module):
    """Σ over steps of the gradient times its transpose, and what was made of it at the last refresh."""

    sum: Square
    made: Square


class _Leaf(eqx.Module):
    """The two sides of a matrix; or, for what is no matrix or has no side that is short enough, Σg²."""

    left: _Side | None
    right: _Side | None
    squares: Array | None


class Shampoo(Direction):
    """d = −L^(−1/4) G R^(−1/4) for each matrix, L = εI + ΣGGᵀ, R = εI + ΣGᵀG; −g/√(ε + Σg²) for other entries.

    Where one side alone has a matrix, its power is −1/2.

    **Arguments:** `epsilon`; `refresh`, steps between two computations of the roots, after as many with one each;
    `largest`, of a side with a matrix.

    **Cost:** 4pq(p + q) flops a step for a p×q matrix, and two eigenvalue decompositions (about 20(p³ + q³) flops) a
    refresh; 2(p² + q²) numbers.

    Vineet Gupta, Tomer Koren and Yoram Singer, *Shampoo: preconditioned stochastic tensor optimization*, 2018,
    algorithm 1. Deviation: entries that are no matrix take AdaGrad's diagonal instead of a full matrix.
    """

    epsilon: float = 1e-4
    refresh: int = eqx.field(static=True, default=10)
    largest: int = eqx.field(static=True, default=2048)

    def __check_init__(self):
        _at_least_one(self)

    def init(self, objective: Objective, theta: Vector) -> tuple[Array, list[_Leaf]]:
        def side(size: int | None) -> _Side | None:
            if size is None:
                return None
            return _Side(jnp.zeros((size, size), theta.dtype), jnp.eye(size, dtype=theta.dtype))

        def leaf(part: Array) -> _Leaf:
            left, right = (side(size) for size in _sides(part.shape, self.largest)) if part.ndim == 2 else (None, None)
            squares = jnp.zeros(part.shape, theta.dtype) if left is None and right is None else None
            return _Leaf(left, right, squares)

        return jnp.int32(0), [leaf(part) for part in matrices(objective, jnp.zeros(theta.shape, theta.dtype))]

    def __call__(
        self,
        lin: Linearisation,
        theta: Vector,
        state: tuple[Array, list[_Leaf]],
        previous: Previous,
        *,
        key: RandomKey,
    ) -> tuple[Line, tuple[Array, list[_Leaf]]]:
        count, leaves = state
        # While the sums are young a root is soon too large for the gradients that come.
        due, steps, kept = (count % self.refresh == 0) | (count < self.refresh), [], []
        for leaf, grad in zip(leaves, matrices(lin.objective, lin.grad), strict=True):
            if leaf.squares is not None:
                squares = leaf.squares + grad**2
                steps.append(-grad / jnp.sqrt(self.epsilon + squares))
                kept.append(_Leaf(None, None, squares))
                continue
            power = -0.25 if leaf.left is not None and leaf.right is not None else -0.5
            left, right = self._side(leaf.left, grad, due, power), self._side(leaf.right, grad.T, due, power)
            step = grad if left is None else _product(left.made, grad)
            steps.append(-step if right is None else -_product(step, right.made))
            kept.append(_Leaf(left, right, None))
        return Line(_flat(steps, theta), lin.grad), (count + 1, kept)

    def _side(self, side: _Side | None, grad: Matrix, due: Array, power: float) -> _Side | None:
        if side is None:
            return None
        total = side.sum + _product(grad, grad.T)

        def root():
            values, vectors = jnp.linalg.eigh(total)
            return _product(vectors * ((self.epsilon + jnp.maximum(values, 0)) ** power)[None, :], vectors.T)

        return _Side(total, lax.cond(due, root, lambda: side.made))


class _Rotated(eqx.Module):
    """Adam's moments of one parameter array, the second in the basis of the sides."""

    first: Array
    second: Array
    left: _Side | None
    right: _Side | None


class SOAP(Direction):
    """Adam in the eigenbasis of Shampoo's matrices: d = −Q_L (M′/(√V + ε)) Q_Rᵀ, M′ = Q_LᵀMQ_R.

    V is the mean square of the rotated gradient Q_LᵀGQ_R. L and R are exponential means with the decay of V. The bases
    are the eigenvectors of the first gradient's L and R, and follow by one step of orthogonal iteration, Q ← qr(LQ),
    every `refresh` steps. Entries that are no matrix take Adam.

    **Cost:** 12pq(p + q) flops a step for a p×q matrix, and about 4(p³ + q³) a refresh; 2(p² + q²) + 2pq numbers.

    Nikhil Vyas, Depen Morwani, Rosie Zhao, Itai Shapira, David Brandfonbrener, Lucas Janson and Sham Kakade, *SOAP:
    improving and stabilizing Shampoo using Adam*, 2024, algorithm 3. Deviation: the first gradient is used for a step
    as well, with bias corrections as in Adam.
    """

    b1: float = 0.95
    b2: float = 0.95
    epsilon: float = 1e-8
    refresh: int = eqx.field(static=True, default=10)
    largest: int = eqx.field(static=True, default=2048)

    def __check_init__(self):
        _at_least_one(self)

    def init(self, objective: Objective, theta: Vector) -> tuple[Array, list[_Rotated]]:
        def side(size: int | None) -> _Side | None:
            if size is None:
                return None
            return _Side(jnp.zeros((size, size), theta.dtype), jnp.eye(size, dtype=theta.dtype))

        def leaf(part: Array) -> _Rotated:
            left, right = (side(size) for size in _sides(part.shape, self.largest)) if part.ndim == 2 else (None, None)
            zeros = jnp.zeros(part.shape, theta.dtype)
            return _Rotated(zeros, zeros, left, right)

        return jnp.int32(0), [leaf(part) for part in matrices(objective, jnp.zeros(theta.shape, theta.dtype))]

    def __call__(
        self,
        lin: Linearisation,
        theta: Vector,
        state: tuple[Array, list[_Rotated]],
        previous: Previous,
        *,
        key: RandomKey,
    ) -> tuple[Line, tuple[Array, list[_Rotated]]]:
        count, leaves = state
        k = (count + 1).astype(theta.dtype)
        steps, kept = [], []
        for leaf, grad in zip(leaves, matrices(lin.objective, lin.grad), strict=True):
            left = self._begun(leaf.left, grad, count)
            right = self._begun(leaf.right, grad.T if grad.ndim == 2 else grad, count)
            first = self.b1 * leaf.first + (1 - self.b1) * grad
            second = self.b2 * leaf.second + (1 - self.b2) * _rotate(left, grad, right) ** 2
            moment = _rotate(left, first, right) / (1 - self.b1**k)
            step = moment / (jnp.sqrt(second / (1 - self.b2**k)) + self.epsilon)
            steps.append(-_rotate(left, step, right, back=True))
            kept.append(_Rotated(first, second, self._turned(left, count), self._turned(right, count)))
        return Line(_flat(steps, theta), lin.grad), (count + 1, kept)

    def _begun(self, side: _Side | None, grad: Array, count: Array) -> _Side | None:
        """The mean with this gradient in it; at the first step, its eigenvectors too."""
        if side is None:
            return None
        outer = _product(grad, grad.T)
        mean = jnp.where(count == 0, outer, self.b2 * side.sum + (1 - self.b2) * outer)
        # From the largest eigenvalue down: orthogonal iteration spoils all columns after one that it maps to zero.
        basis = lax.cond(count == 0, lambda: jnp.linalg.eigh(mean)[1][:, ::-1], lambda: side.made)
        return _Side(mean, basis)

    def _turned(self, side: _Side | None, count: Array) -> _Side | None:
        if side is None:
            return None
        due = (count + 1) % self.refresh == 0
        turn = lambda: jnp.linalg.qr(_product(side.sum, side.made))[0]
        return _Side(side.sum, lax.cond(due, turn, lambda: side.made))


def _rotate(left: _Side | None, matrix: Array, right: _Side | None, *, back: bool = False) -> Array:
    """QᴸᵀMQᴿ, or Qᴸ M Qᴿᵀ."""
    if left is not None:
        matrix = _product(left.made if back else left.made.T, matrix)
    if right is not None:
        matrix = _product(matrix, right.made.T if back else right.made)
    return matrix


def _product(a: Matrix, b: Float[Array, "n k"]) -> Float[Array, "m k"]:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _at_least_one(direction) -> None:
    for name in ("refresh", "largest"):
        if getattr(direction, name) < 1:
            raise ValueError(
                f"{type(direction).__name__}: {name} is {getattr(direction, name)}, but must be at least 1."
            )
