"""The commands."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import cyclopts
from cyclopts import Parameter
from rich.text import Text

from ravine import doctor as machine, hosts as company
from ravine.cli.printed import as_line, note, stdout, told_budget
from ravine.cli.processes import dismiss, find_place, kept, leads, typed, who_is_gone
from ravine.cli.runs import carry_out, compare_methods, draw, take_part
from ravine.cli.settings import (
    claim,
    load,
    made_plan,
    make_phases,
    make_problem,
    need_plotly,
    prepare,
    released,
    set_precision,
)
from ravine.console import make_table, shown
from ravine.words import (
    Refusal,
    check_options,
    options_of,
    parse_methods,
    parse_phases,
    parse_seconds,
    parse_setting,
    parse_target,
)

BUDGET, COMPARED = "60s", "20s"


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
        stdout().print(listing.problems())
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

    stdout().print(listing.methods())
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
    note(f"ravine: {problem}, {phases or method}, {told_budget(seconds)}, float{precision}, seed {seed}")
    prepare(place)
    set_precision(precision)
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
    set_precision(precision)
    made = make_problem(problem, check_options(problem, options), weights)
    from ravine import compare as comparison

    left_out: dict[str, str] = {}
    if names is None:
        names, left_out = comparison.select(made)
    folder = claim(out, f"compare-{problem}")
    with released(folder):
        return compare_methods(made, names, left_out, folder, seconds=seconds, seeds=range(seeds), as_json=json)


@app.command
def show(run: Path, /) -> int:
    """Show a run: settings, versions, result, last records; and draw its figure anew.

    Parameters
    ----------
    run
        A run folder.
    """
    prepare()
    from ravine.posterior import coefficients, told

    found, config = load(run)
    console = stdout()
    table = make_table("", "", header=False)
    problem, asked = config.get("problem") or {}, config.get("cli") or {}
    device = config.get("device") or {}
    facts = {
        "run": run,
        **found.summary(),
        **{f"coefficient {name}": told(float(c.value), float(c.std)) for name, c in coefficients(found).items()},
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
    print(as_line(diagnosis.describe() | {"run": str(run)}) if json else diagnosis)
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
    stdout().print(table)
    advice = {finding.line: finding.why for finding in findings if finding.line}
    print("\nNothing needs to be changed." if not advice else "\nWhat to change:")
    for line, why in advice.items():
        print(f"\n  {why}\n    {line}")
    return 0


def _version() -> str:
    from ravine import __version__

    return __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code."""
    typed[:] = sys.argv[1:] if arguments is None else arguments
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
        print(f"ravine: {who_is_gone()}; this one ends. {kept()}", file=sys.stderr, flush=True)
        return dismiss(company.LOST)
    except KeyboardInterrupt:
        note("ravine: interrupted.")
        return dismiss(130)
    return dismiss(result if isinstance(result, int) else 0)
