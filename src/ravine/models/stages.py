"""Several networks in turn, each for what those before it left over."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._types import Array
from ravine.jets import taylor


class Frozen(eqx.Module):
    """A model as it is, whose arrays are no parameters: what is trained beside it does not change it.

    They are held as the integers that their bits spell, since every floating-point array of a model is a parameter.

    ```python
    >>> import equinox as eqx, jax, jax.numpy as jnp, ravine as rv
    >>> network = rv.models.MLP(1, "scalar", width=3, depth=1, key=jax.random.key(0))
    >>> frozen, x = rv.models.Frozen(network), jnp.ones(1)
    >>> bool(frozen(x) == network(x)), len(jax.tree.leaves(eqx.filter(frozen, eqx.is_inexact_array)))
    (True, 0)

    ```
    """

    bits: tuple[Array, ...]
    dtypes: tuple[Any, ...] = eqx.field(static=True)
    rest: Any
    treedef: Any = eqx.field(static=True)

    def __init__(self, model: Callable):
        params, self.rest = eqx.partition(model, eqx.is_inexact_array)
        leaves, self.treedef = jax.tree.flatten(params)
        leaves = [jnp.asarray(leaf) for leaf in leaves]
        if any(jnp.iscomplexobj(leaf) for leaf in leaves):
            raise ValueError("Frozen: the model has complex arrays; hold them as their real and imaginary parts.")
        self.dtypes = tuple(np.dtype(leaf.dtype) for leaf in leaves)
        words = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}
        self.bits = tuple(lax.bitcast_convert_type(leaf, words[leaf.dtype.itemsize]) for leaf in leaves)

    @property
    def model(self) -> Any:
        """The model itself."""
        leaves = [lax.bitcast_convert_type(bits, dtype) for bits, dtype in zip(self.bits, self.dtypes, strict=True)]
        return eqx.combine(jax.tree.unflatten(self.treedef, leaves), self.rest)

    def __call__(self, z):
        return self.model(z)

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        return taylor(self.model, z, curves)


class Staged(eqx.Module):
    """u(z) = u₁(z) + ε N(z): an earlier model, frozen, and a network for its error, of size one after scaling by ε.

    A network's own error is about the same part of its output at any scale, so that each stage gains the digits that
    the one before it gained (see `ravine.problems.next_stage`).

    Yongji Wang and Ching-Yao Lai, *Multi-stage neural networks: function approximator of machine precision*,
    J. Comput. Phys. 2024, section 3.
    """

    earlier: Frozen
    network: Any
    scale: float = eqx.field(static=True)

    def __init__(self, earlier: Callable, network: Callable, *, scale: float):
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"Staged: the scale is {scale}, but must be positive and finite.")
        self.earlier = earlier if isinstance(earlier, Frozen) else Frozen(earlier)
        self.network, self.scale = network, float(scale)

    def __call__(self, z):
        return self.earlier(z) + self.scale * self.network(z)

    def taylor(self, z, curves):
        """See `ravine.taylor`: derivatives add up."""
        first, second = self.earlier.taylor(z, curves), taylor(self.network, z, curves)
        return jax.tree.map(lambda a, b: a + self.scale * b, first, second)
