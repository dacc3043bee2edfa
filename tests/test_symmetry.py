"""Symmetries that hold by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv


def network(inputs, key=0):
    return rv.models.MLP(inputs, "scalar", width=7, depth=2, key=jax.random.key(key))


def test_odd_is_odd_and_its_derivatives_are_those_of_its_value():
    u = rv.models.Odd(network(2), axis=0)
    here, there = jnp.array([0.3, 0.8]), jnp.array([-0.3, 0.8])
    assert float(u(here)) == -float(u(there)) != 0.0
    plain = lambda z: (u.network(z) - u.network(z * jnp.array([-1.0, 1.0]))) / 2
    found = rv.partials(u, here, (), 0, 1, (0, 0), (1, 1))
    gradient, hessian = jax.grad(plain)(here), jax.hessian(plain)(here)
    expected = [plain(here), gradient[0], gradient[1], hessian[0, 0], hessian[1, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_cosines_alone_are_even():
    embedding = rv.models.Periodic(0, 2.0, harmonics=3, even=True)
    u = rv.models.Compose(embedding, network(4))
    assert float(u(jnp.array([0.4, 0.1]))) == float(u(jnp.array([-0.4, 0.1])))
    assert embedding(jnp.array([0.4, 0.1])).shape == (4,)


def test_burgers_and_allen_cahn_have_the_symmetry_of_their_references():
    for name, sign in (("burgers", -1), ("allen_cahn", 1)):
        problem = rv.problems.make(name, width=6)
        values = problem.reference.values
        np.testing.assert_allclose(values, sign * values[::-1], atol=1e-10)
        model = problem.model(jax.random.key(0))
        x = jnp.array([0.37, 0.6])
        assert float(model(x * jnp.array([-1.0, 1.0]))) == pytest.approx(sign * float(model(x)), abs=1e-14)


def test_a_model_may_hold_functions():
    """Plain functions among the parts of a model are no arrays, and no obstacle to counting rows."""
    problem = rv.problems.make("reaction", width=5, points=11)
    objective, theta, sampler = problem.objective(jax.random.key(0))
    assert objective.size(sampler.init(jax.random.key(1)).batch) == 11
    plan = rv.auto(seconds=5.0)(objective, theta, sampler.init(jax.random.key(1)).batch)
    assert [phase.name for phase in plan.phases] == ["adam", "ssbroyden", "levenberg_marquardt"]


def test_a_model_that_holds_functions_is_drawn_and_saved(tmp_path):
    from ravine import plots

    problem = rv.problems.make("reaction", width=4, points=16)
    run = rv.train(problem, rv.Phase(rv.adam(), steps=2, name="adam"), key=jax.random.key(0))
    plots.save(run, tmp_path / "figure.png")
    run.save(tmp_path / "run")
    assert np.array_equal(rv.load(tmp_path / "run").theta, run.theta)
