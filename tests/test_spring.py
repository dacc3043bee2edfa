"""SPRING, natural gradients and capped rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine.optim.path import Along, Line, Previous

NOTHING = Previous(jnp.zeros(1), None, None, jnp.zeros(()), jnp.array(False), jnp.int32(0))


def linear(m: int, n: int):
    rng = np.random.default_rng(m)
    matrix, right = rng.normal(size=(m, n)), rng.normal(size=m)
    residuals = lambda x, _: jnp.asarray(matrix) @ x - jnp.asarray(right)
    return matrix, right, *rv.Objective.from_residuals(residuals, jnp.ones(n))


@functools.cache
def case_of(name):
    return cases.OBJECTIVES[name]()


def two_steps(name, direction):
    """The directions of two iterations from one linearisation, and the state after them, compiled."""
    case = case_of(name)
    objective, theta = case.objective()

    @jax.jit
    def run():
        lin = objective.linearise(theta, case.batch)
        state = direction.init(objective, theta)
        first, state = direction(lin, theta, state, NOTHING, key=cases.KEY)
        second, state = direction(lin, theta, state, NOTHING, key=cases.KEY)
        return first.direction, second.direction, state

    return jax.device_get(run())


def test_without_momentum_it_is_minimum_norm_gauss_newton():
    """β = 0, λ → 0, fewer equations than unknowns: the pseudo-inverse."""
    matrix, right, objective, theta = linear(3, 8)
    optimizer = rv.spring(1.0, momentum=0.0, ridge=1e-14, longest=1e9)
    thetas, _ = cases.walk(optimizer, objective, theta, None, 1)
    np.testing.assert_allclose(thetas[1] - 1, np.linalg.pinv(matrix) @ (right - matrix @ np.ones(8)), atol=1e-9)


@pytest.mark.parametrize("name", ["strong", "logistic"])
@pytest.mark.parametrize("space", ["parameter", "kernel"])
def test_without_momentum_and_with_damping_it_is_gauss_newton(name, space):
    case = case_of(name)
    objective, theta = case.objective()
    found, again, _ = two_steps(name, rv.Spring(0.0, 1e-3, space))
    plain = rv.GaussNewton(space=space, acceleration=False, ridge=1e-3)
    lin = lambda: objective.linearise(theta, case.batch)
    exact = jax.jit(lambda: plain(lin(), theta, None, NOTHING, key=cases.KEY)[0].direction)()
    np.testing.assert_allclose(found, exact, atol=1e-10)
    np.testing.assert_allclose(again, exact, atol=1e-10)


@pytest.mark.parametrize(
    "space,solver,longest",
    [
        ("parameter", "cholesky", np.inf),
        ("kernel", "cholesky", np.inf),
        ("parameter", "qr", np.inf),
        ("kernel", "cholesky", 0.1),
    ],
)
def test_two_steps_with_momentum_against_the_paper(space, solver, longest):
    """ζ = r − βJd, d⁺ = Jᵀ(JJᵀ + λ)⁻¹ζ + βd, and the line −d/√(1 − β²ᵏ); d is remembered as it was cut."""
    oracle = case_of("strong").oracle
    jacobian = np.asarray(jax.jit(oracle.jacobian)(oracle.theta))
    residual = np.asarray(oracle.rows(oracle.theta))
    beta, shift = 0.8, 1e-2 * np.sum(jacobian**2) / jacobian.shape[1]
    d = np.zeros(jacobian.shape[1])
    exact = []
    for k in (1, 2):
        inner = np.linalg.solve(jacobian @ jacobian.T + shift * np.eye(residual.size), residual - beta * jacobian @ d)
        d = jacobian.T @ inner + beta * d
        length = np.linalg.norm(d) / np.sqrt(1 - beta ** (2 * k))
        assert length > 0.2
        d *= min(1, longest / length)
        exact.append(-d / np.sqrt(1 - beta ** (2 * k)))
    found = two_steps("strong", rv.Spring(beta, 1e-2, space, solver, longest))
    for a, b in zip(found, exact, strict=False):
        np.testing.assert_allclose(a, b, atol=1e-8 * np.abs(b).max())
    assert int(found[2].count) == 2


@pytest.mark.parametrize("name", ["softmax", "ritz"])
def test_momentum_for_other_losses_is_the_same_minimisation(name):
    """(G + λ)d⁺ = ∇L + λβd in both spaces."""
    oracle = case_of(name).oracle
    matrix = np.asarray(jax.jit(oracle.gram)(oracle.theta))
    gradient = np.asarray(jax.jit(oracle.gradient)(oracle.theta))
    shift = 1e-2 * np.trace(matrix) / gradient.size
    d = np.zeros_like(gradient)
    for _ in range(2):
        d = np.linalg.solve(matrix + shift * np.eye(d.size), gradient + shift * 0.7 * d)
    for space in ("parameter", "kernel"):
        _, _, state = two_steps(name, rv.Spring(0.7, 1e-2, space))
        np.testing.assert_allclose(state.step, d, atol=1e-7 * np.abs(d).max())


def test_kaczmarz_one_row_at_a_time_solves_a_consistent_system():
    """SPRING sees one equation a step, drawn anew, and converges to the solution of all of them."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 6))
    solution = rng.normal(size=6)
    term = rv.Term("row", lambda x, pair: jnp.dot(pair[0], x) - pair[1])
    objective, theta = rv.Objective.from_terms([term], jnp.zeros(6))
    optimizer = rv.spring(1.0, momentum=0.3, ridge=1e-12, longest=1e9)
    state = optimizer.init(objective, theta)
    for _ in range(240):
        pick = rng.integers(40, size=1)
        batch = {"row": (jnp.asarray(rows[pick]), jnp.asarray(rows[pick] @ solution))}
        theta, state, _ = cases.step(optimizer, objective, theta, state, batch)
    np.testing.assert_allclose(theta, solution, atol=1e-8)


