"""Checks of the reference solutions: convergence, the equations themselves, and independent methods."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import fft
from scipy.integrate import solve_ivp

from ravine.problems import reference


def chebyshev(low: float, high: float, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Chebyshev points of an interval and their differentiation matrix."""
    k = np.arange(points)
    nodes = np.cos(np.pi * k / (points - 1))
    scale = np.where((k == 0) | (k == points - 1), 2.0, 1.0) * (-1.0) ** k
    matrix = np.outer(scale, 1 / scale) / (nodes[:, None] - nodes + np.eye(points))
    matrix -= np.diag(matrix.sum(axis=1))
    return low + 0.5 * (high - low) * (1 + nodes), matrix * 2 / (high - low)


def central(order: int, values: np.ndarray, spacing: float, axis: int) -> np.ndarray:
    """Central differences of eighth order for the first or second derivative; four points are lost at each end."""
    weights = {
        1: np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280]),
        2: np.array([-1 / 560, 8 / 315, -1 / 5, 8 / 5, -205 / 72, 8 / 5, -1 / 5, 8 / 315, -1 / 560]),
    }[order]
    windows = np.lib.stride_tricks.sliding_window_view(values, 9, axis=axis)
    return windows @ weights / spacing**order


def relative(value: np.ndarray, exact: np.ndarray) -> float:
    """Relative L2 difference."""
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))


# Burgers


def test_burgers_quadrature_has_converged() -> None:
    x, t = np.linspace(-1, 1, 201)[:, None], np.linspace(0, 1, 101)
    assert np.abs(reference.burgers(x, t) - reference.burgers(x, t, refinement=2)).max() < 1e-13
    # Coarser quadrature must do visibly worse, or the comparison above would prove nothing.
    assert np.abs(reference.burgers(x, t) - reference.burgers(x, t, refinement=0.4)).max() > 1e-11
    shock = np.linspace(-0.02, 0.02, 51)[:, None]
    assert np.abs(reference.burgers(shock, t) - reference.burgers(shock, t, refinement=2)).max() < 1e-13


@pytest.mark.parametrize("viscosity", [1.0, 0.1, 0.01, 1e-3, 1e-4])
def test_burgers_quadrature_has_converged_for_other_viscosities(viscosity: float) -> None:
    x, t = np.linspace(-1, 1, 41)[:, None], np.array([0.0, 1e-9, 1e-3, 0.1, 0.5, 1.0, 4.0])
    u = reference.burgers(x, t, viscosity)
    assert np.all(np.isfinite(u))
    assert np.abs(u - reference.burgers(x, t, viscosity, refinement=2)).max() < 1e-12


def test_burgers_initial_value_symmetry_and_boundary() -> None:
    x, t = np.linspace(-1, 1, 129)[:, None], np.linspace(0, 1, 11)
    u = reference.burgers(x, t)
    assert u.shape == (129, 11)
    np.testing.assert_array_equal(u, -u[::-1])
    np.testing.assert_array_equal(u[[0, 64, -1]], 0.0)
    np.testing.assert_allclose(u[:, 0], -np.sin(np.pi * x[:, 0]), atol=2e-16)
    # The initial value is reached continuously: the change is at most t (|u u_x| + viscosity |u_xx|).
    assert np.abs(reference.burgers(x, 1e-12) + np.sin(np.pi * x)).max() < 4e-12
    np.testing.assert_allclose(reference.burgers(x + 2, 0.3), reference.burgers(x, 0.3), atol=1e-12)


def test_burgers_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, t = np.linspace(-1, 1, 37)[:, None], np.linspace(0, 1, 13)
    u = reference.burgers(x, t)
    monkeypatch.setattr(reference, "_BURGERS_BLOCK", 1000)
    np.testing.assert_allclose(reference.burgers(x, t), u, atol=1e-15)


def test_burgers_rejects_what_it_cannot_solve() -> None:
    with pytest.raises(ValueError, match="viscosity"):
        reference.burgers(0.1, 0.1, 0.0)
    with pytest.raises(ValueError, match="negative"):
        reference.burgers(0.1, -0.1)


@pytest.mark.parametrize(
    "left, right, points, tolerance",
    [(0.2, 0.9, 32, 1e-10), (-0.7, -0.3, 24, 1e-10), (-0.015, 0.02, 64, 1e-8)],
    ids=["right", "left", "shock"],
)
def test_burgers_satisfies_the_equation(left: float, right: float, points: int, tolerance: float) -> None:
    viscosity = 0.01 / np.pi
    x, dx = chebyshev(left, right, points)
    t, dt = chebyshev(0.5, 0.9, 24)
    u = reference.burgers(x[:, None], t)
    terms = (u @ dt.T, u * (dx @ u), -viscosity * (dx @ (dx @ u)))
    scale = max(np.abs(term).max() for term in terms)
    assert np.abs(sum(terms)).max() < tolerance * scale


