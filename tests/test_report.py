"""Reports: what stands in them, and that a browser shows them without a network."""

import dataclasses
import itertools
import json
import math
import re
import shutil
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import ravine as rv
from ravine import callbacks, console
from ravine.problems.heat1d import heat1d
from ravine.problems.poisson1d import poisson1d
from ravine.report import figures
from ravine.report.content import Field, measure, thinned
from test_cli import ravine_

KEY = jax.random.key(0)
EVIL = "</script><script>alert('x')</script> & \"quoted\""
FINDINGS = (
    rv.Finding("noise", 0.2, "A small one.", "Measured 1.", "So it is.", ("Use more points.",)),
    rv.Finding("few-points", 0.9, f"A large one {EVIL}", f"Measured {EVIL}.", "Too few.", ("--points 2000",)),
)
TEXT = re.compile(r"<(style|script)[^>]*>.*?</\1>", re.DOTALL)


@pytest.fixture(scope="module")
def runs():
    """Tiny runs on a line, and in space and time."""
    train = lambda problem, rate: rv.train(problem, rv.Phase(rv.adam(rate), steps=30, name="adam"), key=KEY)
    return train(heat1d(points=24, width=4), 1e-2), train(poisson1d(points=16, width=4), 1e-3)


@pytest.fixture(scope="module")
def path(runs, tmp_path_factory):
    """A comparison, named so that nothing but escaping helps."""
    place = tmp_path_factory.mktemp("report") / "deeper" / "report.html"
    return rv.write_report(runs, place, findings=[FINDINGS, ()], names=[EVIL, "b"])


@pytest.fixture(scope="module")
def page(path):
    return path.read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------------------------ contents


def test_all_text_is_escaped(page):
    assert "<script>alert" not in page
    assert page.count("alert(") > 3  # it is told, though
    scripts = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL)
    assert any(trace["name"].startswith(EVIL) for text in scripts for trace in json.loads(text).get("data", ()))


def test_findings_come_by_blame(page):
    text = TEXT.sub("", page)
    assert text.index("A large one") < text.index("A small one")
    assert "<code>--points 2000</code>" in text
    assert "Use more points." in text
    assert text.count("Nothing is to blame.") == 1  # of the other run


def test_the_table_tells_the_summaries(page, runs):
    rows = re.findall(r'<tr><th scope="row">[^<]*</th>(<td class="number".*?)</tr>', page)
    found = [[float(value) for value in re.findall(r'data-value="([^"]+)"', row)] for row in rows]
    for row, run in zip(found, runs, strict=True):
        summary = run.summary()
        assert row[0] == summary["relative_l2"]
        assert row[-1] == summary["evaluations"]


def test_curves_are_those_of_the_history(runs):
    time, work = figures.convergence([measure(runs[0], "a", ())])
    (error,) = (trace for trace in time.data if trace["meta"][0] == "error")
    np.testing.assert_allclose(error["y"], runs[0].history["error"], rtol=1e-3)
    np.testing.assert_allclose(error["x"], runs[0].history["seconds"], rtol=1e-3)
    # Adam: one evaluation a step, with its gradient three times as dear.
    (error,) = (trace for trace in work.data if trace["meta"][0] == "error")
    spent = runs[0].history["evaluations"][-1] + 2 * runs[0].history["gradients"][-1]
    assert error["x"][-1] == pytest.approx(spent)


def test_the_field_is_the_model_and_its_error(runs):
    run = runs[0]
    field = measure(run, "a", ()).field
    here = 3, 5
    point = np.array([axis[k] for axis, k in zip(field.axes, here, strict=True)])
    assert field.found[here] == pytest.approx(float(run.model(jnp.asarray(point))), rel=1e-12)
    relative = np.linalg.norm(field.found - field.exact) / np.linalg.norm(field.exact)
    assert relative == pytest.approx(run.error, rel=0.1)  # on a thinned grid


def test_frames_of_the_slider_are_slices(runs):
    content = measure(runs[0], "a", ())
    _, moved, slider = figures.solution(content)
    along = content.field.names.index("t")
    frames = slider.frames["0"][1]["frames"]
    assert len(frames) == len(slider.values) == len(content.field.axes[along])
    np.testing.assert_allclose(frames[4], np.take(content.field.found, 4, along), rtol=1e-3, atol=1e-12)
    assert len(moved) == 2


