"""What training returns."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ravine._results import Stop, Work
from ravine._types import Batch, Count, Model, PyTree, RandomKey, Scalar, Vector
from ravine.focus import Within
from ravine.objective import Objective
from ravine.optim.auto import Auto
from ravine.optim.optimizer import Info, Optimizer, State
from ravine.optim.phase import Phase, Plan
from ravine.problems.problem import Problem
from ravine.samplers import SamplerState
from ravine.weights import Weighting

WEIGHTS = 1  # what the key of the points is folded with for the weighting
ROUNDING = 1e-6  # relative: losses that differ by less are equal, in float32 too

Planner = Callable[[Objective, Vector, Batch], Plan]


class History:
    """The record of a run: one row each time progress was measured.

    Columns: `phase`, `method`, `step`, `seconds` (wall time without compilation), `compile_seconds`, `loss` (on the
    training points), `loss/<term>` (unweighted), `test_loss` (on independent points, or on all the data that batches
    are drawn from), `error` (relative L2), `t` (step length or damping), `grad_norm`, `step_norm`, `evaluations`,
    `gradients`, `rows`, `inner`. Where weights adapt, `weight/<term>` (in use, the mean over points) and `reweighted`
    (how often they changed); losses are under the weights that the terms were given.
    """

    def __init__(self, rows: list[dict[str, Any]] | None = None):
        self.rows = [] if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)

    def __getitem__(self, column: str) -> np.ndarray:
        """One column as an array; what a row lacks is NaN."""
        if column not in self.columns:
            raise KeyError(f"The history has no column {column!r}; it has {', '.join(self.columns)}.")
        return np.asarray([row.get(column, np.nan) for row in self.rows])

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns, in order of appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row))

    @property
    def best(self) -> dict[str, Any]:
        """The row with the lowest loss on independent points (on the training points where there are no others); of
        several that differ by rounding, the last. Where parts are trained in turn (column `focus`), of the last one."""
        last = self.rows[-1].get("focus")
        rows = [row for row in self.rows if row.get("focus") == last]
        scores = [row.get("test_loss", row["loss"]) for row in rows]
        low = min((score for score in scores if np.isfinite(score)), default=np.nan)
        equal = [row for row, score in zip(rows, scores, strict=True) if score <= low + ROUNDING * abs(low)]
        return equal[-1] if equal else rows[-1]

    def frame(self):
        """The history as a pandas data frame. Needs pandas."""
        import pandas  # pyright: ignore[reportMissingImports]

        return pandas.DataFrame(self.rows)


def work(history: History, rows: int) -> np.ndarray:
    """What was spent, in evaluations of the loss: a gradient costs three of them in all, a Jacobian (`rows` rows) three
    and a product with it two and a half. Factorisations are not in it; the seconds are."""
    spent = history["evaluations"] + 2 * history["gradients"] + 3 * history["rows"] / rows
    return spent + 2.5 * history["products"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or interrupted run.

    `model` is the trained model, `stop` why it stopped (its value is a sentence), `history` what happened, `config` how
    it was made, `position` where it is in its plan: all that is needed to go on. Model and `theta` are the best ones at
    any record, by the loss on independent points (on the training points where there are no others), so that a run
    never ends worse than it once was; training itself goes on from the last.
    """

    objective: Objective
    theta: Vector
    history: History
    stop: Stop
    config: dict[str, Any]
    position: "Position"
    problem: Problem | None = None

    @property
    def model(self) -> Model:
        """The trained model."""
        return self.objective.model(self.theta)

    @property
    def params(self) -> PyTree:
        """The trained parameters: the same pytree as `model`."""
        return self.model

    @property
    def best(self) -> dict[str, Any]:
        """The history row of `theta`: the best, or the last where that met a target."""
        return self.history.rows[-1] if self.stop is Stop.TARGET else self.history.best

    @property
    def loss(self) -> float:
        """The recorded loss of `theta` (on the training points)."""
        return float(self.best["loss"])

    @property
    def error(self) -> float | None:
        """The recorded relative error of `theta`, or None when no reference is known."""
        return self.best.get("error")

    # What SciPy's `OptimizeResult` calls it.

    @property
    def x(self) -> PyTree:
        """The trained parameters, as `params`."""
        return self.model

    @property
    def fun(self) -> float:
        """The loss at `x`, as `loss`."""
        return self.loss

    @functools.cached_property
    def jac(self) -> PyTree:
        """The gradient at `x` on the last batch, as a pytree like the parameters (of the free ones where some are
        constrained). Computed, and compiled, when first asked for."""
        batch = self.position.carry.sampler.batch
        return self.objective.layout.unravel(_gradient(self.objective, self.theta, batch))

    @property
    def jac_norm(self) -> float:
        """‖∇L‖ at `x`, the Euclidean norm."""
        return float(jnp.linalg.norm(self.objective.layout.ravel(self.jac)))

    @property
    def nit(self) -> int:
        """Steps made."""
        return self.position.steps

    @property
    def nfev(self) -> int:
        """Evaluations of the loss, those with a gradient included."""
        return self.position.work["evaluations"]

    @property
    def njev(self) -> int:
        """Gradients of the loss."""
        return self.position.work["gradients"]

    @property
    def success(self) -> bool:
        """Whether the run ended at a tolerance, a stationary point or a target, and not for want of steps or luck."""
        return self.stop in (Stop.CONVERGED, Stop.STATIONARY, Stop.TARGET)

    @property
    def status(self) -> int:
        """The stop reason as a number, `Stop.code`."""
        return self.stop.code

    @property
    def message(self) -> str:
        """The stop reason as a sentence."""
        return self.stop.value

    def ended(self, stop: Stop) -> "Run":
        """The run with another reason for its end, and the parameters that go with it."""
        return dataclasses.replace(self, stop=stop, theta=returned(self.position.carry, stop))

    def summary(self) -> dict[str, Any]:
        """One line: problem, method, relative_l2, loss, seconds, compile_seconds, steps, evaluations, stop_reason.

        Errors and losses are those of `theta`; time and work are of the whole run.
        """
        last, best = self.history.rows[-1], self.best
        methods = list(dict.fromkeys(row["method"] for row in self.history if row["method"]))
        return {
            "problem": self.problem.name if self.problem is not None else "",
            "method": "+".join(methods),
            "relative_l2": best.get("error"),
            "loss": best["loss"],
            "test_loss": best.get("test_loss"),
            "seconds": last["seconds"],
            "compile_seconds": last["compile_seconds"],
            "steps": last["step"],
            "evaluations": last["evaluations"],
            "stop_reason": self.stop.value,
        }

    def save(self, path) -> None:
        """Writes the run folder `path`; see `ravine.checkpoint.save`."""
        from ravine.checkpoint import save

        save(self, path)


