"""Runs as commands make them: with progress, checkpoints, an end by Ctrl-C or by a target, and a report."""

import json
import signal
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravine import hosts as company
from ravine.cli.printed import note, stdout, warn_of_float32
from ravine.cli.processes import who_is_gone
from ravine.cli.settings import restored_key, sizes
from ravine.console import Progress, finite, make_table
from ravine.words import Refusal

if TYPE_CHECKING:
    from ravine.callbacks import Event
    from ravine.optim.auto import Auto
    from ravine.optim.phase import Plan
    from ravine.problems.problem import Problem
    from ravine.run import Run


SAVE_SECONDS = 15.0  # between checkpoints


class Reached(KeyboardInterrupt):
    """Raised by a callback to end a run that is good enough: the loop then keeps what was reached, as for Ctrl-C."""


def carry_out(
    problem: "Problem",
    phases: "Auto | Plan | Any",
    folder: Path,
    *,
    config: dict[str, Any],
    as_json: bool,
    seed: int = 0,
    before: "Run | None" = None,
    live: bool = False,
    with_report: bool = False,
) -> int:
    """Trains, saves, draws, reports."""
    import jax

    from ravine._results import Stop
    from ravine.callbacks import Checkpoint
    from ravine.checkpoint import RunFolderError
    from ravine.train import train

    key = jax.random.key(seed) if before is None else restored_key(config)
    progress = Progress(sizes(problem, phases), live=live)
    warn_of_float32(phases)
    interrupt, checkpoint = Interrupt(progress.note), Checkpoint(folder, every=SAVE_SECONDS)
    target = (config.get("cli") or {}).get("target")
    # The last save is made below, when the reason why the run stopped is known.
    saving = lambda event: None if event.kind == "stop" else checkpoint(event)
    with progress, interrupt, warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: progress.note(f"warning: {message}")
        try:
            run = train(
                problem,
                phases,
                key=key,
                seconds=config.get("seconds"),
                callbacks=(progress, saving, Target(target), interrupt),
                resume=before,
                config=config,
                **({"block": config["block"]} if "block" in config else {}),
            )
        except RunFolderError as error:
            raise Refusal(str(error)) from None
        except KeyboardInterrupt:
            run = None
    lost = who_is_gone() if run is not None and run.stop is Stop.HOST_LOST else ""
    if run is None or not run.history.rows:
        if lost:
            raise company.HostLost
        note("ravine: interrupted before the first step; there is nothing to save.")
        return 130
    reached = run.history.rows[-1].get("error")
    if run.stop is Stop.INTERRUPTED and target is not None and reached is not None and reached <= target:
        run = run.ended(Stop.TARGET)
    try:
        run.save(folder)
    except RunFolderError as error:
        note(f"ravine: {error}")
        report(run, folder, None, as_json)
        return 1
    if lost:
        note(f"ravine: {lost}. What was reached is saved; go on with: ravine resume {folder}")
    page = folder / "report.html" if with_report and not lost else None
    if page:
        from ravine.report.page import write_report

        try:
            write_report(run, page)
        except OSError as error:
            note(f"The report could not be written: {error}")
            page = None
    report(run, folder, None if lost else draw(run, folder), as_json, page)
    return company.LOST if lost else 0


def compare_methods(
    problem: "Problem",
    names: Sequence[str],
    left_out: dict[str, str],
    folder: Path,
    *,
    seconds: float,
    seeds: Sequence[int],
    as_json: bool,
) -> int:
    """Trains all, saves, draws, reports."""
    from ravine import compare as comparison
    from ravine.checkpoint import RunFolderError

    results: list[comparison.Result] = []
    progress = Progress(sizes(problem, None))
    interrupt = Interrupt(progress.note)
    with progress, interrupt, warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: progress.note(f"warning: {message}")
        every = comparison.compare(
            problem,
            names,
            seconds=seconds,
            folder=folder,
            seeds=seeds,
            callbacks=(progress, interrupt),
            begun=progress.note,
        )
        try:
            for result in every:
                results.append(result)
                if result.failure:
                    progress.note(f"{result.method} failed: {result.failure}")
        except RunFolderError as error:
            raise Refusal(str(error)) from None
        except KeyboardInterrupt:
            progress.note("ravine: interrupted; what was reached is shown.")
    if not results:
        note("ravine: interrupted before the first method was done.")
        return 130
    figure: Path | None = folder / "comparison.png"
    try:
        comparison.draw(problem, results, figure, seconds=seconds)
    except (ImportError, OSError) as error:
        note(f"No figure was drawn: {error}. Without matplotlib, try: pip install 'ravine[cli]'")
    figure = figure if figure.exists() else None
    rows = comparison.table(results)
    found = comparison.summary(problem, results, left_out, seconds=seconds, figure=figure)
    folder.mkdir(parents=True, exist_ok=True)
    comparison.save(folder, found, rows)
    if as_json:
        print(json.dumps({**found, "out": str(folder)}))
        return 0
    table = make_table(*comparison.COLUMNS)
    for row in rows:
        table.add_row(*row.values())
    stdout().print(table)
    for name, reason in left_out.items():
        print(f"left out  {name}: {reason}")
    if figure:
        print(f"figure    {figure}")
    print(f"runs      {folder}")
    return 0


