"""Run folders: what is read back is what was saved, and a run that was resumed is the run never interrupted."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv
from ravine import checkpoint
from ravine.checkpoint import RunFolderError, load, read_history, read_summary, read_theta, save

TIMES = ("seconds", "compile_seconds")
KEY = jax.random.key(5)


def wave(u, z):
    """A residual of three parameters, nonlinear in two of them."""
    return u["a"] * jnp.sin(u["b"] * z[0]) + u["c"] - jnp.sin(2 * z[0])


def problem(sampler: rv.Sampler | None = None) -> rv.Problem:
    """A curve fit that compiles quickly, and has a residual for the methods that need one."""
    points = jnp.linspace(-1.0, 1.0, 9)[:, None]
    term = rv.Term("fit", wave) if sampler is None else rv.residual("fit", wave)
    names = ("a", "b", "c")
    return rv.Problem(
        terms=(term,),
        sampler=rv.Constant({"fit": points}) if sampler is None else sampler,
        model=lambda key: dict(zip(names, 0.5 + jax.random.uniform(key, (3,)), strict=True)),
    )


FIT = problem()


def for_method(name: str) -> rv.Problem:
    """The same with its parameters in a matrix, where a method looks for one."""
    if "layers" not in rv.METHODS[name].needs:
        return FIT
    term = rv.Term("fit", lambda u, z: wave(dict(zip("abc", u["w"][0], strict=True)), z))
    return dataclasses.replace(FIT, terms=(term,), model=lambda key: {"w": 0.5 + jax.random.uniform(key, (1, 3))})


def untimed(history: rv.History) -> list[dict]:
    return [{name: value for name, value in row.items() if name not in TIMES} for row in history]


def assert_same(one: rv.Run, other: rv.Run) -> None:
    """Bit for bit, in state and history."""
    jax.tree.map(np.testing.assert_array_equal, plain(one.position.carry), plain(other.position.carry))
    assert untimed(one.history) == untimed(other.history)
    assert (one.stop, one.position.phase, one.position.steps) == (
        other.stop,
        other.position.phase,
        other.position.steps,
    )


def plain(carry):
    # The work since the last chunk began depends on how steps were cut into chunks, and on nothing else.
    key = lambda leaf: jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
    return jax.tree.map(key, (carry.theta, carry.safe, carry.optimizer, carry.sampler, carry.step, carry.stop))


@pytest.fixture(scope="module")
def run() -> rv.Run:
    """A finished run of a problem with a name."""
    return rv.train(
        rv.problems.make("rosenbrock"), rv.Phase(rv.bfgs(), steps=6, until=rv.below(1e-30), name="bfgs"), key=KEY
    )


@pytest.fixture
def folder(run, tmp_path) -> Path:
    run.save(tmp_path / "a")
    return tmp_path / "a"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_meets_a_target_is_what_is_kept(tmp_path):
    """The last parameters, and not those with the least loss, which others may have."""
    run = rv.train(FIT, rv.Phase(rv.sgd(8.0), steps=8, every=1), key=KEY)
    losses = run.history["loss"]
    assert np.argmin(losses) < len(losses) - 1  # the rate is too large
    ended = run.ended(rv.Stop.TARGET)
    save(ended, tmp_path / "run")
    found = load(tmp_path / "run", problem=FIT, phases=rv.Phase(rv.sgd(8.0), steps=8, every=1))
    for one in (ended, found):
        np.testing.assert_array_equal(one.theta, run.position.carry.theta)
        assert one.loss == losses[-1] > run.loss
        assert one.summary()["loss"] == losses[-1]
    np.testing.assert_array_equal(read_theta(tmp_path / "run"), ended.theta)
    assert float(ended.objective(ended.theta, FIT.sampler.draw(KEY))) == pytest.approx(losses[-1], rel=1e-12)


# ----------------------------------------------------------------------------------------------------- round trips


def test_a_run_comes_back_from_its_folder_alone(run, folder):
    assert sorted(contents(folder)) == ["config.json", "history.parquet", "state.npz", "summary.json"]
    back = load(folder)
    assert_same(back, run)
    assert back.history.rows == run.history.rows
    assert back.summary() == run.summary()
    np.testing.assert_array_equal(back.theta, run.theta)
    np.testing.assert_array_equal(read_theta(folder), run.theta)
    assert read_history(folder).rows == run.history.rows
    assert read_summary(folder) == {**run.summary(), "folder": "a"}


def test_the_config_says_how_the_run_was_made(folder):
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == 1
    assert config["problem"]["name"] == "rosenbrock"
    assert config["dtype"] == "float64"
    assert config["key"]["data"] == [0, 5]
    assert config["versions"]["jax"] == jax.__version__
    assert config["versions"]["ravine"] == rv.__version__
    assert config["phases"] == [{"name": "bfgs", "steps": 6, "seconds": None}]
    assert config["device"]["count"] == jax.device_count()
    assert jax.random.key_data(checkpoint.restore_key(config)).tolist() == [0, 5]


@pytest.mark.parametrize("name", rv.METHODS)
def test_presets_are_recognised(name):
    phase = rv.Phase(rv.METHODS[name](), steps=3, until=rv.stalled(seconds=2.0, factor=1.5), name="x")
    plan = rv.Plan((phase,), 7.0, "because")
    described = json.loads(json.dumps(checkpoint.describe_plan(plan)))
    again = checkpoint.restore_phases({"plan": described})
    assert described["phases"][0]["method"] == name
    assert checkpoint.describe_plan(again) == described


def test_auto_is_restored():
    described = json.loads(json.dumps(checkpoint.describe_plan(rv.auto(seconds=60.0))))
    assert described == {"auto": {"seconds": 60.0, "raw": True}}
    assert checkpoint.restore_phases({"plan": described}) == rv.auto(seconds=60.0)


@pytest.mark.parametrize("seconds", [60.0, 1e-3], ids=["with Levenberg–Marquardt", "without"])
def test_what_auto_decided_is_not_forecast_again(monkeypatch, seconds):
    objective, theta, sampler = rv.problems.make("poisson1d").objective(jax.random.key(0))
    batch = sampler.init(jax.random.key(1)).batch
    plan = rv.auto(seconds=seconds)(objective, theta, batch)
    config = {"plan": checkpoint.describe_plan(rv.auto(seconds=seconds)), "phases": checkpoint.describe_phases(plan)}
    assert any(phase.name == "levenberg_marquardt" for phase in plan.phases) == (seconds > 1)
    monkeypatch.setattr("ravine.optim.auto.forecast", None)
    again = checkpoint.restore_phases(config)(objective, theta, batch)
    assert checkpoint.describe_plan(again.phases) == checkpoint.describe_plan(plan.phases)


@pytest.mark.parametrize(
    "phase",
    [
        rv.Phase(rv.adam(0.5), steps=3, name="adam"),
        rv.Phase(rv.lbfgs(memory=3), steps=3, name="lbfgs"),
        rv.Phase(rv.levenberg_marquardt(damping=1.0), steps=3),
        rv.Phase(rv.adam(), until=lambda rows: True),
    ],
    ids=["rate", "memory", "damping", "until"],
)
def test_other_settings_are_never_taken_for_the_preset(phase):
    with pytest.raises(RunFolderError, match=r"made by hand.*Pass phases="):
        checkpoint.restore_phases({"plan": checkpoint.describe_plan(phase)})


def test_runs_of_a_bare_loss_give_history_summary_and_parameters(tmp_path):
    run = rv.minimise(lambda p, a: jnp.sum((p - a) ** 2), jnp.zeros(2), 1.0, optimizer=rv.gradient_descent(), steps=2)
    run.save(tmp_path / "bare")
    assert read_history(tmp_path / "bare").rows == run.history.rows
    assert read_summary(tmp_path / "bare")["loss"] == run.loss
    np.testing.assert_array_equal(read_theta(tmp_path / "bare"), run.theta)
    with pytest.raises(RunFolderError, match=r"minimise or least_squares.*read_theta"):
        load(tmp_path / "bare")


# ---------------------------------------------------------------------------------------------------------- resume


@pytest.mark.parametrize("name", rv.METHODS)
def test_resuming_is_bit_for_bit(name, tmp_path):
    optimizer, fit = rv.METHODS[name](), for_method(name)
    phase = lambda steps: rv.Phase(optimizer, steps=steps, name=name)
    rv.train(fit, phase(12), key=KEY).save(tmp_path / "a")
    half = load(tmp_path / "a", problem=fit, phases=phase(12))
    assert half.position.steps <= 12
    whole = rv.train(fit, phase(25), key=KEY)
    assert_same(rv.train(fit, phase(25), key=KEY, resume=half), whole)


@pytest.fixture
def ranks():
    """Points are placed in their domain by broadcasting."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.usefixtures("ranks")
