"""What a figure was measured on."""

import json
import os
import platform
import subprocess
from pathlib import Path

from benchmarks.envs import environment, python

ROOT = Path(__file__).parent.parent

# Best of five products of square matrices, in NumPy (OpenBLAS, all cores).
GEMM = """
import json, time, numpy
a = numpy.random.default_rng(0).standard_normal((2048, 2048))
times = []
for _ in range(5):
    begin = time.perf_counter(); a @ a; times.append(time.perf_counter() - begin)
print(json.dumps(2 * 2048**3 / min(times) / 1e9))
"""


def cpu() -> str:
    """The model's name, with family and number: machines that are called "AMD EPYC" differ by a factor of three."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
    except OSError:
        lines = []
    said = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in said:
        return platform.processor() or platform.machine()
    numbers = [f"{what} {said[key]}" for what, key in (("family", "cpu family"), ("model", "model")) if key in said]
    return f"{said['model name']} ({', '.join(numbers)})" if numbers else said["model name"]


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gemm_rate() -> float:
    """GFlop/s of a 2048³ product in float64, in a process of its own."""
    done = subprocess.run(
        [str(python("jax")), "-c", GEMM], env=environment(), check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def revision() -> str:
    """The commit of this checkout, with "+" when ravine or the harness differ from it; "unknown" without git."""

    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout

    try:
        changed = git("status", "--porcelain", "--", "src", "benchmarks/*.py", "benchmarks/peers").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
