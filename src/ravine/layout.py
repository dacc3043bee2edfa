"""How a pytree of parameters lies in one flat vector."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._types import Array, PyTree, Vector


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a pytree of parameters lies in one flat vector. Compares by value, so that equal layouts share compiled code.

    Complex leaves become their real and imaginary parts; leaves of several precisions are promoted to the widest.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[np.dtype, ...]

    @staticmethod
    def of(params: PyTree) -> "Layout":
        """The layout of `params`, a pytree of inexact arrays."""
        leaves, treedef = jax.tree.flatten(params)
        return Layout(treedef, tuple(leaf.shape for leaf in leaves), tuple(np.dtype(leaf.dtype) for leaf in leaves))

    @property
    def dtype(self) -> np.dtype:
        """The real dtype of the flat vector."""
        reals = [jnp.finfo(dtype).dtype for dtype in self.dtypes]
        with jax.numpy_dtype_promotion("standard"):  # it is asked for, also where the user has forbidden it elsewhere
            return functools.reduce(jnp.promote_types, reals)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many real parameters each leaf has."""
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return tuple(math.prod(shape) * (2 if _is_complex(dtype) else 1) for shape, dtype in pairs)

    @property
    def size(self) -> int:
        """n: how many real parameters there are."""
        return sum(self.sizes)

    def narrowed(self, dtype: Any) -> "Layout":
        """The same layout with every leaf in a real `dtype`, or in the complex one made of two."""
        dtype = np.dtype(dtype)
        pair = np.result_type(dtype, np.complex64)
        return dataclasses.replace(self, dtypes=tuple(pair if _is_complex(d) else dtype for d in self.dtypes))

    def ravel(self, params: PyTree) -> Vector:
        """The flat vector of `params`."""
        parts = []
        for leaf in jax.tree.leaves(params):
            both = (leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,)
            parts += [jnp.ravel(part).astype(self.dtype) for part in both]
        return jnp.concatenate(parts)

    def unravel(self, theta: Vector) -> PyTree:
        """The pytree of a flat vector."""
        return self.join(self.split(theta))

    def split(self, theta: Vector) -> tuple[Array, ...]:
        """The real arrays that lie one after another in a flat vector: one a leaf, two a complex leaf.

        Derivatives with respect to these, put one beside the other, are derivatives with respect to the vector; asked
        for the vector itself, each leaf's would be padded to its length first.
        """
        parts, start = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            for _ in range(2 if _is_complex(dtype) else 1):
                size = math.prod(shape)
                parts.append(theta[start : start + size].reshape(shape))
                start += size
        return tuple(parts)

    def join(self, parts: tuple[Array, ...]) -> PyTree:
        """The pytree of what `split` returns."""
        left, leaves = iter(parts), []
        for dtype in self.dtypes:
            real = next(left)
            leaf = lax.complex(real, next(left)) if _is_complex(dtype) else real
            leaves.append(leaf.astype(dtype))
        return jax.tree.unflatten(self.treedef, leaves)


def _is_complex(dtype: np.dtype) -> bool:
    return np.issubdtype(dtype, np.complexfloating)
