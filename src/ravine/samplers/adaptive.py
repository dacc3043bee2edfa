"""Points where the residual is large: drawn by it, added by it, kept by it, or drawn by it without bias."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Batch, Float, Int, PyTree, RandomKey, Rows, Scalar
from ravine.domains import Where
from ravine.samplers.sampler import Sampler, SamplerState, Score
from ravine.terms import Weighted


class _Adaptive(Sampler):
    """What is done to the points of some terms every `every` steps. Abstract: `renewed`, and `begun` for the first.

    `terms` are by default those of the interior.
    """

    sampler: eqx.AbstractVar[Sampler]
    every: eqx.AbstractVar[int]
    terms: eqx.AbstractVar[tuple[str, ...] | None]

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        terms = self.terms or tuple(name for name, region in regions.items() if region == "interior")
        bound = object.__new__(type(self))
        for name, value in {**vars(self), "sampler": self.sampler.bind(regions, dtype), "terms": terms}.items():
            object.__setattr__(bound, name, value)
        return bound

    def only(self, terms: tuple[str, ...]) -> "Sampler":
        narrowed = object.__new__(type(self))
        for name, value in {**vars(self), "terms": tuple(one for one in self.terms or () if one in terms)}.items():
            object.__setattr__(narrowed, name, value)
        return narrowed

    @property
    def holds(self) -> int:
        return self.every

    def draw(self, key: RandomKey) -> Batch:
        batch = self.sampler.draw(key)
        return {**batch, **{name: self.begun(batch[name]) for name in self.terms or ()}}

    def begun(self, points: PyTree) -> PyTree:
        """The first batch entry, made of points of `sampler`."""
        return points

    def judge(self, other: Batch) -> Batch:
        return {name: entry.points if isinstance(entry, Weighted) else entry for name, entry in other.items()}

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        if score is None:
            raise ValueError(
                f"{type(self).__name__}: needs a score, a function (term name, points) -> loss at each point."
            )
        due = (state.count > 0) & (state.count % self.every == 0)
        batch, key = jax.lax.cond(due, lambda: self.renewed(state, score), lambda: (state.batch, state.key))
        return batch, SamplerState(batch, key, state.count + 1)

    def renewed(self, state: SamplerState, score: Score) -> tuple[Batch, RandomKey]:
        """The next batch, and the key of the one after."""
        raise NotImplementedError

    def candidates(self, keys, name: str, score: Score) -> tuple[PyTree, Rows]:
        """A pool of points in order along a space-filling curve, and φ at each, zero where it is not finite."""
        drawn = [self.sampler.draw(k)[name] for k in keys]
        pool = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)
        order = jnp.argsort(_morton(pool))
        pool = jax.tree.map(lambda leaf: leaf[order], pool)
        size = jnp.maximum(score(name, pool), 0)
        return pool, jnp.where(jnp.isfinite(size), size, 0)


def density(size: Rows, power: float, floor: float) -> Rows:
    """φ^(power/2)/mean + floor; even where there is nothing to go by."""
    size = size ** (power / 2)
    mean = jnp.mean(size)
    return size / jnp.where(mean > 0, mean, 1) + jnp.where(mean > 0, floor, 1)


def systematic(weights: Rows, count: int, start: Scalar) -> Int[Array, "k"]:
    """Places drawn in proportion to `weights`: one in each of `count` equal shares of their sum, `start` (0 to 1) of a
    share from its beginning. With a uniform `start` each place is drawn count · w/Σw times in the mean, exactly."""
    shares = (jnp.arange(count, dtype=weights.dtype) + start) / count
    cumulative = jnp.cumsum(weights)
    return jnp.minimum(jnp.searchsorted(cumulative, shares * cumulative[-1]), weights.shape[0] - 1)


class _Drawn(_Adaptive):
    """Every `every` steps the points are drawn anew from a pool, by their φ. Abstract: `chosen`."""

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
                f"{type(self).__name__}: needs every ≥ 1, pool ≥ 2, power ≥ 0 and floor ≥ 0, got {every=}, {pool=}, "
                f"{power=}, {floor=}."
            )
        self.sampler, self.every, self.terms = sampler, int(every), terms
        self.power, self.floor, self.pool = float(power), float(floor), int(pool)

    def renewed(self, state: SamplerState, score: Score) -> tuple[Batch, RandomKey]:
        base, *pools, choice, later = jax.random.split(state.key, self.pool + 3)
        batch = self.draw(base)
        for number, name in enumerate(self.terms or ()):
            pool, size = self.candidates(pools, name, score)
            start = jax.random.uniform(jax.random.fold_in(choice, number), (), size.dtype)
            count = jax.tree.leaves(batch[name])[0].shape[0]
            batch = {**batch, name: self.chosen(pool, size, count, start)}
        return batch, later

    def chosen(self, pool: PyTree, size: Rows, count: int, start: Scalar) -> PyTree:
        """The batch entry of `count` points of the pool, drawn by their φ."""
        raise NotImplementedError


class RAD(_Drawn):
    """Residual-based adaptive distribution: every `every` steps points are drawn with p ∝ φ^(power/2)/mean + floor.

    From a pool of `pool` times as many points of `sampler`, for each term in `terms` (by default the interior ones).

    Chenxi Wu et al., *A comprehensive study of non-adaptive and residual-based adaptive sampling for physics-informed
    neural networks*, 2023, equation 2, with k = `power` and c = `floor`; φ = ½|r|². Deviation: instead of independent
    draws, the pool is put in order along a space-filling (Morton) curve and resampled systematically (one draw in each
    of m equal shares of the cumulative density), so that the points have neither gaps nor clumps at any density and
    the noise of the draw is far below that of independent points.

    A residual that lives on a small part of the domain needs a large pool, or the same few points are drawn over and
    over: on `peak`, whose source fills a sixtieth of it, a pool of 32 reaches 7e-4 in 50 s, one of 4 3e-3 (seed 0).

    **Cost** of a redraw: one evaluation on the pool.
    """

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
        super().__init__(sampler, every=every, power=power, floor=floor, pool=pool, terms=terms)

    def chosen(self, pool: PyTree, size: Rows, count: int, start: Scalar) -> PyTree:
        places = systematic(density(size, self.power, self.floor), count, start)
        return jax.tree.map(lambda leaf: leaf[places], pool)


class Importance(_Drawn):
    """Importance sampling without bias: points drawn with q ∝ φ^(power/2)/mean + floor, each with the weight 1/(M N q).

    Every `every` steps M points of each of the terms are drawn from a pool of N, `pool` times as many points of
    `sampler`, by q normalised over the pool. Weighted means over them are means over the pool, in expectation exactly:
    the loss keeps its meaning and only its variance changes, where `RAD` weighs large residuals more.

    Mohammad Amin Nabian, Rini Jasmine Gladstone and Hadi Meidani, *Efficient training of physics-informed neural
    networks via importance sampling*, Comput.-Aided Civ. Infrastruct. Eng. 2021, equations 11 and 12, where q is
    proportional to φ (`power=2`, `floor=0`). Deviations: φ at every point of the pool instead of the nearest of a few
    seeds; systematic draws; a floor, which bounds the weights by 1/(M floor) (1 + floor).

    **Cost** of a redraw: one evaluation on the pool.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        every: int = 100,
        power: float = 1.0,
        floor: float = 0.25,
        pool: int = 4,
        terms: tuple[str, ...] | None = None,
    ):
        if floor <= 0:
            raise ValueError(f"Importance: needs floor > 0, which bounds the weights, got {floor=}.")
        super().__init__(sampler, every=every, power=power, floor=floor, pool=pool, terms=terms)

    def begun(self, points: PyTree) -> Weighted:
        leaf = jax.tree.leaves(points)[0]
        return Weighted(points, jnp.full(leaf.shape[0], 1 / leaf.shape[0], leaf.dtype))

    def chosen(self, pool: PyTree, size: Rows, count: int, start: Scalar) -> Weighted:
        share = density(size, self.power, self.floor)
        share = share / jnp.sum(share)
        places = systematic(share, count, start)
        points = jax.tree.map(lambda leaf: leaf[places], pool)
        return Weighted(points, 1 / (count * size.shape[0] * share[places]))


