"""One loop for every optimizer.

The device advances in chunks (a compiled while-loop of steps); between chunks the host looks at the clock, measures,
tells the callbacks, and decides whether the phase is over. How steps are cut into chunks never changes their result, so
a run that is resumed is the run that was never interrupted.
"""

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh

from ravine import hosts
from ravine._results import Stop, Work
from ravine._types import Array, Batch, Count, PyTree, RandomKey, Scalar, Vector
from ravine.blocks import everywhere, place
from ravine.callbacks import Callback, Event, Kind
from ravine.checkpoint import describe_key, describe_phases, describe_plan, describe_weights
from ravine.focus import View, Within
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer, State
from ravine.optim.path import choose
from ravine.optim.phase import Phase, Plan, Tolerance, check_budget
from ravine.optim.switches import SIGNAL
from ravine.problems.problem import Error, Problem, locate
from ravine.run import (
    Best,
    Carry,
    History,
    Planner,
    Position,
    Run,
    differences,
    first_carry,
    first_weights,
    make_plan,
    numbers,
    returned,
    subkeys,
    template,
)
from ravine.samplers import Sampler, SamplerState
from ravine.weights import Given, Weighting

CHUNK_SECONDS = 0.5  # how long the device works between two looks at the clock
RECORDS = 200  # records in a phase with a step budget
RECORD_SECONDS = 1.0  # time between records in a phase without
ENDS = (Stop.NOT_FINITE, Stop.WEIGHTS, Stop.STATIONARY)  # of the run, not of the phase alone
RECORD_SHARE = 0.2  # of the time of such a phase that measuring may take
DISPROVED = 1e3  # times the loss on new points (by residual, up to 200 are usual): see `_disproved`
PATIENCE = 3  # failed searches in a row that end a phase


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
    theta, state, test, other, step_key, weighed = _copied(mesh, (theta, state, test, other, step_key, weighed))
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
    loop = _Loop(objective, sampler, plan, step_key, (test, other), error, tuple(callbacks), config, problem, weighting)
    return loop.run(theta, state, weighed, resume)


