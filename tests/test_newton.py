"""Newton directions against dense algebra; what happens at saddles, with parts of the points, and after failures."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.curvature import part_of
from ravine.optim.path import Previous

SIZE = 5
INDEFINITE = np.array([-2.0, -0.3, 0.4, 1.0, 9.0])


def before(size, **changes):
    vector = jnp.zeros(size)
    nothing = Previous(vector, vector, vector, jnp.zeros(()), jnp.array(False), jnp.int32(0))
    return dataclasses.replace(nothing, **changes)


def walk_once(direction, objective, theta, batch, previous=None, state=None):
    """The path's direction, its work and the next state, compiled."""

    @jax.jit
    def run(theta, batch):
        lin = objective.linearise(theta, batch)
        here = direction.init(objective, theta) if state is None else state
        path, new = direction(lin, theta, here, previous or before(theta.shape[0]), key=cases.KEY)
        return path.direction, path.work, new

    found, work, new = run(theta, batch)
    return np.asarray(found), work.counts(), new


@functools.cache
def bowl(spectrum="convex"):
    """½ (x − 1)ᵀA(x − 1) with its matrix, gradient at zero and eigenvectors."""
    values = np.geomspace(0.5, 50, SIZE) if spectrum == "convex" else INDEFINITE
    objective, theta, matrix = cases.quadratic(values, rotation=3)
    vectors = np.linalg.eigh(matrix)[1]
    return objective, theta, matrix, -np.asarray(matrix) @ np.ones(SIZE), values, vectors


# ------------------------------------------------------------------------------------------------------ dense Newton


@pytest.mark.parametrize("modify", ["shift", "clip", "absolute", "none"])
def test_on_a_convex_quadratic_every_modification_is_newton(modify):
    objective, theta, matrix, *_ = bowl()
    found, work, _ = walk_once(rv.Newton(modify), objective, theta, matrix)
    np.testing.assert_allclose(found, 1.0, rtol=1e-10)
    assert (work["products"], work["inner"]) == (2 * SIZE, 1)


@pytest.mark.parametrize("modify", ["shift", "clip", "absolute", "none"])
def test_modified_directions_against_eigenvalues(modify):
    objective, theta, matrix, grad, values, vectors = bowl("indefinite")
    found, work, _ = walk_once(rv.Newton(modify, floor=0.1), objective, theta, matrix)
    coefficients = -vectors.T @ found / (vectors.T @ grad)  # 1 over the modified eigenvalue
    if modify == "shift":
        shift = 1 / coefficients - values
        np.testing.assert_allclose(shift, shift[0], rtol=1e-6)
        assert 2 < shift[0] < 21  # tenfold at most beyond what is needed
        assert work["inner"] > 1
        return
    expected = {"clip": np.maximum(values, 0.9), "absolute": np.maximum(np.abs(values), 0.9), "none": values}[modify]
    np.testing.assert_allclose(coefficients, 1 / expected, rtol=1e-9)


def test_the_hessian_of_every_kind_of_objective():
    """Products and matrix against `jax.hessian` of the dense oracle, in columns that do not divide evenly."""
    for name in ("strong", "ritz"):
        case = cases.OBJECTIVES[name]()
        objective, theta = case.objective(block=4)
        size = theta.shape[0]

        @eqx.filter_jit
        def matrix(objective, theta, batch, size=size):
            lin = objective.linearise(theta, batch)
            return rv.Hessian(group=5)(lin, None, before(size), key=cases.KEY)[0].matrix()

        dense = np.asarray(jax.jit(case.oracle.hessian)(theta))
        found = np.asarray(matrix(objective, theta, case.batch))
        np.testing.assert_allclose(found, dense, rtol=1e-9, atol=1e-10 * np.abs(dense).max())
        np.testing.assert_array_equal(found, found.T)


def saddle(x, _):
    """Minima at (±1, 0), a saddle at zero."""
    return x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2


def test_saddles_attract_newton_and_repel_its_modifications():
    objective, theta = rv.Objective.from_loss(saddle, jnp.array([0.2, 1.0]))
    pure = rv.Optimizer(rv.Newton("none"), rv.Fixed(1.0))
    thetas, _ = cases.walk(pure, objective, theta, None, 8)
    np.testing.assert_allclose(thetas[-1], 0.0, atol=1e-12)
    for method in (rv.saddle_free_newton, rv.newton, rv.newton_cg):
        thetas, infos = cases.walk(method(), objective, theta, None, 25)
        assert infos[-1].value == pytest.approx(-0.25, abs=1e-10), method


