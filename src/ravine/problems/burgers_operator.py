"""Burgers' equation as an operator: from the state at the start to that at the end."""

from ravine.formulations import operator
from ravine.models import FNO
from ravine.problems import operator_data
from ravine.problems._operators import functions_sampler
from ravine.problems.problem import OperatorReference, Problem


def burgers_operator(
    *,
    functions: int = 1000,
    tests: int = 200,
    grid: int = 128,
    viscosity: float = 0.1,
    modes: int = 16,
    width: int = 32,
    depth: int = 4,
    batch: int | None = 20,
) -> Problem:
    """u_t + u u_x = ν u_xx on the circle of length 1: the operator u(·, 0) ↦ u(·, 1), u(·, 0) from a Gaussian field.

    FNO on 128 points; a loss relative to the size of u; shuffled minibatches of `batch` functions, or all at once for
    none. Data: Fourier Galerkin with ETDRK4 (relative error below 1e-6), kept in the user's cache folder. Reference:
    the same, mean relative L2 error over `tests` functions that were not trained on.
    """
    data = operator_data.stored(operator_data.burgers, functions, tests, grid=grid, viscosity=viscosity)
    return Problem(
        terms=(operator("data", relative=True),),
        sampler=functions_sampler((data.inputs, data.outputs), batch),
        model=lambda key: FNO((modes,), width=width, depth=depth, key=key),
        reference=OperatorReference(data.test_inputs, data.test_outputs),
        name="burgers_operator",
        options={
            "functions": functions,
            "tests": tests,
            "grid": grid,
            "viscosity": viscosity,
            "modes": modes,
            "width": width,
            "depth": depth,
            "batch": batch,
        },
    )
