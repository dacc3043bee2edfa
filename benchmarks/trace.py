"""The clock of a run, and what is recorded.

The clock starts when a method's step is compiled. It stands still while the error is measured, and while anything is
compiled that is needed later on: both are no part of training.
"""

import contextlib
import time
from collections.abc import Callable

import numpy as np

from benchmarks.start import Start

RECORD_SECONDS = 0.5  # time between two records
EARLY = 0.1  # but after a tenth of the time so far, so that the beginning is seen too


class Trace:
    """Rows of (seconds, steps, evaluations, loss, error) within a budget of `seconds`.

    A peer calls `compiled(predict)` once its step is ready, then steps; `due` says when to `record`, `over` when to
    end. `predict(theta)` is the solution on `start.grid` for parameters of whatever kind the peer has.
    """

    def __init__(self, start: Start, seconds: float, clock: Callable[[], float] = time.perf_counter):
        self.seconds, self.rows, self.stop = seconds, [], "seconds"
        self._start, self._clock = start, clock
        self._born, self._begun, self._stood = clock(), None, 0.0
        self.warm_up = float("nan")
        self._predict: Callable = lambda theta: theta

    def compiled(self, predict: Callable, theta) -> None:
        """Compilation is over: the start is recorded, and the clock starts."""
        predict(theta)
        self._predict = predict
        self.warm_up = self._clock() - self._born
        self._begun, self._stood = self._clock(), 0.0
        self.record(theta, loss=self._start.loss, steps=0, evaluations=0)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        assert self._begun is not None, "call compiled() first"
        return self._clock() - self._begun - self._stood

    @contextlib.contextmanager
    def paused(self):
        """The clock stands still."""
        begin = self._clock()
        try:
            yield
        finally:
            self._stood += self._clock() - begin

    @property
    def over(self) -> bool:
        """Whether the budget is used up."""
        return self.elapsed >= self.seconds

    @property
    def due(self) -> bool:
        """Whether it is time for a record."""
        now, last = self.elapsed, self.rows[-1]["seconds"]
        return now - last >= min(RECORD_SECONDS, EARLY * now) or now >= self.seconds

    def record(self, theta, *, loss: float, steps: int, evaluations: int, seconds: float | None = None) -> float:
        """Adds a row; returns the relative L2 error at `theta`. `seconds` is for methods that keep their own clock."""
        at = self.elapsed if seconds is None else seconds
        with self.paused():
            exact = self._start.exact
            error = float(np.linalg.norm(np.asarray(self._predict(theta)) - exact) / np.linalg.norm(exact))
            row = {
                "seconds": at,
                "steps": int(steps),
                "evaluations": int(evaluations),
                "loss": float(loss),
                "error": error,
            }
            if self.rows and self.rows[-1]["steps"] == row["steps"] and steps:
                self.rows.pop()
            self.rows.append(row)
        return error
