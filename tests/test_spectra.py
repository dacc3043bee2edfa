"""Spectra against dense oracles, and what is claimed of residuals with derivatives and of more points."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr, wasserstein_distance

import ravine as rv
from ravine.diagnostics.spectra import term_rows

KEY = jax.random.key(0)


def curved(u, x):
    """u' + u² at x."""
    return jax.grad(lambda s: u(s[None]))(x[0]) + u(x) ** 2


@functools.cache
def small(width=20, points=20):
    """A network with an equation and two boundary values, and its Jacobian in float64 by automatic differentiation."""
    model = rv.models.MLP(1, "scalar", width=width, depth=1, key=KEY)
    terms = (rv.residual("pde", curved), rv.supervised("data", weight=3.0))
    objective, theta = rv.Objective.from_terms(terms, model)
    x = jnp.linspace(0, 1, points)[:, None]
    batch = {"pde": x, "data": (x[:: points - 1], jnp.zeros(2))}

    def rows(theta):
        u = objective.model(theta)
        pde = jax.vmap(lambda x: curved(u, x))(x) / math.sqrt(points)
        return jnp.concatenate([pde, jax.vmap(u)(x[:: points - 1]) * math.sqrt(3.0 / 2)])

    return objective, theta, batch, np.asarray(jax.jacrev(rows)(theta))


@functools.cache
def hessian():
    objective, theta, batch, _ = small()
    return np.asarray(jax.hessian(lambda at: objective(at, batch))(theta))


def close(found, expected):
    """Within 1e-8 relative, where σ² is above what rounding leaves of σ."""
    sure = expected > 1e-12 * expected[0]
    assert sure.sum() > 6
    np.testing.assert_allclose(found[: expected.size][sure], expected[sure], rtol=1e-8)


def test_kernel_and_gauss_newton_against_a_dense_svd():
    objective, theta, batch, jacobian = small()
    u, s, _ = np.linalg.svd(jacobian, full_matrices=False)
    kernel, matrix = rv.tangent_kernel(objective, theta, batch), rv.curvature(objective, theta, batch)
    close(kernel.eigenvalues, s**2)
    close(matrix.eigenvalues, s**2)
    assert (kernel.order, matrix.order) == (jacobian.shape[0], theta.size)
    np.testing.assert_allclose(np.abs(np.sum(kernel.vectors[:, :5] * u[:, :5], axis=0)), 1, rtol=1e-8)
    along = jacobian @ matrix.vectors[:, :5]
    np.testing.assert_allclose(np.linalg.norm(along, axis=0), s[:5], rtol=1e-8)
    assert kernel.largest_stable_step == pytest.approx(2 / s[0] ** 2, rel=1e-10)
    above = s[s > max(jacobian.shape) * np.finfo(float).eps * s[0]]
    assert kernel.cut == s.size - above.size
    assert kernel.condition == pytest.approx((above[0] / above[-1]) ** 2, rel=1e-2)


def test_blocks_are_those_of_the_terms():
    objective, theta, batch, jacobian = small()
    blocks, places = rv.kernel_blocks(objective, theta, batch), term_rows(objective, theta, batch)
    assert places == {"pde": slice(0, 20), "data": slice(20, 22)}
    for (a, b), block in blocks.items():
        np.testing.assert_allclose(block, jacobian[places[a]] @ jacobian[places[b]].T, rtol=1e-9, atol=1e-12)
    own = rv.tangent_kernel(objective, theta, batch, term="data")
    np.testing.assert_allclose(own.eigenvalues, np.linalg.eigvalsh(blocks["data", "data"])[::-1], rtol=1e-9)
    with pytest.raises(ValueError, match="no term 'wall'"):
        rv.tangent_kernel(objective, theta, batch, term="wall")


def test_hessian_and_lanczos_ends():
    objective, theta, batch, _ = small()
    exact = np.linalg.eigvalsh(hessian())[::-1]
    dense = rv.curvature(objective, theta, batch, "hessian")
    np.testing.assert_allclose(dense.eigenvalues, exact, atol=1e-10 * exact[0])
    assert exact[-1] < 0
    ends = rv.curvature(objective, theta, batch, "hessian", dense=False, products=40, key=KEY)
    np.testing.assert_allclose(ends.eigenvalues[[0, -1]], exact[[0, -1]], rtol=1e-8)
    assert not ends.whole
    nearest = np.abs(ends.eigenvalues[:, None] - exact).min(axis=1)
    assert np.all(nearest <= ends.errors + 1e-10 * exact[0])
    with pytest.raises(ValueError, match="only the ends"):
        _ = ends.entropy_rank


