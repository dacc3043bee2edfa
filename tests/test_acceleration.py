"""Momentum, conjugate gradients, Barzilai–Borwein, Anderson, block coordinates: each against its formula in NumPy."""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cases
import ravine as rv
from ravine._results import Work
from ravine.optim.block_coordinate import blocks_of
from ravine.optim.path import Found


class Whole(rv.Search):
    """t = 1 whatever happens, with the gradient there."""

    gives_grad: ClassVar[bool] = True

    def init(self, dtype):
        return None

    def __call__(self, phi, state):
        t = jnp.ones((), phi.theta.dtype)
        step = phi.path(t)
        value, grad = phi.value_and_grad(step)
        return t, Found(step, value, grad, Work(1, 1), jnp.array(False)), None


def wavy(x, _):
    """Smooth, neither convex nor quadratic."""
    return jnp.sum(jnp.array([1.0, 3.0, 8.0]) * x**2) + jnp.sum(jnp.sin(3 * x)) + x[0] * x[1] * x[2]


START = jnp.array([1.0, -0.7, 0.4])
slope = jax.jit(jax.grad(lambda x: wavy(x, None)))


def gradient(x):
    return np.asarray(slope(jnp.asarray(x)))


def walked(optimizer, steps):
    objective, theta = rv.Objective.from_loss(wavy, START)
    return cases.walk(optimizer, objective, theta, None, steps)


# --------------------------------------------------------------------------------------------------------- momentum


def test_heavy_ball_is_the_formula():
    thetas, _ = walked(rv.heavy_ball(0.02, momentum=0.8), 8)
    before = x = np.asarray(START)
    for at in thetas[1:]:
        x, before = x - 0.02 * gradient(x) + 0.8 * (x - before), x
        np.testing.assert_allclose(at, x, rtol=1e-11)


def nesterov(rate, steps, momentum, restart):
    """O'Donoghue and Candès, 2015, algorithm 1 with the restart in words: x_k, y_k, and β from Nesterov's sequence."""
    loss = lambda at: float(wavy(jnp.asarray(at), None))
    x = y = np.asarray(START)
    a, found, last, restarts = 1.0, [x], np.inf, 0
    for _ in range(steps):
        rose, last = restart == "function" and loss(y) > last, loss(y)
        a = 1.0 if rose else a
        ahead = y - rate * gradient(y)
        beta = (a - 1) / ((1 + np.sqrt(1 + 4 * a**2)) / 2) if momentum is None else momentum
        against = restart == "gradient" and gradient(y) @ (ahead - x) > 0
        restarts += rose or against
        beta = 0 if rose or against else beta
        a = 1.0 if against else (1 + np.sqrt(1 + 4 * a**2)) / 2
        y, x = ahead + beta * (ahead - x), ahead
        found.append(y)
    return found, restarts


@pytest.mark.parametrize("momentum", [None, 0.7])
@pytest.mark.parametrize("restart", ["gradient", "function", None])
def test_nesterov_is_the_formula(momentum, restart):
    expected, restarts = nesterov(0.03, 25, momentum, restart)
    thetas, _ = walked(rv.nesterov(0.03, momentum=momentum, restart=restart), 25)
    np.testing.assert_allclose(thetas, expected, rtol=1e-9, atol=1e-11)
    assert (restarts > 0) == (restart is not None)


def test_momentum_is_dropped_by_a_step_that_was_not_taken():
    """The rate is infinite once: nothing is done then, and the next step is plain gradient descent."""
    rate = lambda k: jnp.where(k == 4, jnp.inf, 0.02)
    for optimizer in (rv.heavy_ball(rate, momentum=0.8), rv.nesterov(rate)):
        thetas, infos = walked(optimizer, 7)
        np.testing.assert_array_equal(thetas[5], thetas[4])
        assert int(infos[4].failures) == 1
        np.testing.assert_allclose(thetas[6], thetas[5] - 0.02 * gradient(thetas[5]), rtol=1e-11)


