"""Lanczos runs on the matrices of an objective, as operators: what spectra and densities share."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from matfree.decomp import hessenberg
from scipy.linalg import eigh_tridiagonal

from ravine._types import Array, Float, Vector
from ravine.objective import Linearisation, Objective

Kind = Literal["gauss-newton", "hessian", "kernel"]
# H with columns (n, n), or v ↦ P^(-1/2) v.
Preconditioner = Float[Array, "n n"] | Callable[[Vector], Vector] | None


def ready(objective: Objective, who: str, term: str | None = None) -> Objective:
    """The objective on one device. **Raises:** `ValueError` when it has no rows, or no such term."""
    objective.require_curvature(who)
    names = [part.name for part in objective.terms]
    if term is not None and term not in names:
        raise ValueError(f"There is no term {term!r}; the terms are {names}.")
    return objective.over(None)  # what is dense is not shared out


def root_of(preconditioner: Preconditioner):
    """v ↦ L v and v ↦ Lᵀ v with L Lᵀ = H."""
    if preconditioner is None:
        return (lambda v: v), (lambda v: v)
    if callable(preconditioner):
        return preconditioner, preconditioner
    high = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    return (lambda v: high(preconditioner, v)), (lambda v: high(preconditioner.T, v))


def factored(preconditioner: Preconditioner) -> Preconditioner:
    """A matrix by its root L; one that is not positive definite by the root of its positive part."""
    if preconditioner is None or callable(preconditioner):
        return preconditioner
    matrix = np.asarray(preconditioner, np.float64)
    try:
        root = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        root = vectors * np.sqrt(np.maximum(values, 0))
    return jnp.asarray(root, preconditioner.dtype)


def operator(lin: Linearisation, root: Preconditioner, kind: Kind, by_rows: bool) -> Callable[[Array], Array]:
    """The product with Lᵀ JᵀJ L or Lᵀ ∇²L L; with J L Lᵀ Jᵀ, a kernel, when it acts on rows."""
    forth, back = root_of(root)
    if kind == "hessian":
        return lambda v: back(lin.hessian_product(forth(v)))
    if by_rows:
        return lambda r: lin.jvp(forth(back(lin.vjp(r))))
    return lambda v: back(lin.curvature_product(forth(v)))


@eqx.filter_jit
def lanczos(objective, theta, batch, root, start, *, kind, by_rows, products):
    """Lanczos vectors (k, ·), the tridiagonal matrix, and the length of what is left.

    A `start` as long as the rows is pulled back to the parameters where the matrix acts on these: what JᵀJ sends to
    zero has no part in it then.
    """
    lin = objective.linearise(theta, batch)
    matrix = operator(lin, root, kind, by_rows)
    if not by_rows and start.shape != theta.shape:
        start = root_of(root)[1](lin.vjp(start))
    # By Arnoldi, whose lengths below the diagonal show where the space is exhausted (`tridiag_sym` averages them with
    # products above it).
    found = hessenberg(products, reortho="full", custom_vjp=False)(matrix, start)
    small: Any = found.J_small
    return found.Q_tall, jnp.diagonal(small), jnp.diagonal(small, -1), jnp.linalg.norm(found.residual)


def ritz(diagonal, off, left) -> tuple[np.ndarray, np.ndarray, float]:
    """Ritz values, ascending, their vectors in the Krylov basis, and the last length; cut where the space was
    exhausted, since what follows is rounding."""
    diagonal, lengths = np.asarray(diagonal, np.float64), np.append(np.asarray(off, np.float64), float(left))
    # Lengths and diagonals before the first small length are of the size of the matrix.
    eps = float(np.finfo(np.asarray(off).dtype).eps)
    scale = np.maximum.accumulate(np.abs(diagonal) + lengths)
    small = np.flatnonzero(~(lengths > 64 * eps * scale))
    k = int(small[0]) + 1 if small.size else diagonal.size
    values, vectors = eigh_tridiagonal(diagonal[:k], lengths[: k - 1])
    return values, vectors, 0.0 if small.size else float(lengths[k - 1])
