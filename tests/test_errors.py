"""Errors of known cause, norm, frequency and place."""

import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv

X = np.linspace(0, 1, 401)


def fit(targets):
    """½ mean (c₀ + c₁x − y)² on points (x, y)."""
    term = rv.Term("fit", lambda c, z: c[0] + c[1] * z[0] - z[1])
    objective, theta = rv.Objective.from_terms([term], jnp.zeros(2))
    x = np.linspace(-1, 1, 21)
    return objective, theta, {"fit": jnp.asarray(np.stack([x, targets(x)], axis=1))}, x


def test_the_split_of_a_linear_fit():
    """y = 1 + 2x + x²: lines leave x² − 1/3 (on the grid), which is the approximation error; the rest is reachable."""
    objective, theta, batch, x = fit(lambda x: 1 + 2 * x + x**2)
    found = rv.error_split(objective, theta, batch, batch)
    design = np.stack([np.ones_like(x), x], axis=1)
    y = np.asarray(batch["fit"][:, 1])
    rest = y - design @ np.linalg.lstsq(design, y)[0]
    np.testing.assert_allclose(found.approximation, np.mean(rest**2) / 2, rtol=1e-10)
    np.testing.assert_allclose(found.optimisation, np.mean(y**2) / 2 - np.mean(rest**2) / 2, rtol=1e-10)
    np.testing.assert_allclose(found.sampling, 0, atol=1e-14)
    np.testing.assert_allclose(found.independent, np.mean(y**2) / 2, rtol=1e-12)
    assert found.largest == "optimisation"


def test_the_split_at_the_optimum_and_on_other_points():
    objective, _, batch, x = fit(lambda x: 1 + 2 * x + x**2)
    best = jnp.asarray([1 + np.mean(x**2), 2.0])
    found = rv.error_split(objective, best, batch, batch)
    np.testing.assert_allclose(found.optimisation, 0, atol=1e-14)
    assert found.largest == "approximation"
    other = {"fit": jnp.asarray([[3.0, 0.0]])}
    found = rv.error_split(objective, best, batch, other)
    np.testing.assert_allclose(found.independent, (float(best[0]) + 6) ** 2 / 2, rtol=1e-12)
    assert found.largest == "sampling"


def test_too_many_rows():
    objective, theta, batch, _ = fit(lambda x: x)
    many = {"fit": jnp.tile(batch["fit"], (100, 1))}
    with pytest.raises(ValueError, match="2,100 rows"):
        rv.error_split(objective, theta, many, many)


def test_norms_of_a_sine_error():
    """u* = sin πx, error ε sin 8πx: L2 ratio ε, slopes 8ε, maximum ε."""
    reference = rv.problems.GridReference((X,), np.sin(np.pi * X), ("x",))
    found = rv.error_norms(lambda z: jnp.sin(jnp.pi * z[0]) + 1e-3 * jnp.sin(8 * jnp.pi * z[0]), reference)
    np.testing.assert_allclose([found.l2, found.maximum], 1e-3, rtol=1e-3)
    np.testing.assert_allclose(found.seminorm, 8e-3, rtol=2e-3)
    h1 = 1e-3 * np.sqrt((1 + 64 * np.pi**2) / (1 + np.pi**2))
    np.testing.assert_allclose(found.h1, h1, rtol=2e-3)


def test_bands_find_the_frequency():
    """cos 2π·5x in the error: five waves, the band [4, 8); of the reference: one wave, [1, 2)."""
    reference = rv.problems.GridReference((X,), np.cos(2 * np.pi * X), ("x",))
    found = rv.error_bands(lambda z: jnp.cos(2 * jnp.pi * z[0]) + 0.01 * jnp.cos(10 * jnp.pi * z[0]), reference)
    band = int(np.argmax(found.share))
    assert (found.edges[band], found.edges[band + 1]) == (4, 8)
    assert found.share[band] > 0.99
    assert found.edges[int(np.argmax(found.exact))] == 1
    np.testing.assert_allclose(found.share.sum(), 1)


def test_bands_in_two_dimensions():
    """cos 3πx cos 4πy has √((3/2)² + 2²) = 2.5 waves."""
    x, y = np.linspace(0, 1, 65), np.linspace(0, 2, 33)
    reference = rv.problems.GridReference((x, y), np.ones((65, 33)), ("x", "y"))
    model = lambda z: 1 + jnp.cos(3 * jnp.pi * z[0]) * jnp.cos(4 * jnp.pi * z[1] / 2)
    found = rv.error_bands(model, reference)
    assert found.edges[int(np.argmax(found.share))] == 2
    crooked = rv.problems.GridReference((x**2,), np.ones(65), ("x",))
    with pytest.raises(ValueError, match="not uniform along x"):
        rv.error_bands(lambda z: z[0], crooked)


def test_missing_points():
    """The residual is a spike at 0.7 that no training point sees."""
    term = rv.Term("pde", lambda c, z: c[0] * (0.01 + 10 * jnp.exp(-((z[0] - 0.7) ** 2) / 1e-4)))
    objective, theta = rv.Objective.from_terms([term], jnp.ones(1))
    x = np.linspace(0, 1, 200)
    seen = x[np.abs(x - 0.7) > 0.05]
    found = rv.residual_map(
        objective, theta, {"pde": jnp.asarray(seen[:, None])}, {"pde": jnp.asarray(x[:, None])}, "pde"
    )
    assert len(found.missing) > 0
    assert np.all(np.abs(found.missing - 0.7) < 0.05)
    assert found.share > 0.99
    np.testing.assert_allclose(found.missing[0], 0.7, atol=0.003)  # the worst first
    whole = rv.residual_map(
        objective, theta, {"pde": jnp.asarray(x[:, None])}, {"pde": jnp.asarray(seen[:, None])}, "pde"
    )
    assert len(whole.missing) == 0
    with pytest.raises(KeyError, match="no term 'bc'"):
        rv.residual_map(objective, theta, {}, {}, "bc")