def test_burgers_agrees_with_gauss_hermite_and_the_moment_form() -> None:
    # Two other expressions: the customary Gauss-Hermite rule, and u as the mean of (x - y) / t under the weight.
    viscosity, t = 0.1 / np.pi, 0.4
    x = np.linspace(-1, 1, 33)
    z, w = np.polynomial.hermite.hermgauss(100)
    y = x[:, None] - np.sqrt(4 * viscosity * t) * z
    weight = w * np.exp(-np.cos(np.pi * y) / (2 * np.pi * viscosity))
    total = weight.sum(axis=1)
    u = reference.burgers(x, t, viscosity)
    np.testing.assert_allclose(-(np.sin(np.pi * y) * weight).sum(axis=1) / total, u, atol=1e-12)
    np.testing.assert_allclose(((x[:, None] - y) * weight).sum(axis=1) / total / t, u, atol=1e-12)


def burgers_spectral(viscosity: float, modes: int, steps: int, end: float) -> tuple[np.ndarray, np.ndarray]:
    """Sine-Galerkin solution with ETDRK4 in time: points ``j / (2 modes)`` in [0, 1] and the values there."""
    n = np.arange(1, modes + 1)
    padded = 2 * modes

    def values(b: np.ndarray) -> np.ndarray:
        return np.pad(fft.dst(np.pad(0.5 * b, (0, padded - 1 - modes)), type=1), 1)

    def flux(b: np.ndarray) -> np.ndarray:
        return 0.5 * np.pi * n * fft.dct(values(b) ** 2, type=1)[1 : modes + 1] / padded

    advance = reference.etdrk4_stepper(-viscosity * (np.pi * n) ** 2, flux, end / steps)
    b = np.zeros(modes)
    b[0] = -1.0
    for _ in range(steps):
        b = advance(b)
    return np.arange(padded + 1) / padded, values(b)


def test_burgers_agrees_with_a_spectral_solution() -> None:
    x, u = burgers_spectral(0.05 / np.pi, modes=256, steps=400, end=0.8)
    assert np.abs(reference.burgers(x, 0.8, 0.05 / np.pi) - u).max() < 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("end", [0.3, 1.0])
def test_burgers_agrees_with_a_spectral_solution_at_the_benchmark_viscosity(end: float) -> None:
    x, u = burgers_spectral(0.01 / np.pi, modes=1536, steps=round(4000 * end), end=end)
    assert np.abs(reference.burgers(x, end) - u).max() < 1e-9


# Allen-Cahn


def test_allen_cahn_file_is_as_described() -> None:
    x, t, u = reference.allen_cahn()
    assert (x.dtype, t.dtype, u.dtype) == (np.float64,) * 3
    np.testing.assert_array_equal(x, np.linspace(-1, 1, 257))
    np.testing.assert_array_equal(t, np.linspace(0, 1, 101))
    assert u.shape == (257, 101)
    np.testing.assert_array_equal(u[:, 0], x**2 * np.cos(np.pi * x))
    np.testing.assert_allclose(u, u[::-1], atol=1e-12)
    # Maximum principle.
    assert np.abs(u).max() <= 1 + 1e-12
    assert reference._ALLEN_CAHN_FILE.stat().st_size < 400_000


def test_allen_cahn_file_matches_a_recomputation() -> None:
    x, t, u = reference.allen_cahn()
    v = reference.solve_allen_cahn(x, t, modes=512, steps=5, levels=8)
    # The kink of the initial value needs more modes than this at early times only.
    assert relative(v, u) < 3e-7
    assert relative(v[:, 10:], u[:, 10:]) < 1e-8


def test_allen_cahn_file_satisfies_the_equation() -> None:
    # By differences on the stored grid, thus independent of the solver: away from the kink, before the fronts steepen.
    x, t, u = reference.allen_cahn()
    i, j = slice(30, 227), slice(3, 36)
    u = u[i, j]
    u_t = central(1, u, t[1] - t[0], axis=1)[4:-4]
    u_xx = central(2, u, x[1] - x[0], axis=0)[:, 4:-4]
    inner = u[4:-4, 4:-4]
    assert np.abs(u_t - 1e-4 * u_xx - 5 * (inner - inner**3)).max() < 1e-8 * np.abs(u_t).max()


