"""The page: one HTML file with its figures, plotly.js, style and script in it. Nothing is fetched from anywhere."""

import html
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ravine.diagnostics.advice import CLEAR, Diagnosis
from ravine.diagnostics.finding import Finding
from ravine.posterior import told
from ravine.report import figures
from ravine.report.content import Content, measure
from ravine.report.figures import QUANTITIES, Plot, Slider, short
from ravine.run import Run

HERE = Path(__file__).parent
# What a browser may load for this page: nothing.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
)
COLUMNS = {
    "relative_l2": "relative error",
    "loss": "loss",
    "test_loss": "independent loss",
    "steps": "steps",
    "seconds": "seconds",
    "compile_seconds": "to compile",
    "evaluations": "evaluations",
}

escape = html.escape


def write_report(
    runs: Run | Sequence[Run],
    path: Any,
    *,
    findings: Sequence[Finding] | Sequence[Sequence[Finding] | Diagnosis] | Diagnosis | None = None,
    names: Sequence[str] | None = None,
) -> Path:
    """Writes a report about one run, or several beside each other: one HTML file that needs no network.

    Convergence against time and work, solution and pointwise error, training points, the spectrum of the Gauss–Newton
    matrix (up to 1,000 parameters), findings, settings. About 5 MB, nearly all of it plotly.js.

    **Arguments:**

    - `runs`: what `train`, `minimise` or `load` returned.
    - `path`: the file; folders are made.
    - `findings`: of the run, or of each run in turn; by default those of `diagnose_run`, `()` for none.
    - `names`: what the runs are called; by default by their methods.

    **Returns:** the path. **Raises:** `ImportError` without plotly; `ValueError` for no run, a run without a record, or
    names or findings that are not one for each run; `OSError` where the file cannot be written.

    **Cost:** that of `diagnose_run` and `curvature` for each run, and an evaluation on the thinned reference grid.

    ```python
    >>> import tempfile, jax.numpy as jnp, ravine as rv
    >>> run = rv.minimise(lambda x, batch: jnp.sum((x - 1) ** 2), jnp.zeros(2), None, steps=3)
    >>> path = rv.write_report(run, tempfile.mkdtemp() + "/report.html", findings=())
    >>> path.stat().st_size < 8e6
    True

    ```
    """
    listed = [runs] if isinstance(runs, Run) else list(runs)
    if not listed:
        raise ValueError("write_report: there is no run to report on.")
    script = plotly_script()
    named = labels(listed) if names is None else list(names)
    found = _for_each(findings, len(listed))
    if not len(listed) == len(named) == len(found):
        raise ValueError(f"write_report: {len(listed)} runs, but {len(named)} names and {len(found)} findings.")
    if not all(run.history.rows for run in listed):
        raise ValueError("write_report: a run without a single record has nothing to report.")
    contents = [
        measure(run, name, known, share=len(listed)) for run, name, known in zip(listed, named, found, strict=True)
    ]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(contents, script), encoding="utf-8")
    return path


def _for_each(findings: Any, count: int) -> list[Sequence[Finding] | None]:
    """The findings of each run."""
    if findings is None:
        return [None] * count
    if isinstance(findings, Diagnosis) or not findings or all(isinstance(one, Finding) for one in findings):
        findings = [findings] if count == 1 or findings else [()] * count
    return [one.findings if isinstance(one, Diagnosis) else tuple(one) for one in findings]


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run: its method, with a number where that is not enough."""
    stems = [str(run.summary()["method"] or "run") for run in runs]
    return [f"{stem} ({number})" if stems.count(stem) > 1 else stem for number, stem in enumerate(stems, 1)]


def plotly_script() -> str:
    """The source of plotly.js.

    **Raises:** `ImportError` without plotly, with what to type.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise ImportError("A report needs plotly. Type: pip install 'ravine[report]'") from None
    return get_plotlyjs()


# ------------------------------------------------------------------------------------------------------------ the page


def render(contents: Sequence[Content], script: str) -> str:
    """The whole page."""
    parts = {"convergence": ("Convergence", _convergence(contents))}
    if len(contents) > 1:
        parts = {"runs": ("Runs", _table(contents)), **parts}
    for key, title, made in (
        ("findings", "Findings", _findings(contents)),
        ("solution", "Solution", _solutions(contents)),
        ("spectrum", "Spectrum", _spectrum(contents)),
        ("runs", "Runs", _table(contents)),
        ("settings", "Settings", _settings(contents)),
    ):
        if made and key not in parts:
            parts[key] = (title, made)
    links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in parts.items())
    sections = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{title}</h2>{made}</section>'
        for key, (title, made) in parts.items()
    )
    title, lead = _title(contents)
    # A script ends at the first "</script", wherever it stands.
    script = script.replace("</script", "<\\/script")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)} · ravine</title>
