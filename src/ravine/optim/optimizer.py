"""The step: linearise, bend into a path, choose how far. Every method of this library is this one class."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Batch, Count, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Objective
from ravine.optim.path import Along, Found, Previous
from ravine.terms import points_of


class Direction(eqx.Module):
    """Which way: turns a linearisation into a path. Abstract.

    `init(objective, theta) -> state`; `__call__(lin, theta, state, previous, *, key) -> (path, state)`. `previous` is
    the last accepted step, whose gradient difference was taken on one batch, so that memory never mixes two samples.
    """

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        """The state before the first step."""
        raise NotImplementedError

    def __call__(self, lin, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey) -> tuple[Any, PyTree]:
        """The path from `theta`, and the next state."""
        raise NotImplementedError


class Search(eqx.Module):
    """How far: chooses a point on the path. Abstract.

    `init(dtype) -> state`; `__call__(phi, state) -> (t, found, state)`. Line searches, damping and learning rates are
    all searches. `gives_grad` says that value and gradient are known at the point found, and not computed again.
    """

    gives_grad: ClassVar[bool] = False

    def init(self, dtype) -> PyTree:
        """The state before the first step."""
        raise NotImplementedError

    def __call__(self, phi: Along, state: PyTree) -> tuple[Scalar, Found, PyTree]:
        """The accepted t, what is known there, and the next state."""
        raise NotImplementedError


class Known(eqx.Module):
    """Value and gradient at the point a search accepted, with the fingerprint of what they were evaluated on."""

    value: Scalar
    grad: Vector
    mark: Array


class State(eqx.Module):
    """An optimizer's memory between steps."""

    direction: PyTree
    search: PyTree
    previous: Previous
    known: Known | None
    failures: Count

    def restarted(self, anew: Array) -> "State":
        """Where `anew`, as after a failed search: directions drop their memory."""
        return dataclasses.replace(
            self, previous=dataclasses.replace(self.previous, failed=self.previous.failed | anew)
        )


class Info(eqx.Module):
    """What a step did. `value` belongs to `theta` after the step where the search evaluated it (`after` is True),
    before the step otherwise. `failures` counts failed searches in a row."""

    value: Scalar
    grad_norm: Scalar
    t: Scalar
    step_norm: Scalar
    failures: Count
    work: Work
    finite: Array


class Optimizer(eqx.Module):
    """A direction and a search: every method.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> optimizer = rv.bfgs()
    >>> objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum((x - 3.0) ** 2), jnp.zeros(2))
    >>> state = optimizer.init(objective, theta)
    >>> for i in range(3):
    ...     theta, state, info = optimizer.step(objective, theta, state, None, key=jax.random.key(i))
    >>> bool(jnp.allclose(theta, 3.0))
    True

    ```
    """

    direction: Direction
    search: Search

    def init(self, objective: Objective, theta: Vector) -> State:
        """The state before the first step."""
        zero, nothing = jnp.zeros((), theta.dtype), jnp.zeros((), jnp.int32)
        vector = jnp.zeros_like(theta)
        grads = self.search.gives_grad
        return State(
            direction=self.direction.init(objective, theta),
            search=self.search.init(theta.dtype),
            previous=Previous(
                vector, vector if grads else None, vector if grads else None, zero, jnp.array(False), nothing, nothing
            ),
            known=Known(zero, vector, jnp.zeros((), jnp.uint32)) if grads else None,
            failures=nothing,
        )

    def loss(self, objective: Objective, theta: Vector, batch: Batch) -> Scalar:
        """What it lowers."""
        return objective(theta, batch)

    def step(
        self, objective: Objective, theta: Vector, state: State, batch: Batch, *, key: RandomKey
    ) -> tuple[Vector, State, Info]:
        """One iteration, on any batch: what the last search evaluated is reused if and only if it still holds."""
        lin, work = self._linearise(objective, theta, state, batch)
        path, direction = self.direction(lin, theta, state.direction, state.previous, key=key)
        t, found, search = self.search(Along(objective, theta, batch, path, lin), state.search)
        after = theta + found.step
        value = lin.value if found.value is None else found.value
        work = work + path.work + found.work
        known, y, before, count = None, None, None, state.previous.count + 1
        if found.grad is not None:
            known = Known(value, found.grad, _fingerprint(objective, after, points_of(batch)))
            y, before = found.grad - lin.grad, lin.grad
        previous = Previous(found.step, y, before, t, found.failed, count, work.rows)
        failures = jnp.where(found.failed, state.failures + 1, 0)
        norm = jnp.linalg.norm(lin.grad)
        info = Info(
            value=value,
            grad_norm=norm,
            t=t,
            step_norm=jnp.linalg.norm(found.step),
            failures=failures,
            work=work,
            finite=jnp.isfinite(value) & jnp.isfinite(norm),
        )
        return after, State(direction, search, previous, known, failures), info

    def _linearise(self, objective, theta, state, batch):
        if state.known is None:
            lin = objective.linearise(theta, batch)
            return lin, Work(evaluations=1, gradients=1)
        known = state.known
        holds = known.mark == _fingerprint(objective, theta, points_of(batch))
        value, grad = lax.cond(holds, lambda: (known.value, known.grad), lambda: objective.value_and_grad(theta, batch))
        spent = jnp.where(holds, 0, 1)
        return objective.linearise(theta, batch, value=value, grad=grad), Work(spent, spent)


def _fingerprint(*trees: PyTree) -> Array:
    """A number that changes with any array in `trees`, but for one chance in 2³²: what a value was evaluated on."""
    mark = jnp.uint32(1)
    for leaf in jax.tree.leaves(eqx.filter(trees, eqx.is_array)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if jnp.iscomplexobj(leaf):
            leaf = jnp.stack([leaf.real, leaf.imag])
        if leaf.dtype == jnp.bool_:
            leaf = leaf.astype(jnp.uint32)
        words = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[leaf.dtype.itemsize]
        bits = lax.bitcast_convert_type(leaf, words).astype(jnp.uint32).reshape(-1)
        # Odd multipliers that depend on the position, so that permutations and swaps show.
        place = jnp.arange(bits.size, dtype=jnp.uint32) * jnp.uint32(2654435761) | jnp.uint32(1)
        mixed = (bits ^ (bits >> jnp.uint32(15))) * place
        mixed = mixed ^ (mixed >> jnp.uint32(13))
        mark = (mark * jnp.uint32(1000003)) ^ jnp.sum(mixed * jnp.uint32(2246822519), dtype=jnp.uint32)
    # Zero is kept for "nothing is known yet".
    return jnp.maximum(mark, jnp.uint32(1))
