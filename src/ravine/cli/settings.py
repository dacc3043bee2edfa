"""What commands are given, made into a problem, a plan and a folder; what must be set before JAX is imported."""

import contextlib
import dataclasses
import datetime
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ravine import doctor as machine, hosts as company
from ravine.cli.printed import newest
from ravine.cli.processes import launch, meet
from ravine.words import Refusal, Step, check_method, parse_weights

if TYPE_CHECKING:
    from ravine.optim.auto import Auto
    from ravine.optim.phase import Plan
    from ravine.problems.problem import Problem
    from ravine.run import Run


def prepare(place: company.Place | None = None) -> None:
    """Threads, devices, cache and the other processes of a run over several, before anything is computed.

    As many cores as are free (`ravine.doctor.free_cores`) are used. Linear-algebra libraries get that many threads,
    unless the environment says otherwise (OPENBLAS_NUM_THREADS and its like); they read it when NumPy is imported, and
    if it has been, they are asked instead. JAX gets that many devices, unless it has started. Freed memory is kept
    (`ravine.keep_memory`). Compiled programs are kept in `ravine.doctor.cache_folder()`, where it can be written.
    """
    if place is not None:
        place = launch(place)
        # Processes must have equally many devices, so that the load of the moment cannot count.
        free = machine.cores()
    else:
        free = machine.free_cores(machine.cores(), machine.load())
    if not any(name in os.environ for name in machine.THREADS):
        if "numpy" in sys.modules:
            with contextlib.suppress(ImportError):
                import threadpoolctl

                threadpoolctl.threadpool_limits(free, user_api="blas")
        else:
            os.environ.update(dict.fromkeys(machine.THREADS, str(free)))
    import jax

    from ravine.hardware import keep_memory, use_cores

    keep_memory()
    with contextlib.suppress(RuntimeError):
        use_cores(free)
    folder = machine.cache_folder()
    if folder is not None and machine.usable(folder):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if place is not None:
        meet(place)


def set_precision(bits: int) -> None:
    import jax

    jax.config.update("jax_enable_x64", bits == 64)


def need_plotly() -> None:
    """Refuses, before anything is computed, where a report cannot be written."""
    if importlib.util.find_spec("plotly") is None:
        raise Refusal("A report needs plotly. Type: pip install 'ravine[report]'")


def make_problem(name: str, options: dict[str, Any], weights: str | None = None) -> "Problem":
    """The problem, weighed as asked; what its makers refuse is refused in their words."""
    import equinox as eqx
    import jax

    from ravine.problems import make

    try:
        problem = make(name, **options)
        eqx.filter_eval_shape(problem.model, jax.random.key(0))
        if weights is not None:
            problem = dataclasses.replace(problem, weights=parse_weights(weights))
    except ValueError as error:
        raise Refusal(str(error)) from None
    return problem


def make_phases(method: str, steps: "list[Step] | None", seconds: float | None) -> "Auto | Plan":
    """What `train` shall be given."""
    from ravine.optim.auto import auto
    from ravine.optim.phase import Phase, Plan
    from ravine.optim.presets import method as optimizer

    if steps is None and check_method(method) == "auto":
        assert seconds is not None
        return auto(seconds=seconds)
    made = []
    for step in steps or [Step(method)]:
        if check_method(step.method) == "auto":
            raise Refusal("--phases: auto makes phases of its own and cannot be one of them.")
        made.append(Phase(optimizer(step.method), step.steps, step.seconds, name=step.method))
    return Plan(tuple(made), seconds)


def sizes(problem: "Problem", phases: Any) -> str:
    """The sizes of the problem in words. Traces, but computes nothing; refuses methods that the problem is not for."""
    import jax

    from ravine.optim.phase import Plan
    from ravine.run import subkeys

    found = []

    def build(key):
        model_key, points_key, _, _ = subkeys(key)
        objective, theta, sampler = problem.objective(model_key)
        found.append((objective.parameters, objective.size(sampler.init(points_key).batch)))
        problem.weights.init(objective, theta, sampler.init(points_key).batch, key=points_key)
        for phase in phases.phases if isinstance(phases, Plan) else ():
            phase.acting(objective).init(objective, theta)
        return theta

    try:
        jax.eval_shape(build, jax.random.key(0))
    except ValueError as error:
        raise Refusal(str(error)) from None
    ((n, m),) = found
    return f"n = {n:,}, m = {m:,}"


def made_plan(problem: "Problem", phases: Any, config: dict[str, Any]) -> "Plan":
    """The plan that the phases of a saved run came to."""
    from ravine.run import make_plan, subkeys

    model_key, points_key, _, _ = subkeys(restored_key(config))
    objective, theta, sampler = problem.objective(model_key)
    return make_plan(phases, objective, theta, sampler.init(points_key).batch, config.get("seconds"))


def restored_key(config: dict[str, Any]) -> Any:
    """The key that a run was made with."""
    from ravine.checkpoint import RunFolderError, restore_key

    try:
        return restore_key(config)
    except RunFolderError as error:
        raise Refusal(str(error)) from None


def load(folder: Path) -> "tuple[Run, dict[str, Any]]":
    """The run of a folder and how it was made, in the precision it was made in."""
    if not folder.is_dir():
        raise Refusal(f"There is no run folder {folder}.{newest()}")
    from ravine import checkpoint

    try:
        config = checkpoint.read_config(folder)
        set_precision(32 if config.get("dtype") == "float32" else 64)
        return checkpoint.load(folder), config
    except checkpoint.RunFolderError as error:
        raise Refusal(str(error)) from None


def claim(out: Path | None, problem: str) -> Path:
    """The folder of a new run, made and tried out; never one that holds something."""
    if out is None:
        stem = f"runs/{problem}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
        numbered = (Path(stem if number == 1 else f"{stem}-{number}") for number in range(1, 1000))
        out = next(path for path in numbered if not path.exists())
    if out.exists() and not out.is_dir():
        raise Refusal(f"{out} is a file. Choose a folder that does not exist yet: --out {out}-run")
    try:
        full = out.is_dir() and any(out.iterdir())
    except OSError as error:
        raise Refusal(f"{out} cannot be read: {error.strerror}. Choose another folder with --out.") from None
    if full:
        more = f" To go on with that run: ravine resume {out}" if (out / "config.json").exists() else ""
        raise Refusal(f"{out} exists and is not empty; nothing in it was touched. Choose another --out.{more}")
    if not machine.usable(out):
        raise Refusal(f"{out} cannot be written. Choose a folder of yours with --out.")
    return out


@contextlib.contextmanager
def released(folder: Path) -> Iterator[None]:
    """Removes the folder at the end if nothing was put into it."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
