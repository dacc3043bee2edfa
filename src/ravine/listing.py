"""Lists for the terminal and for the docs: problems with what was reached on them."""

import inspect
import re
from typing import Any

from ravine.console import make_table
from ravine.problems import CATALOGUE, factory


def published(name: str) -> str:
    """The best error published that the problem's docstring knows, with its method; "" for none."""
    found = re.search(r"Best published[^:]*: ([^)]*\))", " ".join((inspect.getdoc(factory(name)) or "").split()))
    return found.group(1) if found else ""


def options(name: str) -> str:
    """`option=default` of every option."""
    return " ".join(f"{key}={value.default}" for key, value in inspect.signature(factory(name)).parameters.items())


def problems() -> Any:
    """Every problem in a line, by class: a table for the console."""
    table = make_table("problem", "statement", "d", "unknowns", "reference", "best published", "ours")
    for column, share in zip(table.columns[1:], (9, 1, 3, 3, 5, 4), strict=True):
        column.ratio, table.expand = share, True
    kind = ""
    for name, entry in CATALOGUE.items():
        if entry.kind != kind:
            kind = entry.kind
            table.add_section()
            table.add_row(f"[not bold italic]{kind}[/]")
        statement = (inspect.getdoc(factory(name)) or "").split("\n")[0]
        ours = f"{entry.error:.1e}  {entry.command.replace(f'solve {name} ', '')}" if entry.error is not None else ""
        table.add_row(name, statement, str(entry.dimension), entry.unknowns, entry.reference, published(name), ours)
    return table


def problem(name: str) -> str:
    """All about one problem: its docstring, options, and how to reach our best."""
    entry = CATALOGUE[name]
    lines = [
        f"{name}: {entry.kind}, {entry.dimension} variables, for {entry.unknowns}; reference: {entry.reference}.",
        "",
        inspect.getdoc(factory(name)) or "",
        "",
        f"options   {options(name)}",
    ]
    if entry.error is not None:
        lines.append(f"reached   {entry.error:.1e} by ravine {entry.command} (median of three seeds, two cores)")
    return "\n".join(lines)


def reached() -> str:
    """What was reached on each problem, as a table in Markdown."""
    rows = ["| problem | error | by `ravine …` | best published |", "|---|---|---|---|"]
    for name, entry in CATALOGUE.items():
        if entry.error is not None:
            rows.append(f"| `{name}` | {entry.error:.1e} | `{entry.command}` | {published(name)} |")
    return "\n".join(rows) + "\n"
