"""Block coordinates: any direction, in some of the parameters at a time."""

import dataclasses
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Bool

from ravine._results import Work
from ravine._types import Array, Callable, Count, Float, Int, Model, PyTree, RandomKey, Scalar, Vector
from ravine.layout import Layout
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Iterative, Previous

By = Literal["layer", "leaf"]


def blocks_of(layout: Layout, by: By = "layer") -> tuple[int, ...]:
    """The number of the block that each leaf of the parameters belongs to, counted in the order of first leaves.

    By "leaf", each is a block. By "layer", leaves belong together whose places in the model differ in their last name
    only: `weights[0]` and `biases[0]`, `layers[0].weight` and `layers[0].bias`, `["dense"]["kernel"]` and
    `["dense"]["bias"]`. A leaf of which nothing else is known than a name is a block.

    ```python
    >>> import jax, ravine as rv
    >>> from ravine.optim.block_coordinate import blocks_of
    >>> model = rv.models.MLP(2, 1, width=3, depth=1, key=jax.random.key(0))
    >>> objective, _ = rv.Objective.from_terms([rv.supervised("data")], model)
    >>> blocks_of(objective.layout)  # weights, then biases
    (0, 1, 0, 1)

    ```
    """
    numbered = jax.tree.unflatten(layout.treedef, range(layout.treedef.num_leaves))
    places = [path for path, _ in jax.tree_util.tree_leaves_with_path(numbered)]
    found: dict[Any, int] = {}
    return tuple(found.setdefault(_place(path, by) or path, len(found)) for path in places)


def _place(path: tuple[Any, ...], by: By) -> tuple[Any, ...]:
    """Without its last name."""
    if by == "leaf":
        return path
    named = [i for i, entry in enumerate(path) if not isinstance(entry, jax.tree_util.SequenceKey)]
    return path[: named[-1]] + path[named[-1] + 1 :] if named else path


class _Memory(eqx.Module):
    """What the blocks know. They share the vectors of their last steps, since each has entries of its own."""

    inner: PyTree  # with a leading axis of blocks
    s: Vector
    y: Vector
    grad: Vector
    t: Float[Array, "blocks"]
    failed: Bool[Array, "blocks"]
    count: Int[Array, "blocks"]
    rows: Int[Array, "blocks"]
    step: Count


