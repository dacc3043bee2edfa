"""Searches without slopes to follow: rates from the loss or its curvature, rises that are allowed, lengths tried."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.linalg.ritz import extreme_eigenvalues
from ravine.optim.path import Along, Line


@eqx.filter_jit
def look(search, objective, theta, batch, state, length):
    """One search along −length·∇L."""
    lin = objective.linearise(theta, batch)
    return search(Along(objective, theta, batch, Line(-length * lin.grad, lin.grad), lin), state)


def search_once(search, objective, theta, batch=None, state=None, length=1.0):
    state = search.init(theta.dtype) if state is None else state
    return jax.device_get(look(search, objective, theta, batch, state, jnp.asarray(length)))


# --------------------------------------------------------------------------------------------------------- Lanczos


@pytest.mark.parametrize("seed", range(3))
def test_lanczos_reaches_both_ends_of_a_spectrum(seed):
    matrix = np.random.default_rng(seed).normal(size=(12, 12))
    matrix = matrix + matrix.T
    start = jnp.asarray(np.random.default_rng(seed + 9).normal(size=12))
    found = jax.jit(lambda a: extreme_eigenvalues(lambda v: a @ v, start, 12))(jnp.asarray(matrix))
    np.testing.assert_allclose(found, np.linalg.eigvalsh(matrix)[[0, -1]], rtol=1e-9)


def test_lanczos_stays_within_the_spectrum_and_grows():
    values = jnp.linspace(-1.0, 3.0, 40) ** 3
    ends = [extreme_eigenvalues(lambda v: values * v, jnp.ones(40), k) for k in (1, 4, 8, 16)]
    least, most = np.array(ends).T
    assert (np.diff(most) > 0).all()
    assert (np.diff(least) < 0).all()
    assert most[-1] <= 27 + 1e-12
    assert least[-1] >= -1 - 1e-12


@pytest.mark.parametrize("scales", [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [1.0, -4.0, 1.0]])
def test_lanczos_ends_where_the_krylov_space_does(scales):
    """More products than there are distinct eigenvalues: no rounding comes back as an eigenvalue."""
    scales = jnp.asarray(scales)
    found = extreme_eigenvalues(lambda v: scales * v, jnp.ones(3), 3)
    np.testing.assert_allclose(found, [jnp.min(scales), jnp.max(scales)], atol=1e-12)


# ----------------------------------------------------------------------------------------------- rates by formula


@pytest.mark.parametrize("length", [1.0, 0.3])
def test_polyak_step_is_the_formula(length):
    """The step does not depend on how long d is."""
    objective, theta, matrix = cases.quadratic([1.0, 4.0], rotation=1)
    lin = objective.linearise(theta, matrix)
    _, found, _ = search_once(rv.Polyak(0.1, 0.7), objective, theta, matrix, length=length)
    np.testing.assert_allclose(found.step, -0.7 * (lin.value - 0.1) * lin.grad / (lin.grad @ lin.grad), rtol=1e-12)
    t, found, _ = search_once(rv.Polyak(longest=0.01), objective, theta, matrix)
    assert float(t) == 0.01
    assert found.work.counts() == rv.Work().counts()


def test_polyak_fails_where_the_bound_is_wrong():
    objective, theta, matrix = cases.quadratic([1.0, 4.0])
    _, found, _ = search_once(rv.Polyak(1e3), objective, theta, matrix)
    assert bool(found.failed)
    np.testing.assert_array_equal(found.step, 0)


def test_sharpness_is_the_largest_curvature():
    """Against the dense Hessian of a network, whose eigenvalues have both signs."""
    case = cases.logistic()
    objective, theta = case.objective()
    t, found, _ = search_once(rv.Sharpness(0.5, products=theta.size), objective, theta, case.batch)
    eigenvalues = np.linalg.eigvalsh(case.oracle.hessian(theta))
    assert eigenvalues[0] < 0 < eigenvalues[-1]
    np.testing.assert_allclose(t, 0.5 / np.abs(eigenvalues).max(), rtol=1e-6)
    assert found.work.counts()["products"] == 2 * theta.size


def test_sharpness_is_measured_anew_when_due():
    """On x⁴ the curvature falls on the way down; a rate that is kept for three steps is seen to be kept."""
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**4), jnp.array([2.0]))
    optimizer = rv.gradient_descent(search=rv.Sharpness(refresh=3))
    thetas, infos = cases.walk(optimizer, objective, theta, None, 7)
    rates = np.array([float(info.t) for info in infos])
    expected = [1 / (12 * float(thetas[k - k % 3][0]) ** 2) for k in range(7)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    assert [info.work.counts()["products"] for info in infos] == [2, 0, 0, 2, 0, 0, 2]


def test_sharpness_of_a_plane_is_nothing():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x), jnp.zeros(3))
    t, found, _ = search_once(rv.Sharpness(longest=7.0), objective, theta)
    assert float(t) == 7.0
    assert not found.failed


@pytest.mark.parametrize("start", [1.0, 1e-3, 64.0])
def test_majorisation_takes_the_largest_length_under_the_parabola(start):
    """On a quadratic the bound holds for t ≤ ‖g‖²/gᵀAg, and t is the first of start·2⁻ᵏ that does."""
    objective, theta, matrix = cases.quadratic([1.0, 30.0], rotation=2)
    g = np.asarray(objective.linearise(theta, matrix).grad)
    bound = g @ g / (g @ np.asarray(matrix) @ g)
    t, found, state = search_once(rv.Majorisation(start), objective, theta, matrix)
    halvings = max(0, int(np.ceil(np.log2(start / bound))))
    assert float(t) == start / 2**halvings
    assert float(state.t) == pytest.approx((1.1 if halvings else 2.0) * float(t))
    assert found.work.counts()["evaluations"] == halvings + 1
    np.testing.assert_allclose(found.step, -t * g, rtol=1e-12)


def test_majorisation_fails_on_what_is_not_finite():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.where(x[0] < 1, jnp.nan, x[0] ** 2), jnp.array([1.0]))
    _, found, state = search_once(rv.Majorisation(trials=5), objective, theta)
    assert bool(found.failed)
    assert float(found.step[0]) == 0
    assert float(state.t) == 1.0


# ----------------------------------------------------------------------------------------------- rises, and a grid


def curve(x, _):
    """Falls to −1/12 at 1/6, and is 2 at 1."""
    return -x[0] + 3 * x[0] ** 2


@functools.cache
def falling():
    return rv.Objective.from_loss(curve, jnp.zeros(1))


def remembering(search, losses, last):
    state = search.init(jnp.float64)
    recent = jnp.zeros(search.window).at[: len(losses)].set(jnp.asarray(losses))
    values = (recent, jnp.asarray(np.mean(losses)), jnp.asarray(float(len(losses))), jnp.asarray(last))
    where = lambda s: (s.recent, s.average, s.weight, s.last, s.count)
    return eqx.tree_at(where, state, (*values, jnp.int32(len(losses))))


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_a_rise_up_to_the_reference_is_taken(rule):
    search = rv.NonMonotone(rule)
    objective, theta = falling()
    t, found, state = search_once(search, objective, theta, state=remembering(search, [3.0, 5.0], 0.0))
    assert (float(t), float(found.value), float(found.grad[0])) == (1.0, 2.0, 5.0)
    assert found.work.counts() == {"evaluations": 1, "gradients": 1, "rows": 0, "inner": 0, "products": 0}
    assert float(state.last) == 2.0
    # Zhang and Hager, 2004: Q⁺ = ηQ + 1, C⁺ = (ηQC + L⁺)/Q⁺.
    np.testing.assert_allclose(state.average, (0.85 * 2 * 4.0 + 2.0) / (0.85 * 2 + 1), rtol=1e-12)


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_the_reference_starts_over_when_the_points_are_new(rule):
    """The loss here is not the one that was accepted last: what was remembered belongs to other points."""
    search = rv.NonMonotone(rule)
    objective, theta = falling()
    t, found, state = search_once(search, objective, theta, state=remembering(search, [3.0, 5.0], 0.123))
    assert float(t) < 1
    assert float(found.value) < 0
    assert int(state.count) == 1


def test_backtracking_jumps_to_the_minimiser_of_the_parabola():
    objective, theta = falling()
    t, found, _ = search_once(rv.NonMonotone(), objective, theta)
    np.testing.assert_allclose(t, 1 / 6, rtol=1e-12)
    assert found.work.counts()["evaluations"] == 2
    np.testing.assert_allclose(found.grad, 0, atol=1e-12)


def test_nonmonotone_fails_uphill_and_rejects_nan():
    objective, theta = falling()
    _, found, state = search_once(rv.NonMonotone(), objective, theta, length=-1.0)
    assert bool(found.failed)
    assert (float(found.step[0]), float(found.value), int(state.count)) == (0.0, 0.0, 0)
    bad, theta = rv.Objective.from_loss(lambda x, _: jnp.where(x[0] > 0.3, jnp.nan, -x[0]), jnp.zeros(1))
    t, found, _ = search_once(rv.NonMonotone(), bad, theta)
    assert float(t) == pytest.approx(0.1)
    assert not found.failed


@pytest.mark.parametrize("rule", ["max", "mean"])
def test_losses_stay_below_what_theory_says(rule):
    """Barzilai–Borwein on Rosenbrock: it rises at times, but never above R + c t ⟨∇L, d⟩ with R by NumPy."""
    loss = lambda x, _: 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
    objective, theta = rv.Objective.from_loss(loss, jnp.array([-1.2, 1.0]))
    search = rv.NonMonotone(rule, window=4)
    optimizer = rv.Optimizer(rv.BarzilaiBorwein("long"), search)
    thetas, infos = cases.walk(optimizer, objective, theta, None, 120, stop=lambda at, info: info.value < 1e-9)
    losses = [float(loss(at, None)) for at in thetas]
    average, weight = losses[0], 1.0
    for k, (after, info) in enumerate(zip(losses[1:], infos, strict=True)):
        reference = max(losses[max(0, k - 3) : k + 1]) if rule == "max" else average
        gradient = np.asarray(jax.grad(lambda at: loss(at, None))(jnp.asarray(thetas[k])))
        assert after <= reference + 1e-4 * gradient @ (thetas[k + 1] - thetas[k]) + 1e-12
        assert float(info.value) == pytest.approx(after, rel=1e-12)
        weight, average = 0.85 * weight + 1, (0.85 * weight * average + after) / (0.85 * weight + 1)
    assert (np.diff(losses) > 0).sum() >= 3
    assert losses[-1] < 1e-6 * losses[0]


@pytest.mark.parametrize("scale", [1e-1, 1e1, 1e4])
@pytest.mark.parametrize("name", ["2", "3", "5"])
def test_grid_finds_the_best_of_its_lengths(name, scale):
    function = cases.MORE_THUENTE[name]
    objective, theta = rv.Objective.from_loss(lambda x, _: function(x[0]), jnp.zeros(1))
    slope = float(jax.grad(function)(jnp.zeros(())))
    t, found, _ = search_once(rv.GridSearch(), objective, theta, length=-scale / slope)
    lengths = scale * 0.5 ** np.arange(31)
    values = np.array([float(function(jnp.asarray(x))) for x in lengths])
    np.testing.assert_allclose(found.step[0], lengths[np.argmin(values)], rtol=1e-12)
    np.testing.assert_allclose(found.value, values.min(), rtol=1e-12)
    assert found.work.counts() == {"evaluations": 31, "gradients": 0, "rows": 0, "inner": 30, "products": 0}
    np.testing.assert_allclose(t, 0.5 ** np.argmin(values), rtol=1e-12)


def test_grid_fails_where_nothing_is_lower():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.abs(x[0]) + 2 * x[0], jnp.array([0.0]))
    _, found, _ = search_once(rv.GridSearch(count=4), objective, theta, length=-1.0)
    assert bool(found.failed)
    assert float(found.step[0]) == 0


def test_grid_serves_undamped_gauss_newton():
    """From a start whose full step is far too long, the loss falls at each step down to the solution."""
    residuals = lambda x, _: jnp.stack([jnp.arctan(x[0]), 0.1 * x[1]])
    objective, theta = rv.Objective.from_residuals(residuals, jnp.array([20.0, 3.0]))
    optimizer = rv.Optimizer(rv.GaussNewton(acceleration=False, ridge=1e-12), rv.GridSearch())
    thetas, infos = cases.walk(optimizer, objective, theta, None, 12, stop=lambda at, info: info.value < 1e-20)
    values = [float(info.value) for info in infos]
    assert (np.diff(values) < 0).all()
    assert values[-1] < 1e-20
    assert len(thetas) > 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("make,told", [
    (lambda: rv.NonMonotone("best"), "'max' or 'mean'"),
    (lambda: rv.NonMonotone(window=0), "window"),
    (lambda: rv.GridSearch(count=0), "at least one length"),
    (lambda: rv.Sharpness(products=0), "at least 1"),
    (lambda: rv.gradient_descent(0.1, search=rv.Wolfe()), "not both"),
    (lambda: rv.barzilai_borwein("bb1"), "'long', 'short'"),
    (lambda: rv.nesterov(restart="speed"), "'gradient', 'function'"),
    (lambda: rv.nonlinear_cg("prp"), r"'fr', 'pr\+', 'hz'"),
    (lambda: rv.anderson(memory=0), "at least one pair"),
    (lambda: rv.block_coordinate(repeat=0), "repeat at least 1"),
])  # fmt: skip
def test_what_makes_no_sense_is_told(make, told):
    with pytest.raises(ValueError, match=told):
        make()
