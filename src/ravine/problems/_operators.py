"""What the operator problems share: functions as samples, networks, and an error on functions not trained on."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import RandomKey
from ravine.formulations import operator
from ravine.minibatches import Minibatches
from ravine.models import MLP, Compose, Constrained, DeepONet, Scale
from ravine.problems.operator_data import OperatorData, check
from ravine.problems.problem import OperatorReference, Problem
from ravine.samplers import Constant, Sampler


def functions_sampler(entry: tuple[np.ndarray, ...], batch: int | None, name: str = "data") -> Sampler:
    """All functions at once, or shuffled minibatches of `batch` of them."""
    whole = {name: tuple(jnp.asarray(leaf, jnp.result_type(float)) for leaf in entry)}
    return Constant(whole) if batch is None else Minibatches(whole, size=batch)


def zero(y):
    """What a trunk that vanishes somewhere is there."""
    return jnp.zeros((), y.dtype)


def networks(
    sensors: int, *, width: int, depth: int, basis: int, vanishing: Callable[[Any], Any] | None = None
) -> Callable[[RandomKey], DeepONet]:
    """A DeepONet whose branch and trunk have `depth` hidden layers of `width` units, for query points in [0, 1].

    Where the function `vanishing` of a point is zero, so is the operator's value.
    """

    def model(key: RandomKey) -> DeepONet:
        one, other = jax.random.split(key)
        branch = MLP(sensors, basis, width=width, depth=depth, key=one)
        trunk = Compose(Scale((0.0,), (1.0,)), MLP(1, basis, width=width, depth=depth, key=other))
        if vanishing is None:
            return DeepONet(branch, trunk)
        return DeepONet(branch, Constrained(trunk, zero, vanishing), bias=False)

    return model


def learnt_from_pairs(name: str, points: np.ndarray, data: OperatorData, options: dict[str, Any]) -> Problem:
    """A DeepONet trained on pairs."""
    check(data, name)
    sizes = {option: options[option] for option in ("width", "depth", "basis")}
    return Problem(
        terms=(operator("data", jnp.asarray(points), relative=True),),
        sampler=functions_sampler((data.inputs, data.outputs), options["batch"]),
        model=networks(options["sensors"], **sizes),
        reference=OperatorReference(data.test_inputs, data.test_outputs, points),
        name=name,
        options=options,
    )
