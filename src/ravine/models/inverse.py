"""Models of which a part is asked for: coefficients of the equation beside its solution."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine.jets import taylor


class Inverse(eqx.Module):
    """u(z), with the unknown coefficients of its equation beside it: `model(z)` is the network, and an equation finds
    the others as `model.coefficients["name"]`.

    A coefficient is a number, an array, or a callable of the point (a network of its own, for a field). Numbers become
    arrays, and so parameters. Bounds: `ravine.positive(model, lambda m: m.coefficients["name"])`.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> model = rv.models.Inverse(lambda z: jnp.sin(z[0]), speed=2.0)
    >>> float(model(jnp.zeros(1))), float(model.coefficients["speed"])
    (0.0, 2.0)

    ```
    """

    network: Any
    coefficients: dict[str, Any]

    def __init__(self, network: Any, /, **coefficients: Any):
        self.network = network
        array = lambda leaf: jnp.asarray(leaf, jnp.result_type(float)) if isinstance(leaf, (int, float)) else leaf
        self.coefficients = {
            name: leaf if callable(leaf) else jax.tree.map(array, leaf) for name, leaf in coefficients.items()
        }

    def __call__(self, z):
        return self.network(z)

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        return taylor(self.network, z, curves)
