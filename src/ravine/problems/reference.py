"""Reference solutions of the benchmark problems, in NumPy and SciPy (float64) only.

Nothing here depends on JAX, so that an error in the library cannot hide in the yardstick it is measured with.
Closed forms are evaluated directly; Burgers' equation uses the Cole-Hopf integral, the Allen-Cahn equation a stored
spectral solution, and ridge logistic regression Newton's method. The tests hold a convergence check for each of them.
Arrays broadcast against each other unless the docstring says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Inexact, Integer, Num, Shaped
from scipy import fft
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

__all__ = [
    "GridSolution",
    "allen_cahn",
    "burgers",
    "convection",
    "etdrk4_stepper",
    "logistic_correction",
    "logistic_data",
    "logistic_gradient",
    "logistic_loss",
    "logistic_optimum",
    "poisson1d",
    "poisson2d",
    "reaction",
    "solve_allen_cahn",
]

_ALLEN_CAHN_FILE = Path(__file__).with_name("allen_cahn.npz")

# Points times quadrature nodes handled at once by `burgers`: a few arrays of 2 MB stay inside the cache.
_BURGERS_BLOCK = 1 << 18


# Spelled out because run-time type checkers do not take an int for a float.
Real = float | int


class GridSolution(NamedTuple):
    """Solution on a tensor grid: ``u[i, j]`` is the value at ``(x[i], t[j])``."""

    x: Float[np.ndarray, " space"]
    t: Float[np.ndarray, " time"]
    u: Float[np.ndarray, "space time"]


# --------------------------------------------------------------------------------------------------------------------
# Burgers
# --------------------------------------------------------------------------------------------------------------------


def burgers(
    x: Float[np.ndarray, "*#shape"] | Real,
    t: Float[np.ndarray, "*#shape"] | Real,
    viscosity: Real = 0.01 / np.pi,
    *,
    refinement: Real = 1.0,
) -> Float[np.ndarray, "*shape"]:
    r"""Burgers' equation ``u_t + u u_x = viscosity u_xx`` with ``u(x, 0) = -sin(pi x)`` and ``u(-1, t) = u(1, t) = 0``.

    Method. The Cole-Hopf transformation gives, with ``s = sqrt(4 viscosity t)`` and ``y = x - s z``,

    .. math:: u = -\frac{\int \sin(\pi y)\, w(z)\, dz}{\int w(z)\, dz},
              \qquad w(z) = \exp\Bigl(-z^2 - \frac{\cos^2(\pi y / 2)}{\pi \nu}\Bigr).

    The integrands are entire and decay like a Gaussian, so the trapezoidal rule on the real line converges faster than
    geometrically. In the scaled variable ``z`` the curvature of ``log w`` is at most ``2 (1 + pi t)`` whatever the
    viscosity; the step follows it, and also resolves the harmonics of ``y`` when ``s`` is large. The weights are
    shifted by their largest exponent, so nothing underflows however small the viscosity.

    Accuracy. Halving the step changes the result by less than 1e-14 for ``viscosity = 0.01 / pi`` and ``t`` in [0, 1];
    what is left is rounding. A sine-Galerkin solution with ETDRK4 agrees to 1e-10 (its own error). The result is
    exactly odd in ``x`` and exactly zero at ``x = 0`` and ``x = -1, 1``. At ``t = 0`` it is the initial value itself.
    Outside [-1, 1] it is the 2-periodic extension.

    Args:
        x: Positions.
        t: Times, non-negative.
        viscosity: Coefficient of ``u_xx``, positive. Cost grows like ``viscosity ** -0.5``.
        refinement: Factor on the number of quadrature nodes; 2 halves the step.

    Source: E. Hopf, Comm. Pure Appl. Math. 3 (1950) 201; C. Basdevant et al., Comput. Fluids 14 (1986) 23 (the test
    case); L. N. Trefethen and J. A. C. Weideman, SIAM Rev. 56 (2014) 385 (convergence of the trapezoidal rule).
    """
    if not viscosity > 0:
        raise ValueError("viscosity must be positive")
    x, t = np.broadcast_arrays(np.asarray(x, dtype=np.float64), np.asarray(t, dtype=np.float64))
    if np.any(t < 0):
        raise ValueError("t must not be negative")
    shape = x.shape
    x, t = x.ravel(), t.ravel()
    folded = x - 2.0 * np.round(0.5 * x)
    # Working on |x| and restoring the sign makes the result odd to the last bit.
    position, sign = np.abs(folded), np.sign(folded)
    # The exponent of the second factor spans 1 / (pi viscosity); 40 more e-foldings are below double precision.
    reach = np.sqrt(1.0 / (np.pi * viscosity) + 40.0)
    latest = t.max(initial=0.0)
    # First bound: curvature at the peaks. Second: a dozen harmonics exp(i pi n s z), which matters for large s only.
    harmonics = 12.0 * (1.0 + np.pi * np.sqrt(4.0 * viscosity * latest))
    step = min(0.3 / np.sqrt(1.0 + np.pi * latest), 2.0 * np.pi / harmonics) / refinement
    half = int(np.ceil(reach / step))
    z = step * np.arange(-half, half + 1)
    u = np.empty_like(x)
    block = max(1, _BURGERS_BLOCK // z.size)
    for start in range(0, x.size, block):
        part = slice(start, start + block)
        angle = 0.5 * np.pi * (position[part, None] - np.sqrt(4.0 * viscosity * t[part, None]) * z)
        # cos^2 rather than cos: the exponent is then accurate where it matters, next to its maxima at y = -1, 1.
        cosine = np.cos(angle)
        exponent = -(z**2) - cosine**2 / (np.pi * viscosity)
        weight = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        u[part] = -2.0 * np.einsum("ij,ij,ij->i", np.sin(angle), cosine, weight) / weight.sum(axis=1)
    u = np.where(t == 0.0, -np.sin(np.pi * position), u)
    u = np.where((position == 0.0) | (position == 1.0), 0.0, sign * u)
    return u.reshape(shape)


# --------------------------------------------------------------------------------------------------------------------
# Allen-Cahn
# --------------------------------------------------------------------------------------------------------------------


def etdrk4_stepper(
    linear: Float[np.ndarray, " modes"],
    nonlinear: Callable[[Inexact[np.ndarray, " modes"]], Inexact[np.ndarray, " modes"]],
    step: Real,
) -> Callable[[Inexact[np.ndarray, " modes"]], Inexact[np.ndarray, " modes"]]:
    """One step of the exponential integrator ETDRK4 for ``c' = linear c + nonlinear(c)`` with real diagonal ``linear``.

    The coefficient functions are averaged over a circle of radius 1 around each ``linear * step``, which avoids the
    cancellation of their explicit formulas near zero.

    Accuracy: order 4 in the step for smooth data.

    Source: S. M. Cox and P. C. Matthews, J. Comput. Phys. 176 (2002) 430; A.-K. Kassam and L. N. Trefethen, SIAM J.
    Sci. Comput. 26 (2005) 1214.
    """
    points = np.exp(1j * np.pi * (np.arange(1, 33) - 0.5) / 32)
    r = step * linear[:, None] + points
    e = np.exp(r)

    # Upper half circle only: for real `linear` the lower half contributes the complex conjugate.
    def mean(values: np.ndarray) -> np.ndarray:
        return step * np.real(values).mean(axis=1)

    q = mean((np.exp(0.5 * r) - 1) / r)
    f1 = mean((-4 - r + e * (4 - 3 * r + r**2)) / r**3)
    f2 = mean((2 + r + e * (r - 2)) / r**3)
    f3 = mean((-4 - 3 * r - r**2 + e * (4 - r)) / r**3)
    full, half = np.exp(step * linear), np.exp(0.5 * step * linear)

    def advance(c: np.ndarray) -> np.ndarray:
        n0 = nonlinear(c)
        a = half * c + q * n0
        na = nonlinear(a)
        b = half * c + q * na
        nb = nonlinear(b)
        d = half * a + q * (2 * nb - n0)
        return full * c + f1 * n0 + 2 * f2 * (na + nb) + f3 * nonlinear(d)

    return advance


def solve_allen_cahn(
    x: Float[np.ndarray, " space"],
    t: Float[np.ndarray, " time"],
    *,
    modes: int = 1024,
    steps: int = 20,
    levels: int = 12,
) -> Float[np.ndarray, "space time"]:
    """Solve the Allen-Cahn equation ``u_t = 1e-4 u_xx + 5 (u - u^3)``, 2-periodic, with ``u(x, 0) = x^2 cos(pi x)``.

    Method. The solution is even in ``x``, so it is expanded in ``cos(n pi x)`` for ``n < modes`` (as many as a Fourier
    grid of ``2 * modes`` points has). The cubic term is a Galerkin projection: it is evaluated on twice as many points,
    which removes all aliasing. Time stepping is ETDRK4.

    The initial value has a kink at ``x = -1, 1`` (its slope jumps by 4), which has two consequences. Its Fourier
    coefficients decay only like ``n^-2``; they are therefore set from their closed form, as sampling would alias the
    tail onto the low modes. And the solution is not smooth in time at ``t = 0``, where a uniform step would lose its
    order; the first interval is therefore divided into ``levels`` halvings towards zero, each with ``steps`` steps.

    Accuracy: see `allen_cahn`.

    Args:
        x: Positions.
        t: Increasing times, from 0 on; ``steps`` time steps are made between neighbours.
        modes: Number of cosine modes.
        steps: Time steps in each interval between output times, and in each part of the first one.
        levels: Halvings of the first interval.

    Returns:
        ``u[i, j]`` at ``(x[i], t[j])``; at ``t = 0`` the initial value itself.
    """
    x, t = np.asarray(x, dtype=np.float64), np.asarray(t, dtype=np.float64)
    if t.size == 0 or t[0] < 0 or np.any(np.diff(t) <= 0):
        raise ValueError("t must be increasing and not negative")
    n = np.arange(modes)
    linear = 5.0 - 1e-4 * (np.pi * n) ** 2
    padded = 2 * modes

    def cube(c: np.ndarray) -> np.ndarray:
        # With c the complex Fourier coefficients of an even function, DCT-I gives its values at j / padded, and back.
        values = np.asarray(fft.dct(np.pad(c, (0, padded + 1 - modes)), type=1))
        return -5.0 * np.asarray(fft.dct(values**3, type=1))[:modes] / (2 * padded)

    m = n.astype(np.float64)
    with np.errstate(divide="ignore"):
        c = -np.cos(np.pi * m) / np.pi**2 * (1 / (m + 1) ** 2 + 1 / (m - 1) ** 2)
    c[1] = 1 / 6 + 1 / (4 * np.pi**2)

    basis = np.cos(np.pi * np.outer(x, n)) * np.where(n == 0, 1.0, 2.0)
    u = np.empty((x.size, t.size))
    now, previous, advance = 0.0, np.inf, None
    for j, end in enumerate(t):
        if end == 0.0:
            u[:, j] = x**2 * np.cos(np.pi * x)
            continue
        breaks = [end] if now > 0 else [end * 0.5**level for level in range(levels, -1, -1)]
        for target in breaks:
            step = (target - now) / steps
            # Coefficients are kept while the step is the same up to rounding of the output times.
            if advance is None or abs(step - previous) > 1e-12 * step:
                advance, previous = etdrk4_stepper(linear, cube, step), step
            for _ in range(steps):
                c = advance(c)
            now = target
        u[:, j] = basis @ c
    return u


def allen_cahn() -> GridSolution:
    """Stored solution of ``u_t = 1e-4 u_xx + 5 (u - u^3)``, 2-periodic, with ``u(x, 0) = x^2 cos(pi x)``.

    Grid: 257 equidistant points in [-1, 1] (both ends) times 101 equidistant times in [0, 1].

    Method: `solve_allen_cahn` with the resolution in ``scripts/make_references.py``, which writes the file.

    Accuracy: 2e-12 in relative L2 over the grid and 2e-11 at the worst point, against twice the modes and half the
    steps; rounding amplified by the instability of ``u = 0`` (up to ``e^5``) limits it. Extrapolated finite differences
    agree to 2e-11 in relative L2.

    Source: the test case is from M. Raissi, P. Perdikaris and G. E. Karniadakis, J. Comput. Phys. 378 (2019) 686.
    """
    with np.load(_ALLEN_CAHN_FILE, allow_pickle=False) as data:
        return GridSolution(x=data["x"], t=data["t"], u=data["u"])


# --------------------------------------------------------------------------------------------------------------------
# Closed forms
# --------------------------------------------------------------------------------------------------------------------


def convection(
    x: Float[np.ndarray, "*#shape"] | Real,
    t: Float[np.ndarray, "*#shape"] | Real,
    speed: Real = 40.0,
) -> Float[np.ndarray, "*shape"]:
    """Convection ``u_t + speed u_x = 0``, periodic on [0, 2 pi], ``u(x, 0) = sin(x)``: exactly ``sin(x - speed t)``.

    Accuracy: rounding of the phase, about ``1e-16 (1 + speed t)``.

    Source: the test case is from A. Krishnapriyan et al., NeurIPS 2021 ("Characterizing possible failure modes").
    """
    return np.asarray(np.sin(np.asarray(x, dtype=np.float64) - speed * np.asarray(t, dtype=np.float64)))


def reaction(
    x: Float[np.ndarray, "*#shape"] | Real,
    t: Float[np.ndarray, "*#shape"] | Real,
    rate: Real = 5.0,
) -> Float[np.ndarray, "*shape"]:
    """Reaction ``u_t = rate u (1 - u)`` on [0, 2 pi] with ``u(x, 0) = h(x) = exp(-(x - pi)^2 / (2 (pi / 4)^2))``.

    Method: each ``x`` follows the logistic equation, so ``u = h e^(rate t) / (h e^(rate t) + 1 - h)``; it is evaluated
    as ``h / (h + (1 - h) e^(-rate t))``, which cannot overflow for positive times.

    The Gaussian is not periodic: its slope at the ends is ``+-4.3e-3``, although its values there agree.

    Accuracy: rounding, a few 1e-16 relative.

    Source: the test case is from A. Krishnapriyan et al., NeurIPS 2021 ("Characterizing possible failure modes").
    """
    x, t = np.asarray(x, dtype=np.float64), np.asarray(t, dtype=np.float64)
    exponent = -((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2)
    h = np.exp(exponent)
    # expm1 keeps 1 - h accurate next to x = pi, where h is 1.
    return np.asarray(h / (h - np.expm1(exponent) * np.exp(-rate * t)))


def poisson1d(x: Float[np.ndarray, "*shape"] | Real, k: Real = 1) -> Float[np.ndarray, "*shape"]:
    """Poisson equation ``-u'' = (k pi)^2 sin(k pi x)`` on (0, 1), ``u(0) = u(1) = 0``: exactly ``sin(k pi x)``.

    Accuracy: rounding of the phase, about ``1e-16 k``. The boundary values hold for integer ``k``.

    Source: manufactured.
    """
    return np.asarray(np.sin(k * np.pi * np.asarray(x, dtype=np.float64)))


def poisson2d(
    x: Float[np.ndarray, "*#shape"] | Real,
    y: Float[np.ndarray, "*#shape"] | Real,
    k: Real = 1,
) -> Float[np.ndarray, "*shape"]:
    """Poisson equation ``-Laplace u = 2 (k pi)^2 sin(k pi x) sin(k pi y)`` on the unit square, ``u = 0`` on its edge.

    Exactly ``sin(k pi x) sin(k pi y)``.

    Accuracy: rounding of the phases, about ``1e-16 k``. The boundary values hold for integer ``k``.

    Source: manufactured.
    """
    return np.asarray(poisson1d(x, k) * poisson1d(y, k))


# --------------------------------------------------------------------------------------------------------------------
# Logistic regression
# --------------------------------------------------------------------------------------------------------------------


def logistic_data(
    samples: int = 10_000, features: int = 50, seed: int = 0
) -> tuple[Float[np.ndarray, "samples features"], Integer[np.ndarray, " samples"]]:
    """Draw a classification problem from the logistic model.

    The features are independent Gaussians whose column scales run geometrically from 1/2 to 2 (a mild unevenness: the
    Hessian's condition number is about 17). The labels are 0 or 1 with ``P(1 | x) = 1 / (1 + exp(-x.w))`` for a weight
    vector ``w`` drawn with ``|w| = 2``, so the classes overlap and the minimiser exists without ridge.

    Returns:
        Features, and labels in {0, 1}. The same seed gives the same data.
    """
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((samples, features)) * np.geomspace(0.5, 2.0, features)
    weights = rng.standard_normal(features)
    weights *= 2.0 / np.linalg.norm(weights)
    labels = (rng.random(samples) < expit(data @ weights)).astype(np.int64)
    return data, labels


def _signs(labels: np.ndarray) -> Float[np.ndarray, " samples"]:
    labels = np.asarray(labels)
    if not np.all((labels == 0) | (labels == 1)):
        raise ValueError("labels must be 0 or 1")
    return 2.0 * labels.astype(np.float64) - 1.0


def logistic_loss(
    weights: Float[np.ndarray, " features"],
    features: Float[np.ndarray, "samples features"],
    labels: Num[np.ndarray, " samples"],
    ridge: Real,
) -> float:
    """Value ``mean log(1 + exp(-y x.w)) + ridge / 2 |w|^2``, where ``y = 2 label - 1`` for labels in {0, 1}.

    Accuracy: rounding; the logarithm cannot overflow.
    """
    return float(np.logaddexp(0.0, -_signs(labels) * (features @ weights)).mean() + 0.5 * ridge * weights @ weights)


def logistic_gradient(
    weights: Shaped[np.ndarray, " features"],
    features: Float[np.ndarray, "samples features"],
    labels: Num[np.ndarray, " samples"],
    ridge: Real,
) -> Shaped[np.ndarray, " features"]:
    """Gradient of `logistic_loss` in the weights, in their precision."""
    # `Shaped`, since jaxtyping's `Float` leaves out formats that are wider than float64.
    signs = _signs(labels).astype(weights.dtype)
    return -(features.T @ (signs * expit(-signs * (features @ weights)))) / len(signs) + ridge * weights


def logistic_correction(
    weights: Float[np.ndarray, " features"],
    features: Float[np.ndarray, "samples features"],
    labels: Num[np.ndarray, " samples"],
    ridge: Real,
) -> Float[np.ndarray, " features"]:
    """Newton's step from `weights`, with the gradient in the widest floating-point format of the machine.

    Close to the minimiser it is the error of the weights, to its own square: an estimate that rounding does not limit
    where that format is wider than float64.
    """
    features = np.asarray(features, dtype=np.float64)
    gradient = logistic_gradient(weights.astype(np.longdouble), features, labels, ridge).astype(np.float64)
    return -cho_solve(cho_factor(_logistic_hessian(weights, features, ridge)), gradient)


def _logistic_hessian(weights: np.ndarray, features: np.ndarray, ridge: Real) -> Float[np.ndarray, "features features"]:
    margin = features @ weights
    return (features.T * (expit(margin) * expit(-margin))) @ features / len(margin) + ridge * np.eye(weights.size)


def logistic_optimum(
    features: Float[np.ndarray, "samples features"],
    labels: Num[np.ndarray, " samples"],
    ridge: Real,
    *,
    tolerance: Real = 1e-13,
    iterations: int = 100,
) -> Float[np.ndarray, " features"]:
    """Minimiser of ``mean log(1 + exp(-y x.w)) + ridge / 2 |w|^2``; labels are 0 or 1 and ``y = 2 label - 1``.

    Method: Newton's method from zero with backtracking (halving, Armijo constant 1e-4), Hessian by Cholesky; then two
    steps of `logistic_correction`.

    Accuracy: rounding of the weights, where the machine has a format wider than float64. Anywhere the gradient's
    Euclidean norm is about ``tolerance`` at most, so the error of the weights ``tolerance / mu`` and that of the value
    ``tolerance^2 / (2 mu)``, with ``mu`` the smallest Hessian eigenvalue (at least ``ridge``). The defaults suit
    features of size about one.

    Source: S. Boyd and L. Vandenberghe, Convex Optimization, 2004, section 9.5.

    Raises:
        RuntimeError: if the tolerance is not reached, for example for separable classes without ridge.
    """
    features = np.asarray(features, dtype=np.float64)
    w = np.zeros(features.shape[1])
    value, gradient = logistic_loss(w, features, labels, ridge), logistic_gradient(w, features, labels, ridge)
    for _ in range(iterations):
        norm = np.linalg.norm(gradient)
        if norm <= tolerance:
            for _ in range(2):
                w = w + logistic_correction(w, features, labels, ridge)
            return w
        try:
            direction = -cho_solve(cho_factor(_logistic_hessian(w, features, ridge)), gradient)
        except np.linalg.LinAlgError:
            break
        slope, length = gradient @ direction, 1.0
        while length > 1e-12:
            trial = w + length * direction
            trial_value = logistic_loss(trial, features, labels, ridge)
            trial_gradient = logistic_gradient(trial, features, labels, ridge)
            # Close to the minimiser the decrease of the value drowns in rounding, while the gradient is still
            # meaningful: there a full step counts as progress if it shrinks the gradient.
            lost = -slope < 1e-10 * abs(value)
            if (lost and np.linalg.norm(trial_gradient) < norm) or trial_value <= value + 1e-4 * length * slope:
                break
            length *= 0.5
        else:
            break
        w, value, gradient = trial, trial_value, trial_gradient
    raise RuntimeError(f"Newton's method stopped at gradient norm {np.linalg.norm(gradient):.1e}")
