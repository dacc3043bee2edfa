"""One run over two processes of this machine: the same curve as one process, and what is left when one is killed."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import psutil
import pytest

import ravine as rv
from ravine import checkpoint, cli, hosts

SOURCE = str(Path(rv.__file__).parents[1])
TIMEOUT = 120
METHODS = {"adam": 12, "ssbroyden": 6, "levenberg_marquardt": 5, "lbfgs": 8}
TINY = ("poisson1d", "--points", "37", "--width", "5")

# Every process runs this; the one with index 0 prints. 37 points do not divide by two.
SCRIPT = f"""
import sys, time
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
import ravine as rv

rv.use_cores(1)
address, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
rv.join_hosts(address, count, index)
assert jax.process_count() == jax.device_count() == count and jax.process_index() == index
problem = rv.problems.make("poisson1d", points=37, width=5)
for name, steps in {METHODS!r}.items():
    run = rv.train(problem, rv.Phase(rv.METHODS[name](), steps=steps), key=jax.random.key(0))
    # A run belongs to its process: it is evaluated without the others.
    assert run.theta.is_fully_addressable and run.objective.mesh is None
    if index == 0:
        print(name, *map(repr, run.history["loss"].tolist()))

# The clock and the callbacks of process 0 decide, and every process ends alike.
run = rv.train(problem, rv.Phase(rv.adam()), seconds=0.5, key=jax.random.key(0))
assert run.stop is rv.Stop.SECONDS
def interrupt(event):
    assert index == 0
    if event.kind == "record" and event.row["step"] == 3:
        raise KeyboardInterrupt
