"""The doors to the one loop for every optimizer: `train` for a problem, `fit` for an objective and a sampler."""

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh

from ravine import hosts
from ravine._types import Batch, RandomKey, Scalar, Vector
from ravine.callbacks import Callback
from ravine.checkpoint import describe_key, describe_phases, describe_plan, describe_weights
from ravine.loop import Loop, placed
from ravine.objective import Objective
from ravine.optim.phase import Phase, Plan, check_budget
from ravine.problems.problem import Error, Problem
from ravine.run import Planner, Run, first_weights, make_plan, numbers, subkeys
from ravine.samplers import Sampler
from ravine.weights import Given, Weighting


def train(
    problem: Problem,
    phases: Plan | Phase | Sequence[Phase] | Planner,
    *,
    key: RandomKey,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Run | None = None,
    block: int | None = None,
    devices: int | None = None,
    config: dict[str, Any] | None = None,
) -> Run:
    """Trains a problem's model through the phases and returns the run.

    Where points are redrawn every so many steps, new points may disprove the last steps: if the loss on them is above
    `DISPROVED` times that of the parameters with which the last points began, training goes on from those.

    **Arguments:**

    - `phases`: a phase, a list of them, a plan, or a planner such as `ravine.auto(seconds=60)`.
    - `key`: `jax.random.key(seed)`; model, points and steps draw from it.
    - `seconds`: a budget of wall time for all phases together, compilation apart.
    - `callbacks`: functions of an `Event`; of several processes (`ravine.join_hosts`) the first alone calls them.
    - `resume`: a run to go on with, made from the same problem, phases and key; only what is left is done.
    - `block`: points evaluated at once, chosen by itself when None; bounds the memory.
    - `devices`: over how many devices the points are shared out, by default all that JAX sees; `ravine.use_cores()`,
      called first of all, makes each core of the CPU one. Results agree to rounding.

    **Raises:** `TypeError` for a key of the wrong kind, `ValueError` for bad budgets and for a loss that is not finite
    at the start (naming the term and the point). Numerical failure later on is a stop reason, not an exception.

    **Cost:** that of the steps, and at each record one evaluation on the training points, one on the independent points
    and one on the reference grid.
    """
    key = check_key(key)
    init_key, sample_key, test_key, step_key = subkeys(key)
    objective, theta, sampler = problem.objective(init_key, block=block)
    other = sampler.init(test_key).batch
    return fit(
        objective,
        theta,
        sampler,
        phases,
        keys=(sample_key, step_key),
        test=sampler.judge(other),
        other=other,
        error=None if problem.reference is None else Error(problem.reference),
        seconds=seconds,
        callbacks=callbacks,
        resume=resume,
        devices=devices,
        config={**(config or {}), "key": describe_key(key)},
        problem=problem,
        weights=problem.weights,
    )


def check_key(key: Any) -> RandomKey:
    """**Raises:** `TypeError` unless `key` is a single typed key as `jax.random.key` makes it."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        what = f"an array of dtype {key.dtype}" if isinstance(key, jax.Array) else f"{type(key).__name__} {key!r:.40}"
        raise TypeError(
            f"key must be one typed JAX key, got {what}. Write key=jax.random.key(0); old-style keys become new ones "
            "by jax.random.wrap_key_data."
        )
    return key


def fit(
    objective: Objective,
    theta: Vector,
    sampler: Sampler,
    phases: Plan | Phase | Sequence[Phase] | Planner,
    *,
    keys: tuple[RandomKey, RandomKey],
    test: Batch | None = None,
    other: Batch | None = None,
    error: Callable[[Objective, Vector], Scalar | None] | None = None,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Run | None = None,
    devices: int | None = None,
    config: dict[str, Any] | None = None,
    problem: Problem | None = None,
    weights: Weighting | None = None,
) -> Run:
    """The loop itself, for an objective and a sampler; `train`, `minimise` and `least_squares` are doors to it."""
    check_budget(None, seconds)
    sample_key, step_key = keys
    mesh = None if objective.bare else _mesh(devices)
    objective, state = objective.over(mesh), sampler.init(sample_key)
    weighting = numbers(Given() if weights is None else weights, theta.dtype)
    weighed = first_weights(weighting, objective, theta, state.batch, sample_key)
    theta, state, test, other, step_key, weighed = placed(mesh, (theta, state, test, other, step_key, weighed))
    plan = make_plan(phases, objective, theta, state.batch, seconds)
    # What is needed to make the run again; the identity tells the files of two runs in one folder apart.
    config = {
        "id": uuid.uuid4().hex if resume is None else resume.config.get("id", uuid.uuid4().hex),
        "keys": [describe_key(one) for one in keys],
        **(config or {}),
        "seconds": seconds,
        "plan": describe_plan(phases),
        "phases": describe_phases(plan),
        "reason": plan.reason,
        "weights": None if weights is None else describe_weights(weights),
    }
    loop = Loop(objective, sampler, plan, step_key, test, other, error, tuple(callbacks), config, problem, weighting)
    return loop.run(theta, state, weighed, resume)


def _mesh(devices: int | None) -> Mesh | None:
    """One axis of devices to share the points out over; None for a single one."""
    found = jax.devices()
    if devices is not None and not 1 <= devices <= len(found):
        raise ValueError(
            f"train: devices={devices}, but JAX sees {len(found)}. On a CPU, call ravine.use_cores() before anything "
            "else: each core then is a device."
        )
    if devices not in (None, len(found)) and not hosts.alone():
        raise ValueError(
            f"train: devices={devices}, but several processes use all of their devices, {len(found)} in all. Leave it "
            "out; ravine.use_cores(n), before join_hosts, says how many each process has."
        )
    count = len(found) if devices is None else devices
    return None if count == 1 else jax.make_mesh((count,), ("points",), (AxisType.Auto,), devices=found[:count])
