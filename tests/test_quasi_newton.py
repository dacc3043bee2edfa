"""Quasi-Newton updates against textbook formulas, and the identities that tie the methods together."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import oracles
import ravine as rv
from ravine.blocks import SharedRows
from ravine.optim.quasi_newton import Member, self_scaled, self_scaled_broyden, unscaled
from ravine.optim.search import Search

FAMILY = {"bfgs": unscaled, "ssbfgs": self_scaled, "ssbroyden": self_scaled_broyden}


class Exact(Search):
    """The exact minimiser along a line, of a quadratic: t = −⟨∇L, d⟩/⟨d, Ad⟩."""

    gives_value = True
    gives_grad = True

    def init(self, dtype):
        return None

    def __call__(self, phi, state):
        d = phi.path(jnp.ones((), phi.theta.dtype))
        t = -phi.slope / jnp.dot(d, phi.here.hessian_product(d))
        value, grad = phi.value_and_grad(t * d)
        return t, rv.Found(t * d, value, grad, rv.Work(1, 1), jnp.array(False)), None


def rosenbrock(x, _):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


START = jnp.array([-1.2, 1.0, -1.2, 1.0])


@eqx.filter_jit
def direct(direction, objective, theta, state, previous, grad):
    """The direction at a point whose gradient is given, and the new state."""
    lin = objective.linearise(theta, None, value=jnp.ones(()), grad=grad)
    path, state = direction(lin, theta, state, previous, key=cases.KEY)
    return path.direction, state


def problem(seed: int, n: int = 6):
    """A random SPD inverse H, a downhill direction's step s = −tHg and a y with yᵀs > 0; t and g as well."""
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(n, n))
    inverse = root @ root.T + 0.1 * np.eye(n)
    grad, t = rng.normal(size=n), rng.uniform(0.1, 2)
    s = -t * inverse @ grad
    other = rng.normal(size=(n, n))
    # Curvature well below, near, and well above that of H⁻¹, so that every branch of the scalings is met.
    y = 10.0 ** rng.uniform(-2, 2) * (other @ other.T + 0.1 * np.eye(n)) @ s / n
    return inverse, s, y, t, grad


def holding(direction, inverse, grad, factor=None):
    """The state of a direction whose H is `inverse`, or has this factor, after a step that started from `grad`."""
    objective, theta = rv.Objective.from_loss(rosenbrock, jnp.ones(grad.size))
    state = direction.init(objective, theta)
    # Of many roots one that is neither symmetric nor triangular.
    if factor is None:
        factor = np.linalg.cholesky(inverse) @ np.linalg.qr(np.random.default_rng(0).normal(size=inverse.shape))[0]
    base = np.zeros(state.base.matrix.shape)
    base[: grad.size] = factor.T
    return dataclasses.replace(
        state,
        base=SharedRows(jnp.asarray(base)),
        identity=jnp.array(False),
        factored=jnp.asarray(base @ grad),
        product=jnp.asarray(factor @ (factor.T @ grad)),
        fresh=jnp.array(False),
    )


def updated(update, inverse, s, y, t, grad):
    """H⁺ as the library computes it after an accepted step of length t."""
    objective, theta = rv.Objective.from_loss(rosenbrock, jnp.ones(s.size))
    previous = rv.Previous(
        jnp.asarray(s), jnp.asarray(y), jnp.asarray(grad), jnp.asarray(t), jnp.array(False), jnp.int32(3)
    )
    direction = rv.Broyden(update)
    after = jnp.asarray(grad + y)
    found, state = direct(direction, objective, theta, holding(direction, inverse, grad), previous, after)
    np.testing.assert_allclose(found, -state.inverse @ after, rtol=1e-10)
    return np.asarray(state.inverse)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("seed", range(6))
