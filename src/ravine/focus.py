"""A part of an objective: some of its terms, as a function of some of its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Batch, Model, PyTree, RandomKey, Vector
from ravine.constraints import plain
from ravine.objective import Objective


@dataclasses.dataclass(frozen=True)
class Focus:
    """What is trained at a time: these terms, by these parameters; everything else stays as it is.

    **Arguments:**

    - `terms`: their names.
    - `where`: `model -> part of the model` (a pytree of its arrays, as in `equinox.tree_at`).
    - `begin`: `model -> model`, what the parameters become before the first step; by default what they are.

    A problem with several (`Problem.focuses`) is trained in that order, each with the same phases and an equal share of
    the time. **Raises:** `ValueError` for no terms.
    """

    terms: tuple[str, ...]
    where: Callable[[Model], PyTree]
    begin: Callable[[Model], Model] | None = None

    def __post_init__(self):
        if not self.terms:
            raise ValueError("Focus: names no term; give those that are trained.")

    def on(self, objective: Objective) -> "View":
        """The view of `objective`. **Raises:** `ValueError` for unknown terms, and for no parameters."""
        unknown = [name for name in self.terms if name not in {term.name for term in objective.terms}]
        if unknown:
            raise ValueError(
                f"Focus: there are no terms {unknown}; they are {[term.name for term in objective.terms]}."
            )
        marks = [_Mark() for _ in objective.layout.sizes]
        model = plain(eqx.combine(objective.layout.treedef.unflatten(marks), objective.static))
        found = {id(leaf) for leaf in jax.tree.leaves(self.where(model))}
        chosen = tuple(id(mark) in found for mark in marks)
        if not any(chosen):
            raise ValueError(
                "Focus: `where` picks no parameters. It gets the model: where=lambda model: model.network."
            )
        return View(chosen, self.terms)

    def started(self, objective: Objective, theta: Vector) -> Vector:
        """The parameters before the first step."""
        return theta if self.begin is None else objective.flatten(self.begin(objective.model(theta)))


class _Mark:
    """Stands for one array of parameters."""


class View(eqx.Module):
    """`Focus` on an objective: which leaves of its layout are parameters, and which terms count."""

    chosen: tuple[bool, ...] = eqx.field(static=True)
    terms: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, objective: Objective, theta: Vector) -> Objective:
        """The objective of these terms and parameters; the others stay where `theta` has them."""
        terms = tuple(term for term in objective.terms if term.name in self.terms)
        return dataclasses.replace(objective, terms=terms).restricted(theta, self.chosen)

    def take(self, objective: Objective, theta: Vector) -> Array:
        """The parameters seen, of all of them."""
        return jnp.concatenate([theta[start:end] for start, end in self._spans(objective)])

    def put(self, objective: Objective, theta: Vector, part: Array) -> Vector:
        """All parameters, with other numbers for those seen."""
        at = 0
        for start, end in self._spans(objective):
            theta = theta.at[start:end].set(part[at : at + end - start])
            at += end - start
        return theta

    def _spans(self, objective: Objective) -> list[tuple[int, int]]:
        found, start = [], 0
        for mine, size in zip(self.chosen, objective.layout.sizes, strict=True):
            if mine:
                found.append((start, start + size))
            start += size
        return found


class Within(eqx.Module):
    """An optimizer that sees a view alone: its memory has the size of what it trains."""

    optimizer: Any
    view: View

    @property
    def search(self) -> Any:
        """That of the optimizer."""
        return self.optimizer.search

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        """As `Optimizer.init`."""
        return self.optimizer.init(self.view(objective, theta), self.view.take(objective, theta))

    def loss(self, objective: Objective, theta: Vector, batch: Batch) -> Array:
        """As `Optimizer.loss`."""
        return self.optimizer.loss(self.view(objective, theta), self.view.take(objective, theta), batch)

    def step(self, objective: Objective, theta: Vector, state: PyTree, batch: Batch, *, key: RandomKey) -> tuple:
        """As `Optimizer.step`."""
        part = self.view.take(objective, theta)
        part, state, info = self.optimizer.step(self.view(objective, theta), part, state, batch, key=key)
        return self.view.put(objective, theta, part), state, info
