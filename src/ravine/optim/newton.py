"""Newton directions: with the matrix modified so that they point down, or with the system solved inexactly.

All take their matrix from a `Curvature`: the Hessian, a part of the points' Hessian, or the Gauss–Newton matrix.
"""

from typing import Literal

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, PyTree, RandomKey, Scalar, Vector
from ravine.blocks import on_first
from ravine.linalg import Nystrom, conjugate_gradients, nystrom, shifted_cholesky, solve_cholesky
from ravine.objective import Linearisation, Objective
from ravine.optim.curvature import Curvature, GaussNewtonMatrix, Hessian, Quadratic
from ravine.optim.forcing import Forcing
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous
from ravine.optim.trust_region import Bounded, Proposal

Modify = Literal["shift", "clip", "absolute", "none"]


class Newton(Direction):
    """d = −B⁻¹∇L with a dense B, made positive definite by `modify`:

    - "shift": B + τI by Cholesky, with τ = 0 where that succeeds (Nocedal and Wright, 2006, section 3.4);
    - "clip": eigenvalues below `floor` · max|λ| are raised to it;
    - "absolute": eigenvalues are replaced by their absolute values, likewise raised, so that saddle points repel
      (Yann Dauphin et al., *Identifying and attacking the saddle point problem in high-dimensional non-convex
      optimization*, NeurIPS 2014, there in a Krylov subspace);
    - "none": B as it is. Every stationary point then attracts.

    **Cost:** the matrix; n³/3 flops for each τ ("shift"), 9n³ ("clip", "absolute"), 2n³/3 ("none"); 2n² numbers.
    """

    modify: Modify = eqx.field(static=True, default="shift")
    curvature: Curvature = Hessian()
    floor: float = 1e-8

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        return self.curvature.init(objective, theta)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, PyTree]:
        quadratic, state = self.curvature(lin, state, previous, key=key)
        solve = lambda matrix, grad, floor: (matrix, self._solve(matrix, grad, floor))
        floor = jnp.asarray(self.floor, theta.dtype)
        _, (direction, count) = on_first(lin.objective.mesh, solve, quadratic.matrix(), lin.grad, floor)
        return Line(-direction, lin.grad, quadratic.matrix_cost + Work(inner=count)), state

    def _solve(self, matrix, grad: Vector, floor: Scalar) -> tuple[Vector, Array]:
        """B⁻¹∇L and the number of factorisations."""
        if self.modify == "none":
            return jnp.linalg.solve(matrix, grad), jnp.int32(1)
        if self.modify == "shift":
            factor, _, count = shifted_cholesky(matrix, jnp.zeros_like(floor), attempts=40)
            return solve_cholesky(factor, grad), count
        values, vectors = jnp.linalg.eigh(matrix)
        size = jnp.abs(values)
        least = floor * jnp.max(size) + jnp.finfo(size.dtype).tiny
        values = jnp.maximum(size if self.modify == "absolute" else values, least)
        return vectors @ ((grad @ vectors) / values), jnp.int32(1)


class _Memory(eqx.Module):
    curvature: PyTree
    forcing: Forcing


class NewtonCG(Direction):
    """d ≈ −B⁻¹∇L by conjugate gradients, which end at a direction of curvature that is not positive.

    Then d is what was reached before it, or −∇L where it was the first: downhill either way.

    **Arguments:** `curvature`; `tolerance`, the relative residual at which the iteration stops, None for Eisenstat and
    Walker's, at most a tenth, with which convergence is superlinear; `iterations`, at most.

    **Cost:** a product an iteration; no matrix, five vectors.

    Ron Dembo and Trond Steihaug, *Truncated-Newton algorithms for large-scale unconstrained optimization*, Math.
    Program. 1983; Nocedal and Wright, 2006, algorithm 7.1. On a part of the points: Byrd, Chin, Neveitt and Nocedal,
    2011.
    """

    curvature: Curvature = Hessian()
    tolerance: float | None = None
    iterations: int = eqx.field(static=True, default=250)

    def init(self, objective: Objective, theta: Vector) -> _Memory:
        return _Memory(self.curvature.init(objective, theta), Forcing.first(theta.dtype))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Memory, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Memory]:
        quadratic, curvature = self.curvature(lin, state.curvature, previous, key=key)
        forcing = state.forcing.next(lin.grad, given=self.tolerance)
        found = conjugate_gradients(
            quadratic.product, -lin.grad, tolerance=forcing.tolerance, iterations=self.iterations
        )
        work = quadratic.product_cost.times(found.iterations) + Work(inner=found.iterations)
        return Line(found.x, lin.grad, work), _Memory(curvature, forcing)


class _Sketched(eqx.Module):
    sketch: Nystrom
    age: Array


