"""The loss along lines and across planes through the parameters."""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as sparse
from jax import lax

from ravine._types import Array, Batch, Float, RandomKey, Vector
from ravine.objective import Objective

Kind = Literal["random", "hessian", "path"]


@dataclasses.dataclass(frozen=True)
class Slice:
    """L(θ + a·d₁ + b·d₂) for a, b in `steps`: `values[i]`, or `values[i, j]` with a = steps[i] and b = steps[j].

    `directions` are the rows d; `track` the points of a trajectory in these coordinates, where one was given;
    `curvature` the eigenvalue that belongs to each direction of the Hessian; `kept` the share of the trajectory's
    spread that its plane holds.
    """

    steps: np.ndarray
    values: np.ndarray
    directions: np.ndarray
    kind: str
    track: np.ndarray | None = None
    curvature: tuple[float, ...] = ()
    kept: float | None = None


@eqx.filter_jit
def _values(objective: Objective, theta: Vector, batch: Batch, directions: Array, places: Float[Array, "k d"]):
    return lax.map(lambda at: objective(theta + at @ directions, batch), places)


@eqx.filter_jit
def _product(objective: Objective, theta: Vector, batch: Batch, v: Vector):
    return objective.linearise(theta, batch).hessian_product(v)


def filter_normalised(objective: Objective, theta: Vector, key: RandomKey) -> Vector:
    """A random direction as long as θ, unit by unit: each row of each matrix has the norm of that row of θ, and all
    other arrays that of the array. Scaling a layer up and the next one down then leaves the picture as it is.

    Hao Li et al., *Visualizing the loss landscape of neural nets*, NeurIPS 2018, section 4.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> objective, theta = rv.Objective.from_loss(lambda w, _: jnp.sum(w**2), jnp.array([[3.0, 4.0], [0.0, 1.0]]))
    >>> d = rv.filter_normalised(objective, theta, jax.random.key(0)).reshape(2, 2)
    >>> jnp.round(jnp.linalg.norm(d, axis=1), 12).tolist()
    [5.0, 1.0]

    ```
    """
    parts = []
    for number, part in enumerate(objective.layout.split(theta)):
        drawn = jax.random.normal(jax.random.fold_in(key, number), part.shape, part.dtype)
        axes = tuple(range(1, part.ndim)) if part.ndim > 1 else None
        size = lambda x, axes=axes: jnp.sqrt(jnp.sum(x**2, axis=axes, keepdims=axes is not None))
        length = size(drawn)
        parts.append(jnp.ravel(drawn / jnp.where(length > 0, length, 1) * size(part)))
    return jnp.concatenate(parts).astype(theta.dtype)


def top_eigenvectors(
    objective: Objective, theta: Vector, batch: Batch, count: int = 2
) -> tuple[np.ndarray, Float[np.ndarray, "k n"]]:
    """The eigenvalues of ∇²L that are largest in size, and unit eigenvectors as rows, by Lanczos' method (ARPACK).

    **Raises:** `ValueError` for more than n. **Cost:** tens of Hessian products, about six gradients each.
    """
    n = theta.shape[0]
    if not 1 <= count <= n:
        raise ValueError(f"top_eigenvectors: {count} eigenvectors of {n} parameters.")
    alone = objective.over(None)
    product = lambda v: np.asarray(_product(alone, theta, batch, jnp.asarray(v.ravel(), theta.dtype)))
    if count >= n - 1:  # ARPACK needs room
        dense = np.stack([product(row) for row in np.eye(n)])
        values, vectors = np.linalg.eigh((dense + dense.T) / 2)
        order = np.argsort(-np.abs(values))[:count]
        return values[order], vectors[:, order].T
    operator = sparse.LinearOperator((n, n), matvec=product, dtype=np.float64)  # pyright: ignore[reportCallIssue]
    start = np.random.default_rng(0).standard_normal(n)
    values, vectors = sparse.eigsh(operator, k=count, which="LM", v0=start, tol=1e-6)  # pyright: ignore[reportArgumentType]
    order = np.argsort(-np.abs(values))
    return values[order], vectors[:, order].T


def trajectory_plane(thetas: Float[Array, "steps n"] | np.ndarray) -> tuple[np.ndarray, float]:
    """The two orthonormal directions in which a trajectory spreads the most around its end, `(2, n)`, and the share of
    its spread that they hold: principal components. **Raises:** `ValueError` for fewer than three points."""
    path = np.asarray(thetas, np.float64)
    if path.ndim != 2 or len(path) < 3:
        raise ValueError(f"trajectory_plane: needs at least three parameter vectors as rows, got shape {path.shape}.")
    _, sizes, rows = np.linalg.svd(path - path[-1], full_matrices=False)
    total = float(np.sum(sizes**2))
    return rows[:2], float(np.sum(sizes[:2] ** 2) / total) if total > 0 else 1.0


def landscape(
    objective: Objective,
    theta: Vector,
    batch: Batch,
    kind: Kind = "random",
    *,
    dimensions: int = 2,
    reach: float = 1.0,
    resolution: int = 41,
    thetas: Float[Array, "steps n"] | np.ndarray | None = None,
    key: RandomKey | None = None,
) -> Slice:
    """The loss on a line or a plane through θ: a `Slice`.

    **Arguments:**

    - `kind`: "random", filter-normalised directions; "hessian", the eigenvectors of ∇²L with the largest eigenvalues,
      in units in which L rises by about one in relative terms (√(2L/|λ|)); "path", the plane of a trajectory `thetas`,
      in units of its reach.
    - `dimensions`: 1 or 2. `reach`: how far to each side, in units of the directions. `resolution`: points on an axis.

    **Raises:** `ValueError` for other kinds and dimensions, and for a path without `thetas`. **Cost:** `resolution` to
    the power of `dimensions` evaluations, beside those of the directions.
    """
    if dimensions not in (1, 2) or resolution < 3 or not reach > 0:
        raise ValueError(f"landscape: got {dimensions=} (1 or 2), {resolution=} (≥ 3), {reach=} (> 0).")
    curvature, track, kept = (), None, None
    if kind == "random":
        keys = jax.random.split(jax.random.key(0) if key is None else key, dimensions)
        rows = np.stack([np.asarray(filter_normalised(objective, theta, one)) for one in keys])
    elif kind == "hessian":
        found, rows = top_eigenvectors(objective, theta, batch, dimensions)
        loss = abs(float(objective.over(None)(theta, batch)))
        sizes = np.sqrt(2 * max(loss, float(jnp.finfo(theta.dtype).tiny)) / np.maximum(np.abs(found), 1e-300))
        rows, curvature = rows * sizes[:, None], tuple(float(value) for value in found)
    elif kind == "path":
        if thetas is None:
            raise ValueError("landscape: a path needs thetas=, the parameters along it as rows.")
        rows, kept = trajectory_plane(thetas)
        rows = rows[:dimensions]
        track = (np.asarray(thetas, np.float64) - np.asarray(theta, np.float64)) @ rows.T
        size = float(np.max(np.abs(track))) or 1.0
        rows, track = rows * size, track / size
    else:
        raise ValueError(f"landscape: kind is {kind!r}; choose random, hessian or path.")
    steps = np.linspace(-reach, reach, resolution)
    places = np.stack(np.meshgrid(*[steps] * dimensions, indexing="ij"), axis=-1).reshape(-1, dimensions)
    found = _values(
        objective.over(None), theta, batch, jnp.asarray(rows, theta.dtype), jnp.asarray(places, theta.dtype)
    )
    return Slice(
        steps, np.asarray(found, float).reshape((resolution,) * dimensions), rows, kind, track, curvature, kept
    )
