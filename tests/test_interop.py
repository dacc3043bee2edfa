"""Optimizers in Optax's loops, and directions by groups."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cases
import ravine as rv

CASE = cases.OBJECTIVES["strong"]()
METHODS = {
    "adam": lambda: rv.adam(1e-2),
    "lbfgs": rv.lbfgs,
    "ssbroyden": rv.ssbroyden,
    "levenberg_marquardt": rv.levenberg_marquardt,
    "matrix_free_gauss_newton": rv.matrix_free_gauss_newton,
}


def loop(method, params, batch, steps):
    """A plain Optax loop."""

    @eqx.filter_jit
    def update(params, state):
        updates, state = method.update(None, state, params, batch=batch)
        return optax.apply_updates(params, updates), state

    state, seen = method.init(params), []
    for _ in range(steps):
        params, state = update(params, state)
        seen.append((params, state))
    return seen


@pytest.mark.parametrize("name", METHODS)
def test_an_optax_loop_makes_the_steps_of_the_optimizer(name):
    objective, theta = rv.Objective.from_terms(CASE.terms, CASE.model)
    optimizer = METHODS[name]()
    params = eqx.filter(CASE.model, eqx.is_inexact_array)
    seen = loop(rv.to_optax(optimizer, objective, key=cases.KEY), params, CASE.batch, 4)
    thetas, infos = cases.walk(optimizer, objective, theta, CASE.batch, 4)
    for (params, state), expected, info in zip(seen, thetas[1:], infos, strict=True):
        np.testing.assert_allclose(objective.flatten(params), expected, rtol=1e-6, atol=1e-9)
        # What a search evaluated is found again: not one gradient more than in our own loop.
        assert (state.info.work.evaluations, state.info.work.gradients) == (info.work.evaluations, info.work.gradients)
        np.testing.assert_allclose(state.info.value, info.value, rtol=1e-6)


def bowl(p, a):
    x = jnp.concatenate([p["x"], p["y"]])
    return jnp.dot(x - 1, a @ (x - 1)) / 2


def quadratic():
    """A quadratic function of two blocks of two, without a coupling between them."""
    a = jnp.array([[2.0, 0.3, 0, 0], [0.3, 1.0, 0, 0], [0, 0, 5.0, -1.0], [0, 0, -1.0, 3.0]])
    return {"x": jnp.zeros(2), "y": jnp.array([3.0, -1.0])}, a


@pytest.mark.parametrize("name", ["ssbroyden", "gradient_descent", "adam"])
def test_inside_scan_and_chain(name):
    params, a = quadratic()
    objective, theta = rv.Objective.from_loss(bowl, params)
    optimizer = METHODS.get(name, rv.METHODS[name])()
    half = optax.chain(rv.to_optax(optimizer, objective), optax.scale(0.5))

    def body(carry, _):
        params, state = carry
        updates, state = half.update(jax.grad(bowl)(params, a), state, params, batch=a)
        return (optax.apply_updates(params, updates), state), bowl(params, a)

    _, values = jax.lax.scan(body, (params, half.init(params)), length=30)
    assert (jnp.diff(values) < 0).all() or name == "adam"
    first, _, _ = cases.step(optimizer, objective, theta, optimizer.init(objective, theta), a)
    np.testing.assert_allclose(values[1], objective(theta + (first - theta) / 2, a), rtol=1e-12)


def test_bounded_parameters_in_an_optax_loop():
    params, a = quadratic()
    start = rv.bounded(params, lambda p: p["x"], -0.5, 2.0)
    objective, theta = rv.Objective.from_loss(bowl, start)
    seen = loop(rv.to_optax(rv.lbfgs(), objective), params, a, 4)
    thetas, _ = cases.walk(rv.lbfgs(), objective, theta, a, 4)
    for (found, _), expected in zip(seen, thetas[1:], strict=True):
        np.testing.assert_allclose(found["x"], objective.model(jnp.asarray(expected))["x"], rtol=1e-9)


@pytest.mark.usefixtures("unchecked")
def test_what_to_optax_refuses():
    params, a = quadratic()
    objective, _ = rv.Objective.from_loss(bowl, params)
    method = rv.to_optax(rv.lbfgs(), objective)
    state = method.init(params)
    with pytest.raises(ValueError, match=r"needs the parameters. Write update\(grads, state, params, batch=batch\)"):
        method.update(params, state, batch=a)
    with pytest.raises(ValueError, match="have the structure"):
        method.init({"x": params["x"]})


# ----------------------------------------------------------------------------------------------------------- groups

LABELS = {"x": "first", "y": "second"}


def grouped(first, second, search, labels=LABELS):
    return rv.Optimizer(rv.Grouped({"first": first, "second": second}, labels), search)


def test_separate_groups_are_separate_optimizers():
    """On a block-separable quadratic, with fixed rates, each block goes where its own optimizer takes it."""
    params, a = quadratic()
    objective, theta = rv.Objective.from_loss(bowl, params)
    kinds = {"x": rv.Transform(optax.adam(0.1)), "y": rv.Transform(optax.sgd(0.05, momentum=0.9))}
    thetas, _ = cases.walk(grouped(kinds["x"], kinds["y"], rv.Fixed(1.0)), objective, theta, a, 5)
    for name, part in (("x", slice(0, 2)), ("y", slice(2, 4))):
        matrix = a[part, part]
        own, start = rv.Objective.from_loss(cases.bowl, params[name])
        alone, _ = cases.walk(rv.Optimizer(kinds[name], rv.Fixed(1.0)), own, start, matrix, 5)
        np.testing.assert_allclose(np.stack(thetas)[:, part], np.stack(alone), rtol=1e-12, atol=1e-14)
    both = rv.from_optax(optax.multi_transform({"first": optax.adam(0.1), "second": optax.sgd(0.05, 0.9)}, LABELS))
    expected, _ = cases.walk(both, objective, theta, a, 5)
    np.testing.assert_allclose(np.stack(thetas), np.stack(expected), rtol=1e-12, atol=1e-14)


def test_groups_of_quasi_newton_methods_share_one_search():
    params, a = quadratic()
    objective, theta = rv.Objective.from_loss(bowl, params)
    optimizer = grouped(rv.bfgs().direction, rv.LBFGS(), rv.Wolfe(), lambda params: {"x": "first", "y": "second"})
    thetas, infos = cases.walk(optimizer, objective, theta, a, 30, stop=lambda _, info: info.grad_norm < 1e-8)
    assert infos[-1].grad_norm < 1e-8
    np.testing.assert_allclose(thetas[-1], 1, atol=1e-8)
    assert len(infos) < 25


def test_a_group_of_all_parameters_is_the_direction_itself():
    for direction, search in ((rv.bfgs().direction, rv.Wolfe()), (rv.GaussNewton(), rv.Damping())):
        objective, theta = rv.Objective.from_terms(CASE.terms, CASE.model)
        one = rv.Optimizer(rv.Grouped({"all": direction}, "all"), search)
        found, infos = cases.walk(one, objective, theta, CASE.batch, 3)
        expected, known = cases.walk(rv.Optimizer(direction, search), objective, theta, CASE.batch, 3)
        np.testing.assert_allclose(np.stack(found), np.stack(expected), rtol=1e-10, atol=1e-12)
        assert [i.work.counts() for i in infos] == [i.work.counts() for i in known]


def test_frozen_groups_stay_and_the_others_are_solved_for():
    """Gauss–Newton on one group is Gauss–Newton on the problem in which the other one is frozen."""
    objective, theta = rv.Objective.from_terms(CASE.terms, CASE.model)
    inner = lambda model: jax.tree.map(lambda leaf: "still", eqx.filter(model, lambda _: True))
    labels = lambda params: eqx.tree_at(lambda m: (m.weights[0],), inner(params), ("moving",))
    directions = {"moving": rv.GaussNewton(), "still": None}
    thetas, infos = cases.walk(
        rv.Optimizer(rv.Grouped(directions, labels), rv.Damping()), objective, theta, CASE.batch, 3
    )
    rest = rv.frozen(CASE.model, lambda m: (m.weights[1], m.biases))
    own, start = rv.Objective.from_terms(CASE.terms, rest)
    alone, _ = cases.walk(rv.levenberg_marquardt(), own, start, CASE.batch, 3)
    size = start.size
    np.testing.assert_allclose(np.stack(thetas)[:, :size], np.stack(alone), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(thetas[-1][size:], theta[size:])
    assert infos[-1].value < infos[0].value


@pytest.mark.usefixtures("unchecked")
def test_what_groups_refuse():
    params, _ = quadratic()
    objective, theta = rv.Objective.from_loss(bowl, params)
    for labels in ({"x": "first", "y": "third"}, "first"):
        with pytest.raises(ValueError, match="a direction for each label, and parameters for each direction"):
            grouped(rv.Steepest(), rv.Steepest(), rv.Fixed(0.1), labels).init(objective, theta)
    objective, theta = rv.Objective.from_terms(CASE.terms, CASE.model)
    labels = lambda p: eqx.tree_at(lambda m: m.weights[0], jax.tree.map(lambda _: "first", p), "second")
    mixed = grouped(rv.Steepest(), rv.GaussNewton(), rv.Damping(), labels)
    with pytest.raises(ValueError, match="no t serves all"):
        cases.walk(mixed, objective, theta, CASE.batch, 1)
