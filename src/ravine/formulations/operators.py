"""Operators between functions: fitted to pairs of functions, or to an equation alone."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Model, PyTree
from ravine.terms import Term, squared


def operator(name: str, points: Any = None, *, relative: bool = False, weight: float = 1.0) -> Term:
    """The mean over functions of ½ mean_j (G[a](y_j) − u(y_j))²: an operator G fitted to pairs of functions (a, u).

    A sample is a function: the batch entry is a pair of arrays with a common leading axis, the inputs a (at sensors)
    and the outputs u (at query points), so that minibatches draw functions, and what a model computes for a function it
    computes once.

    **Arguments:** `points`: the query points `(q, d)` that all functions share, for a model that is called with them,
    `model(a, points) -> (q,)`, such as `DeepONet`; without, the model is called as `model(a)`, as `FNO` is, or with the
    points of each function where the entry is a triple (a, points, u). `relative`: the errors are divided by the size
    of u, ½‖G[a] − u‖²/‖u‖², so that all functions count alike.

    **Raises:** `ValueError` (when it is compiled) for a model output of another shape than u.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> term = rv.operator("data", jnp.linspace(0, 1, 4)[:, None], relative=True)
    >>> halves = lambda a, y: jnp.full(y.shape[0], a[0] / 2)
    >>> term.features(halves, (jnp.array([1.0]), jnp.ones(4))).tolist()
    [-0.25, -0.25, -0.25, -0.25]

    ```
    """
    return Term(name, _Operator(name, points, relative), squared, weight)


class _Operator(eqx.Module):
    """(G[a](y) − u(y))/√q at all query points, or divided by ‖u‖."""

    name: str = eqx.field(static=True)
    points: Any
    relative: bool = eqx.field(static=True)

    def __call__(self, model, sample):
        a, *own, u = sample
        points = own[0] if own else self.points
        output = model(a) if points is None else model(a, jnp.asarray(points, u.dtype))
        if jnp.shape(output) != jnp.shape(u):
            raise ValueError(
                f"The term {self.name!r} compares a model output of shape {jnp.shape(output)} with a function of shape "
                f"{jnp.shape(u)}. Give the term as many query points as the data have values: operator({self.name!r}, "
                "points)."
            )
        size = jnp.linalg.norm(u) if self.relative else jnp.sqrt(jnp.asarray(u.size, u.dtype))
        return (output - u) / jnp.where(size > 0, size, 1)


def operator_residual(
    name: str, equation: Callable[[Model, Any, Any], PyTree], points: Any, *, weight: float = 1.0
) -> Term:
    """The mean over functions a and query points y_j of ½‖equation(G[a], y_j, v_j)‖²: an operator without labels.

    **Arguments:** `equation(u, y, value)`: the residual at one point, where u is the function y ↦ `model(a, y)`;
    `points`: the query points `(q, d)`. The batch entry is a pair of arrays with a common leading axis of functions:
    the inputs a, and the values `(q, …)` at the query points that the equation asks for, such as its right-hand side.

    Sifan Wang, Hanwen Wang and Paris Perdikaris, *Learning the solution operator of parametric partial differential
    equations with physics-informed DeepONets*, Science Advances 2021, equation 9.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> slope = lambda u, y, value: rv.gradient(u, y)[0] - value
    >>> term = rv.operator_residual("ode", slope, jnp.zeros((4, 1)))
    >>> term.features(lambda a, y: a[0] * y[0], (jnp.array([3.0]), jnp.ones(4))).tolist()
    [1.0, 1.0, 1.0, 1.0]

    ```
    """
    return Term(name, _OperatorResidual(name, equation, points), squared, weight)


class _At(eqx.Module):
    """G[a]: y ↦ model(a, y)."""

    model: Model
    a: Any

    def __call__(self, y):
        return self.model(self.a, y)


class _OperatorResidual(eqx.Module):
    """equation(G[a], y, value)/√q at all query points."""

    name: str = eqx.field(static=True)
    equation: Callable[[Model, Any, Any], PyTree]
    points: Any

    def __call__(self, model, sample):
        a, values = sample
        points = jnp.asarray(self.points, a.dtype)
        if values.shape[:1] != points.shape[:1]:
            raise ValueError(
                f"The term {self.name!r} has {points.shape[0]} query points, but values of shape {values.shape} for a "
                "function; their first axes must agree."
            )
        found = jax.vmap(lambda y, value: self.equation(_At(model, a), y, value))(points, values)
        return jax.tree.map(lambda leaf: leaf / jnp.sqrt(jnp.asarray(points.shape[0], leaf.dtype)), found)
