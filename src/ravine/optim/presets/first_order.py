"""Methods that use the gradient alone, on the full batch."""

from typing import Literal

import optax

from ravine._types import Callable, Count, Scalar
from ravine.optim.anderson import Anderson
from ravine.optim.backtracking import NonMonotone
from ravine.optim.barzilai_borwein import BarzilaiBorwein
from ravine.optim.block_coordinate import BlockCoordinate, By
from ravine.optim.conjugate import NonlinearCG, fletcher_reeves, hager_zhang, polak_ribiere
from ravine.optim.first_order import Steepest, Transform
from ravine.optim.learning_rate import Majorisation, Polyak
from ravine.optim.momentum import HeavyBall, Nesterov
from ravine.optim.optimizer import Optimizer, Search
from ravine.optim.presets._method import Method, catalogue
from ravine.optim.search import Armijo, Fixed, Wolfe
from ravine.optim.surgery import Surgery, equal_angles, projected

Rate = float | Callable[[Count], Scalar]  # a number, or a schedule: step number -> number


def from_optax(transformation: optax.GradientTransformation) -> Optimizer:
    """Any Optax transformation, learning rate included. One gradient a step."""
    return Optimizer(Transform(transformation), Fixed(1.0))


def adam(rate: Rate = 1e-3, *, b1: float = 0.9, b2: float = 0.999) -> Optimizer:
    """Adam (Kingma and Ba, 2015). One gradient a step; noise is welcome. Fast early, then it stalls."""
    return Optimizer(Transform(_adam, {"b1": b1, "b2": b2}), Fixed(rate))


def _adam(b1, b2):
    return optax.chain(optax.scale_by_adam(b1, b2), optax.scale(-1.0))


def pcgrad(rate: Rate = 1e-3) -> Optimizer:
    """PCGrad (Yu et al., 2020): Adam on terms' gradients freed of the components that conflict. For many terms."""
    return Optimizer(Surgery(Transform(_adam, {"b1": 0.9, "b2": 0.999}), projected), Fixed(rate))


def conflict_free(rate: Rate = 1e-3) -> Optimizer:
    """ConFIG (Liu et al., 2024): Adam on the direction that makes the same angle with each term's gradient."""
    return Optimizer(Surgery(Transform(_adam, {"b1": 0.9, "b2": 0.999}), equal_angles), Fixed(rate))


def gradient_descent(rate: Rate | None = None, *, search: Search | None = None) -> Optimizer:
    """Gradient descent with an Armijo search, a fixed rate, or any search. One gradient and one to two values a step.

    `search=ravine.Sharpness()` takes 1/L with L measured, `Armijo(decrease=0.5)` 1/L by trial, and
    `Wolfe(curvature=0.1, shortest=0.0, longest=float("inf"))` nearly the best length.
    """
    if rate is not None and search is not None:
        raise ValueError("gradient_descent: give a rate or a search, not both; Fixed(rate) is the search of a rate.")
    return Optimizer(Steepest(), (Armijo() if rate is None else Fixed(rate)) if search is None else search)


def polyak(lower: float = 0.0, *, scale: float = 1.0) -> Optimizer:
    """Gradient descent by Polyak's step (L − lower)/‖∇L‖² (Polyak, 1969). One gradient a step; needs the least loss."""
    return Optimizer(Steepest(), Polyak(lower, scale))


def barzilai_borwein(rule: Literal["long", "short", "alternating", "adaptive"] = "adaptive") -> Optimizer:
    """Barzilai and Borwein's gradient steps with a non-monotone search (Raydan, 1997). One gradient a step."""
    return Optimizer(BarzilaiBorwein(rule), NonMonotone())


def heavy_ball(rate: Rate | None = None, *, momentum: float = 0.9) -> Optimizer:
    """Gradient descent with momentum (Polyak, 1964), its rate given or 1/L by trial. One gradient, one value a step."""
    return Optimizer(HeavyBall(momentum), Majorisation() if rate is None else Fixed(rate))


def nesterov(
    rate: Rate | None = None,
    *,
    momentum: float | None = None,
    restart: Literal["gradient", "function"] | None = "gradient",
) -> Optimizer:
    """Nesterov's acceleration with adaptive restart (O'Donoghue and Candès, 2015). One gradient, one value a step."""
    return Optimizer(Nesterov(momentum, restart), Majorisation() if rate is None else Fixed(rate))


def nonlinear_cg(formula: Literal["fr", "pr+", "hz"] = "hz", *, curvature: float = 0.1) -> Optimizer:
    """Nonlinear conjugate gradients (Hager and Zhang, 2005) with a strict Wolfe search. Two gradients a step."""
    formulas = {"fr": fletcher_reeves, "pr+": polak_ribiere, "hz": hager_zhang}
    if formula not in formulas:
        raise ValueError(f"nonlinear_cg: formula is {formula!r}, but must be one of {', '.join(map(repr, formulas))}.")
    search = Wolfe(curvature=curvature, shortest=0.0, longest=float("inf"))
    return Optimizer(NonlinearCG(formulas[formula]), search)


def anderson(*, memory: int = 10, ridge: float = 1e-10) -> Optimizer:
    """Anderson's acceleration of gradient descent (Walker and Ni, 2011), safeguarded. One gradient a step."""
    return Optimizer(Anderson(memory, ridge), NonMonotone())


def block_coordinate(method: Optimizer | None = None, *, by: By = "layer", repeat: int = 1) -> Optimizer:
    """A method on one block of parameters (a layer, or a leaf) at a time, by turns (Wright, 2015). Its cost is full.

    Barzilai and Borwein's steps by default; `method=ravine.lbfgs(), repeat=10` makes ten L-BFGS steps in each layer.
    """
    method = barzilai_borwein() if method is None else method
    return Optimizer(BlockCoordinate(method.direction, by, repeat), method.search)


FIRST_ORDER = catalogue(
    Method(adam, "first order", "1 gradient", "2n", "Kingma and Ba, 2015"),
    Method(gradient_descent, "first order", "1 gradient, 1–2 values", "0", "Cauchy, 1847; Armijo, 1966"),
    Method(polyak, "first order", "1 gradient", "0", "Polyak, 1969; Loizou et al., 2021"),
    Method(
        barzilai_borwein,
        "first order",
        "1 gradient",
        "3n",
        "Barzilai and Borwein, 1988; Grippo et al., 1986; Raydan, 1997",
    ),
    Method(heavy_ball, "first order", "1 gradient, 1–2 values", "n", "Polyak, 1964; Beck and Teboulle, 2009"),
    Method(
        nesterov,
        "first order",
        "1 gradient, 1–2 values",
        "2n",
        "Nesterov, 1983; Beck and Teboulle, 2009; O'Donoghue and Candès, 2015",
    ),
    Method(
        nonlinear_cg,
        "first order",
        "1–2 gradients",
        "3n",
        "Fletcher and Reeves, 1964; Polak and Ribière, 1969; Hager and Zhang, 2005",
        ("same points",),
    ),
    Method(
        anderson,
        "first order",
        "1 gradient, 4n·memory² flops",
        "2·memory·n",
        "Anderson, 1965; Walker and Ni, 2011",
        ("same points",),
    ),
    Method(
        block_coordinate,
        "first order",
        "that of its method",
        "7n, and blocks times its method's",
        "Bertsekas, 1999; Wright, 2015",
        ("same points",),
    ),
    Method(pcgrad, "first order", "1 gradient, k²n flops", "(2 + k)n", "Yu et al., 2020"),
    Method(conflict_free, "first order", "1 gradient, k²n flops", "(2 + k)n", "Liu, Chu and Thuerey, 2024"),
)