def test_lanczos_of_gauss_newton_ends_with_the_rows():
    objective, theta, batch, jacobian = small()
    found = rv.curvature(objective, theta, batch, dense=False, products=22, key=KEY)
    s = np.linalg.svd(jacobian, compute_uv=False)
    np.testing.assert_allclose(found.eigenvalues[:6], s[:6] ** 2, rtol=1e-8)
    assert np.all(found.eigenvalues > -1e-12 * s[0] ** 2)


def random_inverse(n):
    root = np.random.default_rng(1).normal(size=(n, n)) / np.sqrt(n) + np.eye(n)
    return root @ root.T


@pytest.mark.parametrize("kind", ["gauss-newton", "hessian"])
def test_preconditioned_by_a_matrix_and_by_a_function(kind):
    objective, theta, batch, jacobian = small()
    inverse = random_inverse(theta.size)
    matrix = jacobian.T @ jacobian
    if kind == "hessian":
        matrix = hessian()
    values, vectors = np.linalg.eigh(inverse)
    half = jnp.asarray(vectors * np.sqrt(values) @ vectors.T)
    exact = np.linalg.eigvalsh(half @ matrix @ half)[::-1]
    for given in (jnp.asarray(inverse), lambda v: half @ v):
        found = rv.curvature(objective, theta, batch, kind, preconditioner=given)
        np.testing.assert_allclose(found.eigenvalues[:8], exact[:8], rtol=1e-8, atol=1e-12 * exact[0])
        ends = rv.curvature(objective, theta, batch, kind, preconditioner=given, dense=False, products=22)
        np.testing.assert_allclose(ends.eigenvalues[0], exact[0], rtol=1e-8)


def test_the_exact_inverse_makes_every_eigenvalue_one():
    scales = jnp.asarray([1.0, 10.0, 1e3])
    objective, theta = rv.Objective.from_residuals(lambda x, _: scales * x, jnp.ones(3))
    found = rv.curvature(objective, theta, None, preconditioner=jnp.diag(scales**-2.0))
    np.testing.assert_allclose(found.eigenvalues, 1, rtol=1e-12)
    assert (found.entropy_rank, found.participation) == pytest.approx((3, 3))
    assert rv.curvature(objective, theta, None).condition == pytest.approx(1e6)


def test_ranks_and_decay_of_known_spectra():
    power = rv.Spectrum(np.arange(1, 200) ** -1.7, order=199)
    assert power.decay == pytest.approx(1.7)
    shares = power.eigenvalues / power.eigenvalues.sum()
    assert power.participation == pytest.approx(1 / np.sum(shares**2))
    assert rv.Spectrum(np.array([2.0, 2.0, 0.0]), order=3).entropy_rank == pytest.approx(2)


@functools.cache
def larger():
    """A network of about 2,000 parameters in two variables, with data at 500 points."""
    model = rv.models.MLP(2, "scalar", width=43, depth=2, key=KEY)
    objective, theta = rv.Objective.from_terms([rv.supervised("data")], model)
    x = jax.random.uniform(KEY, (500, 2))
    return objective, theta, {"data": (x, jnp.sin(5 * x[:, 0]) * x[:, 1])}


@pytest.mark.parametrize("kind", ["gauss-newton", "kernel", "hessian"])
def test_density_within_five_percent(kind):
    objective, theta, batch = larger()
    assert 1_900 < theta.size < 2_100
    if kind == "kernel":
        whole = rv.tangent_kernel(objective, theta, batch).eigenvalues
    else:
        whole = rv.curvature(objective, theta, batch, kind).eigenvalues
    order = 500 if kind == "kernel" else theta.size
    exact = np.concatenate([whole, np.zeros(order - whole.size)])
    found = rv.spectral_density(objective, theta, batch, kind, key=KEY)
    assert found.weights.sum() == pytest.approx(1)
    # Relative to the mean: in units of the mean |λ|, so that 5 % of Σ|λ| may be misplaced.
    scale = np.mean(np.abs(exact))
    assert wasserstein_distance(found.nodes, exact, found.weights) < 0.05 * scale
    if kind != "hessian":  # which is indefinite
        # And on the logarithmic scale, in decades above 1e-6 of the largest, as a share of the six.
        decades = lambda values: np.log10(np.maximum(values / exact.max(), 1e-6))
        assert wasserstein_distance(decades(found.nodes), decades(exact), found.weights) < 0.05 * 6
    at = np.linspace(-20, 4, 2001)
    assert np.trapezoid(found(10.0**at), at) == pytest.approx(1, abs=1e-3)
    assert found.count(exact[3] * (1 - 1e-6)) == pytest.approx(4, abs=1e-6)


