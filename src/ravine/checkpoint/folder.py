"""Runs written to folders and read back."""

import dataclasses
import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._results import Stop
from ravine.checkpoint.files import (
    CONFIG,
    FORMAT,
    HISTORY,
    STATE,
    SUMMARY,
    RunFolderError,
    as_json,
    check_format,
    damaged,
    fill,
    prepare,
    put,
    read_json,
    read_rows,
    read_state,
    version,
    write_rows,
    write_state,
)
from ravine.checkpoint.recipe import Phases, describe_phases, restore_key, restore_phases, restore_problem
from ravine.problems.problem import Problem
from ravine.run import History, Position, Run, first_weights, make_plan, numbers, returned, subkeys, template

LIBRARIES = ("jax", "equinox", "optax", "numpy")


def save(run: Run, path: str | os.PathLike) -> None:
    """Writes `run` to the folder `path`, made when it is missing; what an older save left there is replaced.

    Each file is written beside its place, flushed to the disk and then put in place at once, the state last. So an
    error or a kill at any moment leaves every file whole, old or new; `load` cuts a history that is ahead of its state.
    Two programs must not write to one folder at the same time.

    **Raises:** `RunFolderError` when the folder cannot be written, or pyarrow is missing; earlier files stay whole.

    **Cost:** the size of the optimizer's state on the disk (8n² bytes for dense quasi-Newton methods), and one pass
    over it for the checksum.
    """
    folder = prepare(path)
    rows, config = run.history.rows, _config(run)
    identity = str(config["id"])
    put(folder / CONFIG, lambda file: file.write(as_json(config)))
    put(folder / HISTORY, lambda file: write_rows(rows, identity, file))
    put(folder / SUMMARY, lambda file: file.write(as_json({**run.summary(), "folder": folder.resolve().name})))
    put(folder / STATE, lambda file: write_state(run, identity, file))


def load(path: str | os.PathLike, *, problem: Problem | None = None, phases: Phases | None = None) -> Run:
    """Reads a run folder back: a run to look at, and to go on with by `train(..., resume=run)`.

    **Arguments:** `problem` and `phases` as they were given to `train`. They may be left out when the problem is one of
    `ravine.problems` and the phases are presets as they come (or `ravine.auto`); then they are made again.

    **Raises:** `RunFolderError` for a folder that is missing, damaged, or written by a newer version; for a state that
    does not fit the problem and phases; and where problem or phases are needed but not given. It changes nothing.
    """
    folder = Path(path)
    config = read_config(folder)
    key = restore_key(config, folder)
    given = problem
    problem = restore_problem(config, folder) if problem is None else problem
    plan = restore_phases(config, folder) if phases is None else phases
    manifest, arrays = read_state(folder)
    identity = config.get("id", "")
    if manifest.get("id") != identity:
        raise RunFolderError(
            f"{folder / STATE} belongs to another run than {CONFIG}: saving was cut off while an older run in the same "
            "folder was being replaced. The older state is whole (ravine.checkpoint.read_theta reads it), but it "
            "cannot go on from here."
        )
    _check_dtype(config, folder)
    model_key, points_key, _, _ = subkeys(key)
    objective, theta, sampler = problem.objective(model_key, block=config.get("block"))
    points = sampler.init(points_key)
    made = make_plan(plan, objective, theta, points.batch, config.get("seconds"))
    if phases is None and describe_phases(made) != config.get("phases"):
        raise RunFolderError(
            f"The plan of {folder} cannot be made again: its phases were {_names(config.get('phases'))}, now they are "
            f"{_names(describe_phases(made))}, probably because another version of ravine chooses differently. Pass "
            "phases= as a list."
        )
    try:
        position = Position(carry=None, **manifest["position"])
        stop, optimizer = Stop[manifest["stop"]], made.phases[position.phase].acting(objective)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{folder / STATE} does not fit the plan ({type(error).__name__}: {error}), which has {len(made.phases)} "
            "phases. Pass the same phases= as in the first call."
        ) from error
    weighting = numbers(problem.weights, theta.dtype)
    weights = eqx.filter_eval_shape(first_weights, weighting, objective, theta, points.batch, points_key)
    carry = fill(template(objective, optimizer, theta, points, weights), manifest, arrays, folder)
    position = dataclasses.replace(position, carry=carry)
    run = Run(objective, returned(carry, stop), History(), stop, config, position, problem)
    if given is None and config["problem"].get("fingerprint") != _fingerprint(run):
        raise RunFolderError(
            f"The run in {folder} was not made from the problem {problem.name!r} as this version of ravine makes it: "
            "either (a) its terms, points or model had been changed, or (b) another version of ravine wrote it. Pass "
            "problem= as in the first call."
        )
    rows, owner = read_rows(folder)
    if owner != identity:
        raise RunFolderError(
            f"{folder / HISTORY} belongs to another run than {CONFIG}. Restore the folder from a copy."
        )
    # A kill between the two files leaves a history that is ahead of its state.
    here = (position.phase, position.steps)
    return dataclasses.replace(run, history=History([row for row in rows if (row["phase"], row["step"]) <= here]))


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """How a run was made, from its folder.

    **Raises:** `RunFolderError` when the file is missing, damaged, or of a newer format.
    """
    config = read_json(Path(path) / CONFIG)
    check_format(config.get("format"), Path(path) / CONFIG, config.get("versions"))
    return config


