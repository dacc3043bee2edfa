"""Figures of a run, and of many.

`solution(run)` puts on one sheet what a run found and how it got there: the solution, its error where a reference is
known, the points it was trained on, and the convergence against wall time. `save(run, path)` writes it.
`comparison(curves)` shows many methods on one problem.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure, FigureBase
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from ravine.objective import Weighted
from ravine.posterior import Coefficient, coefficients, posterior
from ravine.problems.problem import CoefficientReference, GridReference, OperatorReference
from ravine.run import Run

INK, GREY = "#1c2733", "#8a949e"
LOSS, TEST, ERROR, EXACT = "#2f6db5", "#7fb2e5", "#d1495b", "#1c2733"  # told apart in grey and by the colour-blind too
TERMS = ("#2f6db5", "#d1495b", "#e0a030", "#3f8f5f", "#7a5ba8")
STYLE: Any = {
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def solution(run: Run) -> Figure:
    """The sheet of a run: solution, pointwise error and points where coordinates are one or two, convergence always.

    Of an operator, functions that were not trained on. Of an inverse problem, the coefficients with two standard
    deviations, a field along a line, beside the truth.

    **Cost:** one evaluation of the model on the reference grid, and drawing (about a second); of an inverse problem
    that of `ravine.posterior`.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        reference = run.problem.reference if run.problem is not None else None
        inverse = reference if isinstance(reference, CoefficientReference) else None
        grid = reference if inverse is None else inverse.solution
        grid = grid if isinstance(grid, GridReference) and len(grid.axes) in (1, 2) else None
        if isinstance(reference, OperatorReference):
            figure = Figure(figsize=(13, 7.6), layout="constrained")
            FigureCanvasAgg(figure)
            rows = figure.add_gridspec(2, 1, height_ratios=(1.12, 1))
            above, below = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
            _operator(above, run, reference)
            convergence(below.add_subplot(), run)
        elif grid is None:
            figure = Figure(figsize=(8.5, 4.2), layout="constrained")
            FigureCanvasAgg(figure)
            convergence(figure.add_subplot(), run)
        else:
            figure = Figure(figsize=(13, 7.6), layout="constrained")
            FigureCanvasAgg(figure)
            rows = figure.add_gridspec(2, 1, height_ratios=(1.12, 1))
            above, below = figure.add_subfigure(rows[0]), figure.add_subfigure(rows[1])
            columns = above.add_gridspec(1, 6)
            found = _evaluate(run, grid)
            if inverse is not None and len(grid.axes) == 2:
                _field(above, above.add_subplot(columns[:2]), grid, found)
                _field_error(above, above.add_subplot(columns[2:4]), grid, found)
                _coefficients(above.add_subplot(columns[4:]), run, inverse)
            elif len(grid.axes) == 1:
                _curves(above.add_subplot(columns[:3]), grid, found)
                _curve_error(above.add_subplot(columns[3:]), run, grid, found)
            else:
                _field(above, above.add_subplot(columns[:2]), grid, found)
                _field_error(above, above.add_subplot(columns[2:4]), grid, found)
                _points(above.add_subplot(columns[4:]), run, grid)
            convergence(below.add_subplot(), run)
        figure.suptitle(_title(run), x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
        # What is drawn late (ticks, legends) must still see the style.
        figure.draw_without_rendering()
    return figure


def save(run: Run, path: Any) -> None:
    """Writes the sheet of a run to `path`; the ending says which format (png, pdf, svg)."""
    solution(run).savefig(path, dpi=150, facecolor="white")


def convergence(axes: Axes, run: Run) -> None:
    """Loss, loss on independent points and relative error against wall time; phases and compilation are marked.

    Dots, and the numbers in the legend, are those of the parameters that the run returns.
    """
    history, best = run.history, run.best
    at = next(number for number, row in enumerate(history.rows) if row is best)
    wall = history["seconds"] + history["compile_seconds"]
    columns = history.columns
    lines = [("loss", "loss", LOSS, "-", 1.5)]
    if "test_loss" in columns and not np.array_equal(history["test_loss"], history["loss"], equal_nan=True):
        lines.append(("test_loss", "loss on independent points", TEST, "-", 1.5))
    if "error" in columns:
        lines.append(("error", "relative error", ERROR, "-", 2.2))
    seen = []
    for column, label, colour, style, width in lines:
        values = np.where((history[column] > 0) & (history[column] < np.inf), history[column], np.nan)
        if not np.isfinite(values).any():
            continue
        seen.append(values)
        axes.plot(
            wall, values, style, color=colour, lw=width, label=f"{label}  {_short(history[column][at])}", zorder=3
        )
        axes.plot(wall[at], values[at], "o", color=colour, ms=4.5, zorder=4)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, numticks=9))
    axes.yaxis.set_minor_formatter(NullFormatter())
    if seen:
        low, high = np.nanmin(seen), np.nanmax(seen)
        axes.set_ylim(low / 2.5, high * 12)  # room for the names of the phases
    axes.set_xlim(0, max(wall[-1] * 1.015, 1e-3))
    axes.grid(True, color="#e6e9ec", lw=0.7, zorder=0)
    axes.set_xlabel("wall time in seconds, compilation (shaded) included")
    axes.set_title("Convergence")
    _phases(axes, history, wall)
    if seen:
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, handlelength=1.6, borderaxespad=0.1)


