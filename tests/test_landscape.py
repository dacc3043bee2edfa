"""Slices of quadratics are parabolas; their Hessian's eigenvectors are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv

KEY = jax.random.key(0)
VALUES = np.array([100.0, 10.0, 1.0, -30.0, 0.1, 0.01])
ROTATION = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]


def quadratic():
    """½ xᵀQ diag(λ) Qᵀx + 1, at x ≠ 0."""
    matrix = jnp.asarray(ROTATION @ np.diag(VALUES) @ ROTATION.T)
    return rv.Objective.from_loss(lambda x, _: x @ matrix @ x / 2 + 1, jnp.zeros(6))


def test_eigenvectors_of_a_quadratic():
    objective, theta = quadratic()
    values, vectors = rv.top_eigenvectors(objective, theta, None, 3)
    np.testing.assert_allclose(values, [100, -30, 10], rtol=1e-6)
    for row, column in zip(vectors, (0, 3, 1), strict=True):
        np.testing.assert_allclose(abs(row @ ROTATION[:, column]), 1, rtol=1e-6)
    everything, _ = rv.top_eigenvectors(objective, theta, None, 6)
    np.testing.assert_allclose(np.sort(everything), np.sort(VALUES), rtol=1e-10, atol=1e-12)


def test_slices_along_the_hessian_are_parabolas():
    """L(θ + a d) = L ± a² L with d of length √(2L/|λ|): up along λ = 100, down along λ = −30."""
    objective, theta = quadratic()
    found = rv.landscape(objective, theta, None, "hessian", reach=0.5, resolution=5)
    a = found.steps
    np.testing.assert_allclose(found.values, 1 + a[:, None] ** 2 - a[None] ** 2, rtol=1e-5)
    np.testing.assert_allclose(found.curvature, [100, -30], rtol=1e-6)


def test_random_slices_of_a_quadratic():
    """Second differences are dᵀHd everywhere."""
    objective, _ = quadratic()
    theta = jnp.arange(1.0, 7.0)
    found = rv.landscape(objective, theta, None, dimensions=1, reach=1.0, resolution=9, key=KEY)
    d = found.directions[0]
    np.testing.assert_allclose(np.linalg.norm(d), np.linalg.norm(theta), rtol=1e-12)  # one vector: as long as θ
    h = found.steps[1] - found.steps[0]
    expected = d @ ROTATION @ np.diag(VALUES) @ ROTATION.T @ d
    np.testing.assert_allclose(np.diff(found.values, 2) / h**2, expected, rtol=1e-8)


def test_pictures_do_not_see_the_scale_of_units():
    """w₂ relu(w₁x): doubling w₁ and halving w₂ is the same function, and has the same slice."""

    def loss(p, _):
        return jnp.mean((jnp.maximum(jnp.linspace(-1, 1, 9)[:, None] * p["a"][None, :, 0], 0) @ p["b"][0] - 0.3) ** 2)

    p = {"a": jnp.array([[0.7], [-1.2]]), "b": jnp.array([[0.5, 1.5]])}
    q = {"a": 2 * p["a"], "b": p["b"] / 2}
    slices = []
    for one in (p, q):
        objective, theta = rv.Objective.from_loss(loss, one)
        slices.append(rv.landscape(objective, theta, None, resolution=7, key=KEY).values)
    np.testing.assert_allclose(slices[0], slices[1], rtol=1e-10)


def test_the_plane_of_a_trajectory():
    """A path in a plane: its plane holds all of it, and the loss on the track is the loss on the path."""
    objective, _ = quadratic()
    angle = np.linspace(0, 2, 15)
    plane = ROTATION[:, :2]
    path = jnp.asarray((np.stack([np.cos(angle), 2 * np.sin(angle)], axis=1) * (2 - angle[:, None])) @ plane.T)
    found = rv.landscape(objective, path[-1], None, "path", thetas=path, reach=1.0, resolution=5)
    np.testing.assert_allclose(found.kept, 1.0)
    again = np.asarray(path[-1]) + found.track @ found.directions
    np.testing.assert_allclose(again, path, atol=1e-12)
    np.testing.assert_allclose(np.abs(found.track).max(), 1.0)
    with pytest.raises(ValueError, match="needs thetas"):
        rv.landscape(objective, path[-1], None, "path")
    with pytest.raises(ValueError, match="at least three"):
        rv.trajectory_plane(path[:2])
