"""Methods that learn curvature from differences of gradients."""

from ravine.optim.curvature import SR1, LimitedSR1
from ravine.optim.ladder import Ladder
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.quasi_newton import LBFGS, Broyden, Member, self_scaled, self_scaled_broyden, unscaled
from ravine.optim.search import Wolfe
from ravine.optim.trust_region import Exact, Radius, TrustRegion


def lbfgs(*, memory: int = 20) -> Optimizer:
    """Limited-memory BFGS with a strong Wolfe search. One gradient a step, 2·memory·n numbers."""
    return Optimizer(Ladder(LBFGS(memory)), Wolfe(shortest=1.0))


def bfgs() -> Optimizer:
    """BFGS with a dense inverse and a strong Wolfe search. One gradient and 8n² flops a step, n² numbers."""
    return Optimizer(Ladder(Broyden(unscaled)), Wolfe(shortest=1.0))


def damped_lbfgs(*, memory: int = 20) -> Optimizer:
    """Limited-memory BFGS whose pairs of bad curvature are damped (Powell, 1978). Cost as L-BFGS."""
    return Optimizer(Ladder(LBFGS(memory, damped=True)), Wolfe(shortest=1.0))


def dfp() -> Optimizer:
    """DFP, the dual of BFGS, with a strong Wolfe search. Cost as BFGS, which is mostly faster."""
    return Optimizer(Ladder(Broyden(Member(0.0))), Wolfe(shortest=1.0))


def broyden_class(*, phi: float = 0.5) -> Optimizer:
    """A member of Broyden's class: φ = 1 is BFGS, φ = 0 DFP; kept positive definite for any φ. Cost as BFGS."""
    return Optimizer(Ladder(Broyden(Member(phi))), Wolfe(shortest=1.0))


def ssbfgs() -> Optimizer:
    """Self-scaled BFGS (Al-Baali, 1998). Cost as BFGS; stands ill-conditioned starts."""
    return Optimizer(Ladder(Broyden(self_scaled)), Wolfe())


def ssbroyden() -> Optimizer:
    """Self-scaled Broyden (Urbán, Stefanou and Pons, 2025). Cost as BFGS; the method of choice for PINNs."""
    return Optimizer(Ladder(Broyden(self_scaled_broyden)), Wolfe())


def sr1(*, radius: float = 1.0) -> Optimizer:
    """Symmetric rank-one in a trust region, each step exact: negative curvature is learnt and used."""
    return Optimizer(TrustRegion(SR1(), Exact()), Radius(radius))


def lsr1(*, memory: int = 20, radius: float = 1.0) -> Optimizer:
    """Limited-memory symmetric rank-one in a trust region, each step exact. 2·memory·n numbers."""
    return Optimizer(TrustRegion(LimitedSR1(memory), Exact()), Radius(radius))


_DENSE = ("quasi-Newton", "1 gradient, 8n² flops", "n²")

QUASI_NEWTON = catalogue(
    Method(lbfgs, "quasi-Newton", "1 gradient, 8·memory·n flops", "2·memory·n", "Nocedal, 1980", ("same points",)),
    Method(bfgs, *_DENSE, "Broyden, Fletcher, Goldfarb, Shanno, 1970", ("same points",)),
    Method(
        damped_lbfgs,
        "quasi-Newton",
        "1 gradient, 8·memory·n flops",
        "2·memory·n",
        "Powell, 1978; Al-Baali, Grandinetti and Pisnenko, 2014",
        ("same points",),
    ),
    Method(dfp, *_DENSE, "Davidon, 1959; Fletcher and Powell, 1963", ("same points",)),
    Method(broyden_class, *_DENSE, "Broyden, 1967; Fletcher, 1970", ("same points",)),
    Method(ssbfgs, *_DENSE, "Al-Baali, 1998", ("same points",)),
    Method(sr1, "quasi-Newton", "1 gradient, 9n³ flops", "3n²", "Conn, Gould and Toint, 1991", ("same points",)),
    Method(
        lsr1,
        "quasi-Newton",
        "1 gradient, 4·memory²·n flops",
        "2·memory·n",
        "Byrd, Nocedal and Schnabel, 1994; Brust, Erway and Marcia, 2017",
        ("same points",),
    ),
    Method(ssbroyden, *_DENSE, "Al-Baali, 1998; Urbán, Stefanou and Pons, 2025", ("same points", "double")),
)
