"""Second-order directions for batches that change: curvature that the noise of the gradients does not enter."""

import dataclasses
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._results import Work
from ravine._types import Array, Batch, PyTree, RandomKey, Scalar, Vector
from ravine.objective import Linearisation, Objective
from ravine.optim.gauss_newton import GaussNewton, Solver, Space
from ravine.optim.optimizer import Direction
from ravine.optim.path import Iterative, Line, Previous
from ravine.optim.quasi_newton import LBFGS
from ravine.optim.variance_reduction import drawn
from ravine.terms import Minibatch

Estimator = Literal["hutchinson", "gauss-newton"]


class MultiBatch(Direction):
    """L-BFGS with y = ∇L_O(θ) − ∇L_O(θ before), O being the samples that this batch shares with the one before.

    Both gradients are taken on one set of samples, so that sampling noise does not enter y. `Overlapping` batches say
    what they share; on any other the whole batch serves, at the price of one gradient. For large batches: a step of
    second order on few samples fits their noise.

    **Arguments:** `memory`, pairs; `curvature`, the least sᵀy/sᵀs of a pair that is kept.

    **Cost:** two gradients on the overlap beyond that of `LBFGS`, or one on the batch where it is not known;
    2·memory·n numbers.

    Albert Berahas, Jorge Nocedal and Martin Takáč, *A multi-batch L-BFGS method for machine learning*, NeurIPS 2016,
    section 2 and algorithm 1; on whole batches, Nicol Schraudolph, Jin Yu and Simon Günter, *A stochastic quasi-Newton
    method for online convex optimization*, 2007.
    """

    memory: int = eqx.field(static=True, default=10)
    curvature: float = 1e-8

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        return LBFGS(self.memory).init(objective, theta)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, PyTree]:
        before, shared = theta - previous.s, _shared(lin.batch)
        here, spent = lin.grad, 1
        if shared is not lin.batch:
            here, spent = lin.objective.value_and_grad(theta, shared)[1], 2
        y = here - lin.objective.value_and_grad(before, shared)[1]
        kept = jnp.dot(previous.s, y) >= self.curvature * jnp.dot(previous.s, previous.s)
        pair = dataclasses.replace(previous, y=y, count=jnp.where(kept, previous.count, 0))
        path, state = LBFGS(self.memory)(lin, theta, state, pair, key=key)
        return Line(path.direction, lin.grad, path.work + Work(spent, spent)), state


def _shared(batch: Batch) -> Batch:
    """The part of a batch that the one before held too; the whole, where it is or where nothing is said."""
    if not isinstance(batch, Minibatch) or batch.indices is None or not 0 < batch.shared < batch.indices.shape[0]:
        return batch
    return jax.tree.map(lambda leaf: leaf[: batch.shared], batch.points)


class Fresh(Direction):
    """An inner direction whose memory is dropped when the points change: for large batches, redrawn now and then.

    Whether they did shows in the gradient: on the same points it is the one that the search found at the end of the
    last step, bit for bit.

    **Arguments:** `inner`, a direction; its search must give gradients, as `Wolfe` does.

    **Raises:** `ValueError` for a search that does not.
    """

    inner: Direction

    def init(self, objective: Objective, theta: Vector) -> PyTree:
        return self.inner.init(objective, theta)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: PyTree, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, PyTree]:
        if previous.y is None or previous.grad is None:
            raise ValueError(
                "Fresh tells a change of points from the gradient that the search found, but this search finds none. "
                "Use ravine.Wolfe()."
            )
        same = jnp.all(lin.grad - previous.grad == previous.y)
        begun = self.inner.init(lin.objective, theta)
        state = jax.tree.map(lambda old, new: jnp.where(same, old, new), state, begun)
        previous = dataclasses.replace(previous, count=jnp.where(same, previous.count, 0))
        return self.inner(lin, theta, state, previous, key=key)


class _Averages(eqx.Module):
    memory: PyTree
    total: Vector  # of the iterates since the last pair
    anchor: Vector  # the mean of those before
    count: Array


