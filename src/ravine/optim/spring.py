"""Gauss–Newton with momentum in the space where it costs nothing: SPRING; and the capped rate that goes with it."""

import equinox as eqx
import jax.numpy as jnp

from ravine._results import Work
from ravine._types import Callable, Count, RandomKey, Scalar, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.gauss_newton import Damped, GaussNewton, Solver, Space
from ravine.optim.optimizer import Direction, Search
from ravine.optim.path import Along, Found, Line, Previous


class _Momentum(eqx.Module):
    step: Vector  # d of the last iteration, cut, before the correction of its bias
    count: Count


class Spring(Direction):
    """d = argmin ½‖Jd − r‖² + ½λμ‖d − βd₋‖², and the line along −d/√(1 − β²ᵏ) in the k-th step.

    d₋ is the last step's d and μ the mean diagonal of JᵀJ, so that λ has no unit. So the new points decide where they
    know something, and the memory of earlier points elsewhere: d = Jᵀ(JJᵀ + λμI)⁻¹(r − βJd₋) + βd₋. With β = 0 it is
    the step of `GaussNewton`; where λ → 0 that of smallest norm. For losses other than ½‖F‖² the same with ∇L in place
    of Jᵀr.

    **Arguments:** `momentum`, β, between 0 (none) and 1; `ridge`, λ; `space`, `solver`: as in `GaussNewton`;
    `longest`: the norm to which a longer step is cut, before it is remembered.

    **Raises:** `ValueError` when the objective has no curvature to use (a bare scalar loss), for a momentum outside
    [0, 1), and for `longest` ≤ 0.

    **Cost:** as a step of `GaussNewton` with one trial, and one product with J.

    Gil Goldshlager, Nilin Abrahamsen and Lin Lin, *A Kaczmarz-inspired approach to accelerate the optimization of
    neural network wavefunctions*, J. Comput. Phys. 2024, equations 28 and 33; the correction of the bias is that of
    Andrés Guzmán-Cordero, Felix Dangel, Gil Goldshlager and Marius Zeinhofer, *Improving energy natural gradient
    descent through Woodbury, momentum, and randomization*, 2025. Deviations: after a step that failed the memory is
    dropped, and of one that was cut it is the part that was made. The papers remember the whole of it, which far from
    the solution is much more than was done.
    """

    momentum: float = 0.9
    ridge: float = 1e-6
    space: Space = eqx.field(static=True, default="auto")
    solver: Solver = eqx.field(static=True, default="cholesky")
    longest: float = float("inf")

    def __check_init__(self):
        if isinstance(self.longest, float) and not self.longest > 0:
            raise ValueError(f"Spring: longest is {self.longest}, but must be positive: the norm that no step exceeds.")
        if isinstance(self.momentum, float) and not 0 <= self.momentum < 1:
            raise ValueError(f"Spring: momentum is {self.momentum}, but must be at least 0 and below 1.")
        if self.solver == "mixed":
            raise ValueError("Spring: solver='mixed' is made for several dampings; use 'cholesky' or 'qr'.")

    def init(self, objective: Objective, theta: Vector) -> _Momentum:
        self._plain.init(objective, theta)
        return _Momentum(jnp.zeros_like(theta), jnp.int32(0))

    @property
    def _plain(self) -> GaussNewton:
        return GaussNewton(space=self.space, acceleration=False, solver=self.solver)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Momentum, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Momentum]:
        beta = jnp.asarray(self.momentum, theta.dtype)
        before = jnp.where(previous.failed, 0, beta * state.step)
        count = jnp.where(previous.failed, 0, state.count) + 1
        path, _ = self._plain(lin, theta, None, previous, key=key)
        assert isinstance(path, Damped)  # there is no ridge
        rows = lin.jvp(before)
        right = lin.grad - lin.vjp(rows), lin.residual - rows if lin.objective.has_residuals else None
        found = before + path.solve(jnp.asarray(self.ridge, theta.dtype), *right)
        corrected = -found / jnp.sqrt(1 - beta ** (2 * count.astype(theta.dtype)))
        length = jnp.linalg.norm(corrected)
        share = jnp.minimum(1, self.longest / jnp.where(length > 0, length, 1))
        work = path.work + path.trial + Work(products=1)
        return Line(share * corrected, lin.grad, work), _Momentum(share * found, count)


class Capped(Search):
    """A learning rate that no step exceeds `longest` with: t = min(rate, longest/‖path(1)‖). Evaluates nothing.

    `rate` is a number, or a schedule: step number -> number.
    """

    rate: float | Callable[[Count], Scalar]
    longest: float = float("inf")

    def init(self, dtype) -> Count:
        del dtype
        return jnp.zeros((), jnp.int32)

    def __call__(self, phi: Along, state: Count) -> tuple[Scalar, Found, Count]:
        rate = self.rate(state) if callable(self.rate) else self.rate
        length = jnp.linalg.norm(phi.path(jnp.ones((), phi.theta.dtype)))
        t = jnp.minimum(jnp.asarray(rate, phi.theta.dtype), self.longest / jnp.where(length > 0, length, 1))
        step = phi.path(t)
        usable = jnp.all(jnp.isfinite(step)) & jnp.isfinite(length) & jnp.isfinite(phi.here.value)
        step = jnp.where(usable, step, 0)
        return t, Found(step, None, None, phi.path.trial + phi.path.trial, ~usable), state + 1
