"""Floors against what rounding really does."""

import jax
import jax.numpy as jnp
import numpy as np

import ravine as rv

KEY = jax.random.key(0)


def lines(dtype, size=40):
    """½ mean (aᵀx − b)² with b = aᵀ1: zero at x = 1."""
    a = jax.random.normal(KEY, (200, size), dtype)
    term = rv.Term("fit", lambda x, row: jnp.vdot(row, x - 1))
    return (*rv.Objective.from_terms([term], jnp.full(size, 0.5, dtype)), {"fit": a})


def test_the_floor_in_float32_is_what_float64_tells():
    """|L₃₂ − L₆₄| over many θ has the size of the floor (within a factor of ten)."""
    single, double = lines(jnp.float32), lines(jnp.float64)
    double = (double[0], double[1], {"fit": single[2]["fit"].astype(float)})
    apart, floors = [], []
    for i in range(6):
        theta = 0.5 + 0.1 * jax.random.normal(jax.random.key(i), (40,), jnp.float32)
        apart.append(float(single[0](theta, single[2])) - float(double[0](theta.astype(float), double[2])))
        floors.append(rv.precision(single[0], theta, single[2]).loss_floor)
    size = float(np.sqrt(np.mean(np.square(apart))))
    assert 0.1 < size / np.mean(floors) < 10


def test_floors_follow_the_unit_of_rounding():
    """float32 floors are 2²⁹ times those of float64."""
    found = {}
    for dtype in (jnp.float32, jnp.float64):
        objective, theta, batch = lines(dtype)
        found[dtype] = rv.precision(objective, theta, batch)
    ratio = lambda name: getattr(found[jnp.float32], name) / getattr(found[jnp.float64], name)
    np.testing.assert_allclose([ratio("loss_floor"), ratio("gradient_floor")], 2.0**29, rtol=0.6)
    np.testing.assert_allclose(ratio("lowest"), 2.0**58, rtol=0.6)


def test_lowest_is_the_loss_of_rounded_parameters():
    """At the solution x = 1 rounding by ε/2 gives ½ mean (aᵀδ)² = ½ ε²/4 mean ‖a‖²."""
    objective, theta, batch = lines(jnp.float64)
    found = rv.precision(objective, jnp.ones_like(theta), batch)
    expected = 0.5 * (np.finfo(float).eps / 2) ** 2 * float(jnp.mean(jnp.sum(batch["fit"] ** 2, axis=1)))
    np.testing.assert_allclose(found.lowest, expected, rtol=0.6)
    assert found.exhausted
    assert not rv.precision(objective, theta, batch).exhausted


def test_products_of_full_precision_are_not_reduced():
    objective, theta, batch = lines(jnp.float32)
    found = rv.precision(objective, theta, batch)
    assert not found.reduced
    assert found.product_error < 1e-6
    assert "float32" in str(found)


def test_searches_below_the_floor():
    objective, theta, batch = lines(jnp.float32)
    found = rv.precision(objective, theta, batch)
    assert found.hidden(-found.loss_floor, 0.5)
    assert not found.hidden(-found.loss_floor, 2.0)
