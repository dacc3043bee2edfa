"""Trajectories against closed forms: values, derivatives in both modes, stiffness, blow-up, multiple shooting."""

import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.problems import lotka_volterra as lv

TIMES = jnp.linspace(0.0, 1.5, 7)


def linear(model, t, y):
    """y′ = A y."""
    return model @ y


def quadratic(model, t, y):
    """y′ = c y²: y = 1/(1/y₀ − c t), which blows up at t = 1/(c y₀)."""
    return model * y**2


def own(model, path):
    """A start that is a parameter."""
    return model["starts"][path.number]


def inner(model, t, y):
    return model["a"] @ y


def batch(values, times=TIMES):
    return {"data": rv.Trajectory(times[None], jnp.asarray(values)[None], jnp.array([0]))}


def test_linear_equation_against_the_matrix_exponential():
    """Misfit, Jv, Jᵀr, J and the second derivative of y(t) = exp(At) y₀."""
    a, values = jnp.array([[0.1, 1.0], [-2.0, -0.3]]), cases.points(3, 7)
    term = rv.trajectory("data", linear, tolerance=1e-10)
    objective, theta = rv.Objective.from_terms((term,), a)

    def exact(flat):
        flows = jax.vmap(lambda t: jax.scipy.linalg.expm(t * flat.reshape(2, 2)))(TIMES)
        return (flows @ values[0] - values).reshape(-1)

    v, r = jnp.array([0.3, -0.2, 0.5, 0.1]), jnp.arange(14.0) - 5

    @jax.jit
    def found(theta, points):
        lin = objective.linearise(theta, points)
        return lin.residual, lin.jacobian(), lin.jvp(v), lin.vjp(r), lin.second(v)

    residual, jacobian, forward, backward, second = found(theta, batch(values))
    dense = jax.jacfwd(exact)(theta)
    np.testing.assert_allclose(residual, exact(theta), atol=1e-8)
    np.testing.assert_allclose(jacobian, dense, atol=1e-7)
    np.testing.assert_allclose(forward, dense @ v, atol=1e-7)
    np.testing.assert_allclose(backward, dense.T @ r, atol=1e-6)
    curve = jax.jvp(lambda at: jax.jvp(exact, (at,), (v,))[1], (theta,), (v,))[1]
    np.testing.assert_allclose(second, curve, atol=1e-6)


def test_stiff_solver_where_the_explicit_one_runs_out_of_steps():
    """y₁′ = −10⁵ (y₁ − y₂), y₂′ = −y₂: with y₁ = y₂ at the start, up to 10⁻⁵ both are e⁻ᵗ."""
    a = jnp.array([[-1e5, 1e5], [0.0, -1.0]])
    values = jnp.exp(-TIMES)[:, None] * jnp.ones((1, 2))
    for stiff, lost in ((True, False), (False, True)):
        term = rv.trajectory("data", linear, stiff=stiff)
        misfit = jax.jit(term.features)(a, jax.tree.map(lambda leaf: leaf[0], batch(values)["data"]))
        assert bool(jnp.isfinite(misfit).all()) is not lost
        if stiff:
            assert np.abs(misfit).max() < 1e-4
            assert np.abs(misfit[1:, 0]).max() > 1e-7


# ------------------------------------------------------------------------------------------------------------- blow-up


def problem(start, values, **options):
    term = rv.trajectory("data", quadratic, **options)
    return rv.Problem((term,), rv.Constant(batch(values)), lambda key: jnp.asarray(start))


EXACT = 1 / (1 - 0.5 * TIMES)[:, None]  # c = 0.5


def test_an_equation_that_blows_up_at_the_start_is_refused():
    with pytest.raises(ValueError, match=r"'data' is (inf|nan).*lost after t = 1 after 256 of at most 256.*blows up"):
        rv.train(problem(1.0, EXACT), rv.Phase(rv.adam(), steps=1), key=cases.KEY)


def test_a_search_steps_back_from_a_blow_up():
    """From c = −3 the first Gauss–Newton step would go beyond 2/3, where the solution ends before the last time."""
    run = rv.train(problem(-3.0, EXACT), rv.Phase(rv.levenberg_marquardt(acceleration=False), steps=40), key=cases.KEY)
    assert float(run.model) == pytest.approx(0.5, abs=1e-4)


def test_a_step_into_a_blow_up_ends_the_run_with_finite_parameters():
    run = rv.train(problem(0.3, EXACT), rv.Phase(rv.sgd(1e3), steps=20), key=cases.KEY)
    assert run.stop is rv.Stop.NOT_FINITE
    assert np.isfinite(run.theta).all()
    assert np.isfinite(run.loss)


# --------------------------------------------------------------------------------------------------- multiple shooting


