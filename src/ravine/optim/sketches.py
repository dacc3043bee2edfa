"""Sketches of a Jacobian, block by block: a cosine transform from the right, count sketches from the left."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Int, Matrix, RandomKey, Vector
from ravine.linalg import gram
from ravine.objective import Linearisation
from ravine.pieces import Piece

HASHES = 4  # entries of each column of the count sketch
BLOCK, WAVES = 256, 8  # entries of a block of the cosine transform, and columns of it, at least


class Cosine(eqx.Module):
    """P = D Π C, a randomised cosine transform: random signs, a permutation, and `size` columns of DCT-II.

    The DCT is one of blocks: of the whole vector only where that is short, else of `BLOCK` entries or of as many as it
    takes for every block to give `WAVES` columns, its lowest. That makes it a product of matrices, several times faster
    than a fast transform of the whole, and linear in n. PᵀP = I, so that ‖P y‖ = ‖y‖.

    **Cost:** 2·size·`BLOCK` or 2·`WAVES`·n flops a row, whichever is more.
    """

    signs: Vector
    order: Int[Array, "n"]
    size: int = eqx.field(static=True)

    @staticmethod
    def draw(size: int, count: int, key: RandomKey, dtype) -> "Cosine":
        """For vectors of `count` numbers."""
        first, second = jax.random.split(key)
        signs = jax.random.rademacher(first, (count,), jnp.int32).astype(dtype)
        return Cosine(signs, jax.random.permutation(second, count), size)

    def shrink(self, rows: Float[Array, "*m n"]) -> Float[Array, "*m s"]:
        """A P, or Pᵀv of one vector."""
        mixed = (rows * jnp.broadcast_to(self.signs, rows.shape))[..., self.order]
        found, start = [], 0
        for blocks, waves in self._blocks(rows.dtype):
            stop = start + blocks * waves.shape[1]
            found.append(mixed[..., start:stop].reshape(*rows.shape[:-1], blocks, -1) @ waves.T)
            start = stop
        # The lowest waves of all blocks come first.
        by_wave = jnp.swapaxes(jnp.concatenate(found, axis=-2), -1, -2)
        return by_wave.reshape(*rows.shape[:-1], -1)[..., : self.size]

    def expand(self, y: Float[Array, "s"]) -> Vector:
        """P y."""
        groups = self._blocks(y.dtype)
        total, waves = sum(blocks for blocks, _ in groups), groups[0][1].shape[0]
        parts = jnp.pad(y, (0, total * waves - self.size)).reshape(waves, total).T
        found, start = [], 0
        for blocks, waves in groups:
            found.append((parts[start : start + blocks] @ waves).reshape(-1))
            start += blocks
        mixed = jnp.concatenate(found)
        return jnp.zeros_like(mixed).at[self.order].set(mixed) * self.signs

    def _blocks(self, dtype) -> list[tuple[int, Float[Array, "waves length"]]]:
        """How many blocks there are of each of at most two lengths, the longer first, and the waves kept of each."""
        n = self.order.shape[0]
        count = max(1, n // max(BLOCK, -(-WAVES * n // self.size)))
        length, longer = divmod(n, count)
        waves = -(-self.size // count)
        groups = ((longer, length + 1), (count - longer, length))
        return [(blocks, _waves(waves, length, dtype)) for blocks, length in groups if blocks]


def _waves(count: int, length: int, dtype) -> Float[Array, "waves length"]:
    """The first rows of the orthonormal DCT-II, √(2/n) cos(π(j + ½)k/n), and zeros where there are no more."""
    k, j = jnp.arange(count, dtype=dtype)[:, None], jnp.arange(length, dtype=dtype)[None, :]
    angle = jnp.pi / length * (k * (j + 0.5))
    scale = jnp.sqrt(jnp.where(k == 0, 1, 2) / length).astype(dtype)
    return jnp.where(k < length, scale * jnp.cos(angle), 0)


class Whole(eqx.Module):
    """No sketch."""

    def shrink(self, rows: Array) -> Array:
        """As it is."""
        return rows

    def expand(self, y: Vector) -> Vector:
        """As it is."""
        return y


def sketched_rows(
    lin: Linearisation, right: Cosine | Whole, size: int, rows: int, key: RandomKey
) -> Float[Array, "r s"]:
    """L J P for a count sketch L: each row of J enters `HASHES` of the `rows` rows of the result, by random signs.

    J is made and used up block by block. **Cost:** one Jacobian, and for each row of it that of `right` and
    2·`HASHES`·`size` flops; memory for the result and one block.

    Kenneth Clarkson and David Woodruff, *Low-rank approximation and regression in input sparsity time*, 2013; with
    several hashes, Daniel Kane and Jelani Nelson, *Sparser Johnson–Lindenstrauss transforms*, 2014.
    """
    total = jnp.zeros((rows, size), lin.theta.dtype)
    for number, piece in enumerate(lin.objective.pieces(lin.batch)):
        shape = (piece.count, piece.width(lin.theta), HASHES)
        first, second = jax.random.split(jax.random.fold_in(key, number))
        bins = jax.random.randint(first, shape, 0, rows)
        signs = jax.random.rademacher(second, shape, jnp.int32).astype(total.dtype) / HASHES**0.5
        block = piece.jacobian(lin.theta)

        def scatter(points, weights_and_hashes, block=block):
            weights, (bins, signs) = weights_and_hashes
            short = right.shrink(block(points, weights))
            bins, signs = bins.reshape(-1, HASHES), signs.reshape(-1, HASHES)
            found = jnp.zeros((rows, size), short.dtype)
            for hash in range(HASHES):
                found = found.at[bins[:, hash]].add(signs[:, hash, None] * short)
            return found

        total = total + piece.reduce(scatter, extra=(bins, signs), block=piece.held(lin.theta))
    return total


def short_rows(lin: Linearisation, right: Cosine | Whole) -> Matrix:
    """J P."""
    parts = []
    for piece in _bounded(lin):
        block = piece.jacobian(lin.theta)
        parts.append(piece.map(lambda points, weights, block=block: right.shrink(block(points, weights))))
    return jnp.concatenate(parts)


def short_gram(lin: Linearisation, right: Cosine | Whole) -> Matrix:
    """PᵀJᵀJP."""
    parts = []
    for piece in lin.objective.pieces(lin.batch):
        block = piece.jacobian(lin.theta)
        product = lambda points, weights, block=block: gram(right.shrink(block(points, weights)))
        parts.append(piece.reduce(product, block=piece.held(lin.theta)))
    return jnp.sum(jnp.stack(parts), axis=0) if len(parts) > 1 else parts[0]


def _bounded(lin: Linearisation) -> list[Piece]:
    """The pieces, in blocks whose rows are not too many to be held."""
    pieces = lin.objective.pieces(lin.batch)
    blocks = [piece._blocks(piece.weights, piece._footprint(), piece.held(lin.theta)) for piece in pieces]
    return [dataclasses.replace(piece, block=block) for piece, block in zip(pieces, blocks, strict=True)]