def test_resuming_across_phases_and_redraws_at_every_record(tmp_path):
    box = rv.Box((-1.0,), (1.0,))
    points = problem(rv.RAD(rv.Uniform(box, fit=8), every=3))
    phases = [
        rv.Phase(rv.adam(0.05), steps=7, name="adam"),
        rv.Phase(rv.levenberg_marquardt(), steps=20, until=rv.below(1e-3), name="lm"),
        rv.Phase(rv.sgd(), steps=4, name="sgd"),
    ]
    saved = []
    keep = lambda event: saved.append(event.run()) if event.kind == "record" else None
    whole = rv.train(points, phases, key=KEY, callbacks=[keep])
    assert [len(half.history) for half in saved] == list(range(1, len(whole.history) + 1))
    assert len({np.asarray(half.position.carry.sampler.batch["fit"]).tobytes() for half in saved}) > 3
    # The ends of the phases, where a limit was reached but nothing yet done about it, are the delicate places.
    numbers = [row["phase"] for row in whole.history]
    assert set(numbers) == {0, 1, 2}
    for at in (0, numbers.index(1) - 1, numbers.index(1), numbers.index(2) - 1):
        saved[at].save(tmp_path / str(at))
        half = load(tmp_path / str(at), problem=points, phases=phases)
        assert_same(half, saved[at])
        assert_same(rv.train(points, phases, key=KEY, resume=half), whole)


