"""What the command line shows while a run goes on, and how numbers and tables look."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from ravine.callbacks import Event

LINE_SECONDS = 5.0  # between lines of progress when stderr is no terminal


class Progress:
    """A live line on a terminal, plain lines every few seconds elsewhere; on stderr in either case."""

    def __init__(self, sizes: str, *, live: bool = False):
        """`live`: with a plot of the convergence above the line."""
        self.sizes = sizes
        self.console = Console(stderr=True, highlight=False)
        terminal = self.console.is_terminal
        self.status = self.console.status("", spinner="dots") if terminal and not live else None
        self.live = Live(console=self.console, refresh_per_second=4) if terminal and live else None
        self.rows: list[dict[str, Any]] = []
        self.printed = -math.inf

    def __enter__(self) -> "Progress":
        if self.status:
            self.status.start()
            self.status.update("starting …")
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.status:
            self.status.stop()
        if self.live:
            self.live.stop()

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
            if event.kind == "record":
                self.rows.append(event.row)
            if self.live:
                size = self.console.size
                plot = draw(self.rows, width=min(size.width - 12, 96), height=max(4, min(14, size.height - 6)))
                self.live.update(Group(plot, Text(line(event))))
            elif self.status:
                self.status.update(Text(line(event)))
            elif time.monotonic() - self.printed >= LINE_SECONDS:
                self.note(line(event))
                self.printed = time.monotonic()


CURVES = {"loss": "blue", "test_loss": "cyan", "error": "red"}
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille character, by row and column


def draw(rows: Sequence[dict[str, Any]], *, width: int, height: int) -> Text:
    """Losses and error against seconds, on a logarithmic scale, in Braille: `height` lines of `width` characters.

    ```python
    >>> from ravine.console import draw
    >>> rows = [{"seconds": second, "loss": 10.0**-second} for second in range(9)]
    >>> print(draw(rows, width=10, height=2).plain.splitlines()[0].rstrip())
       1e+00 ┤⠁⠂⠠⢀

    ```
    """
    points = [
        (row["seconds"], math.log10(row[column]), colour)
        for column, colour in CURVES.items()
        for row in rows
        if 0 < row.get(column, math.nan) < math.inf
    ]
    if not points:
        return Text("no finite loss yet")
    last = max(seconds for seconds, _, _ in points) or 1.0
    high = math.ceil(max(value for _, value, _ in points) - 1e-9)
    low = min(math.floor(min(value for _, value, _ in points) + 1e-9), high - 1)
    dots = [[0] * width for _ in range(height)]
    colours = [[""] * width for _ in range(height)]
    for seconds, value, colour in points:
        x = round(seconds / last * (2 * width - 1))
        y = round((high - value) / (high - low) * (4 * height - 1))
        dots[y // 4][x // 2] |= DOTS[y % 4][x % 2]
        colours[y // 4][x // 2] = colour
    found = Text()
    for number in range(height):
        label = {0: f"{10.0**high:.0e}", height - 1: f"{10.0**low:.0e}"}.get(number, "")
        found.append(f"{label:>8} {'┤' if label else '│'}", "dim")
        for bits, colour in zip(dots[number], colours[number], strict=True):
            found.append(chr(0x2800 + bits) if bits else " ", colour)
        found.append("\n")
    found.append(
        " " * 9
        + "└"
        + "─" * width
        + "\n"
        + " " * 10
        + "0 s"
        + (clock(last) if last >= 10 else f"{last:.2g} s").rjust(width - 3)
        + "\n",
        "dim",
    )
    for column, colour in CURVES.items():
        if column in rows[-1]:
            label = {"test_loss": "loss on independent points", "error": "relative error"}.get(column, column)
            found.append(" " * 10 + "━━ ", colour).append(f"{label} {rows[-1][column]:.2e}\n")
    return found


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
