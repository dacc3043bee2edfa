"""Words and numbers that commands print."""

import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from ravine.cli.processes import leads
from ravine.console import finite


def as_line(value: Any) -> str:
    """One line of JSON, without the NaN and infinity that JSON does not have."""
    clean = lambda value: (
        {name: clean(entry) for name, entry in value.items()}
        if isinstance(value, dict)
        else [clean(entry) for entry in value]
        if isinstance(value, (list, tuple))
        else finite(value)
    )
    return json.dumps(clean(value))


def note(text: str) -> None:
    """A line on stderr, from process 0."""
    if leads():
        print(text, file=sys.stderr, flush=True)


def stdout() -> Console:
    """Where tables go; into a file or a pipe 160 columns wide."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def told_budget(seconds: float | None) -> str:
    """A budget in words."""
    return "until the phases end" if seconds is None else f"{seconds:g} s"


def newest() -> str:
    """Run folders that could have been meant."""
    found = (
        sorted(Path("runs").glob("*/config.json"), key=lambda file: file.stat().st_mtime)
        if Path("runs").is_dir()
        else []
    )
    return f" The newest here: {', '.join(str(file.parent) for file in found[-3:])}." if found else ""


def warn_of_float32(phases: Any) -> None:
    """A note where curvature methods are asked for in float32."""
    import jax

    from ravine.optim.first_order import Steepest, Transform
    from ravine.optim.phase import Plan

    first = isinstance(phases, Plan) and all(
        isinstance(phase.optimizer.direction, (Steepest, Transform)) for phase in phases.phases
    )
    wide = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    if not first and not wide:
        note(
            "warning: in float32, quasi-Newton and Gauss–Newton methods stop near a relative error of 1e-3 to 1e-4, "
            "where rounding hides all progress. Leave out --precision 32 to go further."
        )
