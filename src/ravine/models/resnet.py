"""The residual network with adaptive activations."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Inexact, RandomKey
from ravine.jets import Curves, elementwise
from ravine.models.layers import add, affine, drawn, entry, sizes


class ResNet(eqx.Module):
    """x ↦ W_L y + b_L with y ← y + σ(a(W y + b)) in each block, from y = σ(a(W₀x + b₀)); every slope a is trained.

    Alena Kopaničáková, Hardik Kothari, George Karniadakis and Rolf Krause, *Enhancing training of physics-informed
    neural networks using domain-decomposition based preconditioning strategies*, 2024; slopes after Ameya Jagtap, Kenji
    Kawaguchi and George Karniadakis, *Adaptive activation functions accelerate convergence in deep and physics-informed
    neural networks*, 2020, one for each layer. Weights have Glorot's variance, slopes begin with one.

    **Arguments:** `inputs`; `outputs`, a number or "scalar"; `width`; `depth`, the number of hidden layers, of which
    the first only widens and each other one is a block; `activation`, elementwise and smooth.

    **Cost:** (depth − 1)·width² multiplications a point.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> model = rv.models.ResNet(2, "scalar", width=20, depth=6, key=jax.random.key(0))
    >>> model(jnp.zeros(2)).shape, [float(slope) for slope in model.slopes[:2]]
    ((), [1.0, 1.0])

    ```
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    slopes: tuple[Array, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int | Literal["scalar"],
        *,
        width: int = 20,
        depth: int = 4,
        activation: Callable[[Array], Array] = jnp.tanh,
        key: RandomKey,
    ):
        count = sizes("ResNet", inputs, outputs, width=width, depth=depth)
        self.activation, self.scalar = activation, outputs == "scalar"
        shape = (inputs, *(width,) * depth, count)
        self.weights, self.biases = drawn(shape, jax.random.split(key, len(shape)))
        self.slopes = tuple(jnp.ones(()) for _ in range(depth))

    def __call__(self, x: Inexact[Array, "inputs"]) -> Float[Array, "*outputs"]:
        return self.taylor(x, ())[0]

    def taylor(self, z: Inexact[Array, "inputs"], curves: Curves) -> tuple[Array, Curves]:
        """See `ravine.taylor`."""
        jet = z, curves
        hidden = zip(self.weights[:-1], self.biases[:-1], self.slopes, strict=True)
        for layer, (weight, bias, slope) in enumerate(hidden):
            new = elementwise(self.activation, *affine(slope * weight, slope * bias, jet))
            jet = add(jet, new) if layer else new
        return entry(affine(self.weights[-1], self.biases[-1], jet), self.scalar)
