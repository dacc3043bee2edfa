"""Two moons: two classes that no line parts."""

import jax.numpy as jnp
import numpy as np

from ravine.formulations import logistic, supervised
from ravine.minibatches import Minibatches
from ravine.models import MLP
from ravine.problems.problem import ClassReference, Problem
from ravine.samplers import Constant

SPREAD = 0.15
TESTS = 2000


def moons(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points on two half circles that reach into each other, with Gaussian noise of 0.15, and their classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int32) % 2
    angle = rng.uniform(0, np.pi, count)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    points = np.where(labels[:, None] == 0, upper, lower) + SPREAD * rng.standard_normal((count, 2))
    return points - np.array([0.5, 0.25]), labels


def two_moons(*, points: int = 500, batch: int | None = None, width: int = 16, depth: int = 2) -> Problem:
    """The mean logistic loss of a network on `points` points of two noisy half circles.

    All points at once by default, shuffled minibatches of `batch` otherwise. The error is the share of 2,000 other
    points in the wrong class; with this noise the best possible classifier errs on about one in a hundred. Reference:
    the labels.
    """
    if points < 2:
        raise ValueError(f"two_moons: points is {points}, but must be at least 2.")
    data, labels = moons(points, 0)
    dtype = jnp.result_type(float)
    whole = {"labels": (jnp.asarray(data, dtype), jnp.asarray(labels, dtype))}
    return Problem(
        terms=(supervised("labels", logistic),),
        sampler=Constant(whole) if batch is None else Minibatches(whole, size=batch),
        model=lambda key: MLP(2, "scalar", width=width, depth=depth, key=key),
        reference=ClassReference(*moons(TESTS, 1)),
        name="two_moons",
        options={"points": points, "batch": batch, "width": width, "depth": depth},
    )
