"""What turns an objective and a batch into those of the next step; and the weights that are given."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, Batch, Count, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Objective


class Weighting(eqx.Module):
    """Abstract: what turns an objective and a batch into those of the next step.

    `init(objective, theta, batch, *, key) -> state`; `__call__(objective, theta, batch, state, stuck)`.
    """

    def init(self, objective: Objective, theta: Vector, batch: Batch, *, key: RandomKey) -> PyTree:
        """The state before the first step."""
        raise NotImplementedError

    def __call__(
        self, objective: Objective, theta: Vector, batch: Batch, state: PyTree, stuck: Array
    ) -> tuple[Objective, Batch, PyTree, Work]:
        """Objective and batch of the next step, the next state, and what it cost. `stuck`: the last search failed."""
        raise NotImplementedError

    def changes(self, state: PyTree) -> Count | int:
        """How often weights have changed."""
        del state
        return 0

    def sound(self, state: PyTree) -> Array:
        """Whether all weights are finite and none is negative."""
        del state
        return jnp.array(True)

    def columns(self, objective: Objective, state: PyTree) -> dict[str, Scalar]:
        """What a history row tells: `weight/<term>` (its mean over points), `reweighted` (how often they changed)."""
        del objective, state
        return {}


class Given(Weighting):
    """The weights that the terms were given, or other ones, fixed: `Given({"bc": 100.0})`.

    **Raises:** `ValueError` for a weight that is negative or not finite, or of no term.
    """

    weights: dict[str, Any] = eqx.field(default_factory=dict)

    def __check_init__(self):
        for name, weight in self.weights.items():
            if isinstance(weight, (int, float)) and not 0 <= weight < math.inf:
                raise ValueError(f"Given: the weight of {name!r} is {weight}, but must be finite and not negative.")

    def init(self, objective: Objective, theta: Vector, batch: Batch, *, key: RandomKey) -> None:
        known_terms(objective, tuple(self.weights), "Given")

    def __call__(
        self, objective: Objective, theta: Vector, batch: Batch, state: None, stuck: Array
    ) -> tuple[Objective, Batch, None, Work]:
        if not self.weights:
            return objective, batch, None, Work()
        cast = lambda weight: jnp.asarray(weight, theta.dtype)
        terms = tuple(with_weight(term, cast(self.weights.get(term.name, term.weight))) for term in objective.terms)
        return dataclasses.replace(objective, terms=terms), batch, None, Work()

    def columns(self, objective: Objective, state: None) -> dict[str, Scalar]:
        return {f"weight/{name}": jnp.asarray(weight) for name, weight in self.weights.items()}


def known_terms(objective: Objective, names: tuple[str, ...], who: str) -> None:
    """**Raises:** `ValueError` for a name that no term has."""
    have = [term.name for term in objective.terms]
    for name in names:
        if name not in have:
            raise ValueError(f"{who}: there is no term {name!r}; the terms are {', '.join(have)}.")


def with_weight(term, weight):
    """The term, weighed otherwise."""
    return eqx.tree_at(lambda term: term.weight, term, weight)
