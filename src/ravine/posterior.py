"""How sure one can be of what was found: the covariance of parameters, coefficients and fields, by linearisation."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import ndtri

from ravine._types import Array, Batch, Float, Matrix, Model, PyTree, Rows, Scalar, Square, Vector
from ravine.objective import Objective
from ravine.problems.problem import CoefficientReference, GridReference
from ravine.run import Run

# A quantity is determined when no more of its derivative than this share (squared) lies where nothing was measured.
UNSEEN = 1e-8


class Confidence(eqx.Module):
    """A quantity with its standard deviation and an interval: arrays of the quantity's shape."""

    value: Array
    std: Array
    low: Array
    high: Array


class Posterior(eqx.Module):
    """The Gaussian approximation N(θ, Σ) of what is known about the parameters; see `ravine.posterior`.

    - `noise`: the standard deviation σ of the data, given or estimated.
    - `freedom`: how many parameters the data determined, tr J_d (JᵀJ)⁻¹J_dᵀ: what was taken off their number to
      estimate σ.
    """

    objective: Objective
    theta: Vector
    directions: Float[Array, "n r"]  # an orthonormal basis (n, r) of what was measured at all
    root: Float[Array, "r k"]  # Σ = directions · root · rootᵀ · directionsᵀ, but for what was not measured
    prior: Scalar
    noise: Scalar
    freedom: Scalar

    def covariance(self, of: Callable[[Model], PyTree]) -> Square:
        """The covariance D Σ Dᵀ of the k numbers that `of(model)` consists of, D their derivatives in θ.

        Infinite variances (and no covariance, NaN) where the data do not determine a number. **Cost:** D, by forward or
        reverse mode, and k n r flops.
        """
        seen, unseen = _spread(self, of)
        rest = jnp.diag(unseen)
        return seen @ seen.T + jnp.where(jnp.isinf(rest), jnp.inf, rest)

    def std(self, of: Callable[[Model], PyTree]) -> Array:
        """The standard deviations of what `of(model)` returns, one array, in its shape. **Cost:** as `covariance`,
        without its k² numbers."""
        seen, unseen = _spread(self, of)
        return jnp.sqrt(jnp.sum(seen**2, axis=1) + unseen).reshape(jnp.shape(of(self.objective.model(self.theta))))

    def confidence(self, of: Callable[[Model], PyTree], *, level: float = 0.95) -> Confidence:
        """What `of(model)` returns, one array, with symmetric intervals that hold the truth with probability `level`.

        **Raises:** `ValueError` for a level outside (0, 1).
        """
        if not 0 < level < 1:
            raise ValueError(f"confidence: the level is {level}, but a probability between 0 and 1 is needed.")
        value, std = jnp.asarray(of(self.objective.model(self.theta))), self.std(of)
        reach = float(ndtri((1 + level) / 2)) * std
        return Confidence(value, std, value - reach, value + reach)


@eqx.filter_jit
def _spread(found: Posterior, of: Callable[[Model], PyTree]) -> tuple[Matrix, Rows]:
    """D·directions·root, and the variance that comes from where nothing was measured."""
    flat = lambda theta: ravel_pytree(of(found.objective.model(theta)))[0].astype(theta.dtype)
    count = jax.eval_shape(flat, found.theta).shape[0]
    slopes = (jax.jacrev if count <= found.theta.shape[0] else jax.jacfwd)(flat)(found.theta)
    along = slopes @ found.directions
    size = jnp.sum(slopes**2, axis=1)
    missing = jnp.maximum(size - jnp.sum(along**2, axis=1), 0)
    unseen = jnp.where(missing > UNSEEN * size, missing * found.prior**2, 0)
    return along @ found.root, unseen