def read_summary(path: str | os.PathLike) -> dict[str, Any]:
    """The summary of a run, from its folder; a number that is not finite is None. Needs no problem.

    **Raises:** `RunFolderError` when the file is missing or damaged.
    """
    return read_json(Path(path) / SUMMARY)


def read_history(path: str | os.PathLike) -> History:
    """The history of a run, from its folder, as far as it was written. Needs no problem.

    **Raises:** `RunFolderError` when the file is missing or damaged, or pyarrow is missing.
    """
    return History(read_rows(Path(path))[0])


def read_theta(path: str | os.PathLike) -> np.ndarray:
    """The flat parameters of a run, from its folder. Needs no problem: this is how parameters that were trained by
    `minimise` or `least_squares` come back.

    **Raises:** `RunFolderError` when the file is missing, damaged, or of a newer format.
    """
    manifest, arrays = read_state(Path(path))
    wanted = ".theta" if manifest["stop"] == Stop.TARGET.name else ".best.theta"
    for entry, array in zip(manifest["leaves"], arrays, strict=True):
        if entry["path"] == wanted:
            return array.view(jnp.dtype(entry["dtype"]))
    raise damaged(Path(path) / STATE, "it holds no parameters")


def _config(run: Run) -> dict[str, Any]:
    """How the run was made, and on what."""
    device, problem = jax.devices()[0], run.problem
    return {
        "id": "",
        **run.config,
        "format": FORMAT,
        "problem": None
        if problem is None
        else {"name": problem.name, "options": problem.options, "fingerprint": _fingerprint(run)},
        "block": run.objective.block,
        "dtype": str(run.theta.dtype),
        "versions": {"ravine": version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


def _fingerprint(run: Run) -> str:
    """Changes when terms, points or model do: a problem changed by hand keeps its name but is not what it says."""
    assert run.problem is not None
    parts = (run.problem.terms, run.problem.sampler, run.objective.static, run.objective.layout)
    # Neither addresses nor decorators (shape checks at run time, say) make another problem.
    text = re.sub(r" at 0x[0-9a-f]+|(?<=<)wrapped ", "", eqx.tree_pformat(parts, width=10**6))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _check_dtype(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("dtype") == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise RunFolderError(
            f"The run in {folder} was made in double precision, which is switched off. Before anything else, call: "
            "jax.config.update('jax_enable_x64', True)"
        )


def _names(phases: Any) -> list[Any]:
    return [(phase or {}).get("name") for phase in phases or ()]
