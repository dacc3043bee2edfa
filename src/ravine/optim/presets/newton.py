"""Methods that use second derivatives of the loss, or a model of them, with a line search or a trust region."""

from ravine.optim.curvature import GaussNewtonMatrix, Hessian
from ravine.optim.ladder import Ladder
from ravine.optim.newton import HessianFree, Newton, NewtonCG, NystromNewton
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.search import Armijo, Wolfe
from ravine.optim.trust_region import Cubic, Dogleg, Exact, Lanczos, Radius, Steihaug, TrustRegion


def newton() -> Optimizer:
    """Newton's method: the dense Hessian, shifted where it is not positive definite, and a strong Wolfe search."""
    return Optimizer(Ladder(Newton("shift")), Wolfe(shortest=1.0))


def saddle_free_newton(*, floor: float = 1e-6) -> Optimizer:
    """Newton's method with the absolute values of the Hessian's eigenvalues (Dauphin et al., 2014): saddles repel."""
    return Optimizer(Ladder(Newton("absolute", floor=floor)), Wolfe(shortest=1.0))


def newton_cg(*, iterations: int = 250) -> Optimizer:
    """Inexact Newton: conjugate gradients to Eisenstat and Walker's tolerance, or to negative curvature. No matrix."""
    return Optimizer(Ladder(NewtonCG(iterations=iterations)), Wolfe(shortest=1.0))


def subsampled_newton_cg(*, share: float = 0.25, iterations: int = 20) -> Optimizer:
    """Inexact Newton with the Hessian on a random share of the points (Byrd et al., 2011), gradients on all."""
    return Optimizer(Ladder(NewtonCG(Hessian(share), iterations=iterations)), Armijo(longest=1.0))


def nys_newton_cg(*, damping: float = 1e-2, rank: int = 60, refresh: int = 20) -> Optimizer:
    """NysNewton-CG (Rathore et al., 2024): damped Newton by conjugate gradients with a Nyström preconditioner."""
    return Optimizer(Ladder(NystromNewton(damping, rank, refresh)), Armijo(longest=1.0))


def hessian_free(*, damping: float = 1.0, iterations: int = 250) -> Optimizer:
    """Hessian-free (Martens, 2010): Gauss–Newton products, damping by the gain ratio, warm starts. No matrix."""
    return Optimizer(HessianFree(iterations=iterations), Radius(1 / damping, shrink=2 / 3, growth=3 / 2))


def trust_region_newton(*, radius: float = 1.0) -> Optimizer:
    """Newton's method in a trust region, each step exact (Moré and Sorensen, 1983). Negative curvature is used."""
    return Optimizer(TrustRegion(Hessian(), Exact()), Radius(radius))


def trust_region_cg(*, radius: float = 1.0, iterations: int = 250) -> Optimizer:
    """Newton's method in a trust region by truncated conjugate gradients (Steihaug, 1983). No matrix."""
    return Optimizer(TrustRegion(Hessian(), Steihaug(iterations)), Radius(radius))


def dogleg(*, radius: float = 1.0) -> Optimizer:
    """Powell's dogleg (1970): from the Cauchy point straight to the Newton point of a shifted Hessian."""
    return Optimizer(TrustRegion(Hessian(), Dogleg()), Radius(radius))


def cubic_newton(*, start: float = 1.0) -> Optimizer:
    """Adaptive cubic regularisation (Cartis, Gould and Toint, 2011), each step exact; `start` is the first 1/σ."""
    return Optimizer(TrustRegion(Hessian(), Cubic()), Radius(start, shrink=0.5, growth=2.0))


def arc(*, start: float = 1.0, dimension: int = 50) -> Optimizer:
    """Adaptive cubic regularisation in Krylov subspaces (Cartis, Gould and Toint, 2011): products only, no matrix."""
    return Optimizer(TrustRegion(Hessian(), Lanczos(Cubic(), dimension)), Radius(start, shrink=0.5, growth=2.0))


def trust_region_gauss_newton(*, radius: float = 1.0) -> Optimizer:
    """Gauss–Newton in a trust region (Moré, 1978), each step exact. Needs residuals; from any start."""
    return Optimizer(TrustRegion(GaussNewtonMatrix(), Exact()), Radius(radius))


_DENSE = ("Newton", "n Hessian products, n³ flops", "3n²")
_PRODUCTS = ("Newton", "6 evaluations an inner iteration")

NEWTON = catalogue(
    Method(newton, *_DENSE, "Newton, 1669; Nocedal and Wright, 2006", ("same points", "double")),
    Method(saddle_free_newton, *_DENSE, "Dauphin et al., 2014", ("same points", "double")),
    Method(newton_cg, *_PRODUCTS, "5n", "Dembo and Steihaug, 1983; Eisenstat and Walker, 1996", ("double",)),
    Method(subsampled_newton_cg, *_PRODUCTS, "5n", "Byrd, Chin, Neveitt and Nocedal, 2011"),
    Method(nys_newton_cg, *_PRODUCTS, "(rank + 12)n", "Rathore, Lei, Frangella, Lu and Udell, 2024", ("double",)),
    Method(hessian_free, *_PRODUCTS, "6n", "Martens, 2010", ("curvature", "double")),
    Method(trust_region_newton, *_DENSE, "Moré and Sorensen, 1983", ("same points", "double")),
    Method(trust_region_cg, *_PRODUCTS, "6n", "Steihaug, 1983", ("double",)),
    Method(dogleg, *_DENSE, "Powell, 1970", ("same points", "double")),
    Method(
        cubic_newton,
        *_DENSE,
        "Nesterov and Polyak, 2006; Cartis, Gould and Toint, 2011",
        ("same points", "double"),
    ),
    Method(arc, *_PRODUCTS, "dimension·n", "Cartis, Gould and Toint, 2011", ("double",)),
    Method(
        trust_region_gauss_newton,
        "Gauss–Newton",
        "1 Jacobian, mn² + 9n³ flops",
        "3n²",
        "Moré, 1978",
        ("curvature", "double"),
    ),
)
