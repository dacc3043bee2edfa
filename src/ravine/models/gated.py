"""Networks whose layers are gated by two encoders of the input: the modified perceptron and PirateNet."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Inexact, RandomKey
from ravine.jets import Curves, elementwise, taylor
from ravine.models.embeddings import Fourier
from ravine.models.layers import Jet, add, affine, dense, drawn, entry, product, sizes, spread, subtract


class ModifiedMLP(eqx.Module):
    """h ← z ⊙ U + (1 − z) ⊙ V with z = σ(Wh + b) in each hidden layer; U and V are layers of the input itself.

    Sifan Wang, Yujun Teng and Paris Perdikaris, *Understanding and mitigating gradient flow pathologies in
    physics-informed neural networks*, 2021, equations 41 to 46, where it is (1 − z) ⊙ U + z ⊙ V: the same, U and V
    exchanged. The first layer is h = σ(W₁x + b₁), ungated as there. Weights have Glorot's variance.

    **Arguments:** `inputs`; `outputs`, a number or "scalar"; `width`; `depth`: the first layer and the gated ones;
    `activation`, elementwise and smooth.

    **Cost:** (depth − 1)·width² multiplications a point.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> rv.models.ModifiedMLP(2, 3, width=20, depth=3, key=jax.random.key(0))(jnp.zeros(2)).shape
    (3,)

    ```
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    encoders: tuple[tuple[Array, Array], ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int | Literal["scalar"],
        *,
        width: int = 20,
        depth: int = 3,
        activation: Callable[[Array], Array] = jnp.tanh,
        key: RandomKey,
    ):
        count = sizes("ModifiedMLP", inputs, outputs, width=width, depth=depth)
        self.activation, self.scalar = activation, outputs == "scalar"
        shape = (inputs, *(width,) * depth, count)
        u, v, *keys = jax.random.split(key, len(shape) + 1)
        self.weights, self.biases = drawn(shape, (*keys[: len(shape) - 1], jax.random.fold_in(key, 1)))
        self.encoders = _encoders(inputs, width, u, v)

    def __call__(self, x: Inexact[Array, "inputs"]) -> Float[Array, "*outputs"]:
        return self.taylor(x, ())[0]

    def taylor(self, z: Inexact[Array, "inputs"], curves: Curves) -> tuple[Array, Curves]:
        """See `ravine.taylor`."""
        start = z, curves
        u, v = _encoded(self.encoders, self.activation, start)
        layers = list(zip(self.weights, self.biases, strict=True))
        jet = elementwise(self.activation, *affine(*layers[0], start))
        for layer in layers[1:-1]:
            jet = _gate(elementwise(self.activation, *affine(*layer, jet)), u, v)
        return entry(affine(*layers[-1], jet), self.scalar)


class PirateNet(eqx.Module):
    """A network that begins as a linear function of an embedding, and becomes as deep as training makes it.

    From x = Φ(z), each block computes f = σ(W₁x + b₁), z₁ = f ⊙ U + (1 − f) ⊙ V, g = σ(W₂z₁ + b₂),
    z₂ = g ⊙ U + (1 − g) ⊙ V, h = σ(W₃z₂ + b₃) and x ← αh + (1 − α)x with a trained α that is zero at the start; U and
    V are layers of Φ(z).

    Sifan Wang, Bowen Li, Yuhan Chen and Paris Perdikaris, *PirateNets: physics-informed deep learning with residual
    adaptive networks*, 2024, equations 4.2 to 4.9. Deviations: weights are plain, not factorised, and the last
    one is drawn, not fitted to data.

    **Arguments:** `inputs`; `outputs`, a number or "scalar"; `embedding`, Φ, any callable: by default `Fourier` with
    `width`/2 frequencies of standard deviation `scale`; `width`, the number of Φ's entries and of every hidden layer's;
    `blocks`; `activation`, elementwise and smooth.

    **Raises:** `ValueError` for an odd width without an embedding, or an embedding that has not `width` entries.

    **Cost:** (3·blocks + 2)·width² multiplications a point.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> model = rv.models.PirateNet(2, "scalar", width=16, blocks=2, key=jax.random.key(0))
    >>> z = jnp.array([0.3, -0.2])
    >>> bool(jnp.allclose(model(z), (model.last @ model.embedding(z))[0]))
    True

    ```
    """

    embedding: Any
    encoders: tuple[tuple[Array, Array], ...]
    layers: tuple[tuple[tuple[Array, Array], ...], ...]
    alphas: tuple[Array, ...]
    last: Array
    activation: Callable[[Array], Array] = eqx.field(static=True)
    scalar: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        outputs: int | Literal["scalar"],
        *,
        embedding: Callable[[Array], Array] | None = None,
        width: int = 32,
        blocks: int = 3,
        scale: float = 1.0,
        activation: Callable[[Array], Array] = jnp.tanh,
        key: RandomKey,
    ):
        count = sizes("PirateNet", inputs, outputs, width=width, blocks=blocks)
        u, v, last, first, *keys = jax.random.split(key, 3 * blocks + 4)
        if embedding is None:
            if width % 2:
                raise ValueError(
                    f"PirateNet: width is {width}, but half of it are cosines and half sines: make it even."
                )
            embedding = Fourier(inputs, width // 2, scale=scale, key=first)
        shape = eqx.filter_eval_shape(embedding, jnp.zeros(inputs)).shape
        if shape != (width,):
            raise ValueError(
                f"PirateNet: the embedding makes an array of shape {shape} of {inputs} inputs, but width={width} asks "
                f"for ({width},): blocks add to the embedding, so that both must be of one size."
            )
        self.embedding, self.activation, self.scalar = embedding, activation, outputs == "scalar"
        self.encoders = _encoders(width, width, u, v)
        layer = lambda k: (dense(width, width, k), jnp.zeros(width))
        self.layers = tuple(tuple(layer(k) for k in keys[3 * block : 3 * block + 3]) for block in range(blocks))
        self.alphas = tuple(jnp.zeros(()) for _ in range(blocks))
        self.last = dense(width, count, last)

    def __call__(self, x: Inexact[Array, "inputs"]) -> Float[Array, "*outputs"]:
        return self.taylor(x, ())[0]

    def taylor(self, z: Inexact[Array, "inputs"], curves: Curves) -> tuple[Array, Curves]:
        """See `ravine.taylor`."""
        return entry(affine(self.last, None, self._features(z, curves)), self.scalar)

    def _features(self, z, curves) -> Jet:
        jet = taylor(self.embedding, z, curves)
        u, v = _encoded(self.encoders, self.activation, jet)
        for (one, two, three), alpha in zip(self.layers, self.alphas, strict=True):
            new = _gate(elementwise(self.activation, *affine(*one, jet)), u, v)
            new = _gate(elementwise(self.activation, *affine(*two, new)), u, v)
            new = elementwise(self.activation, *affine(*three, new))
            jet = jax.tree.map(lambda h, x, a=alpha: a * h + (1 - a) * x, new, jet)
        return jet


def _encoders(inputs: int, width: int, *keys: RandomKey):
    return tuple((dense(inputs, width, key), spread(width, jax.random.fold_in(key, 1))) for key in keys)


def _encoded(encoders, activation: Callable, jet: Jet) -> tuple[Jet, ...]:
    return tuple(elementwise(activation, *affine(weight, bias, jet)) for weight, bias in encoders)


def _gate(gate: Jet, u: Jet, v: Jet) -> Jet:
    """gate ⊙ (u − v) + v."""
    return add(product(gate, subtract(u, v)), v)
