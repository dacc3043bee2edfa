"""Checks of what was fitted: numbers that are finite, points that are independent, digits that exist."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ravine.diagnostics.case import Case
from ravine.diagnostics.finding import Finding
from ravine.problems.problem import locate
from ravine.samplers import RAD, Importance

RATIO = 3.0  # losses on independent points up to this many times that on the training points are usual


def not_finite(case: Case) -> Finding | None:
    """The loss or its gradient is NaN or infinite."""
    if case.finite:
        late = [row for row in case.rows if not np.isfinite(row.get("loss", 0.0))]
        if not late and "NaN" not in case.stop:
            return None
        when = f"at step {late[0].get('step')}" if late else "when the run stopped"
        evidence = f"The loss was not finite {when}."
    else:
        where = "" if not np.isfinite(case.theta).all() else locate(case.objective, case.theta, case.batch)
        evidence = f"The loss is {case.loss} here. {where}".strip()
    return Finding(
        "not-finite",
        1.0,
        "The loss became NaN or infinite.",
        evidence,
        "Either the steps are too long, or the residual divides by zero or takes a root or logarithm it should not.",
        ("--method ssbroyden (its line search refuses such steps)", "a smaller rate: --phases 'adam(rate=1e-4):5000'"),
        {"loss": case.loss},
    )


def duplicate_points(case: Case) -> Finding | None:
    """The same point stands several times among the points of a term."""
    worst, which, counts = 0.0, "", (0, 0)
    if _by_residual(case.sampler):
        return None  # a point comes as often as it counts, and next time others do
    for name in case.names:
        points = case.points(name)
        if points is None or len(points) < 8:
            continue
        # Points of a boundary or an initial condition may well coincide where one coordinate alone is free.
        unique = len(np.unique(points, axis=0))
        if 1 - unique / len(points) > worst:
            worst, which, counts = 1 - unique / len(points), name, (unique, len(points))
    if worst < 0.1:
        return None
    return Finding(
        "duplicate-points",
        worst * max(case.unsolved, 0.3),
        f"Many points of the term {which!r} are the same.",
        f"Of {counts[1]:,} points {counts[0]:,} are different: {worst:.0%} add nothing.",
        "A repeated point is a constraint that was there already: the network is free wherever no other point is.",
        ("--sampler sobol", f"points of your own: points = np.unique(points, axis=0), for {which!r}"),
        {"share": worst, "unique": counts[0], "points": counts[1]},
    )


def _by_residual(sampler: Any) -> bool:
    """Whether points are drawn by their residual, here or inside of what wraps it."""
    while sampler is not None and not isinstance(sampler, (RAD, Importance)):
        sampler = getattr(sampler, "sampler", None)
    return sampler is not None


def overfitted_points(case: Case) -> Finding | None:
    """The training points are fitted, what lies between them is not."""
    test, loss, when = case.independent, case.loss, "The"
    last = case.rows[-1] if case.rows else {}
    end, late = last.get("loss", np.nan), last.get("test_loss", np.nan)
    # A run keeps the parameters that were best on independent points, as they were before it overfitted.
    if test is not None and np.isfinite(late) and 0 <= end < 0.1 * loss and late > test:
        test, loss, when = float(late), float(end), "At the end of training the"
    if test is None or not case.finite or not (np.isfinite(test) and test > 0) or loss < 0:
        return None
    ratio = test / max(loss, np.finfo(float).tiny)
    if ratio <= RATIO:
        return None
    blame = (1 - RATIO / ratio) * case.unsolved * (1 - case.blame("duplicate-points"))
    if case.born_saturated >= 0.5:  # spikes between the points, as many points as there may be
        blame *= 1 - case.born_saturated
    m, n = case.objective.size(case.batch), case.objective.parameters
    return Finding(
        "overfitted-points",
        blame,
        "The training points are overfitted.",
        f"{when} loss is {loss:.1e} on the training points and {test:.1e} on independent ones, {ratio:.0f} times as "
        f"much; {m:,} rows face {n:,} parameters.",
        "The residual vanishes at the points and not between them, so that further training does not lower the error.",
        ("--sampler rad", "--sampler departs", f"--points {4 * m}", "a smaller network: --width N"),
        {"loss": loss, "test_loss": test, "ratio": ratio, "rows": m, "parameters": n},
    )


def rounding_floor(case: Case) -> Finding | None:
    """The loss is as small as its own rounding: there are no digits left to train on."""
    if not case.finite or case.loss <= 0:
        return None
    eps, floor = float(jnp.finfo(case.theta.dtype).eps), case.rounding
    single = eps > 1e-10
    last = case.column("loss")[-5:]
    stuck = len(last) == 5 and abs(last[0] - last[-1]) <= 4 * case.wobble  # a decrease that is none
    if case.objective.has_residuals:
        share = min(1.0, 30 * floor / case.loss)  # searches lose their way before the last digit
        share = max(share, float(stuck and single and not case.first_order))
    else:
        share = float(stuck)
    if share < 0.1 or (not single and case.unsolved == 0):
        return None
    if case.falling > 0.5:
        share *= 0.3
    bits = 32 if single else 64
    return Finding(
        "rounding-floor",
        share * max(case.unsolved, 0.4 if single else 0.0),
        f"The loss is at the rounding floor of float{bits}.",
        f"Rounding the parameters to float{bits} alone makes a loss of {floor:.1e}, and changes the loss of "
        f"{case.loss:.1e} by {case.wobble:.1e}.",
        "Differences between the losses of two steps are rounding, so that a line search finds no lower one and stops.",
        ("--precision 64",) if single else ("scale the residual and the solution to size one",),
        {"floor": floor, "loss": case.loss, "eps": eps},
    )
