"""The antiderivative as an operator, learnt from its equation alone."""

import jax.numpy as jnp

from ravine.calculus import partials
from ravine.formulations import operator_residual
from ravine.problems import operator_data
from ravine.problems._operators import functions_sampler, networks
from ravine.problems.problem import OperatorReference, Problem


def equation(u, y, value):
    """u′ − f."""
    return partials(u, y, 0)[0] - value


def place(y):
    """Zero where the initial condition holds."""
    return y[0]


def antiderivative_physics(
    *,
    functions: int = 1000,
    tests: int = 200,
    sensors: int = 100,
    length: float = 0.2,
    width: int = 64,
    depth: int = 2,
    basis: int = 40,
    batch: int | None = None,
) -> Problem:
    """u′ = f on (0, 1), u(0) = 0: the operator f ↦ u without labels, from the residual of G[f] at the sensors of f.

    DeepONet with a trunk that vanishes at 0, so that the initial condition holds by construction; f from a Gaussian
    field of correlation length ℓ. All functions at once by default, shuffled minibatches of `batch` functions
    otherwise. Reference: closed form, mean relative L2 error over `tests` functions that were not trained on.
    """
    points, data = operator_data.antiderivative(functions, tests, sensors=sensors, queries=sensors, length=length)
    return Problem(
        terms=(operator_residual("ode", equation, jnp.asarray(points)),),
        sampler=functions_sampler((data.inputs, data.inputs), batch, "ode"),
        model=networks(sensors, width=width, depth=depth, basis=basis, vanishing=place),
        reference=OperatorReference(data.test_inputs, data.test_outputs, points),
        name="antiderivative_physics",
        options={
            "functions": functions,
            "tests": tests,
            "sensors": sensors,
            "length": length,
            "width": width,
            "depth": depth,
            "basis": basis,
            "batch": batch,
        },
    )
