"""Searches that choose t from what is known of the loss, instead of trying points of the path until one is low enough.

Along −∇L all of them give a gradient descent; along the paths of `ravine.optim.momentum`, a method with momentum.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Bool

from ravine._results import Work
from ravine._types import Array, Count, Scalar
from ravine.linalg.ritz import extreme_eigenvalues
from ravine.optim.optimizer import Search
from ravine.optim.path import Along, Found

PRODUCTS = 2  # a Hessian product costs what two products with the Jacobian or its transpose cost


class Polyak(Search):
    """t = scale · (L − lower)/|⟨∇L, d⟩| with the least value of the loss known: zero where all equations can hold.

    Boris Polyak, *Introduction to Optimization*, 1987, section 5.3: with scale = 1 no step leads away from any
    minimiser of a convex loss. On ½λx² that halves the error, and scale = 2 is exact. With `longest`, the cap of
    Nicolas Loizou, Sharan Vaswani, Issam Laradji and Simon Lacoste-Julien, *Stochastic Polyak step-size for SGD*, 2021.
    A `lower` that is not below the loss gives no step, and fails. **Cost:** nothing.
    """

    lower: float = 0.0
    scale: float = 1.0
    longest: float = float("inf")

    def init(self, dtype) -> None:
        return None

    def __call__(self, phi: Along, state: None) -> tuple[Scalar, Found, None]:
        slope = phi.slope
        t = jnp.minimum(self.scale * (phi.here.value - self.lower) / jnp.where(slope < 0, -slope, 1), self.longest)
        t = jnp.asarray(t, phi.theta.dtype)
        return *_blind(phi, t, usable=(slope < 0) & (t > 0)), None


class _Measured(eqx.Module):
    """The largest curvature, and the steps since it was measured."""

    largest: Scalar
    age: Count


class Sharpness(Search):
    """t = scale/λ, with λ the largest |eigenvalue| of ∇²L, measured every `refresh` steps: 1/L for gradient descent.

    Lanczos' iteration from a fixed random vector gives λ from below, to a percent in some ten products on a spectrum
    with a gap. Where the curvature vanishes t is `longest`. **Cost:** `products` Hessian products of six evaluations
    each, every `refresh` steps. The loss must have two derivatives.
    """

    scale: float = 1.0
    longest: float = 1e6
    products: int = eqx.field(static=True, default=12)
    refresh: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if self.products < 1 or self.refresh < 1:
            raise ValueError(
                f"Sharpness: products is {self.products} and refresh {self.refresh}, but both must be at least 1."
            )

    def init(self, dtype) -> _Measured:
        return _Measured(jnp.zeros((), dtype), jnp.int32(0))

    def __call__(self, phi: Along, state: _Measured) -> tuple[Scalar, Found, _Measured]:
        theta, here = phi.theta, phi.here
        count = min(self.products, theta.shape[0])
        due = state.age % self.refresh == 0

        def measure():
            start = jax.random.normal(jax.random.key(0), theta.shape, theta.dtype)
            least, most = extreme_eigenvalues(lambda v: here.anew().hessian_product(v), start, count)
            return jnp.maximum(jnp.abs(least), jnp.abs(most))

        largest = lax.cond(due, measure, lambda: state.largest)
        t = jnp.minimum(self.scale / jnp.where(largest > 0, largest, 1), self.longest)
        t = jnp.where(largest > 0, t, self.longest).astype(theta.dtype)
        t, found = _blind(phi, t, usable=jnp.isfinite(largest), work=Work(products=jnp.where(due, PRODUCTS * count, 0)))
        return t, found, _Measured(largest, jnp.where(found.failed, 0, state.age + 1))


def _blind(phi: Along, t: Scalar, *, usable, work: Work | None = None) -> tuple[Scalar, Found]:
    """The point at t, not evaluated; no step where it is not finite."""
    step = phi.path(t)
    usable = usable & jnp.all(jnp.isfinite(step)) & jnp.isfinite(phi.here.value)
    spent = phi.path.trial if work is None else phi.path.trial + work
    return jnp.where(usable, t, 0), Found(jnp.where(usable, step, 0), None, None, spent, ~usable)


class _Trial(eqx.Module):
    """The next t to try, and whether one was ever too long."""

    t: Scalar
    settled: Bool[Array, ""]


class Majorisation(Search):
    """The largest t tried with L(θ − t∇L) ≤ L(θ) − t/2 ‖∇L‖²: 1/t takes the part of the Lipschitz constant of ∇L.

    The test is made on the gradient step, whatever the path; so it serves paths with momentum, on which the loss may
    rise. Along −∇L itself it is `Armijo(decrease=0.5)`. Trials start at `growth` times the last t, and at 1/`shrink`
    times it as long as none was ever too long.

    Amir Beck and Marc Teboulle, *A fast iterative shrinkage-thresholding algorithm*, 2009, section 4. Deviations: t may
    grow, as in Becker, Candès and Grant, *Templates for convex cone problems*, 2011; differences of the
    loss below its rounding do not count. **Cost:** one evaluation a trial.
    """

    start: float = 1.0
    shrink: float = 0.5
    growth: float = 1.1
    trials: int = eqx.field(static=True, default=60)

    def init(self, dtype) -> _Trial:
        return _Trial(jnp.asarray(self.start, dtype), jnp.array(False))

    def __call__(self, phi: Along, state: _Trial) -> tuple[Scalar, Found, _Trial]:
        value, grad = phi.here.value, phi.here.grad
        square = jnp.dot(grad, grad)
        floor = 4 * jnp.finfo(phi.theta.dtype).eps * jnp.abs(value)

        def majorised(t, trial):
            return trial <= value - t / 2 * square + floor

        def again(carry):
            count, _, t, trial = carry
            return (count < self.trials) & ~majorised(t, trial)

        def body(carry):
            count, t, *_ = carry
            return count + 1, t * self.shrink, t, phi.value(-t * grad)

        first = (jnp.int32(0), state.t, state.t, jnp.asarray(jnp.inf, phi.theta.dtype))
        count, _, t, trial = lax.while_loop(again, body, first)
        step = phi.path(t)
        failed = ~(majorised(t, trial) & jnp.all(jnp.isfinite(step)))
        work = Work(count, inner=count - 1) + phi.path.trial
        found = Found(jnp.where(failed, 0, step), None, None, work, failed)
        settled = state.settled | (count > 1)
        longer = t * jnp.where(settled, self.growth, 1 / self.shrink)
        return jnp.where(failed, 0, t), found, _Trial(jnp.where(failed, self.start, longer), settled)