class SQN(Direction):
    """−H∇L_B with H by L-BFGS from pairs s = w̄ − w̄ before, y = ∇²L(w̄) s, w̄ the mean of the last `every` iterates.

    Curvature comes from Hessian products and seldom, gradients from small batches: the noise of one does not enter the
    other. Until two means are known, steps go down the gradient.

    **Arguments:** `memory`, pairs; `every`, steps between two pairs; `samples`, of the data, drawn for a Hessian
    product, by default the batch at hand; `curvature`, the least sᵀy/sᵀs of a pair that is kept.

    **Raises:** `ValueError` when `samples` is given and the batch does not know its data.

    **Cost:** 4·memory·n flops a step, and a Hessian product every `every` steps; (2·memory + 2)·n numbers.

    Richard Byrd, Samantha Hansen, Jorge Nocedal and Yoram Singer, *A stochastic quasi-Newton method for large-scale
    optimization*, SIAM J. Optim. 2016, algorithm 1. Deviation: a step down the gradient is one long at most.
    """

    memory: int = eqx.field(static=True, default=10)
    every: int = eqx.field(static=True, default=10)
    samples: int | None = eqx.field(static=True, default=None)
    curvature: float = 1e-8

    def __check_init__(self):
        for name in ("memory", "every"):
            if getattr(self, name) < 1:
                raise ValueError(f"SQN: {name} is {getattr(self, name)}, but must be at least 1.")

    def init(self, objective: Objective, theta: Vector) -> _Averages:
        zeros = jnp.zeros_like(theta)
        return _Averages(LBFGS(self.memory).init(objective, theta), zeros, zeros, jnp.int32(0))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Averages, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Averages]:
        count, total = state.count + 1, state.total + theta
        ends = count % self.every == 0
        mean = total / self.every
        s, due = mean - state.anchor, ends & (count > self.every)
        y = lax.cond(due, lambda: self._product(lin, mean, s, key), lambda: jnp.zeros_like(s))
        kept = due & (jnp.dot(s, y) >= self.curvature * jnp.dot(s, s))
        pair = Previous(s, y, None, previous.t, jnp.array(False), jnp.where(kept, 1, 0))
        path, memory = LBFGS(self.memory)(lin, theta, state.memory, pair, key=key)
        state = _Averages(memory, jnp.where(ends, 0, total), jnp.where(ends, mean, state.anchor), count)
        return Line(path.direction, lin.grad, path.work + Work(products=jnp.where(due, 2, 0))), state

    def _product(self, lin: Linearisation, at: Vector, v: Vector, key: RandomKey) -> Vector:
        batch = lin.batch
        if self.samples is not None:
            whole = drawn(lin, "SQN with samples").whole
            places = jax.random.randint(key, (self.samples,), 0, jax.tree.leaves(whole)[0].shape[0])
            batch = jax.tree.map(lambda leaf: leaf[places], whole)
        return lin.objective.linearise(at, batch).hessian_product(v)


def diagonal(lin: Linearisation, estimator: Estimator, key: RandomKey) -> Vector:
    """An unbiased estimate of the diagonal of ∇²L, z ∘ ∇²L z ("hutchinson"), or of JᵀJ, (Jᵀz)² ("gauss-newton").

    z has random signs. The first is exact where the Hessian is diagonal; the second is never negative, and for
    classification it is the Gauss–Newton–Bartlett estimate of Sophia, whose labels drawn from the model are one way to
    draw z. **Cost:** one Hessian product; one product with Jᵀ.
    """
    dtype = lin.theta.dtype
    if estimator == "hutchinson":
        z = jax.random.rademacher(key, lin.theta.shape, dtype)
        return z * lin.hessian_product(z)
    return lin.vjp(jax.random.rademacher(key, (lin.rows,), dtype)) ** 2


class _Moments(eqx.Module):
    first: Vector
    second: Vector
    count: Array


