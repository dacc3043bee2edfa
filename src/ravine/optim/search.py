"""How far along the path: learning rates, line searches and damping are all searches."""

from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Callable, Count, Scalar
from ravine.optim.optimizer import Search
from ravine.optim.path import Along, Found, choose

# A loss is known to so many units of its last place: less is no decrease.
ROUNDING = 32
# Where slopes judge instead of losses, by the trapezoidal rule, which is exact for parabolas alone, so much of the
# decrease to first order is asked for.
BY_SLOPES = 0.1
# After so many steps judged by slopes, without progress in either, slopes are rounding as well.
IDLE = 300


class Fixed(Search):
    """A learning rate: t = rate, or t = rate(step number) for a schedule. Evaluates nothing."""

    rate: float | Callable[[Count], Scalar]

    def init(self, dtype) -> Count:
        del dtype
        return jnp.zeros((), jnp.int32)

    def __call__(self, phi: Along, state: Count) -> tuple[Scalar, Found, Count]:
        rate = self.rate(state) if callable(self.rate) else self.rate
        t = jnp.asarray(rate, phi.theta.dtype)
        step = phi.path(t)
        # A step that is not finite is not taken; the run then stops and says so.
        usable = jnp.all(jnp.isfinite(step)) & jnp.isfinite(phi.here.value)
        step = jnp.where(usable, step, 0)
        return t, Found(step, None, None, phi.path.trial, ~usable), state + 1


class Armijo(Search):
    """Backtracking until L(θ + td) ≤ L(θ) + c t ⟨∇L, d⟩, starting from a little more than the last accepted t.

    Larry Armijo, *Minimization of functions having Lipschitz continuous first partial derivatives*, 1966.

    **Cost:** one evaluation a trial.
    """

    decrease: float = 1e-4
    shrink: float = 0.5
    growth: float = 2.0
    start: float = 1.0
    longest: float = float("inf")
    trials: int = eqx.field(static=True, default=40)

    def init(self, dtype) -> Scalar:
        return jnp.asarray(self.start, dtype)

    def __call__(self, phi: Along, state: Scalar) -> tuple[Scalar, Found, Scalar]:
        value, slope = phi.here.value, phi.slope

        def again(carry):
            count, t, trial, _ = carry
            return (count < self.trials) & ~(trial <= value + self.decrease * t * slope)

        def shorter(carry):
            count, t, _, _ = carry
            t = t * self.shrink
            step = phi.path(t)
            return count + 1, t, phi.value(step), step

        step = phi.path(state)
        count, t, trial, step = lax.while_loop(again, shorter, (jnp.int32(1), state, phi.value(step), step))
        failed = ~(trial <= value + self.decrease * t * slope)
        t, step = jnp.where(failed, 0, t), jnp.where(failed, 0, step)
        found = Found(step, jnp.where(failed, value, trial), None, Work(count, inner=count - 1), failed)
        # The first trial of the next step is longer than this one, so that a step once cut can grow again.
        return t, found, jnp.where(failed, self.start, jnp.minimum(t * self.growth, self.longest))


class _Trial(eqx.Module):
    """A point on a line with its value and slope."""

    t: Scalar
    value: Scalar
    slope: Scalar


class _WolfeState(eqx.Module):
    """`decrease` of the last step, from which the first trial of the next one is guessed; and since losses last fell
    by more than rounding: the `least` value and −L′(0) seen, and how many steps were `idle`."""

    decrease: Scalar
    least: Scalar
    slope: Scalar
    idle: Count


