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


# ------------------------------------------------------------------------------------------------- SciPy's arguments


def rosenbrock(x, a):
    return jnp.sum(a * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def test_a_tolerance_ends_a_run_at_the_step_where_it_holds():
    run = rv.minimise(rosenbrock, jnp.array([-1.2, 1.0]), 100.0, method="BFGS", gtol=1e-6)
    assert run.stop is rv.Stop.CONVERGED
    assert run.success
    assert run.jac_norm <= 1e-6
    np.testing.assert_allclose(run.x, [1.0, 1.0], atol=1e-5)
    # One step fewer and it does not hold.
    earlier = rv.minimise(rosenbrock, jnp.array([-1.2, 1.0]), 100.0, method="bfgs", steps=run.nit - 1)
    assert earlier.jac_norm > 1e-6
    assert not earlier.success


def test_results_have_the_names_of_scipy():
    scipy = pytest.importorskip("scipy.optimize")
    start, a = np.array([-1.2, 1.0, 0.7]), 10.0
    run = rv.minimise(rosenbrock, jnp.asarray(start), a, tol=1e-7)
    theirs = scipy.minimize(lambda x: float(rosenbrock(jnp.asarray(x), a)), start, method="BFGS", tol=1e-7)
    np.testing.assert_allclose(run.x, theirs.x, atol=1e-4)
    np.testing.assert_allclose(run.fun, rosenbrock(run.x, a), rtol=1e-12)
    np.testing.assert_allclose(run.jac, jax.grad(rosenbrock)(run.x, a), rtol=1e-6)
    last = run.history.rows[-1]
    assert (run.nit, run.nfev, run.njev) == (last["step"], last["evaluations"], last["gradients"])
    assert run.nit <= run.nfev
    assert (run.success, run.status, run.message) == (True, rv.Stop.CONVERGED.code, rv.Stop.CONVERGED.value)


@pytest.mark.parametrize("which", ["gtol", "ftol", "xtol"])
@pytest.mark.parametrize("method", ["lbfgs", "levenberg_marquardt"])
def test_each_tolerance_by_itself(which, method):
    """Linear residuals with a minimum that is not zero, so that no tolerance is met by accident."""
    residuals = lambda x, y: jnp.concatenate([jnp.exp(x) - y, x])
    run = rv.least_squares(residuals, jnp.zeros(2), jnp.array([2.0, 5.0]), method=method, steps=200, **{which: 1e-9})
    assert run.stop is rv.Stop.CONVERGED
    assert 2 < run.nit < 60
    assert run.jac_norm < 1e-3


def test_a_failed_search_is_not_convergence():
    loss = lambda x, _: jnp.sum(x) + jnp.where(jnp.any(x != 0), 1.0, 0.0)  # falls where it is left, and is a pit
    run = rv.minimise(loss, jnp.zeros(1), method="gradient_descent", ftol=1e-2, xtol=1e-2, steps=50)
    assert run.stop is rv.Stop.SEARCH_FAILED
    assert not run.success


def test_bounds_as_in_scipy():
    """The minimum of the free problem is (3, −2, 1); x ≤ 1.5 and y ≥ −1 cut it off, z is free."""
    scipy = pytest.importorskip("scipy.optimize")
    loss = lambda p, _: (p["x"] - 3) ** 2 + (p["y"][0] + 2) ** 2 + (p["y"][1] - 1) ** 2
    start = {"x": jnp.array(0.0), "y": jnp.zeros(2)}
    low, high = {"x": None, "y": jnp.array([-1.0, -jnp.inf])}, {"x": 1.5, "y": None}
    run = rv.minimise(loss, start, bounds=(low, high), tol=1e-10)
    np.testing.assert_allclose([run.x["x"], *run.x["y"]], [1.5, -1.0, 1.0], atol=1e-3)
    flat = lambda x, _: jnp.sum((x - jnp.array([3.0, -2.0, 1.0])) ** 2)
    bounds = scipy.Bounds([-np.inf, -1.0, -np.inf], [1.5, np.inf, np.inf])
    run = rv.minimise(flat, jnp.zeros(3), bounds=bounds, method="L-BFGS-B", tol=1e-10)
    theirs = scipy.minimize(lambda x: float(flat(jnp.asarray(x), None)), np.zeros(3), method="L-BFGS-B", bounds=bounds)
    np.testing.assert_allclose(run.x, theirs.x, atol=1e-3)


def test_the_method_chosen_by_itself():
    run = rv.least_squares(lambda x, _: x - 2.0, jnp.zeros(3), tol=1e-9)
    assert "Damping" in run.summary()["method"]
    run = rv.minimise(lambda x, _: jnp.sum((x - 2.0) ** 2), jnp.zeros(3), tol=1e-9)
    assert run.summary()["method"] == "Broyden + Wolfe"


@pytest.mark.usefixtures("unchecked")
def test_arguments_that_cannot_be():
    loss, start = lambda x, _: jnp.sum(x**2), jnp.ones(2)
    with pytest.raises(ValueError, match=r"no method 'lbgfs'. Did you mean .*lbfgs"):
        rv.minimise(loss, start, method="lbgfs", steps=2)
    with pytest.raises(ValueError, match="either method= or optimizer="):
        rv.minimise(loss, start, method="bfgs", optimizer=rv.bfgs(), steps=2)
    with pytest.raises(ValueError, match=r"would never end. Give tol=1e-8"):
        rv.minimise(loss, start)
    with pytest.raises(ValueError, match="gtol is -1"):
        rv.minimise(loss, start, tol=-1.0)
    with pytest.raises(ValueError, match=r"start 1 at entry .* does not lie between 2 and inf"):
        rv.minimise(loss, start, bounds=(2.0, None), tol=1e-3)
    with pytest.raises(ValueError, match=r"expected \(low, high\)"):
        rv.minimise(loss, start, bounds=[(0, 1), (0, 1), (0, 1)], tol=1e-3)
    with pytest.raises(ValueError, match="does not fit the parameters"):
        rv.minimise(loss, {"x": start}, bounds=({"y": 0.0}, None), tol=1e-3)
