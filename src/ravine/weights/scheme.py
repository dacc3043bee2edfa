"""Weights that are updated now and then: what all adaptive schemes share."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from ravine._results import Work
from ravine._types import Array, Batch, Count, Float, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Objective
from ravine.terms import Minibatch, Weighted, points_of
from ravine.weights.weighting import Weighting, known_terms, with_weight


class WeightState(eqx.Module):
    """λ of each term, a number or one a point; what the scheme remembers; calls, and how often λ changed."""

    weights: dict[str, Array]
    memory: PyTree
    count: Count
    changes: Count


class Scheme(Weighting):
    """λ that are updated every `every` steps. Abstract: `begin -> (weights, memory)` and `update`."""

    every: eqx.AbstractVar[int]

    def begin(self, objective: Objective, theta: Vector, batch: Batch, key: RandomKey) -> tuple[dict, PyTree]:
        """λ = 1 for every term, and nothing to remember."""
        del batch, key
        return {term.name: jnp.ones((), theta.dtype) for term in objective.terms}, None

    def update(
        self, objective: Objective, theta: Vector, batch: Batch, weights: dict[str, Array], memory: PyTree
    ) -> tuple[dict[str, Array], PyTree]:
        """The next λ."""
        raise NotImplementedError

    def price(self, objective: Objective, batch: Batch) -> Work:
        """What an update costs."""
        return Work(evaluations=1, gradients=1)

    def check(self, setting: str, low: float, high: float) -> None:
        """**Raises:** `ValueError` for a setting outside its closed range, or updates less than a step apart."""
        if self.every < 1:
            raise ValueError(f"{type(self).__name__}: every is {self.every}, but it counts steps and is at least 1.")
        value = getattr(self, setting)
        if isinstance(value, (int, float)) and not (low <= value <= high and math.isfinite(value)):
            raise ValueError(f"{type(self).__name__}: {setting} is {value}, but must lie between {low:g} and {high:g}.")

    def init(self, objective: Objective, theta: Vector, batch: Batch, *, key: RandomKey) -> WeightState:
        if objective.bare:
            raise ValueError(
                f"{type(self).__name__}: weighs terms against each other, but this objective is a function."
            )
        weights, memory = self.begin(objective, theta, points_of(batch), key)
        return WeightState(weights, memory, jnp.int32(0), jnp.int32(0))

    def __call__(
        self, objective: Objective, theta: Vector, batch: Batch, state: WeightState, stuck: Array
    ) -> tuple[Objective, Batch, WeightState, Work]:
        points, due = points_of(batch), (state.count % self.every == 0) | stuck
        update = lambda: self.update(objective, theta, points, state.weights, state.memory)
        weights, memory = jax.lax.cond(due, update, lambda: (state.weights, state.memory))
        now, before = self.decisive(weights, memory), self.decisive(state.weights, state.memory)
        differs = jax.tree.map(lambda a, b: jnp.any(a != b), now, before)
        changed = jnp.any(jnp.stack(jax.tree.leaves(differs)))
        work = jax.tree.map(lambda n: jnp.where(due, n, 0), self.price(objective, batch))
        state = WeightState(weights, memory, state.count + 1, state.changes + changed.astype(jnp.int32))
        return *self.apply(objective, batch, weights, memory), state, work

    def apply(self, objective: Objective, batch: Batch, weights: dict, memory: PyTree) -> tuple[Objective, Batch]:
        """The objective and the batch with these λ."""
        del memory
        return weighed(objective, batch, weights)

    def decisive(self, weights: dict[str, Array], memory: PyTree) -> PyTree:
        """What the loss depends on."""
        del memory
        return weights

    def changes(self, state: WeightState) -> Count:
        return state.changes

    def sound(self, state: WeightState) -> Array:
        good = [jnp.all(jnp.isfinite(leaf) & (leaf >= 0)) for leaf in state.weights.values()]
        return jnp.all(jnp.stack(good))

    def columns(self, objective: Objective, state: WeightState) -> dict[str, Scalar]:
        given = {term.name: term.weight for term in objective.terms}
        means = {f"weight/{name}": given[name] * jnp.mean(leaf) for name, leaf in state.weights.items()}
        return {**means, "reweighted": state.changes}


def weighed(objective: Objective, batch: Batch, weights: dict[str, Array]) -> tuple[Objective, Batch]:
    """The objective with its terms' weights, the batch with its points' weights multiplied by λ: a number for a term,
    or a vector, one number a point."""
    terms, entries = [], dict(points_of(batch))
    for term in objective.terms:
        factor = weights.get(term.name)
        if factor is not None and factor.ndim == 0:
            term = with_weight(term, term.weight * factor)
        elif factor is not None:
            points, given = objective.entry(term, batch)
            entries[term.name] = Weighted(points, factor * (1 / factor.shape[0] if given is None else given))
        terms.append(term)
    objective = dataclasses.replace(objective, terms=tuple(terms))
    if not any(leaf.ndim for leaf in weights.values()):
        return objective, batch
    return objective, with_points(batch, entries)


def with_points(batch: Batch, entries: dict[str, Any]) -> Batch:
    """The batch with other points; what the data hold beyond it has no weights."""
    return dataclasses.replace(batch, points=entries, whole=None) if isinstance(batch, Minibatch) else entries


def reference_terms(objective: Objective, reference: str | None, who: str) -> list[bool]:
    """Which terms the others are weighed against: those of the interior, by default, else the first."""
    if reference is not None:
        known_terms(objective, (reference,), who)
        return [term.name == reference for term in objective.terms]
    found = [term.region == "interior" for term in objective.terms]
    return found if any(found) and not all(found) else [k == 0 for k in range(len(found))]


def named(objective: Objective, values: Float[Array, "k"]) -> dict[str, Array]:
    """One value a term, by the names of the terms."""
    return {term.name: values[k] for k, term in enumerate(objective.terms)}


def stacked(objective: Objective, weights: dict[str, Array]) -> Float[Array, "k"]:
    """The inverse of `named`."""
    return jnp.stack([weights[term.name] for term in objective.terms])


ADAM = optax.scale_by_adam()  # what steps the λ that are trained


def adam_start(like: PyTree) -> PyTree:
    """The state of `adam` before its first step."""
    with jax.numpy_dtype_promotion("standard"):
        return ADAM.init(like)


def adam(grad: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Adam's step for a rate of one, uphill along `grad`."""
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes its step count with floats
        return ADAM.update(grad, state)


def same_points(one: PyTree, other: PyTree) -> Array:
    return jnp.all(
        jnp.stack([jnp.all(a == b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)])
    )