class Wolfe(Search):
    """Strong Wolfe: L(t) ≤ L(0) + c₁ t L′(0) and |L′(t)| ≤ c₂ |L′(0)|, by bracketing and a safeguarded cubic zoom.

    Jorge Nocedal and Stephen Wright, *Numerical Optimization*, 2006, algorithms 3.5 and 3.6, with Hager and Zhang's
    approximate condition (2005, equation 4.1), which asks the slopes, once the loss no longer resolves differences.
    Deviations: one loop serves both stages, so that the objective is compiled once; non-finite trials count as too
    long; when trials run out, the best point with a sufficient decrease is taken.

    Near a minimum of zero a loss loses its digits long before its gradient does: the rounding of residuals of 10⁻⁹
    that are made of numbers near one is a relative 10⁻⁷ each. How many digits are left shows where the losses of two
    trials differ by more than their slopes allow; a difference up to `noise` times the loss is then taken for rounding,
    and differences up to twice that are left to the slopes.

    In the end slopes are rounding too, and steps by them would wander off along what the loss does not feel. After 300
    steps by slopes that have neither lowered the loss nor halved the least slope a search fails, and memory is dropped.

    The first trial is guessed from the last decrease, between `shortest` and `longest`: 0.2 and 1 for directions whose
    natural length is one; 0 and ∞ for those that have none; 1 and 1 begins with whole steps, as Newton's method wants.

    **Cost:** one value and gradient a trial; one in all when the first trial is accepted.
    """

    decrease: float = 1e-4
    curvature: float = 0.9
    growth: float = 3.0
    shortest: float = 0.2
    longest: float = 1.0
    noise: float = 1e-3
    trials: int = eqx.field(static=True, default=25)
    gives_grad: ClassVar[bool] = True

    def init(self, dtype) -> _WolfeState:
        infinite = jnp.asarray(jnp.inf, dtype)
        return _WolfeState(infinite, infinite, infinite, jnp.int32(0))

    def __call__(self, phi: Along, state: _WolfeState) -> tuple[Scalar, Found, _WolfeState]:
        dtype = phi.theta.dtype
        zero = _Trial(jnp.zeros((), dtype), phi.here.value, phi.slope)
        exact = 4 * jnp.finfo(dtype).eps * jnp.abs(zero.value)

        def decreased(trial, floor):
            armijo = trial.value <= zero.value + self.decrease * trial.t * zero.slope
            level = jnp.abs(trial.value - zero.value) <= floor
            return jnp.where(level, trial.slope <= (2 * BY_SLOPES - 1) * zero.slope, armijo)

        nothing = (jnp.zeros_like(phi.theta), jnp.asarray(jnp.inf, dtype), phi.here.grad, jnp.zeros((), dtype))

        def again(carry):
            count, _, _, _, _, _, _, done, dead = carry
            return (count < self.trials) & ~done & ~dead

        def body(carry):
            count, t, zooming, low, high, floor, best, done, dead = carry
            step = phi.path(t)
            value, grad = phi.value_and_grad(step)
            here = _Trial(t, value, phi.path.slope(grad))
            # Losses that differ by more than the slopes allow, though by little, differ by rounding.
            change = jnp.abs(value - low.value)
            reach = jnp.abs(t - low.t) * jnp.maximum(jnp.abs(low.slope), jnp.abs(here.slope))
            rounded = (change > 2 * reach) & (change <= self.noise * jnp.abs(zero.value))
            floor = jnp.where(rounded, jnp.maximum(floor, 2 * change), floor)
            # What a lucky rounding had let pass is the far end of the bracket.
            lucky = (low.t > 0) & ~decreased(low, floor)
            low, high, zooming = choose(lucky, zero, low), choose(lucky, low, high), zooming | lucky
            best = choose(lucky, nothing, best)
            enough = decreased(here, floor) & (value < jnp.inf)
            # While bracketing, `low` is the previous trial, which always satisfied the decrease.
            long = ~enough | ((value >= low.value + floor) & (low.t > 0))
            done = enough & (jnp.abs(here.slope) <= self.curvature * jnp.abs(zero.slope))
            turned = jnp.where(zooming, here.slope * (high.t - low.t) >= 0, here.slope >= 0)
            new_high = choose(long, here, choose(turned, low, high))
            new_low = choose(long, low, here)
            zooming = zooming | long | turned
            next_t = jnp.where(zooming, _interpolate(new_low, new_high, floor), self.growth * t)
            best = choose(enough & (value <= best[1]), (step, value, grad, t), best)
            width = jnp.abs(new_high.t - new_low.t)
            dead = zooming & (width <= 4 * jnp.finfo(dtype).eps * jnp.abs(new_low.t) + jnp.finfo(dtype).tiny)
            best = choose(done, (step, value, grad, t), best)
            return count + 1, next_t, zooming, new_low, new_high, floor, best, done, dead

        # Nocedal and Wright, 2006, equation 3.60: expect the decrease of the last step; one for a Newton-like step.
        guess = 1.01 * 2 * state.decrease / -zero.slope
        guess = jnp.where(guess < jnp.inf, guess, 1)
        first = jnp.where(guess > 0, jnp.clip(guess, self.shortest, self.longest), 1).astype(dtype)
        start = (jnp.int32(0), first, jnp.array(False), zero, zero, exact, nothing, jnp.array(False))
        uphill = ~(zero.slope < 0)  # also when the slope is NaN
        count, _, _, _, _, floor, best, done, _ = lax.while_loop(again, body, (*start, uphill))
        step, value, grad, t = best
        decrease = zero.value - value
        level = jnp.abs(decrease) <= floor
        fell = decrease > ROUNDING * floor
        idle = jnp.where(
            fell | (value < state.least - floor) | (-zero.slope < state.slope / 2),
            0,
            state.idle + level.astype(jnp.int32),
        )
        failed = ~(done | (value < jnp.inf)) | (idle >= IDLE)
        step, grad = jnp.where(failed, 0, step), jnp.where(failed, phi.here.grad, grad)
        value, t = jnp.where(failed, zero.value, value), jnp.where(failed, 0, t)
        work = Work(count, count, inner=jnp.maximum(count - 1, 0))
        by_slopes = -t * (zero.slope + phi.path.slope(grad)) / 2
        after = _WolfeState(
            jnp.where(level, by_slopes, decrease),
            jnp.where(fell, value, jnp.minimum(state.least, value)),
            jnp.where(fell, -zero.slope, jnp.minimum(state.slope, -zero.slope)),
            idle,
        )
        return t, Found(step, value, grad, work, failed), choose(failed, self.init(dtype), after)


