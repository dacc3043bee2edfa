"""Gauss–Newton, Levenberg–Marquardt, natural gradient, energy natural gradient: one linearisation, one solve.

In parameter space (JᵀJ + λI)d = −∇L; in kernel space d = −Jᵀ(JJᵀ + λI)⁻¹r. Both are the same step; the smaller matrix
is the cheaper one.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jax.sharding import Mesh

from ravine._results import Work
from ravine._types import Array, RandomKey, Rows, Scalar, Vector
from ravine.blocks import on_first
from ravine.linalg import damped_qr, shifted_cholesky, solve_cholesky, solve_qr
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

Space = Literal["auto", "parameter", "kernel"]
Solver = Literal["cholesky", "qr"]


class GaussNewton(Direction):
    """The path λ ↦ −(JᵀJ + λμI)⁻¹∇L, with μ the mean diagonal of JᵀJ, so that λ has no unit.

    For ½‖F‖² this is Gauss–Newton and (with `Damping`) Levenberg–Marquardt; for a linear PDE operator or a Ritz energy
    it is the energy natural gradient (Johannes Müller and Marius Zeinhofer, *Achieving high accuracy with PINNs via
    energy natural gradient descent*, ICML 2023); for cross-entropy it is Fisher scoring.

    **Arguments:**

    - `space`: "parameter" solves n×n, "kernel" m×m, "auto" the smaller.
    - `acceleration`: adds ½a, a = −(JᵀJ + λμI)⁻¹Jᵀr_vv, the geodesic acceleration, when 2‖a‖ ≤ 0.75‖v‖
      (Mark Transtrum and James Sethna, *Improvements to the Levenberg–Marquardt algorithm for nonlinear least-squares
      minimization*, 2012). Residual losses only; others go without.
    - `solver`: "cholesky" of the matrix, or "qr" of J itself, which keeps the digits that squaring loses.
    - `ridge`: when given, the path is the straight line along the step with λ = ridge, for a line search.

    **Raises:** `ValueError` when the objective has no curvature to use (a bare scalar loss).

    **Cost:** m Jacobian rows (three evaluations) and mn·min(m, n) multiplications; each trial one Cholesky factor, and
    with acceleration about seven evaluations more. Memory 8n² (parameter space, J is never stored) or 8mn + 8m² bytes.
    """

    space: Space = eqx.field(static=True, default="auto")
    acceleration: bool = eqx.field(static=True, default=True)
    solver: Solver = eqx.field(static=True, default="cholesky")
    ridge: float | None = None

    def init(self, objective: Objective, theta: Vector) -> None:
        if not objective.has_curvature:
            raise ValueError(
                "Gauss–Newton and its kin need residuals, but this objective is a bare scalar loss. Either (a) give "
                "the residual vector: ravine.least_squares(residuals, params), or (b) use a method that needs "
                "gradients only: ravine.ssbroyden(), ravine.lbfgs()."
            )

    def __call__(
        self, lin: Linearisation, theta: Vector, state: None, previous: Previous, *, key: RandomKey
    ) -> tuple["Damped | Line", None]:
        kernel = self.space == "kernel" or (self.space == "auto" and lin.rows < theta.shape[0])
        metric = _Metric.of(lin, kernel=kernel, qr=self.solver == "qr")
        path = Damped(lin, metric, Work(rows=lin.rows), acceleration=self.acceleration)
        if self.ridge is None:
            return path, None
        return Line(path(jnp.asarray(self.ridge, theta.dtype)), lin.grad, path.work + path.trial), None


class _Metric(eqx.Module):
    """What is factorised, on the first device of the mesh: JᵀJ, JJᵀ or J itself; and μ, the mean diagonal of JᵀJ."""

    arrays: tuple[Array, ...]
    mean: Scalar
    kernel: bool = eqx.field(static=True)
    qr: bool = eqx.field(static=True)

    @staticmethod
    def of(lin: Linearisation, *, kernel: bool, qr: bool) -> "_Metric":
        size = lin.theta.shape[0]
        if qr:
            jacobian = lin.jacobian()
            room = jnp.zeros((size, size), jacobian.dtype)  # for R
            return _Metric((jacobian, room), jnp.sum(jacobian**2) / size, kernel=False, qr=True)
        matrix = lin.kernel() if kernel else lin.gram()
        return _Metric((matrix,), jnp.trace(matrix) / size, kernel=kernel, qr=False)

    def factor(self, mesh: Mesh | None, shift: Scalar) -> tuple[tuple[Array, ...], Scalar]:
        """The factor of matrix + shift·I, and the shift that it took."""

        def factorise(arrays, shift):
            if self.qr:
                return damped_qr(arrays[0], shift), shift
            factor, shift, _ = shifted_cholesky(arrays[0], shift)
            return (factor,), shift

        return on_first(mesh, factorise, self.arrays, shift)

    def solve(self, mesh: Mesh | None, factor: tuple[Array, ...], vector: Vector | Rows) -> Vector | Rows:
        """(matrix + shift·I)⁻¹ v; for QR, where v has a number a row of J, R⁻¹Qᵀv."""

        def by_factor(_, factor, vector):
            if not self.qr:
                return (), solve_cholesky(factor[0], vector)
            q, r = factor
            return (), solve_qr(q, r, vector) if vector.shape[0] == q.shape[0] else solve_cholesky(r.T, vector)

        return on_first(mesh, by_factor, (), factor, vector)[1]


class Damped:
    """The path of `GaussNewton`. Lives within one traced step."""

    def __init__(self, lin: Linearisation, metric: _Metric, work: Work, *, acceleration: bool):
        self.lin, self.metric, self.work = lin, metric, work
        self.acceleration = acceleration and lin.objective.has_residuals
        self.trial = Work(inner=1)

    def __call__(self, t: Scalar) -> Vector:
        lin = self.lin
        solve = self._solver(t * self.metric.mean)
        velocity = -solve(lin.grad, lin.residual if lin.objective.has_residuals else None)
        if not self.acceleration:
            return velocity
        bend = lin.second(velocity)
        acceleration = -solve(lin.vjp(bend), bend)
        size = jnp.linalg.norm(velocity)
        return velocity + jnp.where(2 * jnp.linalg.norm(acceleration) <= 0.75 * size, 0.5, 0) * acceleration

    def _solver(self, shift: Scalar):
        """(Jᵀr, r) ↦ (JᵀJ + shift)⁻¹Jᵀr; r is None when there is no residual."""
        lin, metric, mesh = self.lin, self.metric, self.lin.objective.mesh
        factor, shift = metric.factor(mesh, shift)

        def solve(grad, rows):
            if not metric.kernel:
                return metric.solve(mesh, factor, rows if metric.qr and rows is not None else grad)
            if rows is not None:
                return lin.vjp(metric.solve(mesh, factor, rows))
            # Woodbury: needs only Jᵀr.
            return (grad - lin.vjp(metric.solve(mesh, factor, lin.jvp(grad)))) / shift

        return solve

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("A damped path is not straight and has no slope at t = 0; use `Damping` as its search.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """−⟨∇L, s⟩ − ½‖Js‖²."""
        return -jnp.dot(self.lin.grad, step) - jnp.sum(self.lin.jvp(step) ** 2) / 2