class NystromNewton(Direction):
    """d ≈ −(∇²L + μI)⁻¹∇L by conjugate gradients, preconditioned by a randomised Nyström approximation of ∇²L.

    **Arguments:** `damping`, μ, absolute; `rank` of the approximation (at most n), drawn anew every `refresh` steps and
    after a failed one; `tolerance` and `iterations` of the inner iteration; `group`, how many products are taken at
    once for the sketch (see `ravine.linalg.products`). Where ∇²L has negative eigenvalues the sketch is that of
    ∇²L + shift·I, less the shift.

    **Cost:** about six evaluations and 4·rank·n flops an iteration; `rank` products and 8·rank²·n flops a refresh;
    rank·n numbers are kept.

    Pratik Rathore, Weimu Lei, Zachary Frangella, Lu Lu and Madeleine Udell, *Challenges in training PINNs: a loss
    landscape perspective*, ICML 2024, algorithms 4 to 6. Deviation: negative curvature ends the inner iteration.
    """

    damping: float = 1e-2
    rank: int = eqx.field(static=True, default=60)
    refresh: int = eqx.field(static=True, default=20)
    tolerance: float = 1e-6
    iterations: int = eqx.field(static=True, default=200)
    group: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        for name in ("rank", "refresh", "iterations", "group"):
            if getattr(self, name) < 1:
                raise ValueError(f"NystromNewton: {name} is {getattr(self, name)}, but must be at least 1.")

    def init(self, objective: Objective, theta: Vector) -> _Sketched:
        size, dtype = theta.shape[0], theta.dtype
        rank = min(self.rank, size)
        return _Sketched(
            Nystrom(jnp.zeros((rank, size), dtype), jnp.zeros(rank, dtype), jnp.zeros((), dtype)), jnp.int32(0)
        )

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Sketched, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Sketched]:
        size, dtype, rank = theta.shape[0], theta.dtype, state.sketch.values.shape[0]
        product = lambda v: lin.anew().hessian_product(v)
        due = (state.age % self.refresh == 0) | previous.failed
        draw = lambda: nystrom(product, size, rank=rank, key=key, dtype=dtype, group=self.group)
        sketch = lax.cond(due, draw, lambda: state.sketch)
        damping = jnp.asarray(self.damping, dtype)
        found = conjugate_gradients(
            lambda v: product(v) + damping * v,
            -lin.grad,
            preconditioner=lambda v: sketch.precondition(v, damping),
            tolerance=jnp.asarray(self.tolerance, dtype),
            iterations=self.iterations,
        )
        work = Work(inner=found.iterations, products=2 * found.iterations + jnp.where(due, 2 * rank, 0))
        return Line(found.x, lin.grad, work), _Sketched(sketch, jnp.where(due, 1, state.age + 1))


class HessianFree(Direction):
    """The path t ↦ d ≈ −(G + I/t)⁻¹∇L, G the Gauss–Newton matrix, by conjugate gradients started from the last d.

    With `Radius(shrink=2/3, growth=3/2)` the damping λ = 1/t is Martens's: λ is multiplied by 3/2 after a gain ratio
    below 1/4, by 2/3 above 3/4. The iteration starts from `decay` times the last solution, and stops when the model
    gained less than 5·10⁻⁴ of itself an iteration over the last max(10, i/10).

    **Raises:** `ValueError` when the objective is a bare scalar loss.

    **Cost:** about five evaluations an iteration; no matrix, six vectors.

    James Martens, *Deep learning via Hessian-free optimization*, ICML 2010, sections 4.1 to 4.5. Deviations: no
    preconditioner, and of one solve only the last iterate is tried; a rejected trial is solved anew with more damping.
    """

    decay: float = 0.95
    iterations: int = eqx.field(static=True, default=250)
    curvature: Curvature = GaussNewtonMatrix()

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        return self.curvature.init(objective, theta)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[Bounded, PyTree]:
        quadratic, state = self.curvature(lin, state, previous, key=key)
        # The last solution is the last step: it was taken whole, or not at all.
        start = self.decay * jnp.where(previous.failed, 0, previous.s)

        def propose(t: Scalar) -> Proposal:
            found, count = _relative_progress(quadratic, lin.grad, 1 / t, start, self.iterations)
            step, bent = found
            # The model that predicts is the undamped one.
            reduction = -jnp.dot(lin.grad, step) - jnp.dot(step, bent) / 2
            return Proposal(step, reduction, jnp.array(True), quadratic.product_cost.times(count) + Work(inner=count))

        return Bounded(quadratic, lin.grad, propose, Work(), unit=1.0, radius=False), state


def _relative_progress(
    quadratic: Quadratic, grad: Vector, shift: Scalar, start: Vector, most: int
) -> tuple[tuple[Vector, Vector], Array]:
    """Conjugate gradients on (B + shift·I)x = −∇L from `start`, ended by the progress of the model; x, Bx, products."""
    EPSILON, LEAST, SHARE = 5e-4, 10, 10  # Martens, 2010, section 4.4

    def again(carry):
        count, _, _, r, _, _, models, dead = carry
        back = jnp.maximum(LEAST, count // SHARE)
        now, then = models[count], models[jnp.maximum(count - back, 0)]
        stalled = (count > back) & (now < 0) & ((now - then) / now < back.astype(now.dtype) * EPSILON)
        return (count < most) & ~dead & ~stalled & (jnp.linalg.norm(r) > 1e-10 * jnp.linalg.norm(grad))

    def body(carry):
        count, x, bx, r, p, rr, models, _ = carry
        bp = quadratic.product(p)
        curvature = jnp.dot(p, bp) + shift * jnp.dot(p, p)
        dead = ~(curvature > 0) | ~jnp.isfinite(curvature)
        alpha = jnp.where(dead, 0, rr / jnp.where(dead, 1, curvature))
        bp = jnp.where(dead, 0, bp)
        x, bx, r = x + alpha * p, bx + alpha * bp, r - alpha * (bp + shift * p)
        new = jnp.dot(r, r)
        # φ(x) = ½xᵀAx + ∇Lᵀx with Ax = −∇L − r.
        model = (jnp.dot(grad, x) - jnp.dot(r, x)) / 2
        return count + 1, x, bx, r, r + new / rr * p, new, models.at[count + 1].set(model), dead

    first = quadratic.product(start)
    r = -grad - first - shift * start
    models = jnp.zeros(most + 1, grad.dtype).at[0].set((jnp.dot(grad, start) - jnp.dot(r, start)) / 2)
    carry = (jnp.int32(0), start, first, r, r, jnp.dot(r, r), models, jnp.array(False))
    count, x, bx, *_ = lax.while_loop(again, body, carry)
    return (x, bx), count + 1
