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


class TensorBoard:
    """Writes every number of the history to a folder that TensorBoard reads, against steps of the whole run:
    `train(..., callbacks=[TensorBoard("runs/a")])`, then `tensorboard --logdir runs`.

    **Raises:** `ImportError` without tensorboardX.
    """

    def __init__(self, folder):
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ImportError('TensorBoard needs tensorboardX. Type: pip install "ravine[tensorboard]"') from None
        self.folder = folder
        self._open: Callable[[], Any] = lambda: SummaryWriter(str(folder))
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        if event.kind == "record":
            self._writer = self._writer or self._open()
            for name, value in scalars(event.row).items():
                self._writer.add_scalar(name, value, event.row["step"])
        elif event.kind == "phase" and self._writer is not None:
            self._writer.add_text("phase", event.message, event.row.get("step", 0))
        elif event.kind == "stop" and self._writer is not None:
            self._writer.close()
            self._writer = None


class WeightsAndBiases:
    """Writes every number of the history to a run of Weights & Biases, and at the end why it stopped.

    Without network: `mode="offline"`, the default; `wandb sync` sends the folder later. `project`, `name` and `folder`
    say where it is put.

    **Raises:** `ImportError` without wandb.
    """

    def __init__(
        self,
        project: str,
        *,
        name: str | None = None,
        folder: Any = None,
        mode: Literal["offline", "online", "disabled"] = "offline",
    ):
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ImportError('WeightsAndBiases needs wandb. Type: pip install "ravine[wandb]"') from None
        self.project, self.name, self.folder, self.mode = project, name, folder, mode
        self._wandb, self._run = wandb, None

    def __call__(self, event: Event) -> None:
        if event.kind == "record":
            if self._run is None:
                folder = None if self.folder is None else str(self.folder)
                config = event.run().config
                self._run = self._wandb.init(
                    project=self.project, name=self.name, dir=folder, mode=self.mode, config=config
                )
            self._run.log(scalars(event.row), step=event.row["step"])
        elif event.kind == "stop" and self._run is not None:
            self._run.summary["stop_reason"] = event.run().stop.value
            self._run.finish()
            self._run = None


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The numbers of a history row, but for the step.

    ```python
    >>> from ravine.callbacks import scalars
    >>> scalars({"step": 3, "method": "adam", "loss": 0.5, "evaluations": 4})
    {'loss': 0.5, 'evaluations': 4.0}

    ```
    """
    known = {name: value for name, value in row.items() if isinstance(value, (int, float)) and name != "step"}
    return {name: float(value) for name, value in known.items()}