def test_saddle_free_leaves_a_saddle_at_an_exponential_rate():
    """|λ| scales the escape: the distance along the negative direction doubles at each whole step, whatever λ is."""
    for scale in (1e-3, 1e3):
        loss = lambda x, scale: (x[1] ** 2 - scale * x[0] ** 2) / 2
        objective, theta = rv.Objective.from_loss(loss, jnp.array([1e-6, 1.0]))
        optimizer = rv.Optimizer(rv.Newton("absolute", floor=1e-12), rv.Fixed(1.0))
        thetas, _ = cases.walk(optimizer, objective, theta, jnp.asarray(scale), 6)
        np.testing.assert_allclose(np.array(thetas)[:, 0], 1e-6 * 2.0 ** np.arange(7), rtol=1e-9)


# ----------------------------------------------------------------------------------------- conjugate gradients inside


def test_newton_cg_solves_to_its_tolerance_and_exactly_in_the_limit():
    objective, theta, matrix, grad, *_ = bowl()
    found, work, _ = walk_once(rv.NewtonCG(tolerance=1e-12), objective, theta, matrix)
    np.testing.assert_allclose(found, 1.0, rtol=1e-9)
    assert work["products"] == 2 * work["inner"] <= 2 * (SIZE + 1)
    found, _, _ = walk_once(rv.NewtonCG(), objective, theta, matrix)
    assert np.linalg.norm(matrix @ found + grad) <= 0.1 * np.linalg.norm(grad)


def test_newton_cg_stops_at_negative_curvature():
    objective, theta = rv.Objective.from_loss(lambda x, a: jnp.dot(x, a * x) / 2, jnp.array([1.0, 1.0, 1e-3]))
    found, work, _ = walk_once(rv.NewtonCG(tolerance=1e-10), objective, theta, jnp.array([1.0, 1.0, -1.0]))
    assert work["inner"] == 2  # the second direction is the one of negative curvature
    assert found[0] == pytest.approx(-1.0, rel=1e-3)
    found, work, _ = walk_once(rv.NewtonCG(), objective, theta, jnp.array([-1.0, -1.0, -1.0]))
    np.testing.assert_allclose(found, [1.0, 1.0, 1e-3])  # −∇L
    assert work["inner"] == 1


def test_gauss_newton_products_serve_newton_cg():
    case = cases.strong()
    objective, theta = case.objective(block=4)
    matrix, grad = (np.asarray(jax.jit(part)(theta)) for part in (case.oracle.gram, case.oracle.gradient))
    direction = rv.NewtonCG(rv.GaussNewtonMatrix(), tolerance=1e-4)
    found, _, _ = walk_once(direction, objective, theta, case.batch)
    assert np.linalg.norm(matrix @ found + grad) <= 1e-4 * np.linalg.norm(grad) * (1 + 1e-6)


@pytest.mark.parametrize("rank", [2, 60])
def test_nystrom_newton_is_the_damped_solve(rank):
    """(∇²L + μI)d = −∇L for any rank; in one iteration at full rank (Rathore et al., 2024)."""
    objective, theta, matrix, grad, *_ = bowl()
    direction = rv.NystromNewton(1e-2, rank, tolerance=1e-10)
    found, work, state = walk_once(direction, objective, theta, matrix)
    np.testing.assert_allclose(found, -np.linalg.solve(matrix + 1e-2 * np.eye(SIZE), grad), rtol=1e-7)
    assert work["products"] == 2 * work["inner"] + 2 * min(rank, SIZE)
    assert work["inner"] == 1 if rank == 60 else work["inner"] > 1
    # The sketch serves the next step.
    _, work, state = walk_once(direction, objective, theta, matrix, state=state)
    assert work["products"] == 2 * work["inner"]
    assert int(state.age) == 2


def test_nystrom_newton_goes_down_where_the_hessian_is_indefinite():
    objective, theta, matrix, grad, *_ = bowl("indefinite")
    found, _, state = walk_once(rv.NystromNewton(), objective, theta, matrix)
    assert np.isfinite(found).all()
    assert np.isfinite(state.sketch.values).all()
    assert found @ grad < 0


# ------------------------------------------------------------------------------------------------------ Hessian-free


