"""Handwritten digits: ten classes, a network, minibatches. What machine learning is mostly made of."""

import functools
import importlib

import jax.numpy as jnp
import numpy as np

from ravine.formulations import softmax, supervised
from ravine.minibatches import Minibatches
from ravine.models import MLP
from ravine.problems.problem import ClassReference, Problem
from ravine.samplers import Constant

TEST = 360  # images apart


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """The 1,797 images of 8 × 8 grey values in [0, 1] and their digits, in a shuffled order that is always the same.

    Ethem Alpaydin and Cenk Kaynak, *Optical recognition of handwritten digits*, UCI, 1998; from scikit-learn.

    **Raises:** `ImportError` without scikit-learn.
    """
    try:
        datasets = importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise ImportError(
            f"The digits come with scikit-learn ({error}). Install it: pip install scikit-learn"
        ) from None
    data, labels = datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return data[order] / 16.0, labels[order]


def digits(*, batch: int | None = 32, width: int = 64, depth: int = 1) -> Problem:
    """The mean cross-entropy of a network 64 − `width` − 10 on 1,437 images of handwritten digits.

    Shuffled minibatches of `batch` images, or all of them for None. The error is the share of 360 other images that is
    put into the wrong class. Reference: the labels. Best published error seen for networks of this size: 0.02 to 0.03
    (scikit-learn's documentation and many others).
    """
    data, labels = images()
    x, y = jnp.asarray(data[TEST:], jnp.result_type(float)), jnp.asarray(labels[TEST:], jnp.int32)
    whole = {"labels": (x, y)}
    return Problem(
        terms=(supervised("labels", softmax),),
        sampler=Constant(whole) if batch is None else Minibatches(whole, size=batch),
        model=lambda key: MLP(64, 10, width=width, depth=depth, key=key),
        reference=ClassReference(data[:TEST], labels[:TEST].astype(np.int32)),
        name="digits",
        options={"batch": batch, "width": width, "depth": depth},
    )
