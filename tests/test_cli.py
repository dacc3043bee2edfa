"""The command line: what it prints where, what it leaves behind, and what it refuses."""

import contextlib
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

import ravine
from ravine import cli, doctor, words
from ravine.cli import commands

TINY = ("--points", "16", "--width", "4", "--depth", "1")
KEYS = {
    "problem",
    "method",
    "relative_l2",
    "loss",
    "test_loss",
    "seconds",
    "compile_seconds",
    "steps",
    "evaluations",
    "stop_reason",
    "run",
}


def ravine_(*arguments):
    """Exit code, stdout and stderr of a command, run here."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


@contextlib.contextmanager
def process(*arguments, **environment):
    """The command as a process of its own, with its output in pipes."""
    source = str(Path(ravine.__file__).parents[1])
    running = subprocess.Popen(
        [sys.executable, "-m", "ravine.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": source, "RAVINE_NO_CACHE": "1"} | environment,
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.fixture(autouse=True, scope="module")
def environment():
    """No cache in anyone's home, no change of this process's threads and devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAVINE_NO_CACHE", "1")
        patch.setenv("OPENBLAS_NUM_THREADS", os.environ.get("OPENBLAS_NUM_THREADS", "1"))
        jax.devices()  # JAX has started: the command line cannot give this process other devices
        yield