def test_momentum_wants_a_search_without_slopes():
    with pytest.raises(TypeError, match="Fixed, Majorisation, Sharpness"):
        walked(rv.Optimizer(rv.HeavyBall(), rv.Armijo()), 1)


# ----------------------------------------------------------------------------------------------- Barzilai–Borwein


@pytest.mark.parametrize("rule", ["long", "short", "alternating", "adaptive"])
def test_barzilai_borwein_is_the_formula(rule):
    thetas, _ = walked(rv.Optimizer(rv.BarzilaiBorwein(rule), Whole()), 12)
    x, s, y = np.asarray(START), None, None
    for k, at in enumerate(thetas[1:]):
        g = gradient(x)
        if s is None:
            length = 1 / max(np.linalg.norm(g), 1)
        else:
            long, short = s @ s / (s @ y), s @ y / (y @ y)
            smaller = {"long": False, "short": True, "alternating": k % 2 == 0, "adaptive": short < long / 2}[rule]
            length = np.sqrt(s @ s / (y @ y)) if s @ y <= 0 else short if smaller else long
        s = -length * g
        y, x = gradient(x + s) - g, x + s
        np.testing.assert_allclose(at, x, rtol=1e-6, atol=1e-9)


# ------------------------------------------------------------------------------------------- conjugate gradients


def formula(name, g, before, y, d):
    """Nocedal and Wright, 2006, section 5.2; Hager and Zhang, 2005, equations 1.3 and 1.6."""
    if name == "fr":
        return 0.0 if abs(g @ before) >= 0.2 * g @ g else g @ g / (before @ before)
    if name == "pr+":
        return max(0.0, g @ y / (before @ before))
    beta = (y - 2 * d * (y @ y) / (d @ y)) @ g / (d @ y)
    return max(beta, -1 / (np.linalg.norm(d) * min(0.01, np.linalg.norm(before))))


@pytest.mark.parametrize("name", ["fr", "pr+", "hz"])
def test_conjugate_directions_are_the_formula(name):
    """The directions, up to their length, from the points that were visited."""
    thetas, infos = walked(rv.nonlinear_cg(name), 10)
    d = -gradient(thetas[0])
    conjugate = 0
    for before, now, after, info in zip(thetas, thetas[1:], thetas[2:], infos[1:], strict=False):
        g, last = gradient(now), gradient(before)
        if np.linalg.norm(g) < 1e-5:
            break
        beta = formula(name, g, last, g - last, d)
        d = -g + beta * d
        assert d @ g < 0
        conjugate += beta != 0
        np.testing.assert_allclose((after - now) / float(info.t), d, rtol=1e-5, atol=1e-7)
    assert conjugate >= 2


def test_conjugacy_is_dropped_when_the_points_are_new():
    """Steps on a loss that changes each time are steepest descent."""
    loss = lambda x, a: jnp.sum(jnp.array([1.0, 3.0, 8.0]) * (x - a) ** 2)
    objective, theta = rv.Objective.from_loss(loss, START)
    optimizer = rv.nonlinear_cg()
    state = optimizer.init(objective, theta)
    for number in range(4):
        a = jnp.asarray(0.1 * number**2)
        before = theta
        theta, state, info = cases.step(optimizer, objective, theta, state, a)
        g = jax.grad(loss)(before, a)
        scale = 1 / max(float(jnp.linalg.norm(g)), 1) if number == 0 else 1
        np.testing.assert_allclose(theta - before, -info.t * scale * g, rtol=1e-9)


# -------------------------------------------------------------------------------------------------------- Anderson