def _phases(axes: Axes, history, wall: np.ndarray) -> None:
    """Bands where something was compiled, and for each phase a line where it begins, and its name."""
    phases, compiled = history["phase"], history["compile_seconds"]
    for end, spent in zip(wall, np.diff(compiled, prepend=0.0), strict=True):
        if spent > 0:  # it lies somewhere before the row that tells of it
            axes.axvspan(float(end - spent), float(end), color="#f0f2f4", lw=0, zorder=1)
    for phase in dict.fromkeys(phases):
        rows = np.flatnonzero(phases == phase)
        begin, end = float(wall[rows[0]]), float(wall[rows[-1]])
        axes.axvline(begin, color=GREY, lw=0.9, ls=(0, (4, 3)), zorder=2)
        name = history.rows[rows[0]].get("method") or "optimizer"
        fits = end - begin > 0.008 * len(name) * max(wall[-1], 1e-9) or begin < 0.6 * wall[-1]
        axes.annotate(
            str(name).replace("_", " "),
            (begin, 1),
            xycoords=("data", "axes fraction"),
            xytext=(5 if fits else -5, -4),
            textcoords="offset points",
            ha="left" if fits else "right",
            va="top",
            color=INK,
            fontsize=9,
            style="italic",
        )


def _evaluate(run: Run, grid: GridReference) -> np.ndarray:
    """The model on the reference grid."""
    points = jnp.asarray(grid.points, run.theta.dtype)
    found = eqx.filter_jit(lambda model, z: jax.lax.map(model, z, batch_size=4096))(run.model, points)
    return np.asarray(found, np.float64).reshape(grid.values.shape)


def _curves(axes: Axes, grid: GridReference, found: np.ndarray) -> None:
    (x,) = grid.axes
    axes.plot(x, grid.values, color=TEST, lw=5, alpha=0.75, clip_on=False, solid_capstyle="round", label="reference")
    axes.plot(x, found, color=EXACT, lw=1.4, label="found")
    axes.set_xlim(x[0], x[-1])
    axes.set_xlabel(grid.names[0])
    axes.set_title(f"Solution u({grid.names[0]})")
    axes.grid(True, color="#e6e9ec", lw=0.7)
    axes.legend(loc="best")