def residuals(x, _):
    return jnp.concatenate([x[:-1] * x[1:] - 1, 0.3 * x**2 + x])


def proposed(direction, t, previous=None):
    objective, theta = rv.Objective.from_residuals(residuals, jnp.linspace(0.5, 1.5, 6))

    @jax.jit
    def run(t):
        lin = objective.linearise(theta, None)
        path, _ = direction(lin, theta, direction.init(objective, theta), previous or before(6), key=cases.KEY)
        found = path.propose(t)
        return found, path.reduction(t, found.step), lin.gram(), lin.grad

    found, reduction, matrix, grad = jax.device_get(run(jnp.asarray(t)))
    return found, reduction, matrix, grad


@pytest.mark.parametrize("t", [0.5, 1e4])
def test_hessian_free_solves_the_damped_gauss_newton_system(t):
    found, reduction, matrix, grad = proposed(rv.HessianFree(), t)
    np.testing.assert_allclose(found.step, -np.linalg.solve(matrix + np.eye(6) / t, grad), rtol=1e-3, atol=1e-4)
    assert found.reduction == pytest.approx(reduction, rel=1e-9)
    assert found.work.counts()["products"] == 2 * found.work.counts()["inner"]


def test_hessian_free_starts_from_the_last_step():
    """Where that is the solution, one product says so; with another start it takes more."""
    cold, _, matrix, grad = proposed(rv.HessianFree(1.0), 1e4)
    exact = jnp.asarray(-np.linalg.solve(matrix + np.eye(6) / 1e4, grad))
    warm = proposed(rv.HessianFree(1.0), 1e4, before(6, s=exact))[0]
    np.testing.assert_allclose(warm.step, exact, rtol=1e-9)
    assert warm.work.counts()["inner"] == 1 < cold.work.counts()["inner"]
    failed = proposed(rv.HessianFree(1.0), 1e4, before(6, s=exact, failed=jnp.array(True)))[0]
    np.testing.assert_array_equal(failed.step, cold.step)


def test_hessian_free_damping_is_martens_rule():
    objective, theta = rv.Objective.from_residuals(lambda x, _: jnp.asarray([1.0, 3.0]) * x - 1, jnp.zeros(2))
    optimizer, ends = rv.hessian_free(damping=1.0), []
    state = optimizer.init(objective, theta)
    for _ in range(4):
        theta, state, _ = cases.step(optimizer, objective, theta, state, None)
        ends.append(1 / float(state.search))
    np.testing.assert_allclose(ends, (2 / 3) ** np.arange(1, 5), rtol=1e-9)  # linear residuals: the model is exact


# ------------------------------------------------------------------------------------------------- parts of the points


def test_a_part_of_the_points_is_unbiased():
    """Averaged over many draws, Hessians on a part are the Hessian; weights and means alike."""
    case = cases.quadrature()
    objective, theta = case.objective()
    v = jnp.cos(jnp.arange(theta.shape[0], dtype=float))

    @jax.jit
    def products(keys):
        one = lambda key: objective.linearise(theta, part_of(objective, case.batch, 0.4, key)).hessian_product(v)
        return jax.lax.map(one, keys, batch_size=50)

    found = np.asarray(products(jax.random.split(cases.KEY, 2000)))
    exact = np.asarray(case.oracle.hessian(theta) @ v)
    error = np.abs(found.mean(axis=0) - exact) / (found.std(axis=0) / np.sqrt(len(found)) + 1e-12)
    assert error.max() < 4.5
    assert found.std() > 0


def test_parts_are_points_without_repetition():
    case = cases.whole()
    objective, _ = case.objective()
    part = part_of(objective, case.batch, 0.3, cases.KEY)
    assert part["bc"].shape == (3, 2)  # the least number above 0.3 · 8
    rows = [tuple(row) for row in np.asarray(part["bc"])]
    assert len(set(rows)) == 3
    assert set(rows) <= {tuple(row) for row in np.asarray(case.batch["bc"])}
    assert part["pairs"] is case.batch["pairs"]  # a term that sees all its points together
    with pytest.raises(ValueError, match="share is 0"):
        rv.Hessian(0.0)


# ----------------------------------------------------------------------------------------------------------- the ladder


class Useless(rv.Direction):
    """Says which way, wrongly."""

    way: tuple[float, ...] = (1.0, 0.0)

    def init(self, objective, theta):
        return None

    def __call__(self, lin, theta, state, previous, *, key):
        return rv.Line(jnp.asarray(self.way), lin.grad), None


