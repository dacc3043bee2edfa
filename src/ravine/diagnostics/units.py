"""What goes on inside a network: which of its hidden units still answer to their weights."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._types import Array, Float, Model
from ravine.jets import taylor
from ravine.models import MLP

FLAT = 1e-3  # the slope of an activation below which a unit hardly passes on a gradient
KINDS = (MLP, eqx.nn.MLP)


def saturated_shares(model: Model, points: Float[np.ndarray, "m d"]) -> list[float]:
    """The share of units and points at which the activation is flat, for every hidden layer of every perceptron in it.

    Nothing where the model cannot be called at a point, or holds no multilayer perceptron of ravine's or Equinox's.

    **Cost:** m calls of the model.

    ```python
    >>> import jax, jax.numpy as jnp, numpy as np, ravine as rv, equinox as eqx
    >>> from ravine.diagnostics.units import saturated_shares
    >>> net, points = rv.models.MLP(1, "scalar", width=4, depth=1, key=jax.random.key(0)), np.ones((3, 1))
    >>> stiff = eqx.tree_at(lambda n: n.weights[0], net, net.weights[0] + 100.0)
    >>> saturated_shares(net, points), saturated_shares(stiff, points)
    ([0.0], [1.0])

    ```
    """
    try:
        return [float(share) for share in _shares(model, jnp.asarray(points))]
    except (TypeError, ValueError, jax.errors.JAXTypeError):  # called otherwise, or compiled inside
        return []


@eqx.filter_jit
def _shares(model: Model, points: Float[Array, "m d"]) -> list[Array]:
    """As `saturated_shares`, for a model that can be called at a point."""
    called: list[Any] = []

    def inputs(point):
        """What every perceptron in the model is called with; the perceptrons themselves go to `called`."""
        seen: list[tuple[Any, list[Array]]] = []

        def probe(module):
            if not isinstance(module, KINDS):
                return module
            seen.append((module, []))
            return _Probe(module, seen[-1][1])

        jax.tree.map(probe, model, is_leaf=lambda leaf: isinstance(leaf, KINDS))(point)
        called[:] = [module for module, noted in seen if noted]
        return [jnp.stack(noted) for _, noted in seen if noted]

    shares = []
    for x, module in zip(lax.map(inputs, points), called, strict=True):
        function = _activation(module)
        slope = jax.vmap(jax.vmap(jax.grad(function)))
        before = _before_activation(module, function, x.reshape(-1, x.shape[-1]))
        shares += [jnp.mean(jnp.abs(slope(layer)) < FLAT) for layer in before]
    return shares


class _Probe:
    """A network that notes what it is called with."""

    def __init__(self, module: Any, inputs: list[Any]):
        self.module, self.inputs = module, inputs

    def __call__(self, x):
        self.inputs.append(x)
        return self.module(x)

    def taylor(self, z, curves):
        self.inputs.append(z)
        return taylor(self.module, z, curves)


def _activation(module: Any) -> Callable:
    function = module.activation
    return function if callable(function) else jax.tree.leaves(function, is_leaf=callable)[0]


def _before_activation(module: Any, function: Callable, inputs: Array) -> list[Array]:
    """What goes into the activation in each hidden layer, `(points, units)`."""
    if isinstance(module, MLP):
        pairs = list(zip(module.weights[:-1], module.biases[:-1], strict=True))
    else:
        pairs = [(layer.weight, layer.bias) for layer in module.layers[:-1]]
    found, x = [], inputs
    for weight, bias in pairs:
        before = x @ weight.T if bias is None else x @ weight.T + bias[None, :]
        found.append(before)
        x = jax.vmap(jax.vmap(function))(before)
    return found
