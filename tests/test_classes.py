"""Classical machine learning: cross-entropy, digits, moons, and a wide network whose kernel tells how it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.problems import regression1d as regression
from ravine.problems.two_moons import moons


def test_softmax_against_the_definition():
    """Value −log p, gradient p − y, Hessian diag(p) − ppᵀ; class numbers are one-hot vectors; no overflow."""
    z, y = jnp.array([0.3, -1.2, 2.0]), jnp.array([0.0, 1.0, 0.0])
    p = np.exp(z) / np.exp(z).sum()
    assert float(rv.softmax(z, y)) == pytest.approx(-np.log(p[1]))
    assert float(rv.softmax(z, jnp.array(1))) == pytest.approx(-np.log(p[1]))
    np.testing.assert_allclose(jax.grad(rv.softmax)(z, jnp.array(1)), p - y, rtol=1e-12)
    np.testing.assert_allclose(jax.hessian(rv.softmax)(z, y), np.diag(p) - np.outer(p, p), rtol=1e-12, atol=1e-15)
    mixed = jnp.array([0.2, 0.5, 0.3])
    assert float(rv.softmax(z, mixed)) == pytest.approx(-np.dot(mixed, np.log(p)))
    assert float(rv.softmax(1e5 * z, jnp.array(2))) == 0.0
    with pytest.raises(ValueError, match=r"one probability a class; got an array of shape \(2,\)"):
        rv.softmax(z, jnp.array([0.5, 0.5]))


def test_class_reference_counts_mistakes():
    x, labels = np.array([[1.0], [2.0], [-3.0], [-4.0]]), np.array([1, 0, 0, 0])
    reference = rv.ClassReference(x, labels)
    assert float(reference.error(lambda x: x[0], jnp.float64)) == 0.25
    assert float(reference.error(lambda x: jnp.stack([-x[0], x[0]]), jnp.float64)) == 0.25
    with pytest.raises(ValueError, match="one whole number a point"):
        rv.ClassReference(x, labels.astype(float))


def test_digits_are_apart_and_learnt():
    """No test image is among those of training; SGD is right on 95 in 100 after a few epochs."""
    problem = rv.problems.make("digits", width=32)
    data, labels = problem.sampler.data["labels"]
    test = problem.reference
    assert data.shape == (1437, 64)
    assert test.points.shape == (360, 64)
    assert float(data.max()) == 1.0
    seen = {row.tobytes() for row in np.asarray(data)}
    assert not any(row.tobytes() in seen for row in test.points)
    assert np.bincount(np.concatenate([labels, test.labels])).min() > 170
    run = rv.train(problem, rv.Phase(rv.sgd(0.1, momentum=0.9), steps=500), key=cases.KEY)
    assert run.error < 0.05


def test_moons_overlap_a_little():
    """The nearest half circle is the wrong one for about one point in a hundred."""
    points, labels = moons(4000, 3)
    angle = np.linspace(0, np.pi, 400)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1) - [0.5, 0.25]
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1) - [0.5, 0.25]
    near = [np.linalg.norm(points[:, None] - arc, axis=2).min(axis=1) for arc in (upper, lower)]
    wrong = np.mean((near[1] < near[0]) != labels)
    assert 0.001 < wrong < 0.02


def test_modes_of_the_kernel_decay_as_linear_theory_says():
    """Under gradient descent the residual in the kernel's eigenbasis falls as (1 − ηλ)ᵏ, for 1,000 steps."""
    problem = rv.problems.make("regression1d", points=32)
    objective, theta, sampler = problem.objective(cases.KEY)
    batch = sampler.init(cases.KEY).batch

    @jax.jit
    def look(theta):
        lin = objective.linearise(theta, batch)
        return lin.kernel(), lin.residual

    kernel, start = map(np.asarray, look(theta))
    values, vectors = np.linalg.eigh(kernel)
    rate = 0.2 / values[-1]

    @jax.jit
    def descend(theta):
        return jax.lax.fori_loop(0, 1000, lambda _, at: at - rate * objective.value_and_grad(at, batch)[1], theta)

    end = np.asarray(look(descend(theta))[1])
    predicted = (1 - rate * values) ** 1000 * (vectors.T @ start)
    found, size = vectors.T @ end, np.linalg.norm(start)
    assert np.linalg.norm(found - predicted) < 0.1 * size
    assert np.linalg.norm(predicted) < 0.5 * size  # many modes are learnt by then,
    assert np.abs(predicted).max() > 0.02 * size  # and some are not


def test_wide_network_has_a_kernel_that_does_not_grow_with_the_width():
    x = jnp.linspace(0, 1, 5)[:, None]
    traces = []
    for width in (512, 8192):
        objective, theta = rv.Objective.from_terms((rv.supervised("data"),), regression.Wide(width, key=cases.KEY))
        traces.append(float(jnp.trace(objective.linearise(theta, {"data": (x, jnp.zeros(5))}).kernel())))
    assert traces[0] == pytest.approx(traces[1], rel=0.2)
