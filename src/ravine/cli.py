"""The command line: `ravine solve burgers --budget 60s`.

Results go to stdout, progress and messages to stderr. Exit codes: 0 for a run, whatever the numerical reason it stopped
for; 2 for input that cannot be used, with one message and no traceback; 3 when a process of a run over several is gone;
1 for an error that nobody expected, with its traceback.

JAX is imported inside the commands, so that help appears at once and threads, precision and cache are set first.
"""

import contextlib
import dataclasses
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from ravine import doctor as machine, hosts as company
from ravine.console import Progress, finite, make_table, shown
from ravine.words import (
    Refusal,
    Step,
    check_method,
    check_options,
    options_of,
    parse_methods,
    parse_phases,
    parse_seconds,
    parse_setting,
    parse_target,
    parse_weights,
)

if TYPE_CHECKING:
    from ravine.callbacks import Event
    from ravine.optim.auto import Auto
    from ravine.optim.phase import Plan
    from ravine.problems.problem import Problem
    from ravine.run import Run

BUDGET, COMPARED = "60s", "20s"
SAVE_SECONDS = 15.0  # between checkpoints


class Reached(KeyboardInterrupt):
    """Raised by a callback to end a run that is good enough: the loop then keeps what was reached, as for Ctrl-C."""


def _whole(_: type, tokens: Sequence[Any]) -> int:
    """A whole number; cyclopts alone would round 1.5 to 2."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is no whole number.") from None


Whole = Annotated[int | None, Parameter(allow_leading_hyphen=True, converter=_whole)]

app = cyclopts.App(
    name="ravine",
    help="Train scientific machine-learning models well, and see why training stalls.",
    version=lambda: _version(),
    help_format="plaintext",
)

# ------------------------------------------------------------------------------------------------------------ commands


@app.command
def problems(name: str | None = None, /) -> int:
    """List the problems, or tell all about one: statement, class, unknowns, reference, options, the best errors.

    Parameters
    ----------
    name
        A problem, to see its options and the whole of its statement.
    """
    from ravine import listing

    if name is None:
        _stdout().print(listing.problems())
        print("\nours: median of three seeds on two cores, by ravine solve NAME and what is said there.")
        print("ravine problems NAME (its options), ravine solve NAME --points 2000 --set option=value")
    else:
        options_of(name)  # refuses a name that there is not
        print(listing.problem(name))
    return 0


@app.command
def methods(*, markdown: Annotated[bool, Parameter(negative=(), show_default=False)] = False) -> int:
    """List the methods: what each is, costs, keeps and needs. (n parameters, m rows.)

    Parameters
    ----------
    markdown
        Print the page docs/methods.md.
    """
    if markdown:
        from ravine.optim.presets import METHODS
        from ravine.optim.presets._method import catalogue_page

        print(catalogue_page(METHODS), end="")
        return 0
    from ravine import listing

    _stdout().print(listing.methods())
    print("\nravine solve PROBLEM --method NAME, or a sequence: --phases adam:500,ssbroyden:60s")
    return 0


@app.command
def solve(
    problem: str,
    /,
    *,
    method: str = "auto",
    phases: str | None = None,
    budget: Annotated[str | None, Parameter(allow_leading_hyphen=True, show_default=lambda _: "60s")] = None,
    seed: Annotated[int, Parameter(allow_leading_hyphen=True, converter=_whole)] = 0,
    precision: Literal[64, 32] = 64,
    points: Whole = None,
    sampler: str | None = None,
    weights: str | None = None,
    width: Whole = None,
    depth: Whole = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = (),
    target: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    hosts: Whole = None,
    out: Path | None = None,
    live: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    report: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Solve a problem, save the run, draw its figure.

    Ctrl-C ends the run and keeps what was reached; `ravine resume` goes on. The folder is saved every 15 seconds.

    Parameters
    ----------
    problem
        Its name, from `ravine problems`.
    method
        A name from `ravine methods`, with settings where wanted: lbfgs(memory=50).
    phases
        Methods in sequence, with steps or time: adam:500,ssbroyden:60s. The last one needs neither.
    budget
        Wall time of training, compilation apart: 90, 60s, 2m or 1h. Phases with own limits need none.
    seed
        Of model, points and steps.
    precision
        Bits of a floating-point number.
    points
        Training points.
    sampler
        fixed, redraw (new points now and then), departs (when they are overfitted), by residual rad, r3, rar, rard or
        importance, marching (further in time); or fixed: grid, uniform, latin, sobol, halton, hammersley.
    weights
        How terms are weighed: a name such as ntk, with settings ntk:every=50; or numbers, bc=100,pde=1.
    width
        Units in a hidden layer.
    depth
        Hidden layers.
    settings
        Any other option of the problem, such as --set k=4; may be repeated.
    target
        Stop when the relative error is at or below this number.
    hosts
        Processes on this machine that share out the points. Under srun nothing needs to be said.
    out
        Folder of the run, default runs/PROBLEM-DATE-TIME. An existing one is never written over.
    live
        Draw the convergence in the terminal while the run goes on.
    report
        Write report.html into the folder at the end, as `ravine report` does.
    json
        Print one line of JSON on stdout, everything else on stderr.
    """
    if phases is not None and method != "auto":
        raise Refusal("Give either --method (one) or --phases (a sequence), not both.")
    steps = None if phases is None else list(parse_phases(phases))
    limited = steps is not None and all(step.limited for step in steps)
    seconds = parse_seconds(budget) if budget is not None else None if limited else parse_seconds(BUDGET)
    if not 0 <= seed < 2**32:
        raise Refusal(f"The seed must be a whole number from 0 to 2³² − 1, got {seed}.")
    goal = None if target is None else parse_target(target, precision)
    options = {"points": points, "width": width, "depth": depth, "sampling": sampler}
    options = {name: value for name, value in options.items() if value is not None}
    others = dict(parse_setting(text) for text in settings)
    if options.keys() & others.keys():
        raise Refusal(f"The option {min(options.keys() & others.keys())!r} is given twice.")
    if report:
        need_plotly()
    place = find_place(hosts)
    note(f"ravine: {problem}, {phases or method}, {_budget(seconds)}, float{precision}, seed {seed}")
    prepare(place)
    _set_precision(precision)
    options = check_options(problem, options | others)
    plan = make_phases(method, steps, seconds)
    made = make_problem(problem, options, weights)
    if goal is not None and made.reference is None:
        raise Refusal(f"--target needs a known solution, and {problem} has none.")
    asked = {"method": phases or method, "budget": seconds, "seed": seed, "target": goal, "weights": weights}
    if not leads():
        return take_part(made, plan, seed=seed, config={"cli": asked})
    folder = claim(out, problem)
    with released(folder):
        return carry_out(
            made, plan, folder, seed=seed, config={"cli": asked}, as_json=json, live=live, with_report=report
        )


