"""The device's side of a run: a chunk of steps, and what is measured between two. Both are compiled once a phase."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ravine._results import Stop, Work
from ravine._types import Array, Batch, Count, RandomKey, Vector
from ravine.blocks import everywhere
from ravine.focus import View, Within
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer
from ravine.optim.path import choose
from ravine.optim.phase import Tolerance
from ravine.optim.switches import SIGNAL
from ravine.run import Best, Carry
from ravine.samplers import Sampler, SamplerState
from ravine.weights import Weighting

DISPROVED = 1e3  # times the loss on new points (by residual, up to 200 are usual): see `_disproved`
PATIENCE = 3  # failed searches in a row that end a phase


@eqx.filter_jit
def advance(
    objective: Objective,
    sampler: Sampler,
    weighting: Weighting,
    optimizer: Optimizer | Within,
    tolerance: Tolerance | None,
    carry: Carry,
    until: Count,
    key: RandomKey,
):
    """Steps until `carry.step` is `until` or something ends the phase."""

    def again(c: Carry):
        return (c.step < until) & (c.stop == Stop.RUNNING.code)

    def score(theta: Vector):
        return lambda name, points: everywhere(objective.mesh, objective.pointwise(theta, name, points))

    def body(c: Carry):
        # Left to itself, the compiler draws a share of the points on each device and then gathers them: three
        # communications a step, which take longer than a whole step on a small minibatch.
        batch, sampled = everywhere(objective.mesh, sampler.sample(c.sampler, score(c.theta)))
        holds = sampler.holds
        if holds is None or holds == 1:
            return step(c, batch, sampled)
        # A loop in which the points do not change, so that what depends on them alone is computed before it.
        last = jnp.minimum(until, c.step + holds - c.sampler.count % holds)
        later = lambda one: SamplerState(one.batch, one.key, one.count + 1)
        due = (c.sampler.count > 0) & (c.sampler.count % holds == 0)
        worse = lax.cond(due, lambda: _disproved(objective, optimizer, c, batch), lambda: jnp.array(False))
        theta = jnp.where(worse, c.anchor, c.theta)
        start = dataclasses.replace(
            c,
            theta=theta,
            anchor=jnp.where(due, theta, c.anchor),
            optimizer=c.optimizer.restarted(worse),
            sampler=SamplerState(sampled.batch, sampled.key, c.sampler.count),
        )
        return lax.while_loop(lambda c: again(c) & (c.step < last), lambda c: step(c, batch, later(c.sampler)), start)

    def step(c: Carry, batch: Batch, sampled: SamplerState):
        weighed, batch, weights, work = weighting(objective, c.theta, batch, c.weights, c.info.failures > 0)
        weights = everywhere(objective.mesh, weights)
        # Under new weights a search has not failed yet, and damping that failure drove up is forgotten.
        anew = (c.info.failures > 0) & (weighting.changes(weights) != weighting.changes(c.weights))
        failures = jnp.where(anew, 0, c.optimizer.failures)
        search = choose(anew, optimizer.search.init(c.theta.dtype), c.optimizer.search)
        before = dataclasses.replace(c.optimizer, failures=failures, search=search)
        theta, state, info = optimizer.step(weighed, c.theta, before, batch, key=jax.random.fold_in(key, c.step))
        stop = jnp.where(info.failures >= PATIENCE, Stop.SEARCH_FAILED.code, Stop.RUNNING.code)
        if tolerance is not None:
            stop = jnp.where(tolerance.met(c.info, info, state, theta, c.step == 0), Stop.CONVERGED.code, stop)
        stop = jnp.where(info.grad_norm == 0, Stop.STATIONARY.code, stop)
        stop = jnp.where(info.finite, stop, Stop.NOT_FINITE.code)
        sound = weighting.sound(weights)
        stop = jnp.where(sound, stop, Stop.WEIGHTS.code)
        return Carry(
            theta,
            jnp.where(info.finite & sound, c.theta, c.safe),
            c.anchor,
            state,
            sampled,
            c.step + 1,
            stop.astype(jnp.int32),
            info,
            c.work + work + info.work,
            c.best,
            weights,
        )

    carry = eqx.tree_at(lambda c: c.work, carry, Work())
    return everywhere(objective.mesh, lax.while_loop(again, body, carry))


def _disproved(objective: Objective, optimizer: Optimizer | Within, c: Carry, batch: Batch) -> Array:
    """Whether new points disprove what was found on the last ones.

    Between points a network can do what it likes: one steep kink that none of them sees, differentiated four times,
    costs a run all that it had reached, and the memory of the optimizer that built it leads nowhere else.
    """
    loss = lambda theta: optimizer.loss(objective, theta, batch)
    found, before = lax.map(loss, jnp.stack([c.theta, c.anchor]))
    return jnp.isfinite(before) & ~(found <= DISPROVED * before)


@eqx.filter_jit
def measure(
    objective: Objective,
    theta: Vector,
    batch: Batch,
    best: Best,
    tests: tuple,
    error,
    wanted: frozenset[str],
    weights: tuple,
    view: View | None,
) -> tuple[dict[str, Any], Best]:
    """A row of the history (losses, error, what the phases' limits ask for), and the best parameters so far."""
    # What is trained now, and by what.
    trained = objective if view is None else view(objective, theta)
    part = theta if view is None else view.take(objective, theta)
    values = trained.values(part, batch)
    loss = sum(term.weight * values[term.name] for term in trained.terms)
    found: dict[str, Any] = {"loss": loss, **{f"loss/{name}": value for name, value in values.items()}}
    test, other = tests  # what the loss is judged by, and another sample like `batch`
    if test is not None:
        found["test_loss"] = trained(part, test)
    if error is not None:
        found["error"] = error(objective, theta)
    if SIGNAL in wanted:
        a, b = (trained.value_and_grad(part, points)[1] for points in (batch, other))
        found[SIGNAL] = jnp.dot(a, b) / jnp.maximum(jnp.sum((a - b) ** 2) / 2, jnp.finfo(theta.dtype).tiny)
    score = found.get("test_loss", loss)
    weighting, state = weights
    found |= weighting.columns(objective, state)
    return found, everywhere(objective.mesh, best.better(theta, score))
