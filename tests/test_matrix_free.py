"""Matrix-free Gauss–Newton is Gauss–Newton, by another road."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.path import Along, Previous

NOTHING = Previous(jnp.zeros(1), None, None, jnp.zeros(()), jnp.array(False), jnp.int32(0))
EXACT = {"tolerance": 1e-13, "iterations": 2000}


@functools.cache
def case_of(name):
    return cases.OBJECTIVES[name]()


def attempt(name, direction, t):
    """Displacement, work, predicted decrease and scale at damping t, from a fresh state, compiled."""
    case = case_of(name)
    objective, theta = case.objective(block=4)

    @jax.jit
    def run(t):
        lin = objective.linearise(theta, case.batch)
        path, _ = direction(lin, theta, direction.init(objective, theta), NOTHING, key=cases.KEY)
        step, work = path.attempt(t)
        return step, path.work + work, path.reduction(t, step), path.scale

    return jax.device_get(run(jnp.asarray(t)))


@functools.cache
def dense(name):
    oracle = case_of(name).oracle
    matrix = np.asarray(jax.jit(oracle.gram)(oracle.theta))
    return matrix, np.asarray(jax.jit(oracle.gradient)(oracle.theta))


@pytest.mark.parametrize("rank", [1, 6, 1000])
@pytest.mark.parametrize("name", ["strong", "logistic", "softmax", "ritz"])
def test_converged_step_is_the_dense_solve(name, rank):
    """(JᵀJ + λμI)d = −∇L with the path's own μ, for every kind of loss and every rank."""
    matrix, gradient = dense(name)
    found, _, reduction, scale = attempt(name, rv.MatrixFree(rank, **EXACT), 1e-2)
    exact = -np.linalg.solve(matrix + 1e-2 * scale * np.eye(gradient.size), gradient)
    np.testing.assert_allclose(found, exact, atol=1e-8 * np.abs(exact).max())
    np.testing.assert_allclose(reduction, -gradient @ exact - exact @ matrix @ exact / 2, rtol=1e-8)


@pytest.mark.parametrize("name", ["strong", "softmax"])
def test_damping_means_what_it_means_elsewhere(name):
    """μ is the mean diagonal of JᵀJ: exactly at full rank, closely where the spectrum decays."""
    matrix, gradient = dense(name)
    for rank, tolerance in ((gradient.size, 1e-10), (8, 0.2)):
        scale = attempt(name, rv.MatrixFree(rank), 1.0)[3]
        np.testing.assert_allclose(scale, np.trace(matrix) / gradient.size, rtol=tolerance)


@pytest.mark.parametrize("tolerance", [0.1, 1e-3, 1e-6])
def test_residual_of_the_step_meets_the_tolerance(tolerance):
    matrix, gradient = dense("strong")
    found, work, _, scale = attempt("strong", rv.MatrixFree(2, tolerance=tolerance), 1e-3)
    rest = matrix @ found + 1e-3 * scale * found + gradient
    assert np.linalg.norm(rest) <= tolerance * np.linalg.norm(gradient) * (1 + 1e-6)
    assert 1 <= work.inner <= 200


def test_a_preconditioner_of_full_rank_needs_one_iteration():
    assert attempt("strong", rv.MatrixFree(1000, tolerance=1e-6), 1e-4)[1].inner == 1


def test_iteration_cap_holds_and_still_goes_down():
    _, gradient = dense("strong")
    for cap in (1, 3):
        found, work, reduction, _ = attempt("strong", rv.MatrixFree(1, tolerance=1e-14, iterations=cap), 1e-6)
        assert work.inner == cap
        assert reduction > 0
        assert gradient @ found < 0


def test_kernel_parameter_and_matrix_free_steps_agree_on_a_small_pinn():
    """At full rank μ is exact, so the three roads give one step; with the search as well."""
    case = case_of("strong")
    objective, theta = case.objective(block=4)
    roads = [
        rv.Optimizer(rv.GaussNewton(space="parameter", acceleration=False), rv.Damping(1e-2)),
        rv.Optimizer(rv.GaussNewton(space="kernel", acceleration=False), rv.Damping(1e-2)),
        rv.Optimizer(rv.MatrixFree(1000, refresh=1, **EXACT), rv.Damping(1e-2)),
    ]
    ends = [cases.walk(road, objective, theta, case.batch, 3)[0] for road in roads]
    for end in ends[1:]:
        for a, b in zip(end, ends[0], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-8)


def test_linear_least_squares_in_one_step():
    rng = np.random.default_rng(4)
    matrix, right = rng.normal(size=(15, 6)), rng.normal(size=15)
    objective, theta = rv.Objective.from_residuals(lambda x, _: jnp.asarray(matrix) @ x - right, jnp.ones(6))
    optimizer = rv.matrix_free_gauss_newton(rank=3, damping=1e-14, tolerance=1e-14)
    thetas, infos = cases.walk(optimizer, objective, theta, None, 1)
    np.testing.assert_allclose(thetas[1], np.linalg.lstsq(matrix, right)[0], atol=1e-9)
    assert int(infos[0].work.evaluations) == 2


def zero_residual(x, _):
    """Nonlinear residuals that vanish at (1, 2)."""
    return jnp.stack([x[0] ** 2 + x[1] - 3, jnp.exp(x[0] - 1) - x[1] / 2, x[0] * x[1] - 2])


