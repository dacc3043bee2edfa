"""Terms as constraints: multipliers beside weights."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from ravine._results import Work
from ravine._types import Array, Batch, Float, PyTree, Vector
from ravine.objective import Objective
from ravine.terms import Weighted, points_of, squared
from ravine.weights.scheme import Scheme, reference_terms, same_points, weighed, with_points
from ravine.weights.weighting import known_terms


class _Shifted(eqx.Module):
    """F + ν at a pair (point, ν)."""

    features: Any

    def __call__(self, model, pair):
        point, shift = pair
        return ravel_pytree(self.features(model, point))[0] + shift


class AugmentedLagrangian(Scheme):
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
        inside = dict(zip([t.name for t in objective.terms], reference_terms(objective, None, ""), strict=True))
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
            same, now = same_points(points, held), jnp.sqrt(jnp.mean(jnp.sum(values**2, axis=1)))
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
        return dataclasses.replace(objective, terms=tuple(terms)), with_points(batch, entries)
