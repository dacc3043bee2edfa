"""The solution operator of Poisson's equation on an interval, learnt from pairs of functions."""

from ravine.problems import operator_data
from ravine.problems._operators import learnt_from_pairs
from ravine.problems.problem import Problem


def poisson_operator(
    *,
    functions: int = 1000,
    tests: int = 200,
    sensors: int = 100,
    queries: int = 100,
    length: float = 0.2,
    width: int = 64,
    depth: int = 2,
    basis: int = 40,
    batch: int | None = None,
) -> Problem:
    """−u″ = f on (0, 1), u(0) = u(1) = 0: the operator f ↦ u from pairs, f from a Gaussian field of length ℓ.

    DeepONet; a loss relative to the size of u. All functions at once by default, shuffled minibatches of `batch`
    functions otherwise. Reference: closed form, mean relative L2 error over `tests` functions that were not trained on.
    """
    options = {
        "functions": functions,
        "tests": tests,
        "sensors": sensors,
        "queries": queries,
        "length": length,
        "width": width,
        "depth": depth,
        "basis": basis,
        "batch": batch,
    }
    points, data = operator_data.poisson(functions, tests, sensors=sensors, queries=queries, length=length)
    return learnt_from_pairs("poisson_operator", points, data, options)