def posterior(
    run: Run | None = None,
    *,
    objective: Objective | None = None,
    theta: Vector | None = None,
    batch: Batch = None,
    noise: float | None = None,
    data: Sequence[str] | None = None,
    prior: float = math.inf,
    kind: Literal["posterior", "sampling"] = "posterior",
) -> Posterior:
    """The covariance of trained parameters, from the Jacobian of all residuals and the noise σ of the data.

    With whitened rows J = [J_d; J_p] (rows scaled by √(w/m), w the weight of a term and m its points) exp(−L/s) is a
    density in θ for each s > 0. It makes a row of the data N(0, σ²) when s = σ² w_d/m_d, and then linearised

        Σ = s (JᵀJ + s I/prior²)⁻¹.

    - Rows of `data` are measurements with independent errors of standard deviation σ.
    - All other rows (equations, boundary values, penalties) are prior knowledge, and as reliable as their weights say:
      a residual of such a term counts as N(0, σ² (w_d/m_d)/(w_p/m_p)). Equations known to hold exactly deserve a large
      weight; with a small one Σ is larger than it need be. It is exact where the features are linear in θ.
    - kind="sampling": instead the covariance s G⁻¹J_dᵀJ_d G⁻¹, G = JᵀJ + s I/prior², of the minimiser itself under new
      data errors, everything else being as it was. It is never larger; biases by other terms are not in it.

    Noise is all that Σ knows: where the network's own error is larger, as it is from data without noise, coefficients
    are farther from the truth than it says.

    **Arguments:**

    - `run`, what training returned; or `objective`, `theta` and `batch`.
    - `noise`: σ; None estimates it from the data's own residuals, σ̂² = Σr²/(m_d − freedom). For classification (losses
      that are negative log-likelihoods) it is 1.
    - `data`: the names of terms that are measurements, by default all that get points as data (no region, not whole).
      Where there are several, σ is that of the first, and the others' follow from their weights.
    - `prior`: the standard deviation of the parameters around what was found; infinite: what no row sees (singular
      values of J below rounding, m·eps relative) has infinite variance.

    **Raises:** `ValueError` for no data, a noise that is not positive, more parameters determined than data, or an
    objective without rows.

    **Cost:** the m×n Jacobian (8mn bytes), its QR factorisation and the SVD of R: 2mn² + 20n³ flops (m ≥ n).

    David MacKay, *A practical Bayesian framework for backpropagation networks*, 1992, section 3, with the Gauss–Newton
    matrix for the Hessian; for kind="sampling" Anthony Davison, *Statistical Models*, 2003, section 4.6.

    ```python
    >>> import equinox as eqx, jax.numpy as jnp, ravine as rv
    >>> x, y = jnp.array([[0.0], [1.0], [2.0], [3.0]]), jnp.array([0.1, 0.9, 2.1, 2.9])
    >>> class Line(eqx.Module):
    ...     slope: object
    ...
    ...     def __call__(self, x):
    ...         return self.slope * x[0]
    >>> objective, theta = rv.Objective.from_terms([rv.supervised("data")], Line(jnp.array(1.0)))
    >>> known = rv.posterior(objective=objective, theta=theta, batch={"data": (x, y)}, noise=0.1)
    >>> round(float(known.std(lambda line: line.slope)), 6)  # 0.1/√(0² + 1² + 2² + 3²)
    0.026726

    ```
    """
    if run is not None:
        objective, theta = run.objective, run.theta
        batch = run.position.carry.sampler.batch if batch is None else batch
    if objective is None or theta is None:
        raise ValueError("posterior: needs a run, or objective=, theta= and batch=.")
    objective.require_curvature("A covariance needs")
    names = _measured(objective, data)
    if noise is not None and not (np.isfinite(noise) and noise > 0):
        raise ValueError(f"posterior: noise is {noise}, but is a standard deviation: positive and finite.")
    if noise is None and not objective.has_residuals:
        raise ValueError("posterior: noise can be estimated for squared losses only. For log-likelihoods say noise=1.")
    if not prior > 0:
        raise ValueError(f"posterior: prior is {prior}, but is a standard deviation: positive, or infinite.")
    # On one device: what is dense is not shared out.
    objective = objective.over(None)
    placed: Any = jax.device_put((theta, batch), jax.local_devices()[0])
    at, batch = placed
    residual, singular, basis, measured, mean = _decomposed(objective, at, batch, tuple(names))
    count = measured.shape[0]
    limit = singular.max(initial=0) * np.finfo(at.dtype).eps * max(objective.size(batch), at.shape[0])
    kept = singular > limit
    singular, basis, measured = singular[kept], basis[:, kept], measured[:, kept]

    def inner(s):  # of the diagonal matrix (JᵀJ + s/prior²)⁻¹
        return 1 / (singular**2 + s / prior**2)

    # The prior's part in σ̂ is left out: it is there to bound what was not measured.
    freedom = float(np.sum((measured / singular) ** 2))
    if noise is None:
        if count - freedom < 0.5:
            raise ValueError(
                f"posterior: {count} data determine {freedom:.0f} parameters, so that nothing is left to estimate the "
                "noise from. Say what it is: noise=0.01."
            )
        noise = math.sqrt(float(np.sum(residual**2)) / (count - freedom) / mean)
    s = noise**2 * mean
    if kind == "posterior":
        root = np.diag(np.sqrt(s * inner(s)))
    else:
        # R of J_d V in place of J_d V: as good a root, and smaller.
        root = math.sqrt(s) * inner(s)[:, None] * np.asarray(np.linalg.qr(measured, mode="r")).T
    as_array = lambda x: jnp.asarray(x, at.dtype)
    return Posterior(
        objective, at, as_array(basis), as_array(root), as_array(prior), as_array(noise), as_array(freedom)
    )


