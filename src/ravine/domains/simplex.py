"""Simplices: triangles, tetrahedra and their kin."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float
from ravine.domains.region import Faced, Region, Where, asked, in_runs, unknown, whole_boundary


class Simplex(eqx.Module):
    """The convex hull of d + 1 points of ℝᵈ: `Simplex([(0, 0), (1, 0), (0, 1)])`. Points are uniform in it.

    On its boundary points are shared out evenly among the d + 1 faces and are uniform on each.

    **Raises:** `ValueError` for vertices that span no volume.

    ```python
    >>> import ravine as rv
    >>> rv.Simplex([(0.0, 0.0), (2.0, 0.0), (0.0, 1.0)]).volume
    1.0

    ```
    """

    vertices: tuple[tuple[float, ...], ...] = eqx.field(static=True)

    def __init__(self, vertices):
        corners = np.asarray(vertices, float)
        if corners.ndim != 2 or corners.shape[0] != corners.shape[1] + 1 or not np.isfinite(corners).all():
            raise ValueError(f"Simplex: needs d + 1 finite vertices of d coordinates, got shape {corners.shape}.")
        edges = corners[1:] - corners[0]
        if abs(np.linalg.det(edges)) <= 1e-12 * np.prod(np.linalg.norm(edges, axis=1)):
            raise ValueError(f"Simplex: the vertices {corners.tolist()} lie in one plane and span no volume.")
        self.vertices = tuple(tuple(map(float, corner)) for corner in corners)

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return len(self.vertices) - 1

    @property
    def time(self) -> bool:
        """Whether the last coordinate is time: no; `InTime` adds it."""
        return False

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the smallest box around it."""
        corners = np.asarray(self.vertices)
        return corners.min(axis=0), corners.max(axis=0)

    @property
    def volume(self) -> float:
        """|det of the edges|/d!."""
        corners = np.asarray(self.vertices)
        return float(abs(np.linalg.det(corners[1:] - corners[0])) / math.factorial(self.dimension))

    def contains(self, points: Float[Array, "m d"]) -> Array:
        """Which points lie in the closed simplex, `(m,)`."""
        corners = np.asarray(self.vertices)
        inverse = jnp.asarray(np.linalg.inv((corners[1:] - corners[0]).T), points.dtype)
        inner = (points - jnp.asarray(corners[0], points.dtype)[None]) @ inverse.T
        slack = -64 * float(jnp.finfo(points.dtype).eps)
        return jnp.all(inner >= slack, axis=1) & (jnp.sum(inner, axis=1) <= 1 - slack)

    def region(self, where: Where, *, time: bool = False) -> Region:
        """The "interior", or the "boundary": all faces, with normals where a `Boundary` asks for them."""
        name, part = asked(where)
        d = self.dimension
        if name == "interior":
            whole = (tuple(range(d + 1)),)
            return Region(d, _Hull(self, whole), chart=_Hull(self, whole, smooth=True))
        if name == "boundary":
            faces = tuple(tuple(k for k in range(d + 1) if k != left) for left in range(d + 1))
            normals = whole_boundary("Simplex", part)
            return Region(
                d - 1, _Hull(self, faces, normals=normals), d + 1, _Hull(self, faces, normals=normals, smooth=True)
            )
        raise unknown("Simplex", name)

    def normal(self, face: tuple[int, ...]) -> np.ndarray:
        """The outward unit normal of a face."""
        corners = np.asarray(self.vertices)
        (left,) = set(range(self.dimension + 1)) - set(face)
        edges = corners[list(face[1:])] - corners[face[0]]
        inward = corners[left] - corners[face[0]]
        if len(edges):
            basis = np.linalg.qr(edges.T)[0]
            inward = inward - basis @ (basis.T @ inward)
        return -inward / np.linalg.norm(inward)


class _Hull(eqx.Module):
    """Unit points into the hulls of some of the vertices, a run of points for each: uniform, or smooth with a density.

    Duffy's coordinates: λ₀ = 1 − t₁, λ₁ = t₁(1 − t₂), …, with density t₁^(k−1) t₂^(k−2) …; uniform for t_j = s^(1/…).
    """

    simplex: Simplex
    hulls: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    normals: bool = eqx.field(static=True, default=False)
    smooth: bool = eqx.field(static=True, default=False)

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        count, size = unit.shape
        powers = jnp.arange(size, 0, -1, dtype=unit.dtype)[None]
        t = unit if self.smooth else unit ** (1 / powers)
        ones = jnp.ones((count, 1), unit.dtype)
        products = jnp.concatenate([ones, jnp.cumprod(t, axis=1)], axis=1)
        shares = products * jnp.concatenate([1 - t, ones], axis=1)
        corners = np.asarray(self.simplex.vertices)
        points = in_runs([shares @ jnp.asarray(corners[list(hull)], unit.dtype) for hull in self.hulls], count)
        if self.normals:
            outward = [jnp.asarray(self.simplex.normal(hull), unit.dtype) for hull in self.hulls]
            points = Faced(points, in_runs([jnp.broadcast_to(one[None], points.shape) for one in outward], count))
        return (points, jnp.prod(unit ** (powers - 1), axis=1)) if self.smooth else points
