"""Do the terms pull together, do the samples, and is a step larger than its noise?"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._types import Batch, Vector
from ravine.objective import Objective
from ravine.terms import Weighted, points_of

ROWS = 512  # samples whose gradients are compared in pairs
BLOCK = 32  # samples whose gradients are held at once


@dataclasses.dataclass(frozen=True)
class Conflict:
    """The gradients of weighted terms: `norms` by name, and `cosines`, `(k, k)` in the order of the names.

    `opposed` is the pair with the smallest cosine; `lost` the share of Σ‖gᵢ‖ that cancels, 1 − ‖Σgᵢ‖/Σ‖gᵢ‖; `dominant`
    the name whose gradient is the longest, and `ratio` how many times longer it is than the shortest.
    """

    norms: dict[str, float]
    cosines: np.ndarray
    lost: float

    @property
    def dominant(self) -> str:
        """The term with the longest gradient."""
        return max(self.norms, key=self.norms.__getitem__)

    @property
    def ratio(self) -> float:
        """The longest gradient over the shortest; infinite where one vanishes."""
        low, high = min(self.norms.values()), max(self.norms.values())
        return 1.0 if high == 0 else np.inf if low == 0 else high / low

    @property
    def opposed(self) -> tuple[str, str, float] | None:
        """The two terms that pull apart the most, and their cosine; None for a single term."""
        names = list(self.norms)
        pairs = [(names[i], names[j], float(self.cosines[i, j])) for j in range(len(names)) for i in range(j)]
        return min(pairs, key=lambda pair: pair[2], default=None)

    def __str__(self) -> str:
        if self.opposed is None:
            return f"One term, with a gradient of {max(self.norms.values()):.1e}."
        a, b, cosine = self.opposed
        how = "against each other" if cosine < -0.1 else "across each other" if cosine < 0.1 else "together"
        return (
            f"The gradient of {self.dominant!r} is the longest, {self.ratio:.1e} times the shortest; {a!r} and {b!r} "
            f"pull {how} (cosine {cosine:.2f}); {100 * self.lost:.0f} % of the gradients cancels."
        )


@eqx.filter_jit
def _gradients(objective: Objective, theta: Vector, batch: Batch):
    grads = objective.by_term(theta, batch)[1]
    return grads @ grads.T


def conflict(objective: Objective, theta: Vector, batch: Batch) -> Conflict:
    """How long the gradients of the (weighted) terms are, and at what angles they pull: a `Conflict`.

    **Cost:** one gradient and k²n flops. Sifan Wang, Yujun Teng and Paris Perdikaris, *Understanding and mitigating
    gradient flow pathologies in physics-informed neural networks*, SIAM J. Sci. Comput. 2021; cosines as in Tianhe Yu
    et al., *Gradient surgery for multi-task learning*, NeurIPS 2020.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> terms = [rv.Term("a", lambda x, _: x[0] - 1), rv.Term("b", lambda x, _: 2 * (x[0] + 1))]
    >>> objective, theta = rv.Objective.from_terms(terms, jnp.zeros(1))
    >>> found = rv.conflict(objective, theta, {"a": jnp.zeros((1, 1)), "b": jnp.zeros((1, 1))})
    >>> found.dominant, found.ratio, found.opposed
    ('b', 4.0, ('a', 'b', -1.0))

    ```
    """
    products = np.asarray(_gradients(objective, theta, batch), float)
    norms = np.sqrt(np.diag(products))
    sizes = np.where(norms > 0, norms, 1)
    total = float(np.sqrt(max(products.sum(), 0.0)))
    lost = 0.0 if norms.sum() == 0 else float(np.clip(1 - total / norms.sum(), 0, 1))
    names = [term.name for term in objective.terms]
    return Conflict(dict(zip(names, norms.tolist(), strict=True)), products / np.outer(sizes, sizes), lost)


# ------------------------------------------------------------------------------------------------------------- samples


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise that drawing points leaves in ∇L: `signal` = ‖E∇L‖², `variance` = E‖∇L − E∇L‖², both unbiased.

    `by_term` has each term's part of the variance. `ratio` = signal/variance: below one, a gradient step on these
    points follows its noise. `factor` = variance/signal: with that many times as many points both are equal (for one
    term, `factor` times the number of points is the simple noise scale tr Σ/‖g‖²).
    """

    signal: float
    variance: float
    by_term: dict[str, float]

    @property
    def ratio(self) -> float:
        """signal/variance."""
        return np.inf if self.variance == 0 else self.signal / self.variance

    @property
    def factor(self) -> float:
        """variance/signal."""
        return np.inf if self.signal == 0 else self.variance / self.signal


def _points(objective: Objective, batch: Batch, who: str) -> dict:
    """The points of each term. **Raises:** `ValueError` for terms that see their points at once, or weigh them."""
    found = {}
    for term in objective.terms:
        entry = points_of(batch)[term.name] if not objective.bare else None
        if term.whole or isinstance(entry, Weighted):
            raise ValueError(
                f"{who}: the term {term.name!r} has no independent samples (it sees its points at once, or weighs "
                "them). Use an objective of terms with points, such as ravine.residual(…) with uniform points."
            )
        found[term.name] = entry
    return found


@eqx.filter_jit
def _moments(objective: Objective, theta: Vector, points: dict):
    """The sum over points of the gradient and of its square, by term."""

    def one(name):
        single = lambda at, point: objective.pointwise(at, name, jax.tree.map(lambda leaf: leaf[None], point))[0]
        pull = lambda point: jax.grad(single)(theta, point)
        squares = lax.map(lambda point: jnp.sum(pull(point) ** 2), points[name], batch_size=BLOCK)
        mean = jax.grad(lambda at: jnp.mean(objective.pointwise(at, name, points[name])))(theta)
        return mean, jnp.mean(squares)

    return {name: one(name) for name in points}


def gradient_noise(objective: Objective, theta: Vector, batch: Batch) -> Noise:
    """How much of ∇L on these points is signal, and how much is due to which points were drawn: a `Noise`.

    For points drawn independently, the terms apart: Var ∇L = Σ w² tr Σ/m, Σ the covariance of one point's gradient. Of
    low-discrepancy points the true noise is smaller. **Raises:** `ValueError` for terms that see all points at once.

    **Cost:** the gradient of each point, `BLOCK` held at once. Sam McCandlish, Jared Kaplan and Dario Amodei, *An
    empirical model of large-batch training*, 2018, section 2.2 and equation 2.9, with per-sample gradients.
    """
    points = _points(objective, batch, "gradient_noise")
    found = _moments(objective.over(None), theta, points)
    variances, mean, weights = {}, 0.0, {term.name: float(term.weight) for term in objective.terms}
    for name, (grad, square) in found.items():
        count = jax.tree.leaves(points[name])[0].shape[0]
        grad = np.asarray(grad, float)
        spread = max(float(square) - float(grad @ grad), 0.0) * (count / (count - 1) if count > 1 else np.nan)
        variances[name] = weights[name] ** 2 * spread / count
        mean = mean + weights[name] * grad
    variance = sum(variances.values())
    return Noise(max(float(np.sum(np.square(mean))) - variance, 0.0), variance, variances)


@dataclasses.dataclass(frozen=True)
class Separability:
    """Whether samples are independent of each other: `coupling` is the share of ‖K‖²_F off the diagonal of the kernel
    K = JJᵀ, between 0 (what one sample learns no other notices) and 1 − 1/m; `cosine` the mean |cosine| of the samples'
    derivatives, and `expected` what it is for directions drawn at random in so many parameters."""

    coupling: float
    cosine: float
    expected: float

    def __str__(self) -> str:
        kind = "all but independent" if self.cosine < 3 * self.expected else "coupled"
        return f"Samples are {kind}: mean |cosine| {self.cosine:.2g} (random directions: {self.expected:.2g})."


@eqx.filter_jit
def _kernel(objective: Objective, theta: Vector, batch: Batch):
    return objective.linearise(theta, batch).kernel()


def separability(objective: Objective, theta: Vector, batch: Batch) -> Separability:
    """How strongly the rows of the residual are coupled through the parameters: a `Separability`.

    A sum over independent samples, for which stochastic methods are made, has K nearly diagonal; differential operators
    fill it. Evenly many of the points of each term are taken where there are more than `ROWS`. **Raises:** `ValueError`
    for an objective without rows. **Cost:** m²n flops.
    """
    rows = objective.size(batch)
    if rows > ROWS and not objective.bare:
        share = ROWS / rows
        batch = {name: _thinned(entry, share) for name, entry in points_of(batch).items()}
    kernel = np.asarray(_kernel(objective.over(None), theta, batch), float)
    diagonal = np.diag(kernel)
    total = float(np.sum(kernel**2))
    sizes = np.sqrt(np.where(diagonal > 0, diagonal, 1))
    off = ~np.eye(len(kernel), dtype=bool)
    cosines = np.abs(kernel / np.outer(sizes, sizes))[off]
    return Separability(
        0.0 if total == 0 else float(1 - np.sum(diagonal**2) / total),
        float(cosines.mean()) if cosines.size else 0.0,
        float(np.sqrt(2 / (np.pi * objective.parameters))),
    )


def _thinned(entry, share: float):
    count = jax.tree.leaves(entry)[0].shape[0]
    places = jnp.asarray(np.linspace(0, count - 1, min(count, max(2, int(count * share)))).round().astype(int))
    return jax.tree.map(lambda leaf: leaf[places], entry)
