"""What this machine gives a run: versions, devices, precision, threads, memory; and what to type to make it better.

Every finding is looked at, not assumed: float64 is computed with, libraries are asked for their threads.
"""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from pathlib import Path

from ravine.hardware import cores, keep_memory

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Finding:
    """`topic`, what was found (`value`), and, where something should be changed, `why` and the `line` to type."""

    topic: str
    value: str
    why: str = ""
    line: str = ""


def load(seconds: float = 0.2) -> float:
    """How many cores are at work, looked at for `seconds`. Not the load average, which still counts what has ended."""
    import psutil

    return sum(psutil.cpu_percent(interval=seconds, percpu=True)) / 100


def free_cores(count: int, busy: float) -> int:
    """How many of `count` cores are free when `busy` are at work; at least one. 0.7 and more is a busy core.

    A linear-algebra thread that shares its core with another process makes all the others wait for it, which costs more
    (twentyfold, for a Cholesky factor of 2,000 rows) than having fewer threads.

    ```python
    >>> from ravine.doctor import free_cores
    >>> free_cores(2, 0.3), free_cores(2, 0.9), free_cores(8, 2.1)
    (2, 1, 6)

    ```
    """
    return max(1, count - int(busy + 0.3))


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path | None:
    """Where compiled programs are kept between runs: ravine/jax in the user's cache folder. None when turned off by
    RAVINE_NO_CACHE=1."""
    if environment.get("RAVINE_NO_CACHE", "") not in ("", "0"):
        return None
    if environment.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(environment["JAX_COMPILATION_CACHE_DIR"])
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "ravine" / "jax"


def usable(folder: Path) -> bool:
    """Whether files can be made in `folder`, which is created if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except (OSError, RuntimeError):
        return False
    return True


def examine() -> list[Finding]:
    """All findings. Imports JAX. **Cost:** about as long as that takes."""
    return [*_versions(), *_devices(), *_machine(), *_precision(), *_blas(), *_allocator(), *_cache()]


def _versions() -> list[Finding]:
    from ravine import __version__

    found = [Finding("ravine", __version__), Finding("Python", f"{platform.python_version()} on {platform.platform()}")]
    for package in ("jax", "jaxlib", "equinox", "optax", "numpy", "scipy", "matplotlib"):
        try:
            found.append(Finding(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            found.append(Finding(package, "not installed", f"{package} is missing.", f"pip install {package}"))
    return found


def _devices() -> list[Finding]:
    import jax

    devices = jax.devices()
    kinds = {device.device_kind for device in devices}
    return [Finding("devices", f"{len(devices)} × {devices[0].platform} ({', '.join(sorted(kinds))})")]


def _machine() -> list[Finding]:
    count, busy = cores(), load()
    whole = os.cpu_count() or count
    value = f"{count}" if count == whole else f"{count} of {whole} (affinity)"
    why, line = "", ""
    if free_cores(whole, busy) < whole:
        taken = min(int(busy + 0.3), whole)
        why = f"{taken} of {whole} cores are busy with something else: times measured now are worth less."
        line = "top -o %CPU   # see what runs, and wait for it or stop it"
    found = [Finding("cores", value), Finding("load average", f"{busy:.2f}", why, line)]
    try:
        import psutil
    except ImportError:
        return found
    memory = psutil.virtual_memory()
    gigabytes = memory.available / 2**30
    scarce = gigabytes < 1
    # A dense Jacobian or metric of n numbers squared is what fills it.
    most = int((memory.available / 8 / 4) ** 0.5)
    found.append(
        Finding(
            "memory",
            f"{gigabytes:.1f} of {memory.total / 2**30:.1f} GiB available (dense methods up to {most:,} parameters)",
            "Less than 1 GiB is available." if scarce else "",
            "ravine solve … --method lbfgs   # memory in proportion to the parameters" if scarce else "",
        )
    )
    return found


def _precision() -> list[Finding]:
    import jax
    import jax.numpy as jnp

    wide = bool(jax.config.jax_enable_x64)  # pyright: ignore[reportAttributeAccessIssue]
    default = Finding(
        "default precision",
        "float64" if wide else "float32",
        ""
        if wide
        else "In float32 second-order methods stop near a relative error of 1e-3 to 1e-4. `ravine solve` asks "
        "for float64 itself; your own scripts must.",
        "" if wide else "export JAX_ENABLE_X64=True",
    )
    with jax.enable_x64(True):
        small = jax.jit(lambda x: (1 + x) - 1)(jnp.asarray(1e-12, jnp.float64))
        works = small.dtype == jnp.float64 and abs(float(small) / 1e-12 - 1) < 1e-3
    on_cpu = jax.default_backend() == "cpu"
    float64 = Finding(
        "float64",
        "works" if works else "does not work",
        "" if works else "This device has no float64, which the last digits need.",
        "" if works else "export JAX_PLATFORMS=cpu",
    )
    chosen = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    full = on_cpu or chosen in ("highest", "float32")
    matmul = Finding(
        "matmul precision",
        f"{chosen or 'default'}{' (exact on cpu)' if on_cpu else ''}",
        "" if full else "Matrix products of float32 may be rounded to 10 bits on this device.",
        "" if full else "export JAX_DEFAULT_MATMUL_PRECISION=highest",
    )
    return [default, float64, matmul]


def _blas() -> list[Finding]:
    import numpy  # noqa: F401  -- so that its library is loaded
    import scipy.linalg  # noqa: F401

    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return [Finding("BLAS", "unknown", "threadpoolctl is missing.", "pip install threadpoolctl")]
    free = free_cores(cores(), load())
    found = []
    for library in threadpool_info():
        threads = library["num_threads"]
        many = threads > free
        name = f"{library['internal_api']} {library.get('version') or ''}".strip()
        owner = Path(library["filepath"]).parent.name.removesuffix(".libs")
        found.append(
            Finding(
                "BLAS" if library["user_api"] == "blas" else library["user_api"],
                f"{name} ({owner}), {threads} thread{'s' if threads != 1 else ''}",
                f"Only {free} of {cores()} cores are free: threads that fight for busy cores make factorisations up to "
                "twenty times slower. `ravine solve` sets this itself; your own scripts must."
                if many
                else "",
                f"export {' '.join(f'{name}={free}' for name in THREADS)}" if many else "",
            )
        )
    return found or [Finding("BLAS", "none found")]


def _allocator() -> list[Finding]:
    preload = os.environ.get("LD_PRELOAD", "")
    if keep_memory():
        return [
            Finding("allocator", "glibc; the command line has it keep freed memory, scripts do by ravine.keep_memory()")
        ]
    name = Path(preload.split(":")[0]).name if preload else "the system's"
    return [Finding("allocator", f"{name}; it cannot be told to keep freed memory (only glibc's can)")]


def _cache() -> list[Finding]:
    folder = cache_folder()
    if folder is None:
        return [
            Finding(
                "compile cache",
                "turned off by RAVINE_NO_CACHE",
                "Every run compiles anew, which takes seconds.",
                "unset RAVINE_NO_CACHE",
            )
        ]
    if not usable(folder):
        return [
            Finding(
                "compile cache",
                f"{folder} cannot be written",
                "Every run compiles anew, which takes seconds.",
                'export XDG_CACHE_HOME="$PWD/.cache"   # or any folder that you may write to',
            )
        ]
    sizes = [entry.stat().st_size for entry in folder.iterdir() if entry.is_file()]
    return [Finding("compile cache", f"{folder} ({len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB)")]