class AdaHessian(Direction):
    """Adam with the diagonal of the Hessian in the place of the gradient's squares: d = −m̂/(√v̂ + ε), v of D².

    D = z ∘ ∇²L z with random signs z, drawn at every step.

    **Arguments:** `b1`, `b2`: decays of the means of ∇L and D²; `epsilon`, added to the root.

    **Cost:** one Hessian product beyond the gradient; 2n numbers.

    Zhewei Yao, Amir Gholami, Sheng Shen, Mustafa Mustafa, Kurt Keutzer and Michael Mahoney, *ADAHESSIAN: an adaptive
    second order optimizer for machine learning*, AAAI 2021, algorithm 1. Deviation: no means over neighbouring
    entries (the paper's spatial averaging), which convolutions have and our parameters have not.
    """

    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-4

    def init(self, objective: Objective, theta: Vector) -> _Moments:
        return _Moments(jnp.zeros_like(theta), jnp.zeros_like(theta), jnp.int32(0))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Moments, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Moments]:
        count = state.count + 1
        k = count.astype(theta.dtype)
        first = self.b1 * state.first + (1 - self.b1) * lin.grad
        second = self.b2 * state.second + (1 - self.b2) * diagonal(lin, "hutchinson", key) ** 2
        step = first / (1 - self.b1**k) / (jnp.sqrt(second / (1 - self.b2**k)) + self.epsilon)
        return Line(-step, lin.grad, Work(products=2)), _Moments(first, second, count)


class Sophia(Direction):
    """d = −clip(m̂/max(γh, ε), −1, 1), with h a mean of estimates of the Hessian's diagonal, one every `every` steps.

    **Arguments:** `estimator`, as in `diagonal`; `b1`, `b2`: decays of the means of ∇L and of the estimates; `gamma`,
    γ: the larger, the fewer entries are clipped; `epsilon`; `every`; `decay`, of the parameters, times the rate.

    **Raises:** `ValueError` when the objective has no residuals or convex losses for "gauss-newton".

    **Cost:** beyond the gradient, one Hessian product or one product with Jᵀ every `every` steps; 2n numbers.

    Hong Liu, Zhiyuan Li, David Hall, Percy Liang and Tengyu Ma, *Sophia: a scalable stochastic second-order optimizer
    for language model pre-training*, 2023, algorithm 3. The step is that of `optax.contrib.sophia`, bias correction of
    m included: h is that of the step before.
    """

    estimator: Estimator = eqx.field(static=True, default="hutchinson")
    b1: float = 0.965
    b2: float = 0.99
    gamma: float = 0.01
    epsilon: float = 1e-8
    decay: float = 0.0
    every: int = eqx.field(static=True, default=10)

    def __check_init__(self):
        if self.estimator not in ("hutchinson", "gauss-newton") or self.every < 1:
            raise ValueError(
                f"Sophia: needs estimator 'hutchinson' or 'gauss-newton' and every ≥ 1, got {self.estimator!r} and "
                f"{self.every}."
            )

    def init(self, objective: Objective, theta: Vector) -> _Moments:
        if self.estimator == "gauss-newton":
            objective.require_curvature("The estimator 'gauss-newton' needs", "ravine.sophia(estimator='hutchinson')")
        return _Moments(jnp.zeros_like(theta), jnp.zeros_like(theta), jnp.int32(0))

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Moments, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Moments]:
        count = state.count + 1
        first = self.b1 * state.first + (1 - self.b1) * lin.grad
        mean = first / (1 - self.b1 ** count.astype(theta.dtype))
        step = jnp.clip(mean / jnp.maximum(self.gamma * state.second, self.epsilon), -1, 1) + self.decay * theta
        due = state.count % self.every == 0
        renewed = lambda: self.b2 * state.second + (1 - self.b2) * diagonal(lin.anew(), self.estimator, key)
        second = lax.cond(due, renewed, lambda: state.second)
        products = 2 if self.estimator == "hutchinson" else 1
        work = Work(products=jnp.where(due, products, 0))
        return Line(-step, lin.grad, work), _Moments(first, second, count)


