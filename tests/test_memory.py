"""The forecast of memory against what XLA sets aside for the steps of a run as users compile it, and against what a
process grows by."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import cases
import ravine as rv
from ravine.chunk import advance
from ravine.run import first_carry, numbers


@functools.cache
def setting(width, rows):
    model = rv.models.MLP(2, "scalar", width=width, depth=2, key=cases.KEY)
    term = rv.residual("pde", lambda u, z: rv.partials(u, z, 0)[0] - 1.0)
    objective, theta = rv.Objective.from_terms([term], model)
    return objective, theta, {"pde": cases.points(0, rows)}


@pytest.fixture
def users():
    """Compiled as for users: the tests' own settings trade memory for a quick compilation."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield {"xla_cpu_use_fusion_emitters": True}
    jax.config.update("jax_disable_most_optimizations", True)


def analysed(optimizer, objective, theta, batch, options):
    """What XLA sets aside for the loop of steps."""
    sampler, optimizer = rv.Constant(batch), numbers(optimizer, theta.dtype)
    carry = first_carry(objective, optimizer, theta, sampler.init(cases.KEY))
    lowered = advance.lower(objective, sampler, rv.Given(), optimizer, None, carry, jnp.int32(1), cases.KEY)
    return lowered.lowered.compile(compiler_options=options).memory_analysis()


def allocated(*args):
    """Arguments, results and temporaries."""
    found = analysed(*args)
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


# Width and rows are such that the arrays named on the right are largest.
CASES = {
    "adam": (rv.adam(), 200, 50),  # vectors
    "lbfgs": (rv.lbfgs(memory=50), 100, 50),  # pairs
    "bfgs": (rv.bfgs(), 25, 100),  # H, n×n
    "ssbroyden": (rv.ssbroyden(), 35, 200),
    "parameter": (rv.levenberg_marquardt(space="parameter"), 35, 200),  # JᵀJ and its factor
    "undamped": (rv.gauss_newton(space="parameter"), 25, 900),
    "kernel": (rv.levenberg_marquardt(space="kernel"), 12, 1500),  # JJᵀ and its factor
    "wide_kernel": (rv.gauss_newton(space="kernel"), 60, 150),  # rows of J
    "long_rows": (rv.levenberg_marquardt(space="kernel"), 190, 150),  # rows of J, multiplied panel by panel
    "qr": (rv.levenberg_marquardt(solver="qr"), 25, 500),  # [J; √λ I]
    "matrix_free": (rv.matrix_free_gauss_newton(), 200, 16),  # the sketch
}


@pytest.mark.parametrize("name", CASES)
def test_forecast_is_within_a_quarter_of_what_is_allocated(name, users):
    optimizer, width, rows = CASES[name]
    objective, theta, batch = setting(width, rows)
    found = rv.forecast(optimizer, objective, batch)
    assert found.bytes == sum(found.parts.values())
    assert found.bytes == pytest.approx(allocated(optimizer, objective, theta, batch, users), rel=0.25), found.parts


def test_pairs_are_written_in_place(users):
    memory, (_, width, rows) = 50, CASES["lbfgs"]
    objective, theta, batch = setting(width, rows)
    found = analysed(rv.lbfgs(memory=memory), objective, theta, batch, users)
    assert found.temp_size_in_bytes < memory * theta.nbytes / 2  # else a copy of all s or all y


def test_a_process_grows_by_the_copies_that_training_keeps_and_by_the_program():
    objective, theta, batch = setting(200, 50)
    found = rv.forecast(rv.adam(), objective, batch)
    assert found.kept >= 2 * theta.nbytes
    assert found.process > found.bytes + found.kept


@pytest.mark.parametrize("name,part", [("bfgs", "matrices"), ("parameter", "matrices"), ("qr", "rows")])
def test_largest_part_is_the_method_s_own(name, part):
    optimizer, width, rows = CASES[name]
    objective, _, batch = setting(width, rows)
    found = rv.forecast(optimizer, objective, batch)
    assert max(found.parts, key=found.parts.get) == part
    assert part in str(found)


@pytest.mark.parametrize("name,power", [("ssbroyden", 2), ("parameter", 2), ("matrix_free", 1), ("lbfgs", 1)])
def test_growth_with_the_number_of_parameters(name, power):
    small, large = (setting(width, 20) for width in (100, 200))
    found = [rv.forecast(CASES[name][0], objective, batch).bytes for objective, _, batch in (small, large)]
    ratio = large[0].parameters / small[0].parameters
    assert found[1] / found[0] == pytest.approx(ratio**power, rel=0.1)


def test_no_array_is_made():
    """A billion rows are forecast at once: of the batch, shapes are enough."""
    network = rv.models.MLP(1, "scalar", width=4, depth=1, key=cases.KEY)
    objective, _ = rv.Objective.from_terms([rv.supervised("data")], network)
    batch = {"data": (jax.ShapeDtypeStruct((10**9, 1), float), jax.ShapeDtypeStruct((10**9,), float))}
    for optimizer in (rv.adam(), rv.levenberg_marquardt()):
        assert 16 * 10**9 <= rv.forecast(optimizer, objective, batch).bytes < 100 * 10**9


def test_names_are_those_that_people_say():
    objective, _, batch = setting(12, 50)
    say = lambda optimizer: str(rv.forecast(optimizer, objective, batch))
    assert say(rv.levenberg_marquardt()).startswith("Levenberg–Marquardt in kernel space: ")
    assert say(rv.gauss_newton(space="parameter")).startswith("Gauss–Newton in parameter space: ")
    assert say(rv.ssbroyden()).startswith("Self-scaled Broyden with a dense inverse Hessian: ")
    assert say(rv.matrix_free_gauss_newton(rank=7)).startswith("Matrix-free Gauss–Newton with a preconditioner of rank")
    assert say(rv.lbfgs()).startswith("L-BFGS with 20 pairs: ")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize("name", ["ssbroyden", "parameter", "kernel", "lbfgs"])
def test_forecast_is_within_a_quarter_of_what_a_run_takes(name):
    """Half a gibibyte and more, each in a process of its own."""
    script = Path(__file__).parents[1] / "scripts" / "scale.py"
    # The tests' own settings trade memory for a quick compilation.
    users = {**os.environ, "XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = subprocess.run([sys.executable, script, "--small", name], capture_output=True, text=True, env=users)
    assert done.returncode == 0, done.stdout + done.stderr