def test_spectrum_is_that_of_the_jacobian(runs):
    run = runs[1]
    found = measure(run, "a", ()).spectrum
    batch = run.position.carry.sampler.batch
    lin = run.objective.over(None).linearise(run.theta, batch)
    rows = jnp.asarray(lin.jacobian())
    assert found.eigenvalues[0] == pytest.approx(float(jnp.linalg.svd(rows, compute_uv=False)[0] ** 2), rel=1e-9)


def test_three_coordinates_have_a_slider_over_time(runs):
    axes = (np.linspace(0, 1, 4), np.linspace(0, 2, 5), np.linspace(0, 3, 6))
    x, y, t = np.meshgrid(*axes, indexing="ij")
    exact = x + 10 * y + 100 * t
    field = Field(axes, ("x", "y", "t"), exact + 0.1, exact)
    content = dataclasses.replace(measure(runs[0], "a", ()), field=field)
    still, moved, slider = figures.solution(content)
    assert (still, slider.name, slider.values) == ([], "t", figures.numbers(axes[2]))
    frame = np.asarray(slider.frames["0"][0]["frames"][3])  # rows are y
    np.testing.assert_allclose(frame, (exact + 0.1)[:, :, 3].T, rtol=1e-3)
    assert len(moved) == 2


def test_thinning_keeps_the_ends():
    for rows, length in zip(thinned((257, 101), 3000), (257, 101), strict=True):
        assert (rows[0], rows[-1]) == (0, length - 1)
    assert math.prod(map(len, thinned((257, 101), 3000))) <= 3000
    assert [list(rows) for rows in thinned((3, 4), 100)] == [[0, 1, 2], [0, 1, 2, 3]]


def test_plotly_knows_every_attribute(runs):
    """plotly.js passes over what it does not know, in silence; plotly in Python refuses it."""
    graph = pytest.importorskip("plotly.graph_objects")
    for run in runs:
        content = measure(run, "a", ())
        still, moved, _ = figures.solution(content)
        every = [*figures.convergence([content]), *still, *moved, figures.points(content), figures.spectrum([content])]
        for plot in every:
            graph.Figure(plot.data, plot.layout)


def luminance(colour):
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return np.dot(linear, (0.2126, 0.7152, 0.0722))


def test_contrast_of_text(page):
    named = dict(re.findall(r"--(ink|soft|blue|red|wash): (#[0-9a-f]{6})", page))
    for name in ("ink", "soft", "blue", "red"):
        for ground in ("#ffffff", named["wash"]):
            assert (luminance(ground) + 0.05) / (luminance(named[name]) + 0.05) >= 4.5, (name, ground)


def test_refusals(runs, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no run"):
        rv.write_report([], tmp_path / "a.html")
    with pytest.raises(ValueError, match="2 runs, but 1 names"):
        rv.write_report(runs, tmp_path / "a.html", names=["a"], findings=[(), ()])
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ImportError, match=r"pip install 'ravine\[report\]'"):
        rv.write_report(runs, tmp_path / "a.html")


def test_findings_of_one_run_alone(runs, tmp_path):
    for number, findings in enumerate((FINDINGS, [FINDINGS], rv.Diagnosis(FINDINGS))):
        path = rv.write_report(runs[1], tmp_path / f"{number}.html", findings=findings)
        assert "A large one" in path.read_text()
    assert "Nothing is to blame" in rv.write_report(runs[1], tmp_path / "none.html", findings=()).read_text()


# -------------------------------------------------------------------------------------------------------- command line


