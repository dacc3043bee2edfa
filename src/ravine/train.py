"""One loop for every optimizer.

The device advances in chunks (a compiled while-loop of steps); between chunks the host looks at the clock, measures,
tells the callbacks, and decides whether the phase is over. How steps are cut into chunks never changes their result, so
a run that is resumed is the run that was never interrupted.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ravine._results import Stop, Work
from ravine._types import Array, Batch, Count, PyTree, RandomKey, Scalar, Vector
from ravine.callbacks import Callback, Event, Kind
from ravine.objective import BLOCK, Objective
from ravine.optim.optimizer import Info, Optimizer, State
from ravine.optim.phase import Phase, Plan, check_budget
from ravine.problems.problem import Problem, locate
from ravine.run import History, Position, Run
from ravine.samplers import Sampler, SamplerState

Planner = Callable[[Objective, Vector, Batch], Plan]

CHUNK_SECONDS = 0.25  # how long the device works between two looks at the clock
RECORDS = 200  # records in a phase with a step budget
RECORD_SECONDS = 0.5  # time between records in a phase without
PATIENCE = 3  # failed searches in a row that end a phase


class Carry(eqx.Module):
    """The state of the loop: all that the next step depends on."""

    theta: Vector
    safe: Vector  # the last parameters at which the loss was known to be finite
    optimizer: State
    sampler: SamplerState
    step: Count  # in this phase
    stop: Count  # a stop code
    info: Info
    work: Work  # since the chunk began


def train(
    problem: Problem,
    phases: Plan | Phase | Sequence[Phase] | Planner,
    *,
    key: RandomKey,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Run | None = None,
    block: int = BLOCK,
    config: dict[str, Any] | None = None,
) -> Run:
    """Trains a problem's model through the phases and returns the run.

    **Arguments:**

    - `phases`: a phase, a list of them, a plan, or a planner such as `ravine.auto(seconds=60)`.
    - `key`: `jax.random.key(seed)`; model, points and steps draw from it.
    - `seconds`: a budget of wall time for all phases together, compilation included.
    - `callbacks`: functions of an `Event`.
    - `resume`: a run to go on with, made from the same problem, phases and key; only what is left is done.
    - `block`: points evaluated at once; bounds the memory.

    **Raises:** `TypeError` for a key of the wrong kind, `ValueError` for bad budgets and for a loss that is not finite
    at the start (naming the term and the point). Numerical failure later on is a stop reason, not an exception.

    **Cost:** that of the steps, and at each record one evaluation on the training points, one on the independent points
    and one on the reference grid.
    """
    key = check_key(key)
    init_key, sample_key, test_key, step_key = jax.random.split(key, 4)
    objective, theta, sampler = problem.objective(init_key, block=block)
    test = sampler.init(test_key).batch
    return fit(
        objective,
        theta,
        sampler,
        phases,
        keys=(sample_key, step_key),
        test=test,
        error=problem.error if problem.reference is not None else None,
        seconds=seconds,
        callbacks=callbacks,
        resume=resume,
        config=config or {},
        problem=problem,
    )


def check_key(key: Any) -> RandomKey:
    """**Raises:** `TypeError` unless `key` is a single typed key as `jax.random.key` makes it."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ()):
        what = f"an array of dtype {key.dtype}" if isinstance(key, jax.Array) else f"{type(key).__name__} {key!r:.40}"
        raise TypeError(
            f"key must be one typed JAX key, got {what}. Write key=jax.random.key(0); old-style keys become new ones by "
            "jax.random.wrap_key_data."
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
    error: Callable[[Objective, Vector], Scalar | None] | None = None,
    seconds: float | None = None,
    callbacks: Sequence[Callback] = (),
    resume: Run | None = None,
    config: dict[str, Any] | None = None,
    problem: Problem | None = None,
) -> Run:
    """The loop itself, for an objective and a sampler; `train`, `minimise` and `least_squares` are doors to it."""
    check_budget(None, seconds)
    sample_key, step_key = keys
    state = sampler.init(sample_key)
    _check_start(objective, theta, state.batch)
    plan = _plan(phases, objective, theta, state.batch, seconds)
    loop = _Loop(objective, sampler, plan, step_key, test, error, tuple(callbacks), config or {}, problem)
    return loop.run(theta, state, resume)


