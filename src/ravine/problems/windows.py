"""Time in windows: a network for each, trained one after another."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Model, PyTree, RandomKey
from ravine.domains import Box
from ravine.focus import Focus
from ravine.models import Clocked, Windows
from ravine.problems.problem import Problem
from ravine.samplers import Joint, Points, Sampler
from ravine.terms import Term


def in_windows(problem: Problem, count: int, *, weight: float = 1e4, points: int = 300, pace: float = 0.7) -> Problem:
    """The same problem with `count` equal windows of time, a network for each, trained one after another.

    What equations forget of early times they do not forgive: where errors grow like e^(λt), one network for all times
    must be better by e^(λT) at the start than it is asked to be at the end. In windows each network starts as a copy of
    the one before, which it continues: ½‖u_i − u_{i−1}‖² over `points` points at the cut, times `weight`, is added to
    its terms (a lift would keep the profile at the cut for ever). The copy sees time turned back at the cut
    (`ravine.models.Clocked`), at the pace `pace`, so that it begins with what the one before found, in reverse:
    networks run wild outside of where they were trained. Every window has as many points as the problem had.

    **Arguments:** `problem`, whose points are of a `Box` with time as the last coordinate.

    **Raises:** `ValueError` for less than two windows, and for other samplers and domains.

    Time marching with transfer: as in Revanth Mattey and Susanta Ghosh, *A novel sequential method to train physics
    informed neural networks for Allen Cahn and Cahn Hilliard equations*, 2022, but with a network for each window.

    ```python
    >>> import ravine as rv
    >>> problem = rv.problems.in_windows(rv.problems.make("heat1d"), 2, points=8)
    >>> [term.name for term in problem.terms], len(problem.focuses)
    (['pde1', 'start2', 'pde2'], 2)

    ```
    """
    if count < 2 or not 0 < pace < 1:
        raise ValueError(f"in_windows: needs at least two windows and 0 < pace < 1, got {count=}, {pace=}.")
    plain = _points(problem.sampler)
    box = plain.domain
    if not (isinstance(box, Box) and (box.time or any(term.region == "initial" for term in problem.terms))):
        raise ValueError(
            "in_windows: the domain must be a box whose last coordinate is time: Box(low, high, time=True)."
        )
    low, high = np.asarray(box.low, float), np.asarray(box.high, float)
    cuts = tuple(np.linspace(low[-1], high[-1], count + 1).tolist())
    terms, samplers, focuses = [], [], []
    for i in range(count):
        mine, counts = [], {}
        if i:
            mine.append(Term(f"start{i + 1}", _Continued(i), weight=weight, region="initial"))
            counts[mine[0].name] = points
        for term in problem.terms:
            if term.region == "initial" and i:
                continue
            name = f"{term.name}{i + 1}"
            mine.append(dataclasses.replace(term, name=name, features=_Inside(i, term.features)))
            if term.name in dict(plain.counts):
                counts[name] = dict(plain.counts)[term.name]
        window = Box((*low[:-1].tolist(), cuts[i]), (*high[:-1].tolist(), cuts[i + 1]), time=True)
        samplers.append(type(plain)(window, **counts))
        terms += mine
        focuses.append(Focus(tuple(term.name for term in mine), _Network(i), _Copied(i) if i else None))
    return dataclasses.replace(
        problem,
        terms=tuple(terms),
        sampler=_with(problem.sampler, Joint(*samplers)),
        model=_Networks(problem.model, cuts, pace),
        focuses=tuple(focuses),
        name="",
        options={},
    )


def _points(sampler: Sampler) -> Points:
    """The points that a sampler redraws, or it itself."""
    while not isinstance(sampler, Points):
        inner = getattr(sampler, "sampler", None)
        if inner is None:
            raise ValueError(
                f"in_windows: needs points of a box, such as Sobol(box, pde=1000), got {type(sampler).__name__}."
            )
        sampler = inner
    return sampler


def _with(sampler: Any, points: Sampler) -> Sampler:
    """The sampler with other points to redraw."""
    if isinstance(sampler, Points):
        return points
    return eqx.tree_at(lambda s: s.sampler, sampler, _with(sampler.sampler, points), is_leaf=lambda s: s is None)


class _Inside(eqx.Module):
    """The features of a term, of the network of a window."""

    window: int = eqx.field(static=True)
    features: Any

    def __call__(self, model: Windows, point: Any) -> PyTree:
        return self.features(model.networks[self.window], point)


class _Continued(eqx.Module):
    """u_i − u_{i−1} at a point, the earlier network being a constant."""

    window: int = eqx.field(static=True)

    def __call__(self, model: Windows, point: Any) -> PyTree:
        now, before = model.networks[self.window](point), model.networks[self.window - 1](point)
        return jax.tree.map(lambda a, b: jnp.asarray(a - jax.lax.stop_gradient(b)), now, before)


@dataclasses.dataclass(frozen=True)
class _Network:
    window: int

    def __call__(self, model: Windows) -> Model:
        return model.networks[self.window]


@dataclasses.dataclass(frozen=True)
class _Copied:
    """The network of a window begins as that of the window before; their clocks agree at the cut."""

    window: int

    def __call__(self, model: Windows) -> Windows:
        before = model.networks[self.window - 1]
        network = before.network if isinstance(before, Clocked) else before
        return eqx.tree_at(lambda m: m.networks[self.window].network, model, network)


@dataclasses.dataclass(frozen=True)
class _Networks:
    """key ↦ a network for each window, the clocks running back and forth over one and the same time.

    The end of the first window shows to the second at its start; `pace` < 1 keeps the first time, where conditions may
    hold by construction, out of all but the first window.
    """

    network: Any
    cuts: tuple[float, ...]
    pace: float

    def __call__(self, key: RandomKey) -> Windows:
        keys = jax.random.split(key, len(self.cuts) - 1)
        networks: list[Model] = [self.network(keys[0])]
        early, late = self.cuts[1] - self.pace * (self.cuts[1] - self.cuts[0]), self.cuts[1]
        for i in range(1, len(keys)):
            back = i % 2 == 1
            clock = {"origin": late if back else early, "rate": -self.pace if back else self.pace}
            networks.append(Clocked(self.network(keys[i]), cut=self.cuts[i], **clock))
        return Windows(tuple(networks), self.cuts)
