"""One run in a process of its own: `python -m benchmarks.worker MODULE ARGUMENT START.npz SECONDS OUT.json`."""

import importlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import traceback
from pathlib import Path

from benchmarks.start import load
from benchmarks.trace import Trace

REPORTED = ("jax", "jaxlib", "optax", "optimistix", "equinox", "numpy", "scipy", "torch", "deepxde")


def versions() -> dict[str, str]:
    """Of what is installed here."""
    found = {"python": platform.python_version()}
    for package in REPORTED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def main(module: str, argument: str, path: str, seconds: str, out: str) -> None:
    """Runs, and writes what there is even when the method breaks down."""
    if "jax" in versions():
        import jax

        jax.config.update("jax_enable_x64", True)
    start = load(Path(path))
    trace = Trace(start, float(seconds))
    failure = ""
    try:
        peer = importlib.import_module(f"benchmarks.peers.{module}")
        if argument:
            peer.run(start, trace, argument)
        else:
            peer.run(start, trace)
    except Exception:
        failure = traceback.format_exc()
    found = {
        "stop": "error" if failure else trace.stop,
        "failure": failure,
        "warm_up_seconds": trace.warm_up,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": versions(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rows": trace.rows,
    }
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
