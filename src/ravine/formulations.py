"""Functions that return a `Term`: what a formulation is, and all that it is."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Model, PyTree, Scalar
from ravine.terms import Term, squared


class _Residual(eqx.Module):
    """`function(model, point)` as features. A value, so that equal terms share compiled code."""

    function: Callable[[Model, Any], PyTree]

    def __call__(self, model, point):
        return self.function(model, point)


class _Mismatch(eqx.Module):
    """model(point) − target(point)."""

    name: str = eqx.field(static=True)
    target: Any

    def __call__(self, model, point):
        output = jnp.asarray(model(point))
        target = jnp.asarray(self.target(point) if callable(self.target) else self.target, output.dtype)
        if jnp.shape(target) not in ((), jnp.shape(output)):
            raise ValueError(
                f"The term {self.name!r} compares a model output of shape {jnp.shape(output)} with a target of shape "
                f"{jnp.shape(target)}. Give both the same shape (MLP(..., 'scalar', ...) returns shape ())."
            )
        return output - target


def residual(name: str, equation: Callable[[Model, Any], PyTree], *, weight: float = 1.0) -> Term:
    """The mean of ½‖equation(u, z)‖² over the interior: a PDE in strong form.

    **Arguments:** `equation(u, z)`: its residual at one point z, an array or a pytree; u is the model.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> rv.residual("pde", lambda u, z: rv.laplacian(u, z)).region
    'interior'

    ```
    """
    return Term(name, _Residual(equation), squared, weight, "interior")


def boundary(name: str, value: Any, *, weight: float = 1.0) -> Term:
    """The mean of ½‖u(z) − value‖² over the spatial boundary: a soft Dirichlet condition.

    **Arguments:** `value`: a number, an array of the model's output shape, or a function of the point.
    """
    return Term(name, _Mismatch(name, value), squared, weight, "boundary")


def initial(name: str, value: Any, *, weight: float = 1.0) -> Term:
    """The mean of ½‖u(z) − value‖² over the initial slice of a box whose last coordinate is time.

    **Arguments:** `value`: a number, an array of the model's output shape, or a function of the point.
    """
    return Term(name, _Mismatch(name, value), squared, weight, "initial")


class _Prediction(eqx.Module):
    """model(x) of a pair (x, y)."""

    def __call__(self, model, pair):
        return model(pair[0])


class _Labelled(eqx.Module):
    """loss(prediction, y) of a pair (x, y)."""

    loss: Callable[[PyTree, Any], Scalar]

    def __call__(self, prediction, pair):
        return self.loss(prediction, pair[1])


def supervised(name: str, loss: Callable[[PyTree, Any], Scalar] | None = None, *, weight: float = 1.0) -> Term:
    """The mean of loss(u(x), y) over pairs (x, y), by default ½‖u(x) − y‖².

    **Arguments:** `loss(prediction, label)`, convex in the prediction. The batch entry is a pair of arrays with a
    common leading axis.
    """
    if loss is None:
        return Term(name, _Fit(name), squared, weight)
    return Term(name, _Prediction(), _Labelled(loss), weight)


class _Fit(eqx.Module):
    """model(x) − y of a pair (x, y)."""

    name: str = eqx.field(static=True)

    def __call__(self, model, pair):
        output, label = model(pair[0]), pair[1]
        if jnp.shape(output) != jnp.shape(label):
            raise ValueError(
                f"The term {self.name!r} compares a model output of shape {jnp.shape(output)} with a label of shape "
                f"{jnp.shape(label)}. Give both the same shape (MLP(..., 'scalar', ...) returns shape ())."
            )
        return output - label


def logistic(logit: Scalar, label: Scalar) -> Scalar:
    """The logistic loss log(1 + eᶻ) − y z for a label y in {0, 1}, without overflow.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> round(float(rv.logistic(jnp.array(0.0), jnp.array(1.0))), 6)
    0.693147

    ```
    """
    return jnp.logaddexp(jnp.zeros_like(logit), logit) - label * logit


def softmax(logits: Float[Array, "classes"], label: Any) -> Scalar:
    """The cross-entropy log Σ eᶻ − z·y of logits and a label y, without overflow.

    **Arguments:** `label`: the number of a class, an integer; or the probabilities of all, such as a one-hot vector.

    ```python
    >>> import jax.numpy as jnp, ravine as rv
    >>> round(float(rv.softmax(jnp.array([1e4, 0.0, 1e4]), jnp.array(0))), 6)
    0.693147

    ```
    """
    label = jnp.asarray(label)
    if jnp.issubdtype(label.dtype, jnp.integer) and label.shape == ():
        return jax.nn.logsumexp(logits) - logits[label]
    if label.shape != logits.shape:
        raise ValueError(
            f"softmax: a label is the number of a class, or one probability a class; got an array of shape "
            f"{label.shape} and dtype {label.dtype} for logits of shape {logits.shape}."
        )
    return jax.nn.logsumexp(logits) * jnp.sum(label) - jnp.dot(logits, label.astype(logits.dtype))


def penalty(name: str, function: Callable[[Model], PyTree], *, weight: float = 1.0) -> Term:
    """½‖function(model)‖²: a term without points, such as ridge regularisation or a constraint on parameters."""
    return Term(name, _Penalty(function), squared, weight, whole=True)


class _Penalty(eqx.Module):
    function: Callable[[Model], PyTree]

    def __call__(self, model, points):
        del points
        return self.function(model)
