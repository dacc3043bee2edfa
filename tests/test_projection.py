"""Variable projection: the reduced problem, its optimum, and messages."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.projection import linear_leaves, project


def fit(width: int = 4):
    """Values of a function at points, by a small network."""
    x = jnp.linspace(-1, 1, 15)[:, None]
    model = rv.models.MLP(1, "scalar", width=width, depth=1, key=cases.KEY)
    objective, theta = rv.Objective.from_terms([rv.supervised("data", weight=3.0)], model)
    return objective, theta, {"data": (x, jnp.sin(3 * x[:, 0]))}


def test_projection_is_linear_least_squares():
    """The last layer against lstsq on the hidden features; the rest is not touched; twice is once."""
    objective, theta, batch = fit()
    chosen = linear_leaves(objective)
    found = objective.model(jax.jit(lambda at: project(objective, at, batch, chosen))(theta))
    before = objective.model(theta)
    x, y = batch["data"]
    hidden = np.tanh(np.asarray(x) @ np.asarray(before.weights[0]).T + np.asarray(before.biases[0]))
    exact = np.linalg.lstsq(np.column_stack([hidden, np.ones(len(x))]), np.asarray(y))[0]
    np.testing.assert_allclose(np.append(found.weights[1][0], found.biases[1]), exact, rtol=1e-6)
    np.testing.assert_array_equal(found.weights[0], before.weights[0])
    again = project(objective, objective.flatten(found), batch, chosen)
    np.testing.assert_allclose(again, objective.flatten(found), rtol=1e-5)


def equation(u, z):
    """Linear in u, with a lift around the network."""
    value, slope = rv.partials(u, z, (), 0)
    return slope + 2 * value - z[0] ** 2


@pytest.mark.parametrize("method", ["levenberg_marquardt", "ssbroyden", "gradient_descent", "adam", "spring"])
def test_inside_any_method_the_last_layer_stays_optimal(method):
    """After each step ∂L/∂c = 0; the loss is at most what the method reaches without it."""
    lift = lambda network: rv.models.Constrained(network, offset=lambda z: 1.0 + 0 * z[0], factor=lambda z: z[0])
    model = lift(rv.models.MLP(1, "scalar", width=4, depth=1, key=cases.KEY))
    objective, theta = rv.Objective.from_terms([rv.residual("ode", equation)], model)
    batch = {"ode": jnp.linspace(0, 1, 20)[:, None]}
    plain = cases.OPTIMIZERS[method]()
    thetas, infos = cases.walk(rv.variable_projection(plain), objective, theta, batch, 3)
    others, _ = cases.walk(plain, objective, theta, batch, 3)
    grad = objective.value_and_grad(jnp.asarray(thetas[-1]), batch)[1]
    layer = jax.grad(lambda c: objective(jnp.asarray(thetas[-1]).at[-5:].set(c), batch))(jnp.asarray(thetas[-1][-5:]))
    scale = np.linalg.norm(objective.value_and_grad(theta, batch)[1])
    assert np.linalg.norm(layer) < 1e-5 * scale
    assert np.linalg.norm(grad) > 1e-4 * np.linalg.norm(layer)
    assert float(objective(jnp.asarray(thetas[-1]), batch)) < float(objective(jnp.asarray(others[-1]), batch))
    counts = infos[-1].work.counts()
    assert counts["rows"] >= 20
    assert counts["rows"] % 20 == 0


def test_slope_along_the_bent_path_is_that_of_the_reduced_loss():
    """The envelope theorem, against finite differences of min_c L."""
    objective, theta, batch = fit()
    chosen = linear_leaves(objective)
    reduced = jax.jit(lambda at: objective(project(objective, at, batch, chosen), batch))
    here = project(objective, theta, batch, chosen)
    direction = jax.random.normal(cases.KEY, theta.shape)
    slope = jnp.dot(objective.value_and_grad(here, batch)[1], direction)
    step = 1e-5
    difference = (reduced(here + step * direction) - reduced(here - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-5)


def test_features_that_are_not_linear_in_the_last_layer_never_go_up():
    problem = rv.problems.make("burgers", points=30, width=4, depth=1, sampling="fixed")
    objective, theta, sampler = problem.objective(cases.KEY)
    batch = sampler.init(cases.KEY).batch
    chosen = linear_leaves(objective)
    both = jax.jit(lambda at: (objective(at, batch), objective(project(objective, at, batch, chosen), batch)))
    for factor in (1.0, 30.0):
        before, after = both(factor * theta)
        assert after <= before


def test_layers_are_found_or_named():
    class Net(eqx.Module):
        first: eqx.nn.Linear
        last: eqx.nn.Linear

        def __call__(self, z):
            return self.last(jnp.tanh(self.first(z)))[0]

    keys = jax.random.split(cases.KEY)
    net = Net(eqx.nn.Linear(1, 3, key=keys[0]), eqx.nn.Linear(3, 1, key=keys[1]))
    objective, _ = rv.Objective.from_terms([rv.supervised("data")], net)
    assert linear_leaves(objective) == (2, 3)
    assert linear_leaves(objective, lambda model: model.first.bias) == (1,)


def test_messages_for_what_cannot_be_projected():
    model = {"a": jnp.ones(2)}
    term = rv.Term("fit", lambda m, z: jnp.dot(m["a"], z))
    objective, theta = rv.Objective.from_terms([term], model)
    optimizer = rv.variable_projection(rv.levenberg_marquardt())
    batch = {"fit": jnp.eye(2)}
    with pytest.raises(ValueError, match=r"no linear layer.*where="):
        optimizer.step(objective, theta, optimizer.init(objective, theta), batch, key=cases.KEY)
    named = rv.variable_projection(rv.levenberg_marquardt(), where=lambda m: m["a"])
    thetas, _ = cases.walk(named, objective, theta, batch, 1)
    np.testing.assert_allclose(thetas[1], 0, atol=1e-10)
    term = rv.Term("fit", lambda m, z: jnp.dot(m["a"], z), lambda f, z: jnp.cosh(f))
    objective, theta = rv.Objective.from_terms([term], model)
    with pytest.raises(ValueError, match="½‖F‖²"):
        optimizer.step(objective, theta, optimizer.init(objective, theta), batch, key=cases.KEY)
