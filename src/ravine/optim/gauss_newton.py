"""Gauss–Newton, Levenberg–Marquardt, natural gradient, energy natural gradient: one linearisation, one solve.

In parameter space (JᵀJ + λI)d = −∇L; in kernel space d = −Jᵀ(JJᵀ + λI)⁻¹r. Both are the same step; the smaller matrix
is the cheaper one.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Float, Matrix, RandomKey, Scalar, Vector
from ravine.linalg import damped_qr, shifted_cholesky, solve_cholesky
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
        work = Work(rows=lin.rows)
        matrix, jacobian = None, None
        if self.solver == "qr":
            jacobian = lin.jacobian()
            diagonal = jnp.sum(jacobian**2)
        elif kernel:
            matrix, jacobian = lin.kernel(), lin.jacobian()
            diagonal = jnp.trace(matrix)
        else:
            matrix = lin.gram()
            diagonal = jnp.trace(matrix)
        scale = diagonal / theta.shape[0]
        path = Damped(lin, matrix, jacobian, scale, work, kernel=kernel, acceleration=self.acceleration)
        if self.ridge is None:
            return path, None
        return Line(path(jnp.asarray(self.ridge, theta.dtype)), lin.grad, work + path.trial), None


class Damped:
    """The path of `GaussNewton`. Lives within one traced step."""

    def __init__(
        self, lin, matrix: Float[Array, "k k"] | None, jacobian: Matrix | None, scale, work, *, kernel, acceleration
    ):
        self.lin, self.matrix, self.jacobian, self.scale, self.work = lin, matrix, jacobian, scale, work
        self.kernel = kernel
        self.acceleration = acceleration and lin.objective.has_residuals
        self.trial = Work(inner=1)

    def __call__(self, t: Scalar) -> Vector:
        shift = t * self.scale
        solve = self._solver(shift)
        velocity = -solve(self.lin.grad, self.lin.residual if self.lin.objective.has_residuals else None)
        if not self.acceleration:
            return velocity
        bend = self.lin.second(velocity)
        acceleration = -solve(self.lin.vjp(bend) if self.jacobian is None else self.jacobian.T @ bend, bend)
        size = jnp.linalg.norm(velocity)
        return velocity + jnp.where(2 * jnp.linalg.norm(acceleration) <= 0.75 * size, 0.5, 0) * acceleration

    def _solver(self, shift: Scalar):
        """(Jᵀr, r) ↦ (JᵀJ + shift)⁻¹Jᵀr; r is None when there is no residual."""
        if self.matrix is None:
            jacobian = self._stored

            # QR: one factor, and R once more for right-hand sides that are no residual.
            def by_qr(grad, rows):
                if rows is not None:
                    return damped_qr(jacobian, rows, shift)[0]
                _, r = damped_qr(jacobian, jnp.zeros(jacobian.shape[0], grad.dtype), shift)
                return solve_cholesky(r.T, grad)

            return by_qr
        factor, shift, _ = shifted_cholesky(self.matrix, shift)
        if not self.kernel:
            return lambda grad, rows: solve_cholesky(factor, grad)

        jacobian = self._stored

        def by_kernel(grad, rows):
            if rows is not None:
                return jacobian.T @ solve_cholesky(factor, rows)
            # Woodbury: needs only Jᵀr.
            return (grad - jacobian.T @ solve_cholesky(factor, jacobian @ grad)) / shift

        return by_kernel

    @property
    def _stored(self) -> Matrix:
        assert self.jacobian is not None, "kernel space and QR keep J"
        return self.jacobian

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("A damped path is not straight and has no slope at t = 0; use `Damping` as its search.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """−⟨∇L, s⟩ − ½‖Js‖²."""
        if self.kernel or self.matrix is None:
            curved = jnp.sum((self._stored @ step) ** 2)
        else:
            curved = jnp.dot(step, jnp.matmul(self.matrix, step, precision=lax.Precision.HIGHEST))
        return -jnp.dot(self.lin.grad, step) - curved / 2
