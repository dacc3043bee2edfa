"""Checks of model and equations: what holds by construction, what can be reached at all, and how fast."""

import math

import jax
import numpy as np

from ravine.diagnostics.case import Case
from ravine.diagnostics.finding import Finding
from ravine.diagnostics.spectra import mean_frequency
from ravine.domains import Box
from ravine.models import Fourier
from ravine.problems.problem import GridReference

PINNED = 1e-8  # ‖∂u/∂θ‖ relative to the largest below which no parameter moves the model
# Decades over the last half of the steps. Less than FLAT is no progress; less than SLOW, a loss not even halved, may be
# steps along the valley between terms that contradict each other.
FLAT, SLOW = 0.1, 0.3


def broken_boundary(case: Case) -> Finding | None:
    """Values that no parameter moves, and that are wrong."""
    reference = None if case.problem is None else case.problem.reference
    if not isinstance(reference, GridReference) or reference.values.size < 4 or not case.finite:
        return None
    shape = reference.values.shape
    edge = np.zeros(shape, bool)
    for axis in range(len(shape)):
        edge[(slice(None),) * axis + ([0, -1],)] = True
    points, exact = reference.points, np.ravel(reference.values)
    on = np.flatnonzero(edge)[:: max(1, int(edge.sum()) // 128)]
    inside = np.flatnonzero(~edge)[:: max(1, int((~edge).sum()) // 128)]
    found, moved = case.response(np.concatenate([points[on], points[inside]]))
    if found.shape[1] != 1:
        return None
    wrong = found[:, 0] - np.concatenate([exact[on], exact[inside]])
    pinned = moved[: len(on)] <= PINNED * moved.max()
    size = math.sqrt(np.mean(exact**2))
    if not pinned.any() or size == 0:
        return None
    here = math.sqrt(np.mean(wrong[: len(on)][pinned] ** 2)) / size
    everywhere = math.sqrt(np.mean(wrong[len(on) :] ** 2)) / size
    share = min(1.0, here / everywhere) if everywhere > 0 else 1.0
    if here < 1e-4 or share < 0.1:
        return None
    return Finding(
        "broken-boundary",
        share * case.unsolved,
        "The hard constraint holds values at the boundary that are wrong.",
        f"At {int(pinned.sum())} of {len(on)} boundary points no parameter moves the model; its relative error there "
        f"is {here:.1e} (inside: {everywhere:.1e}).",
        "The lift, not the training, sets the solution there; the residual then belongs to another problem.",
        ("correct `offset` of models.Constrained: it must be the boundary values where `factor` is zero",),
        {"boundary": here, "inside": everywhere},
    )


def _alone(case: Case, rows: slice) -> float:
    """The share of a term's own loss that no small step removes."""
    assert case.linear is not None
    residual, jacobian = case.linear[0][rows], case.linear[1][rows]
    values, vectors = np.linalg.eigh(jacobian @ jacobian.T)
    total = float(residual @ residual)
    kept = (vectors.T @ residual)[values <= case.floor * values[-1]]
    return min(float(kept @ kept) / total, 1.0) if total > 0 else 0.0


def _cancelled(grads: np.ndarray) -> float:
    """The share of gradients `(k, n)` that is lost in their sum."""
    norms = float(np.linalg.norm(grads, axis=1).sum())
    return 1 - float(np.linalg.norm(grads.sum(axis=0))) / norms if norms > 0 else 0.0


def inconsistent(case: Case) -> Finding | None:
    """Terms that can each be met, but not together."""
    if case.unreachable is None or len(case.names) < 2 or case.falling > SLOW:
        return None
    test = case.loss if case.independent is None else case.independent
    # Where training was best or where it ended: steps go on along the valley, slowly.
    cancelled, values = max((_cancelled(grads), tuple(values)) for values, grads in (case.by_term, case.end_by_term))
    alone = max(_alone(case, rows) for rows in case.term_rows.values())
    # Where the sum of gradients vanishes, the residual is off the range of J: were the terms only badly conditioned
    # together, it would lie in modes that are slow.
    if cancelled < 0.5 or case.unreachable < 0.5 or test > 10 * case.loss:
        return None
    share = case.unreachable * (1 - alone)
    return Finding(
        "inconsistent-equations",
        share * case.unsolved * (1 - case.blame("duplicate-points", "broken-boundary", "drowned-term")),
        "The terms contradict each other.",
        f"{cancelled:.1%} of their gradients cancel at a loss of {sum(values):.1e} ({test:.1e} on independent "
        f"points); alone, each could shed {1 - alone:.0%} of its loss.",
        "No solution meets all terms: a wrong sign, a wrong coefficient, or data of another problem.",
        ("check signs and coefficients of each term, on a known solution", "leave out one term and train again"),
        {"cancelled": cancelled, "alone": alone, "loss": case.loss},
    )


def too_small(case: Case) -> Finding | None:
    """The residual lies off everything that the parameters can move."""
    share = case.unreachable
    if share is None or share < 0.5 or case.falling > FLAT:
        return None
    m, n = case.objective.size(case.part), case.objective.parameters
    if n > m / 2:
        return None
    causes = (
        "duplicate-points",
        "broken-boundary",
        "inconsistent-equations",
        "drowned-term",
        "noise",
        "rounding-floor",
        "low-fourier-scale",
        "saturated-units",
    )
    return Finding(
        "too-small-network",
        share * case.unsolved * (1 - case.blame(*causes)),
        "The network is too small.",
        f"{share:.0%} of the loss lies off the range of the Jacobian of {m:,} rows by {n:,} parameters, and the loss "
        "no longer falls.",
        "To first order no change of the parameters removes what is left, at the training points or elsewhere.",
        ("--width N, twice as many", "--set depth=N, one more layer"),
        {"share": share, "rows": m, "parameters": n},
    )


def saturated(case: Case) -> Finding | None:
    """Activations so far from zero that their slopes vanish."""
    share = max(case.saturation, default=0.0)
    if share < 0.5:
        return None
    layer, born = case.saturation.index(share) + 1, case.born_saturated
    causes = ["not-finite", "duplicate-points", "broken-boundary"]
    evidence = f"In hidden layer {layer} the slope of the activation is below 1e-3 at {share:.0%} of units and points"
    if born < 0.5 and case.fresh is not None:
        # Units may well saturate on the way: where the solution is steep, and where something else drives them.
        causes += ["rate-too-high", "noise", "low-fourier-scale", "too-small-network", "inconsistent-equations"]
        causes += ["overfitted-points", "drowned-term", "poisoned-pairs"]
        share, evidence = share / 2, f"{evidence}; before training at {born:.0%}"
    return Finding(
        "saturated-units",
        share * case.unsolved * (1 - case.blame(*causes)),
        "The activations are saturated.",
        f"{evidence}.",
        "Where slopes vanish so do the gradients of all layers before, and derivatives of the solution are spikes.",
        ("start from smaller weights", "scale the inputs: models.Compose(models.Scale(low, high), network)"),
        {"share": max(case.saturation), "layer": layer, "born": born},
    )


def low_scale(case: Case) -> Finding | None:
    """Fourier features whose frequencies are far below those of the solution."""
    embedded = jax.tree.leaves(case.model, is_leaf=lambda leaf: isinstance(leaf, Fourier))
    if not any(isinstance(leaf, Fourier) for leaf in embedded) or case.linear is None:
        return None
    residual, jacobian = case.linear
    if case.fresh_jacobian is not None:
        jacobian = (
            case.fresh_jacobian
        )  # what training can learn: later units that saturate make spikes of any frequency
    for name, rows in case.term_rows.items():
        points = case.points(name) if case.part is case.batch else None
        if points is None or len(points) != rows.stop - rows.start or len(points) < 16 or points.shape[1] > 2:
            continue
        values, vectors = np.linalg.eigh(jacobian[rows] @ jacobian[rows].T)
        learnt = values > max(case.floor, 1 / max(case.steps, 1000)) * values[-1]
        total = float(residual[rows] @ residual[rows])
        left = float(np.sum((vectors[:, ~learnt].T @ residual[rows]) ** 2)) / total if total > 0 else 0.0
        box = Box(points.min(axis=0), points.max(axis=0))
        needed = float(mean_frequency(residual[rows][:, None], points, box)[0])
        reached = _most(mean_frequency(vectors[:, learnt], points, box), values[learnt])
        if left > 0.5 and needed > 1.5 * reached:
            causes = ("not-finite", "duplicate-points", "broken-boundary", "noise")
            return Finding(
                "low-fourier-scale",
                left * case.unsolved * (1 - case.blame(*causes)),
                "The Fourier features are too slow for the solution.",
                f"The residual of {name!r} has {needed:.1f} waves across the domain in the mean, the modes that the "
                f"network learns in {max(case.steps, 1000):,} steps {reached:.1f} at most (99 % of the trace); "
                f"{left:.0%} of its loss lies beyond them.",
                "A network learns what its features hold; frequencies far above theirs take a time that grows without "
                "bound.",
                (f"models.Fourier(…, scale=…) {needed / max(reached, 0.5):.0f} times as large", "a second, faster set"),
                {"needed": needed, "reached": reached, "share": left},
            )
    return None


def _most(frequencies: np.ndarray, values: np.ndarray) -> float:
    """The frequency up to which 99 % of the sum of `values` lies."""
    order = np.argsort(frequencies)
    held = np.cumsum(values[order]) / np.sum(values)
    return float(frequencies[order][np.searchsorted(held, 0.99)])


def ill_conditioned(case: Case) -> Finding | None:
    """A first-order method before curvatures that differ by many orders."""
    if not case.first_order or case.spectrum is None or case.spectrum[0][0] == 0:
        return None
    values, shares = case.spectrum
    relative, steps = values / values[0], max(case.steps, 1000)
    slow = (relative < 1 / steps) & (relative > case.floor)
    share, least = min(float(shares[slow].sum()), 1.0), float(relative[relative > case.floor][-1])
    if share < 0.1:
        return None
    lowest = float(np.sum(shares * relative * slow)) / share  # the mean curvature of what is left there
    forecast = math.log(10) / 2 / lowest
    causes = (
        *("not-finite", "duplicate-points", "broken-boundary", "rate-too-high", "noise", "drowned-term"),
        *("inconsistent-equations", "too-small-network", "rounding-floor", "low-fourier-scale", "saturated-units"),
    )
    return Finding(
        "ill-conditioned",
        share * case.unsolved * (1 - case.blame(*causes)),
        "The problem is too ill-conditioned for a first-order method.",
        f"The Gramian's condition number is at least {1 / least:.0e}, and {share:.0%} of the remaining loss lies in "
        f"modes with less than 1/{steps:,} of the largest curvature.",
        f"A first-order method will need about {forecast:.0e} steps for another digit there.",
        ("--phases ssbroyden:60s", "--method levenberg_marquardt"),
        {"condition": 1 / least, "share": share, "steps": forecast},
    )