def test_commands(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    tiny = ("poisson1d", "--points", "16", "--width", "4", "--depth", "1", "--phases", "adam:3", "--out", folder)
    code, out, _ = ravine_("solve", *tiny, "--report", "--live")
    assert code == 0
    assert f"report           {folder / 'report.html'}" in out
    assert (folder / "report.html").stat().st_size < 8e6
    (folder / "report.html").unlink()
    code, out, _ = ravine_("report", folder)
    assert (code, out) == (0, f"report   {folder / 'report.html'}\n")
    code, _, _ = ravine_("report", folder, folder, "--out", tmp_path / "both.html")
    assert code == 0
    assert "2 runs" in (tmp_path / "both.html").read_text()
    for arguments, told in (
        ((tmp_path / "none",), "There is no run folder"),
        ((tmp_path,), "is no run folder"),
        ((folder, "--out", tmp_path), "is a folder"),
        ((folder, "--out", folder / "config.json" / "a.html"), "cannot be written"),
    ):
        code, out, err = ravine_("report", *arguments)
        assert (code, out) == (2, "")
        assert told in err or "config.json" in err
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for arguments in (("report", folder), ("solve", "poisson1d", "--report")):
        code, _, err = ravine_(*arguments)
        assert code == 2
        assert "pip install 'ravine[report]'" in err


# ----------------------------------------------------------------------------------------------------------- live view


def event(kind, step, **row):
    return callbacks.Event(kind, {"step": step, "seconds": float(step), "method": "adam", **row}, run=lambda: None)


def test_live_plot_is_logarithmic():
    rows = [{"seconds": float(k), "loss": 10.0**-k, "error": math.nan} for k in range(5)]
    plot = console.draw(rows, width=20, height=5).plain.splitlines()
    marked = [(y, x - 10) for y, line in enumerate(plot[:5]) for x, sign in enumerate(line) if ord(sign) > 0x2800]
    # A decade a second is a straight line from corner to corner.
    assert marked == [(0, 0), (1, 5), (2, 10), (3, 14), (4, 19)]
    assert plot[0].startswith("   1e+00")
    assert plot[4].startswith("   1e-04")
    assert console.draw([{"seconds": 0.0, "loss": math.inf}], width=20, height=5).plain == "no finite loss yet"


def test_live_view_on_a_terminal_and_elsewhere(monkeypatch):
    import io

    for terminal in (True, False):
        out = io.StringIO()
        monkeypatch.setattr(
            console, "Console", lambda out=out, terminal=terminal, **_: Console(file=out, force_terminal=terminal)
        )
        with console.Progress("n = 1", live=True) as progress:
            for step in range(1, 4):
                progress(event("record", step, loss=10.0**-step, error=0.1**step))
        assert ("┤" in out.getvalue()) == terminal
        assert "loss 1.00e-0" in out.getvalue()


# ----------------------------------------------------------------------------------------------------------- callbacks


def test_tensorboard_holds_every_record(runs, tmp_path):
    loader = pytest.importorskip("tensorboardX.proto.event_pb2")
    record = rv.TensorBoard(tmp_path)
    for row in runs[1].history:
        record(callbacks.Event("record", row, run=lambda: runs[1]))
    record(callbacks.Event("stop", row, run=lambda: runs[1]))
    (file,) = tmp_path.glob("events*")
    data, found = file.read_bytes(), []
    while data:  # length (8), its checksum (4), the event, its checksum (4)
        size = int.from_bytes(data[:8], "little")
        found.append(loader.Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    losses = {e.step: v.simple_value for e in found for v in e.summary.value if v.tag == "loss"}
    assert losses == {row["step"]: pytest.approx(row["loss"], rel=1e-6) for row in runs[1].history}


def test_weights_and_biases_are_told_every_record(runs, tmp_path, monkeypatch):
    told = []

    class Recorder:
        summary = {}  # noqa: RUF012

        def log(self, row, step):
            told.append((step, row["loss"]))

        def finish(self):
            told.append("finished")

    begun = []
    stand_in = types.ModuleType("wandb")
    stand_in.init = lambda **options: begun.append(options) or Recorder()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    record = rv.WeightsAndBiases("project", name="a", folder=tmp_path)
    for row in runs[1].history:
        record(callbacks.Event("record", row, run=lambda: runs[1]))
    record(callbacks.Event("stop", row, run=lambda: runs[1]))
    assert told == [*((row["step"], row["loss"]) for row in runs[1].history), "finished"]
    (options,) = begun
    assert (options["project"], options["name"], options["mode"]) == ("project", "a", "offline")
    assert Recorder.summary == {"stop_reason": runs[1].stop.value}


def test_missing_packages_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ImportError, match=r'pip install "ravine\[tensorboard\]"'):
        rv.TensorBoard("a")
    with pytest.raises(ImportError, match=r'pip install "ravine\[wandb\]"'):
        rv.WeightsAndBiases("a")


# ------------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser():
    driver = pytest.importorskip("selenium.webdriver")
    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and service):
        pytest.skip("needs chromium and chromedriver on the path")
    options = driver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = driver.Chrome(options=options, service=driver.ChromeService(service))
    yield opened
    opened.quit()


