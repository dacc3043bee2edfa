"""How much each term counts, and each point: adaptive weights of the loss, usable with every method.

A weighting is a value that belongs to a problem: `dataclasses.replace(problem, weights=ravine.NTKTrace())`. Before each
step the loop asks it for the objective and the batch of that step, `(objective, theta, batch, state, stuck) ->
(objective, batch, state, work)`: terms come back with other weights, points with weights of their own. Optimizers see
an objective like any other, so that least-squares methods have scaled rows; what they evaluated under old weights is
not reused (`Optimizer.step`), and no pair of a quasi-Newton method mixes two weightings, as with redrawn points.

Between two updates, `every` steps apart, weights are frozen: quasi-Newton methods want hundreds. After a failed search
they are updated at once: all was got from them. Adaptive weights λ multiply the weights that the terms were given;
histories and best parameters are always judged by the given ones.
"""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ravine._results import Work
from ravine._types import Array, Batch, Count, Float, PyTree, RandomKey, Rows, Scalar, Vector
from ravine.objective import Objective
from ravine.terms import Minibatch, Weighted, points_of, squared


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
            term = _with(term, term.weight * factor)
        elif factor is not None:
            points, given = objective.entry(term, batch)
            entries[term.name] = Weighted(points, factor * (1 / factor.shape[0] if given is None else given))
        terms.append(term)
    objective = dataclasses.replace(objective, terms=tuple(terms))
    if not any(leaf.ndim for leaf in weights.values()):
        return objective, batch
    return objective, _with_points(batch, entries)


def _with_points(batch: Batch, entries: dict[str, Any]) -> Batch:
    """The batch with other points; what the data hold beyond it has no weights."""
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


class Balance(_Scheme):
    """Equal gradients: λ_k ← α λ_k + (1 − α) Σ_j ‖∇L_j‖ / ‖∇L_k‖.

    **Arguments:** `alpha`: the share of the old in the moving mean; `every`: steps between updates.

    **Cost** of an update: a gradient. Sifan Wang, Shyam Sankaran, Hanwen Wang and Paris Perdikaris, *An expert's guide
    to training physics-informed neural networks*, 2023, algorithm 1 (whose α is 0.9, every 1,000 steps). A term without
    gradient keeps its λ.
    """

    alpha: float = 0.9
    every: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        self.check("alpha", 0.0, 1.0)

    def update(self, objective, theta, batch, weights, memory):
        norms = jnp.linalg.norm(objective.by_term(theta, batch)[1], axis=1)
        return _named(objective, _moved(_stacked(objective, weights), norms, self.alpha)), memory


class NTKTrace(_Scheme):
    """λ_k ← α λ_k + (1 − α) tr K / tr K_kk: every term's part of the neural tangent kernel K gets the same trace.

    **Arguments:** `alpha`: the share of the old, 0 in the paper; `every`: steps between updates.

    tr K_kk = ‖J_k‖² is the sum of squares of the term's rows of the whitened Jacobian. **Cost** of an update: the rows
    of the Jacobian, never stored whole. Sifan Wang, Xinling Yu and Paris Perdikaris, *When and why PINNs fail to train:
    a neural tangent kernel perspective*, J. Comput. Phys. 2022, algorithm 1. Deviation: rows are scaled by 1/√m, as the
    gradient flow of means has them; with equally many points in each term there is no difference.
    """

    alpha: float = 0.0
    every: int = eqx.field(static=True, default=100)

    def __check_init__(self):
        self.check("alpha", 0.0, 1.0)

    def price(self, objective: Objective, batch: Batch) -> Work:
        return Work(rows=objective.size(batch))

    def update(self, objective, theta, batch, weights, memory):
        traces = []
        for piece in objective.pieces(batch):
            rows = piece.jacobian(theta)
            total = lambda points, scales, rows=rows: jnp.sum(rows(points, scales) ** 2)
            traces.append(piece.reduce(total, block=piece.held(theta)))
        return _named(objective, _moved(_stacked(objective, weights), jnp.stack(traces), self.alpha)), memory


