"""First-order directions for noisy gradients: rates from the gradients alone, batches that grow, averaged iterates."""

import equinox as eqx
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Any, Array, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous, choose


class AdagradNorm(Direction):
    """d = −∇L/(ς + Σ‖∇L‖²)^μ, the sum over all steps so far: no loss is compared, no Lipschitz constant known.

    On smooth losses the least ‖∇L‖² of k steps is O(1/k) for exact gradients and O(log k/√k) for noisy ones, whatever
    the rate; a rate too large only costs steps until the sum has outgrown it.

    **Arguments:** `power`, μ between 0 and 1; `start`, ς > 0.

    **Cost:** nothing beyond the gradient; one number.

    Rachel Ward, Xiaoxia Wu and Léon Bottou, *AdaGrad stepsizes: sharp convergence over nonconvex landscapes*, 2019,
    algorithm 1; other powers: Serge Gratton, Sadok Jerad and Philippe Toint, *Parametric complexity analysis for a
    class of first-order Adagrad-like algorithms*, 2022, whose objective-function-free methods (OFFO) it belongs to.
    """

    power: float = 0.5
    start: float = 1e-2

    def init(self, objective: Objective, theta: Vector) -> Scalar:
        return jnp.zeros((), theta.dtype)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: Scalar, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, Scalar]:
        state = state + jnp.dot(lin.grad, lin.grad)
        return Line(-lin.grad / (self.start + state) ** self.power, lin.grad), state


class _Growth(eqx.Module):
    inner: PyTree
    total: Vector
    squares: Scalar  # Σ‖g‖²
    value: Scalar
    count: Array  # batches in the sums
    least: Array  # batches that the last step took


class Growing(Direction):
    """An inner direction on as many batches as the norm test asks for: until then, gradients add up and θ stays.

    After k batches with gradients g_j at one θ, mean ḡ and s² = Σ‖g_j − ḡ‖²/(k − 1), the step is made when
    s²/k ≤ `tolerance`²·‖ḡ‖²: the standard error of the mean is below that part of it. k starts at two, is never smaller
    than at the step before, and is `most` at most. So a step of the optimizer is a gradient of one batch, and changes θ
    only at the end of k of them.

    **Arguments:** `inner`, a direction whose paths are straight.

    **Cost:** that of `inner`; n numbers.

    Richard Byrd, Gillian Chin, Jorge Nocedal and Yuchen Wu, *Sample size selection in optimization methods for machine
    learning*, 2012, section 3. Deviation: the variance is that between batches and not within one, so that neither
    gradients of single samples are needed nor another shape of batch.
    """

    inner: Direction
    tolerance: float = 0.5
    most: int = eqx.field(static=True, default=1000)

    def __check_init__(self):
        if self.most < 2:
            raise ValueError(f"Growing: most is {self.most}, but a variance needs two batches at least.")

    def init(self, objective: Objective, theta: Vector) -> _Growth:
        zero = jnp.zeros((), theta.dtype)
        return _Growth(self.inner.init(objective, theta), jnp.zeros_like(theta), zero, zero, jnp.int32(0), jnp.int32(2))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Growth, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Growth]:
        count = state.count + 1
        k = count.astype(theta.dtype)
        total, value = state.total + lin.grad, state.value + lin.value
        squares = state.squares + jnp.dot(lin.grad, lin.grad)
        mean = total / k
        size = jnp.dot(mean, mean)
        variance = jnp.maximum(squares - k * size, 0) / jnp.maximum(k - 1, 1)
        passed = (count >= state.least) & (variance / k <= self.tolerance**2 * size)
        passed = passed | (count >= self.most)
        there = lin.objective.linearise(theta, lin.batch, value=value / k, grad=mean)
        path, inner = self.inner(there, theta, state.inner, previous, key=key)
        inner = choose(passed, inner, state.inner)
        nothing = _Growth(inner, jnp.zeros_like(total), 0 * value, 0 * value, 0 * count, jnp.where(passed, count, 0))
        going = _Growth(inner, total, squares, value, count, state.least)
        return Line(jnp.where(passed, path(jnp.ones_like(k)), 0), lin.grad, path.work), choose(passed, nothing, going)


class _Average(eqx.Module):
    inner: PyTree
    iterate: Vector  # z
    weights: Scalar  # Σ of the squared rates


class Averaged(Direction):
    """θ is the mean x of the iterates z of an inner method, whose gradients are taken at y = βx + (1 − β)z.

    z ← z + path(t) of the inner direction at y; x ← (1 − c)x + cz, with c = t²/Σt², which is 1/k at a constant rate; or
    c = 1 − `decay`, an exponential mean. β = 0 is Polyak and Ruppert's averaging, near 1 it is schedule-free, and
    β = 1 primal averaging, where a step is small from the start.

    θ is the average at every step, so that it is what records measure and what a run returns, wherever it stops; z
    is kept beside it. Hence the price: the gradient at θ, which the step reports, is not the one at y, which it needs.

    **Arguments:** `inner`, any direction that needs no search (its `previous` holds no gradients). The search has to be
    `Fixed`: the path does not begin at zero.

    **Cost:** that of `inner`, and one gradient more; 2n numbers.

    Boris Polyak and Anatoli Juditsky, *Acceleration of stochastic approximation by averaging*, 1992; Aaron Defazio et
    al., *The road less scheduled*, 2024, algorithm 1. Deviation there: Optax and the authors' code keep θ = y and
    leave x to the user (`optax.contrib.schedule_free_eval_params`).
    """

    inner: Direction
    beta: float = 0.0
    decay: float | None = None

    def init(self, objective: Objective, theta: Vector) -> _Average:
        return _Average(self.inner.init(objective, theta), theta, jnp.zeros((), theta.dtype))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Average, previous: Previous, *, key: RandomKey
    ) -> tuple["_ToAverage", _Average]:
        # Where the last step took z follows from where it took x: s = c (z − x), with x as it was before.
        before = theta - previous.s
        share, weights = self._share(previous.t, state.weights)
        moved = (previous.count > 0) & ~previous.failed
        iterate = jnp.where(moved, before + previous.s / jnp.where(moved, share, 1), state.iterate)
        weights = jnp.where(moved, weights, state.weights)
        at = self.beta * theta + (1 - self.beta) * iterate
        there = lin.objective.linearise(at, lin.batch)
        last = Previous(iterate - state.iterate, None, None, previous.t, previous.failed, previous.count)
        path, inner = self.inner(there, at, state.inner, last, key=key)
        outer = _ToAverage(path, iterate - theta, lambda t: self._share(t, weights)[0], lin.grad)
        return outer, _Average(inner, iterate, weights)

    def _share(self, t: Scalar, weights: Scalar) -> tuple[Scalar, Scalar]:
        """c, and Σt² with this t."""
        total = weights + t**2
        if self.decay is not None:
            return jnp.ones_like(t) * (1 - self.decay), total
        return t**2 / jnp.where(total > 0, total, 1), total


class _ToAverage:
    """t ↦ c(t)·(z + path(t) − x). Lives within one traced step."""

    def __init__(self, inner: Any, ahead: Vector, share: Any, grad: Vector):
        self.inner, self.ahead, self.share, self.grad = inner, ahead, share, grad
        self.work, self.trial = inner.work + Work(1, 1), inner.trial

    def __call__(self, t: Scalar) -> Vector:
        return self.share(t) * (self.ahead + self.inner(t))

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("The path of an average does not begin at zero and has no slope there; use `Fixed`.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """To first order."""
        return -jnp.dot(self.grad, step)