def rungs(way, failures):
    """The directions of a ladder over a fixed direction, from (3, 4) of a bowl, after so many failures in a row."""
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2) / 2, jnp.array([3.0, 4.0]))
    ladder = rv.Ladder(Useless(way))
    lin, state = objective.linearise(theta, None), ladder.init(objective, theta)
    moved = before(2, s=jnp.array([0.0, 2.0]), count=jnp.int32(1))
    path, state = ladder(lin, theta, state, moved, key=cases.KEY)
    for number in range(failures):
        failed = before(2, failed=jnp.array(True), count=jnp.int32(2 + number))
        path, state = ladder(lin, theta, state, failed, key=cases.KEY)
    return np.asarray(path.direction)


def test_the_ladder_climbs_down_to_steepest_descent():
    way, down = np.array([-2.0, 0.0]), -np.array([0.6, 0.8])
    np.testing.assert_array_equal(rungs(tuple(way), 0), way)
    np.testing.assert_allclose(rungs(tuple(way), 1), (way + 2 * down) / 2)
    np.testing.assert_allclose(rungs(tuple(way), 2), 0.2 * down)  # a tenth of the last accepted step
    np.testing.assert_allclose(rungs(tuple(way), 3), 0.2 * down)


@pytest.mark.parametrize("way", [(1.0, 0.0), (float("nan"), 0.0), (float("inf"), 0.0), (0.0, 0.0)])
def test_what_does_not_point_down_is_replaced(way):
    np.testing.assert_allclose(rungs(way, 0), [-0.6, -0.8])


@pytest.mark.parametrize("search", [rv.Armijo(), rv.Wolfe()])
def test_a_ladder_rescues_a_direction_that_leads_nowhere(search):
    """Downhill by the slope alone: along it the loss goes up from the first rounding on."""
    loss = lambda x, _: -x[0] + 1e40 * jnp.maximum(x[1], 0) ** 2 - 1e-60 * x[1]
    objective, theta = rv.Objective.from_loss(loss, jnp.zeros(2))
    for wrap, rescued in ((lambda d: d, False), (rv.Ladder, True)):
        optimizer = rv.Optimizer(wrap(Useless((0.0, 1.0))), search)
        _, infos = cases.walk(optimizer, objective, theta, None, 3)
        assert bool(infos[-1].value < 0) == rescued


def test_a_ladder_needs_a_straight_path():
    objective, theta = rv.Objective.from_residuals(residuals, jnp.ones(6))
    optimizer = rv.Optimizer(rv.Ladder(rv.GaussNewton()), rv.Damping())
    with pytest.raises(TypeError, match="the path of GaussNewton is not straight"):
        cases.walk(optimizer, objective, theta, None, 1)


def test_train_stops_with_a_sentence_when_the_ladder_ends():
    loss = lambda x, _: jnp.sum(jnp.abs(x) + 1e-9 * x)  # a kink is no stationary point, and nothing goes down from it
    run = rv.minimise(loss, jnp.zeros(3), optimizer=rv.newton(), steps=20)
    assert run.stop is rv.Stop.SEARCH_FAILED
    assert run.position.steps == 3
    assert "steepest descent included" in run.stop.value


@pytest.mark.parametrize("name", ["newton", "newton_cg", "nys_newton_cg", "trust_region_newton", "cubic_newton"])
def test_a_hessian_that_is_not_finite_is_survived(name):
    """√ has a gradient but no second derivative at one point of this sum: the step falls back or fails, never NaN."""

    @jax.custom_jvp
    def slope(x):
        return x

    @slope.defjvp
    def _(primals, tangents):
        return slope(primals[0]), tangents[0] * jnp.nan

    @jax.custom_jvp
    def square(x):
        return x**2 / 2

    @square.defjvp
    def _(primals, tangents):
        return square(primals[0]), slope(primals[0]) * tangents[0]

    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(square(x)), jnp.ones(2))
    thetas, infos = cases.walk(rv.METHODS[name](), objective, theta, None, 2)
    assert np.isfinite(thetas).all()
    assert all(bool(info.finite) for info in infos)
    if name in ("newton", "newton_cg", "nys_newton_cg"):
        assert infos[-1].value < 1e-3  # by steepest descent
