"""Methods that take the metric of the features for that of the parameters: natural gradients and their relatives."""

from ravine.optim.backtracking import GridSearch
from ravine.optim.gauss_newton import GaussNewton, Solver, Space
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.presets.first_order import Rate
from ravine.optim.search import Fixed
from ravine.optim.sketched import Digits, Factorisation, Probe, Sketched, Truncated
from ravine.optim.spring import Capped, Spring


def natural_gradient(rate: Rate = 0.1, *, damping: float = 1e-3, longest: float = 1.0, space: Space = "auto"):
    """Natural gradient with a damped Fisher (Gauss–Newton) matrix and a fixed rate. Noise is welcome."""
    return Optimizer(GaussNewton(space=space, acceleration=False, ridge=damping), Capped(rate, longest))


def energy_natural_gradient(
    *, ridge: float = 1e-12, space: Space = "auto", solver: Solver = "cholesky", trials: int = 31
) -> Optimizer:
    """Energy natural gradient: the all but undamped step and a search over t = 2⁰ … 2⁻³⁰. Needs a sane start."""
    direction = GaussNewton(space=space, acceleration=False, solver=solver, ridge=ridge)
    return Optimizer(direction, GridSearch(count=trials))


def spring(
    rate: Rate = 1.0, *, momentum: float = 0.9, ridge: float = 1e-5, longest: float = 1.0, space: Space = "auto"
) -> Optimizer:
    """SPRING: natural gradient with momentum along what the points do not decide. Made for points drawn every step."""
    return Optimizer(Spring(momentum, ridge, space, longest=longest), Fixed(rate))


def anagram(
    *, cutoff: float = 1e-6, solver: Factorisation = "eigh", columns: int | None = None, rows: int | None = None
) -> Optimizer:
    """ANaGRAM: natural gradient with small singular values cut off, and a search over t = 2⁰ … 2⁻³⁰."""
    return Optimizer(Truncated(cutoff, columns, rows, solver), GridSearch())


def sketched_gauss_newton(
    *,
    columns: int | None = 1500,
    rows: int | None = None,
    solver: Digits = "auto",
    accept: float = 0.075,
    probes: int = 24,
    radius: float = 1.0,
) -> Optimizer:
    """Gauss–Newton from a randomised sketch of the Jacobian, the trust radius chosen by probing (DSGNAR)."""
    return Optimizer(Sketched(columns, rows, solver), Probe(start=radius, accept=accept, probes=probes))


NATURAL_GRADIENT = catalogue(
    Method(
        natural_gradient,
        "Gauss–Newton",
        "1 Jacobian, mn·min(m, n) flops",
        "min(n², mn + m²)",
        "Amari, 1998",
        ("curvature",),
    ),
    Method(
        energy_natural_gradient,
        "Gauss–Newton",
        "1 Jacobian, mn·min(m, n) flops, 31 values",
        "min(n², mn + m²)",
        "Müller and Zeinhofer, 2023; Guzmán-Cordero et al., 2025",
        ("curvature", "double"),
    ),
    Method(
        spring,
        "Gauss–Newton",
        "1 Jacobian, mn·min(m, n) flops",
        "min(n², mn + m²)",
        "Goldshlager, Abrahamsen and Lin, 2024; Guzmán-Cordero et al., 2025",
        ("curvature",),
    ),
    Method(
        anagram,
        "Gauss–Newton",
        "1 Jacobian, (m + 10n)n² flops, 31 values",
        "n²",
        "Schwencke and Furtlehner, 2025",
        ("curvature", "double"),
    ),
    Method(
        sketched_gauss_newton,
        "Gauss–Newton",
        "1 Jacobian, 16mn + 10·columns³ flops, 25 values",
        "5·columns²",
        "Webb, Jerad and Cartis, 2026",
        ("curvature", "double"),
    ),
)