def test_update_is_the_textbook_formula(name, seed):
    inverse, s, y, t, grad = problem(seed)
    b = s @ np.linalg.solve(inverse, s) / (y @ s)
    tau, phi = {
        "bfgs": (1.0, 1.0),
        "ssbfgs": (min(1.0, 1 / b), 1.0),
        "ssbroyden": oracles.self_scaled_numbers(inverse, s, y),
    }[name]
    exact = oracles.broyden_family(inverse, s, y, tau, phi)
    found = updated(FAMILY[name], inverse, s, y, t, grad)
    np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-9 * np.abs(exact).max())


def test_every_branch_of_the_scaling_is_met():
    """The random pairs above reach θ ≤ 0 and θ > 0, and scalings with and without effect."""
    numbers = [oracles.self_scaled_numbers(*problem(seed)[:3]) for seed in range(6)]
    assert {phi > 1 for _, phi in numbers} == {True, False}
    assert {tau < 0.99 for tau, _ in numbers} == {True, False} or all(tau < 1 for tau, _ in numbers)


@pytest.mark.parametrize("seed", range(3))
def test_family_with_unit_numbers_is_bfgs(seed):
    inverse, s, y, t, grad = problem(seed)
    found = updated(lambda s, y, hy, b: (jnp.ones(()), jnp.ones(())), inverse, s, y, t, grad)
    exact = oracles.bfgs_product(inverse, s, y)
    np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-10 * np.abs(exact).max())


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("seed", range(10, 14))
def test_secant_equation_symmetry_and_positive_definiteness(name, seed):
    inverse, s, y, t, grad = problem(seed)
    found = updated(FAMILY[name], inverse, s, y, t, grad)
    np.testing.assert_allclose(found @ y, s, atol=1e-9 * np.linalg.norm(s) * np.linalg.cond(inverse) ** 0.5)
    np.testing.assert_allclose(found, found.T, atol=1e-12 * np.abs(found).max())
    assert np.linalg.eigvalsh((found + found.T) / 2).min() > 0


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("delay", [1, 3, 16])
def test_delayed_updates_are_the_updates(name, delay):
    """Many pairs, on points that change now and then: H and H∇L as if every pair had been worked in at once."""
    n = 7
    inverse, _, _, _, grad = problem(2, n)
    direction = rv.Broyden(FAMILY[name], delay=delay)
    objective, theta = rv.Objective.from_loss(rosenbrock, jnp.ones(n))
    state, dense = holding(direction, inverse, grad), inverse
    rng = np.random.default_rng(7)
    for number in range(20):
        t = rng.uniform(0.1, 2)
        s = -t * dense @ grad
        other = rng.normal(size=(n, n))
        y = (other @ other.T + 0.1 * np.eye(n)) @ s / n
        b = s @ np.linalg.solve(dense, s) / (y @ s)
        tau, phi = {
            "bfgs": (1.0, 1.0),
            "ssbfgs": (min(1.0, 1 / b), 1.0),
            "ssbroyden": oracles.self_scaled_numbers(dense, s, y),
        }[name]
        previous = rv.Previous(
            jnp.asarray(s), jnp.asarray(y), jnp.asarray(grad), jnp.asarray(t), jnp.array(False), jnp.int32(number + 1)
        )
        grad = rng.normal(size=n) if number % 5 == 4 else grad + y  # new points, or the same
        found, state = direct(direction, objective, theta, state, previous, jnp.asarray(grad))
        dense = oracles.broyden_family(dense, s, y, tau, phi)
        np.testing.assert_allclose(state.inverse, dense, rtol=1e-6, atol=1e-8 * np.abs(dense).max())
        np.testing.assert_allclose(found, -dense @ grad, rtol=1e-6, atol=1e-7 * np.abs(dense @ grad).max())


