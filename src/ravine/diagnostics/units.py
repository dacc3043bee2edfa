"""What goes on inside a network: which of its hidden units still answer to their weights."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Float, Model
from ravine.calculus import taylor
from ravine.models import MLP

FLAT = 1e-3  # the slope of an activation below which a unit hardly passes on a gradient
KINDS = (MLP, eqx.nn.MLP)


def saturated_shares(model: Model, points: Float[np.ndarray, "m d"]) -> list[float]:
    """The share of units and points at which the activation is flat, for every hidden layer of every perceptron in it.

    Nothing where the model cannot be called at a point, or holds no multilayer perceptron of ravine's or Equinox's.

    **Cost:** m calls of the model, not compiled.

    ```python
    >>> import jax, jax.numpy as jnp, numpy as np, ravine as rv, equinox as eqx
    >>> from ravine.diagnostics.units import saturated_shares
    >>> net, points = rv.models.MLP(1, "scalar", width=4, depth=1, key=jax.random.key(0)), np.ones((3, 1))
    >>> stiff = eqx.tree_at(lambda n: n.weights[0], net, net.weights[0] + 100.0)
    >>> saturated_shares(net, points), saturated_shares(stiff, points)
    ([0.0], [1.0])

    ```
    """
    shares = []
    for module, inputs in _called(model, points):
        function = _activation(module)
        slope = jax.vmap(jax.vmap(jax.grad(function)))
        before = _before_activation(module, function, np.stack(inputs))
        shares += [float(np.mean(np.abs(np.asarray(slope(jnp.asarray(layer)))) < FLAT)) for layer in before]
    return shares


def _called(model: Model, points: np.ndarray) -> list[tuple[Any, list[Any]]]:
    """Every perceptron in the model, and what it is called with."""
    seen: list[tuple[Any, list[Any]]] = []

    def probe(module):
        if not isinstance(module, KINDS):
            return module
        seen.append((module, []))
        return _Probe(module, seen[-1][1])

    model = jax.tree.map(probe, model, is_leaf=lambda leaf: isinstance(leaf, KINDS))
    try:
        for point in points:
            model(jnp.asarray(point))
    except (TypeError, ValueError, jax.errors.JAXTypeError):  # called otherwise, or compiled inside
        return []
    return [(module, inputs) for module, inputs in seen if inputs]


class _Probe:
    """A network that notes what it is called with."""

    def __init__(self, module: Any, inputs: list[Any]):
        self.module, self.inputs = module, inputs

    def __call__(self, x):
        self.inputs.append(np.asarray(x))
        return self.module(x)

    def taylor(self, z, curves):
        self.inputs.append(np.asarray(z))
        return taylor(self.module, z, curves)


def _activation(module: Any) -> Callable:
    function = module.activation
    return function if callable(function) else jax.tree.leaves(function, is_leaf=callable)[0]


def _before_activation(module: Any, function: Callable, inputs: np.ndarray) -> list[np.ndarray]:
    """What goes into the activation in each hidden layer, `(points, units)`."""
    if isinstance(module, MLP):
        pairs = list(zip(module.weights[:-1], module.biases[:-1], strict=True))
    else:
        pairs = [(layer.weight, layer.bias) for layer in module.layers[:-1]]
    found, x = [], inputs
    for weight, bias in pairs:
        before = x @ np.asarray(weight).T + (0 if bias is None else np.asarray(bias))
        found.append(before)
        x = np.asarray(jax.vmap(jax.vmap(function))(jnp.asarray(before)))
    return found
