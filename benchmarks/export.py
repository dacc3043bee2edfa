"""Writes the start of a problem from ravine: what `ravine.train(problem, …, key=jax.random.key(seed))` starts with."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import numpy as np

import ravine as rv
from benchmarks.start import PROBLEMS, SIZED, Start
from ravine.run import subkeys


def options_of(name: str) -> tuple[str, dict]:
    """ravine's name of a benchmark problem, and its options."""
    return SIZED.get(name) or (name, PROBLEMS[name])


def make(name: str) -> rv.Problem:
    """ravine's problem for a benchmark problem."""
    known, options = options_of(name)
    return rv.problems.make(known, **options)


def start(name: str, seed: int) -> Start:
    """The start of `name` for `seed`. The loss is ravine's, on one device."""
    problem = make(name)
    model_key, points_key, *_ = subkeys(jax.random.key(seed))
    objective, theta, sampler = problem.objective(model_key)
    batch = sampler.init(points_key).batch
    # The networks of ravine's problems are one MLP; its leaves are all weights, then all biases.
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(objective.model(theta), eqx.is_inexact_array))]
    layers = len(leaves) // 2
    reference = problem.reference
    assert isinstance(reference, rv.GridReference)
    inner = problem.sampler.sampler if isinstance(problem.sampler, rv.RAD) else problem.sampler
    assert isinstance(inner, rv.Sobol)
    return Start(
        problem=options_of(name)[0],
        options=dict(problem.options),
        seed=seed,
        params=list(zip(leaves[:layers], leaves[layers:], strict=True)),
        points={term: np.asarray(points) for term, points in batch.items()},
        grid=reference.points,
        exact=reference.values.ravel(),
        low=np.asarray(inner.domain.low),
        high=np.asarray(inner.domain.high),
        loss=float(objective(theta, batch)),
        adaptive=isinstance(problem.sampler, rv.RAD),
    )


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    start(sys.argv[1], int(sys.argv[2])).save(Path(sys.argv[3]))
