"""Domains made of others: masked, united, cut out, carried through time."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Float
from ravine.domains.box import Box
from ravine.domains.region import Faced, Region, Where, asked, unknown, whole_boundary

PROBES, LEAST = 4096, 1e-3  # points by which the share of a mask is estimated, and the smallest that is worth the waste


class Masked(eqx.Module):
    """The points z of `domain` where `inside(z)` holds: any shape, by leaving points out.

    Points are as many as asked for and as uniform as in `domain`; for each one 1/(share of the mask) are drawn. Of a
    mask it is not known where it ends, so that there are no boundary points: see `Union` and `Difference`.

    **Arguments:** `inside`: a function of one point that gives a truth value; one at module level shares compiled code.

    **Raises:** `ValueError` where fewer than one point in a thousand is inside.
    """

    domain: Any
    inside: Callable[[Any], Any] = eqx.field(static=True)

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return self.domain.dimension

    @property
    def time(self) -> bool | None:
        """Whether the last coordinate is time."""
        return self.domain.time

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of a box around it."""
        return self.domain.bounds

    @property
    def volume(self) -> float:
        """The volume, to about a percent."""
        return self.domain.volume * _share(self.domain.region("interior"), _Inside(self.inside))

    def contains(self, points: Float[Array, "m d"]) -> Array:
        """Which points lie in it, `(m,)`."""
        return self.domain.contains(points) & jax.vmap(self.inside)(points)

    def region(self, where: Where, *, time: bool = False) -> Region:
        """The "interior", and the "initial" slice where there is time."""
        name, _ = asked(where)
        if name == "boundary":
            raise ValueError(
                "Masked: a term lives on the boundary, but where a mask ends is not known. Either (a) describe the "
                "shape by ravine.Union and ravine.Difference of shapes with boundaries, or (b) give boundary points of "
                "your own: ravine.Chosen(domain, name=points)."
            )
        return _left(self.domain.region(name, time=time), _Inside(self.inside), "Masked")


class Union(eqx.Module):
    """The points of `first` or `second`. Its boundary is that of each outside the other, half of the points on each.

    Interior points are drawn in the smallest box around both.
    """

    first: Any
    second: Any

    def __check_init__(self):
        _alike("Union", self.first, self.second)

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return self.first.dimension

    @property
    def time(self) -> bool:
        """Whether the last coordinate is time: no; `InTime` adds it."""
        return False

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of the smallest box around it."""
        (a, b), (c, d) = self.first.bounds, self.second.bounds
        return np.minimum(a, c), np.maximum(b, d)

    @property
    def volume(self) -> float:
        """The volume, to about a percent."""
        around = Box(*self.bounds, time=False)
        return around.volume * _share(around.interior(), _Within(self))

    def contains(self, points: Float[Array, "m d"]) -> Array:
        """Which points lie in it, `(m,)`."""
        return self.first.contains(points) | self.second.contains(points)

    def region(self, where: Where, *, time: bool = False) -> Region:
        """The "interior" or the "boundary"."""
        name, part = asked(where)
        if name == "interior":
            return _left(Box(*self.bounds, time=False).interior(), _Within(self), "Union")
        if name == "boundary":
            whole_boundary("Union", part)
            return _joined(
                [
                    (self.first.region(where), _Outside(self.second), False),
                    (self.second.region(where), _Outside(self.first), False),
                ],
                "Union",
            )
        raise unknown("Union", name)


class Difference(eqx.Module):
    """The points of `first` that are not in `second`: a domain with a hole or a bite.

    Its boundary is that of the first outside the second and that of the second inside the first, half of the points on
    each, normals pointing out of what is left.
    """

    first: Any
    second: Any

    def __check_init__(self):
        _alike("Difference", self.first, self.second)

    @property
    def dimension(self) -> int:
        """The number of coordinates."""
        return self.first.dimension

    @property
    def time(self) -> bool:
        """Whether the last coordinate is time: no; `InTime` adds it."""
        return False

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of a box around it."""
        return self.first.bounds

    @property
    def volume(self) -> float:
        """The volume, to about a percent."""
        return self.first.volume * _share(self.first.region("interior"), _Outside(self.second))

    def contains(self, points: Float[Array, "m d"]) -> Array:
        """Which points lie in it, `(m,)`, the edge of the hole left out."""
        return self.first.contains(points) & ~self.second.contains(points)

    def region(self, where: Where, *, time: bool = False) -> Region:
        """The "interior" or the "boundary"."""
        name, part = asked(where)
        if name == "interior":
            return _left(self.first.region("interior"), _Outside(self.second), "Difference")
        if name == "boundary":
            whole_boundary("Difference", part)
            return _joined(
                [
                    (self.first.region(where), _Outside(self.second), False),
                    (self.second.region(where), _Within(self.first), True),
                ],
                "Difference",
            )
        raise unknown("Difference", name)


