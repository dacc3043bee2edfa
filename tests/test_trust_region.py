"""Trust regions and cubic regularisation against their optimality conditions, formulas and rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.linalg import cubic_model, lanczos, steihaug, trust_region
from ravine.optim.path import Previous

SIZE = 6
RADII = (1e-6, 0.03, 1.0, 7.0, 1e4)


def nothing(size):
    vector = jnp.zeros(size)
    return Previous(vector, vector, vector, jnp.zeros(()), jnp.array(False), jnp.int32(0))


def symmetric(eigenvalues, seed=0):
    """A matrix with these eigenvalues, and its eigenvectors as columns."""
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return basis @ np.diag(eigenvalues) @ basis.T, basis


SPECTRA = {
    "convex": np.geomspace(0.1, 100, SIZE),
    "indefinite": np.array([-3.0, -0.5, 0.0, 0.2, 5.0, 40.0]),
    "concave": -np.geomspace(10, 0.1, SIZE),
    "double": np.array([-2.0, -2.0, 0.1, 1.0, 1.0, 3.0]),
    "singular": np.array([0.0, 0.0, 1.0, 2.0, 3.0, 4.0]),
}


@functools.cache
def solved(kind):
    """The solver over many (values, slopes, t) at once."""
    return jax.jit(jax.vmap({"radius": trust_region, "cubic": cubic_model}[kind]))


def problems():
    """Values, slopes and radii: g in general position, nearly orthogonal to the lowest eigenvectors, and orthogonal."""
    rng = np.random.default_rng(1)
    for values in SPECTRA.values():
        for low in (1.0, 1e-9, 1e-300, 0.0):
            slopes = rng.normal(size=SIZE)
            slopes[values == values[0]] *= low
            for t in RADII:
                yield values, slopes, t


@pytest.mark.parametrize("kind", ["radius", "cubic"])
def test_exact_steps_are_the_global_minimisers(kind):
    """(B + λI)x = −g with B + λI ⪰ 0 and λ(radius − ‖x‖) = 0, or ‖x‖ = t λ: sufficient, and met to rounding."""
    values, slopes, t = map(np.array, zip(*problems(), strict=True))
    found = jax.device_get(solved(kind)(values, slopes, t))
    x, shift = found.coefficients, found.shift
    size, scale = np.linalg.norm(x, axis=1), np.abs(values).max(axis=1) + shift
    residual = (values + shift[:, None]) * x + slopes
    assert (np.abs(residual).max(axis=1) <= 1e-10 * (np.linalg.norm(slopes, axis=1) + scale * size)).all()
    assert (shift >= -1e-12 * scale).all()
    assert (values[:, 0] + shift >= -1e-12 * scale).all()
    if kind == "radius":
        assert (size <= t * (1 + 1e-10)).all()
        assert ((np.abs(size - t) <= 1e-9 * t) | (shift == 0)).all()
        assert {bool(b) for b in found.bound} == {True, False}
    else:
        np.testing.assert_allclose(size, t * shift, rtol=1e-9)
    model = -np.sum(slopes * x, axis=1) - np.sum(values * x**2, axis=1) / 2
    np.testing.assert_allclose(found.decrease, model, rtol=1e-8, atol=1e-12)


def test_the_hard_case_reaches_the_border_along_the_lowest_eigenvector():
    values, slopes = jnp.array([-2.0, 1.0, 4.0]), jnp.array([0.0, 3.0, -6.0])
    found = trust_region(values, slopes, jnp.array(5.0))
    np.testing.assert_allclose(found.coefficients[1:], [-1.0, 1.0], rtol=1e-12)
    assert abs(found.coefficients[0]) == pytest.approx(np.sqrt(23), rel=1e-10)
    assert float(found.shift) == pytest.approx(2.0, rel=1e-12)


def test_float32_solves_it_too():
    values, slopes, t = (np.array(part, np.float32) for part in zip(*problems(), strict=True))
    found = jax.device_get(solved("radius")(values, slopes, t))
    size = np.linalg.norm(found.coefficients, axis=1)
    assert (np.isfinite(size) & (size <= t * 1.001)).all()
    assert (found.decrease > 0).all()


# ---------------------------------------------------------------------------------------------- conjugate gradients


@jax.jit
def truncated(matrix, gradient, radius):
    return steihaug(lambda v: matrix @ v, gradient, radius, tolerance=1e-13, iterations=50)


@pytest.mark.parametrize("name", SPECTRA)
def test_steihaug_ends_inside_on_the_border_or_at_the_solution(name):
    matrix, _ = symmetric(SPECTRA[name])
    gradient = np.random.default_rng(2).normal(size=SIZE)
    for radius in RADII:
        found = jax.device_get(truncated(matrix, gradient, radius))
        x, size = found.x, np.linalg.norm(found.x)
        assert size <= radius * (1 + 1e-10)
        assert bool(found.bound) == (abs(size - radius) <= 1e-9 * radius)
        np.testing.assert_allclose(found.decrease, -gradient @ x - x @ matrix @ x / 2, rtol=1e-9)
        # No worse than the Cauchy point, no better than the exact step.
        bend, slope = gradient @ matrix @ gradient, gradient @ gradient
        t = radius / np.sqrt(slope) if bend <= 0 else min(radius / np.sqrt(slope), slope / bend)
        assert found.decrease >= (t * slope - t**2 * bend / 2) * (1 - 1e-12)
        values, vectors = np.linalg.eigh(matrix)
        best = trust_region(jnp.asarray(values), jnp.asarray(gradient @ vectors), jnp.asarray(radius))
        assert found.decrease <= best.decrease * (1 + 1e-9)
        if not found.bound:
            np.testing.assert_allclose(x, -np.linalg.solve(matrix, gradient), rtol=1e-9)


def test_steihaug_goes_to_the_border_in_a_direction_of_negative_curvature():
    found = truncated(jnp.diag(jnp.array([1.0, 1.0, -1.0])), jnp.array([1.0, 0.0, 1e-3]), jnp.array(10.0))
    assert bool(found.bound)
    assert abs(found.x[2]) > 9


# --------------------------------------------------------------------------------------------------- whole methods


def curved(x, matrix):
    """A quadratic in x − 1 with a quartic term, any eigenvalues."""
    return jnp.dot(x - 1, matrix @ (x - 1)) / 2 + jnp.sum((x - 1) ** 4) / 8


def proposals(direction, objective, theta, batch, radii):
    """What a direction proposes for each radius, compiled."""

    @jax.jit
    def run(radii):
        lin = objective.linearise(theta, batch)
        path, _ = direction(lin, theta, direction.init(objective, theta), nothing(theta.shape[0]), key=cases.KEY)
        return jax.lax.map(lambda t: (path.propose(t), path.reduction(t, path(t)), path(t)), radii)

    return jax.device_get(run(jnp.asarray(radii)))


SUBPROBLEMS = {"cauchy": rv.Cauchy(), "dogleg": rv.Dogleg(), "steihaug": rv.Steihaug(), "exact": rv.Exact()}


@pytest.mark.parametrize("name", SUBPROBLEMS)
@pytest.mark.parametrize("spectrum", ["convex", "indefinite"])
def test_paths_stay_inside_and_predict_the_model(name, spectrum):
    matrix, _ = symmetric(SPECTRA[spectrum], 3)
    objective, theta = rv.Objective.from_loss(curved, jnp.full(SIZE, 0.5))
    hessian, gradient = (f(lambda x: objective(x, matrix))(theta) for f in (jax.hessian, jax.grad))
    direction = rv.TrustRegion(rv.Hessian(), SUBPROBLEMS[name])
    found, reduction, step = proposals(direction, objective, theta, matrix, RADII)
    np.testing.assert_array_equal(step, found.step)
    assert (np.linalg.norm(step, axis=1) <= np.array(RADII) * (1 + 1e-9)).all()
    for s, predicted in zip(step, reduction, strict=True):
        assert predicted == pytest.approx(float(-gradient @ s - s @ hessian @ s / 2), rel=1e-8)
    assert (np.diff(found.reduction) >= -1e-12 * found.reduction[1:]).all()
    if (name, spectrum) != ("dogleg", "indefinite"):  # the dogleg's own model is shifted there
        np.testing.assert_allclose(found.reduction, reduction, rtol=1e-8)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_krylov_subspaces_of_full_dimension_are_exact(spectrum):
    """The radius and the cubic model both; of less, still inside and no better than the best."""
    matrix, _ = symmetric(SPECTRA[spectrum], 3)
    objective, theta = rv.Objective.from_loss(cases.bowl, jnp.linspace(0, 2, SIZE))
    for inner in (rv.Exact(), rv.Cubic()):
        ends = [
            proposals(rv.TrustRegion(rv.Hessian(), way), objective, theta, jnp.asarray(matrix), RADII)[0]
            for way in (inner, rv.Lanczos(inner, SIZE), rv.Lanczos(inner, 2))
        ]
        gradient = matrix @ (np.linspace(0, 2, SIZE) - 1)
        if spectrum == "convex":  # solved to the first tolerance of inexact Newton
            inside = ~ends[1].bound if inner == rv.Exact() else np.zeros(len(RADII), bool)
            rest = ends[1].step @ matrix + gradient
            assert (np.linalg.norm(rest[inside], axis=1) <= 0.1 * np.linalg.norm(gradient) * (1 + 1e-9)).all()
        elif spectrum != "singular":
            np.testing.assert_allclose(ends[1].reduction, ends[0].reduction, rtol=1e-7)
        assert (ends[2].reduction <= ends[0].reduction * (1 + 1e-9)).all()
        assert (ends[2].reduction > 0).all()


def test_lanczos_stops_where_conjugate_gradients_would():
    matrix, _ = symmetric(SPECTRA["convex"], 3)
    right = np.random.default_rng(4).normal(size=SIZE)

    @jax.jit
    def both(tolerance):
        product, b = lambda v: jnp.asarray(matrix) @ v, jnp.asarray(right)
        return lanczos(product, b, size=SIZE, tolerance=tolerance), steihaug(
            product, b, jnp.array(1e9), tolerance=tolerance
        )

    for tolerance in (0.3, 0.03, 1e-6):
        (basis, small, count), shorter = jax.device_get(both(tolerance))
        np.testing.assert_allclose(basis @ basis.T, np.diag(np.arange(SIZE) < count), atol=1e-12)
        used = basis[:count]
        np.testing.assert_allclose(used @ matrix @ used.T, small[:count, :count], atol=1e-10)
        x = -used.T @ np.linalg.solve(small[:count, :count], used @ right)
        assert np.linalg.norm(right + matrix @ x) <= tolerance * np.linalg.norm(right) * (1 + 1e-9)
        assert count == shorter.iterations


def test_dogleg_is_the_formula():
    """Nocedal and Wright, 2006, equation 4.16, with its quadratic equation solved by NumPy."""
    matrix, _ = symmetric(SPECTRA["convex"], 4)
    objective, theta = rv.Objective.from_loss(cases.bowl, jnp.zeros(SIZE))
    gradient = matrix @ (np.zeros(SIZE) - 1)
    newton = -np.linalg.solve(matrix, gradient)
    cauchy = -(gradient @ gradient) / (gradient @ matrix @ gradient) * gradient
    lengths = np.linalg.norm(cauchy), np.linalg.norm(newton)
    radii = [lengths[0] / 3, *np.linspace(*lengths, 5)[1:-1], 2 * lengths[1]]
    direction = rv.TrustRegion(rv.Hessian(), rv.Dogleg())
    found = proposals(direction, objective, theta, jnp.asarray(matrix), radii)[0]
    leg = newton - cauchy
    for radius, step in zip(radii[1:-1], found.step[1:-1], strict=True):
        roots = np.roots([leg @ leg, 2 * cauchy @ leg, cauchy @ cauchy - radius**2])
        np.testing.assert_allclose(step, cauchy + roots.max() * leg, rtol=1e-9)
    np.testing.assert_allclose(found.step[0], cauchy / 3, rtol=1e-9)
    np.testing.assert_allclose(found.step[-1], newton, rtol=1e-9)
    assert found.bound.tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("name", ["dogleg", "steihaug", "exact"])
def test_a_huge_radius_is_newton(name):
    """And the minimum of a quadratic in one step, by gradients at the start and at the end."""
    objective, theta, matrix = cases.quadratic(SPECTRA["convex"], rotation=2)
    subproblem = rv.Steihaug(50) if name == "steihaug" else SUBPROBLEMS[name]
    optimizer = rv.Optimizer(rv.TrustRegion(rv.Hessian(), subproblem), rv.Radius(1e8))
    thetas, infos = cases.walk(optimizer, objective, theta, matrix, 4)
    if name == "steihaug":  # to a tolerance of one tenth, then more exactly
        assert np.linalg.norm(thetas[-1] - 1) < 1e-3
        return
    np.testing.assert_allclose(thetas[1], 1.0, atol=1e-9)
    assert infos[0].work.counts() == {"evaluations": 2, "gradients": 2, "rows": 0, "inner": 1, "products": 2 * SIZE}


def test_gauss_newton_models_agree():
    """Steihaug's products, Moré and Sorensen's matrix and the dense oracle, in a huge region."""
    case = cases.strong()
    objective, theta = case.objective(block=4)
    matrix, gradient = (np.asarray(jax.jit(part)(theta)) for part in (case.oracle.gram, case.oracle.gradient))
    values, vectors = np.linalg.eigh(matrix)
    radii = [0.01 * np.linalg.norm(theta), 10.0]
    found = proposals(rv.TrustRegion(rv.GaussNewtonMatrix(), rv.Exact()), objective, theta, case.batch, radii)[0]
    for radius, step in zip(radii, found.step, strict=True):
        exact = trust_region(jnp.asarray(values), jnp.asarray(gradient @ vectors), jnp.asarray(radius))
        model = lambda s: -gradient @ s - s @ matrix @ s / 2
        assert model(step) == pytest.approx(float(exact.decrease), rel=1e-8)


# ------------------------------------------------------------------------------------------------------------ rates


def smooth(x, a):
    """Strictly convex, not quadratic, with its minimum at zero."""
    return jnp.sum(jnp.logaddexp(a @ x, -(a @ x))) + jnp.sum(x**4) + 0.5 * jnp.sum(x**2)


def errors_of(optimizer, steps):
    a = jnp.asarray(np.random.default_rng(2).normal(size=(6, 4)))
    objective, theta = rv.Objective.from_loss(smooth, jnp.array([0.6, -0.3, 0.5, 0.2]))
    thetas, _ = cases.walk(optimizer, objective, theta, a, steps, stop=lambda at, info: jnp.linalg.norm(at) < 1e-13)
    return np.array([np.linalg.norm(at) for at in thetas])


@pytest.mark.parametrize("name", ["newton", "saddle_free_newton", "trust_region_newton", "dogleg", "cubic_newton"])
def test_newton_methods_converge_quadratically(name):
    """The third derivative vanishes at this minimum, so that the order is even three but for regularisation."""
    errors = errors_of(rv.METHODS[name](), 14)
    assert errors[-1] < 1e-8
    small = errors[errors < 0.05]
    assert len(small) >= 2
    later = small[1:][small[1:] > 1e-14]
    assert (later <= 10 * small[: len(later)] ** 2).all()


@pytest.mark.parametrize("name", ["newton_cg", "trust_region_cg", "arc"])
def test_inexact_newton_converges_superlinearly(name):
    """Forcing terms that fall with the gradient: the error falls by ever larger factors."""
    errors = errors_of(rv.METHODS[name](), 14)
    factors = errors[1:] / errors[:-1]
    assert errors[-1] < 1e-8
    assert factors[errors[1:] > 1e-12][-1] < 1e-2
    assert factors[errors[1:] > 1e-12][-1] < factors[0] / 10


# ------------------------------------------------------------------------------------------------------ the radius


class Steps(rv.Direction):
    """Steps of exactly the radius against the gradient, and a prediction that is told."""

    reduction: float = 1.0

    def init(self, objective, theta):
        return None

    def __call__(self, lin, theta, state, previous, *, key):
        from ravine.optim.curvature import Quadratic
        from ravine.optim.trust_region import Bounded, Proposal

        down = -lin.grad / jnp.linalg.norm(lin.grad)
        propose = lambda t: Proposal(t * down, jnp.asarray(self.reduction), jnp.array(True), rv.Work())
        quadratic = Quadratic(lin, lambda v: v, lambda: jnp.eye(theta.shape[0]))
        return Bounded(quadratic, lin.grad, propose, rv.Work(), unit=1.0), None


def radius_after(loss, reduction, *, start=1.0, steps=1, **settings):
    objective, theta = rv.Objective.from_loss(loss, jnp.zeros(1))
    optimizer = rv.Optimizer(Steps(reduction), rv.Radius(start, **settings))
    state = optimizer.init(objective, theta)
    for _ in range(steps):
        theta, state, info = cases.step(optimizer, objective, theta, state, None)
    return float(state.search), float(theta[0]), info


def test_the_radius_grows_where_the_model_is_good():
    assert radius_after(lambda x, _: -jnp.sum(x), 1.0)[0] == 4.0
    assert radius_after(lambda x, _: -jnp.sum(x), 1.0, growth=2.0)[0] == 2.0
    # A parabola with its minimum at 1.5: the radius aims there.
    assert radius_after(lambda x, _: jnp.sum(x**2 / 2 - 1.5 * x), 1.0)[0] == pytest.approx(1.5)


def test_the_radius_shrinks_where_the_model_is_poor():
    radius, at, _ = radius_after(lambda x, _: jnp.sum(x**2 - 1.2 * x), 2.0)
    assert (radius, at) == (0.5, 1.0) or at < 1.0
    radius, at, info = radius_after(lambda x, _: jnp.sum(x**2 - 0.2 * x), 0.01)
    assert at == pytest.approx(0.1)  # the first trial went up, its parabola knows where the minimum is
    assert int(info.work.evaluations) == 4  # the start; 1, a tenth of it at least … once more, since ρ was too small


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_trials_that_are_not_finite_are_rejected_inside(bad):
    loss = lambda x, _: jnp.sum(jnp.where(x > 0.3, bad, (x - 0.2) ** 2))
    _, at, info = radius_after(loss, 0.02)
    assert 0 < at < 0.3
    assert int(info.failures) == 0
    assert bool(info.finite)


def test_when_nothing_goes_down_the_search_fails_and_stays():
    radius, at, info = radius_after(lambda x, _: jnp.sum(jnp.abs(x) + 1e-30 * x), 1.0)
    assert at == 0.0
    assert int(info.failures) == 1
    assert 0 < radius < 1e-6


def test_noise_that_is_declared_is_forgiven():
    """A value that rises by less than the noise, where the model promised a little: taken only when it is declared."""
    loss = lambda x, _: jnp.sum(jnp.where(jnp.abs(x) > 0.5, 1e-3, 0.0) - 1e-3 * x + 0.5e-3 * x)
    assert radius_after(loss, 1e-3)[1] < 0.6
    assert radius_after(loss, 1e-3, noise=1e-3)[1] == 1.0


def test_radius_refuses_other_paths():
    objective, theta, matrix = cases.quadratic([1.0, 2.0])
    with pytest.raises(TypeError, match="needs a path that takes a radius"):
        cases.walk(rv.Optimizer(rv.Steepest(), rv.Radius()), objective, theta, matrix, 1)
    with pytest.raises(TypeError, match="use `Radius`"):
        cases.walk(rv.Optimizer(rv.TrustRegion(rv.Hessian(), rv.Exact()), rv.Wolfe()), objective, theta, matrix, 1)


def test_a_gauss_newton_model_refuses_a_bare_loss():
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x**2), jnp.ones(3))
    for method in (rv.trust_region_gauss_newton, rv.hessian_free):
        with pytest.raises(ValueError, match="needs residuals, but this objective is a bare scalar loss"):
            method().init(objective, theta)


# --------------------------------------------------------------------------------------------- symmetric rank one


@functools.cache
def updater(curvature, size):
    """(state, s, y) -> (B, eigenvalues and vectors against g, state), compiled."""
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x), jnp.zeros(size))

    @jax.jit
    def run(state, s, y, grad):
        lin = objective.linearise(theta, None, value=jnp.ones(()), grad=grad)
        previous = Previous(s, y, grad, jnp.ones(()), jnp.array(False), jnp.int32(1))
        quadratic, state = curvature(lin, state, previous, key=cases.KEY)
        spectrum = quadratic.spectrum(grad)
        columns = jax.vmap(quadratic.product)(jnp.eye(size))
        rows = jax.vmap(spectrum.lift)(jnp.eye(spectrum.values.shape[0]))
        return quadratic.matrix(), columns, (spectrum.values, spectrum.slopes, rows), state

    return run, curvature.init(objective, theta)


def rank_one(matrix, s, y):
    r = y - matrix @ s
    return matrix + np.outer(r, r) / (r @ s)


@pytest.mark.parametrize("curvature", [rv.SR1(), rv.LimitedSR1(SIZE)], ids=["dense", "limited"])
def test_sr1_learns_an_indefinite_hessian_in_n_steps(curvature):
    """Hereditary for any independent steps, without a line search (Nocedal and Wright, 2006, theorem 6.1)."""
    hessian, _ = symmetric(SPECTRA["indefinite"], 5)
    rng = np.random.default_rng(6)
    run, state = updater(curvature, SIZE)
    for _ in range(SIZE):
        s, grad = rng.normal(size=SIZE), rng.normal(size=SIZE)
        found, _, _, state = run(state, s, hessian @ s, grad)
    np.testing.assert_allclose(found, hessian, atol=1e-7)


@pytest.mark.parametrize("memory", [3, 10])
def test_limited_memory_is_the_recursion_over_its_pairs(memory):
    """B, its products and its spectrum are those of the dense update from γI by the pairs in memory."""
    rng, n = np.random.default_rng(8), 7
    root = rng.normal(size=(n, n))
    hessian = root + root.T
    run, state = updater(rv.LimitedSR1(memory), n)
    pairs = []
    for number in range(6):
        s, grad = 10.0 ** rng.uniform(-6, 1) * rng.normal(size=n), rng.normal(size=n)
        pairs.append((s, hessian @ s + 0.1 * np.linalg.norm(s) * rng.normal(size=n)))
        found, columns, (values, slopes, rows), state = run(state, *pairs[-1], grad)
        scales = [(y @ y) / (s @ y) for s, y in pairs if s @ y > 0]
        if not scales:
            continue
        matrix = scales[-1] * np.eye(n)
        for s, y in pairs[-memory:]:
            matrix = rank_one(matrix, s, y)
        np.testing.assert_allclose(found, matrix, rtol=1e-6, atol=1e-6 * np.abs(matrix).max(), err_msg=str(number))
        np.testing.assert_allclose(columns, found, atol=1e-9 * np.abs(matrix).max())
        # The spectrum contains all of the gradient, and B acts on it as its eigenvalues say.
        assert (np.diff(values) >= 0).all()
        np.testing.assert_allclose(slopes @ rows, grad, atol=1e-9)
        np.testing.assert_allclose(rows @ found, values[:, None] * rows, atol=1e-7 * np.abs(matrix).max())


def test_rank_one_pairs_without_information_are_skipped():
    run, state = updater(rv.SR1(), SIZE)
    rng = np.random.default_rng(9)
    s, grad = rng.normal(size=SIZE), rng.normal(size=SIZE)
    before, _, _, state = run(state, s, 2 * s, grad)
    np.testing.assert_allclose(before, 2 * np.eye(SIZE), rtol=1e-12)
    r = rng.normal(size=SIZE)
    r -= (r @ s) / (s @ s) * s  # y − Bs orthogonal to s
    after, _, _, _ = run(state, s, 2 * s + r, grad)
    np.testing.assert_allclose(after, before, atol=1e-12)


@pytest.mark.parametrize("name", ["sr1", "lsr1"])
def test_rank_one_methods_converge_superlinearly(name):
    errors = errors_of(rv.METHODS[name](), 40)
    assert errors[-1] < 1e-9
    factors = errors[1:] / errors[:-1]
    assert np.exp(np.mean(np.log(factors[-4:]))) < 0.25


@pytest.mark.parametrize("name", ["trust_region_newton", "trust_region_cg", "cubic_newton", "sr1", "dogleg"])
def test_float32_goes_down_too(name):
    objective, theta = rv.Objective.from_residuals(
        lambda x, _: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]]), jnp.array([0.5, 0.5], jnp.float32)
    )
    thetas, _ = cases.walk(rv.METHODS[name](), objective, theta, None, 60)
    assert thetas[-1].dtype == np.float32
    np.testing.assert_allclose(thetas[-1], 1.0, atol=2e-2)


@pytest.mark.parametrize("name", ["trust_region_newton", "cubic_newton", "trust_region_cg", "arc", "sr1"])
def test_saddles_are_left(name):
    """x⁴/4 − x²/2 + y²/2 next to its saddle at zero, on the axis that leads there."""
    loss = lambda x, _: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2
    objective, theta = rv.Objective.from_loss(loss, jnp.array([1e-9, 1.0]))
    thetas, infos = cases.walk(rv.METHODS[name](), objective, theta, None, 40)
    assert infos[-1].value < -0.24, thetas[-1]
