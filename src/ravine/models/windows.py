"""A network for each window of time."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Model
from ravine.jets import taylor


class Windows(eqx.Module):
    """u(x, t) = u_i(x, t) in the i-th window of time, cuts[i] ≤ t < cuts[i + 1]; the last coordinate is time.

    **Arguments:** `networks`, one a window, of one shape; `cuts`, ascending, one more than there are networks. Before
    the first cut and after the last one the nearest network answers.

    **Raises:** `ValueError` for cuts that do not fit. **Cost:** at one point that of one network, under `vmap` that of
    all of them; terms that know their window ask `networks[i]` instead (see `ravine.problems.in_windows`).

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u = rv.models.Windows((lambda z: z[0], lambda z: -z[0]), (0.0, 0.5, 1.0))
    >>> float(u(jnp.array([3.0, 0.2]))), float(u(jnp.array([3.0, 0.5])))
    (3.0, -3.0)

    ```
    """

    networks: tuple[Model, ...]
    cuts: tuple[float, ...] = eqx.field(static=True)

    def __init__(self, networks: tuple[Model, ...], cuts: tuple[float, ...]):
        self.networks, self.cuts = tuple(networks), tuple(float(cut) for cut in cuts)
        if len(self.cuts) != len(self.networks) + 1 or sorted(set(self.cuts)) != list(self.cuts):
            raise ValueError(
                f"Windows: {len(self.networks)} networks need {len(self.networks) + 1} ascending cuts, got {self.cuts}."
            )

    def __call__(self, z: Array) -> Array:
        inner = jnp.asarray(self.cuts[1:-1], z.dtype)
        return jax.lax.switch(jnp.sum(z[-1] >= inner), [lambda z, u=u: u(z) for u in self.networks], z)


class Clocked(eqx.Module):
    """u(x, t) = network(x, origin + rate · (t − cut)): a network that sees another time, which may run backwards.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u = rv.models.Clocked(lambda z: z[1], cut=2.0, origin=2.0, rate=-0.5)
    >>> float(u(jnp.array([0.0, 3.0])))
    1.5

    ```
    """

    network: Model
    cut: float = eqx.field(static=True)
    origin: float = eqx.field(static=True)
    rate: float = eqx.field(static=True)

    def __init__(self, network: Model, *, cut: float, origin: float, rate: float):
        self.network, self.cut, self.origin, self.rate = network, float(cut), float(origin), float(rate)

    def __call__(self, z: Array) -> Array:
        factor, shift = self._map(z)
        return self.network(factor * z + shift)

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        factor, shift = self._map(z)
        inner = jax.tree.map(lambda leaf: factor * leaf, curves)
        return taylor(self.network, factor * z + shift, inner)

    def _map(self, z: Array) -> tuple[Array, Array]:
        """z ↦ (x, origin + rate (t − cut)) as a factor and a shift of every coordinate."""
        others = z.shape[0] - 1
        shift = self.origin - self.rate * self.cut
        return jnp.asarray((1.0,) * others + (self.rate,), z.dtype), jnp.asarray((0.0,) * others + (shift,), z.dtype)
