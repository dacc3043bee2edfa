"""What a sampler is, and those that are composed of others or of data."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

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

    def __init_subclass__(cls, **options: Any):
        super().__init_subclass__(**options)
        if "sample" in vars(cls) and "holds" not in vars(cls):
            # What a parent says is about its own `sample`.
            cls.holds = property(lambda self: 1)  # pyright: ignore[reportAttributeAccessIssue]

    def draw(self, key: RandomKey) -> Batch:
        """A new batch."""
        raise NotImplementedError

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        """The sampler that knows which region each term lives in. Called by `Problem`."""
        del regions, dtype
        return self

    def only(self, terms: tuple[str, ...]) -> "Sampler":
        """The sampler while these terms alone are trained: it need not look at the others."""
        del terms
        return self

    @property
    def samples(self) -> int | None:
        """How many samples the data hold, of which batches are drawn; None for points of a domain."""
        return None

    @property
    def holds(self) -> int | None:
        """How many steps a batch stays as it is: it changes where the count is a multiple of this. None for ever.

        What depends on the points alone is then computed once and not in each step. A sampler with a `sample` of its
        own that does not say it is asked at each step.
        """
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


class Points(Sampler):
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


class Joint(Sampler):
    """The points of several samplers together, each with terms and a domain of its own.

    **Raises:** `ValueError` for a term that two of them place.
    """

    samplers: tuple[Points, ...]

    def __init__(self, *samplers: Points):
        self.samplers = samplers
        names = [name for sampler in samplers for name, _ in sampler.counts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Joint: the terms {twice} are given points by more than one sampler.")

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        placed = {name for sampler in self.samplers for name, _ in sampler.counts}
        missing = [name for name, region in regions.items() if region and name not in placed]
        unknown = sorted(placed - set(regions))
        if missing or unknown:
            raise ValueError(f"Joint: the terms {missing} have no points, and there are no terms {unknown}.")
        own = lambda sampler: {name: regions[name] for name, _ in sampler.counts}
        bound = tuple(sampler.bind(own(sampler), dtype) for sampler in self.samplers)
        return eqx.tree_at(lambda joint: joint.samplers, self, bound)

    def draw(self, key: RandomKey) -> Batch:
        keys = jax.random.split(key, len(self.samplers))
        drawn = [sampler.draw(one) for sampler, one in zip(self.samplers, keys, strict=True)]
        return {name: points for batch in drawn for name, points in batch.items()}


class Constant(Sampler):
    """Always the same batch: data that are used whole."""

    batch: Batch

    @property
    def samples(self) -> int | None:
        counts = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(self.batch)}
        return counts.pop() or None if len(counts) == 1 else None

    @property
    def holds(self) -> None:
        return None

    def draw(self, key: RandomKey) -> Batch:
        return self.batch

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        count = self.samples
        indices = None if count is None else jnp.arange(count)
        batch = Minibatch(state.batch, indices, state.batch, shared=count or 0)
        return batch, SamplerState(state.batch, state.key, state.count + 1)