def _plan(phases, objective, theta, batch, seconds) -> Plan:
    if isinstance(phases, Phase):
        phases = (phases,)
    if not isinstance(phases, (Plan, list, tuple)):
        phases = phases(objective, theta, batch)
    if isinstance(phases, Plan):
        return phases if seconds is None else dataclasses.replace(phases, seconds=seconds)
    for phase in phases:
        if not isinstance(phase, Phase):
            raise TypeError(f"train: expected phases, got {phase!r:.80}. Wrap an optimizer: ravine.Phase(optimizer, steps=500).")
    return Plan(tuple(phases), seconds)


def _check_start(objective: Objective, theta: Vector, batch: Batch) -> None:
    value = eqx.filter_jit(Objective.__call__)(objective, theta, batch)
    if value.shape != ():
        raise ValueError(f"The loss must be a scalar, but has shape {value.shape}.")
    if not np.isfinite(value):
        raise ValueError(
            f"The loss is {float(value)} before the first step. {locate(objective, theta, batch)} Likely causes: "
            "(a) a division by zero or a root or logarithm of a negative number in the residual, (b) derivatives of a "
            "function that has none there, such as abs or sqrt at 0, (c) NaN in the data. Look at that point with "
            "jax.config.update('jax_debug_nans', True)."
        )


@eqx.filter_jit
def _advance(objective: Objective, sampler: Sampler, optimizer: Optimizer, carry: Carry, until: Count, key: RandomKey):
    """Steps until `carry.step` is `until` or something ends the phase."""

    def again(c: Carry):
        return (c.step < until) & (c.stop == Stop.RUNNING.code)

    def body(c: Carry):
        batch, sampled = sampler.sample(c.sampler, lambda name, points: objective.pointwise(c.theta, name, points))
        theta, state, info = optimizer.step(
            objective, c.theta, c.optimizer, batch, key=jax.random.fold_in(key, c.step)
        )
        stop = jnp.where(info.failures >= PATIENCE, Stop.SEARCH_FAILED.code, Stop.RUNNING.code)
        stop = jnp.where(info.grad_norm == 0, Stop.STATIONARY.code, stop)
        stop = jnp.where(info.finite, stop, Stop.NOT_FINITE.code)
        return Carry(
            theta,
            jnp.where(info.finite, c.theta, c.safe),
            state,
            sampled,
            c.step + 1,
            stop.astype(jnp.int32),
            info,
            c.work + info.work,
        )

    carry = eqx.tree_at(lambda c: c.work, carry, Work())
    return lax.while_loop(again, body, carry)


@eqx.filter_jit
def _start(objective: Objective, optimizer: Optimizer, theta: Vector, sampler: SamplerState) -> Carry:
    """The carry at the beginning of a phase."""
    zero = jnp.zeros((), theta.dtype)
    info = Info(zero, zero, zero, zero, jnp.int32(0), Work(), jnp.array(True))
    return Carry(
        theta,
        theta,
        optimizer.init(objective, theta),
        sampler,
        jnp.int32(0),
        jnp.int32(Stop.RUNNING.code),
        info,
        Work(),
    )


@eqx.filter_jit
def _measure(objective: Objective, theta: Vector, batch: Batch, test: Batch | None, error) -> dict[str, Any]:
    values = objective.values(theta, batch)
    loss = sum(term.weight * value for term, value in zip(objective.terms, values.values(), strict=True))
    found: dict[str, Any] = {"loss": loss, **{f"loss/{name}": value for name, value in values.items()}}
    if test is not None:
        found["test_loss"] = objective(theta, test)
    if error is not None:
        found["error"] = error(objective, theta)
    return found


