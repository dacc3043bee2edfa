"""The multilayer perceptron."""

from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Inexact, RandomKey
from ravine.jets import Curves, elementwise
from ravine.models.layers import affine, drawn, entry


class MLP(eqx.Module):
    """x ↦ W_L σ(… σ(W₁x + b₁) …) + b_L, acting on one point.

    Weights are drawn with Glorot's variance 2/(in + out) (Xavier Glorot and Yoshua Bengio, *Understanding the
    difficulty of training deep feedforward neural networks*, 2010), biases are zero but for the first layer, where
    they spread the units over the domain.

    **Arguments:** `inputs`, the number of coordinates; `outputs`, a number, or "scalar" for an output of shape `()`;
    `width`, `depth`: units in a hidden layer and number of hidden layers, or one
    width a layer as a tuple, and then `depth` says nothing; `activation`, elementwise and smooth where
    derivatives are taken (`jnp.tanh`, `jnp.sin`, `jax.nn.gelu`).

    **Cost:** (depth − 1)·width² multiplications a point.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> rv.models.MLP(2, "scalar", width=20, depth=3, key=jax.random.key(0))(jnp.zeros(2)).shape
    ()

    ```
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int | Literal["scalar"],
        *,
        width: int | tuple[int, ...] = 20,
        depth: int = 3,
        activation: Callable[[Array], Array] = jnp.tanh,
        key: RandomKey,
    ):
        hidden = width if isinstance(width, tuple) else (width,) * depth
        if inputs < 1 or not hidden or min(hidden) < 1 or (outputs != "scalar" and int(outputs) < 1):
            raise ValueError(
                f"MLP: inputs, outputs, width and depth must be at least 1, got {inputs=}, {outputs=}, {width=}, "
                f"{depth=}."
            )
        self.scalar = outputs == "scalar"
        self.activation = activation
        keys = jax.random.split(key, len(hidden) + 2)
        self.weights, self.biases = drawn((inputs, *hidden, 1 if outputs == "scalar" else int(outputs)), keys)

    def __call__(self, x: Inexact[Array, "inputs"]) -> Float[Array, "*outputs"]:
        return self.taylor(x, ())[0]

    def taylor(self, z: Inexact[Array, "inputs"], curves: Curves) -> tuple[Array, Curves]:
        """See `ravine.taylor`: derivatives pass through each layer as further columns of one matrix product."""
        jet = z, curves
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            jet = elementwise(self.activation, *affine(weight, bias, jet))
        return entry(affine(self.weights[-1], self.biases[-1], jet), self.scalar)
