"""The figures of a report, as plotly reads them: plain dicts of `data` and `layout`, and what they show in words."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ravine.report.content import Content, Field

# Those of `ravine.plots`, which cannot be imported without matplotlib. Grey is dark enough to be read.
INK, GREY, LINES = "#1c2733", "#55606b", "#e6e9ec"
LOSS, TEST, ERROR, EXACT = "#2f6db5", "#7fb2e5", "#d1495b", "#1c2733"
TERMS = ("#2f6db5", "#d1495b", "#e0a030", "#3f8f5f", "#7a5ba8")
DASHES = ("solid", "dash", "dot", "dashdot")
# The maps of `ravine.plots`, RdBu_r and magma, which plotly.js does not know by name.
SIGNED = ("#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#f7f7f7", "#fddbc7", "#f4a582", "#d6604d", "#b2182b")
MAGMA = ("#000004", "#180f3d", "#440f76", "#721f81", "#9e2f7f", "#cd4071", "#f1605d", "#fd9668", "#feca8d", "#fcfdbf")
LONGEST = 1_500  # points of a curve
QUANTITIES = {"error": "relative error", "loss": "loss", "test_loss": "loss on independent points"}


@dataclasses.dataclass(frozen=True)
class Slider:
    """`values` of the coordinate `name`; `frames[plot]` is the trace, what of it changes, and to what at each value."""

    name: str
    values: list[float]
    frames: dict[str, list[dict[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Plot:
    """One figure: `title`, `words` (for those who cannot see it), `data` and `layout`."""

    title: str
    words: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]


def numbers(values: Any) -> Any:
    """Nested lists with four digits; what is not finite becomes null.

    ```python
    >>> import numpy as np
    >>> from ravine.report.figures import numbers
    >>> numbers(np.array([[1 / 3, np.nan]]))
    [[0.3333, None]]

    ```
    """
    if np.ndim(values):
        return [numbers(value) for value in values]
    return float(f"{values:.4g}") if math.isfinite(values) else None


def short(value: float | None) -> str:
    """A number as it is told: two digits."""
    if value is None:
        return "unknown"
    return f"{value:.1e}" if math.isfinite(value) else str(value)


def _axis(title: str, **options: Any) -> dict[str, Any]:
    plain = {"gridcolor": LINES, "zeroline": False, "linecolor": GREY, "ticks": "outside", "tickcolor": LINES}
    return {**plain, "title": {"text": title, "standoff": 8}, "automargin": True, **options}


def _log(title: str, values: Any) -> dict[str, Any]:
    """A logarithmic axis, with a number at every power of ten, or every other one."""
    flat = np.concatenate([np.ravel(np.asarray(one, np.float64)) for one in values]) if len(values) else np.ones(1)
    flat = flat[np.isfinite(flat) & (flat > 0)]
    decades = math.log10(float(flat.max() / flat.min())) if flat.size else 0.0
    tick = "D2" if decades < 1.3 else max(1, math.ceil(decades / 7))
    return _axis(title, type="log", exponentformat="power", dtick=tick)


def _scale(colours: Sequence[str]) -> list[list[Any]]:
    return [[number / (len(colours) - 1), hue] for number, hue in enumerate(colours)]


def _layout(x: dict[str, Any], y: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 56, "r": 16, "t": 12, "b": 48},
        "height": 340,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hovermode": "closest",
        "dragmode": "zoom",
        "xaxis": x,
        "yaxis": y,
        **options,
    }


def colour(number: int) -> tuple[str, str]:
    """Colour and dashes of a run, told apart by both."""
    return (TERMS[number % len(TERMS)], DASHES[number // len(TERMS) % len(DASHES)])


# --------------------------------------------------------------------------------------------------------- convergence


def quantities(contents: Sequence[Content]) -> list[str]:
    """What was recorded: columns of the history, the error first."""
    found = []
    for column in QUANTITIES:
        rows = [c.run.history for c in contents if column in c.run.history.columns]
        new = column != "test_loss" or any(not np.array_equal(h["test_loss"], h["loss"], equal_nan=True) for h in rows)
        if rows and new:
            found.append(column)
    return found


def convergence(contents: Sequence[Content]) -> tuple[Plot, Plot]:
    """Error and losses against seconds and against work. Each trace names in `meta` the keys that switch it."""
    traces: tuple[list, list] = ([], [])
    told, seen = [], []
    for number, content in enumerate(contents):
        history = content.run.history
        wall, compiled = history["seconds"], history["compile_seconds"][-1]
        for column in quantities(contents):
            if column not in history.columns:
                continue
            values = np.asarray(history[column], np.float64)
            shown = np.where(values > 0, values, np.nan)
            style = _line(number, len(contents), column)
            rows = np.unique(np.linspace(0, len(shown) - 1, min(len(shown), LONGEST)).round().astype(int))
            label = QUANTITIES[column] if len(contents) == 1 else f"{content.name}, {QUANTITIES[column]}"
            for along, found in zip((wall, np.maximum(content.work, 1)), traces, strict=True):
                found.append(
                    {
                        "type": "scatter",
                        "mode": "lines" if len(rows) > 1 else "markers",
                        "name": label,
                        "x": numbers(along[rows]),
                        "y": numbers(shown[rows]),
                        "line": style,
                        "meta": [column, f"run{number}"],
                        "hovertemplate": "%{y:.2e} at %{x:,.4~g}<extra>%{fullData.name}</extra>",
                    }
                )
            seen.append(values)
            told.append(f"{label} from {short(values[0])} to {short(values[-1])}")
        told.append(f"{wall[-1]:.1f} s, {compiled:.1f} s to compile and {content.work[-1]:,.0f} evaluations in all")
    words = "; ".join(told)
    y = _log(" and ".join(QUANTITIES[c] for c in quantities(contents)[:2]), seen)
    seconds = _layout(_axis("seconds of training, compilation apart", rangemode="tozero"), y)
    spent = _layout(_axis("work in evaluations of the loss", rangemode="tozero"), y)
    return (
        Plot("Against time", f"Convergence against time: {words}.", traces[0], seconds),
        Plot("Against work", f"Convergence against work: {words}.", traces[1], spent),
    )


def _line(number: int, count: int, column: str) -> dict[str, Any]:
    if count == 1:
        hue = {"error": ERROR, "loss": LOSS, "test_loss": TEST}[column]
        return {"color": hue, "width": 2.6 if column == "error" else 1.7}
    hue, dash = colour(number)
    dash = {"error": dash, "loss": "dot", "test_loss": "dash"}[column]
    return {"color": hue, "dash": dash, "width": 2.4 if column == "error" else 1.3}


# ------------------------------------------------------------------------------------------------------------ solution


def solution(content: Content) -> tuple[list[Plot], list[Plot], Slider | None]:
    """Figures that stay, figures that a slider moves, and the slider where there is one."""
    field = content.field
    if field is None:
        return [], [], None
    error = content.run.error
    known = f"; relative error {short(error)}" if error is not None else ""
    told = (
        f"found values from {short(float(np.min(field.found)))} to {short(float(np.max(field.found)))}{known}",
        f"at most {short(float(np.max(field.error)))}, in the mean {short(float(np.mean(field.error)))}",
    )
    if len(field.axes) == 1:
        (x,), (name,) = field.axes, field.names
        return [_curves(x, name, field.exact, field.found, told[0]), _misfit(x, name, field.error, told[1])], [], None
    if len(field.axes) == 2:
        still = [_map(field, field.found, f"Solution u({', '.join(field.names)})", told[0])]
        still.append(_map(field, field.error, "Pointwise error |u − u*|", told[1], log=True))
        if "t" not in field.names:
            return still, [], None
        along = field.names.index("t")
        other = 1 - along
        exact, found, error = (np.moveaxis(v, along, 0) for v in (field.exact, field.found, field.error))
        x, name = field.axes[other], field.names[other]
        moved = [_curves(x, name, exact[0], found[0], told[0]), _misfit(x, name, error, told[1])]
        low, high = float(np.min([exact, found])), float(np.max([exact, found]))
        room = 0.06 * (high - low or 1.0)
        moved[0].layout["yaxis"]["range"] = [low - room, high + room]
        frames = {
            "0": [
                {"trace": 0, "key": "y", "frames": numbers(exact)},
                {"trace": 1, "key": "y", "frames": numbers(found)},
            ],
            "1": [{"trace": 0, "key": "y", "frames": numbers(np.where(error > 0, error, np.nan))}],
        }
        return still, moved, Slider("t", numbers(field.axes[along]), frames)
    if len(field.axes) == 3:
        along = field.names.index("t") if "t" in field.names else 2
        keep = [k for k in range(3) if k != along]
        found, error = (np.moveaxis(v, along, 0) for v in (field.found, field.error))
        slices = Field(tuple(field.axes[k] for k in keep), tuple(field.names[k] for k in keep), found[0], found[0])
        name = field.names[along]
        moved = [
            _map(slices, found[0], "Solution", told[0], span=(float(found.min()), float(found.max()))),
            _map(slices, error[0], "Pointwise error |u − u*|", told[1], log=True, span=_decades(error)),
        ]
        frames = {
            "0": [_frames(0, "z", np.swapaxes(found, 1, 2))],
            "1": [_frames(0, "z", np.swapaxes(_log10(error), 1, 2))],
        }
        return [], moved, Slider(name, numbers(field.axes[along]), frames)
    return [], [], None


def _frames(trace: int, key: str, values: np.ndarray) -> dict[str, Any]:
    return {"trace": trace, "key": key, "frames": numbers(values)}


def _decades(error: np.ndarray) -> list[float]:
    positive = error[np.isfinite(error) & (error > 0)]
    if not positive.size:
        return [-16.0, 0.0]
    high = math.log10(float(positive.max()))
    return [max(math.log10(float(np.quantile(positive, 0.02))), high - 5) - 0.2, high + 0.2]


def _log10(error: np.ndarray) -> np.ndarray:
    return np.log10(np.where(error > 0, error, np.nan))


def _curves(x: np.ndarray, name: str, exact: np.ndarray, found: np.ndarray, told: str) -> Plot:
    plain = {"type": "scatter", "mode": "lines", "x": numbers(x)}
    data = [
        {**plain, "name": "reference", "y": numbers(exact), "line": {"color": TEST, "width": 6}, "opacity": 0.75},
        {**plain, "name": "found", "y": numbers(found), "line": {"color": EXACT, "width": 1.6}},
    ]
    return Plot(
        "Solution: found (thin, dark) and reference (broad, light)",
        f"Solution against {name}: {told}.",
        data,
        _layout(_axis(name), _axis("u")),
    )


def _misfit(x: np.ndarray, name: str, error: np.ndarray, told: str) -> Plot:
    """|u − u*| against x; of a stack of rows the first, on the axis of all."""
    positive = np.where(error > 0, error, np.nan)
    shown = positive if error.ndim == 1 else positive[0]
    trace = {"type": "scatter", "mode": "lines", "name": "error", "line": {"color": ERROR, "width": 1.6}}
    y = _log("|u − u*|", [10 ** np.asarray(_decades(error))])
    layout = _layout(_axis(name), {**y, "range": _decades(error)})
    data = [{**trace, "x": numbers(x), "y": numbers(shown)}]
    return Plot("Pointwise error |u − u*|", f"Pointwise error against {name}: {told}.", data, layout)


def _map(
    field: Field, values: np.ndarray, title: str, told: str, *, log: bool = False, span: Sequence[float] | None = None
) -> Plot:
    """Colours over two coordinates, time to the right."""
    right, up = (1, 0) if field.names[1] == "t" else (0, 1)
    shown = _log10(values) if log else values
    trace: dict[str, Any] = {
        "type": "heatmap",
        "x": numbers(field.axes[right]),
        "y": numbers(field.axes[up]),
        "z": numbers(shown if up == 0 else shown.T),
        "colorbar": {"thickness": 12, "outlinewidth": 0, "len": 1},
        "hovertemplate": f"{field.names[right]} %{{x:.3~g}}, {field.names[up]} %{{y:.3~g}}: %{{z:.3~g}}<extra></extra>",
    }
    low, high = span if span is not None else (float(np.nanmin(shown)), float(np.nanmax(shown)))
    if log:
        low, high = span if span is not None else _decades(values)
        ticks = list(range(math.ceil(low), math.floor(high) + 1))
        bar = {"tickvals": ticks, "ticktext": [f"10<sup>{tick}</sup>" for tick in ticks]}
        trace |= {"colorscale": _scale(MAGMA), "zmin": low, "zmax": high, "colorbar": {**trace["colorbar"], **bar}}
    elif low < 0 < high:
        trace |= {"colorscale": _scale(SIGNED), "zmin": -max(-low, high), "zmax": max(-low, high)}
    else:
        trace |= {"colorscale": "Viridis", "zmin": low, "zmax": high}
    x, y = _axis(field.names[right], showgrid=False), _axis(field.names[up], showgrid=False)
    words = f"{title} over {field.names[right]} and {field.names[up]}: {told}."
    return Plot(title, words, [trace], _layout(x, y))


def points(content: Content) -> Plot | None:
    """The training points of each term."""
    field, batch = content.field, content.points
    if not batch:
        return None
    dimension = max(points.shape[1] for points in batch.values())
    names = field.names if field is not None and len(field.names) == dimension else ("x", "y")[:dimension]
    data, told = [], []
    right, up = (1, 0) if dimension == 2 and names[1] == "t" else (0, 1)
    for number, (term, points) in enumerate(batch.items()):
        if points.shape[1] != dimension:
            continue
        mark = {"size": 4 if dimension == 2 else 12, "color": TERMS[number % len(TERMS)]}
        mark |= {"symbol": "circle"} if dimension == 2 else {"symbol": "line-ns-open"}
        row = points[:, up] if dimension == 2 else np.full(len(points), float(number))
        trace = {"type": "scatter", "mode": "markers", "name": term, "marker": mark, "meta": [term]}
        data.append({**trace, "x": numbers(points[:, right if dimension == 2 else 0]), "y": numbers(row)})
        told.append(f"{len(points):,} of {term}")
    if dimension == 2:
        x, y = _axis(names[right]), _axis(names[up])
        if field is not None and field.names == names:
            for axis, which in ((x, right), (y, up)):
                axis["range"] = [float(field.axes[which][0]), float(field.axes[which][-1])]
        layout = _layout(x, y)
    else:
        rows = _axis("", tickvals=list(range(len(data))), ticktext=[trace["name"] for trace in data], showgrid=False)
        layout = _layout(_axis(names[0]), {**rows, "range": [-0.6, len(data) - 0.4]}, height=120 + 50 * len(data))
    return Plot("Training points", f"Training points: {', '.join(told)}.", data, layout)


def spectrum(contents: Sequence[Content]) -> Plot | None:
    """Eigenvalues of the Gauss–Newton matrix of each run."""
    data, told = [], []
    for number, content in enumerate(contents):
        found = content.spectrum
        if found is None:
            continue
        values = np.sort(found.kept[found.kept > 0])[::-1]
        hue, _ = colour(number)
        trace = {"type": "scatter", "mode": "markers", "name": content.name, "marker": {"color": hue, "size": 4}}
        data.append({**trace, "x": list(range(1, len(values) + 1)), "y": numbers(values), "meta": [f"run{number}"]})
        who = f"{content.name}: " if len(contents) > 1 else ""
        told.append(
            f"{who}{found.order:,} eigenvalues, the largest {short(float(found.kept.max()))}, the condition number "
            f"{short(found.condition)}, {found.cut:,} zero to rounding"
        )
    if not data:
        return None
    layout = _layout(
        _axis("number of the eigenvalue"), _log("eigenvalue", [np.asarray(trace["y"], float) for trace in data])
    )
    return Plot("Eigenvalues of JᵀJ", f"Spectrum of the Gauss–Newton matrix. {'; '.join(told)}.", data, layout)
