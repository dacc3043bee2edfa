"""Logistic regression: a sum over independent samples, where stochastic methods are at home."""

import jax.numpy as jnp
import numpy as np

from ravine.formulations import logistic as logistic_loss, penalty
from ravine.minibatches import Minibatches
from ravine.objective import Term
from ravine.problems import reference
from ravine.problems.problem import ParameterReference, Problem
from ravine.samplers import Constant


def predict(weights, pair):
    """The logit of one sample."""
    return jnp.dot(weights, pair[0])


def label_loss(logit, pair):
    """log(1 + eᶻ) − y z."""
    return logistic_loss(logit, pair[1])


def weights(model):
    """What the ridge acts on."""
    return model


def logistic(*, samples: int = 10_000, features: int = 50, ridge: float = 1e-3, batch: int | None = None) -> Problem:
    """mean log(1 + exp(x·w)) − y x·w + ½ ridge ‖w‖² over Gaussian samples with labels from the logistic model.

    Full batch by default, shuffled minibatches of `batch` samples otherwise. Reference: the minimiser by damped Newton
    to a gradient norm below 1e-13; the error is ‖w − w*‖/‖w*‖.
    """
    data, labels = reference.logistic_data(samples, features)
    optimum = reference.logistic_optimum(data, labels, ridge)
    x, y = jnp.asarray(data, jnp.result_type(float)), jnp.asarray(labels, jnp.result_type(float))
    whole = {"data": (x, y)}
    return Problem(
        terms=(Term("data", predict, label_loss), penalty("ridge", weights, weight=ridge)),
        sampler=Constant(whole) if batch is None else Minibatches(whole, size=batch),
        model=lambda key: jnp.zeros(features),
        reference=ParameterReference(np.asarray(optimum)),
        name="logistic",
        options={"samples": samples, "features": features, "ridge": ridge, "batch": batch},
    )