@eqx.filter_jit
def _gradient(objective: Objective, theta: Vector, batch: Batch) -> Vector:
    return objective.value_and_grad(theta, batch)[1]


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a run is in its plan: `phase` its number, `carry` the state of the loop on the device (a pytree of arrays),
    `work`, `seconds`, `compile_seconds`, `steps` what was spent in all, `phase_seconds` in this phase."""

    phase: int
    carry: PyTree
    work: dict[str, int]
    steps: int
    seconds: float
    compile_seconds: float
    phase_seconds: float


# -------------------------------------------------------------------- how a run begins: shared by training and loading


class Best(eqx.Module):
    """The best parameters at any record: `score` is the lowest loss on the independent points, or on the training
    points where there are no others; of parameters whose losses differ by rounding the last ones are kept."""

    theta: Vector
    score: Scalar

    def better(self, theta: Vector, score: Scalar) -> "Best":
        """With `theta` taken into account."""
        taken = score <= self.score + ROUNDING * jnp.where(jnp.isfinite(self.score), jnp.abs(self.score), 0)
        return Best(jnp.where(taken, theta, self.theta), jnp.where(score < self.score, score, self.score))


def returned(carry: "Carry", stop: Stop) -> Vector:
    """The parameters of a run that ended so: the best at any record, or those that met a target."""
    return carry.theta if stop is Stop.TARGET else carry.best.theta


class Carry(eqx.Module):
    """The state of the loop: all that the next step depends on, and the best that was reached."""

    theta: Vector
    safe: Vector  # the last parameters at which the loss was known to be finite
    anchor: Vector  # those with which the points in use began, or the phase
    optimizer: State
    sampler: SamplerState
    step: Count  # in this phase
    stop: Count  # a stop code
    info: Info
    work: Work  # since the chunk began
    best: Best
    weights: PyTree = None  # the state of the problem's weighting


@eqx.filter_jit
def first_carry(
    objective: Objective, optimizer: Optimizer | Within, theta: Vector, sampler: SamplerState, weights: PyTree = None
) -> Carry:
    """The carry at the beginning of a phase."""
    zero = jnp.zeros((), theta.dtype)
    info = Info(zero, zero, zero, zero, jnp.int32(0), Work(), jnp.array(True))
    return Carry(
        theta,
        theta,
        theta,
        optimizer.init(objective, theta),
        sampler,
        jnp.int32(0),
        jnp.int32(Stop.RUNNING.code),
        info,
        Work(),
        Best(theta, jnp.asarray(jnp.inf, theta.dtype)),
        weights,
    )


def template(
    objective: Objective, optimizer: Optimizer | Within, theta: Vector, sampler: SamplerState, weights: PyTree = None
) -> Carry:
    """The structure, shapes and dtypes of `first_carry(...)`: what a saved carry is read into. Computes nothing."""
    return eqx.filter_eval_shape(first_carry, objective, numbers(optimizer, theta.dtype), theta, sampler, weights)


def numbers(settings: Any, dtype) -> Any:
    """Floating-point settings, of an optimizer say, become arrays, so that another value compiles nothing anew."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if isinstance(leaf, float) else leaf, settings)


