"""Gauss–Newton and its kin: one step in four ways, dense formulas, and the linear algebra underneath."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import oracles
import ravine as rv
import ravine.linalg.dense as products
from ravine.linalg import (
    damped_qr,
    gram,
    product_of_rows,
    shifted_cholesky,
    solve_cholesky,
    solve_qr,
    symmetric_product,
)
from ravine.optim.path import Previous

NOTHING = Previous(jnp.zeros(1), None, None, jnp.zeros(()), jnp.array(False), jnp.int32(0))


@functools.cache
def case_of(name):
    return cases.OBJECTIVES[name]()


@functools.cache
def compiled(name, space, solver, acceleration):
    """θ, batch, t ↦ the displacement at damping t, and the decrease that is predicted for it."""
    case = case_of(name)
    objective, theta = case.objective()
    direction = rv.GaussNewton(space=space, solver=solver, acceleration=acceleration)

    @jax.jit
    def displacement(t):
        path, _ = direction(objective.linearise(theta, case.batch), theta, None, NOTHING, key=cases.KEY)
        found = path(t)
        return found, path.reduction(t, found)

    return displacement


def step(name, t, space="parameter", solver="cholesky", acceleration=False):
    return jax.device_get(compiled(name, space, solver, acceleration)(jnp.asarray(t)))


@functools.cache
def dense(name):
    oracle = case_of(name).oracle
    matrix = np.asarray(jax.jit(oracle.gram)(oracle.theta))
    return matrix, np.asarray(jax.jit(oracle.gradient)(oracle.theta))


@pytest.mark.parametrize("space,solver", [("parameter", "cholesky"), ("kernel", "cholesky"), ("parameter", "qr")])
@pytest.mark.parametrize("name", ["strong", "logistic", "softmax", "ritz"])
def test_step_is_the_dense_solve_in_every_space(name, space, solver):
    """(JᵀJ + λμI)d = −∇L, μ the mean diagonal; residual and other convex losses."""
    matrix, gradient = dense(name)
    shift = 1e-2 * np.trace(matrix) / gradient.size
    exact = -np.linalg.solve(matrix + shift * np.eye(gradient.size), gradient)
    found, reduction = step(name, 1e-2, space, solver)
    np.testing.assert_allclose(found, exact, atol=1e-9 * np.abs(exact).max())
    np.testing.assert_allclose(reduction, -gradient @ exact - exact @ matrix @ exact / 2, rtol=1e-8)


@pytest.mark.parametrize("name", ["strong", "softmax"])
def test_infinite_damping_is_the_gradient_direction(name):
    matrix, gradient = dense(name)
    found, _ = step(name, 1e9)
    expected = -gradient / (1e9 * np.trace(matrix) / gradient.size)
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


def test_geodesic_acceleration_against_the_dense_formula():
    """v + ½a with a = −(JᵀJ + λμ)⁻¹Jᵀr_vv where it is small enough, v alone where it is not."""
    oracle = case_of("strong").oracle
    theta = oracle.theta
    jacobian = np.asarray(jax.jit(oracle.jacobian)(theta))
    residual = np.asarray(oracle.rows(theta))
    curved = np.asarray(jax.jit(jax.jacfwd(jax.jacfwd(oracle.rows)))(theta))
    used = set()
    for t in (1.0, 1e-1, 1e-3, 1e-5):
        shift = t * np.sum(jacobian**2) / theta.size
        v, a = oracles.geodesic_step(jacobian, residual, lambda v: np.einsum("mij,i,j->m", curved, v, v), shift)
        keep = 2 * np.linalg.norm(a) <= 0.75 * np.linalg.norm(v)
        used.add(bool(keep))
        exact = v + (0.5 * a if keep else 0)
        for space in ("parameter", "kernel"):
            np.testing.assert_allclose(
                step("strong", t, space, acceleration=True)[0], exact, atol=1e-7 * np.linalg.norm(exact)
            )
    assert used == {True, False}


def linear(m: int, n: int):
    rng = np.random.default_rng(m)
    matrix, right = rng.normal(size=(m, n)), rng.normal(size=m)
    residuals = lambda x, _: jnp.asarray(matrix) @ x - jnp.asarray(right)
    return matrix, right, *rv.Objective.from_residuals(residuals, jnp.ones(n))


@pytest.mark.parametrize("solver", ["cholesky", "qr"])
@pytest.mark.parametrize("m,n", [(12, 4), (5, 5)])
def test_linear_least_squares_in_one_step(m, n, solver):
    matrix, right, objective, theta = linear(m, n)
    thetas, infos = cases.walk(rv.gauss_newton(solver=solver, ridge=1e-14), objective, theta, None, 1)
    np.testing.assert_allclose(thetas[1], np.linalg.lstsq(matrix, right)[0], atol=1e-9)
    assert float(infos[0].t) == 1.0


def test_underdetermined_system_in_one_step():
    """Fewer equations than unknowns: kernel space, and the smallest correction among all solutions."""
    matrix, right, objective, theta = linear(3, 8)
    thetas, _ = cases.walk(rv.gauss_newton(ridge=1e-14), objective, theta, None, 1)
    correction = np.linalg.lstsq(matrix, right - matrix @ np.ones(8))[0]
    np.testing.assert_allclose(thetas[1] - 1, correction, atol=1e-9)


def test_qr_keeps_digits_that_squaring_loses():
    """At condition 1e9 the normal equations have no digit left; QR has seven."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=shape))[0] for shape in ((10, 4), (4, 4)))
    matrix = u @ np.diag([1.0, 1e-3, 1e-6, 1e-9]) @ v.T
    right = matrix @ np.ones(4)
    found = solve_qr(*damped_qr(jnp.asarray(matrix), jnp.asarray(1e-30)), jnp.asarray(right))
    np.testing.assert_allclose(found, np.ones(4), atol=1e-5)
    factor, _, _ = shifted_cholesky(jnp.asarray(matrix.T @ matrix), jnp.asarray(1e-30))
    assert np.abs(solve_cholesky(factor, jnp.asarray(matrix.T @ right)) - 1).max() > 1e-3