class InTime(eqx.Module):
    """`space` × [start, end]: time is the last coordinate. Its boundary is that of space, for all times.

    ```python
    >>> import ravine as rv
    >>> rv.InTime(rv.Ball((0.0, 0.0), 1.0), 0.0, 2.0).dimension
    3

    ```
    """

    space: Any
    start: float = eqx.field(static=True)
    end: float = eqx.field(static=True)

    def __check_init__(self):
        if not (np.isfinite(self.start) and np.isfinite(self.end) and self.start < self.end):
            raise ValueError(f"InTime: needs finite start < end, got {self.start}, {self.end}.")
        if self.space.time:
            raise ValueError("InTime: the last coordinate of the domain is time already.")

    @property
    def dimension(self) -> int:
        """The number of coordinates, time included."""
        return self.space.dimension + 1

    @property
    def time(self) -> bool:
        """Whether the last coordinate is time."""
        return True

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The corners of a box around it."""
        low, high = self.space.bounds
        return np.append(low, self.start), np.append(high, self.end)

    @property
    def volume(self) -> float:
        """The volume of space times the duration."""
        return self.space.volume * (self.end - self.start)

    def contains(self, points: Float[Array, "m d"]) -> Array:
        """Which points lie in it, `(m,)`."""
        slack = 4 * float(jnp.finfo(points.dtype).eps) * max(abs(self.start), abs(self.end))
        time = points[:, -1]
        return self.space.contains(points[:, :-1]) & (time >= self.start - slack) & (time <= self.end + slack)

    def region(self, where: Where, *, time: bool = True) -> Region:
        """The "interior", the "boundary" in space for all times, or the "initial" slice."""
        name, _ = asked(where)
        initial = name == "initial"
        inner = self.space.region("interior" if initial else where)
        place = _Timed(inner, self.start, self.start if initial else self.end, moving=not initial)
        chart = None if inner.chart is None else _Timed(inner, place.start, place.end, moving=not initial, smooth=True)
        return Region(inner.dimension + (not initial), place, inner.faces, chart, inner.share)


class _Timed(eqx.Module):
    """A region of space at times between two."""

    inner: Region
    start: float = eqx.field(static=True)
    end: float = eqx.field(static=True)
    moving: bool = eqx.field(static=True)
    smooth: bool = eqx.field(static=True, default=False)

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        space = unit[:, :-1] if self.moving else unit
        found, density = self.inner.weighed(space) if self.smooth else (self.inner.place(space), None)
        some = jax.tree.leaves(found)[0]
        share = unit[: some.shape[0], -1] if self.moving else jnp.zeros(some.shape[0], some.dtype)
        time = ((1 - share) * self.start + share * self.end)[:, None]
        zero = jnp.zeros_like(time)
        join = lambda points, last: jnp.concatenate([points, last], axis=1)
        if isinstance(found, Faced):
            points = Faced(join(found.point, time), join(found.normal, zero))
        else:
            points = jax.tree.map(lambda leaf: join(leaf, time), found)
        return points if density is None else (points, density)


# Which points to keep: values, so that equal domains share compiled code.


class _Inside(eqx.Module):
    inside: Callable[[Any], Any] = eqx.field(static=True)

    def __call__(self, points):
        return jax.vmap(self.inside)(points)


class _Within(eqx.Module):
    domain: Any

    def __call__(self, points):
        return self.domain.contains(points)


class _Outside(eqx.Module):
    domain: Any

    def __call__(self, points):
        return ~self.domain.contains(points)


def _bare(found: Any) -> Any:
    return found.point if isinstance(found, Faced) else found


class _Left(eqx.Module):
    """What a mask leaves of a region: the first so many of its points, again from the first where there are too few."""

    inner: Region
    keep: Callable[[Any], Any]
    share: float = eqx.field(static=True)
    flip: bool = eqx.field(static=True, default=False)

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        found = self.inner.place(unit)
        keep = self.keep(_bare(found))
        order, many = jnp.argsort(~keep), jnp.maximum(jnp.sum(keep), 1)  # a stable sort
        chosen = order[jnp.arange(_kept(unit.shape[0], self.share)) % many]
        found = jax.tree.map(lambda leaf: leaf[chosen], found)
        return Faced(found.point, -found.normal) if self.flip and isinstance(found, Faced) else found


class _Density(eqx.Module):
    """Density zero where the mask leaves nothing."""

    inner: Region
    keep: Callable[[Any], Any]

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        points, density = self.inner.weighed(unit)
        return points, jnp.where(self.keep(_bare(points)), density, 0)


class _Joined(eqx.Module):
    """Some regions one after the other, an equal part of the unit points for each."""

    parts: tuple[_Left, ...]

    def __call__(self, unit: Float[Array, "m k"]) -> Any:
        each = -(-unit.shape[0] // len(self.parts))
        runs = jnp.concatenate([unit, unit[: each * len(self.parts) - unit.shape[0]]])
        placed = [
            part(runs[number * each : (number + 1) * each, : part.inner.dimension])
            for number, part in enumerate(self.parts)
        ]
        most = _kept(unit.shape[0], self.parts[0].share)
        # In turns, so that the first so many are shared out evenly.
        mix = lambda *leaves: jnp.stack(leaves, axis=1).reshape(-1, leaves[0].shape[-1])[:most]
        return jax.tree.map(mix, *placed)


def _kept(count: int, share: float) -> int:
    return max(math.ceil(count * share - 1e-6), 1)


def _share(region: Region, keep: Callable[[Any], Any]) -> float:
    """The part of a region's points that a mask keeps, estimated."""
    unit = jnp.asarray(np.random.default_rng(0).random((PROBES, region.dimension)), jnp.result_type(float))
    return float(jnp.mean(keep(_bare(region.place(unit)))))


