"""Methods that linearise the features: Gauss–Newton and its kin."""

from ravine.optim.gauss_newton import GaussNewton, Solver, Space
from ravine.optim.matrix_free import MatrixFree
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.search import Armijo, Damping


def gauss_newton(*, space: Space = "auto", solver: Solver = "cholesky", ridge: float = 1e-12) -> Optimizer:
    """Gauss–Newton with an Armijo search along the all but undamped step. Needs residuals and a sane start."""
    return Optimizer(GaussNewton(space=space, acceleration=False, solver=solver, ridge=ridge), Armijo(longest=1.0))


def levenberg_marquardt(
    *, space: Space = "auto", solver: Solver = "cholesky", acceleration: bool = True, damping: float = 1e-3
) -> Optimizer:
    """Levenberg–Marquardt with gain-ratio damping and geodesic acceleration. Needs residuals; from any start."""
    return Optimizer(GaussNewton(space=space, acceleration=acceleration, solver=solver), Damping(damping))


def matrix_free_gauss_newton(
    *, rank: int = 48, damping: float = 1e-3, tolerance: float | None = None, iterations: int = 200
) -> Optimizer:
    """Levenberg–Marquardt by preconditioned conjugate gradients: no matrix, (rank + 12)·n numbers, any m and n."""
    return Optimizer(MatrixFree(rank, tolerance=tolerance, iterations=iterations), Damping(damping))


_DENSE = ("Gauss–Newton", "1 Jacobian, mn·min(m, n) flops", "min(n², mn + m²)")

GAUSS_NEWTON = catalogue(
    Method(gauss_newton, *_DENSE, "Gauss, 1809; Müller and Zeinhofer, 2023", ("curvature", "double")),
    Method(
        levenberg_marquardt,
        *_DENSE,
        "Levenberg, 1944; Marquardt, 1963; Nielsen, 1999; Transtrum and Sethna, 2012",
        ("curvature", "double"),
    ),
    Method(
        matrix_free_gauss_newton,
        "Gauss–Newton",
        "5 evaluations an inner iteration",
        "(rank + 12)n",
        "Frangella, Tropp and Udell, 2023",
        ("curvature", "double"),
    ),
)
