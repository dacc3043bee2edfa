"""First-order methods that remember where they came from: the heavy ball, and Nesterov's acceleration."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Array, RandomKey, Scalar, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Previous


class Drift(eqx.Module):
    """The path t ↦ −t∇L + drift(−t∇L): it does not begin where it starts from, so it has no slope there.

    Its searches are those that need none: `Fixed`, `Majorisation`, `Sharpness`.
    """

    grad: Vector
    drift: Callable[[Vector], Vector]
    work: Work
    trial: Work

    def __init__(self, grad: Vector, drift: Callable[[Vector], Vector]):
        self.grad, self.drift, self.work, self.trial = grad, drift, Work(), Work()

    def __call__(self, t: Scalar) -> Vector:
        move = -t * self.grad
        return move + self.drift(move)

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError(
            "A path with momentum has no slope at t = 0. Use a search that needs none: Fixed, Majorisation, Sharpness."
        )

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """To first order."""
        return -jnp.dot(self.grad, step)


class HeavyBall(Direction):
    """The path t ↦ −t∇L + β s, with s the last step.

    Boris Polyak, *Some methods of speeding up the convergence of iteration methods*, 1964. On a quadratic with
    eigenvalues in [μ, L] the best numbers are t = 4/(√L + √μ)² and β = ((√κ − 1)/(√κ + 1))², κ = L/μ; the error then
    falls by √β a step. **Cost:** nothing beyond the gradient.
    """

    momentum: float = 0.9

    def init(self, objective: Objective, theta: Vector) -> None:
        return None

    def __call__(
        self, lin: Linearisation, theta: Vector, state: None, previous: Previous, *, key: RandomKey
    ) -> tuple[Drift, None]:
        pull = self.momentum * previous.s
        return Drift(lin.grad, lambda move: pull), None


class _Ahead(eqx.Module):
    """x, and of the last θ the gradient, the loss, and the number that momentum follows from."""

    x: Vector
    grad: Vector
    value: Scalar
    sequence: Scalar


class Nesterov(Direction):
    """x⁺ = θ − t∇L(θ), θ⁺ = x⁺ + β(x⁺ − x): gradients are taken at the extrapolated points θ, which are the iterates.

    β = (a − 1)/a⁺ with a⁺ = (1 + √(1 + 4a²))/2 from a = 1, or `momentum` when given: for eigenvalues in [μ, L] and
    t = 1/L, (√κ − 1)/(√κ + 1) makes the error fall by √(1 − 1/√κ) a step, on a quadratic by 1 − 1/√κ.

    Momentum starts over (a = 1, β = 0 once) when it works against the gradient, ⟨∇L(θ), x⁺ − x⟩ > 0
    (restart="gradient"), or when L(θ) rose (restart="function"); so the convexity need not be known. None: never.

    Yurii Nesterov, *A method of solving a convex programming problem with convergence rate O(1/k²)*, 1983; Brendan
    O'Donoghue and Emmanuel Candès, *Adaptive restart for accelerated gradient schemes*, 2015, section 3.2. Deviation:
    the function scheme compares L at θ, where it is known, instead of x.

    **Cost:** nothing beyond the gradient; 2n numbers.
    """

    momentum: float | None = None
    restart: Literal["gradient", "function"] | None = eqx.field(static=True, default="gradient")

    def __check_init__(self):
        if self.restart not in ("gradient", "function", None):
            raise ValueError(f"Nesterov: restart is {self.restart!r}, but must be 'gradient', 'function' or None.")

    def init(self, objective: Objective, theta: Vector) -> _Ahead:
        return _Ahead(theta, jnp.zeros_like(theta), jnp.asarray(jnp.inf, theta.dtype), jnp.ones((), theta.dtype))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Ahead, previous: Previous, *, key: RandomKey
    ) -> tuple[Drift, _Ahead]:
        lost = (previous.count == 0) | previous.failed
        move = -previous.t * state.grad
        # The step was from the last θ to that plus move plus drift; x is the point in between.
        x = jnp.where(lost, theta, theta - previous.s + move)
        grad, value = lin.grad, lin.value
        rose = (value > state.value) if self.restart == "function" else jnp.array(False)
        a = jnp.where(lost | rose | self._against(state.grad, x - state.x), 1, _following(state.sequence))
        beta = (a - 1) / _following(a) if self.momentum is None else jnp.where(rose, 0, self.momentum)

        def drift(move: Vector) -> Vector:
            advance = theta + move - x
            return jnp.where(self._against(grad, advance), 0, beta) * advance

        return Drift(grad, drift), _Ahead(x, grad, value, a)

    def _against(self, grad: Vector, advance: Vector) -> Array:
        return (jnp.dot(grad, advance) > 0) if self.restart == "gradient" else jnp.array(False)


def _following(a: Scalar) -> Scalar:
    return (1 + jnp.sqrt(1 + 4 * a**2)) / 2
