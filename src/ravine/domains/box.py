"""Boxes, in space or in space and time."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float
from ravine.domains.region import Faced, Region, Where, asked, in_runs


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
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners."""
        return np.asarray(self.low), np.asarray(self.high)

    @property
    def volume(self) -> float:
        """The product of the side lengths."""
        return float(np.prod(np.subtract(self.high, self.low)))

    def region(self, where: Where, *, time: bool = False) -> Region:
        """The named piece: "interior", "boundary" (faces in space, for all times; or a `Boundary`) or "initial" (first
        time)."""
        name, part = asked(where)
        if name == "interior":
            return self.interior()
        if name == "boundary":
            return self.boundary(time=time, faces=part.faces, gives=part.gives)
        if name == "initial":
            return self.face(self.dimension - 1, high=False)
        raise ValueError(f"Box: there is no region {name!r}; choose from interior, boundary, initial.")

    def interior(self) -> Region:
        """The whole box."""
        return Region(self.dimension, _Faces(self.low, self.high, ((-1, False),)))

    def face(self, axis: int, *, high: bool) -> Region:
        """The face on which coordinate `axis` is at its low or high end."""
        return Region(self.dimension - 1, _Faces(self.low, self.high, ((axis, high),)))

    def boundary(self, *, time: bool = False, faces=None, gives: str = "points") -> Region:
        """All faces (of the spatial coordinates, when `time`), or those named; points are shared out evenly among them.

        **Raises:** `ValueError` where there is no such face.
        """
        space = self.dimension - 1 if time else self.dimension
        if faces is None:
            faces = tuple((axis, end) for axis in range(space) for end in (False, True))
        if not faces or any(not 0 <= axis < space for axis, _ in faces):
            told = f"a face {faces}" if faces else "a boundary"
            raise ValueError(
                f"Box: a term asks for {told}, but this box has {space} coordinates in space, numbered from 0"
                f"{', its last coordinate being time' if time else ''}."
            )
        faces = tuple((int(axis), bool(high)) for axis, high in faces)
        if gives == "pairs":
            other = tuple((axis, not high) for axis, high in faces)
            place = _Pairs(_Faces(self.low, self.high, faces), _Faces(self.low, self.high, other))
        else:
            place = _Faces(self.low, self.high, faces, normals=gives == "normals")
        return Region(self.dimension - 1, place, len(faces))

    def contains(self, points: Float[Array, "m d"]) -> Array:
        """Which points lie in the closed box, `(m,)`."""
        low, high = jnp.asarray(self.low, points.dtype), jnp.asarray(self.high, points.dtype)
        slack = 4 * jnp.finfo(points.dtype).eps * jnp.maximum(jnp.abs(low), jnp.abs(high))
        return jnp.all((points >= (low - slack)[None]) & (points <= (high + slack)[None]), axis=1)


class _Faces(eqx.Module):
    """Unit-cube points onto faces, an equal run of consecutive points each. Axis −1 is the interior.

    A value (not a closure), so that equal boxes share compiled code.
    """

    low: tuple[float, ...] = eqx.field(static=True)
    high: tuple[float, ...] = eqx.field(static=True)
    faces: tuple[tuple[int, bool], ...] = eqx.field(static=True)
    normals: bool = eqx.field(static=True, default=False)

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        low, high = jnp.asarray(self.low, unit.dtype), jnp.asarray(self.high, unit.dtype)
        placed, normals = [], []
        for axis, end in self.faces:
            full = unit if axis < 0 else jnp.insert(unit, axis, float(end), axis=1)
            # (1−s)·low + s·high hits both ends exactly, low + s·(high−low) does not.
            placed.append((1 - full) * low[None] + full * high[None])
            outward = jnp.zeros_like(low) if axis < 0 else jnp.zeros_like(low).at[axis].set(1.0 if end else -1.0)
            normals.append(jnp.broadcast_to(outward[None], placed[-1].shape))
        points = in_runs(placed, unit.shape[0])
        return Faced(points, in_runs(normals, unit.shape[0])) if self.normals else points


class _Pairs(eqx.Module):
    """The points of some faces and those opposite."""

    faces: _Faces
    others: _Faces

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        return self.faces(unit), self.others(unit)


def interval(low: float, high: float) -> Box:
    """The interval [low, high]: a box of one coordinate. Its boundary is its two ends."""
    return Box((low,), (high,), time=False)
