"""Solvers behind the stored reference solutions of the harder equations, in NumPy and SciPy (float64) only.

As in `ravine.problems.reference`, nothing here depends on JAX. ``scripts/make_spectral_references.py`` runs them and
prints their convergence; the tests hold an independent check for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre
from scipy.linalg import cho_factor, cho_solve, solve_sylvester
from scipy.sparse.linalg import LinearOperator, gmres

from ravine.problems.reference import GridSolution, etdrk4_stepper

__all__ = [
    "CavitySolution",
    "PlaneSolution",
    "advection_diffusion",
    "cavity",
    "kuramoto_sivashinsky",
    "solve_advection_diffusion",
    "solve_cavity",
    "solve_kuramoto_sivashinsky",
]

_FOLDER = Path(__file__).parent


class PlaneSolution(NamedTuple):
    """Solution on a tensor grid: ``u[i, j]`` is the value at ``(x[i], y[j])``."""

    x: Float[np.ndarray, " first"]
    y: Float[np.ndarray, " second"]
    u: Float[np.ndarray, "first second"]


def _stored(name: str) -> tuple[np.ndarray, ...]:
    with np.load(_FOLDER / f"{name}.npz", allow_pickle=False) as data:
        return tuple(data[key] for key in data.files)


# --------------------------------------------------------------------------------------------------------------------
# Advection and diffusion
# --------------------------------------------------------------------------------------------------------------------


def _lobatto(degree: int) -> Float[np.ndarray, " nodes"]:
    """The Gauss-Lobatto-Legendre nodes of [-1, 1]."""
    inner = legendre.legroots(legendre.legder([0.0] * degree + [1.0]))
    return np.concatenate(([-1.0], inner, [1.0]))


def _lagrange(
    nodes: Float[np.ndarray, " nodes"], at: Float[np.ndarray, " points"]
) -> tuple[Float[np.ndarray, "points nodes"], Float[np.ndarray, "points nodes"]]:
    """Values and slopes of the Lagrange polynomials of `nodes` at the points `at` of [-1, 1]."""
    degree = len(nodes) - 1
    basis = np.linalg.inv(legendre.legvander(nodes, degree))
    slopes = np.stack([legendre.legval(at, legendre.legder(row)) for row in np.eye(degree + 1)], axis=1)
    return legendre.legvander(at, degree) @ basis, slopes @ basis


def solve_advection_diffusion(
    x: Float[np.ndarray, " first"],
    y: Float[np.ndarray, " second"],
    *,
    diffusion: float = 0.01,
    degree: int = 16,
    levels: int = 8,
) -> Float[np.ndarray, "first second"]:
    """Solve ``u_x + u_y - diffusion (u_xx + u_yy) = 1`` on (0, 1)^2 with ``u = 0`` on the edge.

    Method. Spectral elements (Galerkin, Lagrange polynomials of `degree` on Gauss-Lobatto nodes), the same in both
    directions. The elements halve `levels` times towards both ends, which resolves the layers at x = 1 and y = 1
    (width `diffusion`), and the corners, where u behaves as r^2 log r. The operator is ``L (x) 1 + 1 (x) L``, hence the
    discrete equations are Sylvester's, ``B U + U B^T = f f^T``, and solved directly (Bartels and Stewart, 1972).

    Accuracy: see `advection_diffusion`. Cost: O(n^3) for n = 2 `degree` (`levels` + 1) unknowns a direction.
    """
    halves = 0.5 ** np.arange(levels + 1, 0, -1)
    breaks = np.concatenate(([0.0], halves, 1 - halves[-2::-1], [1.0]))
    nodes = _lobatto(degree)
    points, weights = legendre.leggauss(degree + 2)
    value, slope = _lagrange(nodes, points)
    mass, advection, stiffness = (
        (left * weights[:, None]).T @ right for left, right in ((value, value), (value, slope), (slope, slope))
    )
    size = degree * (len(breaks) - 1) + 1
    m, a = np.zeros((size, size)), np.zeros((size, size))
    for element, length in enumerate(np.diff(breaks)):
        part = np.ix_(*(np.arange(element * degree, (element + 1) * degree + 1),) * 2)
        m[part] += length / 2 * mass
        a[part] += advection + diffusion * 2 / length * stiffness
    load = m.sum(axis=1)[1:-1]
    m, a = m[1:-1, 1:-1], a[1:-1, 1:-1]
    f = np.linalg.solve(m, load)
    b = np.linalg.solve(m, a)
    found = np.zeros((size, size))
    found[1:-1, 1:-1] = solve_sylvester(b, b.T, np.outer(f, f))

    def interpolation(at: np.ndarray) -> np.ndarray:
        rows = np.zeros((len(at), size))
        elements = np.clip(np.searchsorted(breaks, at, side="right") - 1, 0, len(breaks) - 2)
        for element in np.unique(elements):
            mine = np.flatnonzero(elements == element)
            low, high = breaks[element : element + 2]
            columns = np.arange(element * degree, (element + 1) * degree + 1)
            rows[np.ix_(mine, columns)] = _lagrange(nodes, 2 * (at[mine] - low) / (high - low) - 1)[0]
        return rows

    return interpolation(np.asarray(x, float)) @ found @ interpolation(np.asarray(y, float)).T


def advection_diffusion() -> PlaneSolution:
    """Stored solution of ``u_x + u_y - 0.01 (u_xx + u_yy) = 1`` on (0, 1)^2, ``u = 0`` on the edge.

    Grid: 201 x 201 equidistant points, edges included.

    Method: `solve_advection_diffusion` with the resolution in ``scripts/make_spectral_references.py``.
    """
    return PlaneSolution(*_stored("advection_diffusion"))


# --------------------------------------------------------------------------------------------------------------------
# Kuramoto and Sivashinsky
# --------------------------------------------------------------------------------------------------------------------


def solve_kuramoto_sivashinsky(
    x: Float[np.ndarray, " space"],
    t: Float[np.ndarray, " time"],
    *,
    modes: int = 256,
    steps: int = 20,
) -> Float[np.ndarray, "space time"]:
    """Solve ``u_t + a u u_x + b u_xx + c u_xxxx = 0``, 2 pi-periodic, with ``u(x, 0) = cos x (1 + sin x)``.

    Here ``a = 100/16``, ``b = 100/16^2``, ``c = 100/16^4``: 16 times the basic length, 100 times the basic time.

    Method. Fourier series with `modes` positive wave numbers; the quadratic term is a Galerkin projection, evaluated on
    3 `modes` points or more, which removes all aliasing. Time stepping is ETDRK4, `steps` steps between neighbours of
    `t`, which must be equidistant from 0 on. Accuracy: see `kuramoto_sivashinsky`.
    """
    x, t = np.asarray(x, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if t.size < 2 or t[0] != 0 or not np.allclose(np.diff(t), t[1], rtol=1e-9, atol=0) or t[1] <= 0:
        raise ValueError("t must be equidistant, increasing, and begin with 0")
    k = np.arange(modes + 1)
    linear = 100 / 16**2 * k**2.0 - 100 / 16**4 * k**4.0
    points = 4 * modes

    def flux(c: np.ndarray) -> np.ndarray:
        values = np.fft.irfft(c, points) * points
        return -100 / 32 * 1j * k * np.fft.rfft(values**2)[: modes + 1] / points

    advance = etdrk4_stepper(linear, flux, t[1] / steps)
    grid = 2 * np.pi * np.arange(points) / points
    c = np.fft.rfft(np.cos(grid) * (1 + np.sin(grid)))[: modes + 1] / points
    basis = np.exp(1j * np.outer(x, k)) * np.where(k == 0, 1.0, 2.0)
    u = np.empty((x.size, t.size))
    for j in range(t.size):
        if j:
            for _ in range(steps):
                c = advance(c)
        u[:, j] = np.real(basis @ c)
    return u


def kuramoto_sivashinsky() -> GridSolution:
    """Stored solution of ``u_t + a u u_x + b u_xx + c u_xxxx = 0``, 2 pi-periodic, ``u(x, 0) = cos x (1 + sin x)``.

    Grid: 257 equidistant points in [0, 2 pi] (both ends) times 101 equidistant times in [0, 1].

    Method: `solve_kuramoto_sivashinsky` with the resolution in ``scripts/make_spectral_references.py``.
    """
    return GridSolution(*_stored("kuramoto_sivashinsky"))


# --------------------------------------------------------------------------------------------------------------------
# The lid-driven cavity
# --------------------------------------------------------------------------------------------------------------------


class CavitySolution(NamedTuple):
    """Velocity on a tensor grid: ``u[i, j]`` is ``(u, v)`` at ``(x[i], y[j])``."""

    x: Float[np.ndarray, " first"]
    y: Float[np.ndarray, " second"]
    u: Float[np.ndarray, "first second 2"]


def _corner(a: np.ndarray, b: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """The stream function of a corner, and its derivatives: ``pi b^2 - 2 a b - 2 (a^2 + b^2) atan(b/a)``.

    It is biharmonic, vanishes with its normal derivative on the wall ``a = 0``, and has slope ``-4 a`` on ``b = 0``.
    """
    angle, square = np.arctan2(b, a), a**2 + b**2
    square = np.where(square == 0, 1.0, square)
    return {
        (0, 0): np.pi * b**2 - 2 * a * b - 2 * (a**2 + b**2) * angle,
        (1, 0): -4 * a * angle,
        (0, 1): 2 * np.pi * b - 4 * a - 4 * b * angle,
        (2, 0): -4 * angle + 4 * a * b / square,
        (1, 1): -4 * a**2 / square,
        (0, 2): 2 * np.pi - 4 * angle - 4 * a * b / square,
    }


def _lift(x: np.ndarray, y: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """A stream function that meets every condition of the cavity, with its derivatives up to order 2 on a grid."""
    x, y = x[:, None], y[None, :]
    total: dict[tuple[int, int], np.ndarray] = {}
    for side in (1, -1):  # the corner at x = 0, and its mirror image
        a = x if side > 0 else 1 - x
        corner = _corner(*np.broadcast_arrays(a, 1 - y))
        fade = {0: (1 - a) ** 2, 1: -2 * (1 - a), 2: 2 * np.ones_like(a)}
        rise = {0: y**2, 1: 2 * y, 2: 2 * np.ones_like(y)}
        for p, q in corner:
            # Leibniz's rule in both directions; d/da = side d/dx, d/db = -d/dy.
            value = sum(
                (1 + (p == 2 and i == 1)) * (1 + (q == 2 and j == 1)) * (-1) ** j
                * corner[i, j] * fade[p - i] * rise[q - j]
                for i in range(p + 1)
                for j in range(q + 1)
            )  # fmt: skip
            total[p, q] = total.get((p, q), 0.0) + side**p * value
    return total


def _clamped(at: Float[np.ndarray, " points"], count: int) -> list[Float[np.ndarray, "points count"]]:
    """Shen's basis of polynomials on [0, 1] that vanish twice at both ends, with first and second derivatives."""
    k = np.arange(count)
    rows = np.zeros((count, count + 4))
    rows[k, k], rows[k, k + 2], rows[k, k + 4] = 1, -2 * (2 * k + 5) / (2 * k + 7), (2 * k + 3) / (2 * k + 7)
    rows /= np.sqrt(2 * (2 * k + 3) ** 2 * (2 * k + 5))[:, None]
    return [
        2**order * np.stack([legendre.legval(2 * at - 1, legendre.legder(row, order)) for row in rows], axis=1)
        for order in range(3)
    ]