def test_a_phase_that_failed_stays_over(tmp_path):
    """A stationary point ends the run, and only its stop code says so: resumed anywhere, nothing more is done."""
    start = jnp.zeros(2)
    still = rv.Problem((rv.Term("x", lambda u, z: u * z[0]),), rv.Constant({"x": jnp.ones((2, 1))}), lambda key: start)
    phases = [rv.Phase(rv.gradient_descent(), steps=9, name="a"), rv.Phase(rv.gradient_descent(), steps=9, name="b")]
    saved = []
    whole = rv.train(
        still, phases, key=KEY, callbacks=[lambda e: saved.append(e.run()) if e.kind == "record" else None]
    )
    assert whole.stop is rv.Stop.STATIONARY
    assert [row["step"] for row in whole.history] == [0, 1]
    for number, half in enumerate(saved):
        half.save(tmp_path / str(number))
        half = load(tmp_path / str(number), problem=still, phases=phases)
        assert_same(rv.train(still, phases, key=KEY, resume=half), whole)


def test_time_already_spent_counts(run):
    phase = rv.Phase(rv.bfgs(), seconds=50.0, name="bfgs")
    position = run.position
    spent = dataclasses.replace(position, seconds=40.0, compile_seconds=9.9999, phase_seconds=50.0)
    late = dataclasses.replace(run, position=spent)
    again = rv.train(run.problem, phase, key=KEY, resume=late)
    assert again.stop is rv.Stop.SECONDS
    assert again.position.steps == position.steps


def test_resuming_what_does_not_fit_is_refused(run):
    with pytest.raises(ValueError, match="another key"):
        rv.train(run.problem, rv.Phase(rv.bfgs(), steps=9), key=jax.random.key(6), resume=run)
    with pytest.raises(ValueError, match=r"does not fit phase 1.*same problem and phases"):
        rv.train(run.problem, rv.Phase(rv.gradient_descent(), steps=9), key=KEY, resume=run)


