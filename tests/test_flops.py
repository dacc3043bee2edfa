"""Counting arithmetic on a jaxpr, against counts by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import cases
import ravine as rv
from ravine.optim.flops import Cost, cost


def counted(function, *shapes) -> Cost:
    return cost(jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float64) for shape in shapes)).jaxpr)


def test_products_by_shape():
    assert counted(jnp.matmul, (70, 80), (80, 90)) == Cost(products=2 * 70 * 80 * 90)
    assert counted(jnp.matmul, (7000, 20), (20, 20)) == Cost(thin=2 * 7000 * 20 * 20)
    assert counted(jnp.matmul, (500, 500), (500,)) == Cost(traffic=8 * 500 * 500)
    batched = counted(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), (3, 64, 64), (3, 64, 64))
    assert batched == Cost(products=3 * 2 * 64**3)


def test_factors_and_elementwise_functions():
    assert counted(jnp.linalg.cholesky, (90, 90)).factors == pytest.approx(90**3 / 3)
    assert counted(lambda a: jnp.linalg.eigh(a)[0], (40, 40)).factors == pytest.approx(9 * 40**3)
    found = counted(lambda x: jnp.sum(jnp.tanh(x) * 2.0), (1000,))
    assert (found.dear, found.simple) == (1000, 2000)


def test_loops_multiply_and_branches_count_their_dearest():
    step = lambda carry, _: (carry @ carry, None)
    assert counted(lambda a: lax.scan(step, a, length=7)[0], (64, 64)).products == 7 * 2 * 64**3
    branch = lambda a: lax.cond(a[0, 0] > 0, lambda: a @ a, lambda: a + 1)
    assert counted(branch, (64, 64)).products == 2 * 64**3
    once = lambda a: lax.while_loop(lambda b: b[0, 0] > 0, lambda b: b @ b, a)
    assert counted(once, (64, 64)).products == 2 * 64**3
    jitted = lambda a: jax.jit(lambda b: b @ b)(a)
    assert counted(jitted, (64, 64)).products == 2 * 64**3


@pytest.mark.parametrize("points", [64, 128, 3000])
def test_a_gradient_costs_three_times_its_products(points):
    """A layer of w inputs and outputs is 2w² flops a point forwards, and twice that backwards; in blocks or not."""
    width = 10
    model = rv.models.MLP(1, "scalar", width=width, depth=3, key=cases.KEY)
    objective, theta = rv.Objective.from_terms([rv.supervised("fit")], model)
    batch = {"fit": (jnp.zeros((points, 1)), jnp.zeros(points))}
    found = cost(jax.make_jaxpr(objective.value_and_grad)(theta, batch).jaxpr)
    inner = 3 * 2 * 2 * width**2 * points  # two layers between hidden ones
    ends = 3 * 2 * 2 * width * points  # into the first and out of the last, as far as they count as products
    blocks = -(-points // 320) * 320 / points if points > 2048 else 1
    assert inner * 0.99 <= found.thin <= (inner + ends) * blocks * 1.01


def test_a_step_of_levenberg_marquardt_is_its_gramian_and_its_factor():
    model = rv.models.MLP(1, "scalar", width=20, depth=2, key=cases.KEY)
    objective, theta = rv.Objective.from_terms([rv.supervised("fit")], model)
    m, n = 900, theta.shape[0]
    batch = {"fit": (jnp.zeros((m, 1)), jnp.zeros(m))}
    found = rv.forecast(rv.levenberg_marquardt(acceleration=False), objective, batch).cost
    # Half of JᵀJ by symmetry, in slices that do a little more; the factor, once more in the loop that shifts the matrix
    # where it fails; two solves with a vector.
    assert m * n**2 <= found.products <= 2 * m * n**2
    np.testing.assert_allclose(found.factors, 2 * n**3 / 3 + 2 * n**2, rtol=0.02)


def test_seconds_are_counts_over_rates():
    machine = (1e10, 1e9)
    assert Cost(products=1e10).seconds(machine=machine) == pytest.approx(1.0)
    assert Cost(products=1e10).seconds(machine=machine, bits=32) == pytest.approx(0.5)
    assert Cost(traffic=2e9).seconds(machine=machine) == pytest.approx(2.0)
    twice = Cost(1.0, 2.0, 3.0, 4.0, 5.0, 6.0) * 2
    assert twice == Cost(2.0, 4.0, 6.0, 8.0, 10.0, 12.0)
    assert (twice + twice).flops == 4 * (1 + 2 + 3 + 4 + 5)
    assert Cost(thin=1e6).seconds() > 0


def test_auto_takes_levenberg_marquardt_only_where_it_fits_the_budget():
    model = rv.models.MLP(1, "scalar", width=30, depth=3, key=cases.KEY)
    objective, theta = rv.Objective.from_terms([rv.supervised("fit")], model)
    batch = {"fit": (jnp.zeros((4000, 1)), jnp.zeros(4000))}
    long, short = (rv.auto(seconds=seconds)(objective, theta, batch) for seconds in (600.0, 0.5))
    assert [phase.name for phase in long.phases] == ["adam", "ssbroyden", "levenberg_marquardt"]
    assert [phase.name for phase in short.phases] == ["adam", "ssbroyden"]
    assert short.phases[-1].until is None
    assert "Levenberg–Marquardt in parameter space would take" in long.reason
    assert "too much for this budget" in short.reason
