"""What a report tells of a run, as plain numbers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine.diagnostics.advice import Diagnosis, diagnose_run
from ravine.diagnostics.finding import Finding
from ravine.diagnostics.spectra import Spectrum, curvature
from ravine.objective import Weighted
from ravine.posterior import coefficients
from ravine.problems.problem import CoefficientReference, GridReference
from ravine.run import Run, work
from ravine.terms import points_of

MODERATE = 1_000  # parameters up to which the Gauss–Newton matrix is decomposed: about a second
ROWS = 20_000  # beside which its Jacobian is kept
VALUES = 60_000  # of a solution, over all runs
POINTS = 3_000  # training points drawn, of each term


@dataclasses.dataclass(frozen=True)
class Field:
    """A solution on a thinned reference grid: `found` and `exact` have the shape of the axes."""

    axes: tuple[np.ndarray, ...]
    names: tuple[str, ...]
    found: np.ndarray
    exact: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """|u − u*|."""
        return np.abs(self.found - self.exact)


@dataclasses.dataclass(frozen=True)
class Content:
    """A run as a report tells it."""

    name: str
    run: Run
    work: np.ndarray
    field: Field | None
    points: Mapping[str, np.ndarray]
    spectrum: Spectrum | None
    findings: tuple[Finding, ...]
    coefficients: Mapping[str, tuple[float, float]]
    verdict: str  # where there are no findings


def measure(run: Run, name: str, findings: Sequence[Finding] | None, *, share: int = 1) -> Content:
    """All that a report tells of a run; the findings are measured too where they are None. `share`: of how many."""
    with jax.enable_x64(run.theta.dtype == jnp.float64):
        batch = points_of(run.position.carry.sampler.batch)
        diagnosis = diagnose_run(run) if findings is None else Diagnosis(tuple(findings))
        return Content(
            name,
            run,
            work(run.history, max(int(run.objective.size(batch)), 1)),
            _field(run, VALUES // share),
            _points(run),
            _spectrum(run, batch),
            tuple(sorted(diagnosis.findings, key=lambda finding: -finding.blame)),
            {name: (float(known.value), float(known.std)) for name, known in coefficients(run).items()},
            diagnosis.verdict,
        )


def _field(run: Run, most: int) -> Field | None:
    reference = None if run.problem is None else run.problem.reference
    grid = reference.solution if isinstance(reference, CoefficientReference) else reference
    if not isinstance(grid, GridReference) or len(grid.axes) > 3:
        return None
    keep = thinned(np.shape(grid.values), most)
    axes = tuple(np.asarray(axis)[rows] for axis, rows in zip(grid.axes, keep, strict=True))
    exact = np.asarray(grid.values, np.float64)[np.ix_(*keep)]
    points = jnp.asarray(GridReference(axes, exact, grid.names).points, run.theta.dtype)
    found = eqx.filter_jit(lambda model, z: jax.lax.map(model, z, batch_size=4096))(run.model, points)
    if found.size != exact.size:
        return None
    return Field(axes, grid.names, np.asarray(found, np.float64).reshape(exact.shape), exact)


def thinned(shape: Sequence[int], most: int) -> list[np.ndarray]:
    """Evenly spread indices along each axis, ends included: at most `most` in all, but three along an axis.

    ```python
    >>> from ravine.report.content import thinned
    >>> [len(rows) for rows in thinned((257, 101), 2000)]
    [33, 51]

    ```
    """
    sizes = list(shape)
    while np.prod(sizes) > most and max(sizes) > 3:
        longest = int(np.argmax(sizes))
        sizes[longest] = max((sizes[longest] + 1) // 2, 3)
    return [
        np.unique(np.linspace(0, length - 1, size).round().astype(int))
        for length, size in zip(shape, sizes, strict=True)
    ]


def _points(run: Run) -> dict[str, np.ndarray]:
    """The training points of each term that are arrays of one or two coordinates."""
    batch: Any = run.position.carry.sampler.batch
    found = {}
    for term in run.objective.terms if isinstance(batch, dict) else ():
        entry: Any = batch.get(term.name)
        points = entry.points if isinstance(entry, Weighted) else entry
        if getattr(points, "ndim", 0) == 2 and points.shape[1] in (1, 2):
            found[term.name] = np.asarray(points)[:: max(1, len(points) // POINTS)]
    return found


def _spectrum(run: Run, batch: Any) -> Spectrum | None:
    objective = run.objective.over(None)
    if not objective.has_residuals or run.theta.size > MODERATE or objective.size(batch) > ROWS:
        return None
    found = curvature(objective, run.theta, batch)
    return found if np.isfinite(found.eigenvalues).all() and found.kept.size else None