SCRIPT = """
import os, signal, sys
import jax
jax.config.update("jax_enable_x64", True)
import ravine as rv
from ravine import checkpoint

mode, path, reference = sys.argv[1:]
if mode == "train":
    # The 13th save is cut off after the history was put in place and before the state was.
    replace, states = os.replace, []

    def cut(source, target):
        if os.path.basename(target) == "state.npz":
            states.append(target)
            if len(states) == 13:
                os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = cut
    phases = [rv.Phase(rv.gradient_descent(), steps=5, name="a"), rv.Phase(rv.ssbroyden(), steps=12, name="b")]
    problem = rv.problems.make("rosenbrock")
    rv.train(problem, phases, key=jax.random.key(5), callbacks=[rv.Checkpoint(path, every=0.0)])
else:
    half = rv.load(path)
    key, phases = checkpoint.restore_key(half.config), checkpoint.restore_phases(half.config)
    rv.train(half.problem, phases, key=key, resume=half, callbacks=[rv.Checkpoint(path)])
    rv.train(half.problem, phases, key=key).save(reference)
"""


def test_a_killed_program_is_resumed_bit_for_bit(tmp_path):
    # Both legs run as programs of their own: other settings of JAX compile to other roundings.
    path, reference = tmp_path / "killed", tmp_path / "reference"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def program(mode):
        command = [sys.executable, "-c", SCRIPT, mode, str(path), str(reference)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    done = program("train")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (path / ".state.npz.tmp").exists()
    half = load(path)
    assert (half.position.phase, half.position.steps) == (1, 10)
    assert read_history(path).rows[:-1] == half.history.rows
    done = program("resume")
    assert done.returncode == 0, done.stderr
    assert_same(load(path), load(reference))
    assert not list(path.glob(".*"))


# ------------------------------------------------------------------------------------------- when writing goes wrong


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["replace", "fsync", "savez"])
def test_a_full_disk_leaves_what_was_there(run, folder, monkeypatch, what):
    before = contents(folder)
    monkeypatch.setattr(np if what == "savez" else os, what, full)
    with pytest.raises(RunFolderError, match=r"could not be written \(No space left.*still whole"):
        save(run, folder)
    monkeypatch.undo()
    # The summary and config are the same each time; the state above all must be.
    assert contents(folder) == before
    assert_same(load(folder), run)


def test_an_interruption_leaves_no_temporary_file(run, folder, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save(run, folder)
    assert not list(folder.glob(".*"))


def test_a_file_in_the_way(run, tmp_path):
    (tmp_path / "file").write_text("precious")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunFolderError, match=r"could not be made.*a file of that name"):
            save(run, path)
    assert (tmp_path / "file").read_text() == "precious"


def test_a_folder_that_is_not_writable(run, tmp_path, monkeypatch):
    # Permissions do not bind the superuser, who may run the tests: the question itself is answered.
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(RunFolderError, match="not writable"):
        save(run, tmp_path / "a")


def test_pyarrow_missing_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RunFolderError, match=r"pip install 'ravine\[cli\]'"):
        save(run, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_checkpoint_fails_early_or_goes_on(run, tmp_path, monkeypatch):
    phase = rv.Phase(rv.bfgs(), steps=6, until=rv.below(1e-30), name="bfgs")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="could not be made"):
        rv.train(run.problem, phase, key=KEY, callbacks=[rv.Checkpoint(tmp_path / "file")])
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(RuntimeWarning, match="No space left"):
        again = rv.train(run.problem, phase, key=KEY, callbacks=[rv.Checkpoint(tmp_path / "a")])
    assert_same(again, run)


# ------------------------------------------------------------------------------------------- when reading goes wrong


def damage_nothing(folder, function, match):
    before = contents(folder)
    with pytest.raises(RunFolderError, match=match):
        function(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["config.json", "history.parquet", "state.npz"])