@pytest.mark.parametrize("name", FAMILY)
def test_bad_curvature_leaves_the_inverse_alone(name):
    inverse, s, y, t, grad = problem(1)
    np.testing.assert_allclose(updated(FAMILY[name], inverse, s, -y, t, grad), inverse, rtol=1e-13, atol=1e-14)
    # The guard is relative: a tiny pair of good curvature is used.
    tiny = updated(FAMILY[name], inverse, 1e-12 * s, 1e-12 * y, 1e-12 * t, grad)
    assert np.abs(tiny - inverse).max() > 1e-3 * np.abs(inverse).max()


# ------------------------------------------------------------------------------------------------ whole iterations


@pytest.mark.parametrize("phi", [0.0, 0.4, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(2))
def test_broyden_class(phi, seed):
    """φ = 0 is DFP in its own form, φ = 1 BFGS in its own, and the rest the straight line through them."""
    inverse, s, y, t, grad = problem(seed)
    hy = inverse @ y
    dfp = inverse - np.outer(hy, hy) / (y @ hy) + np.outer(s, s) / (y @ s)
    exact = (1 - phi) * dfp + phi * oracles.bfgs_product(inverse, s, y)
    found = updated(Member(phi), inverse, s, y, t, grad)
    np.testing.assert_allclose(found, exact, rtol=1e-8, atol=1e-9 * np.abs(exact).max())


def test_members_that_would_be_indefinite_are_held_back():
    for seed in range(4):
        inverse, s, y, t, grad = problem(seed)
        assert np.linalg.eigvalsh(oracles.broyden_family(inverse, s, y, 1.0, -1e6)).min() < 0
        assert np.linalg.eigvalsh(updated(Member(-1e6), inverse, s, y, t, grad)).min() > 0


@pytest.mark.parametrize("phi", [0.0, 0.6])
def test_with_exact_searches_every_member_takes_the_same_steps(phi):
    """Dixon's theorem (1972), on a quadratic, where they are those of conjugate gradients."""
    objective, theta, matrix = cases.quadratic(np.geomspace(0.5, 20, 5), rotation=0)
    ends = [
        cases.walk(rv.Optimizer(rv.Broyden(update), Exact()), objective, theta, matrix, 5)[0]
        for update in (unscaled, Member(phi))
    ]
    np.testing.assert_allclose(*ends, atol=1e-8)
    np.testing.assert_allclose(ends[1][-1], 1.0, atol=1e-8)


@pytest.mark.parametrize("name", FAMILY)
def test_a_factor_has_digits_that_an_inverse_has_not(name):
    """Pairs of a Hessian A of condition 10²⁰, from an H near its inverse: H from a factor stays near it, and meets the
    secant equation where A measures lengths; H updated as such loses its small eigenvalues to rounding."""
    n, rng = 6, np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(n, n)))[0]
    root = np.geomspace(1e-5, 1e5, n)[:, None] * basis.T  # A = rootᵀ root
    factor = (basis / np.geomspace(1e-5, 1e5, n)) @ np.diag(rng.uniform(0.5, 2, n))
    direction = rv.Broyden(FAMILY[name], delay=3)
    objective, theta = rv.Objective.from_loss(rosenbrock, jnp.ones(n))
    grad, dense, worst = root.T @ rng.normal(size=n), factor @ factor.T, np.inf
    state = holding(direction, None, grad, factor)
    for number in range(60):
        t = 0.7
        s = -t * np.asarray(state.product)
        y = root.T @ (root @ s)
        previous = rv.Previous(*map(jnp.asarray, (s, y, grad, t)), jnp.array(False), jnp.int32(number + 1))
        if worst > 0:  # later it may overflow
            tau, phi = FAMILY[name](*map(jnp.asarray, (s, y, dense @ y, -t * (s @ grad) / (s @ y))))
            dense = oracles.broyden_family(dense, s, y, float(tau), float(phi))
            worst = np.linalg.eigvalsh((dense + dense.T) / 2).min()
        grad = root.T @ rng.normal(size=n)  # other points: all directions are met
        _, state = direct(direction, objective, theta, state, previous, jnp.asarray(grad))
        factor = np.asarray(state.factor)
        missed = root @ (factor @ (factor.T @ y) - s)
        assert np.linalg.norm(missed) <= 1e-4 * np.linalg.norm(root @ s), number
    values = np.linalg.svd(root @ factor, compute_uv=False)  # all one, were H the inverse of A
    assert 0.1 < values.min() <= values.max() < 10
    assert worst < 0


