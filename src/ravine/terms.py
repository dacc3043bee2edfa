"""One summand of an objective: `weight · mean over points of loss(features(model, point), point)`; and its losses."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from ravine._types import Array, Batch, Int, Model, PyTree, Rows, Scalar
from ravine.domains import Boundary


def squared(features: PyTree, point: PyTree = None) -> Scalar:
    """½‖F‖², the loss of a residual.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> float(rv.squared(jnp.array([3.0, 4.0])))
    12.5

    ```
    """
    del point
    return jnp.sum(jnp.stack([jnp.sum(leaf**2) for leaf in jax.tree.leaves(features)])) / 2


def identity(features: PyTree, point: PyTree = None) -> Scalar:
    """The feature itself: the loss of an objective that is given as one number. It has no curvature of its own.

    **Raises:** `ValueError` when the feature is not one number.
    """
    del point
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(features)]
    if shapes != [()]:
        raise ValueError(
            f"The loss must be a scalar, but is an array or a pytree of shape {', '.join(map(str, shapes)) or 'none'}. "
            "Sum or average it; if it is a vector of residuals, use ravine.least_squares."
        )
    return jnp.asarray(jax.tree.leaves(features)[0])


class Term(eqx.Module):
    """One summand: `weight · mean over points of loss(features(model, point), point)`.

    **Arguments:**

    - `name`: how batches, histories and messages call it.
    - `features`: `(model, point) -> F`, an array or a pytree of arrays, at one point.
    - `loss`: `(F, point) -> φ`, a scalar, convex in F. Labels and forcing belong here unless it is `squared`.
    - `weight`: a positive number.
    - `region`: where a sampler that knows a domain shall place the points: "interior", "boundary" (or a `Boundary`,
      for faces, normals or pairs), "initial", or None for points that come as data.
    - `whole`: the features see the whole batch entry at once, weights included, instead of one point; then there is no
      mean.

    **Raises:** `ValueError` for a weight that is negative or not finite.
    """

    name: str = eqx.field(static=True)
    features: Callable[[Model, Any], PyTree]
    loss: Callable[[PyTree, Any], Scalar] = squared
    weight: Any = 1.0
    region: str | Boundary | None = eqx.field(static=True, default=None)
    whole: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        # Under `vmap` or `jit` a weight may be abstract; only a concrete one can be judged.
        abstract = isinstance(self.weight, Tracer) or not isinstance(self.weight, (int, float, np.ndarray, jax.Array))
        if not abstract and not np.all(np.isfinite(self.weight) & (np.asarray(self.weight) >= 0)):
            raise ValueError(
                f"Term {self.name!r}: its weight is {self.weight}, but a weight must be finite and not negative."
            )


class Weighted(eqx.Module):
    """A batch entry with one weight a point, as from quadrature or importance sampling: Σ v_i φ_i instead of a mean."""

    points: PyTree
    weights: Rows


class Minibatch(eqx.Module):
    """A batch that says which samples of a data set it holds. Losses see its `points` alone.

    - `points`: the batch itself, term name -> points.
    - `indices`: the places of its samples in the data, `(b,)`; None when the data have no common axis of samples.
    - `whole`: all the data, as a batch; None where they are not at hand. Inside `jit` it is a reference and no copy.
    - `shared`: how many of its samples, the first ones, the batch before held too.
    """

    points: Batch
    indices: Int[Array, "b"] | None
    whole: Batch = None
    shared: int = eqx.field(static=True, default=0)

    def __getitem__(self, name: str) -> PyTree:
        return self.points[name]


def points_of(batch: Batch) -> Batch:
    """What losses see of a batch."""
    return batch.points if isinstance(batch, Minibatch) else batch


def check_data(name: str, entry: PyTree) -> PyTree:
    """Data as arrays. **Raises:** `ValueError` for leading axes that differ, and for the first row that is not finite.

    ```python
    >>> from ravine.terms import check_data
    >>> [leaf.shape for leaf in check_data("data", ([0.0, 1.0], [[1.0], [2.0]]))]
    [(2,), (2, 1)]

    ```
    """
    leaves, treedef = jax.tree.flatten(entry, is_leaf=lambda leaf: isinstance(leaf, list))
    arrays = [leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in leaves]
    sizes = {leaf.shape[0] if leaf.ndim else 0 for leaf in arrays}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"The data of the term {name!r} need one common leading axis of samples, at least one of them; the shapes "
            f"are {', '.join(str(leaf.shape) for leaf in arrays)}."
        )
    floating = [np.asarray(leaf) for leaf in arrays if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    bad = np.zeros(sizes.pop(), bool)
    for leaf in floating:
        bad |= ~np.isfinite(leaf).reshape(bad.size, -1).all(axis=1)
    if bad.any():
        first = int(np.flatnonzero(bad)[0])
        row = ", ".join(str(leaf[first].tolist()) for leaf in arrays)
        raise ValueError(
            f"The data of the term {name!r} are not finite in {bad.sum()} of {bad.size} rows; the first is row "
            f"{first}: ({row}). Leave such rows out: keep = np.isfinite(y)."
        )
    return jax.tree.unflatten(treedef, [jnp.asarray(leaf) for leaf in arrays])
