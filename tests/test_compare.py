"""`ravine compare`: every method from the same start, one table, one figure, nothing lost."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import ravine as rv
from ravine import compare, plots
from ravine.optim.presets import METHODS
from ravine.optim.presets._method import catalogue_page
from ravine.plots import sheets
from test_cli import ravine_

TINY = ("--points", "16", "--set", "width=4", "--set", "depth=1")


@pytest.fixture(autouse=True, scope="module")
def environment():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAVINE_NO_CACHE", "1")
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        jax.devices()
        yield


def history(errors, *, losses=None, test=None, seconds=4.0, steps=1000):
    count = len(errors)
    losses = errors if losses is None else losses
    rows = [
        {
            "seconds": seconds * i / (count - 1),
            "compile_seconds": 1.0,
            "step": steps * i // (count - 1),
            "loss": losses[i],
            "error": errors[i],
            **({} if test is None else {"test_loss": test[i]}),
            **dict.fromkeys(("evaluations", "gradients", "rows", "inner", "products"), 10 * i),
        }
        for i in range(count)
    ]
    return rv.History(rows)


def result(method, errors, stop=rv.Stop.SECONDS, **options):
    return compare.Result(method, 0, None, history(errors, **options), stop, rows=5)


# -------------------------------------------------------------------------------------------------------- one command


@pytest.fixture(scope="module")
def compared(environment, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare") / "all"
    methods = "adam,levenberg_marquardt,auto"
    code, out, err = ravine_(
        "compare", "poisson1d", "--methods", methods, "--budget", "0.4s", *TINY, "--out", folder, "--json"
    )
    assert code == 0, err
    return folder, json.loads(out), err


def test_every_method_starts_from_the_same_parameters_and_points(compared):
    folder, found, _ = compared
    runs = {name: rv.load(folder / name) for name in ("adam", "levenberg_marquardt", "auto")}
    assert len({run.history["loss"][0] for run in runs.values()}) == 1
    assert len({run.position.carry.sampler.batch["pde"].tobytes() for run in runs.values()}) == 1
    assert all(run.problem.options["width"] == 4 for run in runs.values())
    by_method = {row["method"]: row for row in found["results"]}
    for name, run in runs.items():
        row = by_method[name]
        assert (row["relative_l2"], row["loss"], row["steps"]) == (run.error, run.loss, run.nit)
        assert row["stop"] == run.stop.value
        assert row["run"] == str(folder / name)
    assert by_method["levenberg_marquardt"]["relative_l2"] < by_method["adam"]["relative_l2"]
    assert found["results"] == sorted(found["results"], key=lambda row: row["relative_l2"])


def test_it_leaves_figure_table_and_numbers(compared):
    folder, found, err = compared
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert found["figure"] == str(folder / "comparison.png")
    kept = json.loads((folder / "comparison.json").read_text())
    assert kept == {name: value for name, value in found.items() if name != "out"}
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[2] == "| " + " | ".join(compare.COLUMNS) + " |"
    assert len(lines) == 2 + 2 + 3
    assert "[3/3] auto" in err
    code, out, _ = ravine_("show", folder / "adam")
    assert code == 0
    assert "poisson1d" in out


def test_a_method_that_fails_is_a_row(tmp_path, monkeypatch):
    """One that the problem is not for, and one that breaks down; the others go on."""

    def broken():
        """Breaks."""
        raise RuntimeError("out of luck\nand more")

    monkeypatch.setitem(METHODS, "broken", dataclasses.replace(METHODS["adam"], make=broken))
    names = "levenberg_marquardt,broken,gradient_descent"
    code, out, err = ravine_("compare", "quadratic", "--methods", names, "--budget", "0.2s", "--out", tmp_path / "a")
    assert code == 0, err
    assert "broken failed: RuntimeError: out of luck" in err
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert "failed" in rows["broken"]
    assert "RuntimeError: out of luck" in out
    assert "Gauss–Newton and its kin need residuals" in rows["levenberg_marquardt"]
    assert "time" in rows["gradient_descent"] or "stationary" in rows["gradient_descent"] or "search" in out
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.is_dir()) == ["gradient_descent"]


def test_an_interruption_keeps_what_was_reached(tmp_path):
    problem = rv.problems.make("poisson1d", points=9, width=3, depth=1)

    def interrupt(event):
        if event.kind == "record" and event.row["method"] == "lbfgs":
            raise KeyboardInterrupt

    names = ["adam", "lbfgs", "bfgs"]
    every = compare.compare(problem, names, seconds=0.2, folder=tmp_path, callbacks=(interrupt,))
    seen = [next(every), next(every)]
    with pytest.raises(KeyboardInterrupt):
        next(every)
    assert [(one.method, one.stop) for one in seen] == [("adam", rv.Stop.SECONDS), ("lbfgs", rv.Stop.INTERRUPTED)]
    assert rv.load(tmp_path / "lbfgs").stop is rv.Stop.INTERRUPTED


def test_seeds_are_starts_of_their_own(tmp_path):
    arguments = ("--methods", "lbfgs", "--budget", "0.2s", "--seeds", "2", *TINY)
    code, out, err = ravine_("compare", "poisson1d", *arguments, "--out", tmp_path / "a", "--json")
    assert code == 0, err
    first, second = (rv.load(tmp_path / "a" / f"lbfgs-{seed}") for seed in (0, 1))
    assert first.history["loss"][0] != second.history["loss"][0]
    assert {row["seed"] for row in json.loads(out)["results"]} == {0, 1}


BAD = [
    (("poisson1", "--methods", "adam"), "Did you mean poisson1d"),
    (("poisson1d", "--methods", "adm"), "Did you mean adam"),
    (("poisson1d", "--methods", "adam,lbfgs,adam"), "'adam' is named twice"),
    (("poisson1d", "--methods", ""), "There is no method ''"),
    (("poisson1d", "--budget", "-3s"), "positive time"),
    (("poisson1d", "--seeds", "0"), "number of starts"),
    (("poisson1d", "--points", "0"), "points"),
    (("rosenbrock", "--points", "9"), "has no option 'points'"),
    (("poisson1d", "--points", "9", "--set", "points=8"), "given twice"),
]


@pytest.mark.parametrize("arguments, message", BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_refused_in_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ravine_("compare", *arguments, "--out", "run")
    assert (code, out) == (2, "")
    assert message in err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_what_exists_is_never_written_over(compared):
    code, _, err = ravine_("compare", "poisson1d", "--methods", "adam", "--out", compared[0])
    assert code == 2
    assert "not empty" in err


# ---------------------------------------------------------------------------------------------------- what applies


def test_methods_that_do_not_apply_say_why():
    chosen, left_out = compare.select(rv.problems.make("poisson1d"))
    assert {"adam", "lbfgs", "ssbroyden", "levenberg_marquardt"} <= set(chosen)
    assert "minibatches" in left_out["sgd"]
    assert set(chosen) | set(left_out) == set(METHODS)
    chosen, left_out = compare.select(rv.problems.make("quadratic"))
    assert "levenberg_marquardt" not in chosen
    assert "curvature" in left_out["levenberg_marquardt"]
    _, left_out = compare.select(rv.problems.make("logistic", batch=20))
    assert "same points" in left_out["lbfgs"]


def test_methods_that_memory_is_too_small_for_say_so(monkeypatch):
    class Memory:
        available = 2**27

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    problem = rv.problems.make("poisson1d", points=8, width=60, depth=2)
    objective, theta, sampler = problem.objective(jax.random.key(0))
    batch = sampler.init(jax.random.key(1)).batch
    why = lambda name: compare.why_not(name, objective, theta, batch, sampler)
    needed = rv.forecast(rv.bfgs(), objective, batch).process
    assert needed > 2**27
    assert why("bfgs") == f"Needs {needed / 2**30:.1f} GiB of memory, of which 0.1 GiB are free."
    assert why("lbfgs") == ""


# ------------------------------------------------------------------------------------------------- table and figure


def test_work_is_counted_in_evaluations():
    """Ten each of evaluations, gradients, rows (of five) and products: 10 + 20 + 3·2 + 25."""
    assert compare.work(history([1.0, 0.5]), 5).tolist() == [0.0, 61.0]


def test_notes_say_why_a_method_is_not_much_better_than_adam():
    adam = result("adam", [1.0, 1e-3, 1e-3])
    notes = {
        "": result("bfgs", [1.0, 1e-5, 1e-6]),
        "still falling: 10.0 times lower than at half the time": result("lbfgs", [1.0, 1e-2, 1e-3]),
        "stalled in the second half": result("ssbfgs", [1.0, 1.1e-3, 1e-3]),
        "only 12 steps in the time": result("ssbroyden", [1.0, 1.1e-3, 1e-3], steps=12),
        "became infinite or NaN": result("gauss_newton", [1.0, 1e-2, 1e-2], rv.Stop.NOT_FINITE),
        "no lower loss found after 1,000 steps": result("levenberg_marquardt", [1.0, 0.9, 0.9], rv.Stop.SEARCH_FAILED),
        "points fitted, others not (1e-04): more points": result(
            "matrix_free_gauss_newton", [1.0, 1e-2, 1e-2], losses=[1.0, 1e-6, 1e-9], test=[1.0, 1e-4, 1e-4]
        ),
    }
    rows = {row["method"]: row for row in compare.table([adam, *notes.values()])}
    for note, one in notes.items():
        assert rows[one.method]["note"] == note
    assert rows["adam"]["note"] == ""
    assert next(iter(rows)) == "bfgs"


def test_medians_over_seeds():
    of = lambda seed, error: dataclasses.replace(result("lbfgs", [1.0, error]), seed=seed)
    failed = compare.Result("lbfgs", 3, failure="no luck")
    (row,) = compare.table([of(0, 1e-3), of(1, 1e-5), of(2, 1e-4)])
    assert row["error"] == "1.0e-04 (1e-05 to 1e-03)"
    (row,) = compare.table([of(0, 1e-3), of(1, 1e-5), failed])
    assert row["note"] == "1 of 3 seeds failed"
    (row,) = compare.table([failed])
    assert (row["stop"], row["note"]) == ("failed", "no luck")


def test_the_figure_shows_every_curve_twice():
    results = [result("lbfgs", [1.0, 1e-6, 1e-4]), result("adam", [1.0, np.nan, 1e-2])]
    curves = [
        plots.Curve(
            r.method, r.family, r.history["seconds"], compare.work(r.history, 5), r.history["error"], r.order[1]
        )
        for r in results
    ]
    figure = plots.comparison(curves, title="title", quantity="relative error")
    left, right = figure.axes
    lines = [line for line in left.get_lines() if len(line.get_xdata()) == 3]
    assert [line.get_label() for line in lines] == ["lbfgs  1.0e-06", "adam  1.0e-02"]
    np.testing.assert_array_equal(lines[0].get_ydata(), [1.0, 1e-6, 1e-4])
    np.testing.assert_array_equal(lines[0].get_xdata()[1:], [2.0, 4.0])
    work = next(line for line in right.get_lines() if len(line.get_xdata()) == 3)
    np.testing.assert_array_equal(work.get_xdata(), [1.0, 61.0, 122.0])
    assert len({line.get_color() for line in lines}) == 2
    many = [dataclasses.replace(curves[0], label=f"m{i}") for i in range(60)]
    styles = sheets._styles(many)
    assert len({(style["color"], style["ls"]) for style in styles[:16]}) == 16


def test_the_catalogue_page_names_every_method_once():
    page = catalogue_page(METHODS)
    for name, method in METHODS.items():
        assert page.count(f"| `{name}` |") == 1
        assert method.source in page
