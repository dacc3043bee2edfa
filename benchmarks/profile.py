"""Where the time of a step goes, per method, and the machine's limits: `python -m benchmarks.profile PAGE.md`.

Each part (a gradient, a Gramian, a factor, …) is timed alone, the cheap ones in a compiled loop as in a run, where what
depends on points alone is computed once; it is counted in the steps by the methods' own accounts. What is left is the
method's updates, the search's bookkeeping and memory traffic.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from benchmarks import machine
from benchmarks.sides import ours, rate, seconds
from benchmarks.start import Start

STEPS = 20  # in one compiled loop
WARM = 10  # steps before, so that memory and damping are what they are in a run


@dataclasses.dataclass(frozen=True)
class Setting:
    """A problem's size, and the methods that are profiled on it."""

    problem: str
    options: dict
    methods: tuple[str, ...]


SETTINGS = (
    Setting("burgers", {}, ("adam", "lbfgs", "ssbroyden", "levenberg_marquardt", "matrix_free_gauss_newton")),
    Setting("burgers", {"points": 10_000}, ("adam", "lbfgs", "ssbroyden")),
    Setting("poisson2d", {"points": 4_000, "width": 30, "depth": 3}, ("ssbroyden", "levenberg_marquardt")),
    Setting("poisson2d", {"points": 1_000, "width": 60, "depth": 3}, ("ssbroyden", "levenberg_marquardt")),
)


def limits() -> dict[str, float]:
    """GFlop/s of products and a factor, GB/s of a sum of two arrays."""
    n, many = 2048, 2**25
    square, thin = rate(n, n, n), rate(80_000, 20, 20)
    low = jnp.ones((n, n), jnp.float32)
    single = 2 * n**3 / seconds(jax.jit(jnp.matmul), low, low)
    spd = jnp.eye(n) * n + 1.0
    factor = n**3 / 3 / seconds(jax.jit(jnp.linalg.cholesky), spd, repeats=5)
    x = jnp.ones(many)
    traffic = 24 * many / seconds(jax.jit(lambda x, y: 2.0 * x + y), x, x + 1, repeats=5)
    return {
        "product of two 2048 × 2048, float64": square / 1e9,
        "the same in float32": single / 1e9,
        "product 80,000 × 20 by 20 × 20 (a layer), float64, one device": thin / 1e9,
        "Cholesky factor, n = 2048, float64": factor / 1e9,
        "memory traffic of 2x + y, one device (GB/s)": traffic / 1e9,
    }


def per_step(optimizer, objective, theta, batch) -> tuple[float, dict[str, float]]:
    """Seconds of a step and its work, over `STEPS` steps in one compiled loop after `WARM` others."""
    key = jax.random.key(0)

    @eqx.filter_jit
    def advance(theta, state, steps):
        from ravine import Work

        def one(i, carry):
            theta, state, work = carry
            theta, state, info = optimizer.step(objective, theta, state, batch, key=jax.random.fold_in(key, i))
            return theta, state, work + info.work

        return lax.fori_loop(0, steps, one, (theta, state, Work()))

    theta, state, _ = advance(theta, optimizer.init(objective, theta), WARM)
    spent = seconds(lambda: advance(theta, state, STEPS), repeats=3) / STEPS
    work = advance(theta, state, STEPS)[2]
    return spent, {name: count / STEPS for name, count in work.counts().items()}


def parts(objective, theta, batch) -> dict[str, Callable[[], float]]:
    """What steps are made of, each timed when asked for."""
    from ravine.blocks import on_first
    from ravine.linalg import shifted_cholesky, solve_cholesky

    n, m = theta.shape[0], objective.size(batch)
    size, jitted = min(n, m), eqx.filter_jit

    def metric(theta, batch):
        lin = objective.linearise(theta, batch)
        return lin.gram() if n <= m else lin.kernel()

    def factor(matrix):
        # As in a step: on the first device, with all cores.
        return on_first(objective.mesh, lambda a: (shifted_cholesky(a, jnp.ones(()))[0], ()), matrix)[0]

    def solve(matrix):
        kept = lambda a, b: (a, solve_cholesky(a, b))
        return on_first(objective.mesh, kept, matrix, jnp.ones(size))[1]

    def reduction(at):
        """‖Js‖²: what the model of the loss promises for a trial. As a vector, for `looped`."""
        return jnp.sum(objective.linearise(at, batch).jvp(jnp.ones(n)) ** 2) * jnp.ones(n)

    def product(theta):
        return objective.linearise(theta, batch).curvature_product(theta)

    def looped(function):
        """Seconds of a turn. θ changes by less than rounding, of which the compiler does not know."""
        turns = lambda theta: lax.fori_loop(0, STEPS, lambda i, at: at - 1e-20 * function(at), theta)
        return seconds(jitted(turns), theta, repeats=5) / STEPS

    return {
        "gradient": lambda: looped(lambda at: objective.value_and_grad(at, batch)[1]),
        "value": lambda: looped(lambda at: objective(at, batch)),
        "metric": lambda: seconds(jitted(metric), theta, batch, repeats=5),
        "factor": lambda: seconds(jitted(factor), jnp.eye(size) * 3.0, repeats=5),
        "solve": lambda: seconds(jitted(solve), jnp.eye(size) * 3.0, repeats=5),
        "reduction": lambda: looped(reduction),
        "product": lambda: looped(product) / 2,
    }