def test_auto_takes_the_smaller_space():
    """Both spaces give the same step; which was taken shows in the matrix that is factorised."""
    for m, n, size in ((12, 4, 4), (3, 8, 3)):
        _, _, objective, theta = linear(m, n)
        path, _ = rv.GaussNewton()(objective.linearise(theta, None), theta, None, NOTHING, key=cases.KEY)
        assert path.metric.arrays[0].shape == (size, size)


# --------------------------------------------------------------------------------------------------- linear algebra


def test_damped_qr_solves_the_augmented_problem():
    rng = np.random.default_rng(5)
    matrix, right = rng.normal(size=(7, 4)), rng.normal(size=7)
    q, r = damped_qr(jnp.asarray(matrix), jnp.asarray(0.3))
    found = solve_qr(q, r, jnp.asarray(right))
    exact = np.linalg.lstsq(np.vstack([matrix, np.sqrt(0.3) * np.eye(4)]), np.append(right, np.zeros(4)))[0]
    np.testing.assert_allclose(found, exact, atol=1e-12)
    np.testing.assert_allclose(r.T @ r, matrix.T @ matrix + 0.3 * np.eye(4), atol=1e-12)


@pytest.mark.parametrize("rows", [5, 191, 192, 500])
def test_products_with_the_transpose(rows):
    """Below and above the size from which blocks are mirrored, and where the last block is a short one."""
    matrix = np.random.default_rng(rows).normal(size=(rows, 40))
    exact = matrix @ matrix.T
    for found in (symmetric_product(jnp.asarray(matrix)), jax.jit(gram)(jnp.asarray(matrix.T))):
        np.testing.assert_allclose(found, exact, atol=1e-12 * np.abs(exact).max())
        np.testing.assert_array_equal(np.tril(found, -200), np.triu(found, 200).T)


@pytest.mark.parametrize("columns", [99, 100, 200, 207])
def test_products_of_long_rows_are_summed_over_panels(monkeypatch, columns):
    """With none, one and several whole panels of 50 columns, and with a remainder or none."""
    monkeypatch.setattr(products, "PANEL", 50)
    rng = np.random.default_rng(columns)
    left, right = rng.normal(size=(300, columns)), rng.normal(size=(7, columns))
    np.testing.assert_allclose(symmetric_product(jnp.asarray(left)), left @ left.T, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(product_of_rows(jnp.asarray(left), jnp.asarray(right)), left @ right.T, atol=1e-12)


def test_a_kernel_of_long_rows_takes_no_copy_of_them():
    rows = jax.ShapeDtypeStruct((200, 8 * products.PANEL), float)
    analysis = jax.jit(lambda a: symmetric_product(jnp.sin(a))).lower(rows).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 1.5 * 8 * 200 * 8 * products.PANEL


def test_shifted_cholesky_of_a_definite_matrix():
    rng = np.random.default_rng(6)
    root = rng.normal(size=(5, 5))
    matrix = root @ root.T
    factor, shift, count = shifted_cholesky(jnp.asarray(matrix), jnp.asarray(0.5))
    assert (float(shift), int(count)) == (0.5, 1)
    np.testing.assert_allclose(factor @ factor.T, matrix + 0.5 * np.eye(5), atol=1e-12)
    np.testing.assert_array_equal(factor, np.tril(factor))


@pytest.mark.parametrize("lowest,attempts", [(-1e-9, 9), (-0.5, 12)])
def test_shifted_cholesky_of_an_indefinite_matrix(lowest, attempts):
    """The shift is raised tenfold until the factor exists, and not further."""
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(4, 4)))[0]
    matrix = basis @ np.diag([lowest, 0.5, 1.0, 2.0]) @ basis.T
    factor, shift, count = shifted_cholesky(jnp.asarray(matrix), jnp.asarray(1e-10), attempts=attempts)
    assert -lowest < float(shift) <= -10.0001 * lowest
    assert int(count) == 1 + round(np.log10(float(shift) / 1e-10))
    np.testing.assert_allclose(factor @ factor.T, matrix + float(shift) * np.eye(4), atol=1e-12)


