"""Errors told apart: by cause, by norm, by frequency, by place."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from ravine._types import Array, Batch, Model, Vector
from ravine.objective import Objective
from ravine.problems.problem import GridReference
from ravine.terms import Weighted, points_of

REACHED = 1e-10  # eigenvalues of the kernel below this share of the largest lead nowhere
ROWS = 2000  # of the residual that are decomposed


@dataclasses.dataclass(frozen=True)
class Split:
    """The loss on independent points as a sum: `sampling` + `optimisation` + `approximation` = `independent`.

    - `sampling`: by how much it exceeds the loss on the training points (negative where it is smaller).
    - `optimisation`: what of the training loss the parameters could still remove, to first order: ½‖P r‖², P the
      projection onto the range of J.
    - `approximation`: the rest, which no small change of these parameters removes.
    """

    sampling: float
    optimisation: float
    approximation: float

    @property
    def independent(self) -> float:
        """The sum."""
        return self.sampling + self.optimisation + self.approximation

    @property
    def largest(self) -> str:
        """The name of the largest part."""
        return max(("sampling", "optimisation", "approximation"), key=lambda name: getattr(self, name))

    def __str__(self) -> str:
        return (
            f"Of a loss of {self.independent:.1e} on independent points, {self.sampling:.1e} is due to the points, "
            f"{self.optimisation:.1e} to training not being finished, {self.approximation:.1e} to the model."
        )


@eqx.filter_jit
def _decomposed(objective: Objective, theta: Vector, batch: Batch):
    lin = objective.linearise(theta, batch)
    values, vectors = jnp.linalg.eigh(lin.kernel())
    return values, vectors.T @ lin.residual


def error_split(objective: Objective, theta: Vector, batch: Batch, other: Batch) -> Split:
    """Sampling, optimisation and approximation error, in terms of the loss: a `Split`.

    `batch` are the training points, `other` independent ones. Where J has as many independent rows as there are
    residuals, everything is reachable and the approximation error is zero: the split then is between points and
    optimisation alone. **Raises:** `ValueError` when some loss is not ½‖F‖², or for more than 2,000 rows (train the
    split on fewer points). **Cost:** m²n + 9m³ flops.

    The three errors are those of Léon Bottou and Olivier Bousquet, *The tradeoffs of large scale learning*, NeurIPS
    2007, here in the tangent space at θ.
    """
    rows = objective.size(batch)
    if rows > ROWS:
        raise ValueError(f"error_split: {rows:,} rows would be decomposed; give a batch of {ROWS:,} rows or fewer.")
    values, along = (np.asarray(each, float) for each in _decomposed(objective.over(None), theta, batch))
    floor = max(REACHED, 10 * float(jnp.finfo(theta.dtype).eps)) * max(values[-1], 0)
    reached = float(np.sum(along[values > floor] ** 2) / 2)
    total = float(np.sum(along**2) / 2)
    independent = float(_loss(objective.over(None), theta, other))
    return Split(independent - total, reached, total - reached)


@eqx.filter_jit
def _loss(objective: Objective, theta: Vector, batch: Batch):
    return objective(theta, batch)


# -------------------------------------------------------------------------------------------------- against a reference


@eqx.filter_jit
def _on_grid(model: Model, points: Array):
    return jax.lax.map(model, points, batch_size=4096)


def _difference(model: Model, reference: GridReference) -> tuple[np.ndarray, np.ndarray]:
    exact = np.asarray(reference.values, float)
    points = jnp.asarray(reference.points, jnp.result_type(float))
    return np.asarray(_on_grid(model, points), float).reshape(exact.shape) - exact, exact


def _trapezoid(squares: np.ndarray, axes: tuple[np.ndarray, ...]) -> float:
    for axis in reversed(axes):
        squares = np.trapezoid(squares, axis, axis=-1) if len(axis) > 1 else squares[..., 0]
    return float(squares)


@dataclasses.dataclass(frozen=True)
class Norms:
    """Relative errors: `l2`, `h1` (values and first derivatives), `seminorm` (first derivatives alone), `maximum`."""

    l2: float
    h1: float
    seminorm: float
    maximum: float


def error_norms(model: Model, reference: GridReference) -> Norms:
    """Relative errors of `model` in L2, H1 and L∞ over the grid: `Norms`.

    Integrals by the trapezoidal rule; derivatives by second-order differences of error and reference alike, so that
    errors that oscillate faster than the grid are not seen. **Cost:** one evaluation of the model on the grid.

    ```python
    >>> import jax.numpy as jnp, numpy as np, ravine as rv
    >>> x = np.linspace(0, 1, 101)
    >>> reference = rv.problems.GridReference((x,), np.ones(101), ("x",))
    >>> round(rv.error_norms(lambda z: 1 + 0.1 * z[0], reference).maximum, 12)
    0.1

    ```
    """
    error, exact = _difference(model, reference)
    axes = tuple(np.asarray(axis, float) for axis in reference.axes)

    def sizes(values):
        slopes = [np.gradient(values, axis, axis=i, edge_order=2) for i, axis in enumerate(axes) if len(axis) > 2]
        first = sum((_trapezoid(slope**2, axes) for slope in slopes), 0.0)
        return _trapezoid(values**2, axes), first

    (zero, one), (zero_exact, one_exact) = sizes(error), sizes(exact)
    ratio = lambda a, b: float(np.sqrt(a / b)) if b > 0 else float(np.sqrt(a))
    return Norms(
        ratio(zero, zero_exact),
        ratio(zero + one, zero_exact + one_exact),
        ratio(one, one_exact),
        float(np.max(np.abs(error)) / (np.max(np.abs(exact)) or 1.0)),
    )


@dataclasses.dataclass(frozen=True)
class Bands:
    """Squared error by frequency: `share[i]` of it has between `edges[i]` and `edges[i + 1]` waves across the domain;
    `exact` is the same of the reference, `relative` the error in a band over the reference in it."""

    edges: np.ndarray
    share: np.ndarray
    exact: np.ndarray
    relative: np.ndarray


def error_bands(model: Model, reference: GridReference) -> Bands:
    """The error by Fourier band, octave by octave: `Bands`.

    By cosine transform of error and reference on the (uniform) grid; the frequency of a mode with j_i half waves along
    axis i is √Σ(j_i/2)². What spectral bias leaves behind is in the upper bands. **Raises:** `ValueError` for a grid
    that is not uniform. **Cost:** one evaluation of the model on the grid.

    Nasim Rahaman et al., *On the spectral bias of neural networks*, ICML 2019.
    """
    for name, axis in zip(reference.names, reference.axes, strict=True):
        steps = np.diff(np.asarray(axis, float))
        if len(steps) and np.ptp(steps) > 1e-6 * abs(steps.mean()):
            raise ValueError(f"error_bands: the reference's grid is not uniform along {name}, as a transform needs.")
    error, exact = _difference(model, reference)
    waves = [np.arange(count) / 2 for count in error.shape]
    frequency = np.sqrt(sum(grid**2 for grid in np.meshgrid(*waves, indexing="ij")))
    octaves = int(np.ceil(np.log2(max(frequency.max(), 1.0)))) + 1
    edges = np.array([0.0, *(2.0**k for k in range(octaves))])
    place = np.clip(np.searchsorted(edges, frequency.ravel(), side="right") - 1, 0, len(edges) - 2)

    def by_band(values):
        energy = np.asarray(scipy.fft.dctn(values, norm="ortho")).ravel() ** 2
        return np.bincount(place, energy, len(edges) - 1)

    wrong, right = by_band(error), by_band(exact)
    total, whole = wrong.sum(), right.sum()
    relative = np.sqrt(wrong / np.where(right > 0, right, np.nan))
    return Bands(edges, wrong / (total or 1.0), right / (whole or 1.0), relative)


# ------------------------------------------------------------------------------------------------------------ by place


@dataclasses.dataclass(frozen=True)
class ResidualMap:
    """φ at points of a term, `values` at `points` `(m, d)`, and `missing`: those of the independent points at which it
    is far above anything on the training points, worst first; `share` is how much of the independent loss they hold."""

    points: np.ndarray
    values: np.ndarray
    missing: np.ndarray
    share: float


def residual_map(
    objective: Objective, theta: Vector, batch: Batch, other: Batch, name: str, *, above: float = 10.0
) -> ResidualMap:
    """Where the loss of the term `name` lies, and where training points are missing: a `ResidualMap`.

    Missing are the points of `other` where φ is more than `above` times its 95th percentile on the points of `batch`.
    **Raises:** `KeyError` for an unknown term. **Cost:** one evaluation on each batch.
    """
    if name not in {term.name for term in objective.terms}:
        raise KeyError(f"residual_map: there is no term {name!r}; they are {[term.name for term in objective.terms]}.")
    values = [np.asarray(_pointwise(objective.over(None), theta, name, _entry(each, name))) for each in (batch, other)]
    where = np.asarray(_entry(other, name), float)
    level = above * float(np.quantile(values[0], 0.95))
    order = np.argsort(-values[1])
    far = order[values[1][order] > level]
    total = float(values[1].sum())
    return ResidualMap(where, values[1], where[far], float(values[1][far].sum() / total) if total > 0 else 0.0)


def _entry(batch: Batch, name: str) -> Array:
    entry = points_of(batch)[name]
    return entry.points if isinstance(entry, Weighted) else entry


@eqx.filter_jit
def _pointwise(objective: Objective, theta: Vector, name: str, points: Array):
    return objective.pointwise(theta, name, points)
