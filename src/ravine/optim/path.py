"""What a direction hands to a search: a path, and the loss along it.

A *path* is a function `t ↦ displacement` of θ. For most methods it is a line, t·d; for Levenberg–Marquardt t is the
damping and the path is curved. A search sees it through `Along`, which evaluates the loss on it.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, Batch, PyTree, Scalar, Vector
from ravine.objective import Linearisation, Objective


class Path(Protocol):
    """`path(t)` is the displacement; `reduction(t, step)` the decrease of L that the local model predicts for it;
    `work` what it cost to find the path, and `trial` what each `path(t)` costs."""

    work: Work
    trial: Work

    def __call__(self, t: Scalar) -> Vector: ...

    def slope(self, grad: Vector) -> Scalar:
        """The derivative of the loss along the path where its gradient is `grad` (straight paths only)."""
        ...

    def reduction(self, t: Scalar, step: Vector) -> Scalar: ...


@runtime_checkable
class Iterative(Path, Protocol):
    """A path whose points are found by an iteration, so that what one costs is known only once it is found."""

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """`path(t)`, and what it cost."""
        ...


class Line(eqx.Module):
    """The straight path t·direction."""

    direction: Vector
    grad: Vector
    work: Work
    trial: Work

    def __init__(self, direction: Vector, grad: Vector, work: Work | None = None):
        self.direction, self.grad = direction, grad
        self.work, self.trial = Work() if work is None else work, Work()

    def __call__(self, t: Scalar) -> Vector:
        return t * self.direction

    def slope(self, grad: Vector) -> Scalar:
        return jnp.dot(grad, self.direction)

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """To first order."""
        del t
        return -jnp.dot(self.grad, step)


class Found(eqx.Module):
    """What a search returns, beside t and its state: the accepted displacement and what is known there.

    `value` and `grad` are None when the search did not evaluate them. `failed` says that nothing was accepted; then
    the step is zero.
    """

    step: Vector
    value: Scalar | None
    grad: Vector | None
    work: Work
    failed: Array


class Previous(eqx.Module):
    """The last accepted step, as directions see it: `s` = Δθ, `y` = Δ∇L *on the same batch*, the gradient it started
    from, its t, and whether the search failed. `y` is None when the search evaluates no gradients. `count` is 0 before
    the first step; `rows` is how many Jacobian rows the step assembled in all."""

    s: Vector
    y: Vector | None
    grad: Vector | None
    t: Scalar
    failed: Array
    count: Array
    rows: Array | int = 0


@dataclasses.dataclass(frozen=True)
class Along:
    """The loss along a path: what a search evaluates. Lives within one traced step."""

    objective: Objective
    theta: Vector
    batch: Batch
    path: Any
    here: Linearisation

    @property
    def slope(self) -> Scalar:
        """The derivative of the loss at t = 0 (straight paths)."""
        return self.path.slope(self.here.grad)

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """The displacement at t, and what the iteration that found it cost (nothing where there is none)."""
        return self.path.attempt(t) if isinstance(self.path, Iterative) else (self.path(t), Work())

    def value(self, step: Vector) -> Scalar:
        """L(θ + step); NaN becomes +∞, so that every comparison rejects it."""
        return _reject_nan(self.objective(self.theta + step, self.batch))

    def value_and_grad(self, step: Vector) -> tuple[Scalar, Vector]:
        """L and ∇L at θ + step; a NaN in either makes the value +∞."""
        value, grad = self.objective.value_and_grad(self.theta + step, self.batch)
        return jnp.where(jnp.all(jnp.isfinite(grad)), _reject_nan(value), jnp.inf), grad


def choose(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`jnp.where`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _reject_nan(value: Scalar) -> Scalar:
    return jnp.where(jnp.isnan(value), jnp.inf, value)