@pytest.fixture(scope="module")
def solved(environment, tmp_path_factory):
    """A run folder, and what making it printed."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    code, out, err = ravine_("solve", "poisson1d", "--phases", "adam:5", *TINY, "--out", folder, "--json")
    assert code == 0, err
    return folder, out, err


@pytest.fixture
def copied(solved, tmp_path):
    """The run folder again, to be changed."""
    return Path(shutil.copytree(solved[0], tmp_path / "copy"))


# ---------------------------------------------------------------------------------------------------------- lazy names

STUB = Path(ravine.__file__).with_suffix(".pyi").read_text()


def test_names_are_in_order_and_lie_where_the_stub_says():
    for name, home in ravine._homes().items():
        module = importlib.import_module(home)
        assert getattr(module, name) is getattr(ravine, name)
    assert len(ravine._homes()) == sum(len(line.split(" as ")) - 1 for line in STUB.splitlines())  # none twice


def test_every_name_is_there():
    for name in ravine.__all__:
        assert getattr(ravine, name) is not None
    assert set(ravine.__all__) <= set(dir(ravine))
    with pytest.raises(AttributeError, match="nonsense"):
        _ = ravine.nonsense


def test_a_function_is_not_hidden_by_the_module_of_its_name():
    import ravine.train

    assert callable(ravine.train)
    assert ravine.optim.presets.adam is ravine.adam


# ---------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("arguments", [("--help",), ("solve", "--help"), ("--version",)], ids=" ".join)
def test_help_is_quick(arguments):
    # The best of three, since the machine may be busy.
    def seconds():
        begin = time.perf_counter()
        with process(*arguments) as running:
            out, err = running.communicate(timeout=60)
        assert running.returncode == 0, err
        assert "ravine" in out or out.strip() == ravine.__version__
        return time.perf_counter() - begin

    assert any(seconds() < 2 for _ in range(3))


def test_help_does_not_import_jax():
    code = "import sys, ravine.cli; ravine.cli.main(['solve', '--help']); sys.exit('jax' in sys.modules)"
    source = str(Path(ravine.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": source}).returncode == 0


def test_problems_and_methods_are_listed():
    code, out, _ = ravine_("problems")
    assert code == 0
    assert all(name in out for name in ravine.problems.NAMES)
    assert f"{ravine.problems.catalogue.CATALOGUE['burgers'].error:.1e}" in out
    code, out, _ = ravine_("problems", "burgers")
    assert code == 0
    assert "sampling=rad" in out
    assert "1.6e-8 (self-scaled" in out
    assert "ravine solve burgers --budget 60s" in out
    code, _, err = ravine_("problems", "burger")
    assert code == 2
    assert "burgers" in err
    code, out, _ = ravine_("methods")
    assert code == 0
    assert all(name in out for name in ("auto", *ravine.METHODS))


# ---------------------------------------------------------------------------------------------------------------- runs


def test_json_is_one_line(solved):
    folder, out, err = solved
    (line,) = out.splitlines()
    result = json.loads(line)
    assert set(result) >= KEYS
    assert (result["problem"], result["method"], result["steps"]) == ("poisson1d", "adam", 5)
    assert result["run"] == str(folder)
    assert result["stop_reason"] == ravine.Stop.STEPS.value
    assert "compiling: n = 13, m = 16" in err
    assert "step 0" in err


def test_a_run_leaves_folder_and_figure(solved):
    folder = solved[0]
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    run = ravine.load(folder)
    assert run.history["step"][-1] == 5
    assert run.problem.options["width"] == 4


def test_show(copied):
    (copied / "figure.png").unlink()
    code, out, err = ravine_("show", copied)
    assert (code, err) == (0, "")
    assert all(word in out for word in ("poisson1d", "adam", "jax", ravine.Stop.STEPS.value, "points=16"))
    assert (copied / "figure.png").exists()


def test_resume_goes_on_for_the_seconds_asked_for(copied):
    before = ravine.load(copied)
    code, out, err = ravine_("resume", copied, "--budget", "5s", "--json")
    assert code == 0, err
    after = ravine.load(copied)
    assert json.loads(out)["steps"] == after.history["step"][-1] > before.history["step"][-1]
    assert after.stop is ravine.Stop.SECONDS
    assert after.position.seconds >= before.position.seconds + 5


def test_a_finished_run_is_not_resumed_without_budget(solved):
    code, out, err = ravine_("resume", solved[0])
    assert (code, out) == (2, "")
    assert "is finished" in err
    assert "--budget" in err


def test_people_get_a_summary_and_a_target_ends_a_run(tmp_path):
    arguments = ("solve", "rosenbrock", "--method", "levenberg_marquardt", "--target", "1e-3")
    code, out, err = ravine_(*arguments, "--out", tmp_path / "run")
    assert code == 0, err
    assert ravine.Stop.TARGET.value in out
    assert str(tmp_path / "run" / "figure.png") in out
    run = ravine.load(tmp_path / "run")
    assert run.stop is ravine.Stop.TARGET
    assert run.error <= 1e-3
    code, _, err = ravine_("resume", tmp_path / "run")
    assert code == 2
    assert "is finished" in err


def test_the_folder_has_a_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = ravine_("solve", "rosenbrock", "--phases", "gradient_descent:1", "--json")
    assert code == 0, err
    folder = Path(json.loads(out)["run"])
    assert folder.parent == Path("runs")
    assert folder.name.startswith("rosenbrock-")
    assert (folder / "config.json").exists()


def test_float32_and_the_cache(tmp_path):
    cache = tmp_path / "cache"
    arguments = ("solve", "rosenbrock", "--phases", "lbfgs:3", "--precision", "32", "--json")
    with process(*arguments, "--out", tmp_path / "run", XDG_CACHE_HOME=str(cache), RAVINE_NO_CACHE="") as running:
        out, err = running.communicate(timeout=120)
    assert running.returncode == 0, err
    assert json.loads(out)["steps"] == 3
    assert len(out.splitlines()) == 1
    assert "float32" in err.split("warning:")[1]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == "float32"
    assert any((cache / "ravine" / "jax").iterdir())


def test_interrupt_keeps_what_was_reached(tmp_path):
    folder = tmp_path / "run"
    with process("solve", "quadratic", "--method", "sgd", "--budget", "1h", "--out", folder, "--json") as running:
        assert any("step 0" in line for line in running.stderr)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert "Traceback" not in err
    assert json.loads(out)["stop_reason"] == ravine.Stop.INTERRUPTED.value
    assert ravine.load(folder).stop is ravine.Stop.INTERRUPTED


# ----------------------------------------------------------------------------------------------------------- bad input

BAD = [
    (("solve", "burger"), "Did you mean burgers"),
    (("solve",), "PROBLEM"),
    (("slove", "burgers"), "solve"),
    (("solve", "burgers", "--budgt", "3s"), "--budget"),
    (("solve", "burgers", "--method", "lbgfs"), "Did you mean lbfgs"),
    (("solve", "burgers", "--phases", "adm:5"), "Did you mean adam"),
    (("solve", "burgers", "--method", "adam", "--phases", "adam:5"), "not both"),
    (("solve", "burgers", "--phases", "auto,adam"), "'auto' has no limit"),
    (("solve", "burgers", "--phases", "auto:5"), "cannot be one of them"),
    (("solve", "burgers", "--phases", "adam:"), "not of the form"),
    (("solve", "burgers", "--phases", "adam:0"), "number of steps"),
    (("solve", "burgers", "--phases", "adam:-5"), "a limit is"),
    (("solve", "burgers", "--budget", "-5s"), "positive time"),
    (("solve", "burgers", "--budget", "0"), "positive time"),
    (("solve", "burgers", "--budget", "soon"), "positive time"),
    (("solve", "burgers", "--budget", "nan"), "positive time"),
    (("solve", "burgers", "--budget", "1e99"), "positive time"),
    (("solve", "burgers", "--budget", "99999999h"), "positive time"),
    (("solve", "burgers", "--seed", "-1"), "seed"),
    (("solve", "burgers", "--seed", "one"), "--seed"),
    (("solve", "burgers", "--seed", "1.5"), "no whole number"),
    (("solve", "burgers", "--hosts", "1.5"), "no whole number"),
    (("solve", "burgers", "--precision", "16"), "64, 32"),
    (("solve", "burgers", "--points", "0"), "points"),
    (("solve", "burgers", "--points", "many"), "--points"),
    (("solve", "burgers", "--width", "-3"), "width"),
    (("solve", "burgers", "--depth", "0"), "depth"),
    (("solve", "burgers", "--sampler", "red"), "redraw"),
    (("solve", "poisson5d", "--weights", "anealing"), "Did you mean annealing"),
    (("solve", "poisson5d", "--weights", "annealing:alfa=0.1"), "no setting 'alfa'. Did you mean alpha"),
    (("solve", "poisson5d", "--weights", "annealing:alpha=2"), "must lie between 0 and 1"),
    (("solve", "poisson5d", "--weights", "annealing:every=1.5"), "a whole number"),
    (("solve", "poisson5d", "--weights", "bc=-1"), "the weight of 'bc' is -1.0"),
    (("solve", "poisson5d", "--weights", "bc=1:every=2"), "neither NAME"),
    (("solve", "poisson5d", "--weights", "wall=1"), "no term 'wall'; the terms are pde, bc"),
    (("solve", "rosenbrock", "--points", "5"), "has no option 'points'"),
    (("solve", "poisson1d", "--set", "k"), "--set takes name=value"),
    (("solve", "poisson1d", "--set", "k=2.5"), "whole number"),
    (("solve", "poisson1d", "--set", "k=big"), "whole number"),
    (("solve", "poisson1d", "--set", "k=0"), "at least 1"),
    (("solve", "poisson1d", "--set", "kk=3"), "Did you mean k"),
    (("solve", "poisson1d", "--points", "9", "--set", "points=8"), "given twice"),
    (("solve", "logistic", "--set", "batch=0"), "size 0"),
    (("solve", "quadratic", "--method", "levenberg_marquardt"), "need residuals"),
    (("solve", "burgers", "--target", "-1"), "positive relative error"),
    (("solve", "burgers", "--target", "tiny"), "positive relative error"),
    (("solve", "burgers", "--precision", "32", "--target", "1e-12"), "cannot be reached in float32"),
    (("show", "nowhere"), "There is no run folder"),
    (("resume", "nowhere"), "There is no run folder"),
    (("resume", "nowhere", "--budget", "-1"), "positive time"),
]


@pytest.mark.parametrize("arguments, message", BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_refused_in_one_message(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "solve" and len(arguments) > 1:
        arguments = (*arguments, "--out", "run")
    code, out, err = ravine_(*arguments)
    assert (code, out) == (2, "")
    last = err.strip().splitlines()[-1]
    assert message in last
    assert "Traceback" not in err
    assert not Path("run").exists()


def test_what_exists_is_never_written_over(copied, tmp_path):
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    code, _, err = ravine_("solve", "rosenbrock", "--out", copied)
    assert code == 2
    assert "not empty" in err
    assert f"ravine resume {copied}" in err
    assert before == {file.name: file.read_bytes() for file in copied.iterdir()}
    (tmp_path / "file").write_text("text")
    code, _, err = ravine_("solve", "rosenbrock", "--out", tmp_path / "file")
    assert code == 2
    assert "is a file" in err
    code, _, err = ravine_("solve", "rosenbrock", "--out", tmp_path / "file" / "run")
    assert code == 2
    assert "cannot be written" in err


@pytest.mark.parametrize("command", ["show", "resume"])
def test_damaged_folders_are_refused(command, copied, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = ravine_(command, tmp_path / "empty")
    assert (code, "config.json" in err) == (2, True)
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"format": 10**6}))
    code, _, err = ravine_(command, copied)
    assert (code, "newer" in err) == (2, True)
    (copied / "config.json").write_text("{")
    code, _, err = ravine_(command, copied)
    assert (code, "damaged" in err) == (2, True)
    (copied / "config.json").write_text(json.dumps(config))
    state = (copied / "state.npz").read_bytes()
    (copied / "state.npz").write_bytes(state[: len(state) // 2])
    code, _, err = ravine_(command, copied)
    assert (code, "damaged" in err) == (2, True)
    assert "Traceback" not in err


def test_the_unexpected_keeps_its_traceback(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "carry_out", broken)
    with pytest.raises(ZeroDivisionError):
        ravine_("solve", "rosenbrock", "--out", tmp_path / "run")


# --------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize(
    "text, seconds",
    [("90", 90), ("60s", 60), ("2m", 120), ("2min", 120), ("1h", 3600), ("1.5m", 90), (".5s", 0.5), (" 3 S ", 3)],
)
def test_budgets(text, seconds):
    assert words.parse_seconds(text) == seconds


def test_phases():
    found = list(words.parse_phases("adam:500, ssbroyden:1m,lbfgs"))
    assert found == [words.Step("adam", steps=500), words.Step("ssbroyden", seconds=60.0), words.Step("lbfgs")]
    found = list(words.parse_phases("adam(rate=1e-2):5,lbfgs(memory=50, longest=2.0):2s,spring(space=kernel)"))
    assert [step.method for step in found] == [
        "adam(rate=1e-2)",
        "lbfgs(memory=50, longest=2.0)",
        "spring(space=kernel)",
    ]


def test_methods_in_words_are_the_presets_with_these_settings():
    from ravine.optim.presets import method

    assert method("spring(ridge=1e-6, momentum=0.5)") == ravine.spring(ridge=1e-6, momentum=0.5)
    assert method("spring(space=kernel)") == ravine.spring(space="kernel")
    assert words.parse_methods("lbfgs(memory=5),lbfgs(memory=50)") == ["lbfgs(memory=5)", "lbfgs(memory=50)"]
    for text, say in {
        "lbfgs(momory=5)": "no setting 'momory'; it has .*memory",
        "lbfgz(memory=5)": "no method 'lbfgz'",
        "lbfgs(5)": "is not a method with settings",
        "lbfgs(memory=": "is not a method with settings",
        "spring(momentum=2.0)": "momentum is 2.0",
        "spring(ridge=small)": "ridge is a number, but was given as 'small'",
    }.items():
        with pytest.raises(words.Refusal, match=say):
            words.check_method(text)


def test_settings_of_a_method_survive_the_folder(tmp_path, capsys):
    spec = "heavy_ball(momentum=0.8):3,lbfgs(memory=3):3"
    assert cli.main(["solve", "quadratic", "--phases", spec, "--out", str(tmp_path / "a"), "--json"]) == 0
    run = ravine.load(tmp_path / "a")
    assert run.history.rows[-1]["method"] == "lbfgs(memory=3)"
    assert cli.main(["resume", str(tmp_path / "a"), "--budget", "0.2s", "--json"]) == 0


@pytest.mark.parametrize(
    "text, value",
    [("a=4", 4), ("a=1e4", 1e4), ("a=true", True), ("a=none", None), ("a=rad", "rad"), ("a = -2", -2)],
)
def test_settings(text, value):
    name, found = words.parse_setting(text)
    assert (name, found, type(found)) == ("a", value, type(value))


@pytest.mark.parametrize("cores, load, free", [(2, 0.0, 2), (2, 0.6, 2), (2, 0.71, 1), (2, 9.0, 1), (16, 4.0, 12)])
def test_threads_leave_busy_cores_alone(cores, load, free):
    assert doctor.free_cores(cores, load) == free


def test_the_cache_folder(tmp_path):
    assert doctor.cache_folder({"RAVINE_NO_CACHE": "1"}) is None
    assert doctor.cache_folder({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "ravine" / "jax"
    assert doctor.cache_folder({"JAX_COMPILATION_CACHE_DIR": "/x", "XDG_CACHE_HOME": "/y"}) == Path("/x")
    (tmp_path / "file").touch()
    assert not doctor.usable(tmp_path / "file" / "cache")


def test_doctor():
    code, out, err = ravine_("doctor")
    assert (code, err) == (0, "")
    for topic in ("jax", "devices", "cores", "load", "memory", "float64", "BLAS", "allocator", "compile cache"):
        assert topic in out
    assert "unset RAVINE_NO_CACHE" in out
    findings = {finding.topic: finding for finding in doctor.examine()}
    assert findings["float64"].value == "works"
    assert all(finding.why for finding in findings.values() if finding.line)


def test_weights_are_asked_for_kept_and_gone_on_with(tmp_path):
    asked = ("solve", "poisson5d", "--phases", "adam:4", "--weights", "annealing:every=2,alpha=0.5", *TINY)
    code, _, err = ravine_(*asked, "--out", tmp_path / "run")
    assert code == 0, err
    run = ravine.load(tmp_path / "run")
    assert run.problem.weights == ravine.Annealing(alpha=0.5, every=2)
    assert run.history["reweighted"].tolist() == [0, 1, 1, 2, 2]
    code, _, err = ravine_("resume", tmp_path / "run", "--budget", "0.2s")
    assert code == 0, err
    assert ravine.load(tmp_path / "run").history["reweighted"][-1] > 2


@pytest.mark.parametrize("sampler", ["departs", "rard", "importance", "halton"])
def test_every_way_to_place_points(sampler, tmp_path):
    """The option reaches the run, and the run its folder."""
    asked = ("solve", "poisson1d", "--phases", "adam:2", "--sampler", sampler, *TINY, "--out", tmp_path / "run")
    code, _, err = ravine_(*asked)
    assert code == 0, err
    assert ravine.load(tmp_path / "run").problem.options["sampling"] == sampler


def test_marching_needs_an_equation_in_time(tmp_path):
    code, _, err = ravine_("solve", "poisson1d", "--sampler", "marching", *TINY, "--out", tmp_path / "run")
    assert (code, "last coordinate is no time" in err) == (2, True)