def _safe(share: float) -> float:
    """Rather less than is estimated, so that rather too many points are drawn than too few."""
    return max(share - 3 * math.sqrt(share * (1 - share) / PROBES), share / 2)


def _left(inner: Region, keep: Callable[[Any], Any], who: str) -> Region:
    share = _share(inner, keep)
    if share < LEAST:
        raise ValueError(
            f"{who}: only {share:.2%} of the points that were tried are inside, so that next to nothing is left. "
            "Either (a) the condition is the wrong way round, or (b) the domain around it is too large."
        )
    share = inner.share * _safe(share)
    return Region(inner.dimension, _Left(inner, keep, share), 1, _Density(inner, keep), share)


class _Nowhere(eqx.Module):
    who: str = eqx.field(static=True)

    def __call__(self, unit):
        raise ValueError(
            f"{self.who}: there is no quadrature rule on its boundary. Use Monte Carlo: ravine.Sobol or ravine.Uniform."
        )


def _joined(parts: list[tuple[Region, Callable[[Any], Any], bool]], who: str) -> Region:
    """The parts of some boundaries that are left, one after the other."""
    left = [(inner, keep, flip, _share(inner, keep)) for inner, keep, flip in parts]
    left = [part for part in left if part[3] >= LEAST]
    if not left:
        raise ValueError(f"{who}: nothing is left of its boundary.")
    share = min(inner.share * _safe(part) for inner, _, _, part in left)
    placed = tuple(_Left(inner, keep, share, flip) for inner, keep, flip, _ in left)
    return Region(max(one.inner.dimension for one in placed), _Joined(placed), 1, _Nowhere(who), share)


def _alike(who: str, first: Any, second: Any) -> None:
    if first.dimension != second.dimension:
        raise ValueError(f"{who}: the domains have {first.dimension} and {second.dimension} coordinates.")
    if first.time or second.time:
        raise ValueError(f"{who}: combine shapes in space first, then add time: ravine.InTime(shape, 0.0, 1.0).")
