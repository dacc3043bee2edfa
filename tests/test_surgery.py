"""Gradient surgery: the rules against their definitions, and what they do to a step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

GRADS = np.random.default_rng(3).normal(size=(3, 7))
GRADS[1] -= 2 * GRADS[0]


def pcgrad(grads, orders):
    """Algorithm 1 of the paper, word by word, with the orders given."""
    changed = []
    for number, g in enumerate(grads):
        g = g.copy()
        for other in orders[number]:
            if other != number and g @ grads[other] < 0:
                g -= (g @ grads[other]) / (grads[other] @ grads[other]) * grads[other]
        changed.append(g)
    return np.sum(changed, axis=0)


def test_pcgrad_is_the_algorithm_in_one_of_its_orders():
    orders = list(itertools.permutations(range(3)))
    outcomes = [pcgrad(GRADS, chosen) for chosen in itertools.product(orders, repeat=3)]
    rule, seen = jax.jit(rv.projected), set()
    for seed in range(12):
        found = rule(jnp.asarray(GRADS), jax.random.key(seed))
        away = [np.abs(found - outcome).max() for outcome in outcomes]
        assert min(away) < 1e-12
        seen.add(int(np.argmin(away)))
    assert len(seen) > 1  # orders are random


def test_without_conflict_pcgrad_is_the_sum():
    grads = np.abs(GRADS)
    np.testing.assert_allclose(rv.projected(jnp.asarray(grads), cases.KEY), grads.sum(axis=0), rtol=1e-13)


def test_pcgrad_of_two_conflicts_with_neither():
    a, b = np.array([1.0, 0.0]), np.array([-2.0, 0.5])
    found = np.asarray(rv.projected(jnp.asarray(np.stack([a, b])), cases.KEY))
    np.testing.assert_allclose(found, pcgrad(np.stack([a, b]), [[0, 1]] * 2))
    assert found @ a >= 0
    assert found @ b >= 0


def test_equal_angles_are_equal_and_the_length_is_the_papers():
    found = np.asarray(rv.equal_angles(jnp.asarray(GRADS), cases.KEY))
    cosines = GRADS @ found / np.linalg.norm(GRADS, axis=1) / np.linalg.norm(found)
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-10)
    assert cosines[0] > 0
    units = GRADS / np.linalg.norm(GRADS, axis=1, keepdims=True)
    along = np.linalg.pinv(units) @ np.ones(3)
    along /= np.linalg.norm(along)
    np.testing.assert_allclose(found, (GRADS @ along).sum() * along, rtol=1e-10)


@pytest.mark.parametrize("rule", [rv.projected, rv.equal_angles])
def test_gradients_that_vanish_or_repeat(rule):
    zero = jnp.asarray(np.stack([GRADS[0], np.zeros(7)]))
    np.testing.assert_allclose(rule(zero, cases.KEY), GRADS[0], rtol=1e-12)
    twice = jnp.asarray(np.stack([GRADS[0], GRADS[0]]))
    np.testing.assert_allclose(rule(twice, cases.KEY), 2 * GRADS[0], rtol=1e-12)
    np.testing.assert_allclose(rule(twice[:1], cases.KEY), GRADS[0], rtol=1e-12)
    assert np.isfinite(rule(jnp.zeros((2, 7)), cases.KEY)).all()


@pytest.mark.parametrize("name", ["pcgrad", "conflict_free"])
def test_a_step_of_adam_on_what_the_rule_gives(name):
    """Adam's first step is the sign of its gradient; value and gradient of the objective are still told, at no cost."""
    case = cases.strong()
    objective, theta = case.objective()
    values, grads = objective.by_term(theta, case.batch)
    value, grad = objective.value_and_grad(theta, case.batch)
    np.testing.assert_allclose(jnp.sum(values), value, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(grads, axis=0), grad, rtol=1e-10)
    optimizer = rv.METHODS[name](1e-3)
    after, _, info = cases.step(optimizer, objective, theta, optimizer.init(objective, theta), case.batch)
    wanted = optimizer.direction.rule(grads, cases.KEY)
    np.testing.assert_allclose(after - theta, -1e-3 * np.sign(wanted), rtol=1e-4)
    assert float(info.grad_norm) == pytest.approx(float(jnp.linalg.norm(grad)), rel=1e-12)
    assert float(info.value) == pytest.approx(float(value), rel=1e-12)
    assert info.work.counts()["gradients"] == 1
