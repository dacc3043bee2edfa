"""Conditions that hold exactly, by construction."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from ravine._types import Array
from ravine.calculus import taylor


class Constrained(eqx.Module):
    """u(z) = C(z) + ℓ(z)·N(z): C meets the conditions, ℓ vanishes where they hold, N is the network.

    Isaac Lagaris, Aristidis Likas and Dimitrios Fotiadis, *Artificial neural networks for solving ordinary and partial
    differential equations*, 1998. A condition that holds exactly needs no term and no weight.

    **Arguments:** `network`; `offset`, C; `factor`, ℓ: functions of one point without parameters.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u = rv.models.Constrained(lambda z: 7.0, offset=lambda z: z[0], factor=lambda z: z[0] * (1 - z[0]))
    >>> float(u(jnp.array([1.0])))
    1.0

    ```
    """

    network: Any
    offset: Callable[[Array], Array] = eqx.field(static=True)
    factor: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, z):
        return self.offset(z) + self.factor(z) * self.network(z)

    def taylor(self, z, curves):
        """See `ravine.taylor`: Leibniz's rule for ℓN."""
        (c, dc), (f, df), (n, dn) = (taylor(part, z, curves) for part in (self.offset, self.factor, self.network))
        derivatives = []
        for a, b, d in zip(dc, df, dn, strict=True):
            b, d = (f, *b), (n, *d)
            derivatives.append(
                tuple(
                    a[k - 1] + sum(math.comb(k, j) * b[j] * d[k - j] for j in range(k + 1))
                    for k in range(1, len(a) + 1)
                )
            )
        return c + f * n, tuple(derivatives)


class Odd(eqx.Module):
    """x ↦ (N(x) − N(x̄))/2 with x̄ the reflection of x in one coordinate: odd in that coordinate by construction.

    A symmetry that equation and data share holds for the solution; built in, points are needed on one side only, and
    the errors that break it cannot occur. **Cost:** two evaluations of the network.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u = rv.models.Odd(lambda z: (z[0] + 1) ** 3, axis=0)
    >>> float(u(jnp.array([2.0]))), float(u(jnp.array([-2.0])))
    (14.0, -14.0)

    ```
    """

    network: Any
    axis: int = eqx.field(static=True)

    def __call__(self, z):
        return (self.network(z) - self.network(self._reflect(z))) / 2

    def _reflect(self, z):
        return z.at[self.axis].multiply(-1)

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        reflected = tuple(tuple(self._reflect(derivative) for derivative in curve) for curve in curves)
        here, there = taylor(self.network, z, curves), taylor(self.network, self._reflect(z), reflected)
        return jax.tree.map(lambda a, b: (a - b) / 2, here, there)