def _numbers(optimizer: Optimizer, dtype) -> Optimizer:
    """Floating-point settings become arrays, so that another value does not compile anything anew."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if isinstance(leaf, float) else leaf, optimizer)


class _Loop:
    """The host's side of a run: clock, history, callbacks, phases."""

    def __init__(self, objective, sampler, plan, key, test, error, callbacks, config, problem):
        self.objective, self.sampler, self.plan, self.key = objective, sampler, plan, key
        self.test, self.error, self.callbacks = test, error, callbacks
        self.config, self.problem = config, problem
        self.history = History()
        self.phase, self.steps, self.work = 0, 0, Work().counts()
        self.seconds, self.compile_seconds, self.phase_seconds = 0.0, 0.0, 0.0
        self.carry: Carry | None = None

    # ------------------------------------------------------------------------------------------------- the clock

    def _timed(self, function, *args, compiling: bool = False):
        """Runs, waits, and books the time."""
        begin = time.perf_counter()
        try:
            return jax.block_until_ready(function(*args))
        finally:
            spent = time.perf_counter() - begin
            self.phase_seconds += spent
            if compiling:
                self.compile_seconds += spent
            else:
                self.seconds += spent

    @property
    def left(self) -> float | None:
        """Seconds left in the plan."""
        return None if self.plan.seconds is None else self.plan.seconds - self.seconds - self.compile_seconds

    def _phase_left(self) -> float:
        phase = self.plan.phases[self.phase]
        own = np.inf if phase.seconds is None else phase.seconds - self.phase_seconds
        return min(own, np.inf if self.left is None else self.left)

    # ----------------------------------------------------------------------------------------------------- phases

    def run(self, theta: Vector, sampler: SamplerState, resume: Run | None) -> Run:
        stop = Stop.RUNNING
        try:
            if resume is not None:
                self._restore(resume)
            self._tell("start")
            while True:
                stop = self._phase(theta, sampler, fresh=self.carry is None)
                assert self.carry is not None
                theta, sampler = self.carry.theta, self.carry.sampler
                spent = self.left is not None and self.left <= 0
                if self.phase + 1 == len(self.plan.phases) or spent or stop is Stop.NOT_FINITE:
                    break
                self.phase, self.phase_seconds, self.carry = self.phase + 1, 0.0, None
        except KeyboardInterrupt:
            stop = Stop.INTERRUPTED
            if self.carry is None:
                raise
        run = self._snapshot(stop)
        self._tell("stop", stop=stop)
        return run

    def _restore(self, resume: Run) -> None:
        position = resume.position
        if position.phase >= len(self.plan.phases):
            raise ValueError(
                f"resume: the run is in phase {position.phase + 1}, but the plan has only {len(self.plan.phases)}."
            )
        self.history = History(list(resume.history.rows))
        self.phase, self.steps, self.work = position.phase, position.steps, dict(position.work)
        self.seconds, self.compile_seconds = position.seconds, position.compile_seconds
        self.phase_seconds = position.phase_seconds
        running = jnp.int32(Stop.RUNNING.code)
        self.carry = eqx.tree_at(lambda c: c.stop, position.carry, running)

    def template(self, theta: Vector, sampler: SamplerState, phase: int) -> Carry:
        """A carry of the right structure for a phase: what a saved one is read into."""
        optimizer = _numbers(self.plan.phases[phase].optimizer, theta.dtype)
        return eqx.filter_eval_shape(_start, self.objective, optimizer, theta, sampler)

    def _phase(self, theta: Vector, sampler: SamplerState, *, fresh: bool) -> Stop:
        phase = self.plan.phases[self.phase]
        optimizer = _numbers(phase.optimizer, theta.dtype)
        number, name = self.phase + 1, phase.name or "optimizer"
        self._tell("phase", message=f"phase {number} of {len(self.plan.phases)}: {name}")
        if fresh:
            self.carry = self._timed(_start, self.objective, optimizer, theta, sampler, compiling=True)
        # No steps: compiles and does nothing else, so that compilation can be told apart.
        self.carry = self._timed(self._go, optimizer, self.carry, self.carry.step, compiling=True)
        first = len(self.history)
        self._record(compiling=True, duplicate=not fresh)
        last, length, record = time.perf_counter(), 1, max(1, (phase.steps or 0) // RECORDS)
        while True:
            done = int(self.carry.step)
            if phase.steps is not None and done >= phase.steps:
                return self._close(first, Stop.STEPS)
            if self._phase_left() <= 0:
                return self._close(first, Stop.SECONDS)
            until = done + length
            if phase.steps is not None:
                until = min(until, (done // record + 1) * record, phase.steps)
            begin = time.perf_counter()
            self.carry = self._timed(self._go, optimizer, self.carry, jnp.int32(until))
            spent = max(time.perf_counter() - begin, 1e-6)
            made = int(self.carry.step) - done
            self.steps += made
            for what, count in self.carry.work.counts().items():
                self.work[what] += count
            stop = Stop.of(int(self.carry.stop))
            if stop is not Stop.RUNNING:
                if stop is Stop.NOT_FINITE:
                    self.carry = eqx.tree_at(lambda c: c.theta, self.carry, self.carry.safe)
                return self._close(first, stop)
            # Chunks grow until they fill their time, but never past the end of the budget.
            pace = spent / max(made, 1)
            goal = min(CHUNK_SECONDS, max(self._phase_left(), 0.0))
            length = max(1, min(int(goal / pace), 4 * length, 2**20))
            due = int(self.carry.step) % record == 0 if phase.steps else time.perf_counter() - last >= RECORD_SECONDS
            if due:
                self._record()
                last = time.perf_counter()
                if phase.until is not None and phase.until(self.history.rows[first:]):
                    return self._close(first, Stop.STALLED)
            else:
                self._tell("progress")

    def _go(self, optimizer, carry, until):
        return _advance(self.objective, self.sampler, optimizer, carry, until, jax.random.fold_in(self.key, self.phase))

    def _close(self, first: int, stop: Stop) -> Stop:
        if len(self.history) == first or self.history.rows[-1]["step"] != self.steps or stop is Stop.NOT_FINITE:
            self._record()
        return stop

    # --------------------------------------------------------------------------------------------------- measuring

    def _record(self, *, compiling: bool = False, duplicate: bool = False) -> None:
        assert self.carry is not None
        found = self._timed(
            _measure,
            self.objective,
            self.carry.theta,
            self.carry.sampler.batch,
            self.test,
            self.error,
            compiling=compiling,
        )
        if duplicate:
            return
        row = self._row()
        row |= {name: float(value) for name, value in found.items() if value is not None}
        self.history.rows.append(row)
        self._tell("record")

    def _row(self) -> dict[str, Any]:
        assert self.carry is not None
        info, phase = self.carry.info, self.plan.phases[self.phase]
        return {
            "phase": self.phase,
            "method": phase.name,
            "step": self.steps,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "t": float(info.t),
            "grad_norm": float(info.grad_norm),
            "step_norm": float(info.step_norm),
            **self.work,
        }

    def _tell(self, kind: Kind, *, message: str = "", stop: Stop = Stop.RUNNING) -> None:
        if not self.callbacks:
            return
        row = self.history.rows[-1] if self.history.rows and kind != "progress" else {}
        if kind == "progress" and self.carry is not None:
            row = {**self.history.rows[-1], **self._row(), "loss": float(self.carry.info.value)}
        event = Event(kind, row, lambda: self._snapshot(stop), self.left, message or self.plan.reason)
        for callback in self.callbacks:
            callback(event)

    def _snapshot(self, stop: Stop) -> Run:
        assert self.carry is not None
        position = Position(
            self.phase,
            self.carry,
            dict(self.work),
            self.steps,
            self.seconds,
            self.compile_seconds,
            self.phase_seconds,
        )
        rows = [row for row in self.history.rows if row["step"] <= self.steps]
        return Run(self.objective, self.carry.theta, History(rows), stop, self.config, position, self.problem)
