"""Trust regions and cubic regularisation: the path takes a radius to the minimiser of a model within it.

A method is three values: `TrustRegion(Hessian(), Exact())` with `Radius()` is the trust-region Newton method,
`TrustRegion(SR1(), Exact())` its quasi-Newton form, `TrustRegion(GaussNewtonMatrix(), Steihaug())` a Gauss–Newton
method that stores no matrix, `TrustRegion(Hessian(), Cubic())` adaptive cubic regularisation.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Callable, PyTree, RandomKey, Scalar, Vector
from ravine.blocks import on_first
from ravine.linalg import Secular, cubic_model, lanczos, shifted_cholesky, solve_cholesky, steihaug, trust_region
from ravine.objective import Linearisation, Objective
from ravine.optim.curvature import Curvature, Quadratic, Spectrum
from ravine.optim.forcing import Forcing
from ravine.optim.optimizer import Direction, Search
from ravine.optim.path import Along, Found, Previous, choose


class Proposal(NamedTuple):
    """A trial: the step, the decrease that the model predicts, whether t bound it, and what it cost."""

    step: Vector
    reduction: Scalar
    bound: Array
    work: Work


class Bounded:
    """The path of `TrustRegion`: t ↦ the minimiser of the model that `propose` finds. Lives within one traced step.

    `unit` is what t = 1 is worth at the first step; `radius` says that t bounds the length of the step, and does not
    weigh it.
    """

    def __init__(
        self,
        quadratic: Quadratic,
        grad: Vector,
        propose: Callable[[Scalar], Proposal],
        work: Work,
        *,
        unit: Scalar | float,
        radius: bool = True,
    ):
        self.quadratic, self.grad, self.propose = quadratic, grad, propose
        self.work, self.trial = work, quadratic.product_cost  # the product in `reduction`
        self.unit, self.radius = unit, radius

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """The displacement at t, and what it cost."""
        found = self.propose(t)
        return found.step, found.work + self.trial

    def __call__(self, t: Scalar) -> Vector:
        return self.propose(t).step

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("The path of a trust region is not straight and has no slope at t = 0; use `Radius`.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """−⟨∇L, s⟩ − ½sᵀBs. One product."""
        return -jnp.dot(self.grad, step) - jnp.dot(step, self.quadratic.product(step)) / 2


class Radius(Search):
    """The trust radius by the ratio ρ = (actual decrease)/(predicted decrease); also 1/σ of cubic regularisation.

    A trial with ρ > `accept` that goes down is taken; else a shorter one is tried, also after one that is not finite.
    Where the loss no longer resolves differences, a step that makes the gradient smaller is taken. The next radius aims
    at α‖s‖, the minimum of the parabola through value, slope and trial: it lies between `shrink` and half of the old
    one after ρ < `low`, between `shrink` and `growth` times it after ρ < `high`, and is no smaller than it otherwise
    (Chih-Jen Lin and Jorge Moré, *Newton's method for large bound-constrained optimization problems*, SIAM J. Optim.
    1999, section 4). Where t is not a length (cubic regularisation, damping), it is multiplied by `shrink` after
    ρ < `low`, by `growth` after ρ > `high`.

    **Arguments:** `start`, the first radius, in units of max(1, ‖θ‖) (of one for cubic regularisation); `noise`, the
    error ε of a value of the loss: then ρ = (actual + 3ε)/(predicted + 3ε), and steps that go up by less than 3ε may
    be taken (Shigeng Sun and Jorge Nocedal, *A trust region method for noisy unconstrained optimization*, Math.
    Program. 2023).

    **Cost:** one value and gradient a trial, and what the path asks for one.

    Nocedal and Wright, 2006, algorithm 4.1; Andrew Conn, Nicholas Gould and Philippe Toint, *Trust-Region Methods*,
    2000, section 17.4.2 for rounding. Deviations: trials repeat within one step, so that nothing is linearised again
    for a shorter one.
    """

    start: float = 1.0
    accept: float = 1e-4
    low: float = 0.25
    high: float = 0.75
    shrink: float = 0.25
    growth: float = 4.0
    noise: float = 0.0
    trials: int = eqx.field(static=True, default=25)
    gives_grad: ClassVar[bool] = True

    def init(self, dtype) -> Scalar:
        """The radius; zero before the first step."""
        return jnp.zeros((), dtype)

    def __call__(self, phi: Along, state: Scalar) -> tuple[Scalar, Found, Scalar]:
        path, dtype, value, grad = phi.path, phi.theta.dtype, phi.here.value, phi.here.grad
        if not isinstance(path, Bounded):
            raise TypeError(
                f"Radius needs a path that takes a radius, such as that of TrustRegion, not {type(path).__name__}. For "
                "straight paths use Armijo() or Wolfe(), for damped ones Damping()."
            )
        size = jnp.linalg.norm(grad)
        floor = 4 * jnp.finfo(dtype).eps * jnp.abs(value)
        slack = floor + 3 * self.noise

        def again(carry):
            count, _, _, accepted = carry[:4]
            return (count < self.trials) & ~accepted

        def body(carry):
            count, t, _, _, spent = carry
            found = path.propose(t)
            trial, there = phi.value_and_grad(found.step)
            gain = (value - trial + slack) / (found.reduction + slack)
            level = (jnp.abs(trial - value) <= floor) & (jnp.linalg.norm(there) < size)
            sound = (found.reduction > 0) & jnp.isfinite(trial)
            accepted = sound & (gain > self.accept) & ((trial < value) | level | (self.noise > 0))
            if path.radius:
                new = self._radius(t, found.step, jnp.dot(grad, found.step), trial - value, gain, accepted)
            else:
                factor = jnp.where(gain > self.high, self.growth, jnp.where(gain >= self.low, 1, self.shrink))
                new = t * jnp.where(accepted, factor, jnp.minimum(self.shrink, 0.5))
            known = (found.step, trial, there, t)
            return count + 1, new, known, accepted, spent + found.work

        zero = jnp.zeros((), dtype)
        first = jnp.where(state > 0, state, self.start * path.unit).astype(dtype)
        nothing = (jnp.zeros_like(phi.theta), value, grad, zero)
        start = (jnp.int32(0), first, nothing, jnp.array(False), Work())
        count, radius, known, accepted, spent = lax.while_loop(again, body, start)
        step, trial, there, t = choose(accepted, known, nothing)
        work = Work(count, count, inner=count - 1) + spent
        return t, Found(step, trial, there, work, ~accepted), radius

    def _radius(self, t: Scalar, step: Vector, slope: Scalar, change: Scalar, gain: Scalar, accepted: Array) -> Scalar:
        """The next radius. A change of the loss or a step that is not finite shrinks it most."""
        length = jnp.linalg.norm(step)
        bend = change - slope
        least, half, most = self.shrink * t, 0.5 * t, self.growth * t
        aim = jnp.where(bend > 0, -slope / (2 * jnp.where(bend > 0, bend, 1)), self.growth) * length
        aim = jnp.where(jnp.isfinite(aim), aim, 0)
        length = jnp.where(jnp.isfinite(length), length, t)
        rejected = jnp.minimum(jnp.maximum(aim, self.shrink * length), half)
        poor, fair = jnp.clip(aim, least, half), jnp.clip(aim, least, most)
        good = jnp.maximum(t, jnp.minimum(aim, most))
        taken = jnp.where(gain < self.low, poor, jnp.where(gain < self.high, fair, good))
        return jnp.where(accepted, taken, rejected)


# ----------------------------------------------------------------------------------------------------- subproblems


class Subproblem(eqx.Module):
    """How the model is minimised within a radius. Abstract: `(lin, quadratic, tolerance) -> path`."""

    def __call__(self, lin: Linearisation, quadratic: Quadratic, tolerance: Scalar) -> Bounded:
        """The path from radius to step. `tolerance` is the relative residual for iterations."""
        raise NotImplementedError


def _unit(lin: Linearisation) -> Scalar:
    """A length to begin with."""
    return jnp.maximum(jnp.linalg.norm(lin.theta), 1)


class Cauchy(Subproblem):
    """The minimiser along −∇L within the radius. One product a step. Nocedal and Wright, 2006, equation 4.12."""

    def __call__(self, lin: Linearisation, quadratic: Quadratic, tolerance: Scalar) -> Bounded:
        grad = lin.grad
        size, curvature = jnp.linalg.norm(grad), jnp.dot(grad, quadratic.product(grad))

        def propose(radius: Scalar) -> Proposal:
            border = radius / jnp.where(size > 0, size, 1)
            free = size**2 / jnp.where(curvature > 0, curvature, 1)
            t = jnp.where(curvature > 0, jnp.minimum(free, border), border)
            return Proposal(-t * grad, t * size**2 - t**2 * curvature / 2, t >= border, Work())

        return Bounded(quadratic, grad, propose, quadratic.product_cost, unit=_unit(lin))


class Dogleg(Subproblem):
    """Along −∇L to the minimiser there, then straight to the Newton point; where B is not positive definite, both with
    B + τI, which is (τ as `shifted_cholesky` finds it).

    **Cost:** the matrix and n³/3 flops for each τ.

    Michael Powell, *A hybrid method for nonlinear equations*, 1970; Nocedal and Wright, 2006, equation 4.16.
    """

    def __call__(self, lin: Linearisation, quadratic: Quadratic, tolerance: Scalar) -> Bounded:
        grad = lin.grad

        def factorise(matrix, grad):
            factor, shift, count = shifted_cholesky(matrix, jnp.zeros((), grad.dtype), attempts=40)
            newton, curved = -solve_cholesky(factor, grad), matrix @ grad + shift * grad
            return matrix, (newton, curved, matrix @ newton + shift * newton, shift, count)

        matrix, told = on_first(lin.objective.mesh, factorise, quadratic.matrix(), grad)
        del matrix
        newton, curved, newton_curved, _, count = told
        square, bend = jnp.dot(grad, grad), jnp.dot(grad, curved)
        cauchy = square / jnp.where(bend > 0, bend, 1)  # times −∇L
        leg = newton + cauchy * grad
        leg_curved = newton_curved + cauchy * curved

        def propose(radius: Scalar) -> Proposal:
            first = jnp.sqrt(square) * cauchy
            short = first >= radius
            # ‖c + τ leg‖ = radius, in the form without cancellation; cᵀleg ≥ 0.
            a, b = jnp.dot(leg, leg), -cauchy * jnp.dot(grad, leg)
            room = jnp.maximum(radius**2 - first**2, 0)
            tau = room / (b + jnp.sqrt(b**2 + a * room))
            tau = jnp.where(short, 0, jnp.where(jnp.isfinite(tau), jnp.minimum(tau, 1), 1))
            along = jnp.where(short, radius / jnp.sqrt(jnp.where(square > 0, square, 1)), cauchy)
            step = tau * leg - along * grad
            bent = tau * leg_curved - along * curved
            return Proposal(step, -jnp.dot(grad, step) - jnp.dot(step, bent) / 2, short | (tau < 1), Work())

        work = quadratic.matrix_cost + Work(inner=count)
        return Bounded(quadratic, grad, propose, work, unit=_unit(lin))


class Steihaug(Subproblem):
    """Truncated conjugate gradients, products only; see `ravine.linalg.steihaug`.

    A rejected trial walks the path again, to where it leaves the smaller radius. **Cost:** a product an iteration.
    """

    iterations: int = eqx.field(static=True, default=250)

    def __call__(self, lin: Linearisation, quadratic: Quadratic, tolerance: Scalar) -> Bounded:
        def propose(radius: Scalar) -> Proposal:
            found = steihaug(quadratic.product, lin.grad, radius, tolerance=tolerance, iterations=self.iterations)
            work = quadratic.product_cost.times(found.iterations) + Work(inner=found.iterations)
            return Proposal(found.x, found.decrease, found.bound, work)

        return Bounded(quadratic, lin.grad, propose, Work(), unit=_unit(lin))


class Exact(Subproblem):
    """The global minimiser within the radius, the hard case included; see `ravine.linalg.trust_region`.

    **Cost:** one eigendecomposition a step, about 9n³ flops and 3n² numbers; 2n² flops a trial.
    """

    def __call__(self, lin: Linearisation, quadratic: Quadratic, tolerance: Scalar) -> Bounded:
        return _spectral(lin, quadratic, trust_region, unit=_unit(lin), radius=True)


class Cubic(Subproblem):
    """The global minimiser of gᵀs + ½sᵀBs + ‖s‖³/(3t); see `ravine.linalg.cubic_model`. **Cost:** as `Exact`."""

    def __call__(self, lin: Linearisation, quadratic: Quadratic, tolerance: Scalar) -> Bounded:
        return _spectral(lin, quadratic, cubic_model, unit=1.0, radius=False)


def _spectral(
    lin: Linearisation, quadratic: Quadratic, solve: Callable[..., Secular], *, unit: Scalar | float, radius: bool
) -> Bounded:
    spectrum = quadratic.spectrum(lin.grad)

    def propose(t: Scalar) -> Proposal:
        found = solve(spectrum.values, spectrum.slopes, t)
        return Proposal(spectrum.lift(found.coefficients), found.decrease, found.bound, Work())

    return Bounded(quadratic, lin.grad, propose, spectrum.work, unit=unit, radius=radius)


class Lanczos(Subproblem):
    """Another subproblem, `Exact` or `Cubic`, in the Krylov subspace of B and ∇L: products only, and none for a trial.

    The subspace grows until conjugate gradients would have met the tolerance, to `dimension` at most. Unlike
    truncated conjugate gradients it goes on past negative curvature, and knows the best point on the border.

    **Cost:** a product and 4kn flops for the k-th vector; `dimension` · n numbers.

    Nicholas Gould, Stefano Lucidi, Massimo Roma and Philippe Toint, *Solving the trust-region subproblem using the
    Lanczos method*, SIAM J. Optim. 1999; Cartis, Gould and Toint, 2011, section 6.2. See `ravine.linalg.lanczos`.
    """

    subproblem: Subproblem
    dimension: int = eqx.field(static=True, default=50)

    def __call__(self, lin: Linearisation, quadratic: Quadratic, tolerance: Scalar) -> Bounded:
        return self.subproblem(lin, _Reduced(quadratic, self.dimension, tolerance), tolerance)


class _Reduced(Quadratic):
    """B, whose spectrum is that of its restriction to a Krylov subspace."""

    def __init__(self, whole: Quadratic, dimension: int, tolerance: Scalar):
        super().__init__(whole.lin, whole.product, whole.matrix, product_cost=whole.product_cost)
        self.dimension, self.tolerance = dimension, tolerance

    def spectrum(self, grad: Vector) -> Spectrum:
        size = min(self.dimension, grad.shape[0])
        basis, matrix, count = lanczos(self.product, grad, size=size, tolerance=self.tolerance)
        values, vectors = jnp.linalg.eigh(matrix)
        lift = lambda coefficients: (vectors @ coefficients) @ basis
        return Spectrum(
            values, jnp.linalg.norm(grad) * vectors[0], lift, self.product_cost.times(count) + Work(inner=count)
        )


# ------------------------------------------------------------------------------------------------------- direction


class _State(eqx.Module):
    curvature: PyTree
    forcing: Forcing


class TrustRegion(Direction):
    """The path from a trust radius to the minimiser of gᵀs + ½sᵀBs within it, for any B and any way to minimise.

    **Arguments:** `curvature`, where B comes from; `subproblem`, how the model is minimised. Iterations stop at
    Eisenstat and Walker's tolerance, at most a tenth.

    **Cost:** that of the two.

    Andrew Conn, Nicholas Gould and Philippe Toint, *Trust-Region Methods*, 2000.
    """

    curvature: Curvature
    subproblem: Subproblem

    def init(self, objective: Objective, theta: Vector) -> _State:
        return _State(self.curvature.init(objective, theta), Forcing.first(theta.dtype))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _State, previous: Previous, *, key: RandomKey
    ) -> tuple[Bounded, _State]:
        quadratic, curvature = self.curvature(lin, state.curvature, previous, key=key)
        forcing = state.forcing.next(lin.grad)
        return self.subproblem(lin, quadratic, forcing.tolerance), _State(curvature, forcing)
