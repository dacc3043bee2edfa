"""What tutorials, command line and benchmarks share: terms, a sampler, a model and a way to tell the error."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._types import Batch, Float, Model, RandomKey, Scalar, Vector
from ravine.focus import Focus
from ravine.objective import Objective
from ravine.samplers import Sampler
from ravine.terms import Term
from ravine.weights import Given, Weighting


class GridReference(eqx.Module):
    """A known solution on a tensor grid: `values[i, j, …]` at `(axes[0][i], axes[1][j], …)`.

    The error is ‖u − u*‖₂/‖u*‖₂ over the grid.
    """

    axes: tuple[Any, ...]
    values: Any
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(self, axes: tuple[np.ndarray, ...], values: np.ndarray, names: tuple[str, ...]):
        if values.shape != tuple(len(axis) for axis in axes) or len(names) != len(axes):
            raise ValueError(
                f"GridReference: values of shape {values.shape} do not fit axes of lengths "
                f"{[len(axis) for axis in axes]} with names {names}."
            )
        self.axes, self.values, self.names = axes, values, names

    @property
    def points(self) -> Float[np.ndarray, "m d"]:
        """Every grid point, the last axis fastest."""
        return np.asarray(self._points(np))

    def _points(self, numpy: Any) -> Any:
        return numpy.stack([grid.ravel() for grid in numpy.meshgrid(*self.axes, indexing="ij")], axis=1)

    def error(self, model: Model, dtype: Any) -> Scalar:
        """The relative L2 error of `model`."""
        found = jax.lax.map(model, self._points(jnp).astype(dtype), batch_size=4096)
        return relative_l2(found.reshape(-1), jnp.asarray(self.values, dtype).reshape(-1))


class PointReference(eqx.Module):
    """A known solution at scattered points: `values[i]` at `points[i]`, for domains that no grid can fill.

    The error is ‖u − u*‖₂/‖u*‖₂ over the points.
    """

    points: Any
    values: Any

    def __init__(self, points: np.ndarray, values: np.ndarray):
        if points.ndim != 2 or values.shape[:1] != points.shape[:1]:
            raise ValueError(
                f"PointReference: values of shape {values.shape} do not fit points of shape {points.shape}, which "
                "should be (points, coordinates)."
            )
        self.points, self.values = points, values

    def error(self, model: Model, dtype: Any) -> Scalar:
        """The relative L2 error of `model`."""
        found = jax.lax.map(model, jnp.asarray(self.points, dtype), batch_size=2048)
        return relative_l2(found.reshape(-1), jnp.asarray(self.values, dtype).reshape(-1))


class OperatorReference(eqx.Module):
    """Known values of an operator: `values[i]` is G[functions[i]] (at `points`, for a model that is called with them).

    The error is the mean over the functions of ‖u − u*‖₂/‖u*‖₂. None of them should have been trained on.
    """

    functions: Any
    values: Any
    points: Any = None

    def __init__(self, functions: np.ndarray, values: np.ndarray, points: np.ndarray | None = None):
        if functions.shape[:1] != values.shape[:1] or (points is not None and points.shape[:1] != values.shape[1:2]):
            raise ValueError(
                f"OperatorReference: values of shape {values.shape} do not fit functions of shape {functions.shape}"
                f"{'' if points is None else f' and points of shape {points.shape}'}."
            )
        self.functions, self.values, self.points = functions, values, points

    def evaluate(self, model: Model, functions: Any) -> Any:
        """The operator `model` applied to functions, one a row."""
        if self.points is None:
            return jax.lax.map(model, functions, batch_size=256)
        points = jnp.asarray(self.points, functions.dtype)
        return jax.lax.map(lambda a: model(a, points), functions, batch_size=256)

    def error(self, model: Model, dtype: Any) -> Scalar:
        """The mean relative L2 error of the operator `model`."""
        found = self.evaluate(model, jnp.asarray(self.functions, dtype))
        return jnp.mean(
            jax.vmap(lambda u, exact: relative_l2(u.reshape(-1), exact.reshape(-1)))(
                found, jnp.asarray(self.values, dtype)
            )
        )


class ParameterReference(eqx.Module):
    """Known optimal parameters. The error is ‖θ − θ*‖₂/‖θ*‖₂, or ‖θ‖₂ when θ* = 0."""

    parameters: Any

    def __init__(self, parameters: np.ndarray):
        self.parameters = np.asarray(parameters)

    def error(self, model: Model, dtype: Any) -> Scalar:
        """The relative error of the parameters of `model`."""
        flat = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(model)])
        return relative_l2(flat, jnp.asarray(self.parameters, dtype).reshape(-1))


class ClassReference(eqx.Module):
    """Labelled points apart from those of training: the error is the share that is put into the wrong class.

    The class of a point is the largest of the model's logits, or for a model with one logit whether it is positive.
    """

    points: Any
    labels: Any

    def __init__(self, points: np.ndarray, labels: np.ndarray):
        if labels.shape != points.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"ClassReference: needs one whole number a point, got labels of shape {labels.shape} and dtype "
                f"{labels.dtype} for points of shape {points.shape}."
            )
        self.points, self.labels = points, labels

    def error(self, model: Model, dtype: Any) -> Scalar:
        """The share of the points that `model` puts into the wrong class."""
        logits = jax.vmap(model)(jnp.asarray(self.points, dtype))
        found = jnp.argmax(logits, axis=1) if logits.ndim == 2 else (logits > 0).astype(jnp.int32)
        return jnp.mean((found != jnp.asarray(self.labels, found.dtype)).astype(dtype))


class CoefficientReference(eqx.Module):
    """Known coefficients of an equation, for a model that is an `Inverse`: by name a number, or a grid for a field.

    The error is the largest of the relative errors of the coefficients. `solution`, where given, is the solution that
    belongs to them.
    """

    exact: dict[str, Any]
    solution: GridReference | None = None

    def errors(self, model: Model, dtype: Any) -> dict[str, Scalar]:
        """The relative error of each coefficient."""
        found = {}
        for name, exact in self.exact.items():
            value = model.coefficients[name]
            if isinstance(exact, GridReference):
                found[name] = exact.error(value, dtype)
            else:
                found[name] = relative_l2(jnp.ravel(value), jnp.ravel(jnp.asarray(exact, dtype)))
        return found

    def error(self, model: Model, dtype: Any) -> Scalar:
        """The largest relative error of a coefficient of `model`."""
        return jnp.max(jnp.stack(list(self.errors(model, dtype).values())))


Reference = (
    GridReference | PointReference | OperatorReference | ParameterReference | ClassReference | CoefficientReference
)


class Error(eqx.Module):
    """`error(objective, theta)`: the relative error against a reference. A value, so that problems with references of
    equal shapes share compiled code."""

    reference: Any

    def __call__(self, objective: Objective, theta: Vector) -> Scalar:
        return self.reference.error(objective.model(theta), theta.dtype)


def relative_l2(found: Vector, exact: Vector) -> Scalar:
    """‖found − exact‖₂/‖exact‖₂; the numerator alone where exact is zero.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> float(rv.relative_l2(jnp.array([3.0, 5.0]), jnp.array([3.0, 4.0])))
    0.2

    ```
    """
    norm = jnp.linalg.norm(exact)
    return jnp.linalg.norm(found - exact) / jnp.where(norm > 0, norm, 1)


@dataclasses.dataclass(frozen=True)
class Problem:
    """Terms, a sampler, a model: everything that training needs, and no loop.

    **Arguments:**

    - `terms`: what `residual`, `boundary`, `initial`, `supervised` and the like return.
    - `sampler`: where the points come from; it is told which region each term lives in.
    - `model`: `key -> model`, any callable pytree (or whatever pytree the terms understand).
    - `reference`: what the error is measured against, when something is known.
    - `weights`: how the terms are weighed against each other, and points; by default as they were given.
    - `focuses`: what is trained in turn, when not everything at once.
    - `name`, `options`: how `ravine.problems` makes it again; empty for one's own.

    **Raises:** `ValueError` for repeated term names, terms without points, points without terms.
    """

    terms: tuple[Term, ...]
    sampler: Sampler
    model: Callable[[RandomKey], Model]
    reference: Reference | None = None
    name: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: Weighting = dataclasses.field(default_factory=Given)
    focuses: tuple[Focus, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "terms", tuple(self.terms))
        for term in self.terms:
            if not isinstance(term, Term):
                raise TypeError(
                    f"Problem: {term!r} is not a term. Wrap it: ravine.residual('pde', pde), ravine.boundary(…)."
                )

    def objective(self, key: RandomKey, *, block: int | None = None) -> tuple[Objective, Vector, Sampler]:
        """The objective, the parameters drawn with `key`, and the sampler bound to the terms' regions."""
        model = self.model(key)
        objective, theta = Objective.from_terms(self.terms, model, block=block)
        sampler = self.sampler.bind({term.name: term.region for term in self.terms}, theta.dtype)
        return dataclasses.replace(objective, samples=sampler.samples, focuses=self.focuses), theta, sampler

    def error(self, objective: Objective, theta: Vector) -> Scalar | None:
        """The relative error of the model with parameters `theta`, or None when nothing is known. For use in `jit`."""
        return None if self.reference is None else Error(self.reference)(objective, theta)


def locate(objective: Objective, theta: Vector, batch: Batch) -> str:
    """Where the objective is not finite, in words: the term and its first offending point; "" where all is well."""
    for term in objective.terms:
        points, _ = objective.entry(term, batch)
        if term.whole:
            value = np.asarray(objective.linearise(theta, batch).objective.values(theta, batch)[term.name])
            if not np.isfinite(value):
                return f"The term {term.name!r} is {value}."
            continue
        values = np.asarray(objective.pointwise(theta, term.name, points))
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            first = int(bad[0])
            here = jax.tree.map(lambda leaf, at=first: leaf[at], points)
            found = f"The term {term.name!r} is {values[first]} at {bad.size} of {values.size} points; the first is "
            explain = getattr(term.features, "explain", None)  # features may know why
            if explain is not None:
                return f"{found}point number {first}. {explain(objective.model(theta), here)}"
            point = jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), here)
            return f"{found}point number {first}, {point}."
    return ""
