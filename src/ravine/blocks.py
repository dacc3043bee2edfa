"""How a computation over points is laid out: in blocks, so that memory stays bounded, and over devices.

Whatever runs over points runs on every device, each on its share (`share_out`). Whatever is dense and has no points,
such as a Cholesky factor, runs on the first device alone (`on_first`), which then has all the cores: two devices of one
machine that did the same factorisation side by side would take twice the time. A matrix that is only multiplied by
vectors is read by every device, each its share of the rows (`SharedRows`).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ravine._types import Array, PyTree
from ravine.hardware import cores

# All points of a device are evaluated at once where their values take less than WHOLE bytes by `footprint`; else blocks
# of BLOCK bytes, but of 200 points where these take less than LARGE, and of 10 in any case. A block costs an iteration
# of a loop, few points make small products, many values leave the cache. Measured on two cores with 2 MiB of cache
# each, time of a gradient in such blocks to that of all points at once: burgers (40 MB a device) 0.65,
# kuramoto_sivashinsky (31 MB) 0.8, poisson5d (100 MB) 0.65, poisson10d (140 MB) 0.7, poisson100d (270 MB) 0.75, cavity
# (130 MB) 1.0; but poisson2d (14 MB) and allen_cahn (16 MB) 1.2, however many blocks. darcy_operator: 5 points of 43 MB
# are 0.85 times as fast as 10, one is 0.4 times as fast.
WHOLE, BLOCK, LARGE = 24 * 2**20, 8 * 2**20, 64 * 2**20
FEWEST = 200, 10
# Where the values of a device's points take more than LONG bytes by `footprint`, see `_on_the_pool`. Measured on two
# cores, time of a single gradient of burgers to that without: 6,000 points (90 MB a device) 0.9, 10,000 points 0.8,
# 25,000 points 0.75; 4,000 points 1.05.
LONG = 80 * 2**20
# Bytes that the values of one block may take in any case, on one device: a gradient holds about three times as much.
ROOM = 2**29


def automatic(count: int, each: int) -> int:
    """How many of `count` points to evaluate at once, when each takes `each` bytes by `footprint`.

    ```python
    >>> from ravine.blocks import automatic
    >>> [automatic(5_000, each) for each in (1_000, 20_000, 100_000, 1_000_000, 10_000_000, 100_000_000)]
    [5000, 419, 200, 67, 10, 5]

    ```
    """
    each = max(each, 1)
    few, fewer = FEWEST
    block = count if count * each <= WHOLE else max(BLOCK // each, min(few, LARGE // each), fewer)
    return max(1, min(block, count, ROOM // each))


def footprint(function: Callable, shared: PyTree, point: PyTree) -> int:
    """Bytes of all values between a point and `function(shared, point)`: about what reverse mode keeps of them.

    What depends on `shared` alone is not counted, as it is there once for all points; a loop of unknown length counts
    as one turn. **Cost:** a trace.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.blocks import footprint
    >>> footprint(lambda a, x: jnp.sin((a.T + a) @ x), jnp.eye(3), jnp.ones(3)) // jnp.ones(3).nbytes
    2

    ```
    """
    closed = jax.make_jaxpr(function)(shared, point)
    own = len(jax.tree.leaves(point))
    return _values(closed.jaxpr, [False] * (len(closed.jaxpr.invars) - own) + [True] * own)[0]


def _values(jaxpr: Jaxpr, varies: list[bool]) -> tuple[int, list[bool]]:
    """Bytes of the values that depend on the inputs that vary, and which of the results do."""
    varying = {var for var, whether in zip(jaxpr.invars, varies, strict=True) if whether}
    depends = lambda atom: not isinstance(atom, Literal) and atom in varying
    total = 0
    for eqn in jaxpr.eqns:
        which = [depends(atom) for atom in eqn.invars]
        if not any(which):
            continue
        size = sum(bytes_of(var.aval) for var in eqn.outvars)
        within = [inner for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr) if _is_jaxpr(inner)]
        results = [True] * len(eqn.outvars)
        # Of a function that has a rule for its derivative, reverse mode keeps what the rule reads, not what is inside.
        if within and eqn.primitive.name != "custom_jvp_call":
            bodies = [inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner for inner in within]
            turns = eqn.params["length"] if eqn.primitive.name == "scan" else 1
            fits = len(bodies) == 1 and len(bodies[0].invars) == len(which)
            found = [_values(body, which if fits else [True] * len(body.invars)) for body in bodies]
            size = turns * max(bytes_ for bytes_, _ in found)
            if fits and turns == 1 and len(found[0][1]) == len(results):
                results = found[0][1]
        total += size
        varying |= {var for var, whether in zip(eqn.outvars, results, strict=True) if whether}
    return total, [depends(atom) for atom in jaxpr.outvars]


def bytes_of(aval: Any) -> int:
    """Bytes of an array with this shape and type; of a random key, those of two words."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0
    size = 8 if jnp.issubdtype(dtype, jax.dtypes.extended) else dtype.itemsize
    return math.prod(aval.shape) * size


def _is_jaxpr(value) -> bool:
    return isinstance(value, (Jaxpr, ClosedJaxpr))


def whole_multiple(count: int, unit: int) -> int:
    """The least multiple of `unit` that is not below `count`."""
    return math.ceil(count / unit) * unit


def pad(points_and_weights: tuple[PyTree, Any], count: int) -> tuple[PyTree, Any]:
    """Padded to `count` points: the last point again, with weight zero."""
    points, weights = points_and_weights

    def longer(leaf, mode):
        return jnp.pad(leaf, [(0, count - leaf.shape[0])] + [(0, 0)] * (leaf.ndim - 1), mode=mode)

    return jax.tree.map(lambda leaf: longer(leaf, "edge"), points), longer(weights, "constant")


def cut(points: PyTree, weights, block: int):
    """Points and weights with axes (blocks, points in a block, …), in as few and as equal blocks as `block` allows."""
    number = math.ceil(weights.shape[0] / block)
    size = math.ceil(weights.shape[0] / number)
    padded = pad((points, weights), number * size)
    return jax.tree.map(lambda leaf: leaf.reshape(number, size, *leaf.shape[1:]), padded)


def block_sum(function: Callable, points: PyTree, weights, block: int) -> PyTree:
    """Σ of `function(points, weights)` over blocks."""
    if block >= weights.shape[0]:
        return function(points, weights)
    blocks = cut(points, weights, block)
    first = jax.eval_shape(function, *jax.tree.map(lambda leaf: leaf[0], blocks))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)

    def add(total, one):
        return jax.tree.map(jnp.add, total, function(*one)), None

    return lax.scan(add, zero, blocks)[0]


def block_map(function: Callable, points: PyTree, weights, block: int) -> PyTree:
    """`function(points, weights)` over blocks, joined along the leading axis."""
    if block >= weights.shape[0]:
        return function(points, weights)
    blocks = cut(points, weights, block)
    size, count = blocks[1].shape[1], weights.shape[0]
    out = lax.map(lambda one: function(*one), blocks)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[: count * (leaf.shape[1] // size)], out)


def share_out(
    mesh: Mesh, function: Callable, args: PyTree, points: PyTree, weights, *, total: bool, each: int = 0
) -> PyTree:
    """`function(args, points, weights)` on each device's share of the points, when each takes `each` bytes.

    With `total`, the sum over devices, the only communication; else the results, put together along the leading axis
    and still padded.
    """
    axis = mesh.axis_names[0]
    points, weights = pad((points, weights), whole_multiple(weights.shape[0], mesh.size))
    whole, rows = PartitionSpec(), PartitionSpec(axis)
    cpus = [device for device in mesh.local_devices if device.platform == "cpu"]
    long = 0 < len(cpus) <= cores() and weights.shape[0] * each > LONG * mesh.size

    def share(args, points, weights):
        points = _on_the_pool(points) if long else points
        found = function(args, points, weights)
        return lax.psum(found, axis) if total else found

    spread = jax.shard_map(
        share,
        mesh=mesh,
        in_specs=(whole, rows, rows),
        out_specs=whole if total else rows,
        check_vma=False,
    )
    return spread(args, points, weights)


def _on_the_pool(points: PyTree) -> PyTree:
    """The same points, after a product that no device does by itself.

    XLA begins a program on a thread for each CPU device, and lets the cores' pool of threads help with what is large;
    twice as many threads as cores then wait for each other, until an operation happens to end on the pool, where the
    program goes on. A large product of integers always ends there, within 0.2 ms. It depends on the points alone, so
    that it stays outside of loops in which these do not change. Not for more devices than cores: on the pool, one that
    waits in a sum would keep another from ever coming to it.
    """
    leaves, treedef = jax.tree.flatten(points)
    real = [place for place, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    if not real or not leaves[real[0]].size:
        return points
    leaf, side = leaves[real[0]], 176
    row, column = (lax.broadcasted_iota(jnp.int32, (side, side), axis) for axis in (0, 1))
    matrix = row * column % 128 + jnp.isnan(leaf.reshape(-1)[0]).astype(jnp.int32)
    # Nothing in it is negative, which the compiler does not know.
    leaves[real[0]] = jnp.where(lax.dot(matrix, matrix)[0, 0] < 0, jnp.nan, leaf)
    return jax.tree.unflatten(treedef, leaves)


class SharedRows(eqx.Module):
    """A matrix in a state, of which each device holds, and works on, its share of the rows.

    For one that is read more than it is computed with: each device reads its share from memory. All other arrays of a
    state are copied to every device, and this one too where the number of rows is no multiple of theirs, or several
    processes run, each of which writes whole checkpoints.
    """

    matrix: Array

    def shared(self, mesh: Mesh | None) -> bool:
        """Whether the devices of this mesh hold shares of it."""
        return mesh is not None and not (self.matrix.shape[0] % mesh.size or mesh.is_multi_process)


def place(mesh: Mesh, tree: PyTree, put: Callable[[Array, NamedSharding], Array]) -> PyTree:
    """Every array of the tree where it belongs on the mesh, by `put(array, sharding)`."""

    def one(leaf):
        if isinstance(leaf, SharedRows):
            spec = PartitionSpec(mesh.axis_names[0]) if leaf.shared(mesh) else PartitionSpec()
            return SharedRows(put(leaf.matrix, NamedSharding(mesh, spec)))
        return put(leaf, NamedSharding(mesh, PartitionSpec())) if isinstance(leaf, jax.Array) else leaf

    return jax.tree.map(one, tree, is_leaf=lambda leaf: isinstance(leaf, SharedRows))


def everywhere(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Inside `jit`: tells the compiler that every device holds all of each array, but of `SharedRows` its share."""
    return tree if mesh is None else place(mesh, tree, lax.with_sharding_constraint)


def on_rows(mesh: Mesh | None, function: Callable, rows: SharedRows, *args: PyTree) -> tuple[SharedRows, PyTree]:
    """`(share, told) = function(share, first, total, *args)` on each device's share of the rows, from number `first`.

    `total(x)` is the sum of x over devices; what is told must be the same everywhere. Left to itself, the compiler
    shares vectors out too, and communicates all the time.

    A device that waits in a sum keeps a thread of a pool that all devices share, of as many as there are cores. Two
    communications of which neither needs the other's result may begin in either order on each device: then all threads
    wait, each for another one, for ever. So what is added up must follow (`after`) from what was communicated before.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.blocks import SharedRows, on_rows
    >>> _, x = on_rows(None, lambda a, first, total, b: (a, total(b @ a)), SharedRows(2 * jnp.eye(2)), jnp.ones(2))
    >>> x.tolist()
    [2.0, 2.0]

    ```
    """
    if mesh is None or not rows.shared(mesh):
        share, told = function(rows.matrix, 0, lambda x: x, *args)
        return SharedRows(share), told
    axis, size = mesh.axis_names[0], rows.matrix.shape[0] // mesh.size

    def local(share, args):
        return function(share, lax.axis_index(axis) * size, lambda x: lax.psum(x, axis), *args)

    whole, own = PartitionSpec(), PartitionSpec(axis)
    spread = jax.shard_map(local, mesh=mesh, in_specs=(own, whole), out_specs=(own, whole), check_vma=False)
    share, told = spread(rows.matrix, args)
    return SharedRows(share), told


def after(first: Array, x: Array) -> Array:
    """x, unless `first`, of the same shape, is NaN: a value that no device has before it has `first`.

    `lax.optimization_barrier` would say so to the compiler alone, which is free to run both at once in the end.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.blocks import after
    >>> after(jnp.array([1.0, jnp.nan]), jnp.array([2.0, 2.0])).tolist()
    [2.0, nan]

    ```
    """
    return jnp.where(jnp.isnan(first), first, x)


def on_first(mesh: Mesh | None, function: Callable, kept: PyTree, *args: PyTree) -> tuple[PyTree, PyTree]:
    """`(kept, told) = function(kept, *args)` on the first device of the mesh alone.

    The arrays in `told` are sent to all devices: let them be small. Those in `kept` stay where they are: only the first
    device's copy is up to date, and only `on_first` may use it. So a large matrix is neither worked on twice nor sent
    about.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.blocks import on_first
    >>> factor, x = on_first(None, lambda a, b: (2 * a, a @ b), jnp.eye(2), jnp.ones(2))
    >>> x.tolist()
    [1.0, 1.0]

    ```
    """
    if mesh is None:
        return function(kept, *args)
    axis = mesh.axis_names[0]

    def local(kept, args):
        _, told = jax.eval_shape(function, kept, *args)
        silent = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), told)
        kept, told = lax.cond(lax.axis_index(axis) == 0, lambda: function(kept, *args), lambda: (kept, silent))
        return kept, jax.tree.map(functools.partial(_sum, axis), told)

    whole = PartitionSpec()
    spread = jax.shard_map(local, mesh=mesh, in_specs=whole, out_specs=whole, check_vma=False)
    return spread(kept, args)


def _sum(axis: str, leaf):
    """The sum over devices, of truth values too."""
    if leaf.dtype == jnp.bool_:
        return lax.psum(leaf.astype(jnp.int32), axis) > 0
    return lax.psum(leaf, axis)
