"""Some terms, some parameters at a time; windows of time."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ravine as rv
from ravine.focus import Within
from ravine.samplers import Joint

KEY = jax.random.key(0)


class Pair(eqx.Module):
    """Two vectors."""

    x: jax.Array
    y: jax.Array


def coupled() -> rv.problems.Problem:
    """x is to be 3, then y is to be the square of what x became."""
    terms = (
        rv.Term("first", lambda p, _: p.x - 3.0),
        rv.Term("second", lambda p, _: p.y - p.x**2),
    )
    return rv.problems.Problem(
        terms=terms,
        sampler=rv.Constant({"first": jnp.zeros((1, 1)), "second": jnp.zeros((1, 1))}),
        model=lambda key: Pair(jnp.zeros(2), jnp.ones(2)),
        focuses=(
            rv.Focus(("first",), lambda p: p.x),
            rv.Focus(("second",), lambda p: p.y, lambda p: eqx.tree_at(lambda q: q.y, p, 2 * p.x)),
        ),
    )


def test_each_focus_solves_its_own_problem():
    """All at once x would give way: here x is 3 exactly, and y = 9 is solved with x held."""
    run = rv.train(coupled(), rv.Phase(rv.bfgs(), steps=8), key=KEY)
    np.testing.assert_allclose(run.model.x, 3.0, rtol=1e-12)
    np.testing.assert_allclose(run.model.y, 9.0, rtol=1e-12)
    assert set(run.history["focus"]) == {0, 1}
    # The second begins where `begin` says: y = 2x = 6, so that ½‖y − x²‖² = 9.
    first = next(row for row in run.history if row["focus"] == 1)
    np.testing.assert_allclose(first["loss"], 9.0, rtol=1e-10)


def test_a_view_is_the_restricted_problem():
    problem = coupled()
    objective, theta, sampler = problem.objective(KEY)
    batch = sampler.init(KEY).batch
    view = problem.focuses[1].on(objective)
    theta = theta + jnp.arange(4.0)
    seen = view(objective, theta)
    np.testing.assert_array_equal(view.take(objective, theta), theta[2:])
    np.testing.assert_allclose(seen.value_and_grad(theta[2:], batch)[1], theta[2:] - theta[:2] ** 2)
    optimizer = Within(rv.adam(0.1), view)
    after, _, _ = optimizer.step(objective, theta, optimizer.init(objective, theta), batch, key=KEY)
    np.testing.assert_array_equal(after[:2], theta[:2])
    np.testing.assert_allclose(jnp.abs(after[2:] - theta[2:]), 0.1, rtol=1e-6)


def test_memory_has_the_size_of_what_is_trained():
    problem = coupled()
    objective, theta, _ = problem.objective(KEY)
    state = Within(rv.bfgs(), problem.focuses[0].on(objective)).init(objective, theta)
    assert state.previous.s.shape == (2,)
    parts = jax.tree.leaves(state, is_leaf=lambda part: hasattr(part, "inverse"))
    (dense,) = [part for part in parts if hasattr(part, "inverse")]
    assert dense.inverse.shape == (2, 2)


def test_time_is_shared():
    objective, theta, sampler = coupled().objective(KEY)
    plan = rv.run.make_plan(rv.auto(seconds=60.0), objective, theta, sampler.init(KEY).batch, 60.0)
    begins = [phase for phase in plan.phases if phase.begins]
    assert [phase.by for phase in begins] == [30.0, None]
    assert plan.seconds == 60.0
    # Adam warms up what is raw, not what goes on from something trained.
    assert begins[0].name == "adam"
    assert begins[1].name != "adam"


def test_bad_focuses():
    objective, _, _ = coupled().objective(KEY)
    with pytest.raises(ValueError, match="no terms"):
        rv.Focus(("third",), lambda p: p.x).on(objective)
    with pytest.raises(ValueError, match="no parameters"):
        rv.Focus(("first",), lambda p: ()).on(objective)
    with pytest.raises(ValueError, match="names no term"):
        rv.Focus((), lambda p: p.x)


# ------------------------------------------------------------------------------------------------------------- windows


def windowed(**options) -> rv.problems.Problem:
    return rv.problems.in_windows(rv.problems.make("heat1d", points=64, width=8, depth=1), 2, points=16, **options)


def test_points_lie_in_their_windows():
    problem = windowed()
    _, _, sampler = problem.objective(KEY)
    batch = sampler.init(KEY).batch
    first, second, third = problem.model(KEY).cuts
    assert float(batch["pde1"][:, -1].max()) <= second <= float(batch["pde2"][:, -1].min())
    assert first <= float(batch["pde1"][:, -1].min())
    assert float(batch["pde2"][:, -1].max()) <= third
    np.testing.assert_array_equal(batch["start2"][:, -1], second)


def test_windows_are_trained_one_after_another():
    problem, phases = windowed(), rv.Phase(rv.bfgs(), steps=60)
    run = rv.train(problem, phases, key=KEY)
    losses = run.history
    ends = [row for row, after in zip(losses.rows, losses.rows[1:], strict=False) if row["focus"] < after["focus"]]
    # The first window's network does not change while the second is trained, which begins as its copy: no gap there.
    first = next(row for row in losses if row["focus"] == 1)
    assert first["loss/start2"] == 0
    assert ends[0]["loss/pde1"] < 1e-2 * losses.rows[0]["loss/pde1"]
    cut = problem.model(KEY).cuts[1]
    xs = jnp.stack([jnp.linspace(0.1, 0.9, 9), jnp.full(9, cut)], axis=1)
    left, right = (jax.vmap(network)(xs) for network in run.model.networks)
    assert float(jnp.max(jnp.abs(left - right))) < 1e-2
    np.testing.assert_allclose(jax.vmap(run.model)(xs), right, rtol=1e-14)


def test_a_run_in_windows_resumes_as_if_never_stopped():
    problem, phases = windowed(), rv.Phase(rv.bfgs(), steps=12)
    whole = rv.train(problem, phases, key=KEY)

    class Stop:
        def __call__(self, event):
            if event.kind == "record" and event.row.get("focus") == 1 and event.row["step"] >= 18:
                raise KeyboardInterrupt

    part = rv.train(problem, phases, key=KEY, callbacks=[Stop()])
    assert part.position.steps < whole.position.steps
    again = rv.train(problem, phases, key=KEY, resume=part)
    np.testing.assert_array_equal(again.theta, whole.theta)


def test_redrawing_looks_at_the_window_alone():
    problem = windowed()
    problem = dataclasses.replace(problem, sampler=rv.RAD(problem.sampler, every=5))
    _, _, sampler = problem.objective(KEY)
    state = sampler.init(KEY)
    asked = []

    def score(name, points):
        asked.append(name)
        return jnp.ones(points.shape[0])

    sampler.only(("pde2", "start2")).sample(eqx.tree_at(lambda s: s.count, state, jnp.int32(5)), score)
    assert set(asked) == {"pde2"}


def test_bad_windows():
    with pytest.raises(ValueError, match="at least two"):
        rv.problems.in_windows(rv.problems.make("heat1d"), 1)
    with pytest.raises(ValueError, match="time"):
        rv.problems.in_windows(rv.problems.make("poisson1d"), 2)
    with pytest.raises(ValueError, match="ascending"):
        rv.models.Windows((lambda z: z,), (1.0, 0.0))
    sobol = rv.Sobol(rv.Box((0.0,), (1.0,)), pde=8)
    with pytest.raises(ValueError, match="more than one"):
        Joint(sobol, sobol)
