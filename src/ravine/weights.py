"""How much each term counts, and each point: adaptive weights of the loss, usable with every method.

A weighting is a value that belongs to a problem: `dataclasses.replace(problem, weights=ravine.NTKTrace())`. Before each
step the loop asks it for the objective and the batch of that step, `(objective, theta, batch, state) -> (objective,
batch, state, work)`: terms come back with other weights, points with weights of their own. Optimizers see an objective
like any other, so that least-squares methods have scaled rows; what they evaluated under old weights is not reused
(`Optimizer.step`), and no pair of a quasi-Newton method mixes two weightings, as with points that are redrawn.

Between two updates, `every` steps apart, weights are frozen: quasi-Newton methods want hundreds. Adaptive weights λ
multiply the weights that the terms were given; histories and best parameters are always judged by the given ones.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, Batch, Count, Float, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Objective
from ravine.terms import Minibatch, Weighted, points_of


class Weighting(eqx.Module):
    """Abstract: what turns an objective and a batch into those of the next step.

    `init(objective, theta, batch, *, key) -> state`; `__call__(objective, theta, batch, state)`.
    """

    def init(self, objective: Objective, theta: Vector, batch: Batch, *, key: RandomKey) -> PyTree:
        """The state before the first step."""
        raise NotImplementedError

    def __call__(
        self, objective: Objective, theta: Vector, batch: Batch, state: PyTree
    ) -> tuple[Objective, Batch, PyTree, Work]:
        """Objective and batch of the next step, the next state, and what it cost."""
        raise NotImplementedError

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
        self, objective: Objective, theta: Vector, batch: Batch, state: None
    ) -> tuple[Objective, Batch, None, Work]:
        if not self.weights:
            return objective, batch, None, Work()
        cast = lambda weight: jnp.asarray(weight, theta.dtype)
        terms = tuple(_with(term, cast(self.weights.get(term.name, term.weight))) for term in objective.terms)
        return dataclasses.replace(objective, terms=terms), batch, None, Work()

    def columns(self, objective: Objective, state: None) -> dict[str, Scalar]:
        return {f"weight/{name}": jnp.asarray(weight) for name, weight in self.weights.items()}


def known_terms(objective: Objective, names: tuple[str, ...], who: str) -> None:
    """**Raises:** `ValueError` for a name that no term has."""
    have = [term.name for term in objective.terms]
    for name in names:
        if name not in have:
            raise ValueError(f"{who}: there is no term {name!r}; the terms are {', '.join(have)}.")


def _with(term, weight):
    return eqx.tree_at(lambda term: term.weight, term, weight)


class WeightState(eqx.Module):
    """λ of each term, a number or one a point; what the scheme remembers; calls, and how often λ changed."""

    weights: dict[str, Array]
    memory: PyTree
    count: Count
    changes: Count


class _Scheme(Weighting):
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

    def price(self) -> Work:
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
        self, objective: Objective, theta: Vector, batch: Batch, state: WeightState
    ) -> tuple[Objective, Batch, WeightState, Work]:
        points, due = points_of(batch), state.count % self.every == 0
        update = lambda: self.update(objective, theta, points, state.weights, state.memory)
        weights, memory = jax.lax.cond(due, update, lambda: (state.weights, state.memory))
        differs = jax.tree.map(lambda a, b: jnp.any(a != b), weights, state.weights)
        changed = jnp.any(jnp.stack(jax.tree.leaves(differs)))
        work = jax.tree.map(lambda n: jnp.where(due, n, 0), self.price())
        state = WeightState(weights, memory, state.count + 1, state.changes + changed.astype(jnp.int32))
        return *self.apply(objective, batch, weights, memory), state, work

    def apply(self, objective: Objective, batch: Batch, weights: dict, memory: PyTree) -> tuple[Objective, Batch]:
        """The objective and the batch with these λ."""
        del memory
        return weighed(objective, batch, weights)

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
            term = _with(term, term.weight * factor)
        elif factor is not None:
            points, given = objective.entry(term, batch)
            entries[term.name] = Weighted(points, factor * (1 / factor.shape[0] if given is None else given))
        terms.append(term)
    objective = dataclasses.replace(objective, terms=tuple(terms))
    if not any(leaf.ndim for leaf in weights.values()):
        return objective, batch
    # What the data hold beyond this batch has no weights.
    return objective, dataclasses.replace(batch, points=entries, whole=None) if isinstance(
        batch, Minibatch
    ) else entries


def _with_points(batch: Batch, entries: dict[str, Any]) -> Batch:
    return dataclasses.replace(batch, points=entries, whole=None) if isinstance(batch, Minibatch) else entries


def _interior(objective: Objective, reference: str | None, who: str) -> list[bool]:
    """Which terms the others are weighed against: those of the interior, by default, else the first."""
    if reference is not None:
        known_terms(objective, (reference,), who)
        return [term.name == reference for term in objective.terms]
    found = [term.region == "interior" for term in objective.terms]
    return found if any(found) and not all(found) else [k == 0 for k in range(len(found))]


def _named(objective: Objective, values: Float[Array, "k"]) -> dict[str, Array]:
    return {term.name: values[k] for k, term in enumerate(objective.terms)}


def _stacked(objective: Objective, weights: dict[str, Array]) -> Float[Array, "k"]:
    return jnp.stack([weights[term.name] for term in objective.terms])


class Annealing(_Scheme):
    """Gradient-norm annealing: λ_k ← (1 − α) λ_k + α max|∇L_r| / mean|∇L_k|, and 1 for the residual's terms r.

    **Arguments:** `alpha`: the share of the new in the moving mean; `every`: steps between updates; `reference`: the
    term r, by default those of the interior together.

    **Cost** of an update: a gradient. Sifan Wang, Yujun Teng and Paris Perdikaris, *Understanding and mitigating
    gradient flow pathologies in physics-informed neural networks*, SIAM J. Sci. Comput. 2021, algorithm 1 (whose α is
    0.9, every 10 steps). A term without gradient keeps its λ.
    """

    alpha: float = 0.9
    every: int = eqx.field(static=True, default=10)
    reference: str | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        self.check("alpha", 0.0, 1.0)

    def update(self, objective, theta, batch, weights, memory):
        _, grads = objective.by_term(theta, batch)
        kept = jnp.asarray(_interior(objective, self.reference, "Annealing"))
        top = jnp.max(jnp.abs(jnp.sum(jnp.where(kept[:, None], grads, 0), axis=0)))
        means, old = jnp.mean(jnp.abs(grads), axis=1), _stacked(objective, weights)
        target = jnp.where(means > 0, top / jnp.where(means > 0, means, 1), old)
        return _named(objective, jnp.where(kept, 1, (1 - self.alpha) * old + self.alpha * target)), memory


SCHEMES: dict[str, type[Weighting]] = {"given": Given, "annealing": Annealing}
