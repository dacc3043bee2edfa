"""What the command line shows while a run goes on, and how numbers and tables look."""

import math
import time
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ravine.callbacks import Event

LINE_SECONDS = 5.0  # between lines of progress when stderr is no terminal


class Progress:
    """A live line on a terminal, plain lines every few seconds elsewhere; on stderr in either case."""

    def __init__(self, sizes: str):
        self.sizes = sizes
        self.console = Console(stderr=True, highlight=False)
        self.status = self.console.status("", spinner="dots") if self.console.is_terminal else None
        self.printed = -math.inf

    def __enter__(self) -> "Progress":
        if self.status:
            self.status.start()
            self.status.update("starting …")
        return self

    def __exit__(self, *_: object) -> None:
        if self.status:
            self.status.stop()

    def note(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def __call__(self, event: "Event") -> None:
        if event.kind == "start" and event.message:
            self.note(event.message)
        elif event.kind == "phase":
            self.note(f"{event.message}; compiling: {self.sizes} …")
            if self.status:
                self.status.update("compiling …")
            self.printed = -math.inf
        elif event.kind in ("record", "progress"):
            if self.status:
                self.status.update(Text(line(event)))
            elif time.monotonic() - self.printed >= LINE_SECONDS:
                self.note(line(event))
                self.printed = time.monotonic()


def line(event: "Event") -> str:
    """Where a run is, in one line."""
    row = event.row
    parts = [f"{row.get('method') or 'optimizer'}  step {row['step']:,}", f"loss {row['loss']:.2e}"]
    for column, label in (("test_loss", "independent"), ("error", "error"), ("t", "t")):
        if column in row:
            parts.append(f"{label} {row[column]:.1e}")
    parts.append(f"{clock(row['seconds'])} gone")
    if event.left is not None:
        parts.append(f"{clock(max(event.left, 0.0))} left")
    return "  ".join(parts)


def make_table(*columns: str, header: bool = True, right: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(
            column,
            style="bold" if number == 0 and not right else None,
            no_wrap=number == 0,
            justify="right" if right and column not in ("method",) else "left",
        )
    return table


def shown(name: str, value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.1f}" if "seconds" in name else f"{value:.2e}"
    return f"{value:,}" if isinstance(value, int) else str("" if value is None else value)


def finite(value: Any) -> Any:
    """NaN and infinity, which JSON does not have, become null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def clock(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} m {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} m"
