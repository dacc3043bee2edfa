"""A piece of a domain as a map from the unit cube, and the words by which a term asks for one."""

import math
from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float


class Region(eqx.Module):
    """A piece of a domain: `place` carries `(m, dimension)` points of the unit cube to `(m, d)` points of the piece.

    - `faces`: where it consists of several, each takes an equal run of consecutive points.
    - `chart`: for quadrature, unit points ↦ (points, density), smooth, the density relative to others of this region;
      None where `place` itself does (its density is constant on every face).
    - `share`: the part of the unit points that `place` keeps; so that many more are needed for a point.
    """

    dimension: int = eqx.field(static=True)
    place: Callable[[Any], Any] = eqx.field(static=True)
    faces: int = eqx.field(static=True, default=1)
    chart: Callable[[Any], Any] | None = eqx.field(static=True, default=None)
    share: float = eqx.field(static=True, default=1.0)

    def filled(self, unit: Callable[[int], Any], count: int) -> Any:
        """`count` points of the piece, where `unit(many)` are points of the unit cube; fewer where it gives fewer."""
        if self.share == 1:
            return self.place(unit(count))
        return jax.tree.map(lambda leaf: leaf[:count], self.place(unit(math.ceil(count / self.share))))

    def weighed(self, unit: Float[Array, "m k"]) -> tuple[Any, Float[Array, "m"]]:
        """The points at all of `unit`, with their densities."""
        if self.chart is None:
            return self.place(unit), jnp.ones(unit.shape[0], unit.dtype)
        return self.chart(unit)


class Boundary(eqx.Module):
    """What a term asks of a boundary: which faces, and whether bare points, points with normals, or pairs of them.

    - `faces`: pairs (axis, high) of a box, `high` saying which end; None for all of the boundary.
    - `gives`: "points"; "normals" for `Faced` points; "pairs" for a pair of arrays, the points of one face and those
      opposite.
    """

    faces: tuple[tuple[int, bool], ...] | None = eqx.field(static=True, default=None)
    gives: Literal["points", "normals", "pairs"] = eqx.field(static=True, default="points")


Where = str | Boundary


class Faced(eqx.Module):
    """Points of a boundary with their outward unit normals (zero along time)."""

    point: Float[Array, "*m d"]
    normal: Float[Array, "*m d"]


def asked(where: Where) -> tuple[str, Boundary]:
    """The name of the region and, where it is the boundary, what of it."""
    return ("boundary", where) if isinstance(where, Boundary) else (where, Boundary())


def unknown(who: str, name: str) -> ValueError:
    """What to say of a region that a domain does not have."""
    return ValueError(
        f"{who}: there is no region {name!r}; choose from interior, boundary. (For time: ravine.InTime(shape, 0, 1).)"
    )


def whole_boundary(who: str, part: Boundary) -> bool:
    """Whether normals are wanted. **Raises:** `ValueError` where single faces or pairs are, which boxes alone have."""
    if part.faces is not None or part.gives == "pairs":
        raise ValueError(
            f"{who}: a term asks for {'opposite' if part.gives == 'pairs' else 'single'} faces, which only a Box has. "
            "Say by a function which part of the boundary is meant: on=lambda z: z[0] > 0."
        )
    return part.gives == "normals"


def in_runs(pieces: list[Any], count: int) -> Any:
    """Of arrays `(m, …)` for each face, an equal run of consecutive rows from each.

    Runs, not turns: every second point of a Sobol sequence lies in one half of the cube.
    """
    turn = (jnp.arange(count) * len(pieces)) // max(count, 1)
    return jnp.take_along_axis(jnp.stack(pieces), turn[None, :, None], axis=0)[0]