@eqx.filter_jit
def first_weights(weighting: Weighting, objective: Objective, theta: Vector, batch: Batch, key: RandomKey) -> PyTree:
    """The state of a weighting before the first step; `key` is that of the points."""
    return weighting.init(objective, theta, batch, key=jax.random.fold_in(key, WEIGHTS))


def subkeys(key: RandomKey) -> tuple[RandomKey, RandomKey, RandomKey, RandomKey]:
    """The keys of the model, the points, the independent points and the steps."""
    model, points, test, steps = jax.random.split(key, 4)
    return model, points, test, steps


def make_plan(
    phases: Plan | Phase | Sequence[Phase] | Planner,
    objective: Objective,
    theta: Vector,
    batch: Batch,
    seconds: float | None = None,
) -> Plan:
    """The plan of whatever `train` takes as phases.

    **Raises:** `TypeError` for a list of something else than phases.
    """
    if objective.focuses:
        return _in_turn(phases, objective, theta, batch, seconds)
    if isinstance(phases, Phase):
        phases = (phases,)
    if callable(phases):
        phases = phases(objective, theta, batch)
    elif not isinstance(phases, (Plan, Sequence)):
        phases = (phases,)  # no phase: refused below
    if isinstance(phases, Plan):
        return phases if seconds is None else dataclasses.replace(phases, seconds=seconds)
    for phase in phases:
        if not isinstance(phase, Phase):
            raise TypeError(
                f"train: expected phases, got {phase!r:.80}. Wrap an optimizer: ravine.Phase(optimizer, steps=500)."
            )
    return Plan(tuple(phases), seconds)


def _in_turn(phases, objective: Objective, theta: Vector, batch: Batch, seconds: float | None) -> Plan:
    """The phases once for each focus of the objective; the time is shared equally, and what one leaves the next get."""
    made, count = [], len(objective.focuses)
    total = seconds if seconds is not None else phases.seconds if isinstance(phases, (Plan, Auto)) else None
    share = None if total is None else total / count
    reason = ""
    for number, focus in enumerate(objective.focuses):
        view = focus.on(objective)
        part = dataclasses.replace(view(objective, theta), focuses=())
        given = dataclasses.replace(phases, seconds=share) if isinstance(phases, (Plan, Auto)) else phases
        if isinstance(given, Auto):  # each part decides for itself
            given = dataclasses.replace(given, raw=given.raw and focus.begin is None, decided=None)
        plan = make_plan(given, part, view.take(objective, theta), batch, share)
        by = None if share is None or number + 1 == count else share * (number + 1)
        for place, phase in enumerate(plan.phases):
            made.append(dataclasses.replace(phase, focus=focus, begins=place == 0, by=by))
        reason = plan.reason
    return Plan(tuple(made), total, f"{count} parts in turn. {reason}".strip())


def leaves(carry: PyTree) -> dict[str, Any]:
    """The arrays (or abstract arrays) of a carry by path, such as `.optimizer.search`."""
    found = jax.tree_util.tree_flatten_with_path(carry)[0]
    return {jax.tree_util.keystr(path): leaf for path, leaf in found if hasattr(leaf, "dtype")}


def differences(expected: PyTree, carry: PyTree) -> str:
    """Where paths, shapes or dtypes of a carry differ from what is expected, in words; "" when it fits."""
    want, have = leaves(expected), leaves(carry)
    for path in want.keys() | have.keys():
        if path not in have:
            return f"the state lacks {path}"
        if path not in want:
            return f"the state has {path}, which nothing here uses"
    for path, leaf in want.items():
        if (leaf.shape, leaf.dtype) != (have[path].shape, have[path].dtype):
            shape, dtype = have[path].shape, have[path].dtype
            return f"{path} has shape {shape} and dtype {dtype}, expected {leaf.shape} and {leaf.dtype}"
    return ""
