"""Searches that try points of the path: one that tolerates a rise now and then, and one that looks at all lengths."""

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Count, Float, Scalar
from ravine.optim.optimizer import Search
from ravine.optim.path import Along, Found
from ravine.optim.search import ROUNDING


class _Reference(eqx.Module):
    """What the next loss is compared with: the last losses, or their average with its weight."""

    recent: Float[Array, "window"]
    average: Scalar
    weight: Scalar
    last: Scalar
    count: Count


class NonMonotone(Search):
    """Backtracking until L(θ + td) ≤ R + c t ⟨∇L, d⟩, where the reference R lies above L and so lets it rise at times.

    Steps whose length is right on average, as those of Barzilai and Borwein, are then taken as they come.

    **Arguments:**

    - `rule`: "max", R is the largest of the last `window` losses (Luigi Grippo, Francesco Lampariello and Stefano
      Lucidi, *A nonmonotone line search technique for Newton's method*, 1986); "mean", R is their average with weights
      that fall by `forget` a step (Hongchao Zhang and William Hager, *A nonmonotone line search technique and its
      application to unconstrained optimization*, 2004, equation 1.6): 0 is Armijo's rule, 1 the mean of all losses.
    - `start`: the first t of each step.

    A trial that is too long is followed by the minimiser of the parabola through it, kept between a tenth and a half
    of it. The reference starts over when the loss is not the last one, since then the points were drawn anew; and so it
    does when a search failed.

    **Cost:** one value and gradient a trial; one in all when the first trial is accepted.
    """

    rule: Literal["max", "mean"] = eqx.field(static=True, default="max")
    window: int = eqx.field(static=True, default=10)
    forget: float = 0.85
    decrease: float = 1e-4
    start: float = 1.0
    trials: int = eqx.field(static=True, default=30)
    gives_grad: ClassVar[bool] = True

    def __check_init__(self):
        if self.rule not in ("max", "mean") or self.window < 1:
            raise ValueError(
                f"NonMonotone: rule is {self.rule!r} and window {self.window}, but rule must be 'max' or 'mean', and "
                "window, the number of losses that are compared, at least 1."
            )

    def init(self, dtype) -> _Reference:
        zero = jnp.zeros((), dtype)
        return _Reference(jnp.zeros(self.window, dtype), zero, zero, zero, jnp.int32(0))

    def __call__(self, phi: Along, state: _Reference) -> tuple[Scalar, Found, _Reference]:
        dtype, value, slope = phi.theta.dtype, phi.here.value, phi.slope
        fresh = (state.count == 0) | (state.last != value)
        place = jnp.where(fresh, 0, state.count)
        old = jnp.arange(self.window, dtype=jnp.int32) < jnp.minimum(place, self.window)
        recent = jnp.where(old, state.recent, -jnp.inf).at[place % self.window].set(value)
        average, weight = jnp.where(fresh, value, state.average), jnp.where(fresh, 1, state.weight)
        # An average of decreasing losses is never below the last one, but for rounding.
        reference = jnp.max(recent) if self.rule == "max" else jnp.maximum(average, value)

        def enough(t, trial):
            return trial <= reference + self.decrease * t * slope

        def again(carry):
            count, _, t, _, trial, _ = carry
            return (slope < 0) & (count < self.trials) & ~enough(t, trial)

        def body(carry):
            count, t, *_ = carry
            step = phi.path(t)
            trial, grad = phi.value_and_grad(step)
            share = -slope * t / (2 * (trial - value - t * slope))
            shorter = t * jnp.where(trial < jnp.inf, jnp.clip(share, 0.1, 0.5), 0.1)
            return count + 1, shorter, t, step, trial, grad

        start, nothing = jnp.asarray(self.start, dtype), jnp.asarray(jnp.inf, dtype)
        first = (jnp.int32(0), start, start, jnp.zeros_like(phi.theta), nothing, phi.here.grad)
        count, _, t, step, trial, grad = lax.while_loop(again, body, first)
        failed = ~enough(t, trial)
        t, step = jnp.where(failed, 0, t), jnp.where(failed, 0, step)
        trial, grad = jnp.where(failed, value, trial), jnp.where(failed, phi.here.grad, grad)
        heavier = self.forget * weight + 1
        average = (self.forget * weight * average + trial) / heavier
        state = _Reference(recent, average, heavier, trial, jnp.where(failed, 0, place + 1))
        return t, Found(step, trial, grad, Work(count, count, inner=jnp.maximum(count - 1, 0)), failed), state


class GridSearch(Search):
    """The best of t = longest · 1, ratio, ratio², …: `count` points of the path, all of them tried.

    It needs no slope and is misled by none; so it serves steps that are far too long at first, as undamped Gauss–Newton
    steps are. Johannes Müller and Marius Zeinhofer, *Achieving high accuracy with PINNs via energy natural gradient
    descent*, ICML 2023, with t = 2⁰, …, 2⁻³⁰. Fails when no point is lower, by more than
    rounding, than the one it starts from.

    **Cost:** `count` evaluations, one after the other, so that memory is that of one.
    """

    longest: float = 1.0
    ratio: float = 0.5
    count: int = eqx.field(static=True, default=31)

    def __check_init__(self):
        if self.count < 1:
            raise ValueError(f"GridSearch: count is {self.count}, but at least one length must be tried.")

    def init(self, dtype) -> None:
        return None

    def __call__(self, phi: Along, state: None) -> tuple[Scalar, Found, None]:
        dtype, value = phi.theta.dtype, phi.here.value
        enough = value - ROUNDING * jnp.finfo(dtype).eps * jnp.abs(value)

        def look(_, carry):
            t, *best = carry
            step = phi.path(t)
            trial = phi.value(step)
            better = trial < best[2]
            best = [jnp.where(better, new, old) for new, old in zip((t, step, trial), best, strict=True)]
            return t * self.ratio, *best

        zero = jnp.zeros((), dtype)
        start = (jnp.asarray(self.longest, dtype), zero, jnp.zeros_like(phi.theta), enough)
        _, t, step, trial = lax.fori_loop(0, self.count, look, start)
        failed = ~(trial < enough)
        work = Work(self.count, inner=self.count - 1)
        return t, Found(step, jnp.where(failed, value, trial), None, work, failed), None
