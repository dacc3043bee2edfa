"""The checks, by the kind of finding that each may make: `check(case) -> Finding | None`.

**Blame is one scale for all**: the share of what is left to be done that would go if this one thing were put right.

- What is left is `case.unsolved`: 0 for a run with a relative error of 1e-5 or less, 1 from 1e-2 on.
- A check multiplies it by the share that it measured: of the loss that is overfitting, of the error at the boundary, of
  the residual in modes too slow to learn, of the gradient that is noise.
- A symptom yields to its cause: its share is of what the causes that were found leave over, Π(1 − blame).

So a run that is good enough has no findings, however ill-conditioned, and of several findings the first explains most.
"""

from ravine.diagnostics.case import Check
from ravine.diagnostics.checks.fit import (
    duplicate_points,
    not_finite,
    overfitted_points,
    rounding_floor,
)
from ravine.diagnostics.checks.model import (
    broken_boundary,
    ill_conditioned,
    inconsistent,
    low_scale,
    saturated,
    too_small,
)
from ravine.diagnostics.checks.steps import drowned_term, noise, poisoned_pairs, rate_too_high, short_budget

CHECKS: dict[str, Check] = {
    "not-finite": not_finite,
    "duplicate-points": duplicate_points,
    "rounding-floor": rounding_floor,
    "overfitted-points": overfitted_points,
    "broken-boundary": broken_boundary,
    "rate-too-high": rate_too_high,
    "poisoned-pairs": poisoned_pairs,
    "noise": noise,
    "drowned-term": drowned_term,
    "inconsistent-equations": inconsistent,
    "saturated-units": saturated,
    "low-fourier-scale": low_scale,
    "too-small-network": too_small,
    "ill-conditioned": ill_conditioned,
    "short-budget": short_budget,
}


def table() -> str:
    """The kinds of finding, as the table of docs/diagnose.md."""
    rows = [f"| `{kind}` | {(check.__doc__ or '').strip()} |" for kind, check in CHECKS.items()]
    return "\n".join(["| finding | what is wrong |", "|---|---|", *rows]) + "\n"
