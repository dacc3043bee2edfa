"""Gauss–Newton and Levenberg–Marquardt without a matrix: conjugate gradients on v ↦ JᵀJv, for many rows and parameters.

The step is that of `GaussNewton` up to the tolerance of the inner iteration; memory grows with n, not with n² or m·n.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, RandomKey, Scalar, Vector
from ravine.linalg import Nystrom, conjugate_gradients, nystrom
from ravine.objective import Linearisation, Objective
from ravine.optim.forcing import Forcing
from ravine.optim.optimizer import Direction
from ravine.optim.path import Previous


class _Memory(eqx.Module):
    """The preconditioner and its age in steps, and how exactly the last step was solved."""

    sketch: Nystrom
    age: Array
    forcing: Forcing


class MatrixFree(Direction):
    """The path λ ↦ −(JᵀJ + λμI)⁻¹∇L by preconditioned conjugate gradients, nothing m×n, n×n or m×m stored.

    μ is an estimate of the mean diagonal of JᵀJ, so that λ means what it means in `GaussNewton`. The preconditioner is
    a randomised Nyström approximation of JᵀJ, drawn anew (and μ with it) every `refresh` steps, and after a step that
    failed.

    **Arguments:**

    - `rank`: of the preconditioner (at most n is used). Each unit costs n numbers, and one product a refresh.
    - `refresh`: steps that a preconditioner serves.
    - `tolerance`: the relative residual at which the inner iteration stops; None: Eisenstat and Walker's second choice,
      η = 0.9 (‖∇L‖/‖∇L before‖)², between 10⁻⁶ and 10⁻¹, and not suddenly much smaller than the last one
      (*Choosing the forcing terms in an inexact Newton method*, SIAM J. Sci. Comput. 1996, equation 2.6).
    - `iterations`: of the inner iteration, at most.
    - `group`: products taken at once when the preconditioner is made (see `ravine.linalg.products`); best a divisor of
      `rank`.

    **Raises:** `ValueError` when the objective has no curvature to use (a bare scalar loss), and for a rank, refresh or
    number of iterations below one.

    **Cost:** five evaluations and 4·rank·n flops an inner iteration; `rank` products, 8·rank²·n flops and 4·rank·n
    numbers a refresh; rank·n numbers are kept.

    Frangella, Tropp and Udell, *Randomized Nyström preconditioning*, 2023; Pratik Rathore, Weimu Lei, Zachary
    Frangella, Lu Lu and Madeleine Udell, *Challenges in training PINNs: a loss landscape perspective*, ICML 2024,
    which applies it to Newton's method.
    """

    rank: int = eqx.field(static=True, default=48)
    refresh: int = eqx.field(static=True, default=10)
    tolerance: float | None = None
    iterations: int = eqx.field(static=True, default=200)
    group: int = eqx.field(static=True, default=8)

    def __check_init__(self):
        for name in ("rank", "refresh", "iterations", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"MatrixFree: {name} is {getattr(self, name)}, but must be at least 1.")

    def init(self, objective: Objective, theta: Vector) -> _Memory:
        objective.require_curvature("Matrix-free Gauss–Newton needs", "ravine.lbfgs()")
        n, dtype = theta.shape[0], theta.dtype
        rank = min(self.rank, n)
        sketch = Nystrom(jnp.zeros((rank, n), dtype), jnp.zeros(rank, dtype), jnp.zeros((), dtype))
        return _Memory(sketch, jnp.int32(0), Forcing.first(dtype))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Memory, previous: Previous, *, key: RandomKey
    ) -> tuple["Inexact", _Memory]:
        n, dtype = theta.shape[0], theta.dtype
        rank = state.sketch.values.shape[0]
        due = (state.age % self.refresh == 0) | previous.failed

        def draw():
            product = lambda v: lin.anew().curvature_product(v)
            return nystrom(product, n, rank=rank, key=key, dtype=dtype, group=self.group)

        sketch = lax.cond(due, draw, lambda: state.sketch)
        forcing = state.forcing.next(lin.grad, given=self.tolerance)
        work = Work(products=jnp.where(due, 2 * rank, 0))
        path = Inexact(lin, sketch, forcing.tolerance, self.iterations, work)
        return path, _Memory(sketch, jnp.where(due, 1, state.age + 1), forcing)


class Inexact:
    """The path of `MatrixFree`. Lives within one traced step."""

    def __init__(self, lin: Linearisation, sketch: Nystrom, tolerance: Scalar, iterations: int, work: Work):
        self.lin, self.sketch, self.tolerance, self.iterations = lin, sketch, tolerance, iterations
        self.scale = sketch.trace / lin.theta.shape[0]
        self.work, self.trial = work, Work(products=1)  # the product in `reduction`; `attempt` counts the rest

    def __call__(self, t: Scalar) -> Vector:
        return self.attempt(t)[0]

    def attempt(self, t: Scalar) -> tuple[Vector, Work]:
        """The displacement at damping t, and what it cost."""
        shift = t * self.scale
        found = conjugate_gradients(
            lambda v: self.lin.anew().curvature_product(v) + shift * v,
            -self.lin.grad,
            preconditioner=lambda v: self.sketch.precondition(v, shift),
            tolerance=self.tolerance,
            iterations=self.iterations,
        )
        return found.x, self.trial + Work(inner=found.iterations, products=2 * found.iterations)

    def slope(self, grad: Vector) -> Scalar:
        raise TypeError("A damped path is not straight and has no slope at t = 0; use `Damping` as its search.")

    def reduction(self, t: Scalar, step: Vector) -> Scalar:
        """−⟨∇L, s⟩ − ½‖Js‖². One product."""
        return -jnp.dot(self.lin.grad, step) - jnp.sum(self.lin.anew().jvp(step) ** 2) / 2