def coefficients(run: Run) -> dict[str, Confidence]:
    """The coefficients of an inverse problem that are numbers, with standard deviations by an estimated noise.

    Standard deviations are NaN where the noise cannot be estimated. Empty for other problems.
    """
    reference = None if run.problem is None else run.problem.reference
    exact = reference.exact if isinstance(reference, CoefficientReference) else {}
    names = [name for name, known in exact.items() if not isinstance(known, GridReference)]
    if not names:
        return {}
    try:
        found = posterior(run)
    except ValueError:
        value = {name: jnp.asarray(run.model.coefficients[name]) for name in names}
        return {name: Confidence(x, x * jnp.nan, x * jnp.nan, x * jnp.nan) for name, x in value.items()}
    return {name: found.confidence(Coefficient(name)) for name in names}


def told(value: float, std: float) -> str:
    """A coefficient in words, with its standard deviation where one is known."""
    return f"{value:.8g} ± {std:.1e} (one standard deviation)" if math.isfinite(std) else f"{value:.8g}"


class Coefficient(eqx.Module):
    """`model ↦ model.coefficients[name]`, and at `points`, where given, for a field."""

    name: str = eqx.field(static=True)
    points: Array | None = None

    def __call__(self, model: Model) -> Array:
        value = model.coefficients[self.name]
        return value if self.points is None else jax.vmap(value)(self.points)


def _measured(objective: Objective, data: Sequence[str] | None) -> list[str]:
    """The names of the terms that are data."""
    names = [term.name for term in objective.terms]
    if data is None:
        found = [term.name for term in objective.terms if objective.bare or (term.region is None and not term.whole)]
    else:
        found = [data] if isinstance(data, str) else list(data)
    unknown = [name for name in found if name not in names]
    if unknown or not found:
        raise ValueError(
            f"posterior: {f'there is no term {unknown[0]!r}' if unknown else 'no term gets its points as data'}; the "
            f"terms are {names}. Name those that are measurements: data=('data',)."
        )
    return found


@eqx.filter_jit
def _factors(objective: Objective, theta: Vector, batch: Batch, names: tuple[str, ...]):
    lin = objective.linearise(theta, batch)
    pieces = objective.pieces(batch)
    rows = [piece.map(piece.jacobian(theta)) for piece in pieces]
    parts = dict(zip([piece.term.name for piece in pieces], rows, strict=True))
    sizes = np.cumsum([0, *(part.shape[0] for part in rows)])
    places = {piece.term.name: slice(a, b) for piece, a, b in zip(pieces, sizes[:-1], sizes[1:], strict=True)}
    first = next(piece for piece in pieces if piece.term.name == names[0])
    mean = first.term.weight * (jnp.mean(first.weights) if not first.term.whole else jnp.ones((), theta.dtype))
    ours = jnp.concatenate([parts[name] for name in names])
    others = [part for name, part in parts.items() if name not in names]
    whole = jnp.concatenate([ours, *others])
    _, singular, basis = jnp.linalg.svd(jnp.linalg.qr(whole, mode="r"), full_matrices=False)
    if objective.has_residuals:
        residual = jnp.concatenate(
            [lin.residual[places[name]] for name in (*names, *(n for n in parts if n not in names))]
        )
    else:
        residual = jnp.zeros(whole.shape[0], theta.dtype)
    return residual, singular, basis.T, jnp.matmul(ours, basis.T, precision=jax.lax.Precision.HIGHEST), mean


def _decomposed(objective: Objective, theta: Vector, batch: Batch, names: tuple[str, ...]):
    """Residuals of the data, singular values and right singular vectors of J, J_d in their basis, w_d/m_d."""
    *arrays, mean = _factors(objective, theta, batch, names)
    residual, singular, basis, measured = (np.asarray(array, np.float64) for array in arrays)
    return residual, singular, basis, measured, float(mean)
