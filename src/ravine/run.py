"""What training returns."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ravine._results import Stop
from ravine._types import Model, PyTree, Vector
from ravine.objective import Objective
from ravine.problems.problem import Problem


class History:
    """The record of a run: one row each time progress was measured.

    Columns: `phase`, `method`, `step`, `seconds` (wall time without compilation), `compile_seconds`, `loss` (on the
    training points), `loss/<term>` (unweighted), `test_loss` (independent points), `error` (relative L2), `t` (step
    length or damping), `grad_norm`, `step_norm`, `evaluations`, `gradients`, `rows`, `inner`.
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

    def frame(self):
        """The history as a pandas data frame. Needs pandas."""
        import pandas

        return pandas.DataFrame(self.rows)


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or interrupted run.

    `model` is the trained model, `stop` why it stopped (its value is a sentence), `history` what happened, `config` how
    it was made, `position` where it is in its plan (all that is needed to go on), `notes` what the plan decided and why.
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
    def loss(self) -> float:
        """The last recorded loss."""
        return float(self.history.rows[-1]["loss"])

    @property
    def error(self) -> float | None:
        """The last recorded relative error, or None when no reference is known."""
        return self.history.rows[-1].get("error")

    def summary(self) -> dict[str, Any]:
        """One line: problem, method, relative_l2, loss, seconds, compile_seconds, steps, evaluations, stop_reason."""
        last = self.history.rows[-1]
        methods = list(dict.fromkeys(row["method"] for row in self.history if row["method"]))
        return {
            "problem": self.problem.name if self.problem is not None else "",
            "method": "+".join(methods),
            "relative_l2": self.error,
            "loss": last["loss"],
            "test_loss": last.get("test_loss"),
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
