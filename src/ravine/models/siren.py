"""Networks of sines."""

import itertools
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float, Inexact, RandomKey
from ravine.jets import Curves, elementwise
from ravine.models.layers import affine, entry, sizes


class SIREN(eqx.Module):
    """x ↦ W_L h + b_L with h ← sin(ω (W h + b)) in each hidden layer: sines whose distribution no layer changes.

    With inputs in [−1, 1], the first layer's weights are uniform in ±1/inputs, the others' in ±√(6/width)/ω, and biases
    in ±1/√(inputs of the layer). From the second layer on the arguments of the sines then have a mean square v near
    one, and the sines (1 − e^(−2v))/2, at any depth: v ← 1 − e^(−2v) + ω²/(3 width) stays where it is. Derivatives of
    all orders are networks of the same kind.

    Vincent Sitzmann, Julien Martel, Alexander Bergman, David Lindell and Gordon Wetzstein, *Implicit neural
    representations with periodic activation functions*, 2020, section 3.2 and theorem 1.8 of the supplement.

    **Arguments:** `inputs`; `outputs`, a number or "scalar"; `width`, `depth`: of the hidden layers; `first`, ω of the
    first layer, which sets the highest frequencies at the start (30 for images; 1 to 10 for solutions of equations, of
    which high derivatives are taken); `omega`, ω of the others.

    **Cost:** (depth − 1)·width² multiplications a point.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> rv.models.SIREN(2, "scalar", width=20, depth=3, key=jax.random.key(0))(jnp.zeros(2)).shape
    ()

    ```
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    first: float = eqx.field(static=True)
    omega: float = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int | Literal["scalar"],
        *,
        width: int = 20,
        depth: int = 3,
        first: float = 10.0,
        omega: float = 10.0,
        key: RandomKey,
    ):
        count = sizes("SIREN", inputs, outputs, width=width, depth=depth)
        if not (first > 0 and omega > 0 and np.isfinite(first + omega)):
            raise ValueError(f"SIREN: first and omega must be positive and finite, got {first=}, {omega=}.")
        self.first, self.omega, self.scalar = float(first), float(omega), outputs == "scalar"
        shape = (inputs, *(width,) * depth, count)
        bounds = (1 / inputs, *(np.sqrt(6 / fan) / omega for fan in shape[1:-1]))
        keys = jax.random.split(key, (len(bounds), 2))
        uniform = lambda k, size, bound: jax.random.uniform(k, size, minval=-bound, maxval=bound)
        pairs = list(itertools.pairwise(shape))
        self.weights = tuple(uniform(k[0], (b, a), s) for k, (a, b), s in zip(keys, pairs, bounds, strict=True))
        self.biases = tuple(uniform(k[1], (b,), a**-0.5) for k, (a, b) in zip(keys, pairs, strict=True))

    def __call__(self, x: Inexact[Array, "inputs"]) -> Float[Array, "*outputs"]:
        return self.taylor(x, ())[0]

    def taylor(self, z: Inexact[Array, "inputs"], curves: Curves) -> tuple[Array, Curves]:
        """See `ravine.taylor`."""
        jet = z, curves
        for layer, (weight, bias) in enumerate(zip(self.weights[:-1], self.biases[:-1], strict=True)):
            omega = self.omega if layer else self.first
            jet = elementwise(jnp.sin, *affine(omega * weight, omega * bias, jet))
        return entry(affine(self.weights[-1], self.biases[-1], jet), self.scalar)
