"""The machine under the arrays."""

import ctypes
import os
import platform


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Devices of one process wait for each other wherever they share a result: by default not for 100 s (but for 55), then
# XLA aborts the process, run and all. One that factorises a large matrix alone (`blocks.on_first`) may take longer. In
# seconds; read when JAX starts its backend.
_PATIENCE = {
    "xla_cpu_collective_call_warn_stuck_timeout_seconds": 120,
    "xla_cpu_collective_call_terminate_timeout_seconds": 3600,
}


def use_cores(count: int | None = None) -> int:
    """Makes each of `count` cores of the CPU a device of its own (by default every core this process may use).

    `train` then shares the points of a batch out over them. XLA alone leaves most of a second core idle at the small
    matrix products of a PINN; on two cores this halves the time of a gradient. Call it first of all, before anything
    else touches JAX. The command line does it by itself. What `XLA_FLAGS` says of how long devices wait for each other
    is kept; else it is an hour, since one may factorise a large matrix alone meanwhile.

    **Returns:** the number of devices.

    **Raises:** `RuntimeError` when JAX has started with another number of devices already, `ValueError` for a count
    below one.
    """
    # Here, so that whoever only counts cores need not wait for JAX.
    import jax

    count = cores() if count is None else count
    if count < 1:
        raise ValueError(f"use_cores: count is {count}, but must be at least 1.")
    flags = os.environ.get("XLA_FLAGS", "")
    added = [f"--{name}={seconds}" for name, seconds in _PATIENCE.items() if name not in flags]
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *added])
    jax.config.update("jax_num_cpu_devices", count)
    return count


# Parameters of glibc's mallopt (malloc.h), and what they are set to: never fetch memory of its own for a large array,
# never give the top of the heap back, grow it by 64 MiB at a time.
_MALLOPT = {-4: 0, -1: 2**31 - 1, -2: 64 * 2**20}


def keep_memory() -> bool:
    """Tells the C library to keep memory that was freed, instead of handing it back to the system.

    A gradient frees and asks for the same large arrays again and again; each time the system would have to map them in
    page by page. Measured on two cores: value and gradient of Burgers' residual at 10,000 points in one block, 21 ms
    without and 9 ms with it; blocks and small problems gain less. The process then holds the most memory it ever used.
    Best called first of all; the command line does it by itself.

    **Returns:** whether it took effect. It is glibc's: with another C library, or another allocator in its place, it
    returns False, and nothing was changed.

    ```python
    >>> import ravine as rv
    >>> rv.keep_memory() in (True, False)
    True

    ```
    """
    replaced = any(name in os.environ.get("LD_PRELOAD", "") for name in ("jemalloc", "tcmalloc", "mimalloc"))
    if platform.libc_ver()[0] != "glibc" or replaced:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _MALLOPT.items())
