"""Methods against each other on one problem: the same start, the same points, the same time, one process.

`compare(problem, names, …)` trains method after method and yields a `Result` for each; `table` and `draw` show them.
What a method costs is counted in evaluations of the loss: see `work`.
"""

import contextlib
import dataclasses
import json
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from ravine._results import Stop
from ravine.callbacks import Callback, Checkpoint
from ravine.checkpoint import RunFolderError
from ravine.minibatches import Minibatches
from ravine.objective import Objective
from ravine.optim.auto import auto
from ravine.optim.forecast import forecast
from ravine.optim.phase import Phase, Plan
from ravine.optim.presets import METHODS, called, method
from ravine.problems.problem import Problem
from ravine.run import History, Run, subkeys, work
from ravine.train import train

# Parameters from which on it is asked, before a method begins, whether there is memory for it: that takes a second.
MANY = 3_000
SAVE_SECONDS = 15.0
FIRST_ORDER = ("first order", "stochastic first order")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a method reached from one seed. `failure` says why there is nothing more than a name."""

    method: str
    seed: int
    folder: Path | None = None
    history: History | None = None
    stop: Stop | None = None
    failure: str = ""
    rows: int = 1  # of the Jacobian

    @property
    def family(self) -> str:
        """The family of the method."""
        name, _ = called(self.method)
        return METHODS[name].family if name in METHODS else "chosen by structure"

    @property
    def error(self) -> float | None:
        """The relative error of the run, at its best point, where something is known."""
        return None if self.history is None else self.history.best.get("error")

    @property
    def order(self) -> tuple[bool, float]:
        """By error, or by loss where no reference is known; what failed comes last."""
        if self.history is None:
            return True, math.inf
        value = self.history.best["loss"] if self.error is None else self.error
        return False, value if math.isfinite(value) else math.inf

    def row(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        found: dict[str, Any] = {"method": self.method, "family": self.family, "seed": self.seed}
        if self.history is None:
            return {**found, "failure": self.failure}
        last, best = self.history.rows[-1], self.history.best
        counts = ("evaluations", "gradients", "rows", "inner", "products")
        return {
            **found,
            "relative_l2": self.error,
            **{name: best.get(name) for name in ("loss", "test_loss")},
            **{name: last.get(name) for name in ("seconds", "compile_seconds")},
            "steps": last["step"],
            "seconds_per_step": last["seconds"] / max(last["step"], 1),
            **{name: last[name] for name in counts},
            "work": float(work(self.history, self.rows)[-1]),
            "stop": "" if self.stop is None else self.stop.value,
            "run": str(self.folder),
        }


# --------------------------------------------------------------------------------------------------- what is compared


def select(problem: Problem, *, seed: int = 0) -> tuple[list[str], dict[str, str]]:
    """The deterministic methods that apply to `problem`, and the others with the reason why not."""
    model_key, points_key, _, _ = subkeys(jax.random.key(seed))
    objective, theta, sampler = problem.objective(model_key)
    batch = sampler.init(points_key).batch
    reasons = {name: why_not(name, objective, theta, batch, sampler) for name in METHODS}
    return [name for name, why in reasons.items() if not why], {name: why for name, why in reasons.items() if why}


def why_not(name: str, objective: Objective, theta: Any, batch: Any, sampler: Any) -> str:
    """Why a method does not apply, in a sentence; "" where it does."""
    family, needs = METHODS[name].family, METHODS[name].needs
    if family.startswith("stochastic") or "minibatches" in needs:
        return "Made for minibatches: asked for by its name only."
    if "same points" in needs and isinstance(sampler, Minibatches):
        return "Needs the same points from step to step, and the problem draws minibatches."
    if "residuals" in needs and not objective.has_residuals:
        return "Needs residuals, and some loss of the problem is not ½‖F‖²."
    if "curvature" in needs and not objective.has_curvature:
        return "Needs losses with curvature, and the problem is one number."
    try:
        jax.eval_shape(lambda at: method(name).init(objective, at), theta)
    except (ValueError, TypeError) as error:
        return str(error)
    return "" if theta.size < MANY else _too_large(name, objective, batch)


def _too_large(name: str, objective: Objective, batch: Any) -> str:
    try:
        import psutil
    except ImportError:
        return ""
    available, needed = psutil.virtual_memory().available, forecast(method(name), objective, batch).process
    gibibytes = lambda count: f"{count / 2**30:.1f} GiB"
    if needed < available:
        return ""
    return f"Needs {gibibytes(needed)} of memory, of which {gibibytes(available)} are free."


def compare(
    problem: Problem,
    names: Sequence[str],
    *,
    seconds: float,
    folder: Path,
    seeds: Sequence[int] = (0,),
    callbacks: Sequence[Callback] = (),
    config: dict[str, Any] | None = None,
    begun: Callable[[str], None] = lambda message: None,
) -> Iterator[Result]:
    """Trains method after method for `seconds` each (compilation apart); yields a result as soon as there is one.

    Model and points of a seed are the same for every method. Each run has a folder in `folder`, saved as it goes on, so
    that nothing is lost when the rest is. A method that fails is a result that says why.

    **Raises:** `KeyboardInterrupt` after an interruption (by Ctrl-C or a callback), once its run is saved and yielded.
    """
    for number, (seed, name) in enumerate((seed, name) for seed in seeds for name in names):
        begun(f"[{number + 1}/{len(seeds) * len(names)}] {name}{f', seed {seed}' if len(seeds) > 1 else ''}")
        safe = re.sub(r"[^\w.+-]+", "-", name).strip("-")
        place = folder / (safe if len(seeds) == 1 else f"{safe}-{seed}")
        asked = {"cli": {"method": name, "budget": seconds, "seed": seed, "target": None}, **(config or {})}
        result, run = _one(problem, name, seed, seconds, place, callbacks, asked)
        yield result
        jax.clear_caches()  # no other method uses these programs, and a process can hold only so many
        if run is not None and run.stop is Stop.INTERRUPTED:
            raise KeyboardInterrupt


def _one(
    problem: Problem,
    name: str,
    seed: int,
    seconds: float,
    folder: Path,
    callbacks: Sequence[Callback],
    config: dict[str, Any],
) -> tuple[Result, Run | None]:
    checkpoint = Checkpoint(folder, every=SAVE_SECONDS)
    saving = lambda event: None if event.kind == "stop" else checkpoint(event)
    try:
        phases = auto(seconds=seconds) if name == "auto" else Plan((Phase(method(name), name=name),), seconds)
        run = train(problem, phases, key=jax.random.key(seed), callbacks=(saving, *callbacks), config=config)
        run.save(folder)
    except RunFolderError:
        raise  # a disk that is full is not the method's failure
    except Exception as error:  # whatever a method raises becomes its row
        with contextlib.suppress(OSError):
            folder.rmdir()  # made before anything could fail; what holds a run stays
        return Result(name, seed, failure=_first_line(error)), None
    rows = run.objective.size(run.position.carry.sampler.batch)
    return Result(name, seed, folder, run.history, run.stop, rows=rows), run


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    kind = type(error).__name__
    return lines[0] if isinstance(error, ValueError) else f"{kind}: {lines[0]}" if lines[0] else kind


# ------------------------------------------------------------------------------------------------------ what is shown

STOPS = {
    Stop.SECONDS: "time",
    Stop.SEARCH_FAILED: "search failed",
    Stop.STATIONARY: "stationary",
    Stop.NOT_FINITE: "not finite",
    Stop.INTERRUPTED: "interrupted",
    Stop.STALLED: "stalled",
}
COLUMNS = ("method", "error", "loss", "steps", "evaluations", "s/step", "compile", "stop", "note")


def table(results: Sequence[Result]) -> list[dict[str, str]]:
    """One row a method, best first: that of its median seed. Error and note speak of all seeds."""
    adam = [result.order[1] for result in results if result.method == "adam" and not result.failure]
    goal = statistics.median(adam) / 100 if adam else None
    found = []
    for name in dict.fromkeys(result.method for result in results):
        of_method = sorted((result for result in results if result.method == name), key=lambda r: r.order)
        middle = of_method[(len(of_method) - 1) // 2]
        found.append((middle.order, _shown(middle, of_method, goal)))
    return [row for _, row in sorted(found, key=lambda one: one[0])]


def _shown(result: Result, all_seeds: Sequence[Result], goal: float | None) -> dict[str, str]:
    if result.history is None:
        return dict.fromkeys(COLUMNS, "") | {"method": result.method, "stop": "failed", "note": result.failure}
    numbers, errors = result.row(), [other.error for other in all_seeds]
    error = "" if result.error is None else f"{result.error:.1e}"
    if error and len(errors) > 1:
        known = [value for value in errors if value is not None]
        error += f" ({min(known):.0e} to {max(known):.0e})"
    late = goal is not None and result.family not in FIRST_ORDER and not result.order[1] <= goal
    failed = sum(bool(other.failure) for other in all_seeds)
    return {
        "method": result.method,
        "error": error,
        "loss": f"{numbers['loss']:.1e}",
        "steps": f"{numbers['steps']:,}",
        "evaluations": f"{numbers['evaluations']:,}",
        "s/step": f"{numbers['seconds_per_step']:.1e}",
        "compile": f"{numbers['compile_seconds']:.1f} s",
        "stop": STOPS.get(result.stop, "") if result.stop is not None else "",
        "note": f"{failed} of {len(all_seeds)} seeds failed" if failed else why(result) if late else "",
    }


def why(result: Result) -> str:
    """Why a second-order method is not a hundred times better than Adam, as far as its history tells."""
    assert result.history is not None
    rows = result.history.rows
    last, steps = rows[-1], rows[-1]["step"]
    column = "loss" if result.error is None else "error"
    half = [row[column] for row in rows if row["seconds"] <= last["seconds"] / 2]
    fallen = min(half) / last[column] if half and last[column] > 0 else math.inf
    if result.stop is Stop.NOT_FINITE:
        return "became infinite or NaN"
    if result.stop is Stop.SEARCH_FAILED:
        return f"no lower loss found after {steps:,} steps"
    if last.get("test_loss", 0) > 10 * last["loss"]:
        return f"points fitted, others not ({last['test_loss']:.0e}): more points"
    if fallen > 1.5:
        return f"still falling: {fallen:.1f} times lower than at half the time"
    if steps < 100:
        return f"only {steps} steps in the time"
    return "stalled in the second half"


def summary(
    problem: Problem, results: Sequence[Result], left_out: dict[str, str], *, seconds: float, figure: Path | None
) -> dict[str, Any]:
    """Everything as plain values; numbers that are not finite become None."""
    plain = lambda value: None if isinstance(value, float) and not math.isfinite(value) else value
    notes = {row["method"]: row["note"] for row in table(results)}
    return {
        "problem": problem.name,
        "options": problem.options,
        "budget": seconds,
        "results": [
            {name: plain(value) for name, value in result.row().items()} | {"note": notes[result.method]}
            for result in sorted(results, key=lambda r: r.order)
        ],
        "left_out": left_out,
        "figure": None if figure is None else str(figure),
    }


def save(folder: Path, found: dict[str, Any], rows: Sequence[dict[str, str]]) -> None:
    """Writes `comparison.json` and `table.md`."""
    (folder / "comparison.json").write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    line = lambda cells: f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
    lines = [line(COLUMNS), line(["---"] * len(COLUMNS)), *(line(row.values()) for row in rows)]
    text = [f"{found['problem']}, {found['budget']:g} s a method, {time.strftime('%Y-%m-%d')}", "", *lines]
    if found["left_out"]:
        text += ["", "Left out:", "", *(f"- {name}: {reason}" for name, reason in found["left_out"].items())]
    (folder / "table.md").write_text("\n".join(text) + "\n")


def draw(problem: Problem, results: Sequence[Result], path: Path, *, seconds: float) -> None:
    """The figure: error (or loss) of every method against seconds and against work."""
    from ravine import plots

    known = any(result.error is not None for result in results)
    column = "error" if known else "loss"
    curves = [
        plots.Curve(
            label=result.method,
            group=result.family,
            seconds=result.history["seconds"],
            work=work(result.history, result.rows),
            values=result.history[column],
            reached=result.order[1],
        )
        for result in sorted(results, key=lambda r: r.order)
        if result.history is not None
    ]
    if curves:
        title = f"{problem.name.replace('_', ' ')}   ·   {seconds:g} s a method, from the same start"
        plots.comparison(curves, title=title, quantity="relative error" if known else "loss").savefig(
            path, dpi=150, facecolor="white"
        )
