"""Micro-benchmarks: how often ravine's kernel or step fits into its rival's, each side in processes of its own.

A ratio is (rival's time or memory)/(ravine's): larger is better. Sides take turns, the median over the rounds counts.
`history.jsonl` keeps the ratios, which hold on other machines, and the times they came from.
"""

import dataclasses
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import envs, machine, runner
from benchmarks.report import per_step

HISTORY = envs.HERE / "history.jsonl"
WORSE = 0.8  # of the stored median: less is a regression
STEP_SECONDS = 5.0  # of training, where the time of a step is taken from a run


@dataclasses.dataclass(frozen=True)
class Case:
    """Two sides on one problem. A side is a function of `sides`, or a method of `runner.METHODS` (time per step)."""

    problem: str
    ravine: str
    rival: str
    quantity: str = "seconds"


CASES = {
    "value_and_grad": Case("burgers-10000", "gradient_ravine", "gradient_plain"),
    "value_and_grad/limit": Case("burgers-10000", "gradient_ravine", "gradient_limit"),
    "value_and_grad in a loop/limit": Case("burgers-10000", "gradient_loop", "gradient_limit"),
    "adam": Case("burgers", "ravine-adam", "optax-adam"),
    "adam/10000 points": Case("burgers-10000", "ravine-adam", "optax-adam"),
    "ssbroyden": Case("burgers", "ravine-ssbroyden", "scipy-ssbroyden"),
    "levenberg_marquardt": Case("poisson2d-501", "ravine-levenberg_marquardt", "optimistix-lm"),
    "levenberg_marquardt/memory": Case("poisson2d-501", "memory_ravine", "memory_optimistix", "bytes"),
    "gauss_newton/limit": Case("poisson2d-1981", "gauss_newton_ravine", "gauss_newton_limit"),
}


def one(problem: str, side: str, quantity: str, scratch: Path) -> float:
    """One measurement, in a process of its own. **Raises:** `RuntimeError` with what that process said."""
    if side in runner.METHODS:
        run = runner.once(problem, side, 0, STEP_SECONDS, scratch)
        if run["stop"] == "error":
            raise RuntimeError(f"{side} on {problem}: {run['failure']}")
        return per_step(run["rows"])
    start = runner.start_file(problem, 0, scratch)
    command = [str(envs.python("jax")), "-m", "benchmarks.sides", side, str(start)]
    done = subprocess.run(command, env=envs.environment(), cwd=scratch, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{side} on {problem}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])[quantity]


def measure(cases: Sequence[str], rounds: int) -> dict:
    """The ratios, and the medians they were made of."""
    sides = {(CASES[name].problem, side, CASES[name].quantity): [] for name in cases for side in both(CASES[name])}
    with tempfile.TemporaryDirectory(prefix="ravine-bench-") as scratch:
        for number in range(rounds):
            for (problem, side, quantity), found in sides.items():
                found.append(one(problem, side, quantity, Path(scratch)))
                print(f"round {number + 1} of {rounds}: {side} {found[-1]:.4g} {quantity}", file=sys.stderr)
    medians = {side: statistics.median(found) for side, found in sides.items()}
    ratios, details = {}, {}
    for name in cases:
        case = CASES[name]
        ours, theirs = (medians[case.problem, side, case.quantity] for side in both(case))
        ratios[name], details[name] = theirs / ours, {case.ravine: ours, case.rival: theirs}
        print(f"{name:28} {ratios[name]:8.3g}   {case.ravine} {ours:.4g}, {case.rival} {theirs:.4g} {case.quantity}")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "revision": machine.revision(),
        "cpu": machine.cpu(),
        "cores": machine.cores(),
        "gemm_gflops": machine.gemm_rate(),
        "rounds": rounds,
        "ratios": ratios,
        "medians": details,
    }


def both(case: Case) -> tuple[str, str]:
    """ravine's side first."""
    return case.ravine, case.rival


def history(path: Path = HISTORY) -> list[dict]:
    """What is stored, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def store(found: dict, path: Path = HISTORY) -> None:
    """Appends."""
    with path.open("a") as file:
        file.write(json.dumps(found) + "\n")


def regressions(found: dict[str, float], before: Sequence[dict]) -> list[str]:
    """A sentence for each ratio that is worse than 0.8 times the median of the stored ones."""
    lines = []
    for name, ratio in found.items():
        known = [entry["ratios"][name] for entry in before if name in entry["ratios"]]
        if known and not ratio >= WORSE * statistics.median(known):
            usual = statistics.median(known)
            lines.append(f"{name}: {ratio:.3g}, {1 - ratio / usual:.0%} worse than the stored median {usual:.3g}.")
    return lines


def check(cases: Sequence[str], rounds: int, *, last: bool = False) -> int:
    """1 when some ratio got worse, else 0; `last` judges the newest stored entry by those before it."""
    before = history()
    if last and len(before) < 2:
        print("benchmarks check --last: needs two stored measurements. Make some: python -m benchmarks micro")
        return 1
    found = before.pop()["ratios"] if last else measure(cases, rounds)["ratios"]
    lines = regressions({name: ratio for name, ratio in found.items() if name in cases}, before)
    print("\n".join(lines) if lines else "No ratio got worse by more than 20 %.")
    return 1 if lines else 0
