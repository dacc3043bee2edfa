"""Batches of data: shuffled, drawn with replacement, or overlapping. Each says which samples it holds (`Minibatch`)."""

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Batch, Int, PyTree, RandomKey
from ravine.domains import Where
from ravine.samplers import Sampler, SamplerState, Score
from ravine.terms import Minibatch, check_data

SORTED = 1024  # samples up to which an order is written out at every step


class _Data(Sampler):
    """Batches of samples of data. Abstract: `choose(key, state) -> indices`."""

    data: PyTree
    size: int = eqx.field(static=True)

    def __init__(self, data: PyTree, *, size: int):
        samples = {leaf.shape[0] for leaf in jax.tree.leaves(data)}
        if len(samples) != 1 or not 1 <= size <= min(samples, default=0):
            raise ValueError(
                f"{type(self).__name__}: the size {size} must lie between 1 and the number of samples, and all data "
                f"need the same number of samples; found {sorted(samples)}."
            )
        self.data, self.size = jax.tree.map(jnp.asarray, data), int(size)

    @property
    def samples(self) -> int:
        return jax.tree.leaves(self.data)[0].shape[0]

    def judge(self, other: Batch) -> Batch:
        return self.data

    def take(self, indices: Int[Array, "b"]) -> Batch:
        """The samples at these places."""
        return jax.tree.map(lambda leaf: leaf[indices], self.data)

    def first(self, key: RandomKey) -> Int[Array, "b"]:
        """The places of a batch without repetitions."""
        return permuted(key, jnp.arange(self.size, dtype=jnp.int32), self.samples)

    def shuffled(self, state: SamplerState, count: int) -> Int[Array, "b"]:
        """The next `count` samples of a stream in which each comes once an epoch."""
        per_epoch = self.samples // count
        epoch, number = state.count // per_epoch, state.count % per_epoch
        return permuted(
            jax.random.fold_in(state.key, epoch), number * count + jnp.arange(count, dtype=jnp.int32), self.samples
        )


def permuted(key: RandomKey, places: Int[Array, "b"], size: int) -> Int[Array, "b"]:
    """Where a random permutation of `size` things takes these places.

    Above `SORTED` things it is not written out, which would take the longer part of a step: a Feistel network of eight
    rounds permutes the numbers of an even count of bits, and a place that it takes beyond `size` is taken on until it
    is not (John Black and Phillip Rogaway, *Ciphers with arbitrary finite domains*, 2002). **Cost:** O(b).
    """
    if size <= SORTED:
        return jax.random.permutation(key, size)[places].astype(jnp.int32)
    half = -(-(size - 1).bit_length() // 2)
    mask, rounds = jnp.uint32(2**half - 1), jax.random.bits(key, (8,), jnp.uint32)

    def mixed(word):  # the finaliser of MurmurHash3
        word = (word ^ (word >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
        word = (word ^ (word >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
        return word ^ (word >> jnp.uint32(16))

    def once(word):
        left, right = word >> jnp.uint32(half), word & mask
        for number in range(8):
            left, right = right, left ^ (mixed(right ^ rounds[number]) & mask)
        return (left << jnp.uint32(half)) | right

    beyond = lambda words: words >= jnp.uint32(size)
    again = lambda words: jnp.where(beyond(words), once(words), words)
    found = jax.lax.while_loop(lambda words: jnp.any(beyond(words)), again, once(places.astype(jnp.uint32)))
    return found.astype(jnp.int32)


class Minibatches(_Data):
    """Shuffled minibatches of data, one a step: every sample once an epoch, in a new order each time.

    **Arguments:** `data`: term name -> arrays with a common leading axis of samples; `size`: samples in a batch. The
    samples left over at the end of an epoch (fewer than `size`) wait for the next shuffle. With `replace` every sample
    of every batch is drawn independently of the others, as theory likes it.
    """

    replace: bool = eqx.field(static=True)

    def __init__(self, data: PyTree, *, size: int, replace: bool = False):
        super().__init__(data, size=size)
        self.replace = bool(replace)

    def draw(self, key: RandomKey) -> Batch:
        return self.take(self._drawn(key) if self.replace else self.first(key))

    def _drawn(self, key: RandomKey) -> Int[Array, "b"]:
        return jax.random.randint(key, (self.size,), 0, self.samples, jnp.int32)

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        fresh = lambda: self._drawn(jax.random.fold_in(state.key, state.count))
        indices = fresh() if self.replace else self.shuffled(state, self.size)
        batch = self.take(indices)
        return Minibatch(batch, indices, self.data), SamplerState(batch, state.key, state.count + 1)


class Overlapping(_Data):
    """Shuffled minibatches of which each begins with the last `overlap` samples of the one before.

    So that gradient differences can be taken on what two batches share (`multibatch_lbfgs`): Albert Berahas, Jorge
    Nocedal and Martin Takáč, *A multi-batch L-BFGS method for machine learning*, NeurIPS 2016, section 2.2. The other
    samples come once an epoch; `overlap = size` keeps one batch for ever.
    """

    overlap: int = eqx.field(static=True)

    def __init__(self, data: PyTree, *, size: int, overlap: int):
        super().__init__(data, size=size)
        if not 1 <= overlap <= size:
            raise ValueError(f"Overlapping: the overlap {overlap} must lie between 1 and the size of a batch, {size}.")
        self.overlap = int(overlap)

    def draw(self, key: RandomKey) -> Batch:
        indices = self.first(key)
        return Minibatch(self.take(indices), indices, shared=self.overlap)

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        kept, new = state.batch.indices[self.size - self.overlap :], self.size - self.overlap
        fresh = self.shuffled(state, new) if new else kept[:0]
        indices = jnp.concatenate([kept, fresh])
        batch = Minibatch(self.take(indices), indices, shared=self.overlap)
        whole = Minibatch(batch.points, indices, self.data, shared=self.overlap)
        return whole, SamplerState(batch, state.key, state.count + 1)


class WithData(Sampler):
    """The points of `sampler` for some terms, and for the others data, which are always used whole.

    `WithData(Sobol(box, pde=1000), data=(x, y))`: points where an equation shall hold, beside measurements.

    **Raises:** `ValueError` for data that are not finite (naming the row) or whose leading axes differ.
    """

    sampler: Sampler
    data: Batch

    def __init__(self, sampler: Sampler, /, **data: PyTree):
        self.sampler = sampler
        self.data = {name: check_data(name, entry) for name, entry in data.items()}

    def bind(self, regions: dict[str, Where | None], dtype) -> "Sampler":
        rest = {name: region for name, region in regions.items() if name not in self.data}
        bound = object.__new__(type(self))
        for name, value in {"sampler": self.sampler.bind(rest, dtype), "data": self.data}.items():
            object.__setattr__(bound, name, value)
        return bound

    def draw(self, key: RandomKey) -> Batch:
        return {**self.sampler.draw(key), **self.data}

    @property
    def holds(self) -> int | None:
        return self.sampler.holds

    def sample(self, state: SamplerState, score: Score | None = None) -> tuple[Batch, SamplerState]:
        points = {name: entry for name, entry in state.batch.items() if name not in self.data}
        batch, inner = self.sampler.sample(SamplerState(points, state.key, state.count), score)
        return {**batch, **self.data}, SamplerState({**inner.batch, **self.data}, inner.key, inner.count)
