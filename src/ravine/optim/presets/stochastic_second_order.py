"""Second-order methods for batches that change."""

from ravine.optim.gauss_newton import GaussNewton, Solver, Space
from ravine.optim.optimizer import Optimizer
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.presets.first_order import Rate
from ravine.optim.quasi_newton import LBFGS
from ravine.optim.search import Armijo, Fixed, Wolfe
from ravine.optim.stochastic_curvature import SQN, AdaHessian, Estimator, Fresh, HeldOut, MultiBatch, Sophia


def multibatch_lbfgs(*, memory: int = 10) -> Optimizer:
    """L-BFGS with pairs from what two batches share (Berahas, Nocedal and Takáč, 2016). Armijo on the batch.

    Made for `Overlapping` batches; on others each pair costs a gradient.
    """
    return Optimizer(MultiBatch(memory), Armijo(longest=1.0))


def large_batch_lbfgs(*, memory: int = 20) -> Optimizer:
    """L-BFGS for large batches that are redrawn now and then: its memory is dropped when the points change."""
    return Optimizer(Fresh(LBFGS(memory)), Wolfe())


def sqn(rate: Rate = 1e-1, *, memory: int = 10, every: int = 10, samples: int | None = None) -> Optimizer:
    """Stochastic quasi-Newton (Byrd, Hansen, Nocedal and Singer, 2016): pairs from Hessian products between means."""
    return Optimizer(SQN(memory, every, samples), Fixed(rate))


def adahessian(rate: Rate = 1e-1, *, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-4) -> Optimizer:
    """AdaHessian (Yao et al., 2021): Adam with the Hessian's diagonal in the place of squared gradients."""
    return Optimizer(AdaHessian(b1, b2, epsilon), Fixed(rate))


def sophia(
    rate: Rate = 1e-3, *, estimator: Estimator = "hutchinson", gamma: float = 0.01, decay: float = 0.0
) -> Optimizer:
    """Sophia (Liu et al., 2023): momentum over the Hessian's diagonal, each entry of the step clipped."""
    return Optimizer(Sophia(estimator, gamma=gamma, decay=decay), Fixed(rate))


def stochastic_gauss_newton(
    rate: Rate = 0.3, *, damping: float = 1e-2, space: Space = "auto", solver: Solver = "cholesky"
) -> Optimizer:
    """Damped Gauss–Newton steps on each batch, at a fixed damping and rate. Needs residuals or convex losses."""
    return Optimizer(GaussNewton(space=space, acceleration=False, solver=solver, ridge=damping), Fixed(rate))


def stochastic_levenberg_marquardt(
    *, damping: float = 1.0, smoothing: float = 0.8, space: Space = "auto", solver: Solver = "cholesky"
) -> Optimizer:
    """Levenberg–Marquardt whose damping follows from what steps bring on the next batch. Armijo on the batch."""
    return Optimizer(HeldOut(damping, smoothing, space=space, solver=solver), Armijo(longest=1.0))


_FAMILY = "stochastic second order"

STOCHASTIC_SECOND_ORDER = catalogue(
    Method(
        multibatch_lbfgs,
        _FAMILY,
        "2–3 gradients, 1–2 values",
        "2·memory·n",
        "Berahas, Nocedal and Takáč, 2016",
        ("minibatches",),
    ),
    Method(large_batch_lbfgs, _FAMILY, "1 gradient, 8·memory·n flops", "2·memory·n", "Nocedal, 1980", ("same points",)),
    Method(
        sqn,
        _FAMILY,
        "1 gradient, now and then a Hessian product",
        "2·memory·n",
        "Byrd, Hansen, Nocedal and Singer, 2016",
        ("minibatches",),
    ),
    Method(adahessian, _FAMILY, "1 gradient, 1 Hessian product", "2n", "Yao et al., 2021"),
    Method(sophia, _FAMILY, "1 gradient, now and then a Hessian product", "2n", "Liu et al., 2023"),
    Method(
        stochastic_gauss_newton,
        _FAMILY,
        "1 Jacobian, mn·min(m, n) flops",
        "min(n², mn + m²)",
        "Gauss, 1809; Botev, Ritter and Barber, 2017",
        ("curvature",),
    ),
    Method(
        stochastic_levenberg_marquardt,
        _FAMILY,
        "1 Jacobian, mn·min(m, n) flops, 2–3 values",
        "min(n², mn + m²)",
        "Martens, 2010; Bergou, Diouane, Kunc, Kungurtsev and Royer, 2022",
        ("curvature",),
    ),
)
