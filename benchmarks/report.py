"""The table and the figure of the stored runs."""

import itertools
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

MARKS = (10.0, 30.0, 60.0, 120.0)  # seconds
QUIET = 0.75  # of the best GFlop/s stored for that processor: below, something else was running
OURS = "ravine-"
MAIN = "ravine-auto"
DOCS = Path(__file__).parent.parent / "docs"


def between(seconds: float, before: dict, after: dict) -> float:
    """The error at a time between two rows: its logarithm is interpolated linearly."""
    share = (seconds - before["seconds"]) / (after["seconds"] - before["seconds"])
    low, high = max(before["error"], 1e-300), max(after["error"], 1e-300)
    return math.exp((1 - share) * math.log(low) + share * math.log(high))


def error_at(rows: Sequence[dict], seconds: float) -> float:
    """The error at a time. After the last row it stays; before the first it is the first."""
    if not rows:
        return math.nan
    for before, after in itertools.pairwise(rows):
        if before["seconds"] <= seconds < after["seconds"]:
            return between(seconds, before, after)
    return rows[0]["error"] if seconds < rows[0]["seconds"] else rows[-1]["error"]


def time_to(rows: Sequence[dict], target: float) -> float:
    """When the error first is at or below `target`; infinite when it never is."""
    before = None
    for row in rows:
        if row["error"] <= target:
            if before is None or row["seconds"] == before["seconds"]:
                return row["seconds"]
            # The same interpolation, solved for the time.
            high, low = math.log(before["error"]), math.log(max(row["error"], 1e-300))
            share = (high - math.log(target)) / (high - low)
            return before["seconds"] + share * (row["seconds"] - before["seconds"])
        before = row
    return math.inf


def per_step(rows: Sequence[dict]) -> float:
    """Seconds a step in the second half of a run: a first phase of another method, such as Adam, does not count.

    Over the whole run where the second half has one record only.
    """
    if not rows:
        return math.nan
    last = rows[-1]
    half = next(row for row in rows if row["seconds"] >= last["seconds"] / 2)
    first = half if half["steps"] < last["steps"] else rows[0]
    steps = last["steps"] - first["steps"]
    return (last["seconds"] - first["seconds"]) / steps if steps else math.nan


def median(values: Sequence[float]) -> float:
    """The median without NaN; NaN for nothing."""
    values = [value for value in values if not math.isnan(value)]
    return statistics.median(values) if values else math.nan


def undisturbed(runs: Sequence[dict]) -> list[dict]:
    """Runs beside which the machine was free: others may be slow by far more than the core they lacked (PyTorch by
    fifty times, when its threads wait for one another)."""
    best: dict[str, float] = {}
    for run in runs:
        best[run["cpu"]] = max(best.get(run["cpu"], 0.0), run["gemm_gflops"])
    return [run for run in runs if run["gemm_gflops"] >= QUIET * best[run["cpu"]]]


def latest(runs: Sequence[dict]) -> list[dict]:
    """For each problem, method and seed the newest run of the longest budget that has rows."""
    best: dict[tuple, dict] = {}
    for run in runs:
        key = (run["problem"], run["method"], run["seed"])
        rank = (run["seconds"], run["date"])
        if run["rows"] and (key not in best or rank >= (best[key]["seconds"], best[key]["date"])):
            best[key] = run
    return list(best.values())


def best_peer(groups: dict[str, list[dict]], seconds: float) -> tuple[str, float]:
    """The peer with the lowest median error at a time, and that error."""
    peers = {name: median([error_at(run["rows"], seconds) for run in runs]) for name, runs in groups.items()}
    peers = {name: error for name, error in peers.items() if not name.startswith(OURS) and not math.isnan(error)}
    return min(peers.items(), key=lambda item: item[1]) if peers else ("", math.nan)


def by_method(runs: Sequence[dict]) -> dict[str, list[dict]]:
    """The runs of each method."""
    groups: dict[str, list[dict]] = {}
    for run in runs:
        groups.setdefault(run["method"], []).append(run)
    return groups


def beside(groups: dict[str, list[dict]]) -> tuple[float, str, float, float, float] | None:
    """Ours beside the best peer: `(seconds, peer, its error, our error, when we had its error)`, at 60 s or at the end
    of shorter runs; None where either is missing."""
    at = min(60.0, max(run["seconds"] for runs in groups.values() for run in runs))
    peer, theirs = best_peer(groups, at)
    if MAIN not in groups or not peer:
        return None
    ours = median([error_at(run["rows"], at) for run in groups[MAIN]])
    return at, peer, theirs, ours, median([time_to(run["rows"], theirs) for run in groups[MAIN]])


def number(value: float) -> str:
    """Two digits, or a dash."""
    return f"{value:.1e}" if math.isfinite(value) else "–"


