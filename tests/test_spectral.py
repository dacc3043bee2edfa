"""Checks of the stored spectral solutions: convergence, and methods that have nothing in common with the solvers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.special import log_ndtr

import ravine as rv
from ravine.problems import spectral


def relative(value: np.ndarray, exact: np.ndarray) -> float:
    """Relative L2 difference."""
    return float(np.linalg.norm(value - exact) / np.linalg.norm(exact))


# Advection and diffusion


def survival(x: float, t: np.ndarray, diffusion: float) -> np.ndarray:
    """The solution of p_t + p_x = diffusion p_xx on (0, 1), p = 1 at first, p = 0 at both ends, by images."""
    width = np.sqrt(2 * diffusion * t)

    def mass(low: np.ndarray, high: np.ndarray, exponent: float) -> np.ndarray:
        flip = low > 0
        a, b = np.where(flip, -high, low), np.where(flip, -low, high)
        return -np.exp(exponent + log_ndtr(b)) * np.expm1(log_ndtr(a) - log_ndtr(b))

    total = np.zeros_like(t)
    for n in range(-4, 5):
        total += mass((x - 1 - 2 * n - t) / width, (x - 2 * n - t) / width, n / diffusion)
        total -= mass((x - 2 * n + t) / width, (x + 1 - 2 * n + t) / width, (x - n) / diffusion)
    return total


def test_advection_diffusion_agrees_with_images() -> None:
    """u(x, y) = ∫ p(x, t) p(y, t) dt over all times, since e^(−t(A + B)) is a product: no linear equations at all."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    breaks = np.concatenate(([0.0], np.geomspace(1e-6, 3, 80)))
    half, middle = np.diff(breaks)[:, None] / 2, (breaks[1:] + breaks[:-1])[:, None] / 2
    t, w = (middle + half * nodes).ravel(), (half * weights).ravel()
    x, y, u = spectral.advection_diffusion()
    for i, j in ((100, 100), (190, 60), (199, 199), (10, 2), (1, 1), (100, 120), (3, 198)):
        exact = np.sum(w * survival(x[i], t, 0.01) * survival(y[j], t, 0.01))
        assert abs(u[i, j] - exact) < 1e-11


def test_advection_diffusion_has_converged() -> None:
    x, y, u = spectral.advection_diffusion()
    assert u.shape == (201, 201)
    np.testing.assert_allclose(u, u.T, atol=1e-13)
    assert np.abs(np.concatenate([u[0], u[-1], u[:, 0], u[:, -1]])).max() < 1e-15
    assert relative(spectral.solve_advection_diffusion(x, y, degree=12, levels=8), u) < 1e-10
    # A coarser one does visibly worse, or the comparison would prove nothing.
    assert relative(spectral.solve_advection_diffusion(x, y, degree=6, levels=6), u) > 1e-8


# Kuramoto and Sivashinsky


def test_kuramoto_sivashinsky_file_is_as_described() -> None:
    x, t, u = spectral.kuramoto_sivashinsky()
    np.testing.assert_array_equal(t, np.linspace(0, 1, 101))
    np.testing.assert_allclose(u[:, 0], np.cos(x) * (1 + np.sin(x)), atol=1e-12)
    # Odd about π/2, and without mean.
    np.testing.assert_allclose(u[:129], -u[128::-1], atol=1e-9)
    assert np.abs(u[:-1].mean(axis=0)).max() < 1e-12


def test_kuramoto_sivashinsky_has_converged() -> None:
    x, t, u = spectral.kuramoto_sivashinsky()
    v = spectral.solve_kuramoto_sivashinsky(x, t[:51], modes=128, steps=20)
    # Fourth order in time: twice the steps, a sixteenth of the error. The stored solution has eight times as many.
    w = spectral.solve_kuramoto_sivashinsky(x, t[:51], modes=128, steps=40)
    assert 10 < relative(v, u[:, :51]) / relative(w, u[:, :51]) < 20
    assert relative(w, u[:, :51]) < 1e-7


