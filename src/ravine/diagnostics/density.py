"""How the eigenvalues of a large matrix are spread: densities by stochastic Lanczos quadrature."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Batch, RandomKey, Vector
from ravine.diagnostics.lanczos import Kind, Preconditioner, factored, lanczos, ready, ritz
from ravine.objective import Objective

# An eigenvector is taken out of a density when its residual is below this share of its gap: its angle is.
SEPARATE = 1e-3


@dataclasses.dataclass(frozen=True, eq=False)
class Density:
    """Where the eigenvalues lie: a measure Σ weights·δ(nodes) with total 1, that of `order` eigenvalues.

    - `nodes`: `(q,)`, ascending; `weights`: `(q,)`, shares of all eigenvalues, with sum 1.
    - `of`, `order`: as a `Spectrum` has them.
    """

    nodes: np.ndarray
    weights: np.ndarray
    of: str
    order: int

    def __call__(self, at: Any, *, width: float = 0.1, log: bool = True, least: float = 1e-16) -> np.ndarray:
        """The density at `at` (any shape), smoothed by Gaussians.

        **Arguments:** `log`: of log₁₀ λ, with `width` in decades and all λ below `least`·λ_max put there; otherwise of
        λ, with `width` as a share of max |λ|. Each integrates to 1.
        """
        at, top = np.asarray(at, np.float64), float(np.abs(self.nodes).max(initial=0)) or 1.0
        nodes = self.nodes / top
        if log:
            place, nodes = np.log10(np.maximum(at / top, np.finfo(float).tiny)), np.log10(np.maximum(nodes, least))
        else:
            place = at / top
        away = (place[..., None] - nodes) / width
        bell = np.exp(-(away**2) / 2) / (width * np.sqrt(2 * np.pi))
        return np.sum(bell * self.weights, axis=-1) / (1.0 if log else top)

    def count(self, low: float, high: float = np.inf) -> float:
        """About how many eigenvalues lie in [low, high]."""
        return float(self.order * self.weights[(self.nodes >= low) & (self.nodes <= high)].sum())


def spectral_density(
    objective: Objective,
    theta: Vector,
    batch: Batch,
    kind: Kind = "gauss-newton",
    *,
    preconditioner: Preconditioner = None,
    probes: int = 2,
    products: int = 128,
    key: RandomKey,
) -> Density:
    """The density of the eigenvalues of JᵀJ, ∇²L or JJᵀ by stochastic Lanczos quadrature, with no matrix formed.

    One Lanczos run finds the eigenvectors at the ends; they are counted exactly. Random signs, without their part along
    these, start the other runs, and each gives a Gauss quadrature of the rest of the density; nodes and weights are
    averaged over `probes`. Longer runs find more ends, and are worth more than more of them: with the defaults the
    Wasserstein distance to the exact density of a network of 2,000 parameters is below 5 % of the mean |λ| (a test).

    **Arguments:** `preconditioner`: as in `curvature`; `probes`, `products`: how many runs, and how long each.

    **Raises:** `ValueError` for an objective without rows unless kind="hessian"; and for fewer than one of each.

    **Cost:** (probes + 1)·products products, five or six evaluations each, and 2·products vectors of memory.

    Shashanka Ubaru, Jie Chen and Yousef Saad, *Fast estimation of tr(f(A)) via stochastic Lanczos quadrature*, 2017;
    Behrooz Ghorbani, Shankar Krishnan and Ying Xiao, *An investigation into neural net optimization via Hessian
    eigenvalue density*, 2019. Taking the ends out first is ours, after Hutch++ (Meyer et al., 2021).

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> scales = jnp.array([1.0, 1.0, 1.0, 2.0])
    >>> objective, theta = rv.Objective.from_residuals(lambda x, _: scales * x, jnp.ones(4))
    >>> found = rv.spectral_density(objective, theta, None, key=jax.random.key(0))
    >>> round(found.count(0.5, 1.5), 3), round(found.count(3.5), 3)
    (3.0, 1.0)

    ```
    """
    if probes < 1 or products < 1:
        raise ValueError(f"spectral_density: needs at least one of each, got {probes=}, {products=}.")
    if kind != "hessian":
        objective = ready(objective, "This density needs")
    objective, root = objective.over(None), factored(preconditioner)
    order = objective.size(batch) if kind == "kernel" else theta.shape[0]
    of = {"gauss-newton": "the Gauss–Newton matrix", "hessian": "the Hessian", "kernel": "the tangent kernel"}[kind]
    of += "" if preconditioner is None else ", preconditioned"
    run = functools.partial(
        lanczos, objective, theta, batch, root, kind=kind, by_rows=kind == "kernel", products=min(products, order)
    )
    keys = jax.random.split(key, probes + 1)
    basis, *small = run(jax.random.normal(keys[0], (order,), theta.dtype))
    values, vectors, left = ritz(*small)
    # An eigenvector is as right as its residual over its gap is small.
    gaps = np.minimum(np.diff(values, prepend=-np.inf), np.diff(values, append=np.inf))
    ends = left * np.abs(vectors[-1]) <= SEPARATE * np.minimum(gaps, np.abs(values).max())
    known = jnp.asarray(basis)[: values.size].T @ jnp.asarray(vectors[:, ends], theta.dtype)
    nodes, weights = [values[ends]], [np.full(ends.sum(), 1 / order)]
    rest = order - int(ends.sum())
    for one in keys[1:] if rest else []:
        start = jax.random.rademacher(one, (order,), theta.dtype)
        for _ in range(2):
            start = start - known @ (known.T @ start)
        if not float(jnp.linalg.norm(start)) > 1e-6:
            continue
        _, *small = run(start)
        values, vectors, _ = ritz(*small)
        nodes.append(values)
        weights.append(vectors[0] ** 2 * rest / order / probes)
    at, shares = np.concatenate(nodes), np.concatenate(weights)
    rank = np.argsort(at)
    return Density(at[rank], shares[rank] / shares.sum(), of, order)
