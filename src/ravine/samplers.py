"""Where to look: collocation points and minibatches, drawn on the device.

A sampler knows a domain and how many points each term gets; it knows nothing of objectives. `init(key)` draws the
first points; `sample(state, score)` gives the batch of the next step, and draws anew when it is due. Composition is by
value: `Redrawn(Sobol(...), every=100)`, `RAD(Sobol(...), every=20)`. Batches drawn from data say which samples they
hold (`Minibatch`).
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc

from ravine._types import Array, Batch, Count, Float, RandomKey, Rows
from ravine.domains import Region, Where
from ravine.terms import Minibatch

Score = Callable[[str, Any], Rows]  # (term name, points) -> φ at each point


class SamplerState(eqx.Module):
    """The points in use, the key for the next draw, and how many batches were given out."""

    batch: Batch
    key: RandomKey
    count: Count


class Sampler(eqx.Module):
    """Abstract: `draw(key) -> batch` is what a sampler adds; the rest is here."""

    def draw(self, key: RandomKey) -> Batch:
        """A new batch."""
        raise NotImplementedError

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        """The sampler that knows which region each term lives in. Called by `Problem`."""
        del regions, dtype
        return self

    @property
    def samples(self) -> int | None:
        """How many samples the data hold, of which batches are drawn; None for points of a domain."""
        return None

    def init(self, key: RandomKey) -> SamplerState:
        """The state with the first points drawn."""
        now, later = jax.random.split(key)
        return SamplerState(self.draw(now), later, jnp.int32(0))

    def judge(self, other: Batch) -> Batch:
        """What a run is judged by: `other`, drawn independently, or all the data where batches are drawn from data."""
        return other

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        """The batch of the next step. Fixed points, unless the sampler says otherwise."""
        del score
        return state.batch, SamplerState(state.batch, state.key, state.count + 1)


class _Domain(Sampler):
    """Points of a domain's regions, so many a term. Abstract: `unit(dimension, count, key)` fills the unit cube."""

    domain: Any
    counts: tuple[tuple[str, int], ...] = eqx.field(static=True)
    regions: tuple[tuple[str, Region], ...] | None = eqx.field(static=True)
    dtype: Any = eqx.field(static=True)

    def __init__(self, domain, **counts: int):
        self.domain, self.regions, self.dtype = domain, None, None
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, (int, np.integer)) or count < 1:
                raise ValueError(
                    f"{type(self).__name__}: the term {name!r} was given {count!r} points, but needs a whole number "
                    "of at least 1."
                )
        self.counts = tuple((name, int(count)) for name, count in counts.items())

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        time = self.domain.time
        time = "initial" in regions.values() if time is None else time
        unknown = [name for name, _ in self.counts if name not in regions]
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: points are asked for {unknown}, but the terms are {sorted(regions)}."
            )
        missing = [name for name, region in regions.items() if region and name not in dict(self.counts)]
        if missing:
            raise ValueError(
                f"{type(self).__name__}: the terms {missing} have no points. Say how many: "
                f"{type(self).__name__}(domain, {', '.join(f'{name}=256' for name in missing)})."
            )
        placed = tuple((name, self.domain.region(regions[name] or "interior", time=time)) for name, _ in self.counts)
        bound = object.__new__(type(self))
        for name, value in {**vars(self), "regions": placed, "dtype": np.dtype(dtype)}.items():
            object.__setattr__(bound, name, value)
        return bound

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        raise NotImplementedError

    def fill(self, region: Region, count: int, key: RandomKey) -> Float[Array, "m d"]:
        """The points of the unit cube for a region: every run of them should cover it."""
        return self.unit(region.dimension, count, key)

    def draw(self, key: RandomKey) -> Batch:
        if self.regions is None:
            raise ValueError(
                f"{type(self).__name__}: it does not know yet where its terms live. A Problem tells it; by hand, call "
                "sampler.bind({'pde': 'interior', ...}, dtype)."
            )
        keys = jax.random.split(key, max(len(self.counts), 1))
        return {
            name: region.filled(lambda many, k=k, region=region: self.fill(region, many, k).astype(self.dtype), count)
            for (name, count), (_, region), k in zip(self.counts, self.regions, keys, strict=False)
        }