def solve_cavity(
    x: Float[np.ndarray, " first"],
    y: Float[np.ndarray, " second"],
    *,
    reynolds: float = 100.0,
    modes: int = 48,
    points: int = 192,
) -> Float[np.ndarray, "first second 2"]:
    """Solve the steady Navier-Stokes equations in (0, 1)^2 below a lid that moves with ``4 x (1 - x)``.

    Method. The stream function (``u = psi_y``, ``v = -psi_x``) obeys ``Laplace^2 psi / reynolds = u . grad Laplace
    psi``. Where the lid meets a wall, velocity gradients jump; the local solution, ``r^2`` times a function of the
    angle, is known and becomes a lift that meets all conditions. The rest is a Galerkin expansion in `modes` of Shen's
    clamped polynomials a direction, with Gauss-Legendre quadrature on `points` squared points; Newton's method,
    linear equations by GMRES with the factorised biharmonic operator as preconditioner.

    Accuracy: see `cavity`. Cost: O(`modes`^6) for the factorisation.

    Source: J. Shen, SIAM J. Sci. Comput. 15 (1994) 1489, section 3 (the basis); J. N. Goodier, Phil. Mag. 17 (1934) 554
    (the corner).

    Raises:
        RuntimeError: if Newton's method has not converged.
    """
    nodes, weights = legendre.leggauss(points)
    nodes, weights = (nodes + 1) / 2, weights / 2
    b = _clamped(nodes, modes)
    w = weights[:, None] * weights[None, :]
    lift, viscosity = _lift(nodes, nodes), 1 / reynolds

    def field(c: np.ndarray, p: int, q: int) -> np.ndarray:
        return b[p] @ c @ b[q].T

    def tested(values: np.ndarray, p: int, q: int) -> np.ndarray:
        return b[p].T @ (w * values) @ b[q]

    def parts(c: np.ndarray, base: dict[tuple[int, int], np.ndarray] | None) -> tuple[np.ndarray, ...]:
        found = [field(c, p, q) + (0 if base is None else base[p, q]) for p, q in ((0, 1), (1, 0), (2, 0), (0, 2))]
        return found[0], found[1], found[2] + found[3]

    def weak(laplace: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        viscous = viscosity * (tested(laplace, 2, 0) + tested(laplace, 0, 2))
        return viscous + tested(first, 1, 0) - tested(second, 0, 1)

    stiff, mixed, mass = ((b[p].T * weights) @ b[q] for p, q in ((2, 2), (2, 0), (0, 0)))
    biharmonic = np.kron(stiff, mass) + np.kron(mass, stiff) + np.kron(mixed, mixed.T) + np.kron(mixed.T, mixed)
    factor = cho_factor(viscosity * biharmonic, overwrite_a=True)
    size = modes**2
    # SciPy's stubs know another constructor only.
    operator = lambda matvec: LinearOperator((size, size), matvec=matvec, dtype=float)  # pyright: ignore[reportCallIssue]
    inverse = operator(lambda r: cho_solve(factor, r))
    c = np.zeros((modes, modes))
    for _ in range(20):
        u, minus_v, laplace = parts(c, lift)
        residual = weak(laplace, laplace * u, laplace * minus_v)

        def slope(d: np.ndarray, at=(u, minus_v, laplace)) -> np.ndarray:
            u, minus_v, laplace = at
            du, dv, dl = parts(d.reshape(modes, modes), None)
            return weak(dl, dl * u + laplace * du, dl * minus_v + laplace * dv).ravel()

        update, failed = gmres(operator(slope), -residual.ravel(), M=inverse, rtol=1e-10, restart=200, maxiter=3)
        c = c + update.reshape(modes, modes)
        if not failed and np.abs(update).max() < 1e-12:
            break
    else:
        raise RuntimeError("Newton's method for the cavity has not converged in 20 steps")
    x, y = np.asarray(x, float), np.asarray(y, float)
    base, first, second = _lift(x, y), _clamped(x, modes), _clamped(y, modes)
    u = base[0, 1] + first[0] @ c @ second[1].T
    v = -base[1, 0] - first[1] @ c @ second[0].T
    return np.stack([u, v], axis=-1)


def cavity() -> CavitySolution:
    """Stored velocity in the lid-driven cavity, Reynolds number 100, lid ``4 x (1 - x)``.

    Grid: 101 x 101 equidistant points, walls included.

    Method: `solve_cavity` with the resolution in ``scripts/make_spectral_references.py``.
    """
    return CavitySolution(*_stored("cavity"))
