"""Derivatives along curves: what a function makes of a point that moves.

`taylor` carries them through a function: layer by layer for models that know how, so that derivatives cost matrix
products, by nested forward mode else. The operators of `ravine.calculus` are made of it.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float
from ravine.elementary import sincos, tanh

SPREAD = "ravine.jets.spread"  # the axis over which `jax.vmap` follows curves of a `Spread`


class Spread(eqx.Module):
    """Several curves at once: the first derivative of each, and the *sum* of their second ones, which is all that a
    Laplacian needs of them.

    The sum passes a layer as one column, so that d curves cost d + 2 columns, not 2d + 1 (the forward Laplacian:
    Ruichen Li et al., *A computational framework for neural network-based variational Monte Carlo with Forward
    Laplacian*, 2024). With `mapped`, `jax.vmap` over the axis `SPREAD` follows further curves, and the sum runs over it
    too.
    """

    firsts: tuple[Array, ...]
    second: Array
    mapped: bool = eqx.field(static=True)

    def dot(self, others: tuple[Array, ...]) -> Array:
        """Σ over the curves of the products of first derivatives."""
        return self.total([a * b for a, b in zip(self.firsts, others, strict=True)])

    def total(self, parts: list[Array]) -> Array:
        """The sum over all curves."""
        found = functools.reduce(operator.add, parts)
        return jax.lax.psum(found, SPREAD) if self.mapped else found


# The derivatives of a curve s ↦ z(s) at s = 0: z′, z″, … ("...": a layer's curves differ in shape before and after it)
Curve = tuple[Float[Array, "..."], ...]
Curves = TypeVar("Curves", bound=tuple[Curve | Spread, ...])


def taylor(f: Callable, z: Float[Array, "..."], curves: Curves) -> tuple[Float[Array, "..."], Curves]:
    """f(z) and, for each curve through z, the derivatives of s ↦ f(z(s)) to the order the curve is given to.

    The curves share z, and hence everything that depends on z alone. A callable that knows better than nested forward
    mode says so by a method `taylor(z, curves)` with this meaning; the models of this library do, layer by layer. Such
    a method maps over the leaves of `curves` where it is linear (`jax.tree.map`), and uses `elementwise` and
    `ravine.models.layers.product` where it is not: a curve may be a `Spread` too.

    **Cost:** 2ᵏ evaluations for a curve of order k when f has no such method.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> value, ((first, second),) = rv.taylor(jnp.sin, jnp.array(0.0), ((jnp.array(1.0), jnp.array(2.0)),))
    >>> float(value), float(first), float(second)
    (0.0, 1.0, 2.0)

    ```
    """
    own = getattr(f, "taylor", None)
    if own is not None:
        return own(z, curves)
    if not curves:
        return f(z), curves
    values, derivatives = [], []
    for curve in curves:
        if isinstance(curve, Spread):
            # Not the value found along a curve: under `vmap` that depends on the curve.
            value, rest = f(z), _spread(f, z, curve)
        else:
            value, *found = _along(f, z, curve)
            rest = tuple(found)
        values.append(value)
        derivatives.append(rest)
    out: Any = tuple(derivatives)
    return values[0], out


def _spread(f: Callable, z: Array, curve: Spread) -> Spread:
    """f's derivatives along the curves of a `Spread`, by nested forward mode."""
    found = [_along(f, z, (first, jnp.zeros_like(z))) for first in curve.firsts]
    second = curve.total([second for _, _, second in found]) + slope(f, curve.second, z)
    return Spread(tuple(first for _, first, _ in found), second, curve.mapped)


def _along(f: Callable, z: Array, curve: Curve) -> tuple[Array, ...]:
    """Nested `jvp` of s ↦ f(z + s z′ + s²/2 z″ + …)."""

    def path(s):
        total, power = z, jnp.ones_like(s)
        for order, derivative in enumerate(curve, start=1):
            power = power * s / order
            total = total + power * derivative
        return (f(total),)

    def differentiate(g):
        def both(s):
            values, slopes = jax.jvp(g, (s,), (jnp.ones_like(s),))
            return (*values, slopes[-1])

        return both

    for _ in curve:
        path = differentiate(path)
    return path(jnp.zeros((), z.dtype))


def slope(u: Callable, v: Array, z: Array) -> Array:
    """The derivative of u at z along v."""
    return jax.jvp(u, (z,), (v,))[1]


def elementwise(function: Callable, z: Array, curves: Curves) -> tuple[Array, Curves]:
    """`taylor` for a function that acts on each entry by itself, by Faà di Bruno's formula: the sum of σ⁽ᵏ⁾
    times partial Bell polynomials B_{n,k}(z′, z″, …)."""
    highest = max((2 if isinstance(curve, Spread) else len(curve) for curve in curves), default=0)
    value, *d = _derivatives(function, z, highest)
    out: Any = []
    for curve in curves:
        if isinstance(curve, Spread):
            second = d[0] * curve.second + d[1] * curve.dot(curve.firsts)
            out.append(Spread(tuple(d[0] * first for first in curve.firsts), second, curve.mapped))
            continue
        bell = _bell(curve)
        terms = [[slope * one for slope, one in zip(d, row, strict=False)] for row in bell]
        out.append(tuple(functools.reduce(operator.add, row) for row in terms))
    out = tuple(out)
    return value, out


def _bell(curve: Curve) -> list[list[Array]]:
    """The partial Bell polynomials B_{n,k}, 1 ≤ k ≤ n, of a curve's derivatives, by their recurrence in n."""
    rows: list[list[Array]] = []
    for n in range(1, len(curve) + 1):
        row = [curve[n - 1]]
        for k in range(2, n + 1):
            parts = [(math.comb(n - 1, i - 1), curve[i - 1] * rows[n - i - 1][k - 2]) for i in range(1, n - k + 2)]
            row.append(functools.reduce(operator.add, [part if c == 1 else c * part for c, part in parts]))
        rows.append(row)
    return rows


def _derivatives(function: Callable, z: Array, order: int) -> list[Array]:
    """σ(z), σ′(z), … entry by entry: in closed form where one evaluation serves all, else by nested `jvp`."""
    if function is jnp.tanh and order <= 4:
        s = tanh(z)
        first = 1 - s * s
        closed = [s, first, -2 * s * first, first * (6 * s * s - 2), 8 * s * first * (2 - 3 * s * s)]
        return closed[: order + 1]
    if function is jnp.sin:
        sin, cos = sincos(z)
        return [(sin, cos, -sin, -cos)[k % 4] for k in range(order + 1)]
    if function is jnp.cos:
        sin, cos = sincos(z)
        return [(cos, -sin, -cos, sin)[k % 4] for k in range(order + 1)]
    found = [function]
    for _ in range(order):
        found.append(lambda x, g=found[-1]: jax.jvp(g, (x,), (jnp.ones_like(x),))[1])
    return [g(z) for g in found]
