"""Derivatives of a model at one point, for use inside a residual.

Everything here takes the model `u` and one point `z` and returns numbers at that point; batching is the objective's
business. `partials` is the workhorse. Below it lies `taylor`, which carries the derivatives along curves through a
function: layer by layer for models that know how, so that derivatives cost matrix products.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Point
from ravine.elementary import sincos, tanh

Index = int | tuple[int, ...]


def partials(u: Callable, z: Point, *indices: Index) -> tuple[Float[Array, "*shape"], ...]:
    """Partial derivatives of `u` at `z`, in the order asked for.

    Each index names a derivative by its coordinates: `()` is u itself, `0` or `(0,)` is ∂u/∂z₀, `(0, 0)` is ∂²u/∂z₀²,
    `(0, 1)` the mixed one. All orders along all coordinates come out of one Taylor pass, `taylor`; mixed derivatives
    take nested forward passes of their own.

    **Arguments:** `u`, a function of a point of shape `(d,)`; `z`, the point; `indices`, one for each derivative.

    **Returns:** a tuple with one array for each index, each of `u(z)`'s shape.

    **Raises:** `ValueError` when a coordinate does not exist.

    **Cost:** about 1 + Σ (highest order of each coordinate) evaluations of u for a model that knows its Taylor
    pass; for other callables 2ᵏ evaluations for order k (nested forward mode, after Griewank and Walther, *Evaluating
    Derivatives*, 2008, chapters 3 and 13).

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u = lambda z: z[0] ** 3 * z[1]
    >>> [float(d) for d in rv.partials(u, jnp.array([2.0, 5.0]), (), 1, (0, 0), (0, 1))]
    [40.0, 8.0, 60.0, 12.0]

    ```
    """
    asked = [(index,) if isinstance(index, int) else tuple(sorted(index)) for index in indices]
    dimension = z.shape[0]
    for index in asked:
        if any(not 0 <= axis < dimension for axis in index):
            raise ValueError(
                f"partials: the derivative {index} names a coordinate that the point does not have: "
                f"it has {dimension} coordinates, numbered 0 to {dimension - 1}."
            )
    orders: dict[int, int] = {}
    for index in asked:
        if len(set(index)) == 1:
            orders[index[0]] = max(orders.get(index[0], 0), len(index))
    value, curves = taylor(u, z, tuple(_line(z, axis, order) for axis, order in orders.items()))
    found: dict[tuple[int, ...], Array] = {(): value}
    for axis, curve in zip(orders, curves, strict=True):
        found |= {(axis,) * (order + 1): derivative for order, derivative in enumerate(curve)}
    for index in asked:
        if index not in found:
            found[index] = _nested(u, z, index)
    return tuple(found[index] for index in asked)


# The axis over which `jax.vmap` follows curves of a `Spread`, and how many of them are written out instead. Measured on
# two cores: written out, two coordinates are up to a third faster (a gradient of poisson2d with 180 units and 10,000
# points); mapped, five take 0.6 of the time (rows of the Jacobian of poisson5d).
SPREAD, UNROLLED = "ravine.calculus.spread", 4


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
    second = curve.total([second for _, _, second in found]) + _slope(f, curve.second, z)
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


def _line(z: Point, axis: int, order: int) -> Curve:
    return (jnp.zeros_like(z).at[axis].set(1), *(jnp.zeros_like(z) for _ in range(order - 1)))


def _nested(u: Callable, z: Point, index: tuple[int, ...]) -> Array:
    """One mixed derivative by nested `jvp`."""

    def differentiate(f, axis):
        return lambda point: jax.jvp(f, (point,), (jnp.zeros_like(z).at[axis].set(1),))[1]

    for axis in index:
        u = differentiate(u, axis)
    return u(z)


def gradient(u: Callable, z: Point) -> Float[Array, "d"]:
    """∇u at `z` for a scalar `u`, by reverse mode. **Cost:** about three evaluations of u.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.gradient(lambda z: z[0] * z[1], jnp.array([2.0, 5.0])).tolist()
    [5.0, 2.0]

    ```
    """
    return jax.grad(u)(z)


def value_and_gradient(u: Callable, z: Point) -> tuple[Float[Array, "*shape"], Float[Array, "*shape d"]]:
    """u and its first derivatives at `z`, in one Taylor pass; for a scalar u they are its gradient.

    **Cost:** about 1 + d evaluations of u; above 8 coordinates reverse mode for a scalar u, about three.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> value, slope = rv.value_and_gradient(lambda z: z[0] * z[1], jnp.array([2.0, 5.0]))
    >>> float(value), slope.tolist()
    (10.0, [5.0, 2.0])

    ```
    """
    dimension = z.shape[0]
    if dimension <= 8:
        value, curves = taylor(u, z, tuple(_line(z, axis, 1) for axis in range(dimension)))
        return value, jnp.stack([first for (first,) in curves], axis=-1)
    if jax.eval_shape(u, z).shape == ():
        return jax.value_and_grad(u)(z)
    along = lambda basis: taylor(u, z, ((basis,),))
    value, ((first,),) = jax.vmap(along, out_axes=(None, -1))(jnp.eye(dimension, dtype=z.dtype))
    return value, first


def directional(u: Callable, z: Point, *directions: Float[Array, "d"]) -> Float[Array, "*shape"]:
    """The derivative of u along each of `directions` in turn, of any order: D_v D_w u for `directional(u, z, v, w)`.

    **Cost:** the same array given k times is one Taylor pass of order k; different directions take nested forward mode,
    2ᵏ evaluations.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> v = jnp.array([1.0, 2.0])
    >>> float(rv.directional(lambda z: z[0] ** 2 * z[1], jnp.array([3.0, 1.0]), v, v))
    26.0

    ```
    """
    if all(v is directions[0] for v in directions):
        zeros = (jnp.zeros_like(z),) * (len(directions) - 1)
        return taylor(u, z, ((directions[0], *zeros),))[1][0][-1] if directions else taylor(u, z, ())[0]
    for v in directions:
        u = functools.partial(_slope, u, v)
    return u(z)


def _slope(u: Callable, v: Array, z: Array) -> Array:
    return jax.jvp(u, (z,), (v,))[1]


def hessian_diagonal(u: Callable, z: Point) -> Float[Array, "d *shape"]:
    """∂²u/∂z_i² at `z` for every coordinate i. **Cost:** as `partials`.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.hessian_diagonal(lambda z: z[0] ** 2 * z[1] ** 3, jnp.array([2.0, 1.0])).tolist()
    [2.0, 24.0]

    ```
    """

    dimension = z.shape[0]
    if dimension <= 8:
        _, curves = taylor(u, z, tuple(_line(z, axis, 2) for axis in range(dimension)))
        return jnp.stack([second for _, second in curves])

    # Many coordinates: one traced pass for all of them keeps compilation short.
    def second(basis):
        return taylor(u, z, ((basis, jnp.zeros_like(z)),))[1][0][1]

    return jax.vmap(second)(jnp.eye(dimension, dtype=z.dtype))


def laplacian(u: Callable, z: Point, axes: tuple[int, ...] | None = None) -> Float[Array, "*shape"]:
    """Δu = Σ ∂²u/∂z_i² at `z`, over all coordinates or over `axes` alone, as for an equation in time.

    **Cost:** about d + 2 evaluations of u over d coordinates, for a model that knows its Taylor pass (2d + 1 for the
    second derivatives one by one; see `Spread`); 4d for other callables.

    **Raises:** `ValueError` when a coordinate does not exist or is named twice.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> z = jnp.array([2.0, 1.0, 0.0])
    >>> float(rv.laplacian(lambda z: jnp.sum(z**2), z)), float(rv.laplacian(lambda z: jnp.sum(z**2), z, axes=(0, 1)))
    (6.0, 4.0)

    ```
    """
    return gradient_and_laplacian(u, z, axes)[1]


def gradient_and_laplacian(
    u: Callable, z: Point, axes: tuple[int, ...] | None = None
) -> tuple[Float[Array, "k *shape"], Float[Array, "*shape"]]:
    """∂u/∂z_i for each i of the k `axes` (all coordinates by default), and Δu over them.

    **Cost:** that of Δu alone. **Raises:** what `laplacian` does.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> slopes, second = rv.gradient_and_laplacian(lambda z: z[0] ** 2 * z[1], jnp.array([2.0, 5.0]))
    >>> slopes.tolist(), float(second)
    ([20.0, 4.0], 10.0)

    ```
    """
    dimension, still = z.shape[0], jnp.zeros_like(z)
    axes = tuple(range(dimension)) if axes is None else tuple(axes)
    if len(set(axes)) < len(axes) or any(not 0 <= axis < dimension for axis in axes):
        raise ValueError(
            f"laplacian: axes={axes}, but they must be different ones of the point's {dimension} coordinates, numbered "
            f"0 to {dimension - 1}."
        )
    basis = jnp.eye(dimension, dtype=z.dtype)

    def along(firsts: tuple[Array, ...], mapped: bool) -> Spread:
        return taylor(u, z, (Spread(firsts, still, mapped),))[1][0]

    if len(axes) <= UNROLLED:
        found = along(tuple(basis[axis] for axis in axes), False)
        return jnp.stack(found.firsts), found.second

    def one(first: Array) -> tuple[Array, Array]:
        found = along((first,), True)
        return found.firsts[0], found.second

    return jax.vmap(one, axis_name=SPREAD, out_axes=(0, None))(basis[jnp.array(axes)])


def divergence(field: Callable, z: Point) -> Float[Array, ""]:
    """div F = Σ ∂F_i/∂z_i at `z` for a field `F: ℝᵈ → ℝᵈ`. **Cost:** d forward passes.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> float(rv.divergence(lambda z: z**2, jnp.array([2.0, 1.0])))
    6.0

    ```
    """
    return jnp.trace(jax.jacfwd(field)(z))
