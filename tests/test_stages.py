"""Multi-stage training: what is frozen stays, what is added counts, and digits are gained."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.problems.poisson1d import interior, zero


def correction(key):
    """A larger network that vanishes at the ends, with higher frequencies."""
    network = rv.models.MLP(1, "scalar", width=12, depth=2, activation=jnp.sin, key=key)
    scaled = rv.models.Compose(rv.models.Scale((0.0,), (1.0,), span=(10.0,)), network)
    return rv.models.Constrained(scaled, zero, interior)


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_frozen_is_the_model_without_parameters(dtype):
    model = jax.tree.map(lambda leaf: leaf.astype(dtype), cases.network())
    frozen, z = rv.models.Frozen(model), jnp.asarray([0.3, -0.2], dtype)
    assert frozen(z) == model(z)
    assert frozen(z).dtype == dtype
    assert not jax.tree.leaves(eqx.filter(frozen, eqx.is_inexact_array))
    curve = (jnp.ones(2, dtype), jnp.zeros(2, dtype))
    for a, b in zip(
        jax.tree.leaves(rv.taylor(frozen, z, (curve,))), jax.tree.leaves(rv.taylor(model, z, (curve,))), strict=True
    ):
        assert a == b


def test_staged_is_the_sum_and_its_parameters_are_those_of_the_new_network():
    first, second = cases.network(), cases.network(width=4)
    staged, z = rv.models.Staged(first, second, scale=0.25), jnp.asarray([0.3, -0.2])
    np.testing.assert_allclose(staged(z), first(z) + 0.25 * second(z), rtol=1e-15)
    u_x, u_yy = rv.partials(staged, z, 0, (1, 1))
    a, b = (rv.partials(model, z, 0, (1, 1)) for model in (first, second))
    np.testing.assert_allclose([u_x, u_yy], [a[0] + 0.25 * b[0], a[1] + 0.25 * b[1]], rtol=1e-13)
    assert jax.tree.leaves(eqx.filter(staged, eqx.is_inexact_array)) == jax.tree.leaves(second)
    with pytest.raises(ValueError, match="scale is 0"):
        rv.models.Staged(first, second, scale=0.0)


def test_scale_is_found_from_the_residual():
    """For −u″ = f and a model whose error is exactly ε times the network that is drawn, ε comes back."""
    problem = rv.problems.make("poisson1d", points=40)
    network = correction(jax.random.split(cases.KEY)[0])
    solution = lambda z: jnp.sin(jnp.pi * z[0])
    model = rv.models.Staged(solution, network, scale=3e-5)
    second = rv.problems.next_stage(problem, model, correction, key=cases.KEY)
    assert second.model(cases.KEY).scale == pytest.approx(3e-5, rel=1e-6)
    assert float(second.terms[0].weight) == pytest.approx(1 / 3e-5**2, rel=1e-6)
    with pytest.raises(ValueError, match="no scale"):
        rv.problems.next_stage(
            problem, model, lambda key: rv.models.Constrained(correction(key), zero, zero), key=cases.KEY
        )


def test_a_second_stage_gains_digits():
    """Poisson, a small network until it stalls; then one for the rest: an error 300 times smaller at least."""
    problem = rv.problems.make("poisson1d", k=2, points=150, width=6, depth=1)
    phase = rv.Phase(rv.levenberg_marquardt(acceleration=False), steps=50)
    first = rv.train(problem, phase, key=cases.KEY)
    second = rv.problems.next_stage(problem, first.model, correction, key=cases.KEY)
    run = rv.train(second, phase, key=cases.KEY)
    assert run.error < first.error / 300, (first.error, run.error)
    z = jnp.array([0.3])
    assert float(run.model.earlier(z)) == float(first.model(z))