def _moved(old: Float[Array, "k"], sizes: Float[Array, "k"], alpha: Scalar | float) -> Float[Array, "k"]:
    """α old + (1 − α) Σ sizes / size; the old where a size is zero."""
    target = jnp.where(sizes > 0, jnp.sum(sizes) / jnp.where(sizes > 0, sizes, 1), old)
    return alpha * old + (1 - alpha) * target


ADAM = optax.scale_by_adam()  # what steps the λ that are trained


class GradNorm(_Scheme):
    """λ trained so that G_k = λ_k ‖∇L_k‖ → Ḡ r_k^α: terms that lag behind get larger gradients.

    Ḡ is the mean of G, r_k = L̃_k / mean L̃ with L̃_k = L_k(t)/L_k(0) the inverse training rate. λ descends on
    Σ_k |G_k − Ḡ r_k^α| with the targets held constant, and is scaled to Σ λ_k = K after each step.

    **Arguments:** `alpha`: how strongly lagging terms are favoured; `rate` of the descent; `every`: steps between.

    **Cost** of an update: a gradient. Zhao Chen, Vijay Badrinarayanan, Chen-Yu Lee and Andrew Rabinovich, *GradNorm:
    gradient normalization for adaptive loss balancing in deep multitask networks*, ICML 2018, equations 1 and 2,
    algorithm 1. Deviations: ln λ is what Adam steps, so that no λ becomes negative; ∇ is with respect to all parameters
    and not to the last shared layer alone.
    """

    alpha: float = 1.5
    rate: float = 0.025
    every: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        self.check("alpha", 0.0, math.inf)
        self.check("rate", 0.0, math.inf)

    def begin(self, objective, theta, batch, key):
        weights, _ = super().begin(objective, theta, batch, key)
        first = jnp.stack(list(objective.values(theta, batch).values()))
        return weights, (first, _adam_start(jnp.ones_like(first)))

    def update(self, objective, theta, batch, weights, memory):
        first, state = memory
        losses, grads = objective.by_term(theta, batch)
        given = jnp.stack([term.weight for term in objective.terms])
        old, norms = _stacked(objective, weights), jnp.linalg.norm(grads, axis=1)
        inverse = losses / jnp.where(first * given > 0, first * given, 1)
        mean = jnp.mean(inverse)
        relative = inverse / jnp.where(mean > 0, mean, 1)
        sizes = old * norms
        target = jnp.mean(sizes) * relative**self.alpha
        step, state = _adam(jnp.sign(sizes - target) * sizes, state)
        new = old * jnp.exp(-self.rate * step)
        return _named(objective, new * (new.shape[0] / jnp.sum(new))), (first, state)


def _adam_start(like: PyTree) -> PyTree:
    with jax.numpy_dtype_promotion("standard"):
        return ADAM.init(like)


