"""Dense symmetric positive (semi)definite systems, inside `jit`."""

import jax.numpy as jnp
from jax import lax

from ravine._types import Array, Count, Float, Matrix, Rows, Scalar, Square, Vector


def shifted_cholesky(matrix: Square, shift: Scalar, *, attempts: int = 8) -> tuple[Square, Scalar, Count]:
    """The lower Cholesky factor of matrix + shift·I, with a larger shift where that is not positive definite.

    **Returns:** the factor, the shift used, and how many factorisations it took. The shift starts at `shift` and is
    raised tenfold (at least to machine epsilon times the mean diagonal) until the factor is finite; after `attempts`
    failures the factor is left as it is, and holds NaN.

    **Cost:** n³/3 flops an attempt, one attempt when nothing goes wrong.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import shifted_cholesky
    >>> factor, shift, count = shifted_cholesky(jnp.array([[3.0, 0.0], [0.0, 8.0]]), jnp.array(1.0))
    >>> factor.tolist(), int(count)
    ([[2.0, 0.0], [0.0, 3.0]], 1)

    ```
    """
    size = matrix.shape[0]
    diagonal = jnp.arange(size)
    least = jnp.finfo(matrix.dtype).eps * jnp.mean(jnp.abs(jnp.diagonal(matrix)))

    def factorise(shift):
        return lax.linalg.cholesky(matrix.at[diagonal, diagonal].add(shift), symmetrize_input=False)

    def again(carry):
        factor, _, count = carry
        return (count < attempts) & ~jnp.isfinite(factor[-1, -1])

    def body(carry):
        _, shift, count = carry
        shift = jnp.where(count == 0, shift, jnp.maximum(10 * shift, least))
        return factorise(shift), shift, count + 1

    # LAPACK marks failure with NaN in the whole factor, so its last entry tells.
    start = (jnp.full_like(matrix, jnp.nan), shift, jnp.int32(0))
    return lax.while_loop(again, body, start)


def solve_cholesky(factor: Square, right: Float[Array, "n *k"]) -> Float[Array, "n *k"]:
    """x with L Lᵀ x = right, for a lower factor L. **Cost:** 2n² flops a column.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import solve_cholesky
    >>> solve_cholesky(jnp.array([[2.0, 0.0], [0.0, 4.0]]), jnp.array([4.0, 16.0])).tolist()
    [1.0, 1.0]

    ```
    """
    columns = right if right.ndim == 2 else right[:, None]
    half = lax.linalg.triangular_solve(factor, columns, left_side=True, lower=True)
    whole = lax.linalg.triangular_solve(factor, half, left_side=True, lower=True, transpose_a=True)
    return whole if right.ndim == 2 else whole[:, 0]


def damped_qr(jacobian: Matrix, right: Rows, shift: Scalar) -> tuple[Vector, Square]:
    """The minimiser of ‖J x − right‖² + shift‖x‖² by QR of [J; √shift·I], and R with RᵀR = JᵀJ + shift·I.

    Works with the condition number of J, where JᵀJ has its square. **Cost:** 2(m+n)n² flops, (m+n)n memory.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import damped_qr
    >>> [round(float(x), 6) for x in damped_qr(jnp.eye(2), jnp.array([2.0, 4.0]), jnp.array(1.0))[0]]
    [1.0, 2.0]

    ```
    """
    size = jacobian.shape[1]
    root = jnp.sqrt(shift) * jnp.eye(size, dtype=jacobian.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([jacobian, root]))
    projected = q[: jacobian.shape[0]].T @ right
    return lax.linalg.triangular_solve(r, projected[:, None], left_side=True)[:, 0], r
