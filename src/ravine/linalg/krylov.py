"""Krylov methods on operators: functions of a vector, inside `jit`."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax

from ravine._types import Array, Count, Scalar, Vector

Operator = Callable[[Vector], Vector]


class Solution(NamedTuple):
    """What an iteration returns: `x`, how many `iterations` it took, its relative `residual` ‖b − Ax‖/‖b‖ by
    recurrence, and whether A showed itself `definite` in every direction that was met."""

    x: Vector
    iterations: Count
    residual: Scalar
    definite: Array


def conjugate_gradients(
    operator: Operator,
    right: Vector,
    *,
    preconditioner: Operator | None = None,
    tolerance: Scalar | float = 1e-6,
    iterations: Count | int = 100,
    energy: bool = False,
) -> Solution:
    """Solves A x = b for symmetric positive definite A by preconditioned conjugate gradients, from x = 0.

    **Arguments:**

    - `operator`: v ↦ A v; `preconditioner`: v ↦ P⁻¹v, symmetric positive definite.
    - `tolerance`: stops at ‖b − Ax‖ ≤ tolerance · ‖b‖ (the residual of the recurrence); may be traced.
    - `energy`: measures residuals by √(rᵀP⁻¹r) instead of ‖r‖, which for P near A is the error of x in the norm of A,
      however ill-conditioned that is.
    - `iterations`: products with A at most.

    A direction p with pᵀAp ≤ 0, or that is not finite, ends the iteration with the x reached so far; when it is the
    first one, with P⁻¹b, which points downhill (Nocedal and Wright, 2006, algorithm 7.1). Then `definite` is False.

    **Cost:** a product with A and one with P⁻¹ an iteration, ten n flops and five vectors beside.

    Magnus Hestenes and Eduard Stiefel, *Methods of conjugate gradients for solving linear systems*, 1952.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import conjugate_gradients
    >>> matrix = jnp.diag(jnp.array([1.0, 2.0, 4.0]))
    >>> found = conjugate_gradients(lambda v: matrix @ v, jnp.array([1.0, 2.0, 8.0]), tolerance=1e-5)
    >>> found.x.round(4).tolist(), int(found.iterations)
    ([1.0, 1.0, 2.0], 3)

    ```
    """
    apply = (lambda v: v) if preconditioner is None else preconditioner
    first = apply(right)
    norm = lambda r, rz: jnp.sqrt(jnp.maximum(rz, 0)) if energy else jnp.linalg.norm(r)
    size = norm(right, jnp.dot(right, first))
    goal = jnp.asarray(tolerance, right.dtype) * size

    def again(carry):
        count, _, r, _, rz, definite = carry
        return (count < iterations) & definite & (norm(r, rz) > goal)

    def body(carry):
        count, x, r, p, rz, _ = carry
        ap = operator(p)
        curvature = jnp.dot(p, ap)
        definite = (curvature > 0) & jnp.isfinite(curvature) & jnp.isfinite(rz)
        alpha = rz / jnp.where(definite, curvature, 1)
        # From x = 0 the first direction is P⁻¹b.
        x = jnp.where(definite, x + alpha * p, jnp.where(count == 0, p, x))
        r = jnp.where(definite, r - alpha * ap, r)
        z = apply(r)
        new = jnp.dot(r, z)
        return count + 1, x, r, z + new / jnp.where(definite, rz, 1) * p, new, definite

    start = (jnp.int32(0), jnp.zeros_like(right), right, first, jnp.dot(right, first), jnp.array(True))
    count, x, r, _, rz, definite = lax.while_loop(again, body, start)
    return Solution(x, count, norm(r, rz) / jnp.where(size > 0, size, 1), definite)