def _interpolate(low: _Trial, high: _Trial, floor: Scalar) -> Scalar:
    """The minimiser of the cubic through two points and slopes, or where their values differ by no more than `floor` of
    the parabola with these slopes, kept off the ends of the bracket; else its middle, or a tenth of it.

    Nocedal and Wright, 2006, equation 3.59.
    """
    width = high.t - low.t
    d1 = low.slope + high.slope - 3 * (low.value - high.value) / (low.t - high.t)
    root = d1**2 - low.slope * high.slope
    d2 = jnp.sign(width) * jnp.sqrt(jnp.maximum(root, 0))
    cubic = high.t - width * (high.slope + d2 - d1) / (high.slope - low.slope + 2 * d2)
    level = (jnp.abs(high.value - low.value) <= floor) & (low.slope * high.slope < 0)
    cubic = jnp.where(level, low.t - low.slope * width / (high.slope - low.slope), cubic)
    usable = jnp.isfinite(cubic) & (level | (root >= 0)) & jnp.isfinite(high.value)
    share = jnp.clip((cubic - low.t) / width, 0.05, 0.95)
    # As long as nothing finite was met the domain may be a tiny part of the bracket.
    middle = jnp.where(jnp.isfinite(high.value) | (low.t > 0), 0.5, 0.1)
    return low.t + width * jnp.where(usable, share, middle)


class _DampingState(eqx.Module):
    damping: Scalar
    factor: Scalar


class Damping(Search):
    """Levenberg–Marquardt damping by the gain ratio ρ = (actual decrease)/(predicted decrease).

    Here t is the damping, relative to the mean diagonal of JᵀJ. A trial with ρ > `accept` is taken and the damping
    multiplied by max(1/`relax`, 1 − (2ρ − 1)³); else it is multiplied by a factor that doubles each time.
    Hans Bruun Nielsen, *Damping parameter in Marquardt's method*, 1999. Deviation: the damping keeps above
    `floor` · machine epsilon, below which JᵀJ carries no information.

    **Cost:** one evaluation and one factorisation a trial; the Jacobian is not computed again.
    """

    start: float = 1e-3
    accept: float = 1e-3
    relax: float = 5.0
    floor: float = 1.0
    trials: int = eqx.field(static=True, default=12)

    def init(self, dtype) -> _DampingState:
        return _DampingState(jnp.asarray(self.start, dtype), jnp.asarray(2.0, dtype))

    def __call__(self, phi: Along, state: _DampingState) -> tuple[Scalar, Found, _DampingState]:
        dtype, value = phi.theta.dtype, phi.here.value
        least = self.floor * jnp.finfo(dtype).eps

        def again(carry):
            count, _, accepted = carry[:3]
            return (count < self.trials) & ~accepted

        def body(carry):
            count, state, _, _, _, _, work = carry
            step, spent = phi.attempt(state.damping)
            trial = phi.value(step)
            gain = (value - trial) / phi.path.reduction(state.damping, step)
            accepted = (gain > self.accept) & (trial < value)
            cut = jnp.maximum(1 / self.relax, 1 - (2 * jnp.minimum(gain, 2.0) - 1) ** 3)
            softer = _DampingState(jnp.maximum(state.damping * cut, least), jnp.asarray(2.0, dtype))
            harder = _DampingState(jnp.minimum(state.damping * state.factor, 1e12), state.factor * 2)
            new = choose(accepted, softer, harder)
            return count + 1, new, accepted, state.damping, step, trial, work + spent

        zero = jnp.zeros((), dtype)
        start = (jnp.int32(0), state, jnp.array(False), zero, jnp.zeros_like(phi.theta), value, Work())
        count, new, accepted, t, step, trial, spent = lax.while_loop(again, body, start)
        step, trial = jnp.where(accepted, step, 0), jnp.where(accepted, trial, value)
        work = Work(evaluations=count, inner=count - 1) + spent
        return t, Found(step, trial, None, work, ~accepted), new
