"""Results for people and for programs."""

import json
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from holdfast.bench.measure import Budget, Row

_HEADINGS = ("what", "value", "against", "came to", "ratio", "budget")
_VERDICTS = {True: "[green]yes[/]", False: "[red]NO[/]", None: ""}


def figure(value: float) -> str:
    """Three significant digits, or all of them before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def bound(budget: Budget | None, row: Row) -> str:
    """A budget in words: a multiple of what the row is compared with, or a value."""
    if budget is None:
        return ""
    unit = "x" if row.ratio is not None else row.unit
    return f"{budget.sense} {budget.bound:g} {unit}"


def beside(row: Row) -> tuple[str, str]:
    """What stands beside a figure, and what that came to: its comparison, or its limit."""
    if row.other is not None:
        return row.against, f"{figure(row.other)} {row.unit}"
    if row.limit is not None:
        what, value = row.limit
        return f"limit: {what}", f"{figure(value)} {row.unit}"
    return row.against, ""


def print_table(console: Console, rows: Sequence[Row]) -> None:
    """The rows as a table, and their notes below it."""
    table = Table(title="medians; what is compared ran in turn, in this run", expand=False)
    for heading in (*_HEADINGS, "met"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*_cells(row), _VERDICTS[row.met])
    console.print(table)
    for row in rows:
        if said := "; ".join(filter(None, (row.note, row.absent))):
            console.print(f"{row.name}: {said}", markup=False, highlight=False)


def as_markdown(rows: Sequence[Row]) -> str:
    """The same for a page."""
    lines = [" | ".join(("", *_HEADINGS, "met", "")).strip(), "|" + "---|" * (len(_HEADINGS) + 1)]
    for row in rows:
        verdict = {True: "yes", False: "no", None: ""}[row.met]
        said = "; ".join(filter(None, (row.note, row.absent)))
        what = f"{row.what} ({said})" if said else row.what
        lines.append(" | ".join(("", what, *_cells(row)[1:], verdict, "")).strip())
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.what,
        f"{figure(row.value)} {row.unit}",
        *beside(row),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        bound(row.budget, row),
    )


def as_json(machine: dict[str, object], rows: Sequence[Row], **more: object) -> str:
    """Machine, rows and verdicts as one JSON object."""
    missed = [row.name for row in rows if row.met is False]
    report = {
        "machine": machine,
        "rows": [row.as_json() for row in rows],
        "missed": missed,
        **more,
    }
    return json.dumps(report, indent=2) + "\n"