def test_kuramoto_sivashinsky_file_satisfies_the_equation() -> None:
    """Differences in time, Fourier derivatives in space, at a time when fronts are steep."""
    x, t = 2 * np.pi * np.arange(1024) / 1024, 0.00025 * np.arange(1810)
    u = spectral.solve_kuramoto_sivashinsky(x, t, modes=256, steps=4)
    at = 1800
    weights = np.array([1 / 280, -4 / 105, 1 / 5, -4 / 5, 0, 4 / 5, -1 / 5, 4 / 105, -1 / 280])
    u_t = u[:, at - 4 : at + 5] @ weights / 0.00025
    k = np.arange(513)
    derivative = lambda order: np.fft.irfft((1j * k) ** order * np.fft.rfft(u[:, at]) * (k < 256), 1024)
    terms = (u_t, 6.25 * u[:, at] * derivative(1), 100 / 256 * derivative(2), 100 / 65536 * derivative(4))
    assert np.abs(sum(terms)).max() < 1e-6 * max(np.abs(term).max() for term in terms)


def test_kuramoto_sivashinsky_rejects_times_it_cannot_step_through() -> None:
    with pytest.raises(ValueError, match="equidistant"):
        spectral.solve_kuramoto_sivashinsky(np.zeros(1), np.array([0.0, 0.1, 0.3]))


# The cavity


def test_cavity_file_is_as_described() -> None:
    x, y, u = spectral.cavity()
    assert u.shape == (101, 101, 2)
    np.testing.assert_allclose(u[:, -1, 0], 4 * x * (1 - x), atol=1e-14)
    for wall in (u[0, :-1], u[-1, :-1], u[:, 0], u[:, -1, 1:]):
        assert np.abs(wall).max() < 1e-14
    # No water is lost: the flux through every vertical and horizontal line vanishes, by Simpson's rule.
    simpson = np.ones(101) * 2
    simpson[1::2], simpson[[0, -1]] = 4, 1
    assert np.abs(simpson @ u[20:81, :, 0].T).max() / 300 < 1e-5
    assert np.abs(simpson @ u[:, 20:81, 1]).max() / 300 < 1e-5
    assert y[50] == 0.5


def test_cavity_has_converged() -> None:
    x, y, u = spectral.cavity()
    errors = [relative(spectral.solve_cavity(x, y, modes=n, points=4 * n), u) for n in (8, 16)]
    assert errors[1] < 5e-5
    assert errors[0] > 5 * errors[1]