class _Held(eqx.Module):
    damping: Scalar
    ratio: Scalar  # mean of decrease on other points over decrease promised
    slope: Scalar  # ⟨∇L, d⟩ and ‖Jd‖² of the last step
    bend: Scalar


class HeldOut(Direction):
    """−(JᵀJ + λμI)⁻¹∇L with λ set by what the last steps brought on points that they did not see.

    At each new batch the decrease by the last step is measured, L_B(θ before) − L_B(θ), and divided by what the model
    on the old batch had promised. This ratio, between −1 and 2, is averaged over some steps; where the mean is below
    ¼, λ grows by half, above ¾ it shrinks by a third. A step that fits the noise of its own batch promises much and
    keeps little, so that the smaller the batches, the larger λ becomes. On points that never change it is the gain
    ratio of Levenberg and Marquardt, a step late.

    **Arguments:** `start`, the first λ, best large for batches of fewer rows than parameters; `smoothing`, the decay of
    the mean; `floor`, of λ in units of machine epsilon; `space`, `solver` as in `GaussNewton`.

    **Raises:** `ValueError` when the objective has no curvature to use (a bare scalar loss).

    **Cost:** that of `GaussNewton`, one evaluation and one product.

    James Martens, *Deep learning via Hessian-free optimization*, ICML 2010, section 4.1, for the rule; El Houcine
    Bergou, Youssef Diouane, Vyacheslav Kunc, Vladimir Kungurtsev and Clément Royer, *A subsampling line-search method
    with second-order results*, 2022, for models and values from different samples. Deviation: nothing is rejected by
    the other points; the search guards a step on its own batch.
    """

    start: float = 1.0
    smoothing: float = 0.8
    floor: float = 1.0
    space: Space = eqx.field(static=True, default="auto")
    solver: Solver = eqx.field(static=True, default="cholesky")

    def __check_init__(self):
        if self.solver == "mixed":
            raise ValueError("HeldOut: solver 'mixed' is for many steps on the same points; use 'cholesky' or 'qr'.")

    def _inner(self) -> GaussNewton:
        return GaussNewton(space=self.space, acceleration=False, solver=self.solver)

    def init(self, objective: Objective, theta: Vector) -> _Held:
        self._inner().init(objective, theta)  # which refuses what has no curvature
        zero = jnp.zeros((), theta.dtype)
        return _Held(jnp.asarray(self.start, theta.dtype), zero + 0.5, zero, zero)

    def __call__(
        self, lin: Linearisation, theta: Vector, state: _Held, previous: Previous, *, key: RandomKey
    ) -> tuple[Line, _Held]:
        t = previous.t
        gained = lin.objective(theta - previous.s, lin.batch) - lin.value
        promised = -t * state.slope - t**2 * state.bend / 2
        known = (previous.count > 0) & ~previous.failed & (promised > 0)
        ratio = jnp.clip(jnp.nan_to_num(gained / jnp.where(known, promised, 1), nan=-1.0), -1, 2)
        ratio = jnp.where(known, self.smoothing * state.ratio + (1 - self.smoothing) * ratio, state.ratio)
        factor = jnp.where(ratio < 0.25, 1.5, jnp.where(ratio > 0.75, 2 / 3, 1.0))
        factor = jnp.where(previous.failed, 10.0, jnp.where(known, factor, 1.0)).astype(theta.dtype)
        damping = jnp.clip(state.damping * factor, self.floor * jnp.finfo(theta.dtype).eps, 1e12)
        path, _ = self._inner()(lin, theta, None, previous, key=key)
        assert isinstance(path, Iterative)
        step, work = path.attempt(damping)
        slope, bend = jnp.dot(lin.grad, step), jnp.sum(lin.jvp(step) ** 2)
        work = path.work + path.trial + work + Work(evaluations=1, products=1)
        return Line(step, lin.grad, work), _Held(damping, ratio, slope, bend)