def test_shifted_cholesky_gives_up_with_nan():
    factor, _, count = shifted_cholesky(-jnp.eye(3), jnp.asarray(0.0), attempts=3)
    assert int(count) == 3
    assert not np.isfinite(np.asarray(factor)).all()


def test_singular_gauss_newton_still_goes_down():
    """Two parameters that do the same: JᵀJ is singular, yet their sum is found."""
    objective, theta = rv.Objective.from_residuals(lambda x, _: jnp.array([1.0, 2.0]) * (x[0] + x[1] - 3), jnp.zeros(2))
    thetas, _ = cases.walk(rv.gauss_newton(space="parameter"), objective, theta, None, 2)
    np.testing.assert_allclose(thetas[-1].sum(), 3.0, atol=1e-6)


# ------------------------------------------------------------------------------------------------- mixed precision


@functools.cache
def sloped():
    """A small PINN whose JᵀJ has a condition number far beyond float32's reach."""
    problem = rv.problems.make("poisson1d", points=40, width=7)
    objective, theta, sampler = problem.objective(cases.KEY)
    return objective, theta, sampler.init(cases.KEY).batch


def mixed_step(solver, space, damping, rows_before, state):
    # Arrays, so that numbers do not compile anything anew.
    numbers = jnp.asarray(damping), jnp.int32(rows_before)
    return one_step(rv.GaussNewton(space=space, solver=solver), *sloped(), *numbers, state)


@eqx.filter_jit
def one_step(direction, objective, theta, batch, damping, rows_before, state):
    lin = objective.linearise(theta, batch)
    previous = Previous(jnp.zeros(1), None, None, jnp.zeros(()), jnp.array(False), jnp.int32(1), rows_before)
    path, state = direction(lin, theta, state, previous, key=cases.KEY)
    step, work = path.attempt(damping)
    return step, path.work + work, state


@pytest.mark.parametrize("space", ["parameter", "kernel"])
@pytest.mark.parametrize("damping", [1e-1, 1e-3])
def test_mixed_precision_gives_the_step_of_float64(space, damping):
    """Refined from a float32 factor; geodesic acceleration included."""
    exact, _, _ = mixed_step("qr", "parameter", damping, 0, None)
    found, work, _ = mixed_step("mixed", space, damping, 0, jnp.int32(0))
    objective, _, batch = sloped()
    np.testing.assert_allclose(found, exact, atol=1e-7 * np.abs(exact).max())
    assert int(work.rows) == objective.size(batch)
    assert int(work.products) == 2 * int(work.inner) > 0


@pytest.mark.parametrize("space", ["parameter", "kernel"])
def test_mixed_precision_falls_back_where_float32_does_not_serve(space, monkeypatch):
    """With too few iterations for a damping below float32's rounding, the matrix is formed again in float64."""
    monkeypatch.setattr("ravine.optim.gauss_newton.REFINEMENTS", 4)
    exact, _, _ = mixed_step("qr", "parameter", 1e-8, 0, None)
    # A function of its own, since what was traced before holds the other number.
    step = eqx.filter_jit(lambda *args: one_step.__wrapped__(*args))
    found, work, _ = step(
        rv.GaussNewton(space=space, solver="mixed"), *sloped(), jnp.asarray(1e-8), jnp.int32(0), jnp.int32(0)
    )
    objective, _, batch = sloped()
    # The digits that squaring the condition number leaves in float64.
    np.testing.assert_allclose(found, exact, atol=1e-3 * np.abs(exact).max())
    assert int(work.rows) == 2 * objective.size(batch)


def test_mixed_precision_stays_in_float64_for_a_while_after_a_fall_back():
    objective, _, batch = sloped()
    rows = objective.size(batch)
    _, work, state = mixed_step("mixed", "parameter", 1e-9, 2 * rows, jnp.int32(0))
    assert int(state) == 20
    assert int(work.rows) == rows  # formed once, in float64 at once
    for before, after in ((2, 1), (1, 0), (0, 0)):
        assert int(mixed_step("mixed", "parameter", 1e-1, rows, jnp.int32(before))[2]) == after


def test_mixed_precision_needs_float64():
    objective, theta = rv.Objective.from_residuals(lambda x, _: x, jnp.ones(3, jnp.float32))
    with pytest.raises(ValueError, match="jax_enable_x64"):
        rv.levenberg_marquardt(solver="mixed").init(objective, theta)