def finite_differences(cells: int, reynolds: float) -> np.ndarray:
    """The stream function by second-order central differences on a uniform grid, walls by reflection; Newton."""
    h, n = 1 / cells, cells - 1
    one = lambda offset: sparse.diags([1.0], [offset], shape=(n, n))
    eye = sparse.identity(n)
    # ψ beyond a wall is ψ within, plus 2h times its outward slope: none but at the lid, y = 1.
    fourth = one(2) + one(-2) - 4 * (one(1) + one(-1)) + 6 * eye
    fourth = fourth.tolil()
    fourth[0, 0] += 1
    fourth[-1, -1] += 1
    second, first = one(1) + one(-1) - 2 * eye, (one(1) - one(-1)) / 2
    kron = lambda a, b: sparse.kron(sparse.csr_matrix(a), sparse.csr_matrix(b), format="csr")
    nodes = h * np.arange(1, cells)
    biharmonic = (kron(fourth, eye) + kron(eye, fourth) + 2 * kron(second, second)) / h**4
    lid = np.zeros((n, n))
    lid[:, -1] = 2 * h * 4 * nodes * (1 - nodes) / h**4
    along, up = kron(first, eye) / h, kron(eye, first) / h
    laplace = (kron(second, eye) + kron(eye, second)) / h**2
    # ω = −Δψ is needed on the walls too, by Thom's formula: −2ψ₁/h² − 2 slope/h.
    walls = lambda psi: (
        -2 * psi[0] / h**2, -2 * psi[-1] / h**2, -2 * psi[:, 0] / h**2,
        -2 * psi[:, -1] / h**2 - 2 * 4 * nodes * (1 - nodes) / h,
    )  # fmt: skip

    def slopes(psi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        omega = -(laplace @ psi.ravel()).reshape(n, n)
        left, right, bottom, top = walls(psi)
        padded = np.pad(omega, 1)
        padded[0, 1:-1], padded[-1, 1:-1], padded[1:-1, 0], padded[1:-1, -1] = left, right, bottom, top
        return (padded[2:, 1:-1] - padded[:-2, 1:-1]) / (2 * h), (padded[1:-1, 2:] - padded[1:-1, :-2]) / (2 * h)

    psi = np.zeros((n, n))
    for _ in range(60):
        omega_x, omega_y = slopes(psi)
        # −Δω = Δ²ψ + lid; Picard: the velocity carries the old vorticity with half a step.
        u, v = (up @ psi.ravel()).reshape(n, n), -(along @ psi.ravel()).reshape(n, n)
        right = -lid - reynolds * (u * omega_x + v * omega_y)
        new = spsolve(biharmonic.tocsc(), right.ravel()).reshape(n, n)
        change = np.abs(new - psi).max()
        psi = psi + 0.5 * (new - psi)
        if change < 1e-9:
            return psi
    raise AssertionError("no convergence")


def test_cavity_agrees_with_finite_differences() -> None:
    """At a small Reynolds number, where a simple iteration converges; second order, once extrapolated."""
    x, y = np.linspace(0, 1, 257), np.linspace(0, 1, 17)
    u = spectral.solve_cavity(x, y, reynolds=20.0, modes=20, points=80)
    psi = np.zeros((17, 17))
    coarse, fine = finite_differences(32, 20.0), finite_differences(64, 20.0)
    psi[1:-1, 1:-1] = (4 * fine[3::4, 3::4] - coarse[1::2, 1::2]) / 3
    # v = −ψ_x, integrated: the stream function between two points of a horizontal line by Simpson's rule.
    fluxes = (u[:-2:2, :, 1] + 4 * u[1:-1:2, :, 1] + u[2::2, :, 1]) / 768
    found = -np.cumsum(fluxes, axis=0)[7::8, 2:-1]
    exact = psi[1:, 2:-1]
    assert np.abs(found - exact).max() < 2e-3 * np.abs(exact).max()


# The problems


def test_cavity_equation_is_that_of_the_vorticity() -> None:
    """Polarised Taylor passes against nested dense derivatives, for a stream function without symmetry."""
    module = __import__("ravine.problems.cavity", fromlist=["equation"])
    psi = lambda z: jnp.sin(2 * z[0] + 0.3) * jnp.exp(z[1] * z[0]) + z[1] ** 3 * z[0] ** 2
    model, z = rv.models.Curl(psi), jnp.array([0.3, 0.6])
    laplacian = lambda f: lambda at: jnp.trace(jax.jacfwd(jax.jacfwd(f))(at))
    vorticity = lambda at: -laplacian(psi)(at)
    carried = jnp.dot(model(z), jax.jacfwd(vorticity)(z))
    balance = carried - laplacian(vorticity)(z) / 100
    distance = (0.3**2 + 0.4**2) * (0.7**2 + 0.4**2)
    assert float(module.equation(model, z)) == pytest.approx(float(distance * balance), rel=1e-10)


def test_cavity_conditions_hold_for_an_untrained_network() -> None:
    model = rv.problems.make("cavity", points=8, width=4, depth=1).model(jax.random.key(0))
    for s in (0.1, 0.5, 0.8):
        for place in ([0.0, s], [1.0, s], [s, 0.0]):
            np.testing.assert_allclose(model(jnp.array(place)), [0.0, 0.0], atol=1e-14)
        np.testing.assert_allclose(model(jnp.array([s, 1.0])), [4 * s * (1 - s), 0.0], atol=1e-14)


def test_cavity_lift_is_that_of_the_reference() -> None:
    from ravine.problems.cavity import Lift

    x = np.array([0.2, 0.9])
    exact = spectral._lift(x, x)
    for i, a in enumerate(x):
        for j, b in enumerate(x):
            found = rv.partials(Lift(), jnp.array([a, b]), (), 0, 1, (0, 0), (0, 1), (1, 1))
            keys = ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
            np.testing.assert_allclose(found, [exact[key][i, j] for key in keys], atol=1e-12)
    assert np.isfinite(rv.partials(Lift(), jnp.array([0.0, 1.0]), (), 0, 1)).all()


@pytest.mark.parametrize("end", [0.0, 1.5])
def test_times_without_a_reference(end: float) -> None:
    with pytest.raises(ValueError, match=r"between 0\.01 and 1"):
        rv.problems.make("kuramoto_sivashinsky", end=end)
