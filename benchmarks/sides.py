"""What `micro` times besides whole runs: `python -m benchmarks.sides SIDE START.npz` prints one line of JSON."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from benchmarks.start import Start, load

REPEATS = 20


def seconds(function: Callable, *args, repeats: int = REPEATS) -> float:
    """Median time of a call that is compiled."""
    for _ in range(2):
        jax.block_until_ready(function(*args))
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        jax.block_until_ready(function(*args))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def rate(rows: int, inner: int, columns: int) -> float:
    """Flop/s of a float64 product (rows × inner)·(inner × columns) in JAX."""
    a, b = np.random.default_rng(0).standard_normal((2, max(rows, columns), inner))
    left, right = jnp.asarray(a[:rows]), jnp.asarray(b[:columns].T)
    product = jax.jit(jnp.matmul)
    return 2 * rows * inner * columns / seconds(product, left, right)


def ours(start: Start):
    """ravine's objective as `ravine.train` uses it under the command line's settings, parameters and points."""
    import ravine as rv
    from ravine.cli.settings import prepare
    from ravine.run import subkeys

    prepare()
    problem = rv.problems.make(start.problem, **start.options)
    model_key, points_key, *_ = subkeys(jax.random.key(start.seed))
    objective, theta, sampler = problem.objective(model_key)
    batch = sampler.init(points_key).batch
    count = jax.device_count()
    if count == 1:
        return objective, theta, batch
    mesh = jax.make_mesh((count,), ("points",), (AxisType.Auto,))
    theta, batch = jax.device_put((theta, batch), NamedSharding(mesh, PartitionSpec()))
    return objective.over(mesh), theta, batch


def bytes_of(compiled) -> int:
    """What a compiled program needs while it runs: arguments, results and temporaries, on all devices."""
    found = compiled.memory_analysis()
    total = found.temp_size_in_bytes + found.argument_size_in_bytes + found.output_size_in_bytes
    return total * jax.device_count()


def gradient_ravine(start: Start) -> dict:
    objective, theta, batch = ours(start)
    return {"seconds": seconds(eqx.filter_jit(objective.value_and_grad), theta, batch)}


def gradient_loop(start: Start) -> dict:
    """One of twenty gradients in a compiled loop, as training takes them: a small step against each."""
    objective, theta, batch = ours(start)

    def twenty(theta, batch):
        return jax.lax.fori_loop(
            jnp.int32(0), jnp.int32(REPEATS), lambda _, at: at - 1e-6 * objective.value_and_grad(at, batch)[1], theta
        )

    return {"seconds": seconds(eqx.filter_jit(twenty), theta, batch, repeats=5) / REPEATS}


def gradient_plain(start: Start) -> dict:
    from benchmarks.statements import given

    problem = given(start)
    value_and_grad = jax.jit(jax.value_and_grad(problem.statement.loss))
    return {"seconds": seconds(value_and_grad, problem.params, problem.points)}


def gradient_limit(start: Start) -> dict:
    """The matrix products of value and gradient, at the rate of a product of their own shape and at that of squares.

    u, u_x and u_t − ν u_xx pass through the layers, for the network at x and at −x; backwards they cost twice as much.
    """
    points, width = len(start.points["pde"]), len(start.params[0][1])
    weights = sum(weight.size for weight, _ in start.params)
    flops = 3 * 2 * 3 * 2 * weights * points
    skinny, square = rate(6 * points, width, width), rate(2048, 2048, 2048)
    return {"seconds": flops / skinny, "flops": flops, "skinny": skinny, "square": square}


def memory_ravine(start: Start) -> dict:
    import ravine as rv

    objective, theta, batch = ours(start)
    optimizer = rv.levenberg_marquardt()
    key = jax.random.key(0)
    step = jax.jit(lambda theta, state, batch: optimizer.step(objective, theta, state, batch, key=key))
    return {"bytes": bytes_of(step.lower(theta, optimizer.init(objective, theta), batch).compile())}


def memory_optimistix(start: Start) -> dict:
    from benchmarks.peers.optimistix_lm import stepper
    from benchmarks.statements import given

    problem = given(start)
    init, step = stepper(problem)
    arrays, static = eqx.partition(init(problem.theta, problem.points), eqx.is_array)

    def whole(theta, arrays, points):
        theta, state = step(theta, eqx.combine(arrays, static), points)
        return theta, eqx.filter(state, eqx.is_array)

    return {"bytes": bytes_of(jax.jit(whole).lower(problem.theta, arrays, problem.points).compile())}


def gauss_newton_ravine(start: Start) -> dict:
    """One step of Gauss–Newton: Jacobian, Gramian, one factor, and the trials of an Armijo search."""
    import ravine as rv

    objective, theta, batch = ours(start)
    optimizer = rv.gauss_newton(space="parameter", ridge=1e-6)
    key, state = jax.random.key(0), optimizer.init(objective, theta)
    step = jax.jit(lambda theta, state, batch: optimizer.step(objective, theta, state, batch, key=key)[0])
    return {"seconds": seconds(step, theta, state, batch, repeats=5)}


def gauss_newton_limit(start: Start) -> dict:
    """2mn² flops for JᵀJ and n³/3 for the factor, at the rate of square products."""
    n, m = len(start.theta), len(start.points["pde"])
    flops = 2 * m * n**2 + n**3 / 3
    square = rate(2048, 2048, 2048)
    return {"seconds": flops / square, "flops": flops, "square": square}


SIDES = {
    function.__name__: function
    for function in (
        gradient_ravine,
        gradient_loop,
        gradient_plain,
        gradient_limit,
        memory_ravine,
        memory_optimistix,
        gauss_newton_ravine,
        gauss_newton_limit,
    )
}

if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    print(json.dumps(SIDES[sys.argv[1]](load(Path(sys.argv[2])))))
