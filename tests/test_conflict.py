"""Terms that pull apart, noise of known size, samples that know nothing of each other."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv

KEY = jax.random.key(0)


def two_terms(weight: float = 1.0):
    """½‖x − a‖² and weight · ½‖x + a‖², a = (3, 4)."""
    a = jnp.array([3.0, 4.0])
    terms = [rv.Term("near", lambda x, _: x - a), rv.Term("far", lambda x, _: x + a, weight=weight)]
    objective, theta = rv.Objective.from_terms(terms, jnp.zeros(2))
    return objective, theta, {"near": jnp.zeros((1, 1)), "far": jnp.zeros((1, 1))}


def test_opposed_terms_cancel():
    objective, theta, batch = two_terms(weight=4.0)
    found = rv.conflict(objective, theta, batch)
    np.testing.assert_allclose([found.norms["near"], found.norms["far"]], [5.0, 20.0])
    np.testing.assert_allclose(found.cosines, [[1, -1], [-1, 1]])
    np.testing.assert_allclose(found.lost, 1 - 15 / 25)
    assert found.dominant == "far"
    np.testing.assert_allclose(found.ratio, 4.0)
    assert "against each other" in str(found)


def test_angles_turn_with_theta():
    """At x the gradients are x − a and x + a: orthogonal on the circle ‖x‖ = ‖a‖, by Thales."""
    objective, _, batch = two_terms()
    for angle in (0.3, 2.0):
        x = 5 * jnp.array([jnp.cos(angle), jnp.sin(angle)])
        np.testing.assert_allclose(rv.conflict(objective, x, batch).cosines[0, 1], 0, atol=1e-12)


def test_noise_of_a_mean():
    """φ = ½‖x − z‖² with z ~ N(0, S): gradients x − z, so that tr Σ = tr S and the signal is ‖x‖²."""
    scales, x, m = jnp.array([1.0, 2.0, 0.5]), jnp.array([0.4, -0.2, 0.1]), 20_000
    objective, _ = rv.Objective.from_terms([rv.Term("data", lambda x, z: x - z)], jnp.zeros(3))
    z = scales[None] * jax.random.normal(KEY, (m, 3))
    found = rv.gradient_noise(objective, x, {"data": z})
    trace = float(jnp.sum(scales**2))
    np.testing.assert_allclose(found.variance * m, trace, rtol=0.03)
    np.testing.assert_allclose(found.signal, float(x @ x), rtol=0.1)
    np.testing.assert_allclose(found.factor * m, trace / float(x @ x), rtol=0.1)  # the simple noise scale
    # Exactly: the sample covariance.
    np.testing.assert_allclose(found.variance * m, np.trace(np.cov(np.asarray(z).T)), rtol=1e-10)


def test_noise_predicts_the_spread_of_gradients():
    """Over 400 batches of 50 points, the variance of ∇L is what one batch predicts, terms and weights included."""
    terms = [
        rv.Term("a", lambda p, z: p[0] * z[0] - jnp.sin(z[0]), weight=3.0),
        rv.Term("b", lambda p, z: p[1] * p[0] + z[0] ** 2),
    ]
    objective, theta = rv.Objective.from_terms(terms, jnp.array([0.5, 1.5]))
    draw = lambda key, count: {
        name: jax.random.normal(k, (count, 1)) for name, k in zip("ab", jax.random.split(key), strict=True)
    }
    grads = jax.lax.map(lambda key: objective.value_and_grad(theta, draw(key, 50))[1], jax.random.split(KEY, 2000))
    measured = float(jnp.sum(jnp.var(grads, axis=0)))
    found = rv.gradient_noise(objective, theta, draw(jax.random.key(1), 20_000))
    np.testing.assert_allclose(found.variance * 20_000 / 50, measured, rtol=0.1)


def test_separable_samples():
    """Each sample has a parameter of its own: K is diagonal. All samples share one: every cosine is one."""
    own, theta = rv.Objective.from_terms([rv.Term("t", lambda x, i: x[i] - 1.0)], jnp.zeros(6))
    found = rv.separability(own, theta, {"t": jnp.arange(6)})
    assert (found.coupling, found.cosine) == (0.0, 0.0)
    assert "independent" in str(found)
    shared, theta = rv.Objective.from_terms([rv.Term("t", lambda x, i: x[0] - i)], jnp.zeros(6))
    found = rv.separability(shared, theta, {"t": jnp.arange(6.0)})
    np.testing.assert_allclose([found.coupling, found.cosine], [1 - 1 / 6, 1.0])


def test_differential_operators_couple_samples():
    """The same network: the residual of −u″ couples its points more than random directions do."""
    problem = rv.problems.make("poisson1d", points=64, width=16)
    objective, theta, sampler = problem.objective(KEY)
    found = rv.separability(objective, theta, sampler.init(KEY).batch)
    assert found.cosine > 3 * found.expected
    assert "coupled" in str(found)


def test_no_samples_no_noise():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones(2))
    with pytest.raises(ValueError, match="no independent samples"):
        rv.gradient_noise(objective, theta, None)
    terms, theta, batch = two_terms()
    assert np.isnan(rv.gradient_noise(terms, theta, batch).variance)  # one point has no spread
    assert dataclasses.is_dataclass(rv.conflict(terms, theta, batch))
