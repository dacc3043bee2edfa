"""Methods that see the layers of a network: Kronecker-factored curvature."""

from ravine.optim.kron import Kronecker
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.search import Damping


def kfac(*, refresh: int = 10, decay: float | None = None, damping: float = 1e-3) -> Optimizer:
    """K-FAC, for PDE residuals too, with step and momentum from the quadratic model. Four products with J a step."""
    return Optimizer(Kronecker(refresh=refresh, decay=decay), Damping(damping))


def ekfac(*, refresh: int = 10, decay: float | None = None, damping: float = 1e-3) -> Optimizer:
    """EKFAC: K-FAC with the eigenvalues that fit best in its eigenvectors. A refresh takes gradients twice."""
    return Optimizer(Kronecker(fitted=True, refresh=refresh, decay=decay), Damping(damping))


_COST = "4 products with J; at a refresh {} gradients of each layer's outputs a row, 30 Σ(i³ + j³) flops"

KRONECKER = catalogue(
    Method(
        kfac,
        "Kronecker-factored",
        _COST.format("the"),
        "5n + 4 Σ(i² + j²)",
        "Martens and Grosse, 2015; Dangel, Müller and Zeinhofer, 2024",
        ("curvature", "layers", "double"),
    ),
    Method(
        ekfac,
        "Kronecker-factored",
        _COST.format("twice the"),
        "6n + 4 Σ(i² + j²)",
        "George, Laurent, Bouthillier, Ballas and Vincent, 2018; Dangel, Müller and Zeinhofer, 2024",
        ("curvature", "layers", "double"),
    ),
)