def _coefficients(axes: Axes, run: Run, reference: CoefficientReference) -> None:
    """Numbers as deviations from the truth, the first field as a line through the middle of its grid."""
    fields = {name: exact for name, exact in reference.exact.items() if isinstance(exact, GridReference)}
    for name, grid in fields.items():
        places = [np.array([axis[len(axis) // 2]]) for axis in grid.axes]
        places[0] = grid.axes[0]
        points = np.stack([place.ravel() for place in np.meshgrid(*places, indexing="ij")], axis=1)
        known = posterior(run).confidence(Coefficient(name, jnp.asarray(points, run.theta.dtype)))
        value, std = np.asarray(known.value), np.asarray(known.std)
        exact = np.asarray(grid.values)[(slice(None), *(len(axis) // 2 for axis in grid.axes[1:]))]
        axes.plot(grid.axes[0], exact, color=TEST, lw=5, alpha=0.75, label="truth")
        axes.plot(grid.axes[0], value, color=EXACT, lw=1.4, label="found")
        axes.fill_between(grid.axes[0], value - 2 * std, value + 2 * std, color=ERROR, alpha=0.3, lw=0, label="± 2 std")
        axes.set_xlabel(grid.names[0])
        fixed = ", ".join(
            f"{n} = {axis[len(axis) // 2]:g}" for n, axis in zip(grid.names[1:], grid.axes[1:], strict=True)
        )
        axes.set_title(f"{name}({grid.names[0]}{', ' + fixed if fixed else ''})")
        axes.legend(loc="best")
        return
    found = coefficients(run)
    exact = np.array([float(reference.exact[name]) for name in found])
    value, std = (np.array([float(getattr(one, part)) for one in found.values()]) for part in ("value", "std"))
    place = np.arange(len(found))
    bars = np.where(np.isfinite(std), 2 * std, 0) / np.abs(exact)
    axes.axhline(0, color=TEST, lw=5, alpha=0.75, label="truth")
    axes.errorbar(place, value / exact - 1, bars, fmt="o", color=EXACT, ecolor=ERROR, capsize=5, label="found, ± 2 std")
    axes.set_xticks(place, list(found))
    axes.set_xlim(-0.6, len(found) - 0.4)
    axes.ticklabel_format(axis="y", scilimits=(-2, 2))
    axes.set_title("Coefficients, relative to the truth")
    axes.legend(loc="best")


def _curve_error(axes: Axes, run: Run, grid: GridReference, found: np.ndarray) -> None:
    (x,) = grid.axes
    error = np.abs(found - grid.values)
    least = max(np.nanmax(error, initial=0) * 1e-6, np.finfo(float).tiny)
    axes.semilogy(x, np.where(error > least, error, np.nan), color=ERROR, lw=1.2)
    for number, (name, points) in enumerate(_batch(run, 1).items()):
        axes.plot(
            points[:, 0],
            np.full(len(points), 0.02),
            "|",
            transform=axes.get_xaxis_transform(),
            color=TERMS[number % len(TERMS)],
            ms=6,
            mew=0.6,
            alpha=0.7,
            label=f"{len(points):,} points, {name}",
        )
    axes.set_xlim(x[0], x[-1])
    axes.set_xlabel(grid.names[0])
    axes.set_title("Pointwise error |u − u*|")
    axes.grid(True, color="#e6e9ec", lw=0.7)
    axes.margins(y=0.12)
    axes.legend(loc="upper right", fontsize=8.5)


def _operator(figure: FigureBase, run: Run, reference: OperatorReference) -> None:
    """Functions that were not trained on, found and exact: four curves and all errors, or one field and its error."""
    functions = jnp.asarray(reference.functions, run.theta.dtype)
    found = np.asarray(eqx.filter_jit(lambda model: reference.evaluate(model, functions))(run.model), np.float64)
    exact = np.asarray(reference.values, np.float64)
    norm = lambda rows: np.linalg.norm(rows.reshape(len(rows), -1), axis=1)
    errors = norm(found - exact) / norm(exact)
    order = np.argsort(errors)
    if exact.ndim == 3:
        row = order[len(order) // 2]
        shown = (
            ("Exact, the median test function", exact),
            ("Found", found),
            ("Error |u − u*|", np.abs(found - exact)),
        )
        for axes, (title, values) in zip(figure.subplots(1, 3), shown, strict=True):
            size = None if title.startswith("Error") else (float(exact[row].min()), float(exact[row].max()))
            low, high = size or (0.0, float(values[row].max()))
            colours = "viridis" if size else "magma"
            mesh = axes.imshow(values[row].T, origin="lower", extent=(0, 1, 0, 1), cmap=colours, vmin=low, vmax=high)
            figure.colorbar(mesh, ax=axes, pad=0.02, aspect=26).outline.set_visible(False)
            axes.set_title(title)
        return
    left, right = figure.subplots(1, 2)
    x = np.linspace(0, 1, exact.shape[1]) if reference.points is None else np.asarray(reference.points)[:, 0]
    chosen = dict.fromkeys(int(order[round(share * (len(order) - 1))]) for share in (0, 1 / 3, 2 / 3, 1))
    for number, row in enumerate(chosen):
        label = {"label": "exact"} if number == 0 else {}
        left.plot(x, exact[row], color=TEST, lw=5, alpha=0.75, solid_capstyle="round", **label)
        left.plot(x, found[row], color=TERMS[number], lw=1.4, label=f"found, error {_short(errors[row])}")
    left.set_title("Test functions, from best to worst")
    left.set_xlabel("y")
    left.legend(loc="best")
    right.semilogy(np.arange(1, len(order) + 1), np.where(errors > 0, errors, np.nan)[order], "o", color=ERROR, ms=3)
    right.set_title("Relative error of each test function")
    right.set_xlabel("test functions, in order")
    for axes in (left, right):
        axes.grid(True, color="#e6e9ec", lw=0.7)


def _across(grid: GridReference) -> tuple[int, int]:
    """Which coordinate runs to the right, which upwards: time to the right, as it is read."""
    return (1, 0) if grid.names[1] == "t" else (0, 1)


def _field(figure: FigureBase, axes: Axes, grid: GridReference, found: np.ndarray) -> None:
    right, up = _across(grid)
    values = found if up == 0 else found.T
    if np.nanmin(grid.values) < 0 < np.nanmax(grid.values):
        size = float(np.nanmax(np.abs(grid.values)))
        colours = {"cmap": "RdBu_r", "vmin": -size, "vmax": size}
    else:
        colours = {"cmap": "viridis", "vmin": float(np.nanmin(grid.values)), "vmax": float(np.nanmax(grid.values))}
    mesh = axes.pcolormesh(grid.axes[right], grid.axes[up], values, shading="gouraud", rasterized=True, **colours)
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=26)
    _frame(axes, bar, grid, f"Solution u({grid.names[0]}, {grid.names[1]})")


def _field_error(figure: FigureBase, axes: Axes, grid: GridReference, found: np.ndarray) -> None:
    right, up = _across(grid)
    error = np.abs(found - grid.values)
    error = error if up == 0 else error.T
    positive = error[np.isfinite(error) & (error > 0)]
    most = float(positive.max()) if positive.size else 1.0
    least = max(float(np.quantile(positive, 0.02)) if positive.size else 0.1, most * 1e-5)
    low = 10.0 ** math.floor(math.log10(least))
    norm = LogNorm(low, max(most, 10 * low))
    shown = np.clip(np.nan_to_num(error, nan=most), low, None)
    mesh = axes.pcolormesh(
        grid.axes[right], grid.axes[up], shown, norm=norm, cmap="magma", shading="nearest", rasterized=True
    )
    bar = figure.colorbar(mesh, ax=axes, pad=0.02, aspect=26)
    _frame(axes, bar, grid, "Pointwise error |u − u*|")


def _frame(axes: Axes, bar, grid: GridReference, title: str) -> None:
    right, up = _across(grid)
    bar.outline.set_visible(False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlabel(grid.names[right])
    axes.set_ylabel(grid.names[up], rotation=0, labelpad=8)
    axes.set_title(title)
    axes.set_xlim(float(grid.axes[right][0]), float(grid.axes[right][-1]))
    axes.set_ylim(float(grid.axes[up][0]), float(grid.axes[up][-1]))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2.5, 5, 10]))


def _points(axes: Axes, run: Run, grid: GridReference) -> None:
    right, up = _across(grid)
    batch = _batch(run, 2)
    for number, (name, points) in enumerate(batch.items()):
        axes.scatter(
            points[:, right],
            points[:, up],
            s=max(1.5, min(9, 6000 / len(points))),
            lw=0,
            color=TERMS[number % len(TERMS)],
            alpha=0.8,
            label=f"{len(points):,} {name}",
            clip_on=False,
        )
    for which, along in ((right, axes.set_xlim), (up, axes.set_ylim)):
        along(float(grid.axes[which][0]), float(grid.axes[which][-1]))
    axes.set_xlabel(grid.names[right])
    axes.set_ylabel(grid.names[up], rotation=0, labelpad=8)
    axes.set_title("Training points")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2.5, 5, 10]))
    if batch:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1.0, 1.0),
            ncols=3,
            markerscale=2.5,
            fontsize=9,
            columnspacing=0.9,
            handletextpad=0.1,
            borderaxespad=0.1,
        )


