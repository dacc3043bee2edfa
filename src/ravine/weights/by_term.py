"""A weight for each term, from sizes of losses, gradients and Jacobians."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, Batch, Float, Scalar
from ravine.objective import Objective
from ravine.weights.scheme import Scheme, adam, adam_start, named, reference_terms, stacked


class Annealing(Scheme):
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
        kept = jnp.asarray(reference_terms(objective, self.reference, "Annealing"))
        top = jnp.max(jnp.abs(jnp.sum(jnp.where(kept[:, None], grads, 0), axis=0)))
        means, old = jnp.mean(jnp.abs(grads), axis=1), stacked(objective, weights)
        target = jnp.where(means > 0, top / jnp.where(means > 0, means, 1), old)
        return named(objective, jnp.where(kept, 1, (1 - self.alpha) * old + self.alpha * target)), memory


class Balance(Scheme):
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
        return named(objective, _moved(stacked(objective, weights), norms, self.alpha)), memory


class NTKTrace(Scheme):
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
        return named(objective, _moved(stacked(objective, weights), jnp.stack(traces), self.alpha)), memory


def _moved(old: Float[Array, "k"], sizes: Float[Array, "k"], alpha: Scalar | float) -> Float[Array, "k"]:
    """α old + (1 − α) Σ sizes / size; the old where a size is zero."""
    target = jnp.where(sizes > 0, jnp.sum(sizes) / jnp.where(sizes > 0, sizes, 1), old)
    return alpha * old + (1 - alpha) * target


class GradNorm(Scheme):
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
        return weights, (first, adam_start(jnp.ones_like(first)))

    def update(self, objective, theta, batch, weights, memory):
        first, state = memory
        losses, grads = objective.by_term(theta, batch)
        given = jnp.stack([term.weight for term in objective.terms])
        old, norms = stacked(objective, weights), jnp.linalg.norm(grads, axis=1)
        inverse = losses / jnp.where(first * given > 0, first * given, 1)
        mean = jnp.mean(inverse)
        relative = inverse / jnp.where(mean > 0, mean, 1)
        sizes = old * norms
        target = jnp.mean(sizes) * relative**self.alpha
        step, state = adam(jnp.sign(sizes - target) * sizes, state)
        new = old * jnp.exp(-self.rate * step)
        return named(objective, new * (new.shape[0] / jnp.sum(new))), (first, state)


class ReLoBRaLo(Scheme):
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
        old = stacked(objective, weights)

        def balanced(since):
            ratios = losses / (self.temperature * jnp.where(since > 0, since, 1))
            return losses.shape[0] * jax.nn.softmax(ratios)

        keep = jax.random.bernoulli(now, jnp.asarray(self.rho, old.dtype))
        history = jnp.where(keep, old, balanced(first))
        new = self.alpha * history + (1 - self.alpha) * balanced(last)
        return named(objective, new), (first, losses, later)
