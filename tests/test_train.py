"""The loop: chunks, histories, events, stop reasons, time."""

import dataclasses
import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.train import fit


@functools.cache
def line():
    """A fit of two parameters to data, with points that are redrawn by residual."""
    term = rv.residual("pde", lambda c, z: c["a"] * z[0] + c["b"] - jnp.sin(2 * z[0]))
    return rv.Problem(
        terms=(term,),
        sampler=rv.RAD(rv.Sobol(rv.Box((0.0,), (1.0,)), pde=16), every=3),
        model=lambda key: {"a": jax.random.normal(key), "b": jnp.zeros(())},
    )


def quiet(run):
    """The history without the columns that tell the time."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in run.history]


def test_equal_keys_give_equal_runs_and_others_do_not():
    one, same, other = (rv.train(line(), rv.Phase(rv.adam(0.1), steps=7), key=jax.random.key(s)) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.theta, same.theta)
    assert quiet(one) == quiet(same)
    assert not np.array_equal(one.theta, other.theta)


def test_how_steps_are_cut_into_chunks_does_not_matter(monkeypatch):
    """One step a chunk against as many as fit: the same parameters, bit by bit, redraws included."""
    module = sys.modules["ravine.loop"]
    phase = rv.Phase(rv.levenberg_marquardt(), steps=11)
    found = [rv.train(line(), phase, key=cases.KEY)]
    monkeypatch.setattr(module, "CHUNK_SECONDS", 1e-9)
    found.append(rv.train(line(), phase, key=cases.KEY))
    monkeypatch.setattr(module, "RECORDS", 2)
    found.append(rv.train(line(), phase, key=cases.KEY))
    for run in found[1:]:
        np.testing.assert_array_equal(run.position.carry.theta, found[0].position.carry.theta)
    np.testing.assert_array_equal(found[1].theta, found[0].theta)
    assert len(found[2].history) < len(found[0].history)
    assert found[2].history["evaluations"][-1] == found[0].history["evaluations"][-1]


def test_a_run_never_ends_worse_than_it_was():
    """A second phase that climbs: what comes back is the best point of the first, by the independent points."""
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.array([3.0]))
    down, up = rv.Phase(rv.gradient_descent(0.25), steps=4), rv.Phase(rv.gradient_descent(-0.5), steps=4)
    keys = (cases.KEY, cases.KEY)
    run = fit(objective, theta, rv.Constant(None), [down, up], keys=keys)
    # x halves four times, then doubles four times.
    np.testing.assert_allclose(run.position.carry.theta, [3.0])
    np.testing.assert_allclose(run.theta, [3.0 / 16])
    assert run.loss == run.history["loss"].min() == pytest.approx((3 / 16) ** 2)

    problem = cases.PROBLEMS["fit"]()
    run = rv.train(problem, [rv.Phase(rv.adam(0.05), steps=30), rv.Phase(rv.sgd(3.0), steps=10)], key=cases.KEY)
    assert run.history["loss"][-1] > run.loss
    batch = run.position.carry.sampler.batch
    np.testing.assert_allclose(run.objective(run.theta, batch), run.loss, rtol=1e-12)


def test_history_columns_and_their_meaning():
    run = rv.train(cases.PROBLEMS["poisson"](), rv.Phase(rv.adam(1e-3), steps=5, name="adam"), key=cases.KEY)
    history = run.history
    assert {"phase", "method", "step", "seconds", "compile_seconds", "loss", "loss/pde", "test_loss", "error", "t",
            "grad_norm", "step_norm", "evaluations", "gradients", "rows", "inner",
            "products"} <= set(history.columns)  # fmt: skip
    assert history["step"].tolist() == [0, 1, 2, 3, 4, 5]
    assert history["gradients"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (np.diff(history["seconds"]) >= 0).all()
    np.testing.assert_allclose(history["loss"], history["loss/pde"])
    assert history["test_loss"][0] != history["loss"][0]
    objective, _, _ = run.problem.objective(jax.random.key(1))
    assert float(run.problem.error(objective, run.theta)) == pytest.approx(run.error)
    assert run.summary()["steps"] == 5
    assert run.summary()["stop_reason"] == rv.Stop.STEPS.value


def test_term_losses_are_unweighted():
    terms = (rv.residual("one", lambda c, z: c["a"] * z[0] - 1), rv.residual("two", lambda c, z: c["a"], weight=10.0))
    problem = rv.Problem(terms, rv.Sobol(rv.Box((0.0,), (1.0,)), one=8, two=8), lambda key: {"a": jnp.array(2.0)})
    row = rv.train(problem, rv.Phase(rv.adam(1e-3), steps=1), key=cases.KEY).history.rows[0]
    assert row["loss/two"] == pytest.approx(2.0)
    assert row["loss"] == pytest.approx(row["loss/one"] + 10 * row["loss/two"])


def test_events_in_order():
    seen = []
    plan = [rv.Phase(rv.adam(0.1), steps=2), rv.Phase(rv.lbfgs(), steps=2)]
    run = rv.train(line(), plan, key=cases.KEY, callbacks=[lambda event: seen.append(event)])
    kinds = [event.kind for event in seen]
    assert kinds[0] == "start"
    assert kinds[-1] == "stop"
    assert kinds.count("phase") == 2
    assert kinds.count("record") == len(run.history)
    last = seen[-1].run()
    np.testing.assert_array_equal(last.theta, run.theta)
    assert last.stop is run.stop


def test_time_budget_ends_a_run():
    run = rv.train(line(), rv.Phase(rv.adam(1e-3)), seconds=0.5, key=cases.KEY)
    assert run.stop is rv.Stop.SECONDS
    assert np.isfinite(run.loss)


def test_a_phase_ends_by_its_own_time():
    run = rv.train(line(), [rv.Phase(rv.adam(1e-3), seconds=0.05), rv.Phase(rv.sgd(1e-3), steps=2)], key=cases.KEY)
    assert run.stop is rv.Stop.STEPS
    assert run.history["phase"][-1] == 1
    assert run.history["step"][-1] > 2


def test_a_callback_can_interrupt():
    def interrupt(event):
        if event.kind == "record" and event.row["step"] == 3:
            raise KeyboardInterrupt

    run = rv.train(line(), rv.Phase(rv.adam(0.1), steps=50), key=cases.KEY, callbacks=[interrupt])
    assert run.stop is rv.Stop.INTERRUPTED
    assert run.history["step"][-1] == 3
    whole = rv.train(line(), rv.Phase(rv.adam(0.1), steps=3), key=cases.KEY)
    np.testing.assert_array_equal(run.theta, whole.theta)


def test_divergence_keeps_the_last_finite_parameters():
    run = rv.train(line(), rv.Phase(rv.gradient_descent(1e200), steps=20), key=cases.KEY)
    assert run.stop is rv.Stop.NOT_FINITE
    assert np.isfinite(run.theta).all()
    assert np.isfinite(run.loss)


def test_memory_block_does_not_change_the_result():
    found = [rv.train(line(), rv.Phase(rv.lbfgs(), steps=4), key=cases.KEY, block=block) for block in (5, 512)]
    np.testing.assert_allclose(found[0].theta, found[1].theta, rtol=1e-8)


def test_planner_sees_objective_parameters_and_batch():
    seen = {}

    def planner(objective, theta, batch):
        seen.update(n=theta.size, m=objective.size(batch))
        return rv.Plan((rv.Phase(rv.adam(0.1), steps=2, name="planned"),), reason="because")

    run = rv.train(line(), planner, key=cases.KEY)
    assert seen == {"n": 2, "m": 16}
    assert run.summary()["method"] == "planned"


def test_automatic_choice_anneals_on_minibatches():
    """The noise floor of a constant rate is left: the error ends far below where the first stage wandered."""
    problem = rv.problems.make("logistic", samples=400, features=5, batch=10)
    plan = rv.auto(seconds=10.0)(*_first_batch(problem))
    rates = [phase.optimizer.search.rate for phase in plan.phases]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < rates[0] / 30
    assert sum(phase.seconds for phase in plan.phases) == pytest.approx(10.0)
    assert [phase.keep for phase in plan.phases] == [False, True, True, True, True]
    # Rates at which so small a problem is all noise.
    louder = lambda method: dataclasses.replace(method, search=rv.Fixed(30 * method.search.rate))
    louder_phase = lambda one: rv.Phase(louder(one.optimizer), steps=int(400 * one.seconds), keep=one.keep)
    steps = [louder_phase(phase) for phase in plan.phases]
    history = rv.train(problem, steps, key=cases.KEY).history
    tail = lambda number: np.mean([row["error"] for row in history if row["phase"] == number][-20:])
    assert tail(4) < tail(0) / 3


def _first_batch(problem):
    objective, theta, sampler = problem.objective(cases.KEY)
    return objective, theta, sampler.init(cases.KEY).batch


def test_automatic_choice_solves_a_small_fit():
    """What it chose, with steps in place of seconds, so that no clock decides about the result."""
    problem = line()
    objective, theta, sampler = problem.objective(cases.KEY)
    plan = rv.auto(seconds=60.0)(objective, theta, sampler.init(cases.KEY).batch)
    phases = [dataclasses.replace(phase, steps=20, seconds=None, until=None) for phase in plan.phases]
    run = rv.train(problem, phases, key=cases.KEY)
    # The best line through sin 2x on [0, 1], in the mean square; the points crowd where the residual is large.
    x = np.linspace(0, 1, 2001)
    best = np.polyfit(x, np.sin(2 * x), 1)
    np.testing.assert_allclose([run.params["a"], run.params["b"]], best, atol=0.15)


def test_stop_codes_round_trip():
    assert all(rv.Stop.of(stop.code) is stop for stop in rv.Stop)
    assert len({stop.value for stop in rv.Stop}) == len(rv.Stop)


def test_work_adds_up():
    total = rv.Work(1, 2, 3, 4, 5) + rv.Work(10, 20, 30, 40, 50)
    assert total.counts() == {"evaluations": 11, "gradients": 22, "rows": 33, "inner": 44, "products": 55}
