"""Darcy's flow through a random medium: the operator from the permeability to the pressure."""

from ravine.formulations import operator
from ravine.models import FNO
from ravine.problems import operator_data
from ravine.problems._operators import functions_sampler
from ravine.problems.problem import OperatorReference, Problem


def darcy_operator(
    *,
    functions: int = 400,
    tests: int = 100,
    grid: int = 33,
    modes: int = 12,
    width: int = 32,
    depth: int = 4,
    batch: int | None = 20,
) -> Problem:
    """−∇·(eᵍ∇u) = 10 on (0, 1)², u = 0 on the boundary: the operator g ↦ u, g from a Gaussian field of length 0.3.

    FNO on a grid of 33 × 33 points, padded by 7; a loss relative to the size of u; shuffled minibatches of `batch`
    functions, or all at once for none. Data: extrapolated finite differences (relative error below 1e-5), kept in the
    user's cache folder. Reference: the same, mean relative L2 error over `tests` functions that were not trained on.
    """
    data = operator_data.stored(operator_data.darcy, functions, tests, grid=grid)
    return Problem(
        terms=(operator("data", relative=True),),
        sampler=functions_sampler((data.inputs, data.outputs), batch),
        model=lambda key: FNO((modes, modes), width=width, depth=depth, padding=7, key=key),
        reference=OperatorReference(data.test_inputs, data.test_outputs),
        name="darcy_operator",
        options={
            "functions": functions,
            "tests": tests,
            "grid": grid,
            "modes": modes,
            "width": width,
            "depth": depth,
            "batch": batch,
        },
    )