@pytest.mark.parametrize("rate", [None, 0.1])
def test_anderson_is_gmres_on_linear_equations(rate):
    """θ_{k+1} is a gradient step from the point of GMRES, the one with the least gradient in θ₀ + K_k(A, g₀)."""
    n = 6
    objective, theta, matrix = cases.quadratic(np.geomspace(0.1, 3.0, n), rotation=6)
    thetas, _ = cases.walk(rv.Optimizer(rv.Anderson(n, 1e-26, rate), Whole()), objective, theta, matrix, n + 1)
    a, start = np.asarray(matrix), np.asarray(theta)
    grad = lambda x: a @ (x - 1)
    for k in range(1, n + 1):
        basis = np.linalg.qr(np.stack([np.linalg.matrix_power(a, j) @ grad(start) for j in range(k)], axis=1))[0]
        point = start - basis @ np.linalg.lstsq(a @ basis, grad(start), rcond=None)[0]
        if k == n:
            np.testing.assert_allclose(thetas[-1], 1, atol=1e-7)  # finite termination
            break
        step = thetas[k + 1] - point
        if rate is not None:
            np.testing.assert_allclose(step, -rate * grad(point), rtol=1e-5, atol=1e-8)
        # Whatever the rate, the step from there is along the gradient.
        cosine = -step @ grad(point) / (np.linalg.norm(step) * np.linalg.norm(grad(point)))
        assert cosine == pytest.approx(1, abs=1e-8)


def test_anderson_with_one_pair_is_the_formula():
    """m = 1: γ = yᵀg/yᵀy, d = −γs − α(g − γy)."""
    thetas, _ = walked(rv.Optimizer(rv.Anderson(1, 1e-26, 0.05), Whole()), 6)
    for before, now, after in zip(thetas, thetas[1:], thetas[2:], strict=False):
        s, g = now - before, gradient(now)
        y = g - gradient(before)
        gamma = y @ g / (y @ y)
        d = -gamma * s - 0.05 * (g - gamma * y)
        if d @ g >= -1e-4 * np.linalg.norm(d) * np.linalg.norm(g):
            d = -0.05 * g
        np.testing.assert_allclose(after - now, d, rtol=1e-7, atol=1e-10)


def test_anderson_leaves_a_saddle_that_attracts_the_unsafeguarded_iteration():
    """x²/2 − y²/2 + y⁴/4: the gradient is least at the saddle, but the loss is not."""
    loss = lambda x, _: x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[1] ** 4 / 4
    objective, theta = rv.Objective.from_loss(loss, jnp.array([1.0, 0.1]))
    thetas, infos = cases.walk(rv.anderson(), objective, theta, None, 40)
    assert float(infos[-1].value) == pytest.approx(-0.25, abs=1e-8)
    np.testing.assert_allclose(np.abs(thetas[-1]), [0, 1], atol=1e-4)


# ----------------------------------------------------------------------------------------------- block coordinates


def test_blocks_are_layers_or_leaves():
    of = lambda model, by: blocks_of(rv.Layout.of(model), by)
    one = jnp.ones(1)
    network = {"layers": [{"w": one, "b": one}, {"w": one, "b": one}]}
    assert of(network, "layer") == (0, 0, 1, 1)
    assert of(network, "leaf") == (0, 1, 2, 3)
    assert of({"b": [one, one, one], "w": [one, one, one]}, "layer") == (0, 1, 2, 0, 1, 2)
    assert of({"params": {"first": {"kernel": one}, "second": {"bias": one, "kernel": one}}}, "layer") == (0, 1, 1)
    assert of({"a": one, "b": one}, "layer") == (0, 1)
    assert of((one, one), "layer") == (0, 1)
    assert of(one, "layer") == (0,)
    two = {"trunk": cases.network(), "branch": cases.network()}
    assert of(two, "layer") == (0, 1, 0, 1, 2, 3, 2, 3)


