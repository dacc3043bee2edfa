"""Lists for the terminal and for the docs: methods, and problems with what was reached on them."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ravine.console import make_table
from ravine.optim.presets import METHODS
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
    rows = []
    for name, entry in CATALOGUE.items():
        statement = (inspect.getdoc(factory(name)) or "").split("\n")[0]
        ours = f"{entry.error:.1e}  {entry.command.replace(f'solve {name} ', '')}" if entry.error is not None else ""
        about = statement, str(entry.dimension), entry.unknowns, entry.reference, published(name), ours
        rows.append((entry.kind, (name, *about)))
    columns = {"statement": 9, "d": 1, "unknowns": 3, "reference": 3, "best published": 5, "ours": 4}
    return _in_sections("problem", columns, rows)


def methods() -> Any:
    """Every method in a line, by family: a table for the console."""
    about = "Chooses phases from sizes, structure, precision and forecasts. The default."
    rows = [("", ("auto", about, "", "", ""))]
    for name, method in METHODS.items():
        rows.append((method.family, (name, method.definition, method.cost, method.memory, ", ".join(method.needs))))
    return _in_sections("method", {"what it is": 5, "a step costs": 2, "numbers kept": 2, "needs": 2}, rows)


def _in_sections(first: str, columns: Mapping[str, int], rows: Sequence[tuple[str, tuple[str, ...]]]) -> Any:
    """A table as wide as the console: columns with their shares of it, rows with the section that they belong to."""
    table = make_table(first, *columns)
    for column, share in zip(table.columns[1:], columns.values(), strict=True):
        column.ratio, table.expand = share, True
    before = ""
    for section, row in rows:
        if section != before:
            table.add_section()
            table.add_row(f"[not bold italic]{section}[/]")
            before = section
        table.add_row(*row)
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
        lines.append(f"reached   {entry.error:.1e} by ravine {entry.command} (median of three seeds)")
    return "\n".join(lines)


def reached() -> str:
    """What was reached on each problem, as a table in Markdown."""
    rows = ["| problem | error | by `ravine …` | best published |", "|---|---|---|---|"]
    for name, entry in CATALOGUE.items():
        if entry.error is not None:
            rows.append(f"| `{name}` | {entry.error:.1e} | `{entry.command}` | {published(name)} |")
    return "\n".join(rows) + "\n"