class RAR(_Adaptive):
    """Residual-based refinement: every `every` steps `add` points are added, those of a pool where φ is largest; with
    `power`, drawn without repetition with p ∝ φ^(power/2)/mean + floor instead (RAR-D).

    The sampler's count is what the points of a term grow to, from the share `start` of it; until then the free places
    have no weight. **Cost** of a refinement: one evaluation on the pool; steps cost as much as with all points.

    Lu Lu, Xuhui Meng, Zhiping Mao and George Karniadakis, *DeepXDE: a deep learning library for solving differential
    equations*, SIAM Rev. 2021, procedure 3.3 (RAR); Chenxi Wu et al., *A comprehensive study of non-adaptive and
    residual-based adaptive sampling for physics-informed neural networks*, 2023, algorithm 3 (RAR-D, k = 2 and c = 0).
    """

    sampler: Sampler
    every: int = eqx.field(static=True)
    add: int = eqx.field(static=True)
    start: float = eqx.field(static=True)
    power: float | None = eqx.field(static=True)
    floor: float = eqx.field(static=True)
    pool: int = eqx.field(static=True)
    terms: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        sampler: Sampler,
        *,
        every: int = 100,
        add: int = 10,
        start: float = 0.5,
        power: float | None = None,
        floor: float = 0.0,
        pool: int = 4,
        terms: tuple[str, ...] | None = None,
    ):
        if every < 1 or add < 1 or not 0 < start <= 1 or (power or 0) < 0 or floor < 0 or pool < 1:
            raise ValueError(
                f"RAR: needs every ≥ 1, add ≥ 1, 0 < start ≤ 1, power ≥ 0, floor ≥ 0 and pool ≥ 1, got {every=}, "
                f"{add=}, {start=}, {power=}, {floor=}, {pool=}."
            )
        self.sampler, self.every, self.add, self.start = sampler, int(every), int(add), float(start)
        self.power, self.floor, self.pool = None if power is None else float(power), float(floor), int(pool)
        self.terms = terms

    def begun(self, points: PyTree) -> Weighted:
        leaf = jax.tree.leaves(points)[0]
        first = max(1, round(self.start * leaf.shape[0]))
        return Weighted(points, _evenly(jnp.asarray(first), leaf.shape[0], leaf.dtype))

    def renewed(self, state: SamplerState, score: Score) -> tuple[Batch, RandomKey]:
        *pools, choice, later = jax.random.split(state.key, self.pool + 2)
        batch = dict(state.batch)
        for number, name in enumerate(self.terms or ()):
            entry = batch[name]
            pool, size = self.candidates(pools, name, score)
            add, places = min(self.add, size.shape[0]), entry.weights.shape[0]
            best = jax.lax.top_k(self._rank(size, jax.random.fold_in(choice, number)), add)[1]
            used = jnp.sum(entry.weights > 0)
            slot = jnp.arange(places) - used  # which of the new points comes to a place
            new = (slot >= 0) & (slot < add)
            taken = best[jnp.clip(slot, 0, add - 1)]
            put = lambda old, leaf, new=new, taken=taken: jnp.where(_column(new, old), leaf[taken], old)
            count = jnp.minimum(used + add, places)
            weights = _evenly(count, places, entry.weights.dtype)
            batch[name] = Weighted(jax.tree.map(put, entry.points, pool), weights)
        return batch, later

    def _rank(self, size: Rows, key: RandomKey) -> Rows:
        """The points with the largest are added: φ, or ln p with Gumbel noise, which draws without repetition."""
        if self.power is None:
            return size
        p = density(size, self.power, self.floor)
        return jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny)) + jax.random.gumbel(key, p.shape, p.dtype)