def test_exact_block_steps_are_block_gauss_seidel():
    """Linear residuals: solving for one block at a time, by Gauss–Newton within, is block Gauss–Seidel on AᵀA."""
    a = np.random.default_rng(3).normal(size=(9, 5))
    params = {"u": jnp.ones(2), "v": jnp.zeros(1), "w": -jnp.ones(2)}
    residuals = lambda p, matrix: matrix @ jnp.concatenate([p["u"], p["v"], p["w"]]) - 1
    objective, theta = rv.Objective.from_residuals(residuals, params)
    method = rv.gauss_newton(ridge=1e-15, space="parameter")
    thetas, _ = cases.walk(rv.block_coordinate(method), objective, theta, jnp.asarray(a), 7)
    x, matrix, right = np.array([1.0, 1.0, 0.0, -1.0, -1.0]), a.T @ a, a.T @ np.ones(9)
    for k, at in enumerate(thetas[1:]):
        block = [slice(0, 2), slice(2, 3), slice(3, 5)][k % 3]
        x = x.copy()
        x[block] -= np.linalg.solve(matrix[block, block], (matrix @ x - right)[block])
        np.testing.assert_allclose(at, x, rtol=1e-7, atol=1e-9)


METHODS = ("lbfgs", "ssbroyden", "barzilai_borwein", "nonlinear_cg", "levenberg_marquardt", "adam", "anderson")


@pytest.mark.parametrize("name", METHODS)
def test_one_block_is_no_block(name):
    """With a single leaf every method within is itself."""
    residuals = lambda x, _: jnp.stack([10 * (x[1] - x[0] ** 2), 1 - x[0]])
    objective, theta = rv.Objective.from_residuals(residuals, jnp.array([-1.2, 1.0]))
    plain, _ = cases.walk(rv.METHODS[name](), objective, theta, None, 6)
    within, _ = cases.walk(rv.block_coordinate(rv.METHODS[name]()), objective, theta, None, 6)
    np.testing.assert_allclose(within, plain, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name,repeat", [("lbfgs", 1), ("ssbroyden", 2), ("matrix_free_gauss_newton", 1), ("adam", 1)])
def test_only_the_block_moves_and_all_blocks_have_their_turn(name, repeat):
    case = cases.strong()
    objective, theta = case.objective()
    leaf = np.asarray(objective.flatten(jax.tree.map(
        lambda leaf, number: jnp.full_like(leaf, number),
        objective.layout.unravel(theta),
        jax.tree.unflatten(objective.layout.treedef, blocks_of(objective.layout)),
    )))  # fmt: skip
    optimizer = rv.block_coordinate(cases.OPTIMIZERS[name](), repeat=repeat)
    thetas, infos = cases.walk(optimizer, objective, theta, case.batch, 8)
    for k, (before, after) in enumerate(itertools.pairwise(thetas)):
        block = (k // repeat) % 2
        np.testing.assert_array_equal(after[leaf != block], before[leaf != block])
        assert (after[leaf == block] != before[leaf == block]).any()
    assert objective(jnp.asarray(thetas[-1]), case.batch) < objective(theta, case.batch)
    assert all(int(info.failures) == 0 for info in infos)


def test_each_block_keeps_the_pairs_of_its_own_steps():
    """On a quadratic with strong coupling the inverse of a block, after some turns, is that of the block's Hessian."""
    objective, _, matrix = cases.quadratic(np.geomspace(0.5, 5, 4), rotation=8)
    loss = lambda p, a: cases.bowl(jnp.concatenate([p["a"], p["b"]]), a)
    objective, theta = rv.Objective.from_loss(loss, {"a": jnp.zeros(2), "b": jnp.zeros(2)})
    optimizer = rv.block_coordinate(rv.bfgs())
    state = optimizer.init(objective, theta)
    for number in range(24):
        theta, state, _ = cases.step(optimizer, objective, theta, state, matrix)
        if number == 13:
            inner = jax.tree.map(lambda leaf: leaf[0], state.direction.inner)
            found = np.asarray(inner.inner.inverse)[:2, :2]  # inside the ladder
    np.testing.assert_allclose(found, np.linalg.inv(np.asarray(matrix)[:2, :2]), rtol=0.2)
    assert np.linalg.norm(theta - 1) < 0.1