def _batch(run: Run, dimension: int) -> dict[str, np.ndarray]:
    """The points of each term that are arrays of `dimension` coordinates."""
    sampler = getattr(run.position.carry, "sampler", None)
    batch: Any = getattr(sampler, "batch", None)
    found = {}
    for term in run.objective.terms if isinstance(batch, dict) else ():
        entry: Any = batch.get(term.name)
        points = entry.points if isinstance(entry, Weighted) else entry
        if getattr(points, "ndim", 0) == 2 and points.shape[1] == dimension:
            found[term.name] = np.asarray(points)
    return found


def _title(run: Run) -> str:
    last = run.history.rows[-1]
    name = run.problem.name.replace("_", " ") if run.problem is not None and run.problem.name else "run"
    parts = [name, run.summary()["method"].replace("_", " ").replace("+", " + "), f"{last['step']:,} steps"]
    if run.error is not None:
        parts.append(f"relative error {_short(run.error)}")
    return "   ·   ".join(part for part in parts if part)


def _short(value: float) -> str:
    return f"{value:.1e}" if np.isfinite(value) else str(value)


# ----------------------------------------------------------------------------------------------------- many methods

# A hue a family; within one, curves differ in shade and in dashes.
HUES = {
    "first order": "#8a949e",
    "stochastic first order": "#b08968",
    "quasi-Newton": "#2f6db5",
    "Newton": "#3f8f5f",
    "Gauss–Newton": "#d1495b",
    "stochastic second order": "#e0a030",
    "Kronecker-factored": "#7a5ba8",
    "structure-exploiting": "#1f9e9e",
}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))
LABELLED = 36  # names in one column of the legend