def _adam(grad: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    """Adam's step for a rate of one, uphill along `grad`."""
    with jax.numpy_dtype_promotion("standard"):  # Optax mixes its step count with floats
        return ADAM.update(grad, state)


class ReLoBRaLo(_Scheme):
    """Relative loss balancing with random lookback: λ = α (ρ λ + (1 − ρ) λ̂(t; 0)) + (1 − α) λ̂(t; t − 1).

    λ̂_k(t; s) = K softmax_k(L_k(t) / (T L_k(s))), and ρ is 1 with probability `rho`, else 0: now and then progress is
    measured from the start.

    **Arguments:** `temperature` T: large for equal weights; `alpha`, `rho`; `every`: steps between updates.

    **Cost** of an update: an evaluation. Rafael Bischof and Michael Kraus, *Multi-objective loss balancing for
    physics-informed deep learning*, 2021, equations 11 to 13.
    """

    temperature: float = 1.0
    alpha: float = 0.999
    rho: float = 0.999
    every: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        self.check("temperature", 1e-12, math.inf)
        self.check("alpha", 0.0, 1.0)
        self.check("rho", 0.0, 1.0)

    def price(self, objective: Objective, batch: Batch) -> Work:
        return Work(evaluations=1)

    def begin(self, objective, theta, batch, key):
        weights, _ = super().begin(objective, theta, batch, key)
        first = jnp.stack(list(objective.values(theta, batch).values()))
        return weights, (first, first, key)

    def update(self, objective, theta, batch, weights, memory):
        first, last, key = memory
        now, later = jax.random.split(key)
        losses = jnp.stack(list(objective.values(theta, batch).values()))
        old = _stacked(objective, weights)

        def balanced(since):
            ratios = losses / (self.temperature * jnp.where(since > 0, since, 1))
            return losses.shape[0] * jax.nn.softmax(ratios)

        keep = jax.random.bernoulli(now, jnp.asarray(self.rho, old.dtype))
        history = jnp.where(keep, old, balanced(first))
        new = self.alpha * history + (1 - self.alpha) * balanced(last)
        return _named(objective, new), (first, losses, later)


# ---------------------------------------------------------------------------------------------------- point by point


class _Pointwise(_Scheme):
    """One λ a point, for the points that are held: they begin anew where a term's points changed. Abstract."""

    terms: eqx.AbstractVar[tuple[str, ...] | None]

    def chosen(self, objective: Objective) -> list[str]:
        """The terms whose points are weighed: by default all that have points."""
        who = type(self).__name__
        known_terms(objective, self.terms or (), who)
        names = self.terms or tuple(term.name for term in objective.terms if not term.whole)
        if any(term.whole and term.name in names for term in objective.terms) or not names:
            raise ValueError(f"{who}: it weighs points, but the terms {', '.join(names) or 'given'} have none.")
        return list(names)

    def counts(self, objective: Objective, batch: Batch) -> dict[str, int]:
        """How many points each chosen term has."""
        entries = {term.name: objective.entry(term, batch)[0] for term in objective.terms if not term.whole}
        counts = {name: jax.tree.leaves(entries[name])[0].shape[0] for name in self.chosen(objective)}
        if objective.samples is not None and any(count < objective.samples for count in counts.values()):
            raise ValueError(
                f"{type(self).__name__}: each point has a weight that is learnt over many steps, but batches are drawn "
                "from data. Use all data in each step (ravine.Constant), or weights of terms such as ravine.NTKTrace()."
            )
        return counts

    def held(self, objective: Objective, batch: Batch) -> dict[str, PyTree]:
        """The points of the chosen terms."""
        return {
            term.name: objective.entry(term, batch)[0]
            for term in objective.terms
            if term.name in self.chosen(objective)
        }


def _same_points(one: PyTree, other: PyTree) -> Array:
    return jnp.all(
        jnp.stack([jnp.all(a == b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)])
    )


def _shares(objective: Objective, batch: Batch, name: str, count: int) -> Array:
    """v_i of a term's points, times the term's weight."""
    (term,) = (term for term in objective.terms if term.name == name)
    given = objective.entry(term, batch)[1]
    return term.weight / count if given is None else term.weight * given


class SelfAdaptive(_Pointwise):
    """Self-adaptive weights: min over θ, max over μ of Σ_i v_i μ_i² φ_i; the λ_i = μ_i² of hard points grow.

    **Arguments:** `rate` of Adam's ascent in μ, which begins at 1; `every`: steps between; `terms`: whose points, by
    default all. Where the points of a term change, its μ begin anew, so points should be held.

    **Cost** of an update: an evaluation. Levi McClenny and Ulisses Braga-Neto, *Self-adaptive physics-informed neural
    networks*, J. Comput. Phys. 2023, equations 11 to 15, with the mask m(μ) = μ².
    """

    rate: float = 5e-3
    every: int = eqx.field(static=True, default=1)
    terms: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        self.check("rate", 0.0, math.inf)

    def price(self, objective: Objective, batch: Batch) -> Work:
        return Work(evaluations=1)

    def begin(self, objective, theta, batch, key):
        ones = {name: jnp.ones(count, theta.dtype) for name, count in self.counts(objective, batch).items()}
        return ones, (ones, {name: _adam_start(one) for name, one in ones.items()}, self.held(objective, batch))

    def update(self, objective, theta, batch, weights, memory):
        roots, states, points = memory
        held, new_roots, new_states = self.held(objective, batch), {}, {}
        for name, root in roots.items():
            same, ones = _same_points(points[name], held[name]), jnp.ones_like(root)
            root = jnp.where(same, root, ones)
            state = jax.tree.map(lambda a, b, same=same: jnp.where(same, a, b), states[name], _adam_start(ones))
            losses = objective.pointwise(theta, name, held[name])
            step, new_states[name] = _adam(2 * root * losses * _shares(objective, batch, name, root.shape[0]), state)
            new_roots[name] = root + self.rate * step
        return {name: root**2 for name, root in new_roots.items()}, (new_roots, new_states, held)


class ResidualAttention(_Pointwise):
    """Residual-based attention: μ_i ← γ μ_i + η |r_i| / max_j |r_j|, and λ_i = μ_i², without any further gradient.

    **Arguments:** `decay` γ and `rate` η, so that μ stays below η/(1 − γ); `first`: what μ begins with; `every`,
    `terms` as in `SelfAdaptive`. |r| = √(2φ).

    **Cost** of an update: an evaluation. Sokratis Anagnostopoulos, Juan Diego Toscano, Nikolaos Stergiopulos and George
    Karniadakis, *Residual-based attention in physics-informed neural networks*, Comput. Methods Appl. Mech. Eng. 2024,
    equation 8. Deviation: μ begins at 1 and not at 0, so that terms whose points have no μ are not left alone at first.
    """

    decay: float = 0.999
    rate: float = 0.01
    first: float = 1.0
    every: int = eqx.field(static=True, default=1)
    terms: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        self.check("decay", 0.0, 1.0)
        self.check("rate", 0.0, math.inf)
        self.check("first", 0.0, math.inf)

    def price(self, objective: Objective, batch: Batch) -> Work:
        return Work(evaluations=1)

    def begin(self, objective, theta, batch, key):
        start = jnp.asarray(self.first, theta.dtype)
        roots = {name: jnp.full(count, start) for name, count in self.counts(objective, batch).items()}
        return {name: root**2 for name, root in roots.items()}, (roots, self.held(objective, batch))

    def update(self, objective, theta, batch, weights, memory):
        roots, points = memory
        held, new = self.held(objective, batch), {}
        for name, root in roots.items():
            root = jnp.where(_same_points(points[name], held[name]), root, jnp.asarray(self.first, root.dtype))
            sizes = jnp.sqrt(2 * jnp.maximum(objective.pointwise(theta, name, held[name]), 0))
            top = jnp.max(sizes)
            new[name] = self.decay * root + self.rate * sizes / jnp.where(top > 0, top, 1)
        return {name: root**2 for name, root in new.items()}, (new, held)


class Causal(_Scheme):
    """Causal weights: residuals count once those at earlier times are small, λ(t) = exp(−ε Σ of L at times before t).

    Time, the last coordinate, is cut into `bins` slices; L of a slice is the mean of φ over its points, and before the
    first slice stands the loss of the initial conditions, with their weights. λ belongs to slices, so that it holds for
    redrawn points too. ε grows through `epsilons`, one further each time every λ exceeds `threshold`.

    **Arguments:** `epsilons`, `threshold`; `bins`; `every`: steps between updates; `terms`: by default those of the
    interior.

    **Cost** of an update: an evaluation. Sifan Wang, Shyam Sankaran and Paris Perdikaris, *Respecting causality for
    training physics-informed neural networks*, Comput. Methods Appl. Mech. Eng. 2024, equations 3.5 to 3.7 and
    algorithm 1.
    """

    epsilons: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    threshold: float = 0.99
    bins: int = eqx.field(static=True, default=32)
    every: int = eqx.field(static=True, default=1)
    terms: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        self.check("threshold", 0.0, 1.0)
        if self.bins < 2 or not self.epsilons:
            raise ValueError(f"Causal: needs at least two bins and one of epsilons, got {self.bins}, {self.epsilons}.")

    def price(self, objective: Objective, batch: Batch) -> Work:
        return Work(evaluations=1)

    def chosen(self, objective: Objective) -> list[str]:
        """The terms that are weighed."""
        known_terms(objective, self.terms or (), "Causal")
        names = self.terms or tuple(term.name for term in objective.terms if term.region == "interior")
        if not names:
            raise ValueError("Causal: no term lives in the interior. Say which has times: Causal(terms=('pde',)).")
        return list(names)

    def begin(self, objective, theta, batch, key):
        times = [self.times(objective, batch, name) for name in self.chosen(objective)]
        low, high = jnp.min(jnp.concatenate(times)), jnp.max(jnp.concatenate(times))
        slices = {name: jnp.ones(self.bins, theta.dtype) for name in self.chosen(objective)}
        return slices, (low, high, jnp.int32(0))

    def times(self, objective: Objective, batch: Batch, name: str) -> Rows:
        """The last coordinate of a term's points."""
        (term,) = (term for term in objective.terms if term.name == name)
        return jax.tree.leaves(objective.entry(term, batch)[0])[0][:, -1]

    def slices(self, objective: Objective, batch: Batch, name: str, memory: PyTree) -> Array:
        """In which slice each point lies; points beyond those first seen are in the nearest."""
        low, high, _ = memory
        unit = (self.times(objective, batch, name) - low) / jnp.where(high > low, high - low, 1)
        return jnp.clip((unit * self.bins).astype(jnp.int32), 0, self.bins - 1)

    def update(self, objective, theta, batch, weights, memory):
        losses = objective.values(theta, batch)
        start = [term.weight * losses[term.name] for term in objective.terms if term.region == "initial"]
        before, stage, new = sum(start, start=jnp.zeros((), theta.dtype)), memory[2], {}
        epsilon = jnp.stack([jnp.asarray(one, theta.dtype) for one in self.epsilons])[stage]
        for name in weights:
            (term,) = (term for term in objective.terms if term.name == name)
            values, place = (
                objective.pointwise(theta, name, objective.entry(term, batch)[0]),
                self.slices(objective, batch, name, memory),
            )
            counts = jnp.zeros(self.bins, theta.dtype).at[place].add(1)
            means = jnp.zeros(self.bins, theta.dtype).at[place].add(values) / jnp.maximum(counts, 1)
            earlier = jnp.concatenate([jnp.zeros(1, theta.dtype), jnp.cumsum(means)[:-1]])
            new[name] = jnp.exp(-epsilon * (before + earlier))
        passed = jnp.min(jnp.stack(list(new.values()))) > self.threshold
        stage = jnp.minimum(stage + passed.astype(jnp.int32), len(self.epsilons) - 1)
        return new, (memory[0], memory[1], stage)

    def apply(self, objective, batch, weights, memory):
        points = points_of(batch)
        each = {name: leaf[self.slices(objective, points, name, memory)] for name, leaf in weights.items()}
        return weighed(objective, batch, each)


# ------------------------------------------------------------------------------------------------------- constraints


class _Shifted(eqx.Module):
    """F + ν at a pair (point, ν)."""

    features: Any

    def __call__(self, model, pair):
        point, shift = pair
        return ravel_pytree(self.features(model, point))[0] + shift


class AugmentedLagrangian(_Scheme):
    """Terms as constraints F = 0 at their points: L + mean ½ρ‖F_i‖² + μ_iᵀF_i, with multipliers μ ← μ + ρF.

    By squares this is ½ρ‖F + ν‖² − ½ρ‖ν‖², ν = μ/ρ, so that least-squares methods see shifted residuals. ρ begins at
    the term's weight times `penalty` and is multiplied by `growth` where an update finds ‖F‖ above `shrink` times
    that of the update before, up to `most` times the term's weight.

    **Arguments:** as named; `every`: steps between updates, in which the inner problem should come near its solution;
    `terms`: the constraints, by default the terms outside of the interior. Where the points of a term change, its
    multipliers begin anew, so points should be held.

    **Cost** of an update: an evaluation. Magnus Hestenes, *Multiplier and gradient methods*, 1969; Michael Powell,
    1969; Jorge Nocedal and Stephen Wright, *Numerical optimization*, 2006, algorithm 17.4; for networks Shamsulhaq
    Basir and Inanc Senocak, *Physics and equality constrained artificial neural networks*, J. Comput. Phys. 2022.
    """

    penalty: float = 1.0
    growth: float = 2.0
    shrink: float = 0.5
    most: float = 1e6
    every: int = eqx.field(static=True, default=100)
    terms: tuple[str, ...] | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        self.check("penalty", 1e-300, math.inf)
        self.check("growth", 1.0, math.inf)
        self.check("shrink", 0.0, 1.0)
        self.check("most", 1e-300, math.inf)

    def price(self, objective: Objective, batch: Batch) -> Work:
        return Work(evaluations=1)

    def chosen(self, objective: Objective) -> list:
        """The terms that are constraints."""
        known_terms(objective, self.terms or (), "AugmentedLagrangian")
        inside = dict(zip([t.name for t in objective.terms], _interior(objective, None, ""), strict=True))
        names = self.terms or tuple(name for name, kept in inside.items() if not kept)
        found = [term for term in objective.terms if term.name in names]
        bad = [term.name for term in found if term.whole or term.loss is not squared]
        if bad or not found:
            raise ValueError(
                f"AugmentedLagrangian: constraints are residuals at points, but {', '.join(bad) or 'no term'} "
                f"{'is' if bad else 'can be one'} not. Name others: AugmentedLagrangian(terms=('bc',))."
            )
        return found

    def begin(self, objective, theta, batch, key):
        penalty = jnp.asarray(self.penalty, theta.dtype)
        memory = {}
        for term in self.chosen(objective):
            points, values = self.values(objective, theta, batch, term)
            memory[term.name] = (jnp.zeros_like(values), jnp.asarray(jnp.inf, theta.dtype), points)
        # The first call, at the start, leaves μ at zero: nothing was solved yet.
        return dict.fromkeys(memory, penalty), (memory, jnp.array(True))

    def values(self, objective: Objective, theta: Vector, batch: Batch, term) -> tuple[PyTree, Float[Array, "m q"]]:
        """The points of a term, and F at each."""
        points, _ = objective.entry(term, batch)
        model = objective.model(theta)
        return points, jax.vmap(lambda point: ravel_pytree(term.features(model, point))[0])(points)

    def update(self, objective, theta, batch, weights, memory):
        before, first = memory
        found, new = {}, {}
        for term in self.chosen(objective):
            shift, size, points = before[term.name]
            held, values = self.values(objective, theta, batch, term)
            same, now = _same_points(points, held), jnp.sqrt(jnp.mean(jnp.sum(values**2, axis=1)))
            shift = jnp.where(same, shift, 0) + jnp.where(same & ~first, values, 0)
            old = weights[term.name]
            slow = ~first & same & (now > self.shrink * size)
            new[term.name] = jnp.where(slow, jnp.maximum(jnp.minimum(old * self.growth, self.most), old), old)
            found[term.name] = (shift * (old / new[term.name]), now, held)
        return new, (found, jnp.array(False))

    def decisive(self, weights, memory):
        return weights, {name: shift for name, (shift, _, _) in memory[0].items()}

    def apply(self, objective, batch, weights, memory):
        objective, batch = weighed(objective, batch, weights)
        terms, entries = [], dict(points_of(batch))
        for term in objective.terms:
            if term.name in weights:
                points, given = objective.entry(term, batch)
                pairs = (points, memory[0][term.name][0])
                entries[term.name] = pairs if given is None else Weighted(pairs, given)
                term = dataclasses.replace(term, features=_Shifted(term.features))
            terms.append(term)
        return dataclasses.replace(objective, terms=tuple(terms)), _with_points(batch, entries)


SCHEMES: dict[str, type[Weighting]] = {
    "given": Given,
    "annealing": Annealing,
    "balance": Balance,
    "ntk": NTKTrace,
    "gradnorm": GradNorm,
    "relobralo": ReLoBRaLo,
    "self_adaptive": SelfAdaptive,
    "attention": ResidualAttention,
    "causal": Causal,
    "lagrangian": AugmentedLagrangian,
}
