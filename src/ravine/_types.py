"""The words that every floor shares: array types, in jaxtyping's notation."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float, Inexact, Int, Key, PyTree, Shaped

# n: parameters, m: whitened residual rows, d: coordinates of a point, q: features at a point.
Scalar = Float[Array, ""]
Count = Int[Array, ""]
Vector = Float[Array, "n"]
Rows = Float[Array, "m"]
Matrix = Float[Array, "m n"]
Square = Float[Array, "n n"]
Point = Float[Array, "d"]
RandomKey = Key[Array, ""]
Model = Any  # any callable pytree, or whatever pytree the user's features understand
Batch = Any  # term name -> points (arrays or pytrees with a leading axis), or the user's own `args`

__all__ = [
    "Any",
    "Array",
    "Batch",
    "Callable",
    "Count",
    "Float",
    "Inexact",
    "Int",
    "Matrix",
    "Model",
    "Point",
    "PyTree",
    "RandomKey",
    "Rows",
    "Scalar",
    "Shaped",
    "Square",
    "Vector",
]
