"""Quadrature rules on a domain, as samplers, whose weights add up to one; and points of one's own."""

import itertools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Batch, RandomKey
from ravine.domains import Faced, Region
from ravine.samplers import Constant, Points
from ravine.terms import Weighted


class Gauss(Points):
    """Gauss–Legendre quadrature, a tensor product: `Gauss(domain, energy=400)`. For few dimensions.

    n nodes a coordinate in `panels` equal intervals, the largest n with nᵈ ≤ the number of points asked for; on a
    boundary each face has a rule of its own. With n nodes a panel polynomials up to degree 2n − 1 are integrated
    exactly. The points are the same at every draw; a run is judged by a rule with one node more a panel, so that a
    network which has learnt the nodes is found out. Curved pieces are integrated in coordinates of their own, a masked
    domain by leaving points out, which costs the high order.
    """

    panels: int = eqx.field(static=True)

    def __init__(self, domain, *, panels: int = 1, **counts: int):
        super().__init__(domain, **counts)
        if panels < 1:
            raise ValueError(f"Gauss: panels is {panels}, but counts intervals and must be at least 1.")
        self.panels = int(panels)

    def draw(self, key: RandomKey) -> Batch:
        return self._rules(0) if self.regions is not None else super().draw(key)  # which says that it is not bound

    def judge(self, other: Batch) -> Batch:
        return self._rules(1)

    def _rules(self, more: int) -> Batch:
        regions = zip(self.counts, self.regions or (), strict=True)
        return {name: self._rule(region, count, more) for (name, count), (_, region) in regions}

    def _rule(self, region: Region, count: int, more: int) -> Weighted:
        side = math.floor(max(count // region.faces, 1) ** (1 / max(region.dimension, 1)) + 1e-9)
        nodes, weights = gauss_legendre(max(side // self.panels, 1) + more, self.panels)
        return _weighed(region, *_tensor([nodes] * region.dimension, [weights] * region.dimension), self.dtype)


class Sparse(Points):
    """Smolyak's sparse grid of nested Clenshaw–Curtis rules: `Sparse(domain, energy=1000)`. For smooth integrands in
    many dimensions.

    The highest level whose points do not exceed the number asked for; about 2ˡ lᵈ⁻¹ points integrate what a tensor grid
    needs 2ˡᵈ for. A mixed polynomial of total degree up to 2l + 1 is exact. Some weights are **negative**: the loss is
    then no sum of positive parts; gradients are right, but Gauss–Newton matrices leave those points out.

    Sergei Smolyak, *Quadrature and interpolation formulas for tensor products of certain classes of functions*, 1963;
    Thomas Gerstner and Michael Griebel, *Numerical integration using sparse grids*, 1998, section 3.
    """

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def draw(self, key: RandomKey) -> Batch:
        if self.regions is None:
            return super().draw(key)  # which says that it is not bound
        return {
            name: _weighed(region, *_below(region.dimension, max(count // region.faces, 1)), self.dtype)
            for (name, count), (_, region) in zip(self.counts, self.regions, strict=True)
        }


class Chosen(Constant):
    """Points of one's own, checked against a domain: `Chosen(domain, pde=points, bc=others)`. Always the same.

    A batch entry is an array `(m, d)`, `Faced(points, normals)`, a pair of arrays, or `Weighted` of one of these.

    **Raises:** `ValueError` for a point outside the domain or one that is not finite, naming the term and the point.
    """

    def __init__(self, domain, **points: Any):
        super().__init__(points)
        for name, entry in points.items():
            entry = entry.points if isinstance(entry, Weighted) else entry
            for part in (entry.point,) if isinstance(entry, Faced) else jax.tree.leaves(entry):
                part = jnp.asarray(part)
                if part.ndim != 2 or part.shape[1] != domain.dimension:
                    raise ValueError(
                        f"Chosen: the points of {name!r} have shape {part.shape}, but should be "
                        f"(points, {domain.dimension}), one column a coordinate."
                    )
                out = np.flatnonzero(~np.asarray(domain.contains(part)))
                if out.size:
                    raise ValueError(
                        f"Chosen: {out.size} of the {part.shape[0]} points of {name!r} lie outside the domain; the "
                        f"first is point number {out[0]}, {np.asarray(part)[out[0]].tolist()}. Likely causes: (a) the "
                        "order of the coordinates (time is the last), (b) their units, (c) NaN in the data."
                    )


def gauss_legendre(count: int, panels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights on [0, 1]: `count` in each of `panels` equal intervals.

    ```python
    >>> from ravine.quadrature import gauss_legendre
    >>> nodes, weights = gauss_legendre(3)
    >>> round(float(weights @ nodes**5), 12)
    0.166666666667

    ```
    """
    nodes, weights = np.polynomial.legendre.leggauss(count)
    starts = np.arange(panels)[:, None]
    return ((starts + (nodes + 1) / 2) / panels).ravel(), np.tile(weights / (2 * panels), panels)


def smolyak(dimension: int, level: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes `(m, dimension)` and weights `(m,)` on [0, 1]ᵈ, by the combination technique (`Sparse`).

    ```python
    >>> from ravine.quadrature import smolyak
    >>> nodes, weights = smolyak(3, 3)
    >>> len(nodes), round(float(weights @ (nodes[:, 0] ** 2 * nodes[:, 2])), 12)
    (69, 0.166666666667)

    ```
    """
    found: dict[tuple[float, ...], float] = {}
    for levels in itertools.product(range(level + 1), repeat=dimension):
        left = level - sum(levels)
        if not 0 <= left < dimension:
            continue
        sign = (-1) ** left * math.comb(dimension - 1, left)
        rules = [_clenshaw_curtis(one) for one in levels]
        nodes, weights = _tensor([rule[0] for rule in rules], [rule[1] for rule in rules])
        for node, weight in zip(map(tuple, nodes), weights, strict=True):
            found[node] = found.get(node, 0.0) + sign * weight
    return np.asarray(list(found)).reshape(-1, dimension), np.asarray(list(found.values()))


def _below(dimension: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The highest level with no more than `count` points."""
    rule = smolyak(dimension, 0)
    if dimension == 0:
        return np.zeros((1, 0)), np.ones(1)
    for level in range(1, 64):
        finer = smolyak(dimension, level)
        if len(finer[1]) > count:
            return rule
        rule = finer
    return rule


def _clenshaw_curtis(level: int) -> tuple[np.ndarray, np.ndarray]:
    """The rule with 2ˡ + 1 nodes on [0, 1] (one for l = 0). Nodes are rounded, so that nested ones are equal."""
    if level == 0:
        return np.full(1, 0.5), np.ones(1)
    n = 2**level
    angles, k = np.arange(n + 1) * np.pi / n, np.arange(1, n // 2 + 1)
    factor = np.where(k == n // 2, 1.0, 2.0) / (4 * k**2 - 1)
    weights = (1 - np.cos(2 * np.outer(angles, k)) @ factor) / n
    weights[[0, -1]] /= 2
    return np.round((1 - np.cos(angles)) / 2, 15), weights


def _tensor(nodes: list[np.ndarray], weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    if not nodes:
        return np.zeros((1, 0)), np.ones(1)
    grid = np.stack(np.meshgrid(*nodes, indexing="ij"), axis=-1).reshape(-1, len(nodes))
    return grid, np.prod(np.stack(np.meshgrid(*weights, indexing="ij"), axis=-1), axis=-1).ravel()


def _weighed(region: Region, nodes: np.ndarray, weights: np.ndarray, dtype) -> Weighted:
    """The rule on each face of a region."""
    points, density = region.weighed(jnp.tile(jnp.asarray(nodes, dtype), (region.faces, 1)))
    scaled = jnp.tile(jnp.asarray(weights, dtype), region.faces) * density
    return Weighted(points, scaled / jnp.sum(scaled))
