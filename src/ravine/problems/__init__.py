"""Problems by name, one file each: equation, reference solution, defaults.

Files are imported when asked for, so that naming a problem costs nothing.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from ravine.problems.catalogue import CATALOGUE, Entry
from ravine.problems.problem import (
    ClassReference,
    CoefficientReference,
    GridReference,
    OperatorReference,
    ParameterReference,
    PointReference,
    Problem,
    locate,
    relative_l2,
)
from ravine.problems.stages import next_stage
from ravine.problems.windows import in_windows

NAMES = tuple(CATALOGUE)


def factory(name: str) -> Callable[..., Problem]:
    """The function that makes the problem `name`; its keyword arguments are the problem's options.

    **Raises:** `KeyError` for a name that is not in `NAMES`.

    ```python
    >>> from ravine import problems
    >>> problems.factory("poisson1d")(k=4).name
    'poisson1d'

    ```
    """
    if name not in NAMES:
        raise KeyError(f"There is no problem {name!r}; choose from {', '.join(NAMES)}.")
    return getattr(importlib.import_module(f"ravine.problems.{name}"), name)


def make(name: str, **options: Any) -> Problem:
    """The problem `name` with `options`.

    **Raises:** `KeyError` for an unknown name, `TypeError` for an unknown option (naming those there are).
    """
    function = factory(name)
    known = inspect.signature(function).parameters
    unknown = [option for option in options if option not in known]
    if unknown:
        raise TypeError(f"The problem {name!r} has no option {unknown[0]!r}; it has {', '.join(known)}.")
    return function(**options)


__all__ = [
    "CATALOGUE",
    "NAMES",
    "ClassReference",
    "CoefficientReference",
    "Entry",
    "GridReference",
    "OperatorReference",
    "ParameterReference",
    "PointReference",
    "Problem",
    "factory",
    "in_windows",
    "locate",
    "make",
    "next_stage",
    "relative_l2",
]
