"""Variance reduction: gradients of a batch corrected so that their noise dies out as the parameters converge.

With a constant rate SGD comes to rest at a distance from the minimiser; these go on to the end, linearly where the loss
is strongly convex, at a few gradients of a batch a step. They are for data, finite and held: SVRG and SARAH take the
gradient of all data now and then, SAGA remembers one gradient a sample. STORM needs neither.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Batch, Float, Int, RandomKey, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.optimizer import Direction
from ravine.optim.path import Line, Previous
from ravine.terms import Minibatch, Weighted

LARGEST = 2**31  # bytes of SAGA's table


def drawn(lin: Linearisation, name: str) -> Minibatch:
    """The batch, as one that knows the data it was drawn from.

    **Raises:** `ValueError` when it does not.
    """
    if not isinstance(lin.batch, Minibatch) or lin.batch.whole is None:
        raise ValueError(
            f"{name} needs batches that say which samples of which data they hold, but this one does not. Either (a) "
            "the points come from a domain: give a fixed set of them as data, ravine.Minibatches(points, size=256) or "
            "ravine.Constant(points); (b) the batch was made by hand: sampler.sample(state) gives one that knows, or "
            "ravine.Minibatch(points, indices, whole); or (c) use a method that needs nothing of the kind: "
            "ravine.storm(), ravine.adam()."
        )
    return lin.batch


def _share(batch: Minibatch) -> float:
    """b/N: which part of the data a batch is."""
    if batch.indices is None:
        return 1.0
    return batch.indices.shape[0] / jax.tree.leaves(batch.whole)[0].shape[0]


def _restart(batch: Minibatch, probability: float | Array | None, previous: Previous, key: RandomKey) -> Array:
    """Whether all data are due: at the first step, and then with a probability, by default b/N."""
    probability = _share(batch) if probability is None else probability
    return (previous.count == 0) | (jax.random.uniform(key, (), previous.t.dtype) < probability)


def _gradient(lin: Linearisation, theta: Vector, batch: Batch) -> Vector:
    return lin.objective.value_and_grad(theta, batch)[1]


class _Anchor(eqx.Module):
    theta: Vector
    grad: Vector  # of all data, there


class SVRG(Direction):
    """d = −(∇L_B(θ) − ∇L_B(θ̃) + ∇L(θ̃)), with the anchor θ̃ moved to θ with a probability at each step.

    **Arguments:** `probability`, by default b/N, so that all data are seen once an epoch for it.

    **Raises:** `ValueError` for batches that do not know their data (`Minibatches` and `Constant` make such as do).

    **Cost:** two gradients a step, and one of all data (counted as N/b) with the probability; 2n numbers.

    Rie Johnson and Tong Zhang, *Accelerating stochastic gradient descent using predictive variance reduction*, 2013;
    loopless as in Dmitry Kovalev, Samuel Horváth and Peter Richtárik, *Don't jump through hoops and remove those
    loops*, 2020, algorithm 1. Deviation: the anchor moves before a step and not after it, so that such a step is one
    along the full gradient.

    ```python
    >>> import jax, jax.numpy as jnp, ravine as rv
    >>> x = jnp.linspace(-1.0, 1.0, 20)
    >>> y = 2 * x + jnp.sin(9 * x)
    >>> line = rv.Term("fit", lambda slope, pair: slope * pair[0] - pair[1])
    >>> problem = rv.Problem((line,), rv.Minibatches({"fit": (x, y)}, size=4), lambda key: jnp.array(0.0))
    >>> run = rv.train(problem, rv.Phase(rv.svrg(0.5), steps=200), key=jax.random.key(0))
    >>> bool(abs(run.model - jnp.dot(x, y) / jnp.dot(x, x)) < 1e-5)
    True

    ```
    """

    probability: float | None = None

    def init(self, objective: Objective, theta: Vector) -> _Anchor:
        return _Anchor(theta, jnp.zeros_like(theta))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Anchor, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Anchor]:
        batch = drawn(lin, "SVRG")
        due = _restart(batch, self.probability, previous, key)
        state = lax.cond(due, lambda: _Anchor(theta, _gradient(lin, theta, batch.whole)), lambda: state)
        estimate = lin.grad - _gradient(lin, state.theta, batch) + state.grad
        all_data = jnp.where(due, math.ceil(1 / _share(batch)), 0)
        return Line(-estimate, lin.grad, Work(1 + all_data, 1 + all_data)), state


class SARAH(Direction):
    """d = −v with v ← v + ∇L_B(θ) − ∇L_B(θ before), begun anew from v = ∇L(θ) with a probability at each step.

    The estimate is biased between two restarts, and its variance falls within them.

    **Arguments, raises:** as `SVRG`.

    **Cost:** two gradients a step, or one of all data (counted as N/b) with the probability; n numbers.

    Lam Nguyen, Jie Liu, Katya Scheinberg and Martin Takáč, *SARAH: a novel method for machine learning problems using
    stochastic recursive gradient*, 2017, algorithm 1; loopless as PAGE: Zhize Li, Hongyan Bao, Xiangliang Zhang and
    Peter Richtárik, *PAGE: a simple and optimal probabilistic gradient estimator for nonconvex optimization*, 2021.
    """

    probability: float | None = None

    def init(self, objective: Objective, theta: Vector) -> Vector:
        return jnp.zeros_like(theta)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: Vector, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, Vector]:
        batch = drawn(lin, "SARAH")
        due, grad = _restart(batch, self.probability, previous, key), lin.grad
        estimate = lax.cond(
            due,
            lambda: _gradient(lin, theta, batch.whole),
            lambda: state + grad - _gradient(lin, theta - previous.s, batch),
        )
        spent = jnp.where(due, math.ceil(1 / _share(batch)), 1)
        return Line(-estimate, lin.grad, Work(spent, spent)), estimate


class STORM(Direction):
    """d = −v with v ← ∇L_B(θ) + (1 − a)(v − ∇L_B(θ before)): momentum whose bias is corrected on the same batch.

    Any batches do, points redrawn at each step too. `a = 1` is SGD, `a = 0` SARAH without a restart. The noise that is
    left falls with a/(rate × curvature): let a be small beside it, as in the paper, where a ∝ rate².

    **Cost:** two gradients a step; n numbers.

    Ashok Cutkosky and Francesco Orabona, *Momentum-based variance reduction in non-convex SGD*, 2019, algorithm 1.
    Deviation: `a` is a constant and the rate the search's, where the paper derives both from the norms of the gradients
    so far.
    """

    momentum: float = 0.1  # a

    def init(self, objective: Objective, theta: Vector) -> Vector:
        return jnp.zeros_like(theta)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: Vector, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, Vector]:
        before = _gradient(lin, theta - previous.s, lin.batch)
        kept = jnp.where(previous.count == 0, 0, 1 - self.momentum)
        estimate = lin.grad + kept * (state - before)
        return Line(-estimate, lin.grad, Work(1, 1)), estimate


class _Table(eqx.Module):
    grads: Float[Array, "N n"]
    mean: Vector


class SAGA(Direction):
    """d = −(mean over the batch of (∇L_i(θ) − g_i) + mean of all g_i), with g_i the last gradient of sample i.

    L_i is the objective on a batch of sample i alone, penalties included; L must be the mean of the L_i. The table
    starts from zero.

    **Raises:** `ValueError` when the number of samples is not known (`Problem` asks its sampler for it), for batches
    that do not know their samples, for weighted points, and for a table above 2 GiB.

    **Cost:** two gradients a step, one of them sample by sample (b·n numbers); N·n numbers are kept.

    Aaron Defazio, Francis Bach and Simon Lacoste-Julien, *SAGA: a fast incremental gradient method with support for
    non-strongly convex composite objectives*, 2014, equation 1.
    """

    def init(self, objective: Objective, theta: Vector) -> _Table:
        count = objective.samples
        if count is None:
            raise ValueError(
                "SAGA keeps a gradient for each sample, but this objective does not know how many there are. Either "
                "(a) let the problem draw from data: ravine.Minibatches(data, size=32); (b) by hand: "
                "dataclasses.replace(objective, samples=1000); or (c) use ravine.storm(), which keeps nothing."
            )
        size = count * theta.shape[0] * theta.dtype.itemsize
        if size > LARGEST:
            raise ValueError(
                f"SAGA keeps a gradient for each sample: {count} samples of {theta.shape[0]} parameters are "
                f"{size / 2**30:.1f} GiB, above {LARGEST / 2**30:.0f} GiB. Use ravine.svrg() or ravine.sarah(), which "
                "keep two vectors and one, and need all data now and then instead."
            )
        return _Table(jnp.zeros((count, theta.shape[0]), theta.dtype), jnp.zeros_like(theta))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Table, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Table]:
        batch, count = drawn(lin, "SAGA"), state.grads.shape[0]
        places = batch.indices
        if places is None or jax.tree.leaves(batch.whole)[0].shape[0] != count:
            raise ValueError(
                f"SAGA has a table of {count} samples, which the data of this batch are not. Its points need one "
                "common leading axis of samples, the same at every step."
            )
        if any(isinstance(leaf, Weighted) for leaf in jax.tree.leaves(batch.points, is_leaf=_weighted)):
            raise ValueError("SAGA takes means over samples, but these points are weighted. Use ravine.svrg().")
        # Each device computes the same: the samples of a batch are few.
        alone = lin.objective.over(None)

        def one(points: Batch) -> Vector:
            return alone.value_and_grad(theta, jax.tree.map(lambda leaf: leaf[None], points))[1]

        new = jax.vmap(one)(batch.points)
        change = new - state.grads[places]
        estimate = jnp.mean(change, axis=0) + state.mean
        # A sample that is in the batch twice changes once. What is added was read from the table first, so that XLA
        # writes in place; it copies a table that is set.
        change = jnp.where(_first(places)[:, None], change, 0)
        table = _Table(state.grads.at[places].add(change), state.mean + jnp.sum(change, axis=0) / count)
        return Line(-estimate, lin.grad, Work(1, 1)), table


def _weighted(node) -> bool:
    return isinstance(node, Weighted)


def _first(places: Int[Array, "b"]) -> Array:
    """Which entries are the first of their value."""
    order = jnp.argsort(places, stable=True)
    ordered = places[order]
    fresh = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    return jnp.zeros(places.shape, bool).at[order].set(fresh)