def test_forcing_terms_shrink_with_the_gradient():
    """Eisenstat and Walker, choice 2: η ≤ 0.9 (‖g‖/‖g before‖)² but for safeguards, so that convergence is fast."""
    objective, theta = rv.Objective.from_residuals(zero_residual, jnp.array([1.3, 1.8]))
    optimizer = rv.Optimizer(rv.MatrixFree(1), rv.Damping(1e-8))
    state, norms, tolerances = optimizer.init(objective, theta), [], []
    for _ in range(6):
        theta, state, info = cases.step(optimizer, objective, theta, state, None)
        norms.append(float(info.grad_norm))
        tolerances.append(float(state.direction.forcing.tolerance))
    assert tolerances[0] == 0.1
    expected = np.clip(0.9 * (np.array(norms[1:]) / norms[:-1]) ** 2, 1e-6, 0.1)
    np.testing.assert_allclose(tolerances[1:], expected, rtol=1e-6)
    np.testing.assert_allclose(theta, [1.0, 2.0], atol=1e-7)
    ratios = np.array(norms[1:4]) / norms[:3]
    assert ratios[2] < ratios[1] / 10


# ------------------------------------------------------------------------------------------------- sketch and counts


def refreshes(refresh, steps, search=rv.Damping(1e-3)):
    case = case_of("strong")
    objective, theta = case.objective()
    optimizer = rv.Optimizer(rv.MatrixFree(4, refresh=refresh), search)
    state, changed = optimizer.init(objective, theta), []
    for number in range(steps):
        old = np.asarray(state.direction.sketch.vectors)
        key = jax.random.fold_in(cases.KEY, number)
        theta, state, info = cases.step(optimizer, objective, theta, state, case.batch, key)
        changed.append(not np.array_equal(old, state.direction.sketch.vectors))
        counts = info.work.counts()
        # Two for each inner iteration, one for the prediction of each trial, two for each column of the sketch.
        trials = counts["evaluations"] - 1
        iterations = counts["inner"] - (trials - 1)
        assert counts["products"] == 2 * iterations + trials + (8 if changed[-1] else 0)
        assert iterations >= trials
    return changed


def test_the_preconditioner_serves_several_steps():
    assert refreshes(3, 7) == [True, False, False, True, False, False, True]
    assert refreshes(1, 3) == [True] * 3


def test_the_preconditioner_is_drawn_anew_after_a_failed_step():
    class Refusing(rv.Search):
        def init(self, dtype):
            return None

        def __call__(self, phi, state):
            step, work = phi.attempt(jnp.ones((), phi.theta.dtype))
            value = phi.value(step)
            found = rv.Found(0 * step, phi.here.value, None, rv.Work(1) + work, jnp.array(True))
            return jnp.where(value > 0, 1.0, 1.0), found, None

    assert refreshes(100, 3, Refusing()) == [True, True, True]


def test_products_are_counted_as_they_happen():
    """Every product with J is seen from inside the residuals; those with Jᵀ, unseen there, are as many."""
    seen = []

    @jax.custom_jvp
    def mark(x):
        return x

    @mark.defjvp
    def _(primals, tangents):
        jax.debug.callback(lambda _: seen.append(1), tangents[0][0])
        return primals[0], tangents[0]

    def residuals(x, _):
        return zero_residual(mark(x), None)

    objective, theta = rv.Objective.from_residuals(residuals, jnp.array([1.3, 1.8]))
    direction, lin = rv.MatrixFree(1, tolerance=1e-10), objective.linearise(theta, None)
    path, _ = direction(lin, theta, direction.init(objective, theta), NOTHING, key=cases.KEY)
    jax.effects_barrier()
    seen.clear()
    _, work = jax.block_until_ready(jax.jit(path.attempt)(jnp.asarray(1e-3)))
    jax.effects_barrier()
    counts = work.counts()
    assert len(seen) == counts["inner"] > 1
    assert counts["products"] == 2 * len(seen) + 1


def test_search_sees_the_cost_of_a_path_that_iterates():
    case = case_of("strong")
    objective, theta = case.objective()
    lin, direction = objective.linearise(theta, case.batch), rv.MatrixFree(3)
    path, _ = direction(lin, theta, direction.init(objective, theta), NOTHING, key=cases.KEY)
    along = Along(objective, theta, case.batch, path, lin)
    step, work = along.attempt(jnp.asarray(1e-2))
    np.testing.assert_allclose(step, path(jnp.asarray(1e-2)), rtol=1e-12)
    assert int(work.inner) > 0
    line = Along(objective, theta, case.batch, rv.Line(-lin.grad, lin.grad), lin)
    assert line.attempt(jnp.asarray(1.0))[1].counts() == rv.Work().counts()


def test_a_bare_loss_is_refused():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones(3))
    with pytest.raises(ValueError, match="needs residuals, but this objective is a bare scalar loss"):
        rv.matrix_free_gauss_newton().init(objective, theta)


@pytest.mark.parametrize("name", ["rank", "refresh", "iterations", "group"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        rv.MatrixFree(**{name: 0})


def test_a_damped_path_has_no_slope():
    case = case_of("strong")
    objective, theta = case.objective()
    optimizer = rv.Optimizer(rv.MatrixFree(2), rv.Armijo())
    with pytest.raises(TypeError, match="use `Damping`"):
        cases.walk(optimizer, objective, theta, case.batch, 1)


def test_float32_goes_down_too():
    objective, theta = rv.Objective.from_residuals(zero_residual, jnp.array([1.3, 1.8], jnp.float32))
    thetas, _ = cases.walk(rv.matrix_free_gauss_newton(rank=2), objective, theta, None, 12)
    assert thetas[-1].dtype == np.float32
    np.testing.assert_allclose(thetas[-1], [1.0, 2.0], atol=1e-3)
