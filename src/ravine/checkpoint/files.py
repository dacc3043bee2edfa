"""The files of a run folder: written so that each is whole at any moment, checked when they are read.

Nothing is ever unpickled: a folder from a stranger cannot run code.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import PyTree
from ravine.run import Position, Run, leaves

FORMAT = 1
CONFIG, HISTORY, SUMMARY, STATE = "config.json", "history.parquet", "summary.json", "state.npz"


class RunFolderError(RuntimeError):
    """A run folder could not be written or read; the message says what happened, why, and what to do."""


def prepare(path: str | os.PathLike) -> Path:
    """Makes the folder `path` and checks that a run could be written to it now.

    **Raises:** `RunFolderError` when it is a file or not writable, or when pyarrow is missing.
    """
    parquet()
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


def put(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
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


def as_json(value: Any) -> bytes:
    """`value` as a file of JSON."""
    return (json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays as lists, numbers that are not finite as null, all else as text."""
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        value = np.asarray(value).tolist() if not _is_key(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return str(value) if isinstance(value, os.PathLike) else repr(value)


def _is_key(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def version() -> str:
    """Of ravine itself, which this module cannot import."""
    return getattr(sys.modules.get("ravine"), "__version__", "unknown")


def parquet():
    """pyarrow. **Raises:** `RunFolderError` when it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RunFolderError(
            "Run folders keep the history as parquet, and pyarrow is not installed. Type: pip install 'ravine[cli]'"
        ) from error
    return pyarrow


def write_rows(rows: Sequence[Mapping[str, Any]], identity: str, file: IO[bytes]) -> None:
    """A history as parquet, with the identity of the run that it belongs to."""
    arrow = parquet()
    names = dict.fromkeys(name for row in rows for name in row)
    table = arrow.table({name: [row.get(name) for row in rows] for name in names})
    arrow.parquet.write_table(table.replace_schema_metadata({"id": identity}), file)


def write_state(run: Run, identity: str, file: IO[bytes]) -> None:
    """The position of a run: a manifest in JSON, every leaf, and a checksum over both."""
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


def damaged(path: Path, what: str) -> RunFolderError:
    """The error for a file that is there and cannot be what it should be."""
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


def read_json(path: Path) -> dict[str, Any]:
    """An object in JSON. **Raises:** `RunFolderError` when it is missing or damaged."""
    try:
        with _open(path) as file:
            value = json.loads(file.read().decode())
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged(path, f"it holds {type(value).__name__} instead of an object")
    return value


def check_format(found: Any, path: Path, versions: Any = None) -> None:
    """**Raises:** `RunFolderError` for a format that is none, or newer than this version of ravine knows."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise damaged(path, f"its format is {found!r} instead of a whole number")
    if found > FORMAT:
        writer = versions.get("ravine", "unknown") if isinstance(versions, dict) else "unknown"
        raise RunFolderError(
            f"{path} has format {found}, but this version of ravine ({version()}) reads formats up to {FORMAT}: it "
            f"was written by a newer one ({writer}). Type: pip install --upgrade ravine"
        )


def read_rows(folder: Path) -> tuple[list[dict[str, Any]], str]:
    """The rows, and the identity of the run they belong to."""
    arrow = parquet()
    path = folder / HISTORY
    try:
        with _open(path) as file:
            table = arrow.parquet.read_table(arrow.BufferReader(file.read()))
        rows = [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]
        identity = (table.schema.metadata or {}).get(b"id", b"").decode()
        if not all(isinstance(row["phase"], int) and isinstance(row["step"], int) for row in rows):
            raise ValueError("phase and step are not whole numbers")
    except (arrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise damaged(path, f"it is not a history in parquet ({error})") from error
    return rows, identity


def read_state(folder: Path) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The manifest and the leaves as they were stored, checked against their checksum."""
    path = folder / STATE
    try:
        with _open(path) as file, np.load(file, allow_pickle=False) as data:
            text, digest = data["manifest"].tobytes(), data["checksum"].tobytes().decode()
            manifest = json.loads(text)
            # Before all else, so that a newer file is called newer and not damaged.
            check_format(manifest["format"], path)
            arrays = {f"leaf{number}": data[f"leaf{number}"] for number in range(len(manifest["leaves"]))}
    except (zipfile.BadZipFile, EOFError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(path, f"it is not a saved state ({error})") from error
    if _checksum(text, arrays) != digest:
        raise damaged(path, "its contents do not have the checksum that was saved with them")
    return manifest, list(arrays.values())


def fill(expected: PyTree, manifest: Mapping[str, Any], arrays: Sequence[np.ndarray], folder: Path) -> PyTree:
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
