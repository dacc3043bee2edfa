"""Conditions that hold exactly, by construction."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array
from ravine.calculus import partials
from ravine.jets import taylor
from ravine.models.layers import add, product


class Constrained(eqx.Module):
    """u(z) = C(z) + ℓ(z)·N(z): C meets the conditions, ℓ vanishes where they hold, N is the network.

    Isaac Lagaris, Aristidis Likas and Dimitrios Fotiadis, *Artificial neural networks for solving ordinary and partial
    differential equations*, 1998. A condition that holds exactly needs no term and no weight.

    **Arguments:** `network`; `offset`, C; `factor`, ℓ: functions of one point without parameters.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u = rv.models.Constrained(lambda z: 7.0, offset=lambda z: z[0], factor=lambda z: z[0] * (1 - z[0]))
    >>> float(u(jnp.array([1.0])))
    1.0

    ```
    """

    network: Any
    offset: Callable[[Array], Array] = eqx.field(static=True)
    factor: Callable[[Array], Array] = eqx.field(static=True)

    def __call__(self, z):
        return self.offset(z) + self.factor(z) * self.network(z)

    def taylor(self, z, curves):
        """See `ravine.taylor`: Leibniz's rule for ℓN."""
        offset, factor, network = (taylor(part, z, curves) for part in (self.offset, self.factor, self.network))
        return add(offset, product(factor, network))


class Odd(eqx.Module):
    """x ↦ (N(x) − N(x̄))/2 with x̄ the reflection of x in one coordinate: odd in that coordinate by construction.

    A symmetry that equation and data share holds for the solution; built in, points are needed on one side only, and
    the errors that break it cannot occur. **Cost:** two evaluations of the network.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> u = rv.models.Odd(lambda z: (z[0] + 1) ** 3, axis=0)
    >>> float(u(jnp.array([2.0]))), float(u(jnp.array([-2.0])))
    (14.0, -14.0)

    ```
    """

    network: Any
    axis: int = eqx.field(static=True)

    def __call__(self, z):
        return (self.network(z) - self.network(self._reflect(z))) / 2

    def _reflect(self, z):
        return z.at[self.axis].multiply(-1)

    def taylor(self, z, curves):
        """See `ravine.taylor`."""
        # Both as one batch: half as many matrix products, of twice as many rows. Measured on one core: a gradient of
        # Burgers takes 0.84 of the time, a product with JᵀJ 0.82; rows of the Jacobian take 1.15 times as long.
        both = jax.tree.map(lambda leaf: jnp.stack([leaf, self._reflect(leaf)]), (z, curves))
        found = jax.vmap(functools.partial(taylor, self.network))(*both)
        return jax.tree.map(lambda leaf: (leaf[0] - leaf[1]) / 2, found)


@dataclasses.dataclass(frozen=True)
class Distance:
    """Π 4(x_i − low_i)(high_i − x_i)/(high_i − low_i)² over some coordinates, to a power; times t − t₀ on request.

    Zero on the faces of a box and one in its middle: the factor ℓ of `Constrained`. With `power` 2 the derivative
    vanishes on the faces too. A value: equal distances share compiled code.

    **Arguments:** `low`, `high`: corners of the box, one number a coordinate; `axes`, the coordinates whose faces
    count, all by default; `power`; `initial`: one more coordinate, time, at whose low end ℓ vanishes too; it grows as
    (t − t₀)/(t₁ − t₀).

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> inside = rv.models.Distance((0.0, 0.0), (1.0, 2.0))
    >>> [float(inside(jnp.array(z))) for z in ([0.5, 1.0], [0.5, 2.0], [0.25, 1.0])]
    [1.0, 0.0, 0.75]

    ```
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    axes: tuple[int, ...] | None = None
    power: int = 1
    initial: int | None = None

    def __post_init__(self):
        if len(self.low) != len(self.high) or any(a >= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"Distance: each coordinate needs low < high, got {self.low=}, {self.high=}.")
        named = (*(self.axes or ()), *(() if self.initial is None else (self.initial,)))
        if self.power < 1 or len(set(named)) < len(named) or any(not 0 <= axis < len(self.low) for axis in named):
            raise ValueError(
                f"Distance: power must be at least 1 and the coordinates different ones from 0 to {len(self.low) - 1}, "
                f"got {self.power=}, {self.axes=}, {self.initial=}."
            )

    def __call__(self, z: Array) -> Array:
        return self.taylor(z, ())[0]

    def taylor(self, z, curves):
        """See `ravine.taylor`: a product of affine functions."""
        total = jax.tree.map(jnp.zeros_like, _along(z, curves, 0))
        total = total[0] + 1, total[1]
        for axis in range(len(self.low)) if self.axes is None else self.axes:
            if axis != self.initial:
                a, b = self.low[axis], self.high[axis]
                here, slopes = _along(z, curves, axis)
                both = product((here - a, slopes), (b - here, jax.tree.map(jnp.negative, slopes)))
                both = jax.tree.map(lambda leaf, scale=4 / (b - a) ** 2: scale * leaf, both)
                for _ in range(self.power):
                    total = product(total, both)
        if self.initial is not None:
            a, b = self.low[self.initial], self.high[self.initial]
            here, slopes = _along(z, curves, self.initial)
            total = product(total, jax.tree.map(lambda leaf: leaf / (b - a), (here - a, slopes)))
        return total


def _along(z, curves, axis: int):
    """One coordinate of a curve."""
    return jax.tree.map(lambda leaf: leaf[axis], (z, curves))


@dataclasses.dataclass(frozen=True)
class Transfinite:
    """A smooth function with given values on all faces of a box: the offset C of `Constrained`.

    C = g − Π_i (1 − P_i) g, where P_i interpolates linearly between the two faces of coordinate i. Since each P_i looks
    at g on faces only, so does C.

    William Gordon and Charles Hall, *Transfinite element methods: blending-function interpolation over arbitrary curved
    element domains*, 1973, section 2.

    **Arguments:** `value`, g: a function of a point, continuous on the boundary; `low`, `high`, the box; `axes`, the
    coordinates whose faces count, all by default.

    **Cost:** 3ᵏ − 1 evaluations of g for k coordinates.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> edge = rv.models.Transfinite(lambda z: z[0] * z[1] + 3, (0.0, 0.0), (1.0, 1.0))
    >>> float(edge(jnp.array([1.0, 0.5]))), float(edge(jnp.array([0.2, 0.0])))
    (3.5, 3.0)

    ```
    """

    value: Callable[[Array], Array]
    low: tuple[float, ...]
    high: tuple[float, ...]
    axes: tuple[int, ...] | None = None

    def __call__(self, z: Array) -> Array:
        axes = range(len(self.low)) if self.axes is None else self.axes
        # (weight, point) pairs of Π (1 − P_i): each factor keeps the point, or moves it onto a face with a minus sign.
        pairs = [(jnp.ones((), z.dtype), z)]
        for axis in axes:
            a, b = self.low[axis], self.high[axis]
            share = (z[axis] - a) / (b - a)
            pairs = [
                pair
                for weight, at in pairs
                for pair in (
                    (weight, at),
                    (-weight * (1 - share), at.at[axis].set(a)),
                    (-weight * share, at.at[axis].set(b)),
                )
            ]
        return -jnp.sum(jnp.stack([weight * self.value(at) for weight, at in pairs[1:]]), axis=0)


class Curl(eqx.Module):
    """(x, y) ↦ (∂ψ/∂y, −∂ψ/∂x): a velocity without divergence, by construction, from a stream function ψ.

    Equations for ψ read it as `model.stream`. **Cost:** two first derivatives of ψ.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.models.Curl(lambda z: z[0] * z[1] ** 2)(jnp.array([2.0, 3.0])).tolist()
    [12.0, -9.0]

    ```
    """

    stream: Any

    def __call__(self, z: Array) -> Array:
        along, across = partials(self.stream, z, 1, 0)
        return jnp.stack([along, -across])