@dataclasses.dataclass(frozen=True)
class Curve:
    """The way of one method: `values` (errors or losses) against `seconds` and `work`, and the best `reached`."""

    label: str
    group: str
    seconds: np.ndarray
    work: np.ndarray
    values: np.ndarray
    reached: float


def comparison(curves: Sequence[Curve], *, title: str, quantity: str) -> Figure:
    """Every curve against seconds and against work, with what it reached; in the order given, which should be that."""
    import matplotlib

    styles = _styles(curves)
    columns = math.ceil(len(curves) / LABELLED)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12 + 2.6 * columns, 6.4), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, sharey=True)
        # Where the start is drawn: a logarithmic axis has no zero.
        early = [float(second) for curve in curves for second in curve.seconds if second > 0]
        least = min(early, default=1.0)
        for axes, along in ((left, "seconds"), (right, "work")):
            for number, (curve, style) in enumerate(zip(curves, styles, strict=True)):
                x = np.maximum(getattr(curve, along), 1 if along == "work" else least)
                shown = np.where((curve.values > 0) & np.isfinite(curve.values), curve.values, np.nan)
                # The best lie on top.
                label = f"{curve.label.replace('_', ' ')}  {_short(curve.reached)}"
                axes.plot(x, shown, **style, zorder=3 + 1 / (number + 1), label=label)
                axes.plot(x[-1:], shown[-1:], "o", color=style["color"], ms=3.5, zorder=3 + 1 / (number + 1))
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(base=10, numticks=14))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(True, color="#e6e9ec", lw=0.7, zorder=0)
        left.set_xlabel("seconds of training, compilation apart")
        left.set_ylabel(quantity)
        left.set_title(f"{quantity.capitalize()} against time")
        right.set_xlabel("work in evaluations of the loss (gradient: 3, Jacobian: 3, product with it: 2.5)")
        right.set_title(f"{quantity.capitalize()} against work")
        handles, names = left.get_legend_handles_labels()
        figure.legend(
            handles, names, loc="outside right upper", ncols=columns, fontsize=8, handlelength=2.6, labelspacing=0.35
        )
        figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color=INK)
        figure.draw_without_rendering()
    return figure


def _styles(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """A colour and dashes for each curve; the three best are thick."""
    from matplotlib.colors import to_rgb

    seen: dict[str, int] = {}
    found = []
    for place, curve in enumerate(curves):
        number = seen.get(curve.group, 0)
        seen[curve.group] = number + 1
        hue = np.asarray(to_rgb(HUES.get(curve.group, INK)))
        shade = (0.0, 0.35, -0.3, 0.55)[(number // len(DASHES)) % 4]  # towards white, or black
        colour = hue + shade * (1 - hue) if shade >= 0 else hue * (1 + shade)
        width = 2.2 if place < 3 else 1.2
        found.append({"color": tuple(map(float, colour)), "ls": DASHES[number % len(DASHES)], "lw": width})
    return found
