"""A term with its points: what an objective sums over, in blocks and over devices."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, PartitionSpec

from ravine._types import Any, Array, Float, Matrix, Model, PyTree, Scalar, Vector
from ravine.blocks import automatic, block_map, block_sum, cut, footprint, share_out, whole_multiple
from ravine.constraints import plain
from ravine.layout import Layout
from ravine.linalg import one_by_one_eigh, product_of_rows
from ravine.terms import Term, squared

# Bytes of Jacobian rows that are held at once for a Gramian, and for a kernel, where two blocks of rows meet.
HELD, HELD_FOR_KERNEL = 2**28, 2**30


@eqx.filter_jit(inline=True)  # pyright: ignore[reportCallIssue]  (its overloads leave out what it passes on)
def _features(features: Callable, model: Model, point: PyTree) -> PyTree:
    """F at one point; traced once for all the transformations of it that a step is made of."""
    return jax.tree.map(jnp.asarray, features(model, point))


class Piece(eqx.Module):
    """A term with its points and their weights v_i/m: what is looped over.

    `make(theta)` is the model. Rows are *whitened*: scaled by √(w v φ″/m), so that JᵀJ is the Gauss–Newton matrix.
    """

    term: Term
    points: PyTree
    weights: Array  # v_i / m, or v_i when the points came weighted
    static: PyTree
    layout: Layout = eqx.field(static=True)
    block: int | None = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True)

    def make(self, parts: tuple[Array, ...]) -> Model:
        """The model whose parameters lie in `parts`, as `Layout.split` gives them."""
        return plain(eqx.combine(self.layout.join(parts), self.static))

    @property
    def count(self) -> int:
        """How many points there are (one for a term that sees the whole batch)."""
        return self.weights.shape[0]

    def features(self, model: Model, point: PyTree) -> PyTree:
        """F at one point."""
        return _features(self.term.features, model, point)

    def loss(self, model: Model, point: PyTree) -> Scalar:
        """φ at one point. **Raises:** `ValueError` when it is not a scalar."""
        value = self.term.loss(self.features(model, point), point)
        if jnp.shape(value) != ():
            raise ValueError(
                f"The loss of the term {self.term.name!r} must be a scalar at one point, but has shape "
                f"{jnp.shape(value)}. Sum or average over the features."
            )
        return value

    # -------------------------------------------------------------------------- sums and rows, blocked over points

    def sum(self, theta: Vector, points, weights) -> Scalar:
        """Σ v_i φ_i over a block (without the term's weight)."""
        model = self.make(self.layout.split(theta))
        if self.term.whole:
            return self.loss(model, points)
        return jnp.sum(weights * jax.vmap(lambda point: self.loss(model, point))(points))

    def value(self, theta: Vector) -> Scalar:
        """Σ v_i φ_i. The checkpoint keeps reverse mode through it (a user's `jax.grad`) in bounded memory too."""
        return self.reduce(jax.checkpoint(lambda *args: self.sum(*args)), theta)

    def reduce(self, function, *args, extra: PyTree = None, block: int | None = None):
        """Σ over blocks of `function(*args, points, weights)`, each device summing its own share of the points.

        With `extra`, arrays that are cut along the points, `function` gets `(weights, extra)` in place of the weights.
        """
        if self.term.whole:
            return function(*args, self.points, self.weights if extra is None else (self.weights, extra))

        def share(args, points, weights):
            points, *others = points

            def one(points_and_more, weights):
                points, *others = points_and_more
                return function(*args, points, (weights, *others) if others else weights)

            return block_sum(one, (points, *others), weights, self._blocks(weights, each, block))

        points, each = (self.points,) if extra is None else (self.points, extra), self._footprint()
        if self.mesh is None:
            return share(args, points, self.weights)
        return share_out(self.mesh, share, args, points, self.weights, total=True, each=each)

    def map(self, function):
        """`function(points, weights)` on every block, put together along the leading axis."""
        if self.term.whole:
            return function(self.points, self.weights)

        def share(_, points, weights):
            return block_map(function, points, weights, self._blocks(weights, each))

        each = self._footprint()
        if self.mesh is None:
            return share((), self.points, self.weights)
        out = share_out(self.mesh, share, (), self.points, self.weights, total=False, each=each)
        padded = whole_multiple(self.count, self.mesh.size)
        return jax.tree.map(lambda leaf: leaf[: self.count * (leaf.shape[0] // padded)], out)

    def _blocks(self, weights, each: int, most: int | None = None) -> int:
        chosen = automatic(weights.shape[0], each) if self.block is None else self.block
        return chosen if most is None else max(1, min(chosen, most))

    def _footprint(self) -> int:
        """Bytes of the values on the way to the features of one point; 0 where nothing depends on them. A trace."""
        if self.block is not None and self.mesh is None:
            return 0
        shape = lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        theta = jax.ShapeDtypeStruct((self.layout.size,), self.layout.dtype)
        return footprint(self.flat, jax.eval_shape(self.layout.split, theta), jax.tree.map(shape, self.points))

    # --------------------------------------------------------------------------------------------- whitened rows

    def flat(self, parts: tuple[Array, ...], point) -> Float[Array, "q"]:
        """The features at one point, as one vector."""
        return ravel_pytree(self.features(self.make(parts), point))[0].astype(self.layout.dtype)

    def width(self, theta: Vector) -> int:
        """q: how many features there are at a point."""
        one = self.points if self.term.whole else jax.tree.map(lambda leaf: leaf[0], self.points)
        return jax.eval_shape(lambda parts: self.flat(parts, one), self.layout.split(theta)).shape[0]

    def whitener(self, parts: tuple[Array, ...], point):
        """C with C Cᵀ = φ″(F), as a function F-tangent -> rows, at given parameters. For ½‖F‖² it is the identity."""
        if self.term.loss is squared:
            return lambda tangent: tangent
        features, unflatten = ravel_pytree(self.features(self.make(parts), point))
        hessian = jax.hessian(lambda flat: self.term.loss(unflatten(flat), point))(features).astype(self.layout.dtype)
        if features.size == 1:
            return lambda tangent: jnp.sqrt(jnp.maximum(hessian, 0)) @ tangent
        # The symmetric root: eigenvectors alone are free in sign and, where eigenvalues repeat, in rotation, so that
        # two products of one J would differ. What is rounding beside the largest eigenvalue (its root is not!) is zero.
        values, vectors = one_by_one_eigh(hessian)
        least = features.size * jnp.finfo(values.dtype).eps * values[-1]
        root = (vectors * jnp.sqrt(jnp.where(values > least, values, 0))[None, :]) @ vectors.T
        return lambda tangent: root @ tangent

    def rows(self, theta: Vector):
        """θ' ↦ whitened features, linear in the features and frozen at `theta` but for them, for one block."""
        scale, here = jnp.sqrt(self.term.weight), self.layout.split(theta)

        def block(at: Vector, points, weights) -> Array:
            there = self.layout.split(at)
            if self.term.whole:
                return scale * self.whitener(here, points)(self.flat(there, points))

            def one(point, weight):
                return jnp.sqrt(jnp.maximum(weight, 0)) * self.whitener(here, point)(self.flat(there, point))

            return scale * jax.vmap(one)(points, weights).reshape(-1)

        return block

    def jacobian(self, theta: Vector):
        """The rows of the whitened Jacobian for one block, assembled point by point."""
        parts = self.layout.split(theta)
        rows = self.width(theta)
        # Reverse mode costs one pass a row, forward mode one a parameter.
        differentiate = jax.jacrev if rows <= theta.shape[0] else jax.jacfwd

        def one(point, weight) -> tuple[Array, ...]:
            scale = jnp.sqrt(self.term.weight * jnp.maximum(weight, 0))  # sparse quadrature has negative ones
            found = differentiate(lambda parts: self.flat(parts, point))(parts)
            flat = [part.reshape(rows, -1) for part in found]
            if self.term.loss is not squared:
                white = jax.vmap(self.whitener(parts, point), in_axes=1, out_axes=1)
                flat = [white(part) for part in flat]
            return tuple(scale * part for part in flat)

        def block(points, weights) -> Matrix:
            if self.term.whole:
                return jnp.concatenate(one(points, weights[0]), axis=1)
            found = jax.vmap(one)(points, weights)  # (points, q, n_k) a part
            return jnp.concatenate([part.reshape(-1, part.shape[2]) for part in found], axis=1)

        return block

    def held(self, theta: Vector, most: int = HELD) -> int:
        """How many points' rows fit into `most` bytes, over all devices of the mesh."""
        devices = 1 if self.mesh is None else self.mesh.size
        return max(1, most // (devices * self.width(theta) * theta.shape[0] * theta.dtype.itemsize))

    def row_blocks(self, theta: Vector, most: int) -> tuple[Callable[[Any], Matrix], int, int]:
        """Blocks of rows of the Jacobian, each below `most` bytes: `(number -> rows, how many, rows in all)`.

        The last block is filled up with rows of zeros.
        """
        rows, width = self.jacobian(theta), self.width(theta)
        if self.term.whole:
            return lambda number: rows(self.points, self.weights), 1, width
        blocks, each = cut(self.points, self.weights, min(self.count, self.held(theta, most))), self._footprint()

        def one(number) -> Matrix:
            points, weights = jax.tree.map(lambda leaf: leaf[number], blocks)
            return block_map(rows, points, weights, self._blocks(weights, each))

        return one, blocks[1].shape[0], self.count * width


def blocked_kernel(
    pieces: list[Piece], theta: Vector, mesh: Mesh | None, *, most: int = HELD_FOR_KERNEL
) -> Float[Array, "m m"]:
    """JJᵀ without J: every pair of blocks of rows is multiplied once, and the rows are computed anew for it.

    **Cost:** m²n flops, and half as many Jacobians as there are blocks; memory for the result and two to four blocks.
    The pairs are shared out over the devices of the mesh.
    """

    def all_pairs(device, devices):
        parts, at = [], theta
        for i, left in enumerate(pieces):
            for right in pieces[: i + 1]:
                parts.append(_pairs(left, right, at, most, device, devices, same=right is left))
                # One after the other: nothing else keeps XLA from making the rows of all pairs before it needs them.
                at = theta + 0 * parts[-1][0, 0]
        return parts

    if mesh is None:
        parts = all_pairs(0, 1)
    else:
        axis = mesh.axis_names[0]

        def share(_):
            return lax.psum(all_pairs(lax.axis_index(axis), mesh.size), axis)

        spread = jax.shard_map(share, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), check_vma=False)
        parts = spread(theta)
    parts = iter(parts)
    below = [[next(parts) for _ in range(i + 1)] for i in range(len(pieces))]
    order = range(len(pieces))
    return jnp.block([[below[i][j] if j <= i else below[j][i].T for j in order] for i in order])


def _pairs(
    left: Piece, right: Piece, theta: Vector, most: int, device, devices: int, *, same: bool
) -> Float[Array, "m k"]:
    """The block of JJᵀ between the rows of two pieces, as far as it is this device's to compute; zero elsewhere."""
    (rows, number, m), (others, count, k) = left.row_blocks(theta, most), right.row_blocks(theta, most)

    def strip(i):
        # Boustrophedon, so that the long strips at the bottom of the triangle are shared out evenly.
        turn = i % (2 * devices)
        mine = (turn == device) | (turn == 2 * devices - 1 - device)
        shapes = jax.eval_shape(rows, i).shape[0], jax.eval_shape(others, i).shape[0]
        nothing = lambda *_: jnp.zeros(shapes, theta.dtype)

        def work():
            block = rows(i)
            product = lambda j: product_of_rows(block, others(j))
            return lax.map(lambda j: lax.cond(j <= i, product, nothing, j) if same else product(j), jnp.arange(count))

        return lax.cond(mine, work, lambda: jnp.zeros((count, *shapes), theta.dtype))

    found = lax.map(strip, jnp.arange(number))  # (number, count, rows, others)
    whole = jnp.swapaxes(found, 1, 2).reshape(found.shape[0] * found.shape[2], -1)[:m, :k]
    return jnp.tril(whole) + jnp.tril(whole, -1).T if same else whole