def test_damped_pairs_of_bad_curvature_are_used():
    """Powell: y becomes θy + (1 − θ)Bs with yᵀs = 0.2 sᵀBs, where B s = −t∇L."""
    rng = np.random.default_rng(3)
    n, objective = 5, rv.Objective.from_loss(rosenbrock, jnp.ones(5))[0]
    theta, grad, t = jnp.ones(n), rng.normal(size=n), 0.7
    direction, plain = rv.LBFGS(3, damped=True), rv.LBFGS(3)
    good = rng.normal(size=n)
    first = rv.Previous(
        jnp.asarray(good), 2 * jnp.asarray(good), jnp.asarray(grad), jnp.ones(()), jnp.array(False), jnp.int32(1)
    )
    found, state = direct(direction, objective, theta, direction.init(objective, theta), first, jnp.asarray(grad))
    s = t * np.asarray(found)
    bs, y = -t * grad, rng.normal(size=n)
    y = y - (y @ s + 0.5 * s @ bs) / (s @ s) * s  # yᵀs = −½ sᵀBs
    weight = 0.8 * (s @ bs) / (s @ bs - s @ y)
    damped = weight * y + (1 - weight) * bs
    assert damped @ s == pytest.approx(0.2 * s @ bs)
    after = jnp.asarray(rng.normal(size=n))
    step = lambda y: rv.Previous(
        jnp.asarray(s), jnp.asarray(y), jnp.asarray(grad), jnp.asarray(t), jnp.array(False), jnp.int32(2)
    )
    found, _ = direct(direction, objective, theta, state, step(y), after)
    expected, _ = direct(plain, objective, theta, state, step(damped), after)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    skipped, _ = direct(plain, objective, theta, state, step(y), after)
    assert np.abs(found - skipped).max() > 1e-3


@pytest.mark.parametrize("method", ["bfgs", "lbfgs"])
def test_terminates_in_n_steps_with_exact_line_search(method):
    """On a quadratic the steps are those of conjugate gradients, which end after n."""
    n = 6
    objective, theta, matrix = cases.quadratic(np.geomspace(0.5, 20, n), rotation=0)
    direction = rv.Broyden(unscaled) if method == "bfgs" else rv.LBFGS(n)
    thetas, _ = cases.walk(rv.Optimizer(direction, Exact()), objective, theta, matrix, n)
    errors = [np.linalg.norm(at - 1) for at in thetas]
    assert errors[-1] < 1e-9
    assert errors[-2] > 1e-6
    # Successive steps are conjugate.
    steps = np.diff(thetas, axis=0)
    gram = steps @ np.asarray(matrix) @ steps.T
    size = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(gram / size / size[:, None], np.eye(n), atol=1e-7)


def test_bfgs_learns_the_inverse_hessian_of_a_quadratic():
    n = 5
    objective, theta, matrix = cases.quadratic(np.geomspace(0.5, 5, n), rotation=1)
    optimizer = rv.Optimizer(rv.Broyden(unscaled), Exact())
    state = optimizer.init(objective, theta)
    for _ in range(n):
        theta, state, _ = cases.step(optimizer, objective, theta, state, matrix)
    _, state = direct(optimizer.direction, objective, theta, state.direction, state.previous, matrix @ (theta - 1))
    np.testing.assert_allclose(state.inverse @ matrix, np.eye(n), atol=1e-6)


