"""How exactly an inner iteration solves: forcing terms of inexact Newton methods."""

import equinox as eqx
import jax.numpy as jnp

from ravine._types import Any, Scalar, Vector

LEAST, LARGEST = 1e-6, 0.1


class Forcing(eqx.Module):
    """The norm of the gradient at a step, and the relative residual at which its system is solved well enough."""

    norm: Scalar
    tolerance: Scalar

    @staticmethod
    def first(dtype: Any) -> "Forcing":
        """Before the first step, whose tolerance is the largest."""
        return Forcing(jnp.asarray(jnp.inf, dtype), jnp.zeros((), dtype))

    def next(self, grad: Vector, *, given: float | Scalar | None = None) -> "Forcing":
        """η = 0.9 (‖∇L‖/‖∇L before‖)², not suddenly much smaller than the last one, between 10⁻⁶ and 10⁻¹; or `given`.

        Stanley Eisenstat and Homer Walker, *Choosing the forcing terms in an inexact Newton method*, SIAM J. Sci.
        Comput. 1996, equation 2.6 with its safeguard: convergence is of order two in the limit.
        """
        norm = jnp.linalg.norm(grad)
        if given is not None:
            return Forcing(norm, jnp.asarray(given, norm.dtype))
        eta = 0.9 * (norm / self.norm) ** 2
        kept = 0.9 * self.tolerance**2
        eta = jnp.where(jnp.isinf(self.norm), LARGEST, jnp.where(kept > 0.1, jnp.maximum(eta, kept), eta))
        return Forcing(norm, jnp.clip(eta, LEAST, LARGEST).astype(norm.dtype))
