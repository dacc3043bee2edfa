"""Predicted decay against gradient descent itself; rates of histories whose law is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import ravine as rv

KEY = jax.random.key(0)


def descend(objective, theta, batch, rate, steps, every):
    def inner(theta, _):
        return theta - rate * objective.value_and_grad(theta, batch)[1], None

    def outer(theta, _):
        after = lax.scan(inner, theta, None, length=every)[0]
        return after, after

    thetas = jax.jit(lambda theta: lax.scan(outer, theta, None, length=steps // every)[1])(theta)
    return jnp.concatenate([theta[None], thetas])


@functools.cache
def wide():
    """A network 1 − 1024 − 1 in the scaling of the tangent kernel, and 1,000 steps of gradient descent."""
    problem = rv.problems.make("regression1d", points=64)
    objective, theta = rv.Objective.from_terms(problem.terms, problem.model(KEY))
    batch = problem.sampler.batch
    spectrum = rv.tangent_kernel(objective, theta, batch)
    rate = 0.25 * spectrum.largest_stable_step
    return objective, batch, spectrum, rate, descend(objective, theta, batch, rate, 1_000, 50)


def test_c2_modes_decay_as_predicted():
    objective, batch, spectrum, rate, thetas = wide()
    errors = rv.mode_errors(objective, thetas, batch, spectrum.vectors)
    predicted = rv.predicted_decay(spectrum.eigenvalues, rate, range(0, 1_001, 50)) * errors[0]
    # Within 15 % of where it began for each mode with 1 % of the loss or more, and the residual as a whole within 5 %.
    # Smaller modes are driven by the larger ones, through what the kernel drifts.
    shares = errors[0] ** 2 / np.sum(errors[0] ** 2)
    main = shares > 0.01
    assert shares[main].sum() > 0.9
    assert main.sum() > 6
    off = np.abs(errors - predicted)
    assert np.max(off[:, main] / np.abs(errors[0, main])) < 0.15
    assert np.max(np.linalg.norm(off, axis=1)) < 0.05 * np.linalg.norm(errors[0])
    drift = rv.kernel_drift(objective, thetas[0], thetas[-1], batch)
    assert 0 < drift.relative < 0.2
    assert drift.alignment > 0.98


def test_forecast_of_steps_is_that_of_gradient_descent():
    objective, batch, spectrum, rate, thetas = wide()
    residual = objective.linearise(thetas[0], batch).residual
    losses = [float(objective(theta, batch)) for theta in thetas]
    steps = rv.forecast_steps(spectrum, residual, losses[10], rate)
    assert steps == pytest.approx(500, rel=0.25)
    assert rv.forecast_steps(spectrum, residual, losses[0] * 1.01, rate) == 0
    assert rv.forecast_steps(spectrum, residual, losses[10], 1.01 * spectrum.largest_stable_step) == np.inf


def test_forecast_is_exact_for_a_linear_model():
    matrix = np.random.default_rng(0).normal(size=(8, 5))
    objective, theta = rv.Objective.from_residuals(lambda x, _: jnp.asarray(matrix) @ x, jnp.ones(5))
    spectrum = rv.tangent_kernel(objective, theta, None)
    rate = 0.3 * spectrum.largest_stable_step
    thetas = descend(objective, theta, None, rate, 60, 1)
    losses = np.asarray([float(objective(at, None)) for at in thetas])
    residual = objective.linearise(theta, None).residual
    for k in (1, 2, 7, 60):
        assert rv.forecast_steps(spectrum, residual, losses[k], rate) == k
    errors = rv.mode_errors(objective, thetas, None, spectrum.vectors)
    predicted = rv.predicted_decay(spectrum.eigenvalues, rate, range(61)) * errors[0]
    np.testing.assert_allclose(errors, predicted, atol=1e-12)
    assert rv.kernel_drift(objective, theta, thetas[-1], None).relative < 1e-14
    # What no mode reaches stays: here a part outside the range of the matrix.
    beyond = residual + np.linalg.svd(matrix)[0][:, -1]
    assert rv.forecast_steps(spectrum, beyond, 0.49, rate) == np.inf
    assert 0 < rv.forecast_steps(spectrum, beyond, 0.51, rate) < np.inf


def test_drift_of_a_scaled_kernel():
    objective, theta = rv.Objective.from_residuals(lambda x, _: jnp.exp(x), jnp.zeros(3))
    drift = rv.kernel_drift(objective, theta, theta + np.log(2.0), None)
    assert (drift.relative, drift.alignment) == pytest.approx((3.0, 1.0))


K = np.arange(400.0)
NOISE = np.random.default_rng(0).normal(size=400)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize(
    "kind, rate, values",
    [
        ("linear", 0.95, 7 * 0.95**K),
        ("linear", 0.99, 7 * 0.99**K),
        ("sublinear", 1.0, 3 / (K + 1)),
        ("sublinear", 2.0, 3 / (K + 10) ** 2),
        ("superlinear", 1.02, np.exp(-0.1 * 1.02 ** K[:300])),
    ],
)
def test_laws_are_told_apart(kind, rate, values, noise):
    history = values * np.exp(noise * NOISE[: values.size])
    found = rv.convergence_rate(history, tail=1.0)
    assert found.kind == kind
    if noise and kind == "sublinear":
        assert found.rate == pytest.approx(rate, rel=0.2)
    else:
        assert found.rate == pytest.approx(rate, abs=2e-3)
    if not noise:
        half = values[: values.size // 2]
        target = values[values.size * 3 // 4]
        assert rv.time_to_target(half, target, tail=1.0) == pytest.approx(values.size * 3 // 4, rel=0.01)
        np.testing.assert_allclose(found(np.arange(values.size)), values, rtol=1e-2)


def test_newton_is_quadratic_and_gradient_descent_linear():
    x, values = 3.0, []
    for _ in range(6):  # the seventh is rounding
        values.append(abs(x - np.sqrt(2)))
        x = x - (x * x - 2) / (2 * x)
    found = rv.convergence_rate(np.asarray(values), tail=1.0)
    assert found.kind == "superlinear"
    assert found.rate == pytest.approx(2, rel=0.1)
    descent = np.asarray([np.sum(np.asarray([0.5, 0.9]) ** (2 * k)) for k in range(100)])
    found = rv.convergence_rate(descent)
    assert found.kind == "linear"
    assert found.rate == pytest.approx(0.81, rel=1e-6)


def test_targets_met_missed_and_never():
    assert rv.time_to_target(0.5 ** K[:20], 0.5**4.5) == 5
    assert rv.time_to_target(0.5 ** K[:20], 0.5**4.5, steps=10 * K[:20]) == 50
    assert rv.time_to_target(0.5 ** K[:20], 0.5**25, steps=10 * K[:20]) == pytest.approx(250)
    flat = np.exp(0.1 * NOISE)
    assert rv.convergence_rate(flat).kind == "stalled"
    assert rv.time_to_target(flat, 1e-3) == np.inf
    with pytest.raises(ValueError, match="a rate needs four"):
        rv.convergence_rate(np.asarray([1.0, 0.5]))