def table(problem: str, runs: Sequence[dict]) -> list[str]:
    """The lines of one problem's section."""
    groups = by_method(runs)
    budget = max(run["seconds"] for run in runs)
    marks = [mark for mark in MARKS if mark <= budget]
    _, target = best_peer(groups, budget)
    lines = [f"## {problem}", ""]
    heads = [*(f"error at {mark:g} s" for mark in marks), "to the best peer's final error", "a step", "warm-up", "runs"]
    lines += ["| method | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    order = sorted(groups, key=lambda name: median([error_at(run["rows"], budget) for run in groups[name]]))
    for name in order:
        members = groups[name]
        errors = [median([error_at(run["rows"], mark) for run in members]) for mark in marks]
        reached = median([time_to(run["rows"], target) for run in members])
        cost = 1e3 * median([per_step(run["rows"]) for run in members])
        warm = median([run["warm_up_seconds"] for run in members])
        cells = [*map(number, errors), f"{reached:.1f} s" if math.isfinite(reached) else "–"]
        cells += [f"{cost:.3g} ms", f"{warm:.1f} s", str(len(members))]
        lines.append(f"| {f'**{name}**' if name.startswith(OURS) else name} | " + " | ".join(cells) + " |")
    lines.append("")
    found = beside(groups)
    if found is not None:
        at, rival, theirs, ours, reached = found
        lines.append(
            f"At {at:g} s {MAIN} has {theirs / ours:.2g} times less error than the best peer, {rival} ({number(ours)} "
            f"against {number(theirs)}), "
            + (
                f"and it reached that peer's error after {reached:.1f} s, {at / reached:.2g} times sooner."
                if 0 < reached < math.inf
                else "and it did not reach that peer's error."
            )
        )
        lines.append("")
    return lines


def summary(runs: Sequence[dict]) -> str:
    """The table of the README: ours beside the best peer of each problem, medians over the seeds."""
    lines = ["| problem | ravine's `auto` | best peer | its error | times less error | times sooner |"]
    lines.append("|---|---|---|---|---|---|")
    for problem in dict.fromkeys(run["problem"] for run in runs):
        found = beside(by_method([run for run in runs if run["problem"] == problem]))
        if found is None:
            continue
        at, peer, theirs, ours, reached = found
        sooner = f"{at / reached:.2g}" if 0 < reached < math.inf else "–"
        less = theirs / ours
        told = f"{less:.0f}" if less >= 10 else f"{less:.1f}"
        lines.append(f"| `{problem}` | {number(ours)} | {peer} | {number(theirs)} | {told} | {sooner} |")
    return "\n".join(lines)


def text(runs: Sequence[dict], figure: str) -> str:
    """The whole page."""
    machines = sorted({f"{run['cores']} cores of {run['cpu']}" for run in runs})
    rates = [run["gemm_gflops"] for run in runs]
    dates = sorted({run["date"][:10] for run in runs})
    revisions = sorted({run["revision"] for run in runs})
    versions: dict[str, set[str]] = {}
    for run in runs:
        for package, version in run["versions"].items():
            versions.setdefault(package, set()).add(version)
    seeds = sorted({run["seed"] for run in runs})
    page = [
        "# Benchmarks",
        "",
        "ravine and its peers on the same problem, network, points, start, precision (float64) and cores. Relative L2",
        f"errors on a dense grid; medians over the seeds {', '.join(map(str, seeds))}; wall clock of training,",
        "compilation and the measuring of errors apart. Each run is a process of its own, one at a time. Where ravine",
        "redraws points by residual, so do the peers. This page is written by `python -m benchmarks report` from the",
        "stored runs; `make bench` makes them.",
        "",
        f"![error against seconds]({figure})",
        "",
        f"Measured on {'; '.join(machines)}, at {min(rates):.0f} to {max(rates):.0f} GFlop/s in a 2048³ product,",
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, code revision {', '.join(revisions)}.",
        f"Versions: {', '.join(f'{package} {min(found)}' for package, found in sorted(versions.items()))}.",
        "",
    ]
    for problem in dict.fromkeys(run["problem"] for run in runs):
        page += table(problem, [run for run in runs if run["problem"] == problem])
    page += [
        "A dash: that error was not reached. *A step* is what each method calls one, timed in the second half of a",
        "run; *warm-up* is imports, compilation and first calls.",
        "",
    ]
    return "\n".join(page)


def figure(runs: Sequence[dict], path: Path) -> None:
    """Error against seconds, one panel a problem: medians over the seeds, log scale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = list(dict.fromkeys(run["problem"] for run in runs))
    methods = sorted({run["method"] for run in runs}, key=lambda name: (not name.startswith(OURS), name))
    columns = min(3, len(problems))
    lines = math.ceil(len(problems) / columns)
    fig, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.6 * lines + 1.3), squeeze=False)
    colours = {name: plt.get_cmap("tab20")(i / 20) for i, name in enumerate(m for m in methods if m != MAIN)}
    handles = {}
    for panel, problem in zip(axes.ravel(), problems, strict=False):
        for method in methods:
            members = [run["rows"] for run in runs if run["problem"] == problem and run["method"] == method]
            if not members:
                continue
            end = max(rows[-1]["seconds"] for rows in members)
            times = [end * i / 200 for i in range(201)]
            errors = [median([error_at(rows, at) for rows in members]) for at in times]
            main, ours = method == MAIN, method.startswith(OURS)
            (handles[method],) = panel.semilogy(
                times,
                errors,
                color="black" if main else colours[method],
                linewidth=2.6 if main else 1.6,
                linestyle="-" if ours else "--",
                zorder=3 if main else 2,
            )
        panel.set_title(problem)
        panel.set_xlim(0, max(run["seconds"] for run in runs if run["problem"] == problem))
        panel.set_xlabel("seconds of training")
        panel.grid(alpha=0.3)
    for panel in axes[:, 0]:
        panel.set_ylabel("relative L2 error")
    for panel in axes.ravel()[len(problems) :]:
        panel.set_visible(False)
    entries = [(handles[name], name) for name in methods if name in handles]
    fig.tight_layout(rect=(0, 0.9 / fig.get_figheight(), 1, 1))
    fig.legend(
        *zip(*entries, strict=True), loc="lower center", ncols=4 if columns > 1 else 2, frameon=False, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=130)
    plt.close(fig)


def write(runs: Sequence[dict], page: Path, image: Path) -> None:
    """Page and figure. **Raises:** `ValueError` when nothing is stored."""
    runs = latest(undisturbed(runs))
    if not runs:
        raise ValueError("There are no stored runs to report on. Make some: python -m benchmarks run --help")
    figure(runs, image)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text(runs, Path(image).resolve().relative_to(page.resolve().parent).as_posix()))
