"""Checks of the method: its rate, its memory, its noise, its budget, and what it pays attention to."""

import numpy as np

from ravine.diagnostics.case import Case
from ravine.diagnostics.finding import Finding

OFTEN = 50  # steps: points that change more often than this change under a quasi-Newton memory


def rate_too_high(case: Case) -> Finding | None:
    """A learning rate above 2/λ_max: steps overshoot along the steepest directions."""
    if not case.first_order or case.rate is None or not case.finite or type(case.direction).__name__ != "Steepest":
        return None
    product = case.rate * case.sharpness
    loss = case.column("loss")
    grown = len(loss) >= 4 and not loss[-1] < 0.5 * loss[len(loss) // 2]
    if product < 1.9 or (case.rows and not (grown and case.rises > 0.2)):
        return None
    share = max(1 - 2 / product, case.rises)
    return Finding(
        "rate-too-high",
        min(share, 1.0) * case.unsolved,
        "The learning rate is too high for the curvature.",
        f"The rate {case.rate:.1e} times the largest curvature {case.sharpness:.1e} is {product:.2g}, above 2; the "
        f"loss rose in {case.rises:.0%} of the last records.",
        "Beyond 2/λ_max each step along the steepest direction ends higher than it began: the loss oscillates.",
        (f"a rate of {1 / case.sharpness:.1e} or less", "--method ssbroyden (a line search chooses)"),
        {"rate": case.rate, "sharpness": case.sharpness, "rises": case.rises},
    )


def poisoned_pairs(case: Case) -> Finding | None:
    """A quasi-Newton method whose points change under its memory."""
    if not case.quasi_newton or case.every is None or case.every >= OFTEN or case.noise is None:
        return None
    signal, variance = case.noise
    share = variance / max(signal + variance, np.finfo(float).tiny)
    return Finding(
        "poisoned-pairs",
        share * case.unsolved,
        "The points change faster than the quasi-Newton memory can learn.",
        f"New points come every {case.every} steps; {share:.0%} of the squared gradient is different on the next.",
        "Its pairs of steps and gradient differences come from different losses, so that the curvature they describe "
        "is of none.",
        (
            "--sampler fixed with more --points N",
            "--sampler rad (every 300 steps)",
            "--method multibatch_lbfgs or adam",
        ),
        {"every": case.every, "share": share},
    )


def noise(case: Case) -> Finding | None:
    """The gradient of a batch is mostly sampling noise."""
    if case.quasi_newton or case.every is None or case.every >= OFTEN or case.noise is None:
        return None
    signal, variance = case.noise
    share = variance / max(signal + variance, np.finfo(float).tiny)
    if share < 0.5 or case.falling > 0.3:
        return None
    return Finding(
        "noise",
        share * case.unsolved * (1 - case.blame("rate-too-high")),
        "The gradient is mostly sampling noise.",
        f"Over batches the squared gradient is {signal:.1e} and its variance {variance:.1e}: signal to noise "
        f"{signal / variance:.1e}.",
        "Steps follow the draw of the points, and the loss stays where noise and rate balance: no bias of the model.",
        ("--points N, larger batches", "a lower or falling rate", "--method averaged", "--sampler fixed"),
        {"signal": signal, "variance": variance},
    )


def drowned_term(case: Case) -> Finding | None:
    """A condition that hardly counts beside the equation."""
    if len(case.names) < 2 or case.linear is None:
        return None
    residual, jacobian = case.linear
    del residual
    traces = {name: float(np.sum(jacobian[rows] ** 2)) for name, rows in case.term_rows.items()}
    total = sum(traces.values())
    name = min(traces, key=lambda name: traces[name])
    share = traces[name] / total if total > 0 else 1.0
    term = next(term for term in case.objective.terms if term.name == name)
    weight = float(term.weight)
    index = case.names.index(name)
    value = case.by_term[0][index] / weight if weight > 0 else np.inf
    # The mean square of the condition's residual, beside that of the solution at the same points.
    points = case.points(name)
    size = float(np.mean(case.response(_others(case, name, points))[0] ** 2)) if points is not None else 1.0
    wrong = min(1.0, np.sqrt(2 * value / size) / 1e-2) if size > 0 else 1.0
    # The others thrive on it; where they are not met either, something else is in the way.
    others = float(case.by_term[0].sum() - case.by_term[0][index])
    before = case.start if case.fresh_by_term is None else case.fresh_by_term.sum() - case.fresh_by_term[index]
    left = float(np.sqrt(max(others, 0.0) / before)) if before > 0 else 0.0
    thriving = float(np.clip(1.5 - 5 * left, 0, 1))
    if share > 0.02 or wrong < 0.3 or thriving == 0:
        return None
    return Finding(
        "drowned-term",
        (1 - share * len(traces)) * wrong * thriving * case.unsolved,
        f"The term {name!r} is drowned by the others.",
        f"It has {share:.1e} of the trace of the kernel, so learns {1 / max(share, 1e-300):.0e} times as slowly as all "
        f"together; its loss, without its weight of {weight:.2g}, is {value:.1e}.",
        "Steps go where the loss is steepest: the equation is solved, but with conditions that are not the ones meant.",
        ("--weights ntk", f"--weights {name}={weight / max(share * len(traces), 1e-12):.0f}"),
        {"term": name, "share": share, "loss": value},
    )


def _others(case: Case, name: str, points: np.ndarray) -> np.ndarray:
    found = [case.points(other) for other in case.names if other != name]
    return next((other[:256] for other in found if other is not None), points)


def short_budget(case: Case) -> Finding | None:
    """The loss is still falling steadily: training ended too early."""
    if case.falling < 0.2:
        return None
    share = min(1.0, case.falling / 2)
    causes = [kind for kind in case.checks if kind != "short-budget"]
    return Finding(
        "short-budget",
        share * case.unsolved * (1 - case.blame(*causes)),
        "The budget was too short.",
        f"Over the last half of the steps the loss fell by {case.falling:.1f} decades, and was still falling.",
        "Nothing is wrong but the time.",
        ("ravine resume RUN --budget 60s", "--phases ssbroyden:60s"),
        {"decades": case.falling},
    )
