"""What there is: every problem with its class, its dimension, its reference, and the best that was reached on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A problem among the others.

    `dimension` counts the variables of a solution or, without one, of what is sought. `error` is the relative error, or
    what the reference's docstring says instead, in the median of seeds 0, 1 and 2 on two cores after `command`, which
    is an argument of the shell's `ravine`; None: not measured.
    """

    kind: str
    dimension: int
    unknowns: str
    reference: str
    error: float | None = None
    command: str = ""


FUNCTION = "functions"
STRONG = "equations, strong form"
ENERGY = "energies"
OPERATOR = "operators"
INVERSE = "inverse"
TRAJECTORY = "differential equations in time"
DATA = "data"

EXACT, SPECTRAL = "exact", "spectral"

CATALOGUE: dict[str, Entry] = {
    "quadratic": Entry(FUNCTION, 100, "x", EXACT),
    "rosenbrock": Entry(FUNCTION, 2, "x", EXACT),
    "poisson1d": Entry(STRONG, 1, "u", EXACT),
    "poisson2d": Entry(STRONG, 2, "u", EXACT),
    "poisson5d": Entry(
        STRONG,
        5,
        "u",
        EXACT,
        5.5e-6,
        'solve poisson5d --points 1600 --phases "spring(ridge=1e-6):225s,spring(ridge=1e-6,rate=0.25):70s"',
    ),
    "poisson10d": Entry(STRONG, 10, "u", EXACT),
    "poisson100d": Entry(STRONG, 100, "u", EXACT),
    "heat1d": Entry(STRONG, 2, "u", EXACT, 8.6e-13, "solve heat1d --budget 20s"),
    "heat4d": Entry(STRONG, 5, "u", EXACT),
    "helmholtz_soft": Entry(STRONG, 2, "u", EXACT, 4.7e-7, "solve helmholtz_soft --budget 90s"),
    "peak": Entry(STRONG, 2, "u", EXACT, 4.1e-3, "solve peak --budget 40s"),
    "multiscale1d": Entry(STRONG, 1, "u", EXACT),
    "burgers": Entry(STRONG, 2, "u", "Cole–Hopf, quadrature", 3.2e-7, "solve burgers --budget 60s"),
    "burgers_smooth": Entry(
        STRONG,
        2,
        "u",
        "Cole–Hopf, quadrature",
        1.2e-10,
        'solve burgers_smooth --method "sketched_gauss_newton(columns=None,probes=12)" --points 4000 --sampler fixed '
        "--budget 200s",
    ),
    "allen_cahn": Entry(STRONG, 2, "u", SPECTRAL, 3.3e-7, "solve allen_cahn --budget 60s"),
    "convection": Entry(STRONG, 2, "u", EXACT),
    "reaction": Entry(STRONG, 2, "u", EXACT),
    "advection_diffusion": Entry(STRONG, 2, "u", SPECTRAL, 3.4e-5, "solve advection_diffusion --budget 60s"),
    "kuramoto_sivashinsky": Entry(STRONG, 2, "u", SPECTRAL, 2.1e-4, "solve kuramoto_sivashinsky --budget 280s"),
    "cavity": Entry(STRONG, 2, "ψ (velocity, pressure)", SPECTRAL, 1.6e-4, "solve cavity --budget 120s"),
    "ritz1d": Entry(ENERGY, 1, "u", EXACT, 2.1e-10, "solve ritz1d --budget 20s"),
    "ritz2d": Entry(ENERGY, 2, "u", EXACT, 7.4e-10, "solve ritz2d --budget 30s"),
    "antiderivative": Entry(OPERATOR, 1, "f ↦ u", EXACT, 1.1e-3, "solve antiderivative --budget 40s"),
    "antiderivative_physics": Entry(
        OPERATOR, 1, "f ↦ u, no labels", EXACT, 1.1e-3, "solve antiderivative_physics --budget 40s"
    ),
    "poisson_operator": Entry(OPERATOR, 1, "f ↦ u", EXACT, 2.2e-3, "solve poisson_operator --budget 40s"),
    "darcy_operator": Entry(OPERATOR, 2, "g ↦ u", "finite differences, extrapolated"),
    "burgers_operator": Entry(OPERATOR, 1, "u(·, 0) ↦ u(·, 1)", SPECTRAL),
    "inverse_burgers": Entry(INVERSE, 2, "u, two coefficients", EXACT, 3.9e-7, "solve inverse_burgers --budget 90s"),
    "inverse_field": Entry(INVERSE, 2, "u, a field", EXACT),
    "lotka_volterra": Entry(
        TRAJECTORY,
        1,
        "part of the law",
        "adaptive Runge–Kutta",
        1.1e-3,
        "solve lotka_volterra --budget 20s",
    ),
    "regression1d": Entry(DATA, 1, "u", EXACT),
    "logistic": Entry(
        DATA, 50, "weights", "Newton's method", 1.5e-13, "compare logistic --methods svrg --set batch=100 --budget 10s"
    ),
    "two_moons": Entry(DATA, 2, "class", "labels held out"),
    "digits": Entry(DATA, 64, "class", "labels held out"),
}