def test_segments_and_gaps():
    """With starts on the true solution nothing is left; a start that is off shows in the gap before it."""
    a = jnp.array([[0.1, 1.0], [-2.0, -0.3]])
    flows = jax.vmap(lambda t: jax.scipy.linalg.expm(t * a))(TIMES) @ jnp.array([1.0, 0.5])
    whole, gaps, starts = rv.segments(TIMES, flows, 3)
    assert whole.times.tolist() == [TIMES[i : i + 3].tolist() for i in (0, 2, 4)]
    np.testing.assert_array_equal(starts, flows[::2][:3])
    terms = (
        rv.trajectory("data", inner, start=own, tolerance=1e-10),
        rv.continuity("gaps", inner, start=own, tolerance=1e-10),
    )
    objective, theta = rv.Objective.from_terms(terms, {"a": a, "starts": starts})
    residual = jax.jit(lambda at: objective.linearise(at, {"data": whole, "gaps": gaps}).residual)
    assert residual(theta).shape == (3 * 3 * 2 + 2 * 2,)
    assert np.abs(residual(theta)).max() < 1e-8
    off = {"a": a, "starts": starts.at[1, 0].add(0.25)}
    gap = residual(objective.flatten(off))[-4:].reshape(2, 2) * np.sqrt(2)
    np.testing.assert_allclose(gap[0], [-0.25, 0.0], atol=1e-8)
    np.testing.assert_allclose(gap[1], 0.25 * jax.scipy.linalg.expm(0.5 * a)[:, 0], atol=1e-8)


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="7 times make 6 intervals, which 4 do not divide"):
        rv.segments(TIMES, EXACT, 4)
    with pytest.raises(ValueError, match="not finite in 1 of 7 rows; the first is row 3"):
        rv.segments(TIMES, EXACT.at[3].set(jnp.nan), 3)
    with pytest.raises(ValueError, match="tolerance > 0"):
        rv.trajectory("data", linear, tolerance=0.0)
    two = jax.tree.map(lambda leaf: leaf[0], batch(jnp.zeros((7, 2)))["data"])
    short = rv.trajectory("data", quadratic, start=lambda model, path: path.values[0, :1])
    with pytest.raises(ValueError, match=r"shape \(7, 1\) .*shape \(7, 2\)"):
        short.features(jnp.array(0.1), two)
    monkeypatch.setitem(sys.modules, "diffrax", None)
    with pytest.raises(ImportError, match=r"pip install 'ravine\[ode\]'"):
        rv.trajectory("data", linear)


# ------------------------------------------------------------------------------------------------------ lotka_volterra


class Meetings(eqx.Module):
    """c xy."""

    c: jax.Array

    def __call__(self, y):
        return self.c * y[0] * y[1]


def law(*, stiff):
    """The problem's objective for a model of the true form, the true parameters, and the batch."""
    made = rv.problems.make("lotka_volterra", points=7, stiff=stiff, width=3, depth=1)
    exact = Meetings(jnp.array(1.0) if stiff else jnp.array([-0.9, 0.8]))
    assert float(made.reference.error(exact, jnp.float64)) < 1e-12
    return *rv.Objective.from_terms(made.terms, exact), made.sampler.batch


@pytest.mark.parametrize("stiff", [False, True])
def test_the_true_law_has_no_loss(stiff):
    objective, theta, points = law(stiff=stiff)
    assert float(eqx.filter_jit(objective)(theta, points)) < 1e-12
    assert float(eqx.filter_jit(objective)(0.9 * theta, points)) > 1e-4


@pytest.mark.parametrize("stiff", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_law_is_found(stiff):
    objective, theta, points = law(stiff=stiff)
    thetas, _ = cases.walk(rv.levenberg_marquardt(acceleration=False), objective, 0.8 * theta, points, 12)
    np.testing.assert_allclose(thetas[-1], theta, rtol=1e-4)


def test_reference_trajectories_have_converged():
    """Against fewer digits; V = 0.8 x − 1.8 log x + 0.9 y − 1.3 log y is constant; z is xy up to 10⁻⁴."""
    times = tuple(np.linspace(0, 3, 13))
    for stiff in (False, True):
        fine, coarse = (lv.solved(stiff, times, tolerance) for tolerance in (1e-12, 1e-10))
        assert np.abs(fine - coarse).max() < 1e-7
        x, y = fine[:, :2].T
        if stiff:
            assert 1e-6 < np.abs(fine[1:, 2] - (x * y)[1:]).max() < 1e-2
        else:
            v = 0.8 * x - 1.8 * np.log(x) + 0.9 * y - 1.3 * np.log(y)
            assert np.ptp(v) < 1e-10


def test_multiple_shooting_reaches_the_law_too():
    made = rv.problems.make("lotka_volterra", points=7, segments=3, width=3, depth=1)
    objective, theta, _ = made.objective(cases.KEY)
    law = rv.models.Inverse(Meetings(jnp.array([-0.9, 0.8])), starts=made.model(cases.KEY).coefficients["starts"])
    objective, theta = rv.Objective.from_terms(made.terms, law)
    assert float(eqx.filter_jit(objective)(theta, made.sampler.batch)) < 1e-12
