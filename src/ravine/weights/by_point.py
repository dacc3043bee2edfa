"""A weight for each point, from its residual."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, Batch, PyTree, Rows
from ravine.objective import Objective
from ravine.terms import points_of
from ravine.weights.scheme import Scheme, adam, adam_start, same_points, weighed
from ravine.weights.weighting import known_terms


class _Pointwise(Scheme):
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
        return ones, (ones, {name: adam_start(one) for name, one in ones.items()}, self.held(objective, batch))

    def update(self, objective, theta, batch, weights, memory):
        roots, states, points = memory
        held, new_roots, new_states = self.held(objective, batch), {}, {}
        for name, root in roots.items():
            same, ones = same_points(points[name], held[name]), jnp.ones_like(root)
            root = jnp.where(same, root, ones)
            state = jax.tree.map(lambda a, b, same=same: jnp.where(same, a, b), states[name], adam_start(ones))
            losses = objective.pointwise(theta, name, held[name])
            step, new_states[name] = adam(2 * root * losses * _shares(objective, batch, name, root.shape[0]), state)
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
            root = jnp.where(same_points(points[name], held[name]), root, jnp.asarray(self.first, root.dtype))
            sizes = jnp.sqrt(2 * jnp.maximum(objective.pointwise(theta, name, held[name]), 0))
            top = jnp.max(sizes)
            new[name] = self.decay * root + self.rate * sizes / jnp.where(top > 0, top, 1)
        return {name: root**2 for name, root in new.items()}, (new, held)


class Causal(Scheme):
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
