"""Data and penalties: predictions against labels, and what needs no points."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ravine._types import Array, Float, Model, PyTree, Scalar
from ravine.terms import Term, squared


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