@app.command
def compare(
    problem: str,
    /,
    *,
    methods: str = "all",
    budget: Annotated[str, Parameter(allow_leading_hyphen=True)] = COMPARED,
    seeds: Annotated[int, Parameter(allow_leading_hyphen=True, converter=_whole)] = 1,
    precision: Literal[64, 32] = 64,
    points: Whole = None,
    weights: str | None = None,
    settings: Annotated[tuple[str, ...], Parameter(name="--set", negative=(), show_default=False)] = (),
    out: Path | None = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Train methods from the same start on the same points, one after another; one table and one figure.

    Each run has its folder, to be looked at with `ravine show` and gone on with by `ravine resume`. Ctrl-C ends the run
    of the moment, and shows what there is.

    Parameters
    ----------
    problem
        Its name, from `ravine problems`.
    methods
        all (every deterministic method that applies), or names with commas: adam,lbfgs(memory=50),auto.
    budget
        Wall time of each method, compilation apart: 90, 60s, 2m or 1h.
    seeds
        How many starts: seeds 0, 1, … The table shows medians.
    precision
        Bits of a floating-point number.
    points
        Training points.
    weights
        How terms are weighed: a name such as ntk, with settings ntk:every=50; or numbers, bc=100,pde=1.
    settings
        Any other option of the problem, such as --set k=4; may be repeated.
    out
        Folder of the comparison, default runs/compare-PROBLEM-DATE-TIME. An existing one is never written over.
    json
        Print one line of JSON on stdout, everything else on stderr.
    """
    seconds, names = parse_seconds(budget), parse_methods(methods)
    if not 1 <= seeds <= 1000:
        raise Refusal(f"--seeds is the number of starts, from 1 to 1000; got {seeds}.")
    if find_place(None) is not None:
        raise Refusal("ravine compare runs in one process, but the environment says that there are several.")
    options = dict(parse_setting(text) for text in settings)
    if points is not None:
        if "points" in options:
            raise Refusal("The option 'points' is given twice.")
        options["points"] = points
    note(f"ravine: comparing on {problem}, {methods}, {seconds:g} s each, float{precision}")
    prepare()
    _set_precision(precision)
    made = make_problem(problem, check_options(problem, options), weights)
    from ravine import compare as comparison

    left_out: dict[str, str] = {}
    if names is None:
        names, left_out = comparison.select(made)
    folder = claim(out, f"compare-{problem}")
    with released(folder):
        return _compared(made, names, left_out, folder, seconds=seconds, seeds=range(seeds), as_json=json)


@app.command
def show(run: Path, /) -> int:
    """Show a run: settings, versions, result, last records; and draw its figure anew.

    Parameters
    ----------
    run
        A run folder.
    """
    prepare()
    found, config = load(run)
    console = _stdout()
    table = make_table("", "", header=False)
    problem, asked = config.get("problem") or {}, config.get("cli") or {}
    device = config.get("device") or {}
    facts = {
        "run": run,
        **found.summary(),
        "options": " ".join(f"{name}={value}" for name, value in problem.get("options", {}).items()),
        "asked for": ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None),
        "phases": ", ".join(phase.get("name", "") for phase in config.get("phases") or ()),
        "why these": config.get("reason"),
        "precision": config.get("dtype"),
        "parameters": found.objective.parameters,
        "versions": ", ".join(f"{name} {value}" for name, value in (config.get("versions") or {}).items()),
        "made on": f"{device.get('count')} × {device.get('kind')}, {config.get('platform')}",
    }
    for name, value in facts.items():
        if value is not None and value != "":
            table.add_row(name.replace("_", " "), shown(name, value))
    console.print(table)
    columns = ("step", "method", "seconds", "loss", "test_loss", "error", "t", "grad_norm", "evaluations")
    columns = [column for column in columns if column in found.history.columns]
    table = make_table(*(column.replace("_", " ") for column in columns), right=True)
    for row in found.history.rows[-8:]:
        table.add_row(*(shown(column, row.get(column)) for column in columns))
    console.print(table)
    figure = draw(found, run)
    if figure:
        print(f"figure   {figure}")
    return 0


@app.command
def resume(
    run: Path,
    /,
    *,
    budget: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    hosts: Whole = None,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Go on with a run that was interrupted or whose budget was too small.

    Parameters
    ----------
    run
        A run folder.
    budget
        How much longer: 30s, 2m, 1h. Without it, what is left of the budget that the run was started with.
    hosts
        Processes on this machine that share out the points. Under srun nothing needs to be said.
    json
        Print one line of JSON on stdout, everything else on stderr.
    """
    more = None if budget is None else parse_seconds(budget)
    place = find_place(hosts)
    note(f"ravine: going on with {run}{'' if more is None else f' for {more:g} s'}")
    prepare(place)
    from ravine._results import Stop
    from ravine.checkpoint import RunFolderError, restore_phases

    before, config = load(run)
    assert before.problem is not None
    try:
        phases = restore_phases(config, run)
    except RunFolderError as error:
        raise Refusal(str(error)) from None
    plan = made_plan(before.problem, phases, config)
    spent = before.position.seconds
    if more is not None:
        last = dataclasses.replace(plan.phases[-1], steps=None, seconds=None, until=None)
        phases = dataclasses.replace(plan, phases=(*plan.phases[:-1], last), seconds=spent + more)
        config = {**config, "seconds": None}
    else:
        ended = before.position.phase + 1 == len(plan.phases) and before.stop in (Stop.STEPS, Stop.STALLED)
        if before.stop is Stop.TARGET or ended or (plan.seconds is not None and spent >= plan.seconds):
            raise Refusal(f"{run} is finished. {before.stop.value} To go on: ravine resume {run} --budget 30s")
    if before.stop is Stop.TARGET:
        config = {**config, "cli": {**(config.get("cli") or {}), "target": None}}
    if not leads():
        return take_part(before.problem, phases, config=config, before=before)
    if not machine.usable(run):
        raise Refusal(f"{run} cannot be written, so nothing could be saved. Copy it to a folder of yours first.")
    return carry_out(before.problem, phases, run, config=config, as_json=json, before=before)


@app.command
def diagnose(
    run: Path,
    /,
    *,
    figure: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    json: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
) -> int:
    """Say why a run stalled, or why its answer is wrong: what was measured, the cause, and what to type.

    Parameters
    ----------
    run
        A run folder.
    figure
        Draw spectra, conflict of terms, the loss by place, the error by frequency, and the landscape: diagnosis.png in
        the folder.
    json
        Print one line of JSON on stdout.
    """
    prepare()
    found, _ = load(run)
    from ravine.diagnostics.advice import diagnose_run

    if figure:
        from ravine import plots

        plots.diagnosis(found).savefig(run / "diagnosis.png", dpi=150, facecolor="white")
        print(f"figure   {run / 'diagnosis.png'}", file=sys.stderr)

    diagnosis = diagnose_run(found)
    print(_json(diagnosis.describe() | {"run": str(run)}) if json else diagnosis)
    return 0


@app.command(name="report")
def report_on(run: Path, /, *others: Path, out: Path | None = None) -> int:
    """Write a report about a run, or several beside each other: one HTML file that needs no network.

    Convergence, solution and error, training points, spectrum, what is to blame, settings.

    Parameters
    ----------
    run
        A run folder.
    others
        More of them, to be compared with it.
    out
        The file, default report.html in the first folder.
    """
    need_plotly()
    prepare()
    folders = (run, *others)
    found = [load(folder)[0] for folder in folders]
    path = run / "report.html" if out is None else out
    if path.is_dir():
        raise Refusal(f"{path} is a folder. Say which file: --out {path / 'report.html'}")
    names = None if len(folders) == 1 else [folder.resolve().name for folder in folders]
    if names is not None and len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    from ravine.report.page import write_report

    note(f"ravine: measuring {len(found)} {'run' if len(found) == 1 else 'runs'} for the report …")
    try:
        print(f"report   {write_report(found, path, names=names)}")
    except OSError as error:
        raise Refusal(f"{path} cannot be written: {error.strerror}. Choose another file with --out.") from None
    return 0


@app.command
def doctor() -> int:
    """Examine this machine: versions, devices, precision, threads, memory, cache; and what to type to improve it."""
    table = make_table("", "", header=False)
    findings = machine.examine()
    for finding in findings:
        mark = Text("change" if finding.line else "", style="bold yellow")
        table.add_row(finding.topic, Text.assemble(finding.value, "  " if finding.line else "", mark))
    _stdout().print(table)
    advice = {finding.line: finding.why for finding in findings if finding.line}
    print("\nNothing needs to be changed." if not advice else "\nWhat to change:")
    for line, why in advice.items():
        print(f"\n  {why}\n    {line}")
    return 0


# ------------------------------------------------------------------------------------------------------------ settings


def find_place(count: int | None) -> company.Place | None:
    """Which process of how many this is; None for one by itself. Starts nothing."""
    if count is not None and not 1 <= count <= company.MOST:
        raise Refusal(f"--hosts is the number of processes on this machine, from 1 to {company.MOST}; got {count}.")
    try:
        found = company.place()
    except ValueError as error:
        raise Refusal(str(error)) from None
    if found is not None and count not in (None, found.count):
        raise Refusal(f"--hosts is {count}, but the environment says that there are {found.count} processes.")
    if found is None and count is not None and count > 1:
        return company.Place(None, count, 0)
    return found


def leads() -> bool:
    """Whether this is the process that prints, draws and saves."""
    try:
        found = company.place()
    except ValueError:
        return True
    return found is None or found.index == 0


_typed: list[str] = []  # the arguments of this command, for the processes that take part in it
_children: list[subprocess.Popen] = []  # those that were started here


def launch(place: company.Place) -> company.Place:
    """Starts the other processes of a run on this machine, unless somebody else started them all."""
    if company.place() is None:
        place, children = company.start([sys.executable, "-m", "ravine.cli", *_typed], place.count)
        _children.extend(children)
    elif place.index and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # process 0 decides, and tells
    return place


def meet(place: company.Place) -> None:
    """Joins the other processes of a run."""
    try:
        if place.address is None:
            company.join_hosts()
        else:
            company.join_hosts(place.address, place.count, place.index)
    except (RuntimeError, ValueError) as error:
        raise Refusal(str(error)) from None


def dismiss(code: int) -> int:
    """Ends a run over several processes, together or, when something went wrong, at once."""
    if "jax" not in sys.modules or company.alone():
        company.stop(_children)
        return code
    if code == 0 and not company.parted():
        import jax

        jax.distributed.shutdown()  # waits for all
        return code
    company.stop(_children)
    company.leave(code)
    return code


def prepare(place: company.Place | None = None) -> None:
    """Threads, devices, cache and the other processes of a run over several, before anything is computed.

    As many cores as are free (`ravine.doctor.free_cores`) are used. Linear-algebra libraries get that many threads,
    unless the environment says otherwise (OPENBLAS_NUM_THREADS and its like); they read it when NumPy is imported, and
    if it has been, they are asked instead. JAX gets that many devices, unless it has started. Freed memory is kept
    (`ravine.keep_memory`). Compiled programs are kept in `ravine.doctor.cache_folder()`, where it can be written.
    """
    if place is not None:
        place = launch(place)
        # Processes must have equally many devices, so that the load of the moment cannot count.
        free = machine.cores()
    else:
        free = machine.free_cores(machine.cores(), machine.load())
    if not any(name in os.environ for name in machine.THREADS):
        if "numpy" in sys.modules:
            with contextlib.suppress(ImportError):
                import threadpoolctl

                threadpoolctl.threadpool_limits(free, user_api="blas")
        else:
            os.environ.update(dict.fromkeys(machine.THREADS, str(free)))
    import jax

    from ravine.hardware import keep_memory, use_cores

    keep_memory()
    with contextlib.suppress(RuntimeError):
        use_cores(free)
    folder = machine.cache_folder()
    if folder is not None and machine.usable(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if place is not None:
        meet(place)


def _set_precision(bits: int) -> None:
    import jax

    jax.config.update("jax_enable_x64", bits == 64)


def need_plotly() -> None:
    """Refuses, before anything is computed, where a report cannot be written."""
    if importlib.util.find_spec("plotly") is None:
        raise Refusal("A report needs plotly. Type: pip install 'ravine[report]'")


def make_problem(name: str, options: dict[str, Any], weights: str | None = None) -> "Problem":
    """The problem, weighed as asked; what its makers refuse is refused in their words."""
    import equinox as eqx
    import jax

    from ravine.problems import make

    try:
        problem = make(name, **options)
        eqx.filter_eval_shape(problem.model, jax.random.key(0))
        if weights is not None:
            problem = dataclasses.replace(problem, weights=parse_weights(weights))
    except ValueError as error:
        raise Refusal(str(error)) from None
    return problem


def make_phases(method: str, steps: "list[Step] | None", seconds: float | None) -> "Auto | Plan":
    """What `train` shall be given."""
    from ravine.optim.auto import auto
    from ravine.optim.phase import Phase, Plan
    from ravine.optim.presets import method as optimizer

    if steps is None and check_method(method) == "auto":
        assert seconds is not None
        return auto(seconds=seconds)
    made = []
    for step in steps or [Step(method)]:
        if check_method(step.method) == "auto":
            raise Refusal("--phases: auto makes phases of its own and cannot be one of them.")
        made.append(Phase(optimizer(step.method), step.steps, step.seconds, name=step.method))
    return Plan(tuple(made), seconds)


def sizes(problem: "Problem", phases: Any) -> str:
    """The sizes of the problem in words. Traces, but computes nothing; refuses methods that the problem is not for."""
    import jax

    from ravine.optim.phase import Plan
    from ravine.run import subkeys

    found = []

    def build(key):
        model_key, points_key, _, _ = subkeys(key)
        objective, theta, sampler = problem.objective(model_key)
        found.append((objective.parameters, objective.size(sampler.init(points_key).batch)))
        problem.weights.init(objective, theta, sampler.init(points_key).batch, key=points_key)
        for phase in phases.phases if isinstance(phases, Plan) else ():
            phase.acting(objective).init(objective, theta)
        return theta

    try:
        jax.eval_shape(build, jax.random.key(0))
    except ValueError as error:
        raise Refusal(str(error)) from None
    ((n, m),) = found
    return f"n = {n:,}, m = {m:,}"


def made_plan(problem: "Problem", phases: Any, config: dict[str, Any]) -> "Plan":
    """The plan that the phases of a saved run came to."""
    from ravine.run import make_plan, subkeys

    model_key, points_key, _, _ = subkeys(restored_key(config))
    objective, theta, sampler = problem.objective(model_key)
    return make_plan(phases, objective, theta, sampler.init(points_key).batch, config.get("seconds"))


def restored_key(config: dict[str, Any]) -> Any:
    """The key that a run was made with."""
    from ravine.checkpoint import RunFolderError, restore_key

    try:
        return restore_key(config)
    except RunFolderError as error:
        raise Refusal(str(error)) from None


def load(folder: Path) -> "tuple[Run, dict[str, Any]]":
    """The run of a folder and how it was made, in the precision it was made in."""
    if not folder.is_dir():
        raise Refusal(f"There is no run folder {folder}.{_newest()}")
    from ravine import checkpoint

    try:
        config = checkpoint.read_config(folder)
        _set_precision(32 if config.get("dtype") == "float32" else 64)
        return checkpoint.load(folder), config
    except checkpoint.RunFolderError as error:
        raise Refusal(str(error)) from None


def claim(out: Path | None, problem: str) -> Path:
    """The folder of a new run, made and tried out; never one that holds something."""
    if out is None:
        stem = f"runs/{problem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        numbered = (Path(stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
        out = next(path for path in numbered if not path.exists())
    if out.exists() and not out.is_dir():
        raise Refusal(f"{out} is a file. Choose a folder that does not exist yet: --out {out}-run")
    try:
        full = out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise Refusal(f"{out} cannot be read: {error.strerror}. Choose another folder with --out.") from None
    if full:
        more = f" To go on with that run: ravine resume {out}" if (out / "config.json").exists() else ""
        raise Refusal(f"{out} exists and is not empty; nothing in it was touched. Choose another --out.{more}")
    if not machine.usable(out):
        raise Refusal(f"{out} cannot be written. Choose a folder of yours with --out.")
    return out


@contextlib.contextmanager
def released(folder: Path) -> Iterator[None]:
    """Removes the folder at the end if nothing was put into it."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()


# ---------------------------------------------------------------------------------------------------------------- runs


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
    _warn_of_float32(phases)
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
    lost = _who_is_gone() if run is not None and run.stop is Stop.HOST_LOST else ""
    if run is None or not run.history.rows:
        if lost:
            raise company.HostLost
        note("ravine: interrupted before the first step; there is nothing to save.")
        return 130
    reached = run.history.rows[-1].get("error")
    if run.stop is Stop.INTERRUPTED and target is not None and reached is not None and reached <= target:
        run = dataclasses.replace(run, stop=Stop.TARGET)
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


def _compared(
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
    _stdout().print(table)
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


def _who_is_gone() -> str:
    """The processes that are gone, in words; not those that ended because they noticed."""
    import jax

    count, index = jax.process_count(), jax.process_index()
    if count == 2:
        return f"Process {1 - index} of 2 is gone"
    for _ in range(30):  # those started here can be asked; one that was killed may take a moment to end
        codes = {number: child.poll() for number, child in enumerate(_children, 1)}
        gone = [str(number) for number, code in codes.items() if code not in (None, company.LOST)]
        if gone:
            return f"Process {' and '.join(gone)} of {count} {'is' if len(gone) == 1 else 'are'} gone"
        time.sleep(0.01)
    return f"A process of {count} is gone"


def _warn_of_float32(phases: Any) -> None:
    import jax

    from ravine.optim.first_order import Steepest, Transform
    from ravine.optim.phase import Plan

    first = isinstance(phases, Plan) and all(
        isinstance(phase.optimizer.direction, (Steepest, Transform)) for phase in phases.phases
    )
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    if not first and not wide:
        note(
            "warning: in float32, quasi-Newton and Gauss–Newton methods stop near a relative error of 1e-3 to 1e-4, "
            "where rounding hides all progress. Leave out --precision 32 to go further."
        )


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
    from ravine.posterior import coefficients

    summary, found = run.summary(), coefficients(run)
    if as_json:
        line = {name: finite(value) for name, value in summary.items()} | {"run": str(folder)}
        numbers = {name: [finite(float(known.value)), finite(float(known.std))] for name, known in found.items()}
        print(json.dumps(line | ({"coefficients": numbers} if numbers else {})))
        return
    print(f"\n{run.stop.value}\n")
    for name, known in found.items():
        print(f"{name:16} {float(known.value):.8g} ± {float(known.std):.1e}   (one standard deviation)")
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


# ------------------------------------------------------------------------------------------------------- words printed


def _json(value: Any) -> str:
    """One line of JSON, without the NaN and infinity that JSON does not have."""
    clean = lambda value: (
        {name: clean(entry) for name, entry in value.items()}
        if isinstance(value, dict)
        else [clean(entry) for entry in value]
        if isinstance(value, (list, tuple))
        else finite(value)
    )
    return json.dumps(clean(value))


def note(text: str) -> None:
    """A line on stderr, from process 0."""
    if leads():
        print(text, file=sys.stderr, flush=True)


def _stdout() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def _budget(seconds: float | None) -> str:
    return "until the phases end" if seconds is None else f"{seconds:g} s"


def _newest() -> str:
    """Run folders that could have been meant."""
    found = (
        sorted(Path("runs").glob("*/config.json"), key=lambda file: file.stat().st_mtime)
        if Path("runs").is_dir()
        else []
    )
    return f" The newest here: {', '.join(str(file.parent) for file in found[-3:])}." if found else ""


def _version() -> str:
    from ravine import __version__

    return __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    _typed[:] = sys.argv[1:] if arguments is None else arguments
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        note(f"ravine: {error} Try: ravine --help")
        return dismiss(2)
    except Refusal as error:
        note(f"ravine: {error}")
        return dismiss(2)
    except company.HostLost:
        # At once: JAX soon ends whoever has lost process 0.
        print(f"ravine: {_who_is_gone()}; this one ends. {_kept()}", file=sys.stderr, flush=True)
        return dismiss(company.LOST)
    except KeyboardInterrupt:
        note("ravine: interrupted.")
        return dismiss(130)
    return dismiss(result if isinstance(result, int) else 0)


def _kept() -> str:
    return "Nothing was reached yet." if leads() else "What process 0 saved last can be gone on with: ravine resume RUN"


if __name__ == "__main__":
    sys.exit(main())
