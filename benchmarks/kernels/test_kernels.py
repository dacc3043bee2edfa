"""Times of the kernels that every method is made of, by pytest-benchmark: `make bench-kernels`.

On Burgers' equation with its default network (881 parameters) and points (1,500), and on plain matrices.
"""

import functools

import jax
import jax.numpy as jnp
import pytest

from benchmarks.sides import ours
from benchmarks.start import Start

jax.config.update("jax_enable_x64", True)


@functools.cache
def burgers():
    """Objective, parameters, points: as in training."""
    from benchmarks.export import start

    begin: Start = start("burgers", 0)
    return ours(begin)


def timed(benchmark, function, *args):
    """Compiles, then lets pytest-benchmark call it."""
    compiled = jax.jit(function)
    jax.block_until_ready(compiled(*args))
    benchmark(lambda: jax.block_until_ready(compiled(*args)))


KERNELS = {
    "value": lambda lin, vector: lin.objective(lin.theta, lin.batch),
    "value_and_grad": lambda lin, vector: (lin.value, lin.grad),
    "jvp": lambda lin, vector: lin.jvp(vector),
    "vjp": lambda lin, vector: lin.vjp(lin.residual),
    "second": lambda lin, vector: lin.second(vector),
    "jacobian": lambda lin, vector: lin.jacobian(),
    "gram": lambda lin, vector: lin.gram(),
    "kernel": lambda lin, vector: lin.kernel(),
    "curvature_product": lambda lin, vector: lin.curvature_product(vector),
    "hessian_product": lambda lin, vector: lin.hessian_product(vector),
}


@pytest.mark.parametrize("name", KERNELS)
def test_linearisation(benchmark, name):
    objective, theta, batch = burgers()
    timed(benchmark, lambda at, points: KERNELS[name](objective.linearise(at, points), theta), theta, batch)


@pytest.mark.parametrize("method", ["adam", "lbfgs", "ssbroyden", "levenberg_marquardt"])
def test_step(benchmark, method):
    import ravine as rv

    objective, theta, batch = burgers()
    optimizer, key = rv.METHODS[method](), jax.random.key(0)
    state = optimizer.init(objective, theta)
    timed(benchmark, lambda a, s, b: optimizer.step(objective, a, s, b, key=key)[0], theta, state, batch)


@pytest.mark.parametrize("size", [500, 2000])
def test_cholesky(benchmark, size):
    from ravine.linalg import shifted_cholesky

    root = jax.random.normal(jax.random.key(0), (size, size))
    timed(benchmark, lambda a: shifted_cholesky(a, jnp.asarray(1e-3))[0], root @ root.T)
