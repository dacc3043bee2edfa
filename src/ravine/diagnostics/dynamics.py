"""Dynamics: what the tangent kernel predicts of gradient descent, and what a history tells of its own rate."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._types import Array, Batch, Float, Rows, Vector
from ravine.diagnostics.spectra import Spectrum
from ravine.objective import Objective

# By how much (in Bayes' information criterion) a curved fit must be better than a straight one.
BETTER = 10.0
# Logarithms of values are no more exact than this, so that exact data do not decide by rounding.
EXACT = 1e-6


def predicted_decay(
    eigenvalues: Sequence[float] | Array | np.ndarray, rate: float, steps: Sequence[int] | np.ndarray
) -> np.ndarray:
    """(1 − αλ_i)^k, `(steps, k)`: what gradient descent with rate α leaves of each mode of the residual.

    Exact where J is constant; with the kernel at the start, right for as long as that stays (`kernel_drift`).

    ```python
    >>> import ravine as rv
    >>> rv.predicted_decay([1.0, 0.5], 0.5, [0, 1, 2]).tolist()
    [[1.0, 1.0], [0.5, 0.75], [0.25, 0.5625]]

    ```
    """
    return (1 - rate * np.asarray(eigenvalues, np.float64)) ** np.asarray(steps, np.float64)[:, None]


@eqx.filter_jit
def _residuals(objective: Objective, thetas: Float[Array, "steps n"], batch: Batch) -> Float[Array, "steps m"]:
    return lax.map(lambda theta: objective.linearise(theta, batch).residual, thetas)


def mode_errors(
    objective: Objective,
    thetas: Float[Array, "steps n"],
    batch: Batch,
    vectors: Float[Array, "m k"] | np.ndarray,
) -> np.ndarray:
    """vᵢᵀ r(θ) along a trajectory, `(steps, k)`: how much of each mode (a column of `vectors`, such as
    `tangent_kernel(…).vectors`) is left in the whitened residual.

    **Raises:** `ValueError` when some loss is not ½‖F‖². **Cost:** one evaluation a step, and m·k flops.
    """
    return np.asarray(_residuals(objective.over(None), thetas, batch), np.float64) @ np.asarray(vectors, np.float64)


@dataclasses.dataclass(frozen=True)
class Drift:
    """How far a tangent kernel K' is from K: `relative` = ‖K' − K‖/‖K‖ and `alignment` = ⟨K, K'⟩/(‖K‖‖K'‖), by
    Frobenius. Alignment near 1 with a large `relative` means that the kernel grew, but did not turn."""

    relative: float
    alignment: float


@eqx.filter_jit
def _drift(objective: Objective, theta: Vector, other: Vector, batch: Batch):
    before, after = (objective.linearise(at, batch).kernel() for at in (theta, other))
    sizes = jnp.linalg.norm(before), jnp.linalg.norm(after)
    return jnp.linalg.norm(after - before) / sizes[0], jnp.sum(before / sizes[0] * (after / sizes[1]))


def kernel_drift(objective: Objective, theta: Vector, other: Vector, batch: Batch) -> Drift:
    """How much the tangent kernel changed from `theta` to `other`, on the same batch: a `Drift`.

    **Raises:** `ValueError` for an objective without rows. **Cost:** two kernels, 2m²n flops.

    Stanislav Fort et al., *Deep learning versus kernel learning*, NeurIPS 2020.
    """
    objective.require_curvature("A tangent kernel needs")
    relative, alignment = _drift(objective.over(None), theta, other, batch)
    return Drift(float(relative), float(alignment))


# ---------------------------------------------------------------------------------------------------- rates of a run


@dataclasses.dataclass(frozen=True)
class Convergence:
    """log y(k) ≈ offset − slope·φ(k), fitted to the end of a history.

    - `kind`: "linear", φ(k) = k: each step divides y by the same factor; "sublinear", φ(k) = log(k + shift): y falls
      like a power of k; "superlinear", φ(k) = bend^(k − start): the digits multiply; "stalled": y does not fall.
    - `rate`: linear, the factor exp(−slope) a step; sublinear, the power of k; superlinear, the order `bend` of
      convergence (2: quadratic); stalled, 1.
    - `misfit`: the root mean square of the errors of log y.
    - `last`: the k of the last value that was fitted.
    """

    kind: Literal["linear", "sublinear", "superlinear", "stalled"]
    rate: float
    misfit: float
    offset: float
    slope: float
    shift: float
    last: float

    def __call__(self, steps) -> np.ndarray:
        """The fitted y at `steps`, of any shape."""
        k = np.asarray(steps, np.float64)
        return np.exp(self.offset - self.slope * _warp(self.kind, k, self.shift, self.rate))

    def reaches(self, target: float) -> float:
        """The k at which the fit comes to `target`; infinite if it never does."""
        if not target > 0 or self.slope <= 0:
            return math.inf
        phi = (self.offset - math.log(target)) / self.slope
        if self.kind == "linear":
            return phi
        if self.kind == "sublinear":
            return math.exp(phi) - self.shift if phi < 700 else math.inf
        return self.shift + math.log(phi) / math.log(self.rate) if phi > 0 else -math.inf


def _warp(kind: str, k: np.ndarray, shift: float, bend: float) -> np.ndarray:
    if kind == "sublinear":
        return np.log(k + shift)
    if kind == "superlinear":
        return np.exp(math.log(bend) * (k - shift))
    return k


def convergence_rate(
    values: Sequence[float] | np.ndarray, *, steps: Sequence[float] | np.ndarray | None = None, tail: float = 0.5
) -> Convergence:
    """Which law a history of positive values (a loss, an error above what it tends to) follows, and its rate.

    Straight lines are fitted to log y over φ(k): k itself, log(k + shift) and bend^k, `shift` and `bend` by a search,
    each to the last `tail` of the values up to the lowest. A curved fit is taken only when Bayes' information criterion
    prefers it to the straight one by 10.

    **Arguments:** `values`, such as `run.history["loss"]`; what is not positive and finite is left out. `steps`: their
    k, by default 0, 1, 2, …; seconds serve as well. `tail`: the share that is fitted, of at least eight values where
    there are so many.

    **Returns:** a `Convergence`.

    **Raises:** `ValueError` for fewer than four values that can be used, or a tail outside (0, 1].

    ```python
    >>> import numpy as np, ravine as rv
    >>> k = np.arange(100)
    >>> found = rv.convergence_rate(3 * 0.9**k)
    >>> found.kind, round(found.rate, 6)
    ('linear', 0.9)
    >>> found = rv.convergence_rate(3 / (k + 5) ** 2)
    >>> found.kind, round(found.rate, 2)
    ('sublinear', 2.0)

    ```
    """
    y = np.asarray(values, np.float64)
    k = np.arange(y.size, dtype=np.float64) if steps is None else np.asarray(steps, np.float64)
    if not 0 < tail <= 1:
        raise ValueError(f"convergence_rate: tail is {tail}, but is a share in (0, 1].")
    usable = np.isfinite(y) & (y > 0) & np.isfinite(k)
    y, k = y[usable], k[usable]
    stuck = y.size - int(np.argmin(y)) > 1 + 0.25 * y.size if y.size else False
    if not stuck:  # what follows the lowest is rounding
        y, k = y[: int(np.argmin(y)) + 1], k[: int(np.argmin(y)) + 1]
    if y.size < 4:
        raise ValueError(
            f"convergence_rate: {y.size} positive values up to the lowest, but a rate needs four. Give a longer "
            "history, or one that falls."
        )
    count = min(y.size, max(8, math.ceil(tail * y.size)))
    y, k = np.log(y[-count:]), k[-count:]
    span = max(k[-1] - k[0], np.finfo(float).tiny)
    straight = _fit("linear", y, k, 0.0, 1.0)
    # Shifts below put the pole of the power law before the first value that is fitted.
    shifts = np.concatenate([-k[0] + span * np.geomspace(1e-3, 1e3, 241)])
    bends = np.exp(np.geomspace(0.5, 60, 241) / span)
    curved = [_best("sublinear", y, k, shifts), _best("superlinear", y, k, bends)]
    score = lambda fit, extra: count * math.log(fit.misfit**2 + EXACT**2) + extra * math.log(count)
    found = min(curved, key=lambda fit: fit.misfit)
    if count < 5 or score(straight, 0) - score(found, 1) < BETTER:
        found = straight
    drop = found.offset - found.slope * _warp(found.kind, k, found.shift, found.rate)
    # A slope within its noise is none.
    if found.slope <= 0 or drop[0] - drop[-1] <= 2 * found.misfit / math.sqrt(count):
        return Convergence("stalled", 1.0, float(y.std()), float(y.mean()), 0.0, 0.0, float(k[-1]))
    return found


def _fit(kind, y: np.ndarray, k: np.ndarray, shift: float, bend: float) -> Convergence:
    phi = _warp(kind, k, shift, bend)
    centre, mean = phi.mean(), y.mean()
    slope = -float((phi - centre) @ (y - mean) / max((phi - centre) @ (phi - centre), np.finfo(float).tiny))
    offset = float(mean + slope * centre)
    misfit = float(np.sqrt(np.mean((y - offset + slope * phi) ** 2)))
    rate = {"linear": math.exp(-min(max(slope, -700), 700)), "sublinear": slope, "superlinear": bend}[kind]
    return Convergence(kind, rate, misfit, offset, slope, shift, float(k[-1]))


def _best(kind, y: np.ndarray, k: np.ndarray, grid: np.ndarray) -> Convergence:
    """The best of a grid, refined twice around it."""

    def one(x: float) -> Convergence:
        # The power bend^(k − shift) is 1 at the last value, so that it does not overflow.
        return _fit(kind, y, k, float(x), 1.0) if kind == "sublinear" else _fit(kind, y, k, float(k[-1]), float(x))

    at = _lowest(fits := [one(x) for x in grid])
    for _ in range(3):
        grid = np.linspace(grid[max(at - 1, 0)], grid[min(at + 1, grid.size - 1)], 41)
        at = _lowest(fits := [one(x) for x in grid])
    return fits[at]


def _lowest(fits: list[Convergence]) -> int:
    return int(np.argmin([fit.misfit if fit.slope > 0 else np.inf for fit in fits]))


def time_to_target(
    values: Sequence[float] | np.ndarray,
    target: float,
    *,
    steps: Sequence[float] | np.ndarray | None = None,
    tail: float = 0.5,
) -> float:
    """At which step (or second, where `steps` are seconds) a history comes to `target`, by `convergence_rate`.

    Where it came there already, the first such step; infinite where it stalls.

    **Raises:** as `convergence_rate`.

    ```python
    >>> import numpy as np, ravine as rv
    >>> round(rv.time_to_target(0.5 ** np.arange(20), 0.5**30), 6)
    30.0

    ```
    """
    y = np.asarray(values, np.float64)
    there = np.flatnonzero(y <= target)
    if there.size:
        return float(there[0] if steps is None else np.asarray(steps)[there[0]])
    found = convergence_rate(y, steps=steps, tail=tail)
    return max(found.last, found.reaches(target))


def forecast_steps(spectrum: Spectrum, residual: Rows | np.ndarray, target: float, rate: float) -> float:
    """How many steps of gradient descent bring L = ½‖r‖² to `target`, mode by mode: the least k (whole) with
    ½ Σ (1 − αλ_i)^{2k} (vᵢᵀr)² + ½‖r − V Vᵀ r‖² ≤ target, by bisection.

    Infinite where the rate is above `spectrum.largest_stable_step` and the loss is above target; where a part of r that
    no mode reaches is too large; or beyond 1e15 steps.

    **Arguments:** `spectrum`: of the tangent kernel, with vectors `(m, k)`; `residual`: whitened, `(m,)`; `rate`: α.

    **Raises:** `ValueError` for a spectrum without vectors or of another size.

    ```python
    >>> import numpy as np, ravine as rv
    >>> spectrum = rv.Spectrum(np.array([1.0, 0.1]), np.eye(2), order=2)
    >>> rv.forecast_steps(spectrum, np.array([0.0, 1.0]), 0.5 * 0.9**20, 1.0)
    10.0

    ```
    """
    r = np.asarray(residual, np.float64)
    if spectrum.vectors is None or spectrum.vectors.shape[0] != r.size:
        raise ValueError("forecast_steps: needs the spectrum of tangent_kernel, with vectors over the rows of r.")
    modes = spectrum.vectors.T @ r
    unseen = max(float(r @ r - modes @ modes), 0.0) if spectrum.vectors.shape[1] < r.size else 0.0
    factors = np.abs(1 - rate * np.where(spectrum.eigenvalues > spectrum.floor, spectrum.eigenvalues, 0.0))

    def loss(k: float) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            return 0.5 * (float(np.sum(np.where(modes != 0, factors ** (2 * k) * modes**2, 0))) + unseen)

    target = target * (1 + 1e-12)  # so that rounding does not cost a step
    if loss(0.0) <= target:
        return 0.0
    if factors.max(initial=0, where=modes != 0) > 1:
        return math.inf
    high = 1.0
    while loss(high) > target:
        high *= 2
        if high > 1e15:
            return math.inf
    low = high / 2 if high > 1 else 0.0
    while high - low > 1:
        middle = float(math.floor((low + high) / 2))
        low, high = (low, middle) if loss(middle) <= target else (middle, high)
    return high
