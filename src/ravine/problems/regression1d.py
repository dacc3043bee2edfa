"""Three waves by a wide network: the modes of its tangent kernel are learnt one after the other."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Point, RandomKey, Scalar
from ravine.formulations import supervised
from ravine.problems.problem import GridReference, Problem
from ravine.samplers import Constant

SPREAD = 20.0  # of the slopes: the fastest wave has the slope 16π


class Wide(eqx.Module):
    """x ↦ Σ a_i tanh(s (w_i x + b_i))/√width with a_i, w_i ~ N(0, 1): all of size one, so that the tangent kernel at
    the start tends to a limit and stays there as the width grows.

    Arthur Jacot, Franck Gabriel and Clément Hongler, *Neural tangent kernel*, NeurIPS 2018, section 2.
    """

    weights: Array
    biases: Array
    out: Array

    def __init__(self, width: int, *, key: RandomKey):
        first, second, third = jax.random.split(key, 3)
        self.weights, self.out = jax.random.normal(first, (width,)), jax.random.normal(second, (width,))
        # Each unit bends somewhere in [0, 1].
        self.biases = -self.weights * jax.random.uniform(third, (width,))

    def __call__(self, x: Point) -> Scalar:
        hidden = jnp.tanh(SPREAD * (self.weights * x[0] + self.biases))
        return jnp.dot(self.out, hidden) / jnp.sqrt(self.out.shape[0]).astype(x.dtype)


def waves(x: np.ndarray) -> np.ndarray:
    """sin 2πx + ½ sin 8πx + ¼ sin 16πx."""
    return np.sin(2 * np.pi * x) + np.sin(8 * np.pi * x) / 2 + np.sin(16 * np.pi * x) / 4


def regression1d(*, points: int = 128, width: int = 1024) -> Problem:
    """½ mean (u(x_i) − y_i)², y = sin 2πx + ½ sin 8πx + ¼ sin 16πx at `points` equidistant x in [0, 1].

    u is a network 1 − `width` − 1 in the scaling of the tangent kernel, so that under gradient descent each mode of the
    kernel decays by a rate of its own. Reference: the waves on a grid of 1,001 points.
    """
    if points < 2 or width < 1:
        raise ValueError(f"regression1d: needs points ≥ 2 and width ≥ 1, got {points=}, {width=}.")
    x, grid = np.linspace(0, 1, points), np.linspace(0, 1, 1001)
    dtype = jnp.result_type(float)
    return Problem(
        terms=(supervised("data"),),
        sampler=Constant({"data": (jnp.asarray(x[:, None], dtype), jnp.asarray(waves(x), dtype))}),
        model=lambda key: Wide(width, key=key),
        reference=GridReference((grid,), waves(grid), ("x",)),
        name="regression1d",
        options={"points": points, "width": width},
    )