class BlockCoordinate(Direction):
    """The path of `inner` for the loss as a function of one block of parameters, the blocks by turns.

    All else is held: gradient, Jacobian, and whatever the inner direction asks of the linearisation are those of the
    block, so that any direction can be within. Each block keeps the memory of its own steps, and meets it again at its
    next turn.

    **Arguments:**

    - `by`: what a block is; see `blocks_of`.
    - `repeat`: steps in one block before its turn is over.

    **Cost:** that of the inner direction on all parameters (what belongs to other blocks is computed as zero), and its
    memory once for each block.

    Dimitri Bertsekas, *Nonlinear Programming*, 1999, section 2.7; Stephen Wright, *Coordinate descent algorithms*,
    2015, algorithm 1 with cyclic choice.
    """

    inner: Direction
    by: By = eqx.field(static=True, default="layer")
    repeat: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if self.by not in ("layer", "leaf") or self.repeat < 1:
            raise ValueError(
                f"BlockCoordinate: by is {self.by!r} and repeat {self.repeat}, but by must be 'layer' or 'leaf', and "
                "repeat at least 1."
            )

    def init(self, objective: Objective, theta: Vector) -> _Memory:
        count = 1 + max(blocks_of(objective.layout, self.by))
        inner = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), self.inner.init(objective, theta))
        zero, none = jnp.zeros_like(theta), jnp.zeros(count, jnp.int32)
        return _Memory(
            inner, zero, zero, zero, jnp.zeros(count, theta.dtype), jnp.zeros(count, bool), none, none, jnp.int32(0)
        )

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Memory, previous: Previous, *, key: RandomKey
    ) -> tuple["Within", _Memory]:
        blocks = blocks_of(lin.objective.layout, self.by)
        place, count = _entries(lin.objective.layout, blocks), 1 + max(blocks)
        state = _remember(state, place, ((state.step - 1) // self.repeat) % count, previous)
        block = (state.step // self.repeat) % count
        mask = place == block.astype(place.dtype)
        only = lambda vector: jnp.where(mask, vector, 0)
        gradients = previous.y is not None
        known = Previous(
            only(state.s),
            only(state.y) if gradients else None,
            only(state.grad) if gradients else None,
            state.t[block],
            state.failed[block],
            state.count[block],
            state.rows[block],
        )
        objective = _held(lin.objective, tuple(block == number for number in blocks))
        inside = objective.linearise(theta, lin.batch, value=lin.value, grad=only(lin.grad))
        own = jax.tree.map(lambda leaf: leaf[block], state.inner)
        path, own = self.inner(inside, theta, own, known, key=key)
        inner = jax.tree.map(lambda kept, new: kept.at[block].set(new), state.inner, own)
        return Within(path, mask), dataclasses.replace(state, inner=inner, step=state.step + 1)


def _remember(state: _Memory, place: Vector, block: Array, previous: Previous) -> _Memory:
    """The last step, kept for the block that made it."""
    made = state.step > 0
    mask = (place == block.astype(place.dtype)) & made
    keep = lambda kept, new: kept if new is None else jnp.where(mask, new, kept)
    note = lambda kept, new: kept.at[block].set(jnp.where(made, new, kept[block]))
    return dataclasses.replace(
        state,
        s=keep(state.s, previous.s),
        y=keep(state.y, previous.y),
        grad=keep(state.grad, previous.grad),
        t=note(state.t, previous.t),
        failed=note(state.failed, previous.failed),
        count=note(state.count, state.count[block] + 1),
        rows=note(state.rows, jnp.asarray(previous.rows, jnp.int32)),
    )


def _entries(layout: Layout, blocks: tuple[int, ...]) -> Vector:
    """The number of the block of each entry of a flat vector."""
    leaves = [
        jnp.full(shape, number * (1 + 1j) if np.issubdtype(dtype, np.complexfloating) else number, dtype)
        for number, shape, dtype in zip(blocks, layout.shapes, layout.dtypes, strict=True)
    ]
    return layout.ravel(jax.tree.unflatten(layout.treedef, leaves))


class _Held(eqx.Module):
    """Features as a function of the active leaves: the derivatives with respect to the others are zero."""

    features: Callable[[Model, Any], PyTree]
    active: tuple[Array, ...]

    def __call__(self, model: Model, point: Any) -> PyTree:
        params, static = eqx.partition(model, eqx.is_inexact_array)
        leaves, treedef = jax.tree.flatten(params)
        leaves = [
            jnp.where(active, leaf, lax.stop_gradient(leaf)) for active, leaf in zip(self.active, leaves, strict=True)
        ]
        return self.features(eqx.combine(jax.tree.unflatten(treedef, leaves), static), point)


def _held(objective: Objective, active: tuple[Array, ...]) -> Objective:
    terms = tuple(dataclasses.replace(term, features=_Held(term.features, active)) for term in objective.terms)
    return dataclasses.replace(objective, terms=terms)


class Within:
    """A path that stays within a block. Lives within one traced step."""

    def __init__(self, path: Any, mask: Array):
        self.path, self.mask = path, mask
        self.work, self.trial = path.work, path.trial

    def __call__(self, t: Scalar) -> Vector:
        return self._within(self.path(t))

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """The displacement at t, and what it cost."""
        step, work = self.path.attempt(t) if isinstance(self.path, Iterative) else (self.path(t), Work())
        return self._within(step), work

    def slope(self, grad: Vector) -> Scalar:
        return self.path.slope(self._within(grad))

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        return self.path.reduction(t, step)

    def _within(self, vector: Vector) -> Vector:
        return jnp.where(self.mask, vector, 0)
