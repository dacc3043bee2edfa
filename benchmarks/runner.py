"""Runs methods on problems, one process at a time, and stores what comes out."""

import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import envs, machine
from benchmarks.report import undisturbed

# name in the table -> environment, file in `peers`, argument
METHODS: dict[str, tuple[str, str, str]] = {
    "ravine-auto": ("jax", "ravine_itself", "auto"),
    "ravine-ssbroyden": ("jax", "ravine_itself", "ssbroyden"),
    "ravine-levenberg_marquardt": ("jax", "ravine_itself", "levenberg_marquardt"),
    "ravine-lbfgs": ("jax", "ravine_itself", "lbfgs"),
    "ravine-adam": ("jax", "ravine_itself", "adam"),
    "optax-adam": ("jax", "optax_adam", ""),
    "optax-lbfgs": ("jax", "optax_lbfgs", ""),
    "optimistix-lm": ("jax", "optimistix_lm", ""),
    "optimistix-bfgs": ("jax", "optimistix_bfgs", ""),
    "scipy-bfgs": ("jax", "scipy_bfgs", ""),
    "scipy-lbfgsb": ("jax", "scipy_lbfgsb", ""),
    "scipy-ssbroyden": ("jax", "scipy_ssbroyden", ""),
    "deepxde-adam-lbfgs": ("torch", "deepxde_adam_lbfgs", ""),
    "torch-lbfgs": ("torch", "torch_lbfgs", ""),
}
RESULTS = envs.HERE / "results"
GRACE = 300.0  # seconds a run may take beyond its budget (imports, compilation, measuring) before it is killed


def stored(folder: Path = RESULTS) -> list[dict]:
    """Every stored run."""
    lines = (line for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines())
    return [json.loads(line) for line in lines]


def identity(run: dict) -> tuple:
    """What makes two runs the same run. A peer does not depend on ravine's code, but on the harness's, hence both."""
    return (run["problem"], run["method"], run["seed"], run["seconds"], run["revision"])


def start_file(problem: str, seed: int, scratch: Path) -> Path:
    """The start of a problem, written by ravine when it is not there yet."""
    start = scratch / f"{problem}-{seed}.npz"
    if not start.exists():
        command = [envs.python("jax"), "-m", "benchmarks.export", problem, seed, start]
        subprocess.run(list(map(str, command)), env=envs.environment(), cwd=scratch, check=True)
    return start


def once(problem: str, method: str, seed: int, seconds: float, scratch: Path) -> dict:
    """One run in a process of its own; a run that breaks down is a result too."""
    family, module, argument = METHODS[method]
    start, out = start_file(problem, seed, scratch), scratch / "out.json"
    out.unlink(missing_ok=True)
    command = [envs.python(family), "-m", "benchmarks.worker", module, argument, start, seconds, out]
    begun = datetime.datetime.now(datetime.UTC)
    rate = machine.gemm_rate()
    killed = ""
    try:
        done = subprocess.run(
            list(map(str, command)),
            env=envs.environment(),
            cwd=scratch,
            timeout=seconds + GRACE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        killed = done.stderr[-2000:] if done.returncode else ""
    except subprocess.TimeoutExpired:
        killed = f"killed after {seconds + GRACE:g} s"
    nothing = {"stop": "error", "failure": killed, "rows": [], "warm_up_seconds": None, "peak_bytes": None}
    found = json.loads(out.read_text()) if out.exists() else nothing
    # Before and after: a run beside which something else was at work is worth nothing, and this shows it.
    rate = min(rate, machine.gemm_rate())
    return {
        "problem": problem,
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "date": begun.isoformat(timespec="seconds"),
        "revision": machine.revision(),
        "cpu": machine.cpu(),
        "gemm_gflops": rate,
        **found,
    }


def run(
    problems: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
    seconds: float,
    *,
    again: bool = False,
    folder: Path = RESULTS,
) -> bool:
    """Every method on every problem and seed, interleaved: seeds outside, then problems, then methods.

    Runs that are stored for this code revision are skipped, unless `again`; not those that failed, or that something
    else on the machine disturbed. Returns whether all went well.
    """
    folder.mkdir(parents=True, exist_ok=True)
    known = set() if again else {identity(one) for one in undisturbed(stored(folder)) if one["stop"] != "error"}
    revision, well = machine.revision(), True
    todo = [(seed, problem, method) for seed in seeds for problem in problems for method in methods]
    with tempfile.TemporaryDirectory(prefix="ravine-bench-") as scratch:
        for number, (seed, problem, method) in enumerate(todo, start=1):
            label = f"{number} of {len(todo)}: {problem}, seed {seed}, {method}"
            if (problem, method, seed, seconds, revision) in known:
                print(f"{label}: stored", file=sys.stderr)
                continue
            found = once(problem, method, seed, seconds, Path(scratch))
            with (folder / f"{problem}.jsonl").open("a") as file:
                file.write(json.dumps(found) + "\n")
            if found["stop"] == "error":
                well = False
                print(f"{label}: failed\n{found['failure']}", file=sys.stderr)
                continue
            if found not in undisturbed([*stored(folder), found]):
                print(
                    f"{label}: the machine was busy ({found['gemm_gflops']:.0f} GFlop/s): it does not count",
                    file=sys.stderr,
                )
            last = found["rows"][-1]
            print(
                f"{label}: error {last['error']:.1e} after {last['seconds']:.1f} s and {last['steps']} steps "
                f"(warm-up {found['warm_up_seconds']:.1f} s)",
                file=sys.stderr,
            )
    return well
