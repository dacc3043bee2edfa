"""Points that are drawn anew now and then, and points whose times reach further and further."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Batch, PyTree, RandomKey, Scalar
from ravine.domains import Where
from ravine.samplers.sampler import Sampler, SamplerState, Score


def choose(condition: Array, yes: PyTree, no: PyTree) -> PyTree:
    """`jnp.where`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


class Redrawn(Sampler):
    """New points from `sampler` every `every` steps; with `departs`, only when the points are overfitted.

    Then, every `every` steps, an independent sample is drawn, and takes the place of the points if the loss on it
    exceeds `departs` times the loss on them (the sum over terms of the unweighted means). **Cost** of such a look: two
    evaluations.
    """

    sampler: Sampler
    every: int = eqx.field(static=True)
    departs: Any

    def __init__(self, sampler: Sampler, *, every: int = 1, departs: float | None = None):
        if every < 1:
            raise ValueError(f"Redrawn: every is {every}, but it counts steps and must be at least 1.")
        if departs is not None and not 1 <= departs < math.inf:
            raise ValueError(f"Redrawn: departs is {departs}, but it is a ratio of losses, finite and at least 1.")
        self.sampler, self.every, self.departs = sampler, int(every), departs

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        departs = None if self.departs is None else jnp.asarray(self.departs, dtype)
        return eqx.tree_at(
            lambda s: (s.sampler, s.departs),
            self,
            (self.sampler.bind(regions, dtype), departs),
            is_leaf=lambda leaf: leaf is None,
        )

    def draw(self, key: RandomKey) -> Batch:
        return self.sampler.draw(key)

    @property
    def holds(self) -> int:
        return self.every

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        if self.departs is not None and score is None:
            raise ValueError("Redrawn: departs needs a score, a function (term name, points) -> loss at each point.")

        def fresh():
            now, later = jax.random.split(state.key)
            new = self.draw(now)
            if self.departs is None:
                return new, later
            assert score is not None
            mean = lambda batch, score=score: sum(jnp.mean(score(name, batch[name])) for name in batch)
            return choose(mean(new) > self.departs * mean(state.batch), new, state.batch), later

        due = (state.count > 0) & (state.count % self.every == 0)
        batch, key = jax.lax.cond(due, fresh, lambda: (state.batch, state.key))
        return batch, SamplerState(batch, key, state.count + 1)


class Marching(Sampler):
    """Time marching in windows that grow: for the first `every` steps times reach the first of `windows` equal parts
    of the time interval, for the next `every` steps the first two, and at last all of it.

    Points are those of `sampler` with their times compressed into the window, drawn anew when it grows; those of
    initial conditions stay as they are. What a run is judged by covers all times. The domain's last coordinate is time.

    Colby Wight and Jia Zhao, *Solving Allen–Cahn and Cahn–Hilliard equations using the adaptive physics informed neural
    networks*, 2021, section 2.3.
    """

    sampler: Sampler
    windows: int = eqx.field(static=True)
    every: int = eqx.field(static=True)
    still: tuple[str, ...] = eqx.field(static=True)
    start: float = eqx.field(static=True)

    def __init__(self, sampler: Sampler, *, windows: int = 5, every: int = 1000):
        if windows < 1 or every < 1:
            raise ValueError(f"Marching: windows and every count from 1, got {windows=}, {every=}.")
        self.sampler, self.windows, self.every, self.still = sampler, int(windows), int(every), ()
        low = getattr(getattr(sampler, "domain", None), "low", None)
        if low is None:
            raise ValueError("Marching: needs points of a box, such as Sobol(box, pde=1000).")
        self.start = float(low[-1])

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        made = Marching(self.sampler.bind(regions, dtype), windows=self.windows, every=self.every)
        domain: Any = getattr(self.sampler, "domain", None)
        if "initial" not in regions.values() and not domain.time:
            raise ValueError(
                "Marching: no term is an initial condition, so the last coordinate is no time. If it is, say so: "
                "Box(low, high, time=True)."
            )
        object.__setattr__(made, "still", tuple(name for name, region in regions.items() if region == "initial"))
        return made

    def draw(self, key: RandomKey) -> Batch:
        return self._until(self.sampler.draw(key), 1 / self.windows)

    def _until(self, batch: Batch, share: Scalar | float) -> Batch:
        """The points with their times compressed into this share of the time interval."""

        def moved(name, points):
            if name in self.still:
                return points
            return points.at[:, -1].set(self.start + (points[:, -1] - self.start) * share)

        return {name: moved(name, points) for name, points in batch.items()}

    def judge(self, other: Batch) -> Batch:
        return self._until(other, float(self.windows))

    @property
    def holds(self) -> int:
        return self.every

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        stage = state.count // self.every  # how often the window grew

        def fresh():
            now, later = jax.random.split(state.key)
            points = self.sampler.draw(now)
            dtype = jax.tree.leaves(points)[0].dtype
            return self._until(points, (stage + 1).astype(dtype) / self.windows), later

        due = (state.count > 0) & (state.count % self.every == 0) & (stage < self.windows)
        batch, key = jax.lax.cond(due, fresh, lambda: (state.batch, state.key))
        return batch, SamplerState(batch, key, state.count + 1)
