"""How exactly an inner iteration solves: forcing terms of inexact Newton methods."""

import jax.numpy as jnp

from ravine._types import Scalar


def forcing(norm: Scalar, before: Scalar, last: Scalar, *, largest: float = 0.1, least: float = 1e-6) -> Scalar:
    """The relative residual at which the linear system of a step is solved well enough:

    η = 0.9 (‖∇L‖/‖∇L before‖)², not suddenly much smaller than the `last` one, in [`least`, `largest`]. An infinite
    `before` marks the first step, whose η is `largest`.

    Stanley Eisenstat and Homer Walker, *Choosing the forcing terms in an inexact Newton method*, SIAM J. Sci. Comput.
    1996, equation 2.6 with its safeguard: convergence is of order two in the limit.
    """
    eta = 0.9 * (norm / before) ** 2
    kept = 0.9 * last**2
    eta = jnp.where(jnp.isinf(before), largest, jnp.where(kept > 0.1, jnp.maximum(eta, kept), eta))
    return jnp.clip(eta, least, largest).astype(norm.dtype)
