"""Budgets, plans, and what ends a phase."""

import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv

pytestmark = pytest.mark.usefixtures("unchecked")


def phase(**limits):
    return rv.Phase(rv.adam(1e-2), **limits)


@pytest.mark.parametrize("steps", [0, -3, 2.5, 2**31, True])
def test_step_budgets_are_whole_and_positive(steps):
    with pytest.raises(ValueError, match="step budget must be a whole number"):
        phase(steps=steps)


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan"), 1e9])
def test_time_budgets_are_positive_and_finite(seconds):
    with pytest.raises(ValueError, match="time budget must be a positive number of seconds"):
        phase(seconds=seconds)
    with pytest.raises(ValueError, match="time budget"):
        rv.Plan((phase(steps=1),), seconds)


def test_records_lie_as_far_apart_as_told():
    """Every so many steps, at the start and at the end; which steps are made does not depend on it."""
    problem = cases.PROBLEMS["fit"]()
    often, seldom = (rv.train(problem, phase(steps=25, every=every), key=cases.KEY) for every in (None, 10))
    assert seldom.history["step"].tolist() == [0, 10, 20, 25]
    assert often.history["step"].tolist() == list(range(26))
    np.testing.assert_array_equal(often.position.carry.theta, seldom.position.carry.theta)
    for wrong in ({"steps": 5, "every": 0}, {"seconds": 5.0, "every": 3}):
        with pytest.raises(ValueError, match="counts the steps between two records"):
            phase(**wrong)


def test_infinite_step_budget():
    with pytest.raises(ValueError, match="step budget"):
        phase(steps=float("inf"))


def test_a_phase_needs_an_optimizer_that_was_made():
    with pytest.raises(TypeError, match="forget to call the preset"):
        rv.Phase(rv.adam, steps=3)
    with pytest.raises(TypeError, match="needs an optimizer such as"):
        rv.Phase("adam", steps=3)


def test_a_plan_needs_an_end():
    with pytest.raises(ValueError, match="would never end"):
        rv.Plan((phase(),))
    rv.Plan((phase(),), seconds=1.0)


def test_a_plan_needs_a_phase():
    with pytest.raises(ValueError, match="at least one phase"):
        rv.Plan(())


def rows(values, key="loss"):
    return [{"seconds": float(s), key: value} for s, value in enumerate(values)]


def test_stalled_compares_before_and_since():
    until = rv.stalled(seconds=3.0, factor=2.0)
    assert not until([])
    assert not until(rows([1.0, 1.0, 1.0]))  # too early to tell
    assert until(rows([1.0] * 5))
    assert not until(rows([1.0, 0.9, 0.8, 0.7, 0.3]))  # fell by more than two since second 1
    assert until(rows([1.0, 0.9, 0.8, 0.7, 0.6]))
    assert not until(rows([8.0, 4.0, 2.0, 1.0, 0.5, 0.25]))
    assert not rv.stalled(seconds=3.0, factor=2.0, key="error")(rows([8.0, 4.0, 2.0, 1.0, 0.5], "error"))


def test_stalled_takes_nan_for_a_stall():
    assert rv.stalled(seconds=2.0, factor=2.0)(rows([1.0, 1.0, 1.0, float("nan"), float("nan")]))


def test_below():
    assert not rv.below(0.1)([])
    assert not rv.below(0.1)([{"loss": 0.2}])
    assert rv.below(0.1)([{"loss": 0.1}])
    assert rv.below(0.1, key="error")([{"loss": 1.0, "error": 0.05}])


def quick(phases, **options):
    objective = lambda x, _: jnp.sum((x - 3.0) ** 2)
    return objective, phases, options


def test_phases_follow_each_other_and_share_parameters():
    """Each phase starts where the last one ended; steps and rows go on counting."""
    problem = cases.PROBLEMS["fit"]()
    plan = [rv.Phase(rv.adam(1e-2), steps=7, name="first"), rv.Phase(rv.lbfgs(), steps=5, name="second")]
    run = rv.train(problem, plan, key=cases.KEY)
    assert run.stop is rv.Stop.STEPS
    assert run.history["phase"].tolist() == sorted(run.history["phase"])
    assert run.history["step"][-1] == 12
    end = [row for row in run.history if row["phase"] == 0][-1]
    start = next(row for row in run.history if row["phase"] == 1)
    assert end["step"] == start["step"] == 7
    np.testing.assert_allclose(end["loss"], start["loss"], rtol=1e-12)
    assert {row["method"] for row in run.history} == {"first", "second"}


def test_until_ends_a_phase_and_the_next_one_begins():
    problem = cases.PROBLEMS["fit"]()
    asked = []

    def until(history):
        asked.append(len(history))
        return len(history) >= 3

    plan = [rv.Phase(rv.adam(1e-2), steps=400, until=until), rv.Phase(rv.adam(1e-2), steps=2)]
    run = rv.train(problem, plan, key=cases.KEY)
    assert max(asked) == 3  # only rows of its own phase
    assert run.history["step"][-1] < 50
    assert run.history["phase"][-1] == 1