def take_part(
    problem: "Problem",
    phases: "Auto | Plan | Any",
    *,
    config: dict[str, Any],
    seed: int = 0,
    before: "Run | None" = None,
) -> int:
    """What a process other than the first does: it trains, and leaves all else to process 0."""
    import jax

    from ravine._results import Stop
    from ravine.train import train

    run = train(
        problem,
        phases,
        key=jax.random.key(seed) if before is None else restored_key(config),
        seconds=config.get("seconds"),
        resume=before,
        **({"block": config["block"]} if "block" in config else {}),
    )
    if run.stop is Stop.HOST_LOST:
        raise company.HostLost
    return 0


class Target:
    """Ends a run when the relative error is at or below `error`."""

    def __init__(self, error: float | None):
        self.error = error

    def __call__(self, event: "Event") -> None:
        found = event.row.get("error")
        if event.kind == "record" and self.error is not None and found is not None and found <= self.error:
            raise Reached


class Interrupt:
    """Ctrl-C: the first ends the run at the next look at the clock, the second at once."""

    def __init__(self, note: Callable[[str], None]):
        self.note, self.asked, self.begun = note, False, False
        self._before: Any = None

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, *_: object) -> None:
        if self.asked or not self.begun:
            raise KeyboardInterrupt
        self.asked = True
        self.note("Stopping and saving; Ctrl-C again to stop at once.")

    def __call__(self, event: "Event") -> None:
        self.begun = self.begun or event.kind == "record"
        if self.asked and event.kind in ("progress", "record"):
            raise KeyboardInterrupt


def draw(run: "Run", folder: Path) -> Path | None:
    """The figure in the run folder; None, and a note, where matplotlib is missing."""
    try:
        from ravine import plots
    except ImportError as error:
        note(f"No figure was drawn: {error}. Try: pip install 'ravine[cli]'")
        return None
    path = folder / "figure.png"
    try:
        plots.save(run, path)
    except OSError as error:
        note(f"The figure could not be written: {error}")
        return None
    return path


def report(run: "Run", folder: Path, figure: Path | None, as_json: bool, page: Path | None = None) -> None:
    """The result: one line of JSON on stdout, or a few lines for people."""
    from ravine.posterior import coefficients, told

    summary, found = run.summary(), coefficients(run)
    if as_json:
        line = {name: finite(value) for name, value in summary.items()} | {"run": str(folder)}
        numbers = {name: [finite(float(known.value)), finite(float(known.std))] for name, known in found.items()}
        print(json.dumps(line | ({"coefficients": numbers} if numbers else {})))
        return
    print(f"\n{run.stop.value}\n")
    for name, known in found.items():
        print(f"{name:16} {told(float(known.value), float(known.std))}")
    if summary["relative_l2"] is not None:
        print(f"relative error   {summary['relative_l2']:.3e}")
    independent = f"   (independent points: {summary['test_loss']:.3e})" if summary["test_loss"] is not None else ""
    print(f"loss             {summary['loss']:.3e}{independent}")
    print(f"method           {summary['method']}, {summary['steps']:,} steps, {summary['evaluations']:,} evaluations")
    print(f"seconds          {summary['seconds']:.1f}, and {summary['compile_seconds']:.1f} to compile")
    if figure:
        print(f"figure           {figure}")
    if page:
        print(f"report           {page}")
    print(f"run              {folder}")
