"""Multi-stage training: a second network for what the first one left over."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Array, Model, RandomKey
from ravine.jets import taylor
from ravine.models import Frozen, Staged
from ravine.problems.problem import Problem


def next_stage(
    problem: Problem, model: Model, network: Callable[[RandomKey], Model], *, key: RandomKey, scale: float | None = None
) -> Problem:
    """The same problem for u = `model` + ε N, with `model` frozen and N made by `network`: for when a run has stalled.

    **Arguments:**

    - `model`: what earlier stages found, such as `run.model`.
    - `network`: `key -> N`, of size one, with frequencies as high as those of the residual, and zero where `model`
      meets a condition by construction, as `Constrained(…, zero, interior)` is.
    - `scale`: ε. By default the one for which εN, with a network drawn by `key`, changes the residual r by as much as
      there is of it: ε = ‖r‖/‖J N‖ on points drawn by `key`, J N the derivative of the features in the direction N.

    The weights of all terms are divided by ε², so that a loss of size one is one again.

    **Raises:** `ValueError` when `scale` has to be found and some loss is not ½‖F‖², or the residual is zero.

    Yongji Wang and Ching-Yao Lai, *Multi-stage neural networks: function approximator of machine precision*,
    J. Comput. Phys. 2024, sections 3 and 4. Deviation: ε from all terms by a random network, where the paper divides
    the residual by the coefficients of one chosen term.

    ```python
    >>> import jax, ravine as rv
    >>> problem, key = rv.problems.make("poisson1d", points=16, width=4), jax.random.key(0)
    >>> second = rv.problems.next_stage(problem, problem.model(key), problem.model, key=key, scale=1e-4)
    >>> type(second.model(key)).__name__
    'Staged'

    ```
    """
    if scale is None:
        scale = _scale(problem, model, network, key)
    return dataclasses.replace(
        problem,
        terms=tuple(dataclasses.replace(term, weight=term.weight / scale**2) for term in problem.terms),
        model=_Next(Frozen(model), network, scale),
        name="",
        options={},
    )


@dataclasses.dataclass(frozen=True)
class _Next:
    """key ↦ u₁ + ε N."""

    earlier: Frozen
    network: Callable[[RandomKey], Model]
    scale: float

    def __call__(self, key: RandomKey) -> Staged:
        return Staged(self.earlier, self.network(key), scale=self.scale)


class _Multiple(eqx.Module):
    """u + t N with the one parameter t."""

    earlier: Frozen
    network: Frozen
    t: Array

    def __call__(self, z: Any) -> Any:
        return self.taylor(z, ())[0]

    def taylor(self, z: Any, curves: Any) -> Any:
        """See `ravine.taylor`."""
        first, second = taylor(self.earlier, z, curves), taylor(self.network, z, curves)
        return jax.tree.map(lambda a, b: a + self.t * b, first, second)


def _scale(problem: Problem, model: Model, network: Callable[[RandomKey], Model], key: RandomKey) -> float:
    """‖r‖/‖J N‖."""
    network_key, point_key = jax.random.split(key)
    multiple = _Multiple(Frozen(model), Frozen(network(network_key)), jnp.zeros(()))
    objective, theta, sampler = dataclasses.replace(problem, model=lambda _: multiple).objective(key)

    @eqx.filter_jit
    def norms(objective, theta, batch):
        lin = objective.linearise(theta, batch)
        return jnp.linalg.norm(lin.residual), jnp.linalg.norm(lin.jvp(jnp.ones_like(theta)))

    residual, change = norms(objective, theta, sampler.init(point_key).batch)
    found = float(residual) / float(change) if change > 0 else np.inf
    if not (np.isfinite(found) and found > 0):
        raise ValueError(
            f"next_stage: no scale can be found from a residual of norm {float(residual)} and a change of norm "
            f"{float(change)}. Either the model solves the problem already, or the network does not act on it."
        )
    return found