def _every(phase: Phase) -> int:
    """How many steps lie between two records of a phase with a step budget."""
    return phase.every or max(1, (phase.steps or 0) // RECORDS)


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


def _copied(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Every array where it belongs, on every device if nothing else is said: so placed, nothing compiles twice."""
    if mesh is None:
        return tree
    if not hosts.alone():
        return hosts.shared(tree, mesh)
    return place(mesh, tree, jax.device_put)


def _check_start(objective: Objective, theta: Vector, batch: Batch, value: float) -> None:
    """**Raises:** `ValueError` for a loss that is not finite before the first step."""
    if not np.isfinite(value):
        raise ValueError(
            f"The loss is {value} before the first step. {locate(objective, theta, batch)} Likely causes: "
            "(a) a division by zero or a root or logarithm of a negative number in the residual, (b) derivatives of a "
            "function that has none there, such as abs or sqrt at 0, (c) NaN in the data. Look at that point with "
            "jax.config.update('jax_debug_nans', True)."
        )


def _disproved(objective: Objective, optimizer: Optimizer | Within, c: Carry, batch: Batch) -> Array:
    """Whether new points disprove what was found on the last ones.

    Between points a network can do what it likes: one steep kink that none of them sees, differentiated four times,
    costs a run all that it had reached, and the memory of the optimizer that built it leads nowhere else.
    """
    loss = lambda theta: optimizer.loss(objective, theta, batch)
    found, before = lax.map(loss, jnp.stack([c.theta, c.anchor]))
    return jnp.isfinite(before) & ~(found <= DISPROVED * before)


@eqx.filter_jit
def _advance(
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


@eqx.filter_jit
def _measure(
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


class _Loop:
    """The host's side of a run: clock, history, callbacks, phases."""

    def __init__(self, objective, sampler, plan, key, tests, error, callbacks, config, problem, weighting):
        self.objective, self.sampler, self.plan, self.key = objective, sampler, plan, key
        self.weighting = weighting
        (self.test, self.other), self.error, self.callbacks = tests, error, callbacks
        self.config, self.problem = config, problem
        # Columns that some phase's limit asks for, beside those that are always measured.
        self.wanted = frozenset(name for phase in plan.phases for name in getattr(phase.until, "measures", ()))
        if self.wanted and self.other is None:
            raise ValueError(
                f"train: the limit of a phase needs the column {', '.join(sorted(self.wanted))}, which compares two "
                "samples, but this objective has only one. Use stalled or slowing."
            )
        self.history = History()
        self.phase, self.steps, self.work = 0, 0, Work().counts()
        self.seconds, self.compile_seconds, self.phase_seconds = 0.0, 0.0, 0.0
        self.spent = 0.0  # by the last call that was timed
        self.measured = 0.0  # seconds that the last measurement took, compilation apart
        self.agreed = False  # whether all processes know of an interruption
        self.carry: Any = None  # a Carry, once a phase has begun

    # ------------------------------------------------------------------------------------------------- the clock

    def _timed(self, function, *args, compiling: bool = False):
        """Runs, waits, and books the time: that of process 0, so that all processes decide alike."""
        begin = time.perf_counter()
        try:
            with hosts.watched():
                found = jax.block_until_ready(function(*args))
        except BaseException:
            self._book(time.perf_counter() - begin, compiling)
            raise
        self._book(hosts.told(time.perf_counter() - begin), compiling)
        return found

    def _book(self, spent: float, compiling: bool) -> None:
        self.spent = spent
        if compiling:
            self.compile_seconds += spent
        else:
            self.seconds += spent
            self.phase_seconds += spent

    @property
    def left(self) -> float | None:
        """Seconds left in the plan."""
        return None if self.plan.seconds is None else self.plan.seconds - self.seconds

    def _phase_left(self) -> float:
        phase = self.plan.phases[self.phase]
        own = np.inf if phase.seconds is None else phase.seconds - self.phase_seconds
        turn = np.inf if phase.by is None else phase.by - self.seconds
        return min(own, turn, np.inf if self.left is None else self.left)

    # ----------------------------------------------------------------------------------------------------- phases

    def run(self, theta: Vector, sampler: SamplerState, weights: PyTree, resume: Run | None) -> Run:
        stop = Stop.RUNNING
        try:
            if resume is not None:
                self._restore(resume, theta, sampler, weights)
            self._tell("start")
            number, fresh = self.phase, self.carry is None
            while True:
                stop = self._phase(number, theta, sampler, weights, fresh=fresh)
                assert self.carry is not None
                theta, sampler, weights = self.carry.theta, self.carry.sampler, self.carry.weights
                spent = self.left is not None and self.left <= 0
                # A stationary point of one part is none of the next.
                left = self.plan.phases[self.phase + 1 :]
                ends = stop in ENDS and not (stop is Stop.STATIONARY and any(phase.begins for phase in left))
                if not left or spent or ends:
                    break
                number, fresh = self._next(), True
        except KeyboardInterrupt:
            stop = Stop.INTERRUPTED
            if not self.agreed and not hosts.alone():
                hosts.part()  # the others are still at work
            if self.carry is None:
                raise
        except hosts.HostLost:
            # What was reached before is whole: a chunk that fails leaves the state it began from.
            stop = Stop.HOST_LOST
            hosts.part()
            if self.carry is None:
                raise
        run = self._snapshot(stop)
        with contextlib.suppress(hosts.HostLost):  # all is done already
            self._tell("stop", stop=stop)
        return run

    def _next(self) -> int:
        """The number of the next phase: not of one whose time is over before it began."""
        number = self.phase + 1
        for phase in self.plan.phases[number:-1]:
            if phase.begins or phase.by is None or phase.by > self.seconds:
                break
            number += 1
        return number

    def _restore(self, resume: Run, theta: Vector, sampler: SamplerState, weights: PyTree) -> None:
        position = resume.position
        if position.phase >= len(self.plan.phases):
            raise ValueError(
                f"resume: the run is in phase {position.phase + 1}, but the plan has only {len(self.plan.phases)}."
            )
        if resume.config.get("keys", self.config["keys"]) != self.config["keys"]:
            raise ValueError(
                "resume: the run was made with another key, so it cannot go on as if it had never stopped. Pass the "
                "same key=jax.random.key(seed), or ravine.checkpoint.restore_key(run.config)."
            )
        acting = self.plan.phases[position.phase].acting(self.objective)
        expected = template(self.objective, acting, theta, sampler, weights)
        different = differences(expected, position.carry)
        if different:
            raise ValueError(
                f"resume: the state of the run does not fit phase {position.phase + 1} of this plan: {different}. Pass "
                "the same problem and phases as in the first call; only budgets may differ."
            )
        rows = list(resume.history.rows)
        phase = self.plan.phases[position.phase]
        running = int(position.carry.stop) == Stop.RUNNING.code
        if running and phase.steps is not None and rows and rows[-1]["phase"] == position.phase:
            # A budget that ran out left a row where a run never interrupted has none.
            begun = position.steps - int(position.carry.step)
            if int(position.carry.step) < phase.steps and (rows[-1]["step"] - begun) % _every(phase):
                rows.pop()
        self.history = History(rows)
        self.phase, self.steps, self.work = position.phase, position.steps, dict(position.work)
        self.seconds, self.compile_seconds = position.seconds, position.compile_seconds
        self.phase_seconds = position.phase_seconds
        # Its stop code is kept: a phase that had ended (a failed search, say) is over, and the next one begins.
        self.carry = _copied(self.objective.mesh, position.carry)

    def _phase(self, number: int, theta: Vector, sampler: SamplerState, weights: PyTree, *, fresh: bool) -> Stop:
        phase = self.plan.phases[number]
        optimizer = numbers(phase.acting(self.objective), theta.dtype)
        self._tell("phase", message=f"phase {number + 1} of {len(self.plan.phases)}: {phase.label}")
        if fresh:
            anew = phase.focus is not None and phase.begins
            if anew and phase.focus is not None:
                theta = self.carry.best.theta if self.carry is not None else theta
                theta = _copied(self.objective.mesh, phase.focus.started(self.objective, theta))
            # Number and carry change together, so that an interruption while this compiles loses nothing.
            carry = self._timed(first_carry, self.objective, optimizer, theta, sampler, weights, compiling=True)
            self.phase, self.phase_seconds = number, 0.0
            carry = _copied(self.objective.mesh, carry)
            if self.carry is not None:
                if not anew:  # losses of other terms do not compare
                    carry = eqx.tree_at(lambda c: c.best, carry, self.carry.best)
                if phase.keep:
                    carry = eqx.tree_at(lambda c: c.optimizer, carry, self._kept(number, carry.optimizer))
            self.carry = carry
            del carry  # or it would keep its n×n arrays for the whole phase
        assert self.carry is not None
        # The rows of this phase, those from before a resumption included.
        first = next((i for i, row in enumerate(self.history) if row["phase"] == self.phase), len(self.history))
        known, record = len(self.history) - first, _every(phase)
        # A process that was lost while this row was measured took it along.
        missing = (
            known and phase.steps and int(self.carry.step) % record == 0 and self.history.rows[-1]["step"] != self.steps
        )
        # Before the step is compiled, so that a loss that is not finite is told of at once.
        self._record(compiling=True, duplicate=known > 0 and not missing)
        # No steps: compiles and does nothing else, so that compilation can be told apart.
        self.carry = self._timed(self._go, optimizer, self.carry, int(self.carry.step), compiling=True)
        price = 2 * self.spent
        stop = Stop.of(int(self.carry.stop))
        if stop is not Stop.RUNNING:
            return self._close(first, stop)
        # Saved at a record, before `until` was asked (it is never asked at the first one).
        recorded = len(self.history) - first > 1 and self.history.rows[-1]["step"] == self.steps
        if recorded and self._over(number, first, price):
            return self._close(first, Stop.STALLED)
        last, length = self.seconds, 1
        while True:
            done = int(self.carry.step)
            if phase.steps is not None and done >= phase.steps:
                return self._close(first, Stop.STEPS)
            if self._phase_left() <= 0:
                return self._close(first, Stop.SECONDS)
            until = done + length
            if phase.steps is not None:
                until = min(until, (done // record + 1) * record, phase.steps)
            self.carry = self._timed(self._go, optimizer, self.carry, until)
            spent = max(self.spent, 1e-6)
            made = int(self.carry.step) - done
            self.steps += made
            for what, count in self.carry.work.counts().items():
                self.work[what] += count
            stop = Stop.of(int(self.carry.stop))
            if stop is not Stop.RUNNING:
                if stop in (Stop.NOT_FINITE, Stop.WEIGHTS):
                    self.carry = eqx.tree_at(lambda c: c.theta, self.carry, self.carry.safe)
                return self._close(first, stop)
            # Chunks grow until they fill their time, but never past the end of the budget.
            pace = spent / max(made, 1)
            goal = min(CHUNK_SECONDS, max(self._phase_left(), 0.0))
            length = max(1, min(int(goal / pace), 2 * length, 2**20))
            # Without a step budget, at times that double until they are regular: much happens early.
            wait = max(min(RECORD_SECONDS, self.phase_seconds / 2), self.measured / RECORD_SHARE)
            due = int(self.carry.step) % record == 0 if phase.steps else self.seconds - last >= wait
            if due:
                self._record()
                last = self.seconds
                if self._over(number, first, price):
                    return self._close(first, Stop.STALLED)
            else:
                self._tell("progress")

    def _kept(self, number: int, fresh: State) -> State:
        """The optimizer's memory from the phase before."""
        assert self.carry is not None
        different = differences(fresh, self.carry.optimizer)
        if different:
            raise ValueError(
                f"train: phase {number + 1} is to keep the memory of the phase before, which does not fit: "
                f"{different}. Both phases need the same method with the same sizes; else leave keep=True out."
            )
        return dataclasses.replace(self.carry.optimizer, failures=jnp.zeros_like(fresh.failures))

    def _over(self, number: int, first: int, price: float) -> bool:
        """Whether `until` ends the phase. Not while too little time is left to pay for compiling the next one."""
        until, last = self.plan.phases[number].until, number + 1 == len(self.plan.phases)
        if until is None or not (last or self.left is None or self.left > price):
            return False
        return until(self.history.rows[first:])

    def _go(self, optimizer: Optimizer | Within, carry: Carry, until: int) -> Carry:
        key = jax.random.fold_in(self.key, self.phase)
        tolerance = numbers(self.plan.phases[self.phase].tolerance, carry.theta.dtype)
        weighting, view = self.weighting, self._view
        sampler = self.sampler if view is None else self.sampler.only(view.terms)
        return _advance(self.objective, sampler, weighting, optimizer, tolerance, carry, jnp.int32(until), key)

    def _close(self, first: int, stop: Stop) -> Stop:
        if len(self.history) == first or self.history.rows[-1]["step"] != self.steps:
            self._record()
        return stop

    # --------------------------------------------------------------------------------------------------- measuring

    def _record(self, *, compiling: bool = False, duplicate: bool = False) -> None:
        assert self.carry is not None
        found, best = self._timed(
            _measure,
            self.objective,
            self.carry.theta,
            self.carry.sampler.batch,
            self.carry.best,
            (self.test, self.other if self.wanted else None),
            self.error,
            self.wanted,
            (self.weighting, self.carry.weights),
            self._view,
            compiling=compiling,
        )
        self.measured = 0.0 if compiling else self.spent
        self.carry = eqx.tree_at(lambda c: c.best, self.carry, best)
        if not self.history.rows:
            _check_start(self.objective, self.carry.theta, self.carry.sampler.batch, float(found["loss"]))
        if duplicate:
            return
        row = self._row()
        row |= {name: float(value) for name, value in found.items() if value is not None}
        self.history.rows.append(row)
        self._tell("record")

    @property
    def _view(self) -> View | None:
        """What the phase trains; None for everything."""
        focus = self.plan.phases[self.phase].focus
        return None if focus is None else focus.on(self.objective)

    def _row(self) -> dict[str, Any]:
        assert self.carry is not None
        info, phase = self.carry.info, self.plan.phases[self.phase]
        return {
            "phase": self.phase,
            "method": phase.label,
            "step": self.steps,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "t": float(info.t),
            "grad_norm": float(info.grad_norm),
            "step_norm": float(info.step_norm),
            **({} if phase.focus is None else {"focus": self.objective.focuses.index(phase.focus)}),
            **self.work,
        }

    def _tell(self, kind: Kind, *, message: str = "", stop: Stop = Stop.RUNNING) -> None:
        if hosts.alone() and not self.callbacks:
            return
        row = self.history.rows[-1] if self.history.rows and kind != "progress" else {}
        if kind == "progress" and self.carry is not None:
            row = {**self.history.rows[-1], **self._row()}
            if self.carry.weights is None:  # else it is the loss under other weights
                row["loss"] = float(self.carry.info.value)
        event = Event(kind, row, lambda: self._snapshot(stop), self.left, message or self.plan.reason)
        tell = lambda: [callback(event) for callback in self.callbacks]
        try:
            hosts.follow(tell)
        except KeyboardInterrupt:
            self.agreed = True
            raise

    def _snapshot(self, stop: Stop) -> Run:
        assert self.carry is not None
        carry = hosts.own(self.carry)
        position = Position(
            self.phase,
            carry,
            dict(self.work),
            self.steps,
            self.seconds,
            self.compile_seconds,
            self.phase_seconds,
        )
        rows = [row for row in self.history.rows if row["step"] <= self.steps]
        # Whoever holds the run may evaluate it without the other processes.
        objective = self.objective if hosts.alone() else self.objective.over(None)
        return Run(objective, returned(carry, stop), History(rows), stop, self.config, position, self.problem)