class Uniform(_Domain):
    """Independent uniform points: `Uniform(domain, pde=1000, bc=100)`. The error of a mean falls as m^(−1/2)."""

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        return jax.random.uniform(key, (count, dimension), self.dtype)


class Sobol(_Domain):
    """Sobol points with a random shift: `Sobol(domain, pde=4096, bc=256)`. Smooth means converge almost as 1/m.

    Ilya Sobol, *On the distribution of points in a cube and the approximate evaluation of integrals*, 1967, with the
    direction numbers of Joe and Kuo (SciPy); shifted modulo 1 (Cranley and Patterson, 1976), which keeps the
    equidistribution and makes every draw different.
    """

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        if dimension == 0:
            return jnp.zeros((count, 0), self.dtype)
        exponent = max(math.ceil(math.log2(count)), 0)
        base = qmc.Sobol(dimension, scramble=False).random_base2(exponent)[:count]
        shift = jax.random.uniform(key, (dimension,), self.dtype)
        # In the middle of their cells: shifts then cannot push a whole face of points onto the edge.
        return (jnp.asarray(base, self.dtype) + shift[None, :]) % 1


class Grid(_Domain):
    """A tensor grid of about the asked number of points, edges included: the largest kᵈ ≤ count, on faces the largest
    kᵈ⁻¹ ≤ count/faces on each."""

    def __init__(self, domain, **counts: int):
        super().__init__(domain, **counts)

    def unit(self, dimension: int, count: int, key: RandomKey) -> Float[Array, "m d"]:
        if dimension == 0:
            return jnp.zeros((count, 0), self.dtype)
        side = max(math.floor(count ** (1 / dimension) + 1e-9), 1)
        axis = jnp.linspace(0, 1, side, dtype=self.dtype) if side > 1 else jnp.full(1, 0.5, self.dtype)
        return jnp.stack(jnp.meshgrid(*(axis,) * dimension, indexing="ij"), axis=-1).reshape(-1, dimension)

    def fill(self, region: Region, count: int, key: RandomKey) -> Float[Array, "m d"]:
        # A grid comes in order, so that a run of it would cover a part of a face only: each face has its own.
        each = self.unit(region.dimension, max(count // region.faces, 1), key)
        return jnp.tile(each, (region.faces, 1))


class Redrawn(Sampler):
    """New points from `sampler` every `every` steps."""

    sampler: Sampler
    every: int = eqx.field(static=True)

    def __init__(self, sampler: Sampler, *, every: int = 1):
        if every < 1:
            raise ValueError(f"Redrawn: every is {every}, but it counts steps and must be at least 1.")
        self.sampler, self.every = sampler, int(every)

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        return Redrawn(self.sampler.bind(regions, dtype), every=self.every)

    def draw(self, key: RandomKey) -> Batch:
        return self.sampler.draw(key)

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        def fresh():
            now, later = jax.random.split(state.key)
            return self.draw(now), later

        due = (state.count > 0) & (state.count % self.every == 0)
        batch, key = jax.lax.cond(due, fresh, lambda: (state.batch, state.key))
        return batch, SamplerState(batch, key, state.count + 1)


class RAD(Sampler):
    """Residual-based adaptive distribution: every `every` steps points are drawn with p ∝ φ^(power/2)/mean + floor.

    From a pool of `pool` times as many points of `sampler`, for each term in `terms` (by default the interior ones).

    Chenxi Wu et al., *A comprehensive study of non-adaptive and residual-based adaptive sampling for physics-informed
    neural networks*, 2023, equation 2, with k = `power` and c = `floor`; φ = ½|r|². Deviation: instead of independent
    draws, the pool is put in order along a space-filling (Morton) curve and resampled systematically (one draw in each
    of m equal shares of the cumulative density), so that the points have neither gaps nor clumps at any density and
    the noise of the draw is far below that of independent points.

    **Cost** of a redraw: one evaluation on the pool.
    """

    sampler: Sampler
    every: int = eqx.field(static=True)
    power: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    pool: int = eqx.field(static=True)
    terms: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        sampler: Sampler,
        *,
        every: int = 100,
        power: float = 1.0,
        floor: float = 1.0,
        pool: int = 4,
        terms: tuple[str, ...] | None = None,
    ):
        if every < 1 or pool < 2 or power < 0 or floor < 0:
            raise ValueError(
                f"RAD: needs every ≥ 1, pool ≥ 2, power ≥ 0 and floor ≥ 0, got {every=}, {pool=}, {power=}, {floor=}."
            )
        self.sampler, self.every, self.power, self.floor, self.pool, self.terms = (
            sampler,
            int(every),
            float(power),
            float(floor),
            int(pool),
            terms,
        )

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        terms = self.terms or tuple(name for name, region in regions.items() if region == "interior")
        return RAD(
            self.sampler.bind(regions, dtype),
            every=self.every,
            power=self.power,
            floor=self.floor,
            pool=self.pool,
            terms=terms,
        )

    def draw(self, key: RandomKey) -> Batch:
        return self.sampler.draw(key)

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        if score is None:
            raise ValueError("RAD: needs a score, a function (term name, points) -> loss at each point.")

        def fresh():
            base, *pools, choice, later = jax.random.split(state.key, self.pool + 3)
            batch = self.draw(base)
            for number, name in enumerate(self.terms or ()):
                drawn = [self.draw(k)[name] for k in pools]
                candidates = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
                order = jnp.argsort(_morton(candidates))
                candidates = jax.tree.map(lambda leaf, at=order: leaf[at], candidates)
                size = jnp.maximum(score(name, candidates), 0) ** (self.power / 2)
                size = jnp.where(jnp.isfinite(size), size, 0)
                mean = jnp.mean(size)
                density = size / jnp.where(mean > 0, mean, 1) + jnp.where(mean > 0, self.floor, 1)
                count = jax.tree.leaves(batch[name])[0].shape[0]
                start = jax.random.uniform(jax.random.fold_in(choice, number), (), density.dtype)
                shares = (jnp.arange(count, dtype=density.dtype) + start) / count
                cumulative = jnp.cumsum(density)
                chosen = jnp.searchsorted(cumulative, shares * cumulative[-1])
                chosen = jnp.minimum(chosen, density.shape[0] - 1)
                batch = {**batch, name: jax.tree.map(lambda leaf, at=chosen: leaf[at], candidates)}
            return batch, later

        due = (state.count > 0) & (state.count % self.every == 0)
        batch, key = jax.lax.cond(due, fresh, lambda: (state.batch, state.key))
        return batch, SamplerState(batch, key, state.count + 1)


def _morton(points: Float[Array, "m d"]) -> Array:
    """The place of each point on a Morton (Z-order) curve through their bounding box."""
    dimension = points.shape[1]
    bits = max(1, 30 // dimension)
    low, high = jnp.min(points, axis=0, keepdims=True), jnp.max(points, axis=0, keepdims=True)
    unit = (points - low) / jnp.where(high > low, high - low, 1)
    cells = jnp.clip((unit * 2**bits).astype(jnp.uint32), 0, 2**bits - 1)
    code = jnp.zeros(points.shape[0], jnp.uint32)
    for bit in range(bits):
        for axis in range(dimension if dimension <= 30 else 30):
            code = code | (((cells[:, axis] >> bit) & 1) << (bit * dimension + axis))
    return code


class Constant(Sampler):
    """Always the same batch: data that are used whole."""

    batch: Batch

    @property
    def samples(self) -> int | None:
        counts = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(self.batch)}
        return counts.pop() or None if len(counts) == 1 else None

    def draw(self, key: RandomKey) -> Batch:
        return self.batch

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        count = self.samples
        indices = None if count is None else jnp.arange(count)
        batch = Minibatch(state.batch, indices, state.batch, shared=count or 0)
        return batch, SamplerState(state.batch, state.key, state.count + 1)
