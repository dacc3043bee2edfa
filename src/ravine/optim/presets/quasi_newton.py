"""Methods that learn curvature from differences of gradients."""

from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.quasi_newton import LBFGS, Broyden, self_scaled, self_scaled_broyden, unscaled
from ravine.optim.search import Wolfe


def lbfgs(*, memory: int = 20) -> Optimizer:
    """Limited-memory BFGS with a strong Wolfe search. One gradient a step, 2·memory·n numbers."""
    return Optimizer(LBFGS(memory), Wolfe())


def bfgs() -> Optimizer:
    """BFGS with a dense inverse and a strong Wolfe search. One gradient and 10n² flops a step, n² numbers."""
    return Optimizer(Broyden(unscaled), Wolfe())


def ssbfgs() -> Optimizer:
    """Self-scaled BFGS (Al-Baali, 1998). Cost as BFGS; stands ill-conditioned starts."""
    return Optimizer(Broyden(self_scaled), Wolfe())


def ssbroyden() -> Optimizer:
    """Self-scaled Broyden (Urbán, Stefanou and Pons, 2025). Cost as BFGS; the method of choice for PINNs."""
    return Optimizer(Broyden(self_scaled_broyden), Wolfe())


_DENSE = ("quasi-Newton", "1 gradient, 10n² flops", "n²")

QUASI_NEWTON = catalogue(
    Method(lbfgs, "quasi-Newton", "1 gradient, 8·memory·n flops", "2·memory·n", "Nocedal, 1980", ("same points",)),
    Method(bfgs, *_DENSE, "Broyden, Fletcher, Goldfarb, Shanno, 1970", ("same points",)),
    Method(ssbfgs, *_DENSE, "Al-Baali, 1998", ("same points",)),
    Method(ssbroyden, *_DENSE, "Al-Baali, 1998; Urbán, Stefanou and Pons, 2025", ("same points", "double")),
)
