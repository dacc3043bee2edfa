"""A callback is a function of an event."""

import dataclasses
import time
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

    What was saved before stays whole if saving fails.
    """

    def __init__(self, path, *, every: float = 30.0):
        self.path, self.every = path, every
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        from ravine.checkpoint import save

        due = event.kind == "record" and time.monotonic() - self._last >= self.every
        if due or event.kind == "stop":
            save(event.run(), self.path)
            self._last = time.monotonic()
