"""Terms against the mathematics they state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

BOX = rv.Box((0.0, -1.0), (2.0, 1.0), time=False)


def batch_of(terms, sampler):
    return sampler.bind({term.name: term.region for term in terms}, np.dtype(float)).init(cases.KEY).batch


# ---------------------------------------------------------------------------------------------------------- energies


def dirichlet(features, z):
    """½|∇u|² − sin(x) u."""
    value, slope = features
    return jnp.vdot(slope, slope) / 2 - jnp.sin(z[0]) * value


def test_gauss_newton_of_an_energy_is_the_gramian_of_its_norm():
    """∫ ∇(∂u/∂θᵢ)·∇(∂u/∂θⱼ), assembled by hand from dense derivatives."""
    term, model = rv.energy("energy", dirichlet), cases.network()
    batch = batch_of((term,), rv.Gauss(BOX, energy=25))
    objective, theta = rv.Objective.from_terms((term,), model)
    gram = jax.jit(lambda at: objective.linearise(at, batch).gram())(theta)
    slopes = jax.vmap(jax.jacrev(lambda at, z: jax.jacfwd(objective.model(at))(z)), (None, 0))
    found = jax.jit(slopes)(theta, batch["energy"].points)
    np.testing.assert_allclose(gram, jnp.einsum("m,mdi,mdj->ij", batch["energy"].weights, found, found), atol=1e-12)


@pytest.mark.parametrize("name", ["ritz1d"])
def test_the_solution_is_stationary_and_minimal(name):
    """E(u + s v) has slope zero at s = 0 for every v that the model allows, and grows with s².

    The v are smooth and vanish where conditions are imposed.
    """
    problem, exact, vary = RITZ[name]()
    batch = batch_of(problem.terms, problem.sampler)
    for number in range(3):
        model = lambda s, number=number: lambda z: exact(z) + s * vary(z, number + 1)
        point = jax.vmap(lambda s, z: problem.terms[0].loss(problem.terms[0].features(model(s), z), z), (None, 0))
        energy = lambda s, point=point: jnp.dot(batch["energy"].weights, point(s, batch["energy"].points))
        slope, curvature = jax.jit(lambda energy=energy: (jax.grad(energy)(0.0), jax.grad(jax.grad(energy))(0.0)))()
        assert abs(float(slope)) < 1e-11
        assert float(curvature) > 0.1


RITZ = {
    "ritz1d": lambda: (
        rv.problems.make("ritz1d", points=40),
        lambda z: jnp.cos(jnp.pi * z[0]),
        lambda z, k: jnp.sin(k * z[0]) + jnp.exp(z[0]),
    ),
}


def test_ritz_is_solved():
    """The energy alone leads to the solution, natural conditions included."""
    problem = rv.problems.make("ritz1d", points=40, width=10, depth=1)
    run = rv.train(problem, rv.Phase(rv.ssbroyden(), steps=800), key=cases.KEY)
    assert run.error < 1e-4, run.summary()


def test_an_energy_that_is_no_number():
    term = rv.energy("energy", lambda F, z: F[1] ** 2)
    objective, theta = rv.Objective.from_terms((term,), cases.network())
    with pytest.raises(ValueError, match=r"energy 'energy' must be one number at a point.*shape \(2,\)"):
        objective(theta, {"energy": cases.points(1, 4)})
