"""Steps at a million parameters or a million rows: memory against the forecast, and cost against the number of rows.

Usage::

    python scripts/scale.py            # the sizes that the library promises (three quarters of an hour)
    python scripts/scale.py --small    # a hundredth of the work
    python scripts/scale.py kernel     # one of the cases; the names are in the table below

Each case is a process of its own. It takes a few steps on a tiny problem first, so that what Python, JAX and the
compiler need is there, and then on the large one; what the process grew by at its largest is the measured peak. The
script fails when a peak is above 8 GiB, when a forecast (`Forecast.process`) is off by more than a quarter, or when the
cost of a step grows faster than m^1.1.

Where it fails, the process holds memory that was freed: a peak of `kfac` is 0.5 GiB by default, 0.44 with
MALLOC_ARENA_MAX=1, 0.37 with MALLOC_MMAP_THRESHOLD_=131072.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

LIMIT, SLACK, EXPONENT = 8 * 2**30, 0.25, 1.1


@dataclasses.dataclass(frozen=True)
class Case:
    """A method, the width of a network with two hidden layers (n ≈ width²), and a number of rows; small ones too.

    Or the widths of the network of `poisson100d`, 0 for its own of 1.3 million parameters, and a number of its points.
    """

    method: Callable
    width: int
    rows: int
    small: tuple[int, int]
    steps: int = 2
    poisson: bool = False


def _kernel(rv):
    return rv.levenberg_marquardt(space="kernel")


def _parameter(rv):
    return rv.levenberg_marquardt(space="parameter")


def _matrix_free(rv):
    return rv.matrix_free_gauss_newton(iterations=20)


def _iterations(rv):
    return rv.matrix_free_gauss_newton(iterations=10)


def _sketched(rv):
    return rv.sketched_gauss_newton(columns=200)


def _fixed_iterations(rv):
    return rv.matrix_free_gauss_newton(rank=8, iterations=5, tolerance=0.0)


MEMORY = {
    "kernel": Case(_kernel, 998, 2_000, (300, 2_000)),
    "parameter": Case(_parameter, 42, 1_000_000, (60, 30_000)),
    "matrix_free": Case(_matrix_free, 998, 100_000, (500, 2_000)),
    "kfac": Case(lambda rv: rv.kfac(), 998, 2_000, (300, 2_000)),
    "ssbroyden": Case(lambda rv: rv.ssbroyden(), 100, 5_000, (70, 2_000), steps=20),
    "lbfgs": Case(lambda rv: rv.lbfgs(), 998, 10_000, (998, 1_000), steps=5),
    "spring_100d": Case(lambda rv: rv.spring(), 0, 400, (200, 400), poisson=True),
    "matrix_free_100d": Case(_iterations, 0, 400, (200, 400), poisson=True),
    "sketched_100d": Case(_sketched, 0, 400, (200, 400), poisson=True),
    "kfac_100d": Case(lambda rv: rv.kfac(), 0, 400, (200, 400), poisson=True),
}
COST = {"parameter": (_parameter, 20, 2), "matrix_free": (_fixed_iterations, 42, 2)}


def problem(rv, width: int, rows: int, *, poisson: bool):
    """u_x = sin(x), a term of first order on fixed points; or Poisson's equation in a hundred dimensions."""
    if poisson:
        return rv.problems.make("poisson100d", points=rows, width=width or None)
    import jax
    import jax.numpy as jnp

    def equation(u, z):
        return rv.partials(u, z, 0)[0] - jnp.sin(z[0])

    points = jax.random.uniform(jax.random.key(1), (rows, 2))
    return rv.Problem(
        terms=(rv.residual("pde", equation),),
        sampler=rv.Constant({"pde": points}),
        model=lambda key: rv.models.MLP(2, "scalar", width=width, depth=2, key=key),
    )


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) * 1024


def child(method: Callable, width: int, rows: int, steps: int, *, poisson: bool) -> dict:
    """What one case took: forecast and peak in bytes, seconds a step."""
    import jax

    jax.config.update("jax_enable_x64", True)
    import ravine as rv

    optimizer, key = method(rv), jax.random.key(0)
    rv.train(problem(rv, 4, 50, poisson=poisson), rv.Phase(optimizer, steps=2), key=key)
    gc.collect()
    try:  # from here on, the largest size is that of what follows
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        print("The peak includes the start-up: /proc/self/clear_refs cannot be written.", file=sys.stderr)
    before = status("VmRSS")
    large = problem(rv, width, rows, poisson=poisson)
    objective, theta, sampler = large.objective(key)
    batch = sampler.init(key).batch
    forecast, rows, n = rv.forecast(optimizer, objective, batch), objective.size(batch), theta.shape[0]
    del objective, theta, sampler, batch  # training makes its own
    run = rv.train(large, rv.Phase(optimizer, steps=steps), key=key)
    made = int(run.history["step"][-1])
    return {
        "n": n,
        "m": rows,
        "sentence": str(forecast),
        "forecast": forecast.process,
        "peak": status("VmHWM") - before,
        "seconds": float(run.history["seconds"][-1]) / max(made, 1),
        "finite": bool(math.isfinite(run.loss)),
    }


def apart(*arguments: str) -> dict:
    """`child` in a process of its own."""
    command = [sys.executable, __file__, "--child", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"scale: {' '.join(arguments)} failed with code {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def memory(name: str, *, small: bool) -> bool:
    """Prints a case; whether it holds."""
    case = MEMORY[name]
    width, rows = case.small if small else (case.width, case.rows)
    found = apart("memory", name, str(width), str(rows))
    ratio = found["forecast"] / found["peak"]
    good = found["peak"] <= LIMIT and abs(ratio - 1) <= SLACK and found["finite"]
    print(
        f"{name:16} n = {found['n']:9,}  m = {found['m']:9,}  forecast {found['forecast'] / 2**30:5.2f} GiB  "
        f"peak {found['peak'] / 2**30:5.2f} GiB  ratio {ratio:4.2f}  {found['seconds']:8.2f} s/step  "
        f"{'good' if good else 'BAD'}",
        flush=True,
    )
    return good


def cost(name: str, *, small: bool) -> bool:
    """Prints the exponent p of seconds ∝ m^p; whether it holds."""
    import numpy as np

    rows = [4_000, 16_000, 64_000] if small else [10_000, 100_000, 1_000_000]
    found = [apart("cost", name, str(COST[name][1]), str(m)) for m in rows]
    seconds = [one["seconds"] for one in found]
    exponent = float(np.polyfit(np.log(rows), np.log(seconds), 1)[0])
    good = exponent <= EXPONENT
    each = ", ".join(f"{m:,}: {s:.3f} s" for m, s in zip(rows, seconds, strict=True))
    print(f"{name:16} n = {found[0]['n']:9,}  {each}: m^{exponent:.2f}  {'good' if good else 'BAD'}", flush=True)
    return good


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"of {', '.join(MEMORY)}, cost (default: all)")
    parser.add_argument("--small", action="store_true", help="smaller sizes")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        what, name, width, rows = arguments.child
        case = MEMORY[name]
        method, steps = (case.method, case.steps) if what == "memory" else COST[name][::2]
        print(json.dumps(child(method, int(width), int(rows), steps, poisson=case.poisson)))
        return
    unknown = set(arguments.cases) - {*MEMORY, "cost"}
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}; there are {', '.join(MEMORY)}, cost")
    wanted = arguments.cases or [*MEMORY, "cost"]
    good = [memory(name, small=arguments.small) for name in MEMORY if name in wanted]
    if "cost" in wanted:
        good += [cost(name, small=arguments.small) for name in COST]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
