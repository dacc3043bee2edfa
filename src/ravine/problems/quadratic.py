"""A convex quadratic with a chosen condition number: where every rate is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from ravine.objective import Term, identity
from ravine.problems.problem import ParameterReference, Problem
from ravine.samplers import Constant


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """½ xᵀAx with A = diag(λ), λ spread geometrically from 1/κ to 1."""

    condition: float
    dimension: int

    @property
    def eigenvalues(self) -> np.ndarray:
        """λ₁ = 1/κ, …, λ_n = 1."""
        return np.geomspace(1 / self.condition, 1, self.dimension)

    def __call__(self, x, points):
        del points
        return jnp.sum(jnp.asarray(self.eigenvalues, x.dtype) * x**2) / 2


def quadratic(*, condition: float = 1e3, dimension: int = 100) -> Problem:
    """½ xᵀAx, A diagonal with eigenvalues spread geometrically over [1/κ, 1]; the minimum is 0 at x = 0.

    The start is uniform in direction with ‖x‖ = √n. The reported error is ‖x‖₂, absolute, since x* = 0.
    """
    if condition < 1 or dimension < 2:
        raise ValueError(f"quadratic: needs condition ≥ 1 and dimension ≥ 2, got {condition=}, {dimension=}.")

    def start(key):
        x = jax.random.normal(key, (dimension,))
        return x / jnp.linalg.norm(x) * np.sqrt(dimension)

    return Problem(
        terms=(Term("loss", Quadratic(condition, dimension), identity, whole=True),),
        sampler=Constant({}),
        model=start,
        reference=ParameterReference(np.zeros(dimension)),
        name="quadratic",
        options={"condition": condition, "dimension": dimension},
    )