<link rel="icon" href="data:,">
<style>{(HERE / "page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header><p class="brand">ravine</p><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>{_tiles(contents)}</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="main" tabindex="-1">{sections}</main>
<footer><p>Written by ravine. Everything is in this file; nothing is loaded from elsewhere.</p></footer>
<script>{script}</script>
<script>{(HERE / "page.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""


def _title(contents: Sequence[Content]) -> tuple[str, str]:
    problems = list(dict.fromkeys(c.run.summary()["problem"].replace("_", " ") or "own problem" for c in contents))
    title = ", ".join(problems)
    title = title[:1].upper() + title[1:]
    if len(contents) == 1:
        return title, f"{contents[0].name}. {contents[0].run.stop.value}"
    return f"{title}: {len(contents)} runs", "Compared: " + ", ".join(c.name for c in contents) + "."


def _best(contents: Sequence[Content]) -> Content:
    value = lambda c: c.run.loss if c.run.error is None else c.run.error
    return min(contents, key=lambda c: value(c) if value(c) == value(c) else float("inf"))


def _tiles(contents: Sequence[Content]) -> str:
    """The few numbers that matter, those of the best run."""
    best = _best(contents)
    summary = best.run.summary()
    tiles = [("relative error", short(summary["relative_l2"]))] if summary["relative_l2"] is not None else []
    tiles += [("loss", short(summary["loss"])), ("steps", f"{summary['steps']:,}")]
    tiles += [("training", f"{summary['seconds']:.1f} s"), ("evaluations", f"{summary['evaluations']:,}")]
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in tiles)
    whose = f'<p class="whose">The best of them, {escape(best.name)}:</p>' if len(contents) > 1 else ""
    return f'{whose}<dl class="tiles">{listed}</dl>'


def plain_json(value: Any) -> str:
    """JSON that may stand inside a script element."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(plot: Plot, key: str, caption: str = "") -> str:
    spec = plain_json({"data": plot.data, "layout": plot.layout})
    return (
        f'<figure><figcaption>{escape(plot.title)}</figcaption><div class="plot" id="{key}" role="img" '
        f'aria-label="{escape(plot.words)}" style="min-height:{plot.layout["height"]}px"></div>'
        f'<script type="application/json" data-figure="{key}">{spec}</script>{caption}</figure>'
    )


def _legend(buttons: Sequence[tuple[str, str, str]], targets: str, label: str) -> str:
    """Buttons that switch traces: key, words, colour."""
    made = "".join(
        f'<button type="button" aria-pressed="true" data-key="{escape(key)}">'
        f'<span class="swatch" style="background:{colour}" aria-hidden="true"></span>{escape(words)}</button>'
        for key, words, colour in buttons
    )
    return f'<div class="legend" role="group" aria-label="{escape(label)}" data-for="{targets}">{made}</div>'


def _convergence(contents: Sequence[Content]) -> str:
    time, work = figures.convergence(contents)
    columns = figures.quantities(contents)
    one = len(contents) == 1
    hues = {"error": figures.ERROR, "loss": figures.LOSS, "test_loss": figures.TEST}
    buttons = [(column, QUANTITIES[column], hues[column] if one else figures.GREY) for column in columns]
    if not one:
        named = enumerate(contents)
        buttons += [(f"run{number}", c.name, figures.colour(number)[0]) for number, c in named]
    legend = _legend(buttons, "time work", "Curves shown")
    return f'{legend}<div class="pair">{_figure(time, "time")}{_figure(work, "work")}</div>'


def _solutions(contents: Sequence[Content]) -> str:
    made = []
    for number, content in enumerate(contents):
        still, moved, slider = figures.solution(content)
        placed = figures.points(content)
        shown = [_figure(plot, f"field{number}-{k}") for k, plot in enumerate(still)]
        if placed:
            buttons = [(t["meta"][0], f"{len(t['x']):,} {t['name']}", t["marker"]["color"]) for t in placed.data]
            shown.append(_figure(placed, f"points{number}", _legend(buttons, f"points{number}", "Points shown")))
        block = f'<div class="pair">{"".join(shown)}</div>' if shown else ""
        if slider:
            slices = "".join(_figure(plot, f"slice{number}-{k}") for k, plot in enumerate(moved))
            block += f'{_slider(slider, number)}<div class="pair">{slices}</div>'
        if block:
            made.append((f"<h3>{escape(content.name)}</h3>" if len(contents) > 1 else "") + block)
    return "".join(made)


def _slider(slider: Slider, number: int) -> str:
    frames = {f"slice{number}-{k}": entries for k, entries in slider.frames.items()}
    data = plain_json({"values": slider.values, "frames": frames, "name": slider.name})
    last = len(slider.values) - 1
    name, begin = escape(slider.name), last // 2
    first = slider.values[begin]
    return (
        f'<div class="slider"><label for="slider{number}">Slice at <var>{name}</var> = '
        f'<output id="slider{number}-value" for="slider{number}">{first:g}</output></label>'
        f'<input type="range" id="slider{number}" min="0" max="{last}" value="{begin}" step="1" '
        f'aria-valuetext="{name} = {first:g}"><script type="application/json" data-slider="slider{number}">{data}'
        "</script></div>"
    )


def _spectrum(contents: Sequence[Content]) -> str:
    plot = figures.spectrum(contents)
    if plot is None:
        return ""
    return f"<p>{escape(plot.words)}</p>{_figure(plot, 'eigenvalues')}"


CODE = re.compile(r"--|ravine |rv\.|ravine\.|[\w.]+\(.*\)$")


def _findings(contents: Sequence[Content]) -> str:
    made = []
    for content in contents:
        level = 3 if len(contents) == 1 else 4
        cards = "".join(_card(finding, level) for finding in content.findings)
        body = f'<ol class="cards">{cards}</ol>' if cards else f'<p class="well">{escape(content.verdict)}</p>'
        made.append((f"<h3>{escape(content.name)}</h3>" if len(contents) > 1 else "") + body)
    return "".join(made)


def _card(finding: Finding, level: int) -> str:
    grave = "cause" if finding.blame > CLEAR else "remark"
    code = lambda text: f"<code>{escape(text)}</code>" if CODE.match(text) else escape(text)
    advice = "".join(f"<li>{code(text)}</li>" for text in finding.advice)
    tried = f"<p><strong>What to try</strong></p><ul>{advice}</ul>" if advice else ""
    return (
        f'<li class="card {grave}"><h{level}>{escape(finding.summary)}</h{level}>'
        f'<p class="blame"><span class="meter" aria-hidden="true"><span style="width:{finding.blame:.0%}"></span>'
        f"</span>blame {finding.blame:.0%} · {escape(finding.kind.replace('-', ' '))}</p>"
        f"<p>{escape(finding.evidence)}</p><p>{escape(finding.cause)}</p>{tried}</li>"
    )


def _table(contents: Sequence[Content]) -> str:
    summaries = [content.run.summary() for content in contents]
    columns = [column for column in COLUMNS if any(summary[column] is not None for summary in summaries)]
    heads = ["run", *(COLUMNS[column] for column in columns), "why it stopped"]
    head = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{escape(title)}'
        '<span class="arrow" aria-hidden="true"></span></button></th>'
        for title in heads
    )
    rows = []
    for content, summary in zip(contents, summaries, strict=True):
        cells = "".join(_cell(column, summary[column]) for column in columns)
        stop = escape(summary["stop_reason"])
        rows.append(f'<tr><th scope="row">{escape(content.name)}</th>{cells}<td>{stop}</td></tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table of runs"><table class="sortable"><caption>'
        "Press a heading to sort. Errors and losses are those of the best record.</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        '<p class="unseen" role="status" aria-live="polite" id="sorted"></p>'
    )


def _cell(column: str, value: Any) -> str:
    if value is None:
        return '<td class="number" data-value="">none</td>'
    shown = f"{value:.1f}" if "seconds" in column else f"{value:,}" if isinstance(value, int) else short(value)
    return f'<td class="number" data-value="{float(value)!r}">{shown}</td>'


def _settings(contents: Sequence[Content]) -> str:
    made = []
    for content in contents:
        rows = "".join(
            f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in facts(content)
        )
        made.append(
            (f"<h3>{escape(content.name)}</h3>" if len(contents) > 1 else "")
            + f'<div class="scroll" tabindex="0" role="region" aria-label="Settings of {escape(content.name)}">'
            f'<table class="facts"><caption class="unseen">How {escape(content.name)} was made</caption>'
            f"<tbody>{rows}</tbody></table></div>"
        )
    return "".join(made)


HIDDEN = ("id", "key", "keys", "format", "phases")  # random numbers, and what the plan says better


def facts(content: Content) -> Iterator[tuple[str, str]]:
    """How a run was made: sizes, and its config with a dotted name for each entry."""
    yield "parameters", f"{content.run.objective.parameters:,}"
    for name, (value, std) in content.coefficients.items():
        yield f"coefficient {name}", told(value, std)
    yield from _flat({k: v for k, v in content.run.config.items() if k not in HIDDEN}, "")


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flat(entry, f"{name} {key}".strip().replace("_", " "))
    elif isinstance(value, (list, tuple)) and any(isinstance(entry, (dict, list, tuple)) for entry in value):
        for number, entry in enumerate(value, 1):
            yield from _flat(entry, f"{name.removesuffix('s')} {number}")
    elif value is not None and value not in ("", [], ()):
        yield name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
