"""Eigenvalues at the ends of a spectrum, from products with a symmetric operator."""

import jax.numpy as jnp
from jax import lax

from ravine._types import Scalar, Vector
from ravine.linalg.krylov import Operator


def extreme_eigenvalues(operator: Operator, start: Vector, iterations: int) -> tuple[Scalar, Scalar]:
    """The least and the largest Ritz value of a symmetric A on the Krylov space of `start`.

    Both lie within the spectrum, and reach its ends first where these are well separated. Vectors are not
    reorthogonalised: that would cost their storage, and repeats Ritz values without moving the outermost ones.

    **Arguments:** `operator`: v ↦ A v; `start`: not zero; `iterations`: products, at most n of use.

    **Cost:** `iterations` products, eight n flops each, three vectors, and an eigendecomposition of that size.

    Cornelius Lanczos, *An iteration method for the solution of the eigenvalue problem*, 1950.

    ```python
    >>> import jax.numpy as jnp
    >>> from ravine.linalg.ritz import extreme_eigenvalues
    >>> scales = jnp.array([-3.0, 1.0, 5.0])
    >>> [round(float(x), 3) for x in extreme_eigenvalues(lambda v: scales * v, jnp.ones(3), 3)]
    [-3.0, 5.0]

    ```
    """
    zeros = jnp.zeros(iterations, start.dtype)

    def body(k, carry):
        last, now, beta, alphas, betas = carry
        image = operator(now) - beta * last
        alpha = jnp.dot(now, image)
        image = image - alpha * now
        norm = jnp.linalg.norm(image)
        # An invariant space is exhausted: what follows would be rounding.
        scale = jnp.sqrt(alpha**2 + beta**2)
        ends = ~(norm > 8 * jnp.finfo(start.dtype).eps * scale)
        norm = jnp.where(ends & jnp.isfinite(norm), 0, norm)
        ahead = image / jnp.where(norm > 0, norm, 1) * jnp.where(norm > 0, 1, 0)
        return now, ahead, norm, alphas.at[k].set(alpha), betas.at[k].set(norm)

    first = start / jnp.linalg.norm(start)
    begin = (jnp.zeros_like(first), first, jnp.zeros((), start.dtype), zeros, zeros)
    _, _, _, alphas, betas = lax.fori_loop(0, iterations, body, begin)
    # Rows after the end of an exhausted space are zero; the first Ritz value stands in for them.
    live = jnp.concatenate([jnp.ones(1, bool), jnp.cumprod(betas[:-1] != 0) == 1])
    off = betas[:-1]
    values = jnp.linalg.eigvalsh(jnp.diag(jnp.where(live, alphas, alphas[0])) + jnp.diag(off, 1) + jnp.diag(off, -1))
    return values[0], values[-1]