# --------------------------------------------------------------------------------------------------- what is claimed


class Sines(eqx.Module):
    """Σ a_j sin(π j x)."""

    amplitudes: jax.Array

    def __call__(self, x):
        return jnp.dot(self.amplitudes, jnp.sin(jnp.pi * jnp.arange(1.0, self.amplitudes.size + 1) * x[0]))


def derivative(order):
    def law(u, x):
        function = lambda s: u(s[None])
        for _ in range(order):
            function = jax.grad(function)
        return function(x[0])

    return law


def condition(model, order, points):
    objective, theta = rv.Objective.from_terms([rv.residual("pde", derivative(order))], model)
    return rv.curvature(objective, theta, {"pde": points})


def test_c1_condition_grows_with_derivatives_and_frequency():
    # With sines up to j the Gramian of ∂^p is diagonal, ½ (π j)^{2p}: its condition number is j^{2p}, and 1 for data.
    points = (jnp.arange(64.0)[:, None] + 0.5) / 64
    for frequency in (1, 4, 16):
        model = Sines(jnp.zeros(2 * frequency))
        found = [condition(model, order, points).condition for order in (0, 1, 2, 4)]
        expected = [(2.0 * frequency) ** (2 * order) for order in (0, 1, 2, 4)]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


class Waves(eqx.Module):
    """A network Σ a_i tanh(k (w_i x + b_i))/√width, its slopes spread over [½, 1½]."""

    weights: jax.Array
    biases: jax.Array
    out: jax.Array
    frequency: int = eqx.field(static=True)

    def __call__(self, x):
        inside = jnp.tanh(self.frequency * (self.weights * x[0] + self.biases))
        return jnp.dot(self.out, inside) / math.sqrt(self.out.size)


def test_c1_holds_for_a_network():
    # The largest eigenvalue of JᵀJ grows like k^{2p}; so does what is asked of the step length.
    points = (jnp.arange(64.0)[:, None] + 0.5) / 64
    first, second, third = jax.random.split(KEY, 3)
    weights = jax.random.uniform(first, (8,), minval=0.5, maxval=1.5)
    parts = weights, -weights * jax.random.uniform(second, (8,)), jax.random.normal(third, (8,))
    top = {(k, p): condition(Waves(*parts, k), p, points).eigenvalues[0] for k in (1, 4, 16) for p in (0, 2)}
    assert top[1, 2] < top[4, 2] < top[16, 2]
    assert top[16, 2] / top[16, 0] > 100 * top[4, 2] / top[4, 0] > 1e3 * top[1, 2] / top[1, 0]


def test_c3_more_points_do_not_change_the_condition_but_the_integral():
    model = Sines(jnp.linspace(1, 2, 6))
    objective, theta = rv.Objective.from_terms([rv.residual("pde", derivative(2))], model)
    j = np.arange(1, 7)
    exact = 0.25 * np.sum((np.pi * j) ** 4 * np.linspace(1, 2, 6) ** 2)
    conditions, errors = [], []
    for m in (64, 256, 1024, 4096):
        # A trapezoidal rule with both ends at full weight: its error falls like 1/m.
        batch = {"pde": jnp.linspace(0, 1, m)[:, None]}
        conditions.append(rv.curvature(objective, theta, batch).condition)
        errors.append(abs(float(objective(theta, batch)) / exact - 1))
    np.testing.assert_allclose(conditions, 6.0**4, rtol=0.02)
    assert np.all(np.diff(np.log(errors)) < np.log(1 / 3.5))


def test_spectral_bias():
    problem = rv.problems.make("regression1d", points=128, width=512)
    objective, theta = rv.Objective.from_terms(problem.terms, problem.model(KEY))
    batch = problem.sampler.batch
    kernel = rv.tangent_kernel(objective, theta, batch)
    x = np.asarray(batch["data"][0])
    frequencies = rv.mean_frequency(kernel.vectors[:, :24], x, rv.Box(0, 1))
    assert spearmanr(kernel.eigenvalues[:24], frequencies).statistic < -0.95
    # In two variables, on scattered points: one wave, to the error of a Monte Carlo sum.
    points = np.random.default_rng(0).uniform((-1, 0), (1, 3), (4_000, 2))
    wave = np.cos(2 * np.pi * 3 * (points[:, :1] + 1) / 2) * np.cos(2 * np.pi * 4 * points[:, 1:] / 3)
    found = rv.mean_frequency(wave, points, rv.Box((-1, 0), (1, 3)), highest=12)
    assert found[0] == pytest.approx(5, rel=0.05)
