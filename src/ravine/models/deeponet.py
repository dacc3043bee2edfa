"""DeepONet: an operator as a sum of products, of a network of the function and a network of the place."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float


class DeepONet(eqx.Module):
    """(a, y) ↦ Σ_k b_k(a) t_k(y) + b₀: the operator's value G[a](y), for a function a given by its values at sensors.

    **Arguments:** `branch`: a ↦ `(p,)`; `trunk`: y ↦ `(p,)`, at one point; any callable pytrees. `bias`: whether there
    is a b₀. A trunk that vanishes somewhere (`Constrained`) gives operators that do, without a bias.

    Called with one point `(d,)` it returns a number, with several `(q, d)` their values `(q,)`.

    **Cost:** one branch for a function, whatever the number of points; and one trunk for a point, whatever the number
    of functions, where these share their points (under `vmap` over the functions alone).

    Lu Lu, Pengzhan Jin, Guofei Pang, Zhongqiang Zhang and George Karniadakis, *Learning nonlinear operators via
    DeepONet based on the universal approximation theorem of operators*, Nature Machine Intelligence 2021, equation 2.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> net = rv.models.DeepONet(lambda a: a[:2], lambda y: jnp.array([1.0, 10.0]) * y)
    >>> net(jnp.array([3.0, 4.0, 5.0]), jnp.array([[1.0], [2.0]])).tolist()
    [43.0, 86.0]

    ```
    """

    branch: Callable[[Any], Any]
    trunk: Callable[[Any], Any]
    offset: Array | None

    def __init__(self, branch: Callable, trunk: Callable, *, bias: bool = True):
        self.branch, self.trunk = branch, trunk
        self.offset = jnp.zeros(()) if bias else None

    def __call__(self, a: Float[Array, "..."], y: Float[Array, "*q d"]) -> Float[Array, "*q"]:
        coefficients = self.branch(a)
        basis = self.trunk(y) if y.ndim == 1 else jax.vmap(self.trunk)(y)
        if basis.shape[-1:] != coefficients.shape:
            raise ValueError(
                f"DeepONet: the branch gives {coefficients.shape} numbers and the trunk {basis.shape[-1:]}, but both "
                "need the same count p. Give both networks p outputs: MLP(sensors, 40, …) and MLP(d, 40, …)."
            )
        value = basis @ coefficients
        return value if self.offset is None else value + self.offset
