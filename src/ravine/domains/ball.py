"""Balls in any number of coordinates."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from ravine._types import Array, Float
from ravine.domains.region import Faced, Region, Where, asked, unknown, whole_boundary


class Ball(eqx.Module):
    """The ball |x − center| ≤ radius; points are uniform in it and on its sphere.

    In one to three coordinates by polar coordinates, in more by normal deviates, for which there is no quadrature.

    **Raises:** `ValueError` for a radius that is not positive and finite.

    ```python
    >>> import ravine as rv
    >>> round(rv.Ball((0.0, 1.0), 2.0).volume, 6)
    12.566371

    ```
    """

    center: tuple[float, ...] = eqx.field(static=True)
    radius: float = eqx.field(static=True)

    def __init__(self, center, radius: float):
        self.center, self.radius = tuple(map(float, np.ravel(center))), float(radius)
        if not self.center or not all(np.isfinite(self.center)) or not 0 < self.radius < np.inf:
            raise ValueError(f"Ball: needs a finite center and a radius above zero, got {center=}, {radius=}.")

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return len(self.center)

    @property
    def time(self) -> bool:
        """Whether the last coordinate is time: no; `InTime` adds it."""
        return False

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the smallest box around it."""
        return np.asarray(self.center) - self.radius, np.asarray(self.center) + self.radius

    @property
    def volume(self) -> float:
        """π^(d/2) rᵈ / Γ(d/2 + 1)."""
        d = self.dimension
        return float(np.pi ** (d / 2) * self.radius**d / math.gamma(d / 2 + 1))

    def contains(self, points: Float[Array, "m d"]) -> Array:
        """Which points lie in the closed ball, `(m,)`."""
        away = jnp.linalg.norm(points - jnp.asarray(self.center, points.dtype)[None], axis=1)
        return away <= self.radius * (1 + 8 * jnp.finfo(points.dtype).eps)

    def region(self, where: Where, *, time: bool = False) -> Region:
        """The "interior", or the "boundary": the sphere, with normals where a `Boundary` asks for them."""
        name, part = asked(where)
        d = self.dimension
        if name == "interior":
            return Region(d if d <= 3 else d + 1, _Solid(self), chart=_Solid(self, smooth=True))
        if name == "boundary":
            place = _Sphere(self, normals=whole_boundary("Ball", part))
            chart = _Unavailable(d) if d > 3 else _Weighless(place)
            return Region(d - 1 if d <= 3 else d, place, faces=2 if d == 1 else 1, chart=chart)
        raise unknown("Ball", name)


class _Solid(eqx.Module):
    """Unit points into the ball: uniform, or smooth with a density."""

    ball: Ball
    smooth: bool = eqx.field(static=True, default=False)

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        d = self.ball.dimension
        if self.smooth and d > 3:
            raise _no_quadrature(d)
        if d == 1:
            points = _shifted(self.ball, 2 * unit - 1)
            return (points, jnp.ones_like(unit[:, 0])) if self.smooth else points
        s = unit[:, 0]
        radius = s if self.smooth else s ** (1 / d)
        points = _shifted(self.ball, radius[:, None] * _directions(unit[:, 1:], d))
        return (points, s ** (d - 1)) if self.smooth else points


class _Sphere(eqx.Module):
    """Unit points onto the sphere."""

    ball: Ball
    normals: bool = eqx.field(static=True)

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        outward = _directions(unit, self.ball.dimension)
        points = _shifted(self.ball, outward)
        return Faced(points, outward) if self.normals else points


class _Weighless(eqx.Module):
    """A map of constant density."""

    place: Any

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        return self.place(unit), jnp.ones(unit.shape[0], unit.dtype)


class _Unavailable(eqx.Module):
    dimension: int = eqx.field(static=True)

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        raise _no_quadrature(self.dimension)


def _no_quadrature(dimension: int) -> ValueError:
    return ValueError(
        f"Ball: there is no quadrature rule in {dimension} coordinates. Use Monte Carlo: ravine.Sobol, ravine.Uniform."
    )


def _directions(unit: Float[Array, "m k"], dimension: int) -> Float[Array, "m d"]:
    """Uniform on the unit sphere; in one coordinate the left half of the rows on the left end."""
    if dimension == 1:
        side = (jnp.arange(unit.shape[0]) * 2) // max(unit.shape[0], 1)
        return (2 * side - 1)[:, None].astype(unit.dtype)
    if dimension <= 3:
        angle = 2 * jnp.pi * unit[:, -1]
        circle = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        if dimension == 2:
            return circle
        height = 2 * unit[:, 0] - 1
        return jnp.concatenate([jnp.sqrt(1 - height**2)[:, None] * circle, height[:, None]], axis=1)
    edge = float(jnp.finfo(unit.dtype).eps)
    normal = ndtri(jnp.clip(unit, edge, 1 - edge))
    return normal / jnp.linalg.norm(normal, axis=1, keepdims=True)


def _shifted(ball: Ball, scaled: Float[Array, "m d"]) -> Float[Array, "m d"]:
    return jnp.asarray(ball.center, scaled.dtype)[None] + ball.radius * scaled
