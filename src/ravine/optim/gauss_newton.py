"""Gauss–Newton, Levenberg–Marquardt, natural gradient, energy natural gradient: one linearisation, one solve.

In parameter space (JᵀJ + λI)d = −∇L; in kernel space d = −Jᵀ(JJᵀ + λI)⁻¹r. Both are the same step; the smaller matrix
is the cheaper one.
"""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh

from ravine._results import Work
from ravine._types import Array, Count, RandomKey, Rows, Scalar, Vector
from ravine.blocks import on_first
from ravine.linalg import Solution, conjugate_gradients, damped_qr, shifted_cholesky, solve_cholesky, solve_qr
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous

Space = Literal["auto", "parameter", "kernel"]
Solver = Literal["cholesky", "qr", "mixed"]

# Mixed precision: the error, in the norm of the matrix, that refinement must reach, in how many iterations, and for how
# many steps a solve that did not reach it keeps float32 away.
REFINED, REFINEMENTS, HELD_OFF = 1e-10, 30, 20


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
    - `solver`: "cholesky" of the matrix; "qr" of J itself, which keeps the digits that squaring loses; or "mixed":
      J and the matrix in float32, whose Cholesky factor preconditions conjugate gradients on the exact float64 operator
      v ↦ Jᵀ(Jv) + λμv. Where these do not bring the error to 1e-10 in 30 iterations (λ below the rounding of float32),
      the matrix is formed in float64 after all, and so it is for the next 20 steps. It pays where m ≫ n and float32
      products are much faster.
    - `ridge`: when given, the path is the straight line along the step with λ = ridge, for a line search.

    **Raises:** `ValueError` when the objective has no curvature to use (a bare scalar loss).

    **Cost:** m Jacobian rows (three evaluations) and mn·min(m, n) multiplications; each trial one Cholesky factor, and
    with acceleration about seven evaluations more. Memory 8n² (parameter space, J is never stored) or 8mn + 8m² bytes.
    """

    space: Space = eqx.field(static=True, default="auto")
    acceleration: bool = eqx.field(static=True, default=True)
    solver: Solver = eqx.field(static=True, default="cholesky")
    ridge: float | None = None

    def init(self, objective: Objective, theta: Vector) -> Count | None:
        objective.require_curvature("Gauss–Newton and its kin need")
        if self.solver != "mixed":
            return None
        if theta.dtype != jnp.float64:
            raise ValueError(
                f"solver='mixed' refines a float32 factor to float64, but the parameters are {theta.dtype}. Either (a) "
                "jax.config.update('jax_enable_x64', True) before the model is made, or (b) solver='cholesky'."
            )
        return jnp.int32(0)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: Count | None, previous: Previous, *, key: RandomKey
    ) -> tuple["Damped | Line", Count | None]:
        kernel = self.space == "kernel" or (self.space == "auto" and lin.rows < theta.shape[0])
        exact = None
        if state is None:
            metric = _Metric.of(lin, kernel=kernel, qr=self.solver == "qr")
        else:
            # A step that formed the matrix a second time had no use for the one in float32.
            again = (previous.count > 0) & (previous.rows > lin.rows)
            state = jnp.where(again, HELD_OFF, jnp.maximum(state - 1, 0))
            exact = state > 0
            metric = _Metric.mixed(lin, exact, kernel=kernel)
        path = Damped(lin, metric, Work(rows=lin.rows), acceleration=self.acceleration, exact=exact)
        if self.ridge is None:
            return path, state
        step, work = path.attempt(jnp.asarray(self.ridge, theta.dtype))
        return Line(step, lin.grad, path.work + path.trial + work), state


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

    @staticmethod
    def mixed(lin: Linearisation, exact: Array, *, kernel: bool) -> "_Metric":
        """The matrix formed in float64 where `exact`, else in float32."""
        low = jnp.float32
        narrow = lambda leaf: leaf.astype(low) if eqx.is_inexact_array(leaf) else leaf
        rough = lin.objective.narrowed(low).linearise(lin.theta.astype(low), jax.tree.map(narrow, lin.batch))

        def form(lin: Linearisation) -> Array:
            return (lin.kernel() if kernel else lin.gram()).astype(jnp.float64)

        matrix = lax.cond(exact, lambda: form(lin.anew()), lambda: form(rough))
        return _Metric((matrix,), jnp.trace(matrix) / lin.theta.shape[0], kernel=kernel, qr=False)

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

    def __init__(
        self, lin: Linearisation, metric: _Metric, work: Work, *, acceleration: bool, exact: Array | None = None
    ):
        self.lin, self.metric, self.work, self.exact = lin, metric, work, exact
        self.acceleration = acceleration and lin.objective.has_residuals
        self.trial = Work(inner=1)

    def __call__(self, t: Scalar) -> Vector:
        return self.attempt(t)[0]

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """The displacement at damping t, and what refinement cost."""
        lin = self.lin
        system = self._system(t * self.metric.mean)
        solution, system, work = system.solve(lin.grad, lin.residual if lin.objective.has_residuals else None)
        velocity = -solution
        if not self.acceleration:
            return velocity, work
        bend = lin.second(velocity)
        solution, _, more = system.solve(lin.vjp(bend), bend)
        size = jnp.linalg.norm(velocity)
        usable = 2 * jnp.linalg.norm(solution) <= 0.75 * size
        return velocity - jnp.where(usable, 0.5, 0) * solution, work + more

    def solve(self, t: Scalar, right: Vector, rows: Rows | None) -> Vector:
        """(JᵀJ + tμI)⁻¹b for b = `right`, which is Jᵀ`rows` where every loss is ½‖F‖²."""
        return self._system(t * self.metric.mean).solve(right, rows)[0]

    def _system(self, shift: Scalar) -> "_System":
        mesh = self.lin.objective.mesh
        if self.exact is None:
            factor, shift = self.metric.factor(mesh, shift)
            return _System(self.lin, self.metric, factor, shift, None)
        # What float32 cannot tell from zero would make its factor a bad preconditioner, not a better one.
        least = self.metric.mean * jnp.where(self.exact, 0.0, float(jnp.finfo(jnp.float32).eps))
        return _System(self.lin, self.metric, self.metric.factor(mesh, shift + least)[0], shift, self.exact)

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("A damped path is not straight and has no slope at t = 0; use `Damping` as its search.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """−⟨∇L, s⟩ − ½‖Js‖²."""
        return -jnp.dot(self.lin.grad, step) - jnp.sum(self.lin.jvp(step) ** 2) / 2


@dataclasses.dataclass(frozen=True)
class _System:
    """(JᵀJ + shift·I) x = Jᵀr, or its counterpart in kernel space, with a factor. Lives within one traced step."""

    lin: Linearisation
    metric: _Metric
    factor: tuple[Array, ...]
    shift: Scalar
    exact: Array | None  # whether the factor is that of the matrix in float64; None where nobody asks

    def solve(self, grad: Vector, rows: Rows | None) -> tuple[Vector, "_System", Work]:
        """x for Jᵀr and r (None when there is no residual), the system for the next right-hand side, and the cost."""
        lin = self.lin
        if not self.metric.kernel:
            return self._refined(rows if self.metric.qr and rows is not None else grad)
        if rows is not None:
            found, system, work = self._refined(rows)
            return lin.vjp(found), system, work
        # Woodbury: needs only Jᵀr.
        found, system, work = self._refined(lin.jvp(grad))
        return (grad - lin.vjp(found)) / self.shift, system, work

    def _refined(self, right: Vector | Rows) -> tuple[Vector | Rows, "_System", Work]:
        if self.exact is None:
            return self._direct(right), self, Work()
        found = self._iterate(right)
        again = ~self.exact & ~(found.residual <= REFINED)

        def from_scratch():
            matrix = self.lin.anew().kernel() if self.metric.kernel else self.lin.anew().gram()
            metric = _Metric((matrix,), self.metric.mean, kernel=self.metric.kernel, qr=False)
            factor = metric.factor(self.lin.objective.mesh, self.shift)[0]
            better = dataclasses.replace(self, factor=factor)._iterate(right)
            return factor, better.x, better.iterations, jnp.int32(self.lin.rows)

        factor, x, more, rows = lax.cond(
            again, from_scratch, lambda: (self.factor, found.x, jnp.int32(0), jnp.int32(0))
        )
        count = found.iterations + more
        system = dataclasses.replace(self, factor=factor, exact=self.exact | again)
        return x, system, Work(rows=rows, inner=count, products=2 * count)

    def _iterate(self, right: Vector | Rows) -> Solution:
        lin = self.lin
        there, back = (lin.vjp, lin.jvp) if self.metric.kernel else (lin.jvp, lin.vjp)
        return conjugate_gradients(
            lambda v: back(there(v)) + self.shift * v,
            right,
            preconditioner=self._direct,
            tolerance=REFINED,
            iterations=REFINEMENTS,
            energy=True,
        )

    def _direct(self, right: Vector | Rows) -> Vector | Rows:
        return self.metric.solve(self.lin.objective.mesh, self.factor, right)
