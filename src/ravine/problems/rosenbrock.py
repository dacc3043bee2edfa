"""Rosenbrock's banana: a curved ravine."""

import jax.numpy as jnp
import numpy as np

from ravine.objective import Term, squared
from ravine.problems.problem import ParameterReference, Problem
from ravine.samplers import Constant


def residuals(x, points):
    """√2 (1 − x_i) and √2·10 (x_{i+1} − x_i²), so that ½‖·‖² is the usual sum."""
    del points
    return jnp.sqrt(2.0).astype(x.dtype) * jnp.concatenate([1 - x[:-1], 10 * (x[1:] - x[:-1] ** 2)])


def rosenbrock(*, dimension: int = 2) -> Problem:
    """Σ 100 (x_{i+1} − x_i²)² + (1 − x_i)², from (−1.2, 1, −1.2, …); the minimum is 0 at (1, …, 1).

    Howard Rosenbrock, *An automatic method for finding the greatest or least value of a function*, 1960.
    """
    if dimension < 2:
        raise ValueError(f"rosenbrock: dimension is {dimension}, but must be at least 2.")
    start = np.where(np.arange(dimension) % 2 == 0, -1.2, 1.0)
    return Problem(
        terms=(Term("rosenbrock", residuals, squared, whole=True),),
        sampler=Constant({}),
        model=lambda key: jnp.asarray(start) + 0.0,
        reference=ParameterReference(np.ones(dimension)),
        name="rosenbrock",
        options={"dimension": dimension},
    )