def test_after_a_failed_step_the_memory_is_dropped():
    case = case_of("strong")
    objective, theta = case.objective()
    direction = rv.Spring(0.9, 1e-3)

    @jax.jit
    def run():
        lin = objective.linearise(theta, case.batch)
        fresh, state = direction(lin, theta, direction.init(objective, theta), NOTHING, key=cases.KEY)
        failed = Previous(theta, None, None, jnp.zeros(()), jnp.array(True), jnp.int32(1))
        again, state = direction(lin, theta, state, failed, key=cases.KEY)
        return fresh.direction, again.direction, state.count

    fresh, again, count = run()
    np.testing.assert_allclose(again, fresh, rtol=1e-12)
    assert int(count) == 1


# ------------------------------------------------------------------------------------------------------------ searches


def along(loss, direction):
    objective, theta = rv.Objective.from_loss(loss, jnp.zeros(direction.size))
    lin = objective.linearise(theta, None)
    return Along(objective, theta, None, Line(direction, lin.grad), lin)


def test_capped_rate():
    """min(rate, longest/‖d‖), schedules included; what is not finite is not taken."""
    phi = along(lambda x, _: jnp.sum(x**2), jnp.array([3.0, 4.0]))
    falling = lambda step: 1 / (1.0 + step.astype(float))
    for rate, longest, expected in ((0.1, 1.0, 0.1), (0.1, 0.25, 0.05), (falling, 10.0, 1.0)):
        search = rv.Capped(rate, longest)
        t, found, state = search(phi, search.init(jnp.dtype(float)))
        np.testing.assert_allclose(t, expected)
        np.testing.assert_allclose(found.step, expected * np.array([3.0, 4.0]))
        assert int(state) == 1
    t, found, _ = rv.Capped(0.1)(along(lambda x, _: jnp.sum(x), jnp.array([jnp.nan, 1.0])), jnp.int32(0))
    assert bool(found.failed)
    np.testing.assert_array_equal(found.step, 0)


def test_geometric_search_takes_the_best_of_the_grid():
    phi = along(lambda x, _: (x[0] - 0.2) ** 2, jnp.array([1.0]))
    t, found, _ = rv.GridSearch()(phi, None)
    assert float(t) == 0.25
    np.testing.assert_allclose(found.value, 0.05**2)
    assert found.work.counts()["evaluations"] == 31
    t, found, _ = rv.GridSearch()(along(lambda x, _: jnp.where(x[0] > 0.1, jnp.nan, -x[0]), jnp.array([1.0])), None)
    assert float(t) == 2.0**-4
    t, found, _ = rv.GridSearch()(along(lambda x, _: x[0], jnp.array([1.0])), None)
    assert bool(found.failed)
    assert float(found.step[0]) == float(t) == float(found.value) == 0


# ---------------------------------------------------------------------------------------------------- energies, again


def test_energy_natural_gradient_on_a_ritz_energy_is_newton():
    """A quadratic energy with a model that is linear in its parameters: JᵀJ is the Hessian, and one step the end."""

    basis = lambda c, z: jnp.sum(c * jnp.sin(jnp.arange(1.0, 5.0) * jnp.pi * z[0]))
    features = lambda c, z: jax.grad(lambda at: basis(c, at))(z)
    energy = lambda features, z: jnp.sum(features**2) / 2
    # −u″ = f has the energy ½∫u′² − ∫fu; f and u belong together in the loss: linear in the features.
    both = lambda c, z: (basis(c, z), features(c, z))
    loss = lambda pair, z: energy(pair[1], z) - jnp.pi**2 * jnp.sin(jnp.pi * z[0]) * pair[0]
    points, weights = np.polynomial.legendre.leggauss(40)
    batch = {"energy": rv.Weighted(jnp.asarray((points[:, None] + 1) / 2), jnp.asarray(weights / 2))}
    objective, theta = rv.Objective.from_terms([rv.Term("energy", both, loss)], jnp.full(4, 0.3))
    thetas, infos = cases.walk(rv.energy_natural_gradient(ridge=1e-14), objective, theta, batch, 1)
    np.testing.assert_allclose(thetas[1], [1.0, 0.0, 0.0, 0.0], atol=1e-10)
    assert float(infos[0].t) == 1.0
    # Newton: the Hessian of the energy is JᵀJ, to the last entry.
    lin = objective.linearise(theta, batch)
    hessian = jax.jit(jax.vmap(lin.hessian_product))(jnp.eye(4))
    np.testing.assert_allclose(jax.jit(lambda: objective.linearise(theta, batch).gram())(), hessian, atol=1e-12)


def test_momentum_outside_the_unit_interval():
    with pytest.raises(ValueError, match=r"momentum is 1\.0"):
        rv.Spring(1.0)


def test_steps_of_no_length():
    with pytest.raises(ValueError, match=r"longest is 0\.0"):
        rv.Spring(longest=0.0)
