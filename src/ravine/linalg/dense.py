"""Dense symmetric positive (semi)definite systems, inside `jit`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.experimental.layout import Layout, with_layout_constraint

from ravine._types import Array, Count, Float, Matrix, Rows, Scalar, Square, Vector

# Columns that are multiplied at once. Longer rows take copies: 100 rows of 1.3 million columns times as many others,
# 1 GiB each, made a process grow by another 1.3 GiB.
PANEL = 2**14


@jax.custom_batching.sequential_vmap
def one_by_one_eigh(matrix: Square) -> tuple[Float[Array, "n"], Square]:
    """Eigenvalues and eigenvectors as `jax.numpy.linalg.eigh`; under `vmap`, of one matrix after the other.

    On a CPU jaxlib (0.10) shares a batch of matrices out over the threads of a pool, and waits for them inside of a
    thread of that very pool. When every device of the host does so at once, none is left to do the work, for ever.

    ```python
    >>> import jax, jax.numpy as jnp
    >>> from ravine.linalg import one_by_one_eigh
    >>> jax.vmap(one_by_one_eigh)(jnp.array([[[3.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]]))[0].tolist()
    [[2.0, 3.0], [-1.0, 1.0]]

    ```
    """
    return jnp.linalg.eigh(matrix)


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
        shift = jnp.maximum(10 * shift, least)
        return factorise(shift), shift, count + 1

    # LAPACK marks failure with NaN in the whole factor, so its last entry tells. The first attempt stands outside the
    # loop, which then never copies a matrix when all is well.
    return lax.while_loop(again, body, (factorise(shift), shift, jnp.int32(1)))


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


def damped_qr(jacobian: Matrix, shift: Scalar) -> tuple[Matrix, Square]:
    """The rows Q of J in the QR factorisation of [J; √shift·I], and its R: J = Q R, and RᵀR = JᵀJ + shift·I.

    The minimiser of ‖J x − b‖² + shift‖x‖² is R⁻¹Qᵀb (`solve_qr`). Works with the condition number of J, where JᵀJ has
    its square. **Cost:** 4(m+n)n² flops, (m+n)n memory.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import damped_qr, solve_qr
    >>> q, r = damped_qr(jnp.eye(2), jnp.array(1.0))
    >>> [round(float(x), 6) for x in solve_qr(q, r, jnp.array([2.0, 4.0]))]
    [1.0, 2.0]

    ```
    """
    root = jnp.sqrt(shift) * jnp.eye(jacobian.shape[1], dtype=jacobian.dtype)
    q, r = jnp.linalg.qr(jnp.concatenate([jacobian, root]))
    return q[: jacobian.shape[0]], r


def solve_qr(q: Matrix, r: Square, right: Rows) -> Vector:
    """R⁻¹Qᵀb, for the factors of `damped_qr`. **Cost:** 2mn + n² flops."""
    return lax.linalg.triangular_solve(r, (q.T @ right)[:, None], left_side=True)[:, 0]


def symmetric_product(matrix: Matrix, *, blocks: int = 3) -> Float[Array, "m m"]:
    """A Aᵀ: each block off the diagonal is multiplied once and copied to its mirror place.

    **Cost:** (1 + 1/blocks) m²n flops for A of shape (m, n), where a plain product takes 2m²n; more blocks are smaller
    products, and save less time than flops. Memory: that of the result, and a few `PANEL` columns of A.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import symmetric_product
    >>> symmetric_product(jnp.array([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[5.0, 2.0], [2.0, 1.0]]

    ```
    """
    return _by_panels(lambda panel: _symmetric(panel, blocks), matrix)


def product_of_rows(left: Matrix, right: Float[Array, "k n"]) -> Float[Array, "m k"]:
    """A Bᵀ. **Cost:** 2mkn flops for A of shape (m, n), B of shape (k, n); memory for the result and a few columns.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import product_of_rows
    >>> product_of_rows(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [0.0, 1.0]])).tolist()
    [[11.0, 2.0]]

    ```
    """
    return _by_panels(lambda left, right: _product(left, right.T), left, right)


def _by_panels(product: Callable[..., Array], *matrices: Array) -> Array:
    """The sum of `product` over panels of columns. The product of long rows at once takes copies of them all."""
    columns = matrices[0].shape[1]
    count = columns // PANEL
    if count < 2:
        return product(*matrices)
    # Else XLA looks for the last panel in the parts that the rows are put together of, and makes copies of those.
    matrices = lax.optimization_barrier(matrices)
    panel = lambda i: product(*(lax.dynamic_slice_in_dim(each, i * PANEL, PANEL, axis=1) for each in matrices))
    rest = product(*(each[:, count * PANEL :] for each in matrices)) if columns % PANEL else panel(0)
    return lax.fori_loop(0 if columns % PANEL else 1, count, lambda i, total: total + panel(i), rest)


def _symmetric(matrix: Matrix, blocks: int) -> Float[Array, "m m"]:
    rows = matrix.shape[0]
    if rows < 64 * blocks:
        return _product(matrix, matrix.T)
    size = -(-rows // blocks)
    size += -size % 8  # whole vectors
    starts = range(0, rows, size)
    # strips[i] holds the blocks from the i-th diagonal one to the right.
    strips = [_product(matrix[start : start + size], matrix[start:].T) for start in starts]

    def block(i: int, j: int) -> Array:
        first = (j - i) * size
        return strips[i][:, first : first + size]

    order = range(len(strips))
    return jnp.block([[block(i, j) if i <= j else block(j, i).T for j in order] for i in order])


def gram(matrix: Matrix) -> Float[Array, "n n"]:
    """AᵀA. **Cost:** as `symmetric_product`, and a transposed copy of A.

    The copy pays: XLA multiplies A Aᵀ about twice as fast as AᵀA on a CPU. Measured on two cores in float64, rows of
    4,000 points of Burgers' residual in 1,981 parameters: 342 ms without, 151 ms with copy and symmetry.
    """
    return symmetric_product(_row_major(matrix.T))


def _row_major(matrix: Matrix) -> Matrix:
    """Laid out row by row in memory, whatever the compiler would rather do (inside `jit`)."""
    if not isinstance(matrix, Tracer):
        return matrix
    return with_layout_constraint(matrix, Layout(major_to_minor=(0, 1)))


def _product(a: Matrix, b: Float[Array, "n k"]) -> Float[Array, "m k"]:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
