"""Run folders: a run on disk, to look at and to go on with.

A folder holds `config.json` (how the run was made), `history.parquet`, `summary.json` and `state.npz` (the whole state
of the loop). Every file is replaced atomically and the state comes last, so that a run killed at any moment leaves a
folder that loads. Nothing is ever unpickled: a folder from a stranger cannot run code.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import platform
import re
import sys
import types
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine import problems
from ravine._results import Stop
from ravine._types import PyTree, RandomKey
from ravine.optim import switches
from ravine.optim.auto import Auto
from ravine.optim.phase import Phase, Plan, Tolerance, Until
from ravine.optim.presets import METHODS, method as preset
from ravine.problems.problem import Problem
from ravine.run import (
    History,
    Planner,
    Position,
    Run,
    first_weights,
    leaves,
    make_plan,
    numbers,
    returned,
    subkeys,
    template,
)
from ravine.weights import SCHEMES, Given, Weighting

FORMAT = 1
CONFIG, HISTORY, SUMMARY, STATE = "config.json", "history.parquet", "summary.json", "state.npz"
LIBRARIES = ("jax", "equinox", "optax", "numpy")

Phases = Plan | Phase | Sequence[Phase] | Planner


class RunFolderError(RuntimeError):
    """A run folder could not be written or read; the message says what happened, why, and what to do."""


# --------------------------------------------------------------------------------------------------------- saving


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
    _put(folder / CONFIG, lambda file: file.write(_json(config)))
    _put(folder / HISTORY, lambda file: _write_rows(rows, identity, file))
    _put(folder / SUMMARY, lambda file: file.write(_json({**run.summary(), "folder": folder.resolve().name})))
    _put(folder / STATE, lambda file: _write_state(run, identity, file))


def prepare(path: str | os.PathLike) -> Path:
    """Makes the folder `path` and checks that a run could be written to it now.

    **Raises:** `RunFolderError` when it is a file or not writable, or when pyarrow is missing.
    """
    _parquet()
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"The run folder {folder} could not be made ({_reason(error)}). Likely causes: a file of that name is in "
            "the way, or the folder above it is not writable. Nothing was written; choose another folder."
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RunFolderError(
            f"The run folder {folder} is not writable for this user. Nothing was written; change its permissions or "
            "choose another folder."
        )
    return folder


def _put(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file so that at any moment there is either the old one or the new one, whole."""
    # A fixed name: what a kill leaves behind is overwritten by the next save instead of piling up.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    except OSError as error:
        raise RunFolderError(
            f"{path} could not be written ({_reason(error)}). Likely causes: the disk is full, a quota is used up, or "
            "the folder is not writable. What was saved before is still whole; free some space or choose another one."
        ) from error
    finally:
        # Once replaced it is gone already; after any failure, an interruption included, it must not stay.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Makes the renaming itself durable, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _json(value: Any) -> bytes:
    return (json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays as lists, numbers that are not finite as null, all else as text."""
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        value = np.asarray(value).tolist() if not _is_key(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, os.PathLike) else repr(value)


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
        "versions": {"ravine": _version(), **{name: importlib.metadata.version(name) for name in LIBRARIES}},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


def _version() -> str:
    return getattr(sys.modules.get("ravine"), "__version__", "unknown")


def _fingerprint(run: Run) -> str:
    """Changes when terms, points or model do: a problem changed by hand keeps its name but is not what it says."""
    assert run.problem is not None
    parts = (run.problem.terms, run.problem.sampler, run.objective.static, run.objective.layout)
    # Neither addresses nor decorators (shape checks at run time, say) make another problem.
    text = re.sub(r" at 0x[0-9a-f]+|(?<=<)wrapped ", "", eqx.tree_pformat(parts, width=10**6))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _parquet():
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RunFolderError(
            "Run folders keep the history as parquet, and pyarrow is not installed. Type: pip install 'ravine[cli]'"
        ) from error
    return pyarrow


def _write_rows(rows: Sequence[Mapping[str, Any]], identity: str, file: IO[bytes]) -> None:
    arrow = _parquet()
    names = dict.fromkeys(name for row in rows for name in row)
    table = arrow.table({name: [row.get(name) for row in rows] for name in names})
    arrow.parquet.write_table(table.replace_schema_metadata({"id": identity}), file)


def _write_state(run: Run, identity: str, file: IO[bytes]) -> None:
    arrays, entries = {}, []
    for number, (path, leaf) in enumerate(leaves(run.position.carry).items()):
        entry = {"path": path, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if _is_key(leaf):
            entry["impl"] = str(jax.random.key_impl(leaf))
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        # NumPy's files do not know the small floats of machine learning: their bits travel as integers.
        arrays[f"leaf{number}"] = array if array.dtype.isbuiltin == 1 else array.view(f"u{array.dtype.itemsize}")
        entries.append(entry)
    position = {
        field.name: getattr(run.position, field.name) for field in dataclasses.fields(Position) if field.name != "carry"
    }
    manifest = {"format": FORMAT, "id": identity, "stop": run.stop.name, "position": position, "leaves": entries}
    text = json.dumps(manifest, sort_keys=True, allow_nan=False).encode()
    digest = _checksum(text, arrays)
    np.savez(
        file,
        allow_pickle=False,
        manifest=np.frombuffer(text, np.uint8),
        checksum=np.frombuffer(digest.encode(), np.uint8),
        **arrays,
    )


def _checksum(manifest: bytes, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the manifest and the bytes of every leaf."""
    found = hashlib.sha256(manifest)
    for array in arrays.values():
        found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


# -------------------------------------------------------------------------------------------------------- reading


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
    manifest, arrays = _read_state(folder)
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
    carry = _fill(template(objective, optimizer, theta, points, weights), manifest, arrays, folder)
    position = dataclasses.replace(position, carry=carry)
    run = Run(objective, returned(carry, stop), History(), stop, config, position, problem)
    if given is None and config["problem"].get("fingerprint") != _fingerprint(run):
        raise RunFolderError(
            f"The run in {folder} was not made from the problem {problem.name!r} as this version of ravine makes it: "
            "either (a) its terms, points or model had been changed, or (b) another version of ravine wrote it. Pass "
            "problem= as in the first call."
        )
    rows, owner = _read_rows(folder)
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
    config = _read_json(Path(path) / CONFIG)
    _check_format(config.get("format"), Path(path) / CONFIG, config.get("versions"))
    return config


def read_summary(path: str | os.PathLike) -> dict[str, Any]:
    """The summary of a run, from its folder; a number that is not finite is None. Needs no problem.

    **Raises:** `RunFolderError` when the file is missing or damaged.
    """
    return _read_json(Path(path) / SUMMARY)


def read_history(path: str | os.PathLike) -> History:
    """The history of a run, from its folder, as far as it was written. Needs no problem.

    **Raises:** `RunFolderError` when the file is missing or damaged, or pyarrow is missing.
    """
    return History(_read_rows(Path(path))[0])


def read_theta(path: str | os.PathLike) -> np.ndarray:
    """The flat parameters of a run, from its folder. Needs no problem: this is how parameters that were trained by
    `minimise` or `least_squares` come back.

    **Raises:** `RunFolderError` when the file is missing, damaged, or of a newer format.
    """
    manifest, arrays = _read_state(Path(path))
    wanted = ".theta" if manifest["stop"] == Stop.TARGET.name else ".best.theta"
    for entry, array in zip(manifest["leaves"], arrays, strict=True):
        if entry["path"] == wanted:
            return array.view(jnp.dtype(entry["dtype"]))
    raise _damaged(Path(path) / STATE, "it holds no parameters")


def _damaged(path: Path, what: str) -> RunFolderError:
    return RunFolderError(
        f"{path} is damaged: {what}. Likely causes: the file was cut off while it was copied, or was edited. Nothing "
        "was changed; restore it from a copy, or train anew. The other files of the folder can still be read."
    )


def _open(path: Path) -> IO[bytes]:
    try:
        return open(path, "rb")
    except FileNotFoundError as error:
        raise RunFolderError(
            f"There is no {path}. Likely causes: (a) the path is not that of a run folder, (b) the run was killed "
            "before its first save. Look at the folder; a run is saved by run.save(path) or ravine.Checkpoint(path)."
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"{path} could not be read ({_reason(error)}). Likely causes: it is not a run folder, or not readable for "
            "this user."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with _open(path) as file:
            value = json.loads(file.read().decode())
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path, f"it holds {type(value).__name__} instead of an object")
    return value


def _check_format(found: Any, path: Path, versions: Any = None) -> None:
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise _damaged(path, f"its format is {found!r} instead of a whole number")
    if found > FORMAT:
        writer = versions.get("ravine", "unknown") if isinstance(versions, dict) else "unknown"
        raise RunFolderError(
            f"{path} has format {found}, but this version of ravine ({_version()}) reads formats up to {FORMAT}: it "
            f"was written by a newer one ({writer}). Type: pip install --upgrade ravine"
        )


def _read_rows(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows, and the identity of the run they belong to."""
    arrow = _parquet()
    path = folder / HISTORY
    try:
        with _open(path) as file:
            table = arrow.parquet.read_table(arrow.BufferReader(file.read()))
        rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
        identity = (table.schema.metadata or {}).get(b"id", b"").decode()
        if not all(isinstance(row["phase"], int) and isinstance(row["step"], int) for row in rows):
            raise ValueError("phase and step are not whole numbers")
    except (arrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise _damaged(path, f"it is not a history in parquet ({error})") from error
    return rows, identity


def _read_state(folder: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The manifest and the leaves as they were stored, checked against their checksum."""
    path = folder / STATE
    try:
        with _open(path) as file, np.load(file, allow_pickle=False) as data:
            text, digest = data["manifest"].tobytes(), data["checksum"].tobytes().decode()
            manifest = json.loads(text)
            # Before all else, so that a newer file is called newer and not damaged.
            _check_format(manifest["format"], path)
            arrays = {f"leaf{number}": data[f"leaf{number}"] for number in range(len(manifest["leaves"]))}
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"it is not a saved state ({error})") from error
    if _checksum(text, arrays) != digest:
        raise _damaged(path, "its contents do not have the checksum that was saved with them")
    return manifest, list(arrays.values())


def _check_dtype(config: Mapping[str, Any], folder: Path) -> None:
    if config.get("dtype") == "float64" and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise RunFolderError(
            f"The run in {folder} was made in double precision, which is switched off. Before anything else, call: "
            "jax.config.update('jax_enable_x64', True)"
        )


def _fill(expected: PyTree, manifest: Mapping[str, Any], arrays: Sequence[np.ndarray], folder: Path) -> PyTree:
    """The carry of the structure `expected` with the stored leaves."""
    found = {entry["path"]: (entry, array) for entry, array in zip(manifest["leaves"], arrays, strict=True)}
    wanted = leaves(expected)

    def misfit(what: str) -> RunFolderError:
        return RunFolderError(
            f"The state in {folder / STATE} does not fit the problem and phases: {what}. Likely causes: (a) another "
            "problem=, phases= or precision than in the first call, (b) another version of ravine. Nothing was "
            "changed; pass what the run was made from."
        )

    if found.keys() != wanted.keys():
        path = sorted(found.keys() ^ wanted.keys())[0]
        raise misfit(f"it {'has' if path in found else 'lacks'} {path}")

    def read(path, leaf):
        name = jax.tree_util.keystr(path)
        if name not in wanted:
            return leaf
        entry, array = found[name]
        if (entry["shape"], entry["dtype"]) != (list(leaf.shape), str(leaf.dtype)):
            raise misfit(
                f"{name} has shape {tuple(entry['shape'])} and dtype {entry['dtype']}, expected {leaf.shape} and "
                f"{leaf.dtype}"
            )
        if "impl" in entry:
            return jax.random.wrap_key_data(jnp.array(array), impl=entry["impl"])
        return jnp.array(array if array.dtype == leaf.dtype else array.view(leaf.dtype))

    return jax.tree_util.tree_map_with_path(read, expected)


# -------------------------------------------------------------------- how a run was made, in words, and made again


def describe_key(key: RandomKey) -> dict[str, Any]:
    """A key as integers and the name of its generator.

    ```python
    >>> import jax
    >>> from ravine.checkpoint import describe_key
    >>> describe_key(jax.random.key(7, impl="threefry2x32"))
    {'impl': 'threefry2x32', 'data': [0, 7]}

    ```
    """
    return {"impl": str(jax.random.key_impl(key)), "data": np.asarray(jax.random.key_data(key)).tolist()}


def restore_key(config: Mapping[str, Any], path: str | os.PathLike = "the folder") -> RandomKey:
    """The key that `train` was given. **Raises:** `RunFolderError` when it was not saved: such a run has no problem."""
    saved = config.get("key")
    if saved is None:
        raise RunFolderError(
            f"The run in {path} was made by minimise or least_squares from a function, which is not saved, so it "
            "cannot be loaded. Use ravine.checkpoint.read_history, read_summary and read_theta; to go on, start anew "
            "from the parameters that read_theta gives. (A run of a Problem loads with problem= and phases=.)"
        )
    try:
        return jax.random.wrap_key_data(jnp.asarray(np.array(saved["data"], np.uint32)), impl=saved["impl"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise _damaged(Path(path) / CONFIG, f"its key {saved!r:.80} is no key") from error


def restore_problem(config: Mapping[str, Any], path: str | os.PathLike = "the folder") -> Problem:
    """The problem made again by its name and options. **Raises:** `RunFolderError` when it has no known name."""
    saved = config.get("problem")
    name = saved.get("name", "") if isinstance(saved, dict) else ""
    if not isinstance(saved, dict) or name not in problems.NAMES:
        called = f"is called {name!r}, which is not in ravine.problems" if name else "has no name"
        raise RunFolderError(
            f"The problem of the run in {path} {called}, so it cannot be made again from the folder alone. Pass "
            "problem= (and phases=, unless they are presets): ravine.load(path, problem=problem). History, summary and "
            "parameters can be read without: ravine.checkpoint.read_history, read_summary, read_theta."
        )
    try:
        options = {key: _tuples(value) for key, value in saved.get("options", {}).items()}
        made = problems.make(name, **options)
        return dataclasses.replace(made, weights=restore_weights(config.get("weights")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"The problem {name!r} of the run in {path} cannot be made again with its options "
            f"{saved.get('options')!r:.200} ({error}). Likely causes: another version of ravine, or an option that is "
            "not a plain value. Pass problem=."
        ) from error


def describe_weights(weights: Weighting) -> dict[str, Any]:
    """A weighting by name and settings, as plain values; one of one's own in words only."""
    name = next((name for name, kind in SCHEMES.items() if type(weights) is kind), None)
    settings = {field.name: getattr(weights, field.name) for field in dataclasses.fields(weights)}
    if name is None or {key: _tuples(value) for key, value in _plain(settings).items()} != settings:
        return {"custom": repr(weights)}
    return {name: settings}


def restore_weights(saved: Any) -> Weighting:
    """The weighting again. **Raises:** `ValueError` for one that was made by hand: pass `problem=` then."""
    if saved is None:
        return Given()
    ((name, settings),) = saved.items()
    if name == "custom":
        raise ValueError(f"its weights, {settings!r:.80}, were made by hand")
    return SCHEMES[name](**{key: _tuples(value) for key, value in settings.items()})


def describe_phases(plan: Plan) -> list[dict[str, Any]]:
    """Names and budgets of the phases that a plan came to."""
    return [{"name": phase.name, "steps": phase.steps, "seconds": phase.seconds} for phase in plan.phases]


def describe_plan(phases: Phases) -> dict[str, Any]:
    """How to make again what `train` was given as phases, as plain values: `{"auto": {...}}` or `{"phases": [...]}`.

    Methods are known by their preset, limits by the function that made them. What is not recognised (a preset with
    other settings, a function of one's own) is described in words only, and `restore_phases` asks for it.
    """
    if isinstance(phases, Auto):
        return {"auto": {"seconds": phases.seconds, "raw": phases.raw}}
    if isinstance(phases, Phase):
        phases = (phases,)
    if isinstance(phases, Plan):
        return {**describe_plan(phases.phases), "seconds": phases.seconds, "reason": phases.reason}
    if isinstance(phases, (list, tuple)):
        return {"phases": [_describe_phase(phase) for phase in phases]}
    return {"custom": repr(phases)}


def restore_phases(config: Mapping[str, Any], path: str | os.PathLike = "the folder") -> Phases:
    """What `describe_plan` described, to be given to `train` with `seconds=config["seconds"]`.

    **Raises:** `RunFolderError` when something in it was not recognised: pass `phases=` then.
    """
    saved = config.get("plan")
    try:
        if not isinstance(saved, dict) or "custom" in saved:
            raise _Unknown(f"the plan ({saved!r:.80})")
        if "auto" in saved:
            return Auto(**saved["auto"], decided=tuple(entry["name"] for entry in config.get("phases") or ()) or None)
        made = tuple(_restore_phase(entry) for entry in saved["phases"])
        if "reason" in saved:
            return Plan(made, saved.get("seconds"), saved["reason"])
        return made
    except _Unknown as what:
        raise RunFolderError(
            f"The phases of the run in {path} cannot be made again from the folder alone: {what} was made by hand. "
            "Pass phases= as in the first call: ravine.load(path, phases=phases)."
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"The phases of the run in {path} cannot be made again ({type(error).__name__}: {error}). Likely causes: "
            f"another version of ravine, or {CONFIG} was edited. Pass phases= as in the first call."
        ) from error


class _Unknown(Exception):
    """Something in a plan that only its maker can make again."""


def _describe_phase(phase: Phase) -> dict[str, Any]:
    until = None if phase.until is None else _describe_until(phase.until)
    method = _method(phase)
    found = {"name": phase.name, "method": method, "steps": phase.steps, "seconds": phase.seconds, "until": until}
    if phase.tolerance is not None:
        found["tolerance"] = dataclasses.asdict(phase.tolerance)
    if phase.keep:
        found["keep"] = True
    if phase.every is not None:
        found["every"] = phase.every
    return found if method is not None else {**found, "optimizer": repr(phase.optimizer)}


def _restore_phase(entry: Mapping[str, Any]) -> Phase:
    if entry["method"] is None:
        raise _Unknown(f"the optimizer of the phase {entry['name']!r} ({entry.get('optimizer', '')!r:.80})")
    until = entry["until"]
    if until is not None and "custom" in until:
        raise _Unknown(f"the limit of the phase {entry['name']!r} ({until['custom']!r:.80})")
    if until is not None:
        ((name, settings),) = until.items()
        until = LIMITS[name](**settings)
    return Phase(
        preset(entry["method"]),
        steps=entry["steps"],
        seconds=entry["seconds"],
        until=until,
        name=entry["name"],
        tolerance=Tolerance(**entry["tolerance"]) if "tolerance" in entry else None,
        keep=entry.get("keep", False),
        every=entry.get("every"),
    )


def _method(phase: Phase) -> str | None:
    """The preset that makes this very optimizer, with the settings that the name of the phase tells, or with none."""
    for text in (phase.name, *METHODS):
        with contextlib.suppress(ValueError):
            if _same(preset(text), phase.optimizer):
                return text
    return None


LIMITS: dict[str, Callable[..., Until]] = {
    limit.__name__: limit for limit in (switches.stalled, switches.below, switches.slowing, switches.noisy)
}


def _describe_until(until: Until) -> dict[str, Any]:
    """The function and settings that made a limit, found by making it again and comparing."""
    inner = inspect.unwrap(until)
    if isinstance(inner, types.FunctionType):
        bound = inspect.getclosurevars(inner).nonlocals
        for name, make in LIMITS.items():
            settings = {key: bound[key] for key in inspect.signature(make).parameters if key in bound}
            with contextlib.suppress(TypeError):
                if _same(make(**settings), until) and _plain(settings) == settings:
                    return {name: settings}
    return {"custom": repr(until)}


def _same(a: Any, b: Any) -> bool:
    """Whether two values do the same, functions being equal when their code and all that they hold are."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, types.FunctionType):
        a, b = inspect.unwrap(a), inspect.unwrap(b)
        # Compiled code alone compares by value; a closure's cells hold its settings.
        cells = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (a, b)]
        return (
            a.__module__ == b.__module__
            and a.__code__ == b.__code__
            and _same(cells[0], cells[1])
            and _same((a.__defaults__, a.__kwdefaults__), (b.__defaults__, b.__kwdefaults__))
        )
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (np.ndarray, jax.Array)):
        return a.shape == b.shape and a.dtype == b.dtype and bool((np.asarray(a) == np.asarray(b)).all())
    if dataclasses.is_dataclass(a):
        return all(_same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    if hasattr(a, "func") and hasattr(a, "keywords"):  # functools.partial
        return _same((a.func, a.args, a.keywords), (b.func, b.args, b.keywords))
    return bool(a == b)


def _names(phases: Any) -> list[Any]:
    return [(phase or {}).get("name") for phase in phases or ()]


def _tuples(value: Any) -> Any:
    """Lists as tuples, which options that are compared or hashed need; JSON knows lists only."""
    return tuple(_tuples(entry) for entry in value) if isinstance(value, list) else value
