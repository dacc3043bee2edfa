"""What networks are made of: values with their derivatives along curves, through affine maps, products and sums.

A *jet* is what `ravine.taylor` returns: f(z), and for each curve the derivatives of s ↦ f(z(s)).
"""

import itertools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ravine._types import Array, RandomKey
from ravine.jets import Spread

Jet = tuple[Array, Any]


def affine(weight: Array, bias: Array | None, jet: Jet) -> Jet:
    """W z + b. As z Wᵀ, so that under `vmap` the points stay the leading axis, and nothing is transposed."""
    z, curves = jax.tree.map(lambda leaf: leaf @ weight.T, jet)
    return (z if bias is None else z + bias), curves


def product(left: Jet, right: Jet) -> Jet:
    """f · g entry by entry, by Leibniz's rule."""
    (f, df), (g, dg) = left, right
    derivatives = []
    for a, b in zip(df, dg, strict=True):
        if isinstance(a, Spread):
            firsts = tuple(f * there + here * g for here, there in zip(a.firsts, b.firsts, strict=True))
            second = f * b.second + 2 * a.dot(b.firsts) + a.second * g
            derivatives.append(Spread(firsts, second, a.mapped))
            continue
        a, b = (f, *a), (g, *b)
        derivatives.append(
            tuple(sum(math.comb(k, j) * a[j] * b[k - j] for j in range(k + 1)) for k in range(1, len(a)))
        )
    return f * g, tuple(derivatives)


def add(left: Jet, right: Jet) -> Jet:
    """f + g."""
    return jax.tree.map(jnp.add, left, right)


def subtract(left: Jet, right: Jet) -> Jet:
    """f − g."""
    return jax.tree.map(jnp.subtract, left, right)


def entry(jet: Jet, scalar: bool) -> Jet:
    """The jet, or that of its only entry."""
    return jax.tree.map(lambda leaf: leaf[..., 0], jet) if scalar else jet


def dense(inputs: int, outputs: int, key: RandomKey) -> Array:
    """A weight with Glorot's variance 2/(inputs + outputs)."""
    return jnp.sqrt(2 / (inputs + outputs)) * jax.random.normal(key, (outputs, inputs))


def spread(width: int, key: RandomKey) -> Array:
    """Biases of a first layer that spread its units over the domain."""
    return jax.random.uniform(key, (width,), minval=-1.0, maxval=1.0)


def drawn(shape: tuple[int, ...], keys: Any) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Weights with Glorot's variance between layers of these sizes, by the first keys; and biases, which are zero but
    for the first layer, where they spread the units over the domain, by the last key."""
    weights = tuple(dense(a, b, key) for (a, b), key in zip(itertools.pairwise(shape), keys, strict=False))
    return weights, (spread(shape[1], keys[-1]), *(jnp.zeros(size) for size in shape[2:]))


def sizes(name: str, inputs: int, outputs: int | Literal["scalar"], **others: int) -> int:
    """The number of outputs. **Raises:** `ValueError` unless every number is at least 1."""
    count = 1 if outputs == "scalar" else int(outputs)
    numbers = {"inputs": inputs, "outputs": count, **others}
    if min(numbers.values()) < 1:
        raise ValueError(
            f"{name}: {', '.join(numbers)} must be at least 1, got "
            f"{', '.join(f'{what}={number}' for what, number in numbers.items())}."
        )
    return count