def test_full_memory_lbfgs_is_bfgs():
    objective, theta = rv.Objective.from_loss(rosenbrock, START)
    dense, _ = cases.walk(rv.Optimizer(rv.Broyden(unscaled, scale=False), rv.Wolfe()), objective, theta, None, 25)
    limited, _ = cases.walk(rv.Optimizer(rv.LBFGS(30, scale=False), rv.Wolfe()), objective, theta, None, 25)
    np.testing.assert_allclose(dense[:15], limited[:15], rtol=1e-8)
    np.testing.assert_allclose(dense, limited, rtol=1e-4)


def test_limited_memory_forgets_the_oldest_pair():
    """The two-loop recursion on a wrapped buffer against products of the pairs that are still in it."""
    rng = np.random.default_rng(3)
    n, memory, seen = 5, 3, 7
    root = rng.normal(size=(n, n))
    matrix = root @ root.T + np.eye(n)
    direction = rv.LBFGS(memory)
    objective, theta = rv.Objective.from_loss(lambda x, _: jnp.sum(x), jnp.zeros(n))
    state, pairs = direction.init(objective, theta), []
    for count in range(1, seen + 1):
        s, grad = rng.normal(size=n), rng.normal(size=n)
        pairs.append((s, matrix @ s))
        previous = rv.Previous(
            jnp.asarray(s), jnp.asarray(matrix @ s), jnp.asarray(grad), jnp.ones(()), jnp.array(False), jnp.int32(count)
        )
        found, state = direct(direction, objective, theta, state, previous, jnp.asarray(grad))
    s, y = pairs[-1]
    inverse = (s @ y) / (y @ y) * np.eye(n)
    for s, y in pairs[-memory:]:
        inverse = oracles.bfgs_product(inverse, s, y)
    np.testing.assert_allclose(found, -inverse @ grad, rtol=1e-10)


@pytest.mark.parametrize("name", ["bfgs", "ssbfgs", "ssbroyden", "lbfgs"])
def test_pairs_never_mix_batches(name):
    """With a new batch at each step, y is still the gradient difference on one batch: here that is A s, exactly."""
    matrix = jnp.diag(jnp.array([1.0, 3.0, 0.5]))
    # The batch moves the minimum far away; the Hessian stays.
    loss = lambda x, shift: jnp.dot(x - shift, matrix @ (x - shift)) / 2
    objective, theta = rv.Objective.from_loss(loss, jnp.zeros(3))
    optimizer = rv.METHODS[name]()
    state = optimizer.init(objective, theta)
    for number in range(5):
        shift = 10 * jax.random.normal(jax.random.key(number), (3,))
        before = theta
        theta, state, info = cases.step(optimizer, objective, theta, state, shift)
        previous = state.previous
        np.testing.assert_allclose(previous.s, theta - before, atol=1e-12)
        np.testing.assert_allclose(previous.y, matrix @ previous.s, atol=1e-11)
        np.testing.assert_allclose(previous.grad, matrix @ (before - shift), atol=1e-11)
        # The gradient at the new point on the new batch has to be computed afresh: one more than on a held batch.
        assert int(info.work.gradients) == 1 + int(info.work.inner) + 1


def test_failed_search_starts_again_from_steepest_descent():
    objective, theta = rv.Objective.from_loss(rosenbrock, START)
    inverse, s, y, t, grad = problem(1, 4)
    previous = rv.Previous(
        jnp.asarray(s), jnp.asarray(y), jnp.asarray(grad), jnp.asarray(t), jnp.array(True), jnp.int32(3)
    )
    state = holding(rv.Broyden(unscaled), inverse, grad)
    grad = jnp.array([3.0, -1.0, 0.0, 2.0])
    found, state = direct(rv.Broyden(unscaled), objective, theta, state, previous, grad)
    np.testing.assert_array_equal(state.inverse, np.eye(4))
    np.testing.assert_allclose(found, -grad / jnp.linalg.norm(grad))