def test_truncated_and_missing_files(folder, name):
    data = (folder / name).read_bytes()
    for length in (0, 1, len(data) // 2, len(data) - 3):
        (folder / name).write_bytes(data[:length])
        damage_nothing(folder, load, f"{name} is damaged")
    (folder / name).unlink()
    damage_nothing(folder, load, f"There is no .*{name}")


def test_a_folder_that_is_none(tmp_path):
    for function in (load, read_history, read_summary, read_theta):
        with pytest.raises(RunFolderError, match=r"There is no .*not that of a run folder"):
            function(tmp_path / "none")


def rewrite(folder, change) -> None:
    """Changes state.npz as `change(arrays)` says, in a file that is a good archive again."""
    with np.load(folder / "state.npz") as data:
        arrays = dict(data)
    change(arrays)
    np.savez(folder / "state.npz", **arrays)


def test_a_flipped_bit_is_found(folder):
    def flip(arrays):
        arrays["leaf0"].view(np.uint8)[0] ^= 1

    rewrite(folder, flip)
    damage_nothing(folder, load, "checksum")
    damage_nothing(folder, read_theta, "checksum")
    assert len(read_history(folder)) > 0


class Trap:
    """Unpickling one of these would leave a trace."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


def test_pickles_are_refused(folder):
    def plant(arrays):
        arrays["leaf0"] = np.array([Trap()], dtype=object)

    rewrite(folder, plant)
    damage_nothing(folder, load, "is damaged.*not a saved state")
    assert not Trap.sprung


def test_newer_formats_are_called_newer(folder):
    config = json.loads((folder / "config.json").read_text())
    newer = json.dumps({**config, "format": 2, "versions": {"ravine": "9.9"}})
    (folder / "config.json").write_text(newer)
    damage_nothing(folder, load, r"format 2.*newer one \(9.9\).*pip install --upgrade")
    (folder / "config.json").write_text(json.dumps(config))

    def later(arrays):
        text = arrays["manifest"].tobytes().replace(b'"format": 1', b'"format": 7')
        arrays["manifest"] = np.frombuffer(text, np.uint8)

    rewrite(folder, later)
    damage_nothing(folder, load, "format 7")


@pytest.mark.parametrize("text", ["{", "[]", "\x00", '{"format": "one"}'])
def test_json_that_is_not_json(folder, text):
    (folder / "config.json").write_text(text)
    damage_nothing(folder, load, "config.json is damaged")


def test_a_state_that_does_not_fit(folder):
    phases = rv.Phase(rv.gradient_descent(), steps=6)
    damage_nothing(folder, lambda f: load(f, phases=phases), r"does not fit.*(has|lacks) \.optimizer")
    other = rv.problems.make("quadratic", dimension=3)
    damage_nothing(folder, lambda f: load(f, problem=other), r"has shape \(2,\).*expected \(3,\)")


def test_a_problem_without_a_name_must_be_passed(tmp_path):
    phase = rv.Phase(rv.gradient_descent(), steps=12, name="gradient_descent")
    rv.train(FIT, phase, key=KEY).save(tmp_path / "own")
    with pytest.raises(RunFolderError, match=r"has no name.*Pass problem="):
        load(tmp_path / "own")
    # Phases that are presets need not be passed.
    assert load(tmp_path / "own", problem=FIT).position.steps == 12


def test_a_problem_changed_by_hand_is_not_taken_for_the_named_one(run, tmp_path):
    heavier = dataclasses.replace(
        run.problem, terms=tuple(dataclasses.replace(t, weight=2.0) for t in run.problem.terms)
    )
    phase = rv.Phase(rv.gradient_descent(), steps=1)
    rv.train(heavier, phase, key=KEY).save(tmp_path / "changed")
    damage_nothing(tmp_path / "changed", load, r"not made from the problem 'rosenbrock'.*Pass problem=")
    assert load(tmp_path / "changed", problem=heavier).position.steps == 1


def test_files_of_two_runs_are_not_mixed(run, folder, tmp_path):
    other = rv.train(run.problem, rv.Phase(rv.bfgs(), steps=6, until=rv.below(1e-30), name="bfgs"), key=KEY)
    other.save(tmp_path / "b")
    (folder / "state.npz").write_bytes((tmp_path / "b" / "state.npz").read_bytes())
    damage_nothing(folder, load, "state.npz belongs to another run")


def test_double_precision_is_asked_for(folder, monkeypatch):
    jax.config.update("jax_enable_x64", False)
    try:
        damage_nothing(folder, load, "jax_enable_x64")
    finally:
        jax.config.update("jax_enable_x64", True)