some = rv.train(problem, rv.Phase(rv.adam(), steps=9), key=jax.random.key(0), callbacks=[interrupt])
assert some.stop is rv.Stop.INTERRUPTED and some.position.steps == 3
print("steps", run.position.steps, repr(float(jnp.sum(run.theta))))
"""


@contextlib.contextmanager
def processes(*commands, environments=({}, {})):
    """Commands at once, each in a process group of its own that is killed in the end whatever happens."""
    settings = {"PYTHONPATH": SOURCE, "RAVINE_NO_CACHE": "1"}

    def start(command, environment):
        return subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | settings | environment,
        )

    running = []
    try:
        running.extend(map(start, commands, environments))
        yield running
    finally:
        for one in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.pid, signal.SIGKILL)
            one.communicate()


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def curves() -> dict[str, np.ndarray]:
    """The losses of one process: this one."""
    problem, found = rv.problems.make("poisson1d", points=37, width=5), {}
    for name, steps in METHODS.items():
        run = rv.train(problem, rv.Phase(rv.METHODS[name](), steps=steps), key=jax.random.key(0), devices=1)
        found[name] = run.history["loss"]
    return found


def test_two_processes_follow_the_curve_of_one(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    address = free_address()
    with processes(*([tmp_path / "script.py", address, 2, index] for index in (0, 1))) as both:
        (out, err), (other, other_err) = (one.communicate(timeout=TIMEOUT) for one in both)
    assert [one.returncode for one in both] == [0, 0], err[-3000:] + other_err[-3000:]
    *lines, steps = (line.split() for line in out.splitlines())
    found = {name: np.array(losses, float) for name, *losses in lines}
    for name, losses in curves().items():
        np.testing.assert_allclose(found[name], losses, rtol=1e-10, err_msg=name)
    # How many steps fit into half a second is the same everywhere, and so are the parameters.
    assert other.split() == steps
    assert int(steps[1]) > 0


def solve(*arguments):
    """A command, run here, by one process."""
    assert cli.main([str(argument) for argument in (*arguments, "--json")]) == 0


def wait_for(running, text):
    """Reads stderr until a line holds `text`, and returns what was read."""
    read = []
    for line in running.stderr:
        read.append(line)
        if text in line:
            return "".join(read)
    raise AssertionError("".join(read))


def srun(index: int) -> dict[str, str]:
    """What `srun -n 2` sets for one of its processes; the port follows from the number of the job."""
    job = os.getpid()
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{65535 - 2**12 + 1 + job % 2**12}",
    }


def test_a_killed_process_leaves_a_run_that_resumes(tmp_path, monkeypatch):
    """A worker is killed: process 0 saves and ends. Resumed on two, as Slurm starts them, process 0 is killed: the
    worker ends. Resumed on one process, the run reaches the result of one that was never interrupted."""
    monkeypatch.setenv("RAVINE_NO_CACHE", "1")
    phases = ("--phases", "adam:3000")
    for pause in (1, 4, 16):  # a busy machine may still be compiling after the first line
        folder = tmp_path / f"run{pause}"
        with processes(["-m", "ravine.cli", "solve", *TINY, *phases, "--hosts", 2, "--out", folder]) as (first,):
            wait_for(first, "step 0")
            time.sleep(pause)
            (worker,) = psutil.Process(first.pid).children()
            worker.kill()
            begin = time.perf_counter()
            out, err = first.communicate(timeout=TIMEOUT)
        assert time.perf_counter() - begin < 15
        assert first.returncode == hosts.LOST, err
        assert err.strip().splitlines() == [
            f"ravine: Process 1 of 2 is gone. What was reached is saved; go on with: ravine resume {folder}"
        ]
        assert rv.Stop.HOST_LOST.value in out
        saved = rv.load(folder)
        assert saved.stop is rv.Stop.HOST_LOST
        if saved.position.steps:
            break
    assert 0 < saved.position.steps < 3000

    command = ["-m", "ravine.cli", "resume", folder]
    with processes(command, command, environments=(srun(0), srun(1))) as (first, worker):
        wait_for(first, "step")
        first.kill()
        _, err = worker.communicate(timeout=15)
    assert worker.returncode != 0
    # Its own words, or those of JAX, which ends whoever has lost the coordination service: the faster ones.
    assert re.search("Process 0 of 2 is gone|Terminating process because the JAX distributed service", err), err
    assert rv.load(folder).position.steps == saved.position.steps

    solve("resume", folder)
    solve("solve", *TINY, *phases, "--out", tmp_path / "whole")
    found, whole = rv.load(folder), rv.load(tmp_path / "whole")
    assert found.history["step"].tolist() == whole.history["step"].tolist()
    np.testing.assert_allclose(found.history["loss"], whole.history["loss"], rtol=1e-8)
    np.testing.assert_allclose(checkpoint.read_theta(folder), checkpoint.read_theta(tmp_path / "whole"), rtol=1e-8)


@pytest.mark.parametrize("where", ["advance", "measure"])
def test_what_a_lost_process_cuts_off_is_made_good(where, monkeypatch):
    """Wherever it is lost, a resumed run has every row, and every number, of one that was never interrupted."""
    problem, phase = rv.problems.make("poisson1d", points=9, width=3), rv.Phase(rv.adam(), steps=8)
    whole = rv.train(problem, phase, key=jax.random.key(0))
    module, calls = sys.modules["ravine.loop"], []
    right = getattr(module, where)

    def lost(*args):
        calls.append(args)
        if len(calls) == 5:
            raise hosts.HostLost
        return right(*args)

    monkeypatch.setattr(module, where, lost)
    half = rv.train(problem, phase, key=jax.random.key(0))
    assert half.stop is rv.Stop.HOST_LOST
    assert half.position.steps == len(half.history) - (where == "advance")
    again = rv.train(problem, phase, key=jax.random.key(0), resume=half)
    assert again.stop is rv.Stop.STEPS
    for column in ("step", "loss", "error", "gradients"):
        np.testing.assert_array_equal(again.history[column], whole.history[column])


# ------------------------------------------------------------------------------------------------- who is which process


def test_what_srun_sets_is_read():
    step = {
        "SLURM_JOB_ID": "7",
        "SLURM_STEP_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "1",
    }
    assert hosts.place(step) == hosts.Place(None, 4, 3)
    assert hosts.place(step | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}) is None
    # A batch script is not a step: no other process would come.
    assert hosts.place({name: value for name, value in step.items() if "STEP" not in name}) is None


BAD = [
    ({"RAVINE_HOSTS": "2"}, "RAVINE_COORDINATOR, RAVINE_HOST is not"),
    ({"RAVINE_COORDINATOR": "a:1", "RAVINE_HOSTS": "2", "RAVINE_HOST": "2"}, "Process 2 of 2 cannot be"),
    ({"RAVINE_COORDINATOR": "a:1", "RAVINE_HOSTS": "two", "RAVINE_HOST": "1"}, "must be a whole number"),
    ({"RAVINE_COORDINATOR": "a", "RAVINE_HOSTS": "2", "RAVINE_HOST": "1"}, "free port"),
    ({"RAVINE_COORDINATOR": "a:99999", "RAVINE_HOSTS": "2", "RAVINE_HOST": "1"}, "free port"),
]


@pytest.mark.parametrize("environment, message", BAD, ids=[message for _, message in BAD])
def test_environments_that_make_no_sense_are_refused(environment, message, monkeypatch, capsys):
    with pytest.raises(ValueError, match=message):
        hosts.place(environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["solve", "poisson1d"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-3", "65", "two"])
def test_counts_that_make_no_sense_are_refused(count, capsys, tmp_path):
    assert cli.main(["solve", "poisson1d", "--hosts", count, "--out", str(tmp_path / "run")]) == 2
    assert "--hosts" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_joining_needs_all_or_nothing():
    assert rv.join_hosts() == 1  # nothing in the environment: alone
    with pytest.raises(ValueError, match="address, count and index"):
        rv.join_hosts("127.0.0.1:1", 2)
    assert rv.join_hosts("127.0.0.1:1", 1, 0) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 64])
def test_every_process_gets_as_many_cores(count):
    parts = hosts.share(count)
    assert len(parts) == count
    assert len({len(part) for part in parts}) == 1
    known = {core for part in parts for core in part}
    assert len(known) == min(len(os.sched_getaffinity(0)) // len(parts[0]), count) * len(parts[0])
