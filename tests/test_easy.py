"""The two doors for people who bring their own loss or residuals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv


def test_minimise_reaches_the_minimum_in_the_users_tree():
    loss = lambda p, a: (p["x"] - a) ** 2 + jnp.sum((p["y"][0] + 1.0) ** 2)
    start = {"x": jnp.array(0.0), "y": [jnp.zeros(3)]}
    run = rv.minimise(loss, start, 2.0, optimizer=rv.bfgs(), steps=30)
    assert jax.tree.structure(run.params) == jax.tree.structure(start)
    np.testing.assert_allclose(run.params["x"], 2.0, atol=1e-8)
    np.testing.assert_allclose(run.params["y"][0], -np.ones(3), atol=1e-8)
    assert run.stop in (rv.Stop.STEPS, rv.Stop.STATIONARY, rv.Stop.SEARCH_FAILED)


def test_least_squares_fits_an_exponential():
    t = np.linspace(0, 2, 15)
    data = 2.5 * np.exp(-1.3 * t)
    residuals = lambda p, args: p["size"] * jnp.exp(-p["rate"] * args[0]) - args[1]
    start = {"size": jnp.array(1.0), "rate": jnp.array(0.1)}
    run = rv.least_squares(residuals, start, (t, data), optimizer=rv.levenberg_marquardt(), steps=30)
    np.testing.assert_allclose([run.params["size"], run.params["rate"]], [2.5, 1.3], rtol=1e-8)
    assert run.loss < 1e-18


def test_loss_is_half_the_sum_of_squares():
    run = rv.least_squares(lambda x, _: x, jnp.array([3.0, 4.0]), optimizer=rv.gradient_descent(0.1), steps=1)
    assert run.history["loss"][0] == 12.5
    np.testing.assert_allclose(run.params, [2.7, 3.6])


def test_stationary_start():
    run = rv.minimise(lambda x, _: jnp.sum(x**2), jnp.zeros(2), optimizer=rv.bfgs(), steps=9)
    assert run.stop is rv.Stop.STATIONARY
    assert run.params.tolist() == [0.0, 0.0]


def test_until_below():
    run = rv.minimise(
        lambda x, _: jnp.sum(x**2), jnp.ones(2), optimizer=rv.gradient_descent(0.1), steps=150, until=rv.below(1e-3)
    )
    assert run.loss <= 1e-3
    assert run.history["step"][-1] < 150


def test_divergence_is_a_stop_reason_and_keeps_finite_parameters():
    run = rv.minimise(lambda x, _: jnp.sum(x**4), jnp.array([2.0]), optimizer=rv.gradient_descent(1.0), steps=50)
    assert run.stop is rv.Stop.NOT_FINITE
    assert np.isfinite(run.params).all()
    assert "last finite parameters were kept" in run.stop.value


def test_useless_search_is_a_stop_reason():
    """A loss at its rounding floor: a hundred million swamps every difference."""
    loss = lambda x, _: 1e16 + jnp.sum((x - 1e-3) ** 2)
    run = rv.minimise(loss, jnp.zeros(2), optimizer=rv.gradient_descent(), steps=50)
    assert run.stop in (rv.Stop.SEARCH_FAILED, rv.Stop.STEPS)
    assert np.isfinite(run.params).all()


def test_gauss_newton_on_a_bare_loss():
    for optimizer in (rv.gauss_newton(), rv.levenberg_marquardt()):
        with pytest.raises(ValueError, match=r"bare scalar loss.*least_squares\(residuals, params\)"):
            rv.minimise(lambda x, _: jnp.sum(x**2), jnp.ones(2), optimizer=optimizer, steps=3)


def test_no_limit_at_all():
    with pytest.raises(ValueError, match="would never end"):
        rv.minimise(lambda x, _: jnp.sum(x**2), jnp.ones(2), optimizer=rv.bfgs())


def test_key_only_matters_to_stochastic_methods():
    loss = lambda x, _: jnp.sum(jnp.cosh(x))
    keys = jax.random.key(1), jax.random.key(2)
    found = [rv.minimise(loss, jnp.ones(2), optimizer=rv.lbfgs(), steps=3, key=key) for key in keys]
    np.testing.assert_array_equal(found[0].theta, found[1].theta)
