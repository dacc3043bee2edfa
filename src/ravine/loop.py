"""The host's side of a run: clock, history, callbacks, phases.

The device advances in chunks (a compiled while-loop of steps, `ravine.chunk`); between chunks the host looks at the
clock, measures, tells the callbacks, and decides whether the phase is over. How steps are cut into chunks never changes
their result, so a run that is resumed is the run that was never interrupted.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ravine import hosts
from ravine._results import Stop, Work
from ravine._types import Batch, PyTree, RandomKey, Scalar, Vector
from ravine.blocks import place
from ravine.callbacks import Callback, Event, Kind
from ravine.chunk import advance, measure
from ravine.focus import View, Within
from ravine.objective import Objective
from ravine.optim.optimizer import Optimizer, State
from ravine.optim.phase import Phase, Plan
from ravine.problems.problem import Problem, locate
from ravine.run import Carry, History, Position, Run, differences, first_carry, numbers, returned, template
from ravine.samplers import Sampler, SamplerState
from ravine.weights import Weighting

CHUNK_SECONDS = 0.5  # how long the device works between two looks at the clock
RECORDS = 200  # records in a phase with a step budget
RECORD_SECONDS = 1.0  # time between records in a phase without
RECORD_SHARE = 0.2  # of the time of such a phase that measuring may take
ENDS = (Stop.NOT_FINITE, Stop.WEIGHTS, Stop.STATIONARY)  # of the run, not of the phase alone


@dataclasses.dataclass(eq=False)
class Loop:
    """One run: its clock, its history and where it stands."""

    objective: Objective
    sampler: Sampler
    plan: Plan
    key: RandomKey  # of the steps
    test: Batch | None  # independent points, by which the best parameters are chosen
    other: Batch | None  # a second sample, for limits that compare two
    error: Callable[[Objective, Vector], Scalar | None] | None
    callbacks: Sequence[Callback]
    config: dict[str, Any]
    problem: Problem | None
    weighting: Weighting

    def __post_init__(self):
        # Columns that some phase's limit asks for, beside those that are always measured.
        self.wanted = frozenset(name for phase in self.plan.phases for name in getattr(phase.until, "measures", ()))
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
        self.carry = placed(self.objective.mesh, position.carry)

    def _phase(self, number: int, theta: Vector, sampler: SamplerState, weights: PyTree, *, fresh: bool) -> Stop:
        phase = self.plan.phases[number]
        optimizer = numbers(phase.acting(self.objective), theta.dtype)
        self._tell("phase", message=f"phase {number + 1} of {len(self.plan.phases)}: {phase.label}")
        if fresh:
            anew = phase.focus is not None and phase.begins
            if anew and phase.focus is not None:
                theta = self.carry.best.theta if self.carry is not None else theta
                theta = placed(self.objective.mesh, phase.focus.started(self.objective, theta))
            # Number and carry change together, so that an interruption while this compiles loses nothing.
            carry = self._timed(first_carry, self.objective, optimizer, theta, sampler, weights, compiling=True)
            self.phase, self.phase_seconds = number, 0.0
            carry = placed(self.objective.mesh, carry)
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
        return advance(self.objective, sampler, weighting, optimizer, tolerance, carry, jnp.int32(until), key)

    def _close(self, first: int, stop: Stop) -> Stop:
        if len(self.history) == first or self.history.rows[-1]["step"] != self.steps:
            self._record()
        return stop

    # --------------------------------------------------------------------------------------------------- measuring

    def _record(self, *, compiling: bool = False, duplicate: bool = False) -> None:
        assert self.carry is not None
        found, best = self._timed(
            measure,
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


def placed(mesh: Mesh | None, tree: PyTree) -> PyTree:
    """Every array where it belongs, on every device if nothing else is said: so placed, nothing compiles twice."""
    if mesh is None:
        return tree
    if not hosts.alone():
        return hosts.shared(tree, mesh)
    return place(mesh, tree, jax.device_put)


def _every(phase: Phase) -> int:
    """How many steps lie between two records of a phase with a step budget."""
    return phase.every or max(1, (phase.steps or 0) // RECORDS)


def _check_start(objective: Objective, theta: Vector, batch: Batch, value: float) -> None:
    """**Raises:** `ValueError` for a loss that is not finite before the first step."""
    if not np.isfinite(value):
        raise ValueError(
            f"The loss is {value} before the first step. {locate(objective, theta, batch)} Likely causes: "
            "(a) a division by zero or a root or logarithm of a negative number in the residual, (b) derivatives of a "
            "function that has none there, such as abs or sqrt at 0, (c) NaN in the data. Look at that point with "
            "jax.config.update('jax_debug_nans', True)."
        )
