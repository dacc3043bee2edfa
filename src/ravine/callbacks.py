"""A callback is a function of an event."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from typing import Any, Literal

from ravine.run import Run

Kind = Literal["start", "progress", "record", "phase", "stop"]


@dataclasses.dataclass(frozen=True)
class Event:
    """Something happened: `kind` says what, `row` is the newest history row (or what is known between records), `run()`
    makes a `Run` of what was reached so far, `left` is the seconds left, where there is a time budget.

    - "start": before the first step; - "phase": a phase begins, `message` says which and why; - "progress": some steps
    were made; - "record": a row was added to the history; - "stop": the run is over.
    """

    kind: Kind
    row: dict[str, Any]
    run: Callable[[], Run]
    left: float | None = None
    message: str = ""


Callback = Callable[[Event], None]


class Checkpoint:
    """Saves the run to a folder every `every` seconds and at the end: `train(..., callbacks=[Checkpoint("runs/a")])`.

    A folder that cannot be written is an error at the start, before any time is spent. Later on (a full disk) it is a
    warning: training goes on, what was saved before stays whole, and the next save tries again.
    """

    def __init__(self, path, *, every: float = 30.0):
        self.path, self.every = path, every
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        from ravine.checkpoint import RunFolderError, prepare, save

        if event.kind == "start":
            prepare(self.path)
            self._last = time.monotonic()
        due = event.kind == "record" and time.monotonic() - self._last >= self.every
        if due or event.kind == "stop":
            try:
                save(event.run(), self.path)
            except RunFolderError as error:
                warnings.warn(f"Checkpoint: {error}", RuntimeWarning, stacklevel=2)
            self._last = time.monotonic()