@pytest.fixture
def opened(browser, path):
    browser.get(path.as_uri())
    return browser


def test_page_is_whole_and_asks_for_nothing(opened, path):
    assert path.stat().st_size < 8e6
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert [url for url in sent if not url.startswith(("data:", "blob:")) and url != path.as_uri()] == []
    assert opened.execute_script("return performance.getEntriesByType('resource').length") == 0
    drawn = "return [...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.main-svg').length)"
    assert all(count > 0 for count in opened.execute_script(drawn))
    assert not opened.execute_script("return window.alerted === true")


def test_page_is_sound(opened):
    levels = opened.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    labels = opened.execute_script(
        "return [...document.querySelectorAll('figure .plot, img')].map(p => p.getAttribute('aria-label') || p.alt)"
    )
    assert len(labels) >= 8
    assert all(re.search(r"\d", label) for label in labels)
    assert opened.execute_script("return document.documentElement.lang") == "en"
    for landmark in ("header", "nav[aria-label]", "main", "footer"):
        assert opened.find_elements("css selector", landmark)
    twice = "const ids = [...document.querySelectorAll('[id]')].map(e => e.id); return ids.length - new Set(ids).size"
    assert opened.execute_script(twice) == 0
    unnamed = """return [...document.querySelectorAll('button, input, [role=region]')].filter(e =>
        !(e.textContent.trim() || e.getAttribute('aria-label') || (e.labels && e.labels.length))).length"""
    assert opened.execute_script(unnamed) == 0
    targets = opened.execute_script("return [...document.querySelectorAll('a')].map(a => a.getAttribute('href'))")
    assert all(opened.find_elements("css selector", target) for target in targets)


def test_skip_link_comes_first(opened):
    from selenium.webdriver.common.keys import Keys

    opened.find_element("css selector", "body").send_keys(Keys.TAB)
    assert opened.switch_to.active_element.get_attribute("class") == "skip"
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert opened.switch_to.active_element.get_attribute("id") == "main"


def test_legend_switches_traces(opened):
    shown = lambda plot: opened.execute_script(
        f"return document.getElementById('{plot}').data.map(t => [t.meta[0], t.visible !== false])"
    )
    button = opened.find_element("css selector", '.legend button[data-key="loss"]')
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    for pressed in (False, True):
        button.click()
        assert button.get_attribute("aria-pressed") == str(pressed).lower()
        for plot in ("time", "work"):
            assert all(visible == (pressed or name != "loss") for name, visible in shown(plot))


def test_slider_changes_the_slice(opened):
    from selenium.webdriver.common.keys import Keys

    slider = opened.find_element("css selector", "input[type=range]")
    now = "const p = document.getElementById('slice0-0'); return [...p.data[1].y]"
    before, told = opened.execute_script(now), slider.get_attribute("aria-valuetext")
    slider.send_keys(Keys.END)
    after = opened.execute_script(now)
    assert before != after
    assert slider.get_attribute("aria-valuetext") != told
    data = json.loads(opened.execute_script("return document.querySelector('[data-slider]').textContent"))
    assert after == data["frames"]["slice0-0"][1]["frames"][-1]
    output = opened.find_element("css selector", ".slider output").text
    assert float(output) == pytest.approx(data["values"][-1])


def test_table_sorts_by_mouse_and_keyboard(opened, runs):
    from selenium.webdriver.common.keys import Keys

    head = next(h for h in opened.find_elements("css selector", ".sortable thead th") if "relative" in h.text)
    button = head.find_element("css selector", "button")
    column = "return [...document.querySelectorAll('.sortable tbody tr')].map(r => Number(r.cells[1].dataset.value))"
    errors = sorted(run.error for run in runs)
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert (head.get_attribute("aria-sort"), opened.execute_script(column)) == ("ascending", errors)
    button.send_keys(Keys.ENTER)
    assert (head.get_attribute("aria-sort"), opened.execute_script(column)) == ("descending", errors[::-1])
    button.send_keys(Keys.SPACE)
    assert (head.get_attribute("aria-sort"), opened.execute_script(column)) == ("ascending", errors)
    sorted_by = opened.execute_script("return document.querySelectorAll('th[aria-sort]:not([aria-sort=none])').length")
    assert sorted_by == 1


def test_narrow_page_does_not_scroll_sideways(opened):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    )
    opened.refresh()
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
