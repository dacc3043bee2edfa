"""An environment for each family of packages, in `benchmarks/.envs`, made when it is missing or its pins changed."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
FAMILIES = ("jax", "torch")

# What would make a process another one than its method's user has: threads, flags, caches, the allocator.
UNSET = ("OPENBLAS_", "OMP_", "MKL_", "XLA_", "JAX_", "MALLOC_", "RAVINE_", "LD_PRELOAD", "PYTHON", "TORCH_")


def python(family: str, *, make: bool = True) -> Path:
    """The interpreter of a family; the environment is made first, if need be.

    **Raises:** `subprocess.CalledProcessError` when pip fails.
    """
    requirements = HERE / "requirements" / f"{family}.txt"
    folder = HERE / ".envs" / family
    binary, stamp = folder / "bin" / "python", folder / "installed"
    want = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not make or (stamp.exists() and stamp.read_text() == want):
        return binary
    print(f"benchmarks: installing the environment {family!r} in {folder}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    subprocess.run([str(binary), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)
    stamp.write_text(want)
    return binary


def environment() -> dict[str, str]:
    """Variables of a run: no setting that speeds up or slows down one side, ravine and benchmarks importable."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(UNSET)}
    # Every run compiles for itself; compile time is reported apart.
    return {**kept, "PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE.parent}", "RAVINE_NO_CACHE": "1"}