def test_allen_cahn_solver_satisfies_the_equation_after_the_fronts_have_formed() -> None:
    # Fourier differentiation in x on a grid that resolves the fronts, eighth-order differences in t.
    x = np.arange(1024) / 512 - 1
    t = 0.9 + 0.01 * np.arange(-4, 5)
    u = reference.solve_allen_cahn(x, t, modes=512, steps=20)
    k = np.pi * np.arange(513)
    u_xx = np.fft.irfft(-(k**2) * np.fft.rfft(u[:, 4]), 1024)
    u_t = central(1, u, 0.01, axis=1)[:, 0]
    terms = (u_t, -1e-4 * u_xx, -5 * (u[:, 4] - u[:, 4] ** 3))
    assert np.abs(sum(terms)).max() < 1e-7 * np.abs(terms[2]).max()


def test_allen_cahn_initial_coefficients_are_exact() -> None:
    # At a time so short that the equation has not acted, the series must add up to the initial value.
    x = np.linspace(-0.8, 0.8, 17)
    u = reference.solve_allen_cahn(x, np.array([1e-12]), modes=2048, steps=1, levels=0)
    assert np.abs(u[:, 0] - x**2 * np.cos(np.pi * x)).max() < 1e-6


def test_allen_cahn_rejects_unordered_times() -> None:
    with pytest.raises(ValueError, match="increasing"):
        reference.solve_allen_cahn(np.zeros(1), np.array([0.0, 0.2, 0.1]))


@pytest.mark.slow
def test_allen_cahn_has_converged() -> None:
    x, t, u = reference.allen_cahn()
    more_modes = reference.solve_allen_cahn(x, t[:11], modes=4096, steps=40)
    assert relative(u[:, :11], more_modes) < 1e-11
    smaller_steps = reference.solve_allen_cahn(x, t, modes=1024, steps=80, levels=16)
    assert relative(u[:, 2:], smaller_steps[:, 2:]) < 1e-11