def counts(method: str, work: dict[str, float], m: int) -> dict[str, float]:
    """How often each part occurs in a step."""
    found = {"gradient": work["gradients"], "value": work["evaluations"] - work["gradients"]}
    found["metric"] = work["rows"] / m
    if method == "levenberg_marquardt":
        # A trial is a factor and a solution with it, a value, and the decrease that the model promises.
        found |= dict.fromkeys(("factor", "solve", "reduction"), found["value"])
    found["product"] = work["products"]
    return {name: count for name, count in found.items() if count}


def row(method: str, objective, theta, batch, times: dict[str, float], offered: dict) -> tuple[str, float, dict]:
    """The method, its step in seconds, and the seconds in each part."""
    import ravine as rv

    optimizer = rv.levenberg_marquardt(acceleration=False) if method == "levenberg_marquardt" else rv.METHODS[method]()
    step, work = per_step(optimizer, objective, theta, batch)
    shares = {}
    for name, count in counts(method, work, objective.size(batch)).items():
        if name not in times:
            times[name] = offered[name]()
        shares[name] = count * times[name]
    return method, step, shares


def section(setting: Setting) -> list[str]:
    """The lines of one setting."""
    start = Start(setting.problem, setting.options, 0, [], {}, *[jnp.zeros(0)] * 4, 0.0, False)  # pyright: ignore
    objective, theta, batch = ours(start)
    n, m, times = theta.shape[0], objective.size(batch), {}
    offered = parts(objective, theta, batch)
    rows = [row(method, objective, theta, batch, times, offered) for method in setting.methods]
    names = [name for name in offered if any(name in shares for _, _, shares in rows)]
    heads = {"gradient": "gradients", "value": "values", "metric": "Gramian" if n <= m else "kernel"}
    heads |= {"factor": "factors", "solve": "solutions", "reduction": "models", "product": "products"}
    lines = [f"## {setting.problem}, n = {n:,} parameters, m = {m:,} rows", ""]
    lines += ["| method | a step | " + " | ".join(heads[name] for name in names) + " | the rest |"]
    lines += ["|---" * (len(names) + 3) + "|"]
    for method, step, shares in rows:
        cells = [f"{100 * shares[name] / step:.0f} %" if name in shares else "" for name in names]
        rest = max(0.0, 1 - sum(shares.values()) / step)
        lines.append(f"| {method} | {1e3 * step:.3g} ms | " + " | ".join(cells) + f" | {100 * rest:.0f} % |")
    lines += ["", "One of each: " + ", ".join(f"{name} {1e3 * times[name]:.3g} ms" for name in names) + "."]
    if "metric" in times:
        flops = m * n * min(m, n)  # half of a product, for it is symmetric
        lines += [
            f"The {heads['metric']} with its Jacobian runs at {flops / times['metric'] / 1e9:.0f} GFlop/s, counted as "
            "the half of a product that a symmetric one needs."
        ]
    return [*lines, ""]


def page() -> str:
    """The whole page."""
    lines = [
        "# Where the time goes",
        "",
        "Written by `python -m benchmarks profile`; measured on",
        f"{machine.cores()} cores of {machine.cpu()}, code revision {machine.revision()}, JAX {jax.__version__},",
        "with the settings of the command line (each core a device, freed memory kept). Each part is timed alone",
        "(gradients, values and products in a compiled loop, as in a run) and counted by the methods' own accounts of",
        "their work; *the rest* is updates, the search and memory traffic. Levenberg–Marquardt goes without",
        "acceleration; its *models* are the products with J that tell what the model of the loss promises for a trial.",
        "Shares that add up to more than the step mean that a part is cheaper within it than alone.",
        "",
        "| limit of the machine | GFlop/s |",
        "|---|---|",
        *(f"| {name} | {value:.0f} |" for name, value in limits().items()),
        "",
    ]
    for setting in SETTINGS:
        lines += section(setting)
    lines += [
        "A first-order or quasi-Newton step is a gradient and little else until n² numbers no longer fit the cache; a",
        "gradient is small products (20 to 30 columns), whose rate is that of a layer and not that of square products,",
        "with elementwise work between them. A Gauss–Newton step is its Gramian. What would make either faster: fewer",
        'bits (`solver="mixed"`), fewer rows, or more cores.',
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from ravine.cli.settings import prepare

    prepare()  # before JAX starts
    jax.config.update("jax_enable_x64", True)
    Path(sys.argv[1]).write_text(page())