class R3(_Adaptive):
    """Retain, resample, release: points whose |r| exceeds the mean of |r| stay, the others are drawn anew.

    Arka Daw, Jie Bu, Sifan Wang, Paris Perdikaris and Anuj Karpatne, *Mitigating propagation failures in
    physics-informed neural networks using retain-resample-release (R3) sampling*, ICML 2023, algorithm 1, with
    `every=1`. |r| = √(2φ).

    **Cost** of a redraw: one evaluation on the points.
    """

    sampler: Sampler
    every: int = eqx.field(static=True)
    terms: tuple[str, ...] | None = eqx.field(static=True)

    def __init__(self, sampler: Sampler, *, every: int = 1, terms: tuple[str, ...] | None = None):
        if every < 1:
            raise ValueError(f"R3: every is {every}, but it counts steps and must be at least 1.")
        self.sampler, self.every, self.terms = sampler, int(every), terms

    def renewed(self, state: SamplerState, score: Score) -> tuple[Batch, RandomKey]:
        now, later = jax.random.split(state.key)
        batch = self.draw(now)
        for name in self.terms or ():
            sizes = jnp.sqrt(2 * jnp.maximum(score(name, state.batch[name]), 0))
            stays = sizes > jnp.mean(sizes)
            keep = lambda old, new, stays=stays: jnp.where(_column(stays, old), old, new)
            batch = {**batch, name: jax.tree.map(keep, state.batch[name], batch[name])}
        return batch, later


def _evenly(used: Int[Array, ""], places: int, dtype) -> Rows:
    """1/used for the first `used` places, and zero for the rest."""
    return jnp.where(jnp.arange(places) < used, 1 / used.astype(dtype), 0)


def _column(flags: Array, like: Array) -> Array:
    """Flags of points, to be used along the points of `like`."""
    return jnp.broadcast_to(flags.reshape(-1, *(1,) * (like.ndim - 1)), like.shape)


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