def test_allen_cahn_agrees_with_extrapolated_finite_differences() -> None:
    # Second-order differences on [0, 1] with the symmetric neighbours at both ends, stiff time integration, and two
    # Richardson extrapolations: nothing in common with the spectral solver.
    _, t, u = reference.allen_cahn()
    picked = [10, 30, 60, 100]

    def solve(cells: int) -> np.ndarray:
        nodes = np.arange(cells + 1) / cells

        def rate(_: float, v: np.ndarray) -> np.ndarray:
            padded = np.concatenate((v[1:2], v, v[-2:-1]))
            return 1e-4 * cells**2 * (padded[2:] - 2 * v + padded[:-2]) + 5 * (v - v**3)

        start = nodes**2 * np.cos(np.pi * nodes)
        options = {"method": "LSODA", "rtol": 1e-11, "atol": 1e-13, "lband": 1, "uband": 1}
        result = solve_ivp(rate, (0, 1), start, t_eval=t[picked], **options)
        return result.y[:: cells // 128]

    coarse, middle, fine = (solve(cells) for cells in (1024, 2048, 4096))
    first, second = (4 * middle - coarse) / 3, (4 * fine - middle) / 3
    extrapolated = (16 * second - first) / 15
    assert relative(extrapolated, u[128:, picked]) < 1e-9


# Closed forms


def test_convection_satisfies_the_equation() -> None:
    x, dx = chebyshev(0, 2 * np.pi, 32)
    t, dt = chebyshev(0, 0.1, 24)
    u = reference.convection(x[:, None], t)
    assert np.abs(u @ dt.T + 40 * (dx @ u)).max() < 1e-9
    np.testing.assert_array_equal(reference.convection(x, 0.0), np.sin(x))
    np.testing.assert_allclose(reference.convection(0.0, t), reference.convection(2 * np.pi, t), atol=1e-13)
    np.testing.assert_allclose(reference.convection(x, 0.3, speed=2.0), np.sin(x - 0.6))


def test_reaction_satisfies_the_equation() -> None:
    x = np.linspace(0, 2 * np.pi, 65)
    t, dt = chebyshev(0, 1, 40)
    u = reference.reaction(x[:, None], t)
    assert np.abs(u @ dt.T - 5 * u * (1 - u)).max() < 1e-9
    h = np.exp(-((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2))
    np.testing.assert_allclose(reference.reaction(x, 0.0), h, rtol=1e-14)
    growth = h * np.exp(2 * 0.7)
    np.testing.assert_allclose(reference.reaction(x, 0.7, rate=2.0), growth / (growth + 1 - h), rtol=1e-13)
    np.testing.assert_array_equal(reference.reaction(x, 1000.0), 1.0)


@pytest.mark.parametrize("k", [1, 4, 16])
def test_poisson_satisfies_the_equation(k: int) -> None:
    x, dx = chebyshev(0, 1, 24 + 5 * k)
    u = reference.poisson1d(x, k)
    scale = (k * np.pi) ** 2
    assert np.abs(dx @ (dx @ u) + scale * u).max() < 1e-7 * scale
    np.testing.assert_allclose(u[[0, -1]], 0, atol=1e-14)
    v = reference.poisson2d(x[:, None], x, k)
    assert v.shape == (x.size, x.size)
    assert np.abs(dx @ (dx @ v) + (v @ dx.T) @ dx.T + 2 * scale * v).max() < 1e-7 * scale
    np.testing.assert_allclose(v[[0, -1]], 0, atol=1e-14)


def test_scalars_give_arrays_without_axes() -> None:
    values = [
        reference.burgers(0.25, 0.5),
        reference.convection(0.25, 0.5),
        reference.reaction(0.25, 0.5),
        reference.poisson1d(0.25, 2),
        reference.poisson2d(0.25, 0.5, 2),
    ]
    assert all(isinstance(value, np.ndarray) and value.shape == () for value in values)


# Logistic regression


def test_logistic_data_is_as_described() -> None:
    features, labels = reference.logistic_data()
    assert features.shape == (10_000, 50)
    assert set(np.unique(labels)) == {0, 1}
    assert 0.4 < labels.mean() < 0.6
    np.testing.assert_allclose(features.std(axis=0), np.geomspace(0.5, 2, 50), rtol=0.05)
    again, other = reference.logistic_data(), reference.logistic_data(seed=1)
    np.testing.assert_array_equal(features, again[0])
    np.testing.assert_array_equal(labels, again[1])
    assert not np.array_equal(features, other[0])


@pytest.mark.parametrize("ridge", [0.0, 1e-4, 1.0])
def test_logistic_optimum_is_stationary_and_minimal(ridge: float) -> None:
    features, labels = reference.logistic_data(2000, 10, seed=3)
    w = reference.logistic_optimum(features, labels, ridge)
    # The gradient in the {0, 1} form of the model, which the function does not use.
    probability = 1 / (1 + np.exp(-(features @ w)))
    gradient = features.T @ (probability - labels) / len(labels) + ridge * w
    assert np.linalg.norm(gradient) < 2e-13
    value = reference.logistic_loss(w, features, labels, ridge)
    entropy = -np.mean(labels * np.log(probability) + (1 - labels) * np.log(1 - probability))
    assert value == pytest.approx(entropy + 0.5 * ridge * w @ w, rel=1e-13)
    for direction in np.random.default_rng(0).standard_normal((5, 10)):
        assert reference.logistic_loss(w + 1e-4 * direction, features, labels, ridge) > value


def test_logistic_optimum_has_all_its_digits() -> None:
    features, labels = reference.logistic_data(2000, 10, seed=3)
    w = reference.logistic_optimum(features, labels, 1e-3)
    wider = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
    own = np.linalg.norm(reference.logistic_correction(w, features, labels, 1e-3))
    assert own < (3e-16 if wider else 1e-13) * np.linalg.norm(w)
    # The correction finds an error that is there.
    error = 1e-6 * np.linspace(-1, 1, 10)
    np.testing.assert_allclose(reference.logistic_correction(w + error, features, labels, 1e-3), -error, atol=1e-11)


def test_logistic_gradient_is_the_derivative() -> None:
    features, labels = reference.logistic_data(200, 6, seed=4)
    w = np.linspace(-1, 1, 6)
    numeric = [
        (reference.logistic_loss(w + e, features, labels, 0.1) - reference.logistic_loss(w - e, features, labels, 0.1))
        / 2e-5
        for e in 1e-5 * np.eye(6)
    ]
    np.testing.assert_allclose(reference.logistic_gradient(w, features, labels, 0.1), numeric, atol=1e-9)


def test_logistic_optimum_from_far_away_and_without_a_minimiser() -> None:
    features = np.array([[1.0], [2.0], [-1.0], [-2.0]])
    labels = np.array([1, 1, 0, 0])
    # Separable with a tiny ridge: many damped steps, but a minimiser exists.
    w = reference.logistic_optimum(features, labels, 1e-8)
    assert np.linalg.norm(reference.logistic_gradient(w, features, labels, 1e-8)) <= 1e-13
    # Without ridge the gradient decays along a ray; a step budget too small to run it down must be reported.
    with pytest.raises(RuntimeError, match="gradient norm"):
        reference.logistic_optimum(features, labels, 0.0, iterations=5)
    with pytest.raises(ValueError, match="0 or 1"):
        reference.logistic_optimum(features, 2 * labels - 1, 1e-3)
