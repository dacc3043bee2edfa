"""Kronecker products of symmetric matrices, and sums of two, diagonalised: inverses at the price of their parts.

A⊗B acts on matrices, X ↦ B X A, for A of the size of X's rows and B of its columns.
"""

import equinox as eqx
import jax.numpy as jnp
from jax import lax

from ravine._types import Array, Float, Scalar
from ravine.linalg.dense import shifted_cholesky

Inputs = Float[Array, "i i"]
Outputs = Float[Array, "j j"]
Block = Float[Array, "j i"]


class Diagonal(eqx.Module):
    """The operator whose inverse is X ↦ Q[(QᵀXP)/values]Pᵀ, entry by entry."""

    left: Outputs
    right: Inputs
    values: Block

    def solve(self, x: Block, shift: Scalar | float = 0.0) -> Block:
        """Q[(QᵀXP)/(values + shift)]Pᵀ. **Cost:** 4ij(i + j) flops."""
        inside = _product(self.left.T, _product(x, self.right)) / (self.values + shift)
        return _product(self.left, _product(inside, self.right.T))


def kronecker_product(a: Inputs, b: Outputs) -> Diagonal:
    """A⊗B, in its eigenvectors: `solve(x, shift)` is then (A⊗B + shift·I)⁻¹x.

    **Cost:** two eigendecompositions.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg import kronecker_product
    >>> found = kronecker_product(jnp.diag(jnp.array([1.0, 3.0])), jnp.array([[2.0]]))
    >>> found.solve(jnp.array([[3.0, 7.0]]), 1.0).tolist()
    [[1.0, 1.0]]

    ```
    """
    (alpha, right), (beta, left) = _eigh(a), _eigh(b)
    return Diagonal(left, right, beta[:, None] * alpha[None, :])


def kronecker_sum(a: Inputs, b: Outputs, c: Inputs, d: Outputs, shift: Scalar) -> Diagonal:
    """A⊗B + C⊗D, damped: `solve(x)` is (A⊗B + (C + π√λ I)⊗(D + √λ/π I))⁻¹x exactly, with λ the shift.

    Both pairs, (A, C) and (B, D), are diagonalised by congruence: with PᵀAP = α and Pᵀ(C + …)P = I, QᵀBQ = β and
    Qᵀ(D + …)Q = I, the sum becomes βαᵀ + 1. A⊗B + C⊗D + λI itself has no such basis; what is inverted is larger by
    √λ (π I⊗D + C⊗I/π), least in trace where π² is the ratio of the mean eigenvalues of C and D (James Martens and
    Roger Grosse, *Optimizing neural networks with Kronecker-factored approximate curvature*, ICML 2015, section 6.3).
    The product with the smaller trace takes the damping. λ is at least machine epsilon times the mean eigenvalue of
    the sum.

    **Cost:** two Cholesky factors, two eigendecompositions and four triangular solves.

    Felix Dangel, Johannes Müller and Marius Zeinhofer, *Kronecker-factored approximate curvature for physics-informed
    neural networks*, NeurIPS 2024, appendix on inverting sums. Deviation: they damp all four factors.
    """
    first, second = jnp.trace(a) * jnp.trace(b), jnp.trace(c) * jnp.trace(d)
    least = jnp.finfo(a.dtype).eps * (first + second) / (a.shape[0] * b.shape[0])
    root = jnp.sqrt(jnp.maximum(shift, least + jnp.finfo(a.dtype).tiny))
    a, c = jnp.where(first < second, c, a), jnp.where(first < second, a, c)
    b, d = jnp.where(first < second, d, b), jnp.where(first < second, b, d)
    one, other = jnp.trace(c) / c.shape[0], jnp.trace(d) / d.shape[0]
    balance = jnp.where((one > 0) & (other > 0), jnp.sqrt(one / jnp.where(other > 0, other, 1)), 1)
    alpha, right = _congruence(a, c, balance * root)
    beta, left = _congruence(b, d, root / balance)
    return Diagonal(left, right, beta[:, None] * alpha[None, :] + 1)


def _congruence(matrix: Inputs, metric: Inputs, shift: Scalar) -> tuple[Float[Array, "i"], Inputs]:
    """α and P with Pᵀ matrix P = diag(α), Pᵀ(metric + shift·I)P = I."""
    factor, _, _ = shifted_cholesky((metric + metric.T) / 2, shift)
    half = lax.linalg.triangular_solve(factor, matrix, left_side=True, lower=True)
    both = lax.linalg.triangular_solve(factor, half, left_side=False, lower=True, transpose_a=True)
    values, vectors = _eigh(both)
    return values, lax.linalg.triangular_solve(factor, vectors, left_side=True, lower=True, transpose_a=True)


def _eigh(matrix: Inputs) -> tuple[Float[Array, "i"], Inputs]:
    """Eigenvalues of a positive semidefinite matrix, and its eigenvectors."""
    values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2)
    return jnp.maximum(values, 0), vectors


def _product(x: Array, y: Array) -> Array:
    return jnp.matmul(x, y, precision=lax.Precision.HIGHEST)
