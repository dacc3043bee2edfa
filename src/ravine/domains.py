"""Where the points live: a domain knows its interior, boundary and initial slice as maps from the unit cube."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float


class Region(eqx.Module):
    """A piece of a domain: `place` carries `(m, dimension)` points of the unit cube to `(m, d)` points of the piece.

    Where it consists of several `faces`, each takes an equal run of consecutive points.
    """

    dimension: int = eqx.field(static=True)
    place: Callable[[Any], Any] = eqx.field(static=True)
    faces: int = eqx.field(static=True, default=1)


class Box(eqx.Module):
    """The box [low₁, high₁] × … × [low_d, high_d]; where time is a coordinate, it is the last.

    **Arguments:** `low`, `high`: the corners, one number a coordinate; `time`: whether the last coordinate is time. By
    default a problem finds out by itself: it is, as soon as one of its terms is an initial condition.

    **Raises:** `ValueError` for corners that do not span a box.

    ```python
    >>> import ravine as rv
    >>> rv.Box((-1.0, 0.0), (1.0, 2.0)).volume
    4.0

    ```
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    time: bool | None = eqx.field(static=True)

    def __init__(self, low, high, *, time: bool | None = None):
        self.low, self.high = tuple(map(float, np.ravel(low))), tuple(map(float, np.ravel(high)))
        self.time = time
        if len(self.low) != len(self.high):
            raise ValueError(f"Box: low has {len(self.low)} coordinates but high has {len(self.high)}.")
        if not all(np.isfinite(self.low + self.high)) or any(a >= b for a, b in zip(self.low, self.high, strict=True)):
            raise ValueError(f"Box: each coordinate needs finite low < high, got low={self.low}, high={self.high}.")

    @property
    def dimension(self) -> int:
        """The number of coordinates, time included."""
        return len(self.low)

    @property
    def volume(self) -> float:
        """The product of the side lengths."""
        return float(np.prod(np.subtract(self.high, self.low)))

    def region(self, where: str, *, time: bool = False) -> Region:
        """The named piece: "interior", "boundary" (faces in space, for all times) or "initial" (first time)."""
        if where == "interior":
            return self.interior()
        if where == "boundary":
            return self.boundary(time=time)
        if where == "initial":
            return self.face(self.dimension - 1, high=False)
        raise ValueError(f"Box: there is no region {where!r}; choose from interior, boundary, initial.")

    def interior(self) -> Region:
        """The whole box."""
        return Region(self.dimension, _Faces(self.low, self.high, ((-1, False),)))

    def face(self, axis: int, *, high: bool) -> Region:
        """The face on which coordinate `axis` is at its low or high end."""
        return Region(self.dimension - 1, _Faces(self.low, self.high, ((axis, high),)))

    def boundary(self, *, time: bool = False) -> Region:
        """All faces (of the spatial coordinates, when `time`); points are shared out evenly among the faces."""
        axes = range(self.dimension - 1 if time else self.dimension)
        faces = tuple((axis, end) for axis in axes for end in (False, True))
        return Region(self.dimension - 1, _Faces(self.low, self.high, faces), len(faces))


class _Faces(eqx.Module):
    """Unit-cube points onto faces, an equal run of consecutive points each. Axis −1 is the interior.

    A value (not a closure), so that equal boxes share compiled code.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    faces: tuple[tuple[int, bool], ...] = eqx.field(static=True)

    def __call__(self, unit: Float[Array, "m k"]) -> Float[Array, "m d"]:
        low, high = jnp.asarray(self.low, unit.dtype), jnp.asarray(self.high, unit.dtype)
        placed = []
        for axis, end in self.faces:
            full = unit if axis < 0 else jnp.insert(unit, axis, float(end), axis=1)
            # (1−s)·low + s·high hits both ends exactly, low + s·(high−low) does not.
            placed.append((1 - full) * low[None] + full * high[None])
        # Runs, not turns: every second point of a Sobol sequence lies in one half of the cube.
        turn = (jnp.arange(unit.shape[0]) * len(self.faces)) // max(unit.shape[0], 1)
        return jnp.take_along_axis(jnp.stack(placed), turn[None, :, None], axis=0)[0]
