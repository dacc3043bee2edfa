"""Gradient methods: their formulas, and Optax seen through a flat vector."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
import ravine as rv


def loss(params, a):
    return jnp.sum((params["x"] - a) ** 2 * jnp.array([1.0, 4.0])) + jnp.cos(params["y"])


START = {"x": jnp.array([1.0, -2.0]), "y": jnp.array(0.5)}


@pytest.mark.parametrize("transformation", [
    optax.adam(0.1),
    optax.sgd(0.05, momentum=0.9, nesterov=True),
    optax.adamw(optax.cosine_decay_schedule(0.1, 10)),
    optax.chain(optax.clip_by_global_norm(0.5), optax.rmsprop(0.02)),
], ids=["adam", "nesterov", "schedule", "chain"])  # fmt: skip
def test_optax_steps_are_those_of_optax(transformation):
    objective, theta = rv.Objective.from_loss(loss, START)
    thetas, _ = cases.walk(rv.from_optax(transformation), objective, theta, 0.3, 6)
    params, state = START, transformation.init(START)
    for _ in range(6):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = transformation.update(jax.grad(loss)(params, 0.3), state, params)
            params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(thetas[-1], objective.flatten(params), rtol=1e-12)


def test_optax_line_search_gets_value_and_function():
    """A transformation that calls the loss itself: value, gradient and value_fn are passed on."""
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**4), jnp.array([2.0, -1.0]))
    transformation = optax.chain(
        optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=20, store_grad=False)
    )
    thetas, _ = cases.walk(rv.from_optax(transformation), objective, theta, None, 8)
    values = [np.sum(at**4) for at in thetas]
    assert (np.diff(values) < 0).all()


def test_masks_see_the_users_own_tree():
    objective, theta = rv.Objective.from_loss(loss, START)
    frozen = optax.masked(optax.set_to_zero(), {"x": True, "y": False})
    thetas, _ = cases.walk(rv.from_optax(optax.chain(optax.sgd(0.1), frozen)), objective, theta, 0.0, 2)
    np.testing.assert_array_equal(thetas[-1][:2], START["x"])
    assert thetas[-1][2] != 0.5


def test_gradient_descent_with_fixed_rate_is_the_formula():
    objective, theta, matrix = cases.quadratic([1.0, 3.0], rotation=4)
    thetas, _ = cases.walk(rv.gradient_descent(0.2), objective, theta, matrix, 3)
    x = np.zeros(2)
    for at in thetas[1:]:
        x = x - 0.2 * np.asarray(matrix) @ (x - 1)
        np.testing.assert_allclose(at, x, rtol=1e-12)


def test_gradient_descent_with_a_schedule():
    objective, theta, matrix = cases.quadratic([1.0, 3.0])
    _, infos = cases.walk(rv.gradient_descent(lambda k: 0.3 / (1.0 + k.astype(float))), objective, theta, matrix, 3)
    np.testing.assert_allclose([float(info.t) for info in infos], [0.3, 0.15, 0.1])


def test_mixed_precision_leaves_keep_their_dtype():
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64)}
    loss = lambda p, _: jnp.sum(p["a"].astype(jnp.float64) ** 2) + jnp.sum(p["b"] ** 2)
    objective, theta = rv.Objective.from_loss(loss, params)
    thetas, _ = cases.walk(rv.adam(0.1), objective, theta, None, 3)
    model = objective.model(jnp.asarray(thetas[-1]))
    assert (model["a"].dtype, model["b"].dtype) == (jnp.float32, jnp.float64)
    assert eqx.filter_jit(objective)(jnp.asarray(thetas[-1]), None) < objective(theta, None)
