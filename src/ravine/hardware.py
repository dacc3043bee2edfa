"""The machine under the arrays."""

import os


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores(count: int | None = None) -> int:
    """Makes each of `count` cores of the CPU a device of its own (by default every core this process may use).

    `train` then shares the points of a batch out over them. XLA alone leaves most of a second core idle at the small
    matrix products of a PINN; on two cores this halves the time of a gradient. Call it first of all, before anything
    else touches JAX. The command line does it by itself.

    **Returns:** the number of devices.

    **Raises:** `RuntimeError` when JAX has started with another number of devices already, `ValueError` for a count
    below one.
    """
    # Here, so that whoever only counts cores need not wait for JAX.
    import jax

    count = cores() if count is None else count
    if count < 1:
        raise ValueError(f"use_cores: count is {count}, but must be at least 1.")
    jax.config.update("jax_num_cpu_devices", count)
    return count
