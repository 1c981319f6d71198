"""What the command line prints of files: reports, their rows, progress."""

import contextlib
import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, cast

from holdfast.call import ProgressCallback
from holdfast.formats.values import KvEntry
from holdfast.workers.inspection import Report
from holdfast.workers.messages import Progress
from holdfast.workers.repair import Repaired
from holdfast.workers.standing import Standing

if TYPE_CHECKING:
    from holdfast.workers.index_inspection import IndexRowView
    from holdfast.workers.registry_inspection import RegistryReport
    from holdfast.workers.vector_inspection import VectorRow
    from holdfast.workers.warm_inspection import WarmRow

_PREVIEW_BYTES = 40
_PREVIEW_FLOATS = 4
_REGISTRY = "zsm"

_STANDING_TEXTS = {
    Standing.CLEAN: "clean",
    Standing.RECOVERABLE: "recoverable, torn",
    Standing.DAMAGED: "damaged",
    Standing.NOT_OURS: "not ours",
}


# --- reports -----------------------------------------------------------------------------------


def print_report(path: str, report: Report, rows: bool) -> None:
    """A report as text: fields, problems, rows."""
    print_fields({"path": path, **report.summary()})
    _print_lines(report.problems)
    for line in _lines(report) if rows else ():
        print(line)


def print_report_json(report: Report, rows: bool) -> None:
    """A report as one JSON object; the rows are written one by one."""
    head = json.dumps(report.fields())
    if not rows:
        print(head)
        return
    write = sys.stdout.write
    name, listed = _listed(report)
    write(f'{head[:-1]}, "{name}": [')
    separator = "\n"
    for fields in listed:
        write(separator + json.dumps(fields))
        separator = ",\n"
    write("]}\n")


def print_verdict(path: str, report: Report) -> None:
    """One line, and one for each problem."""
    verdict = report.verdict
    place = "" if verdict.offset is None else f" at offset {verdict.offset}"
    why = printable(f"{place}: {verdict.reason}") if verdict.reason else ""
    print(f"{path}: {_STANDING_TEXTS[report.standing]}{why}")
    _print_lines(report.problems)


def print_repaired(repaired: Repaired) -> None:
    """What was written, and what is missing in it."""
    print(printable(f"wrote {repaired.rows} rows to {repaired.output}"))
    if repaired.salvaged_rows:
        print(f"{repaired.salvaged_rows} of them belonged to no commit")
    if repaired.kept is not None:
        print(printable(f"what was damaged is {repaired.kept}"))
    _print_lines([f"lost: {flaw}" for flaw in repaired.lost])
    _print_lines(repaired.notes)


def print_hits(results: list[dict[str, list[object]]]) -> None:
    """One line a hit, a blank one between queries."""
    for number, result in enumerate(results):
        if number:
            print()
        for id_, distance in zip(result["ids"], result["distances"], strict=True):
            print(f"{id_}  {distance}")


def _print_lines(texts: list[str]) -> None:
    for text in texts:
        print(f"  {printable(text)}")


def printable(text: str) -> str:
    """Text that cannot move a terminal's cursor."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


# --- rows --------------------------------------------------------------------------------------


def _listed(report: Report) -> tuple[str, Iterator[dict[str, object]]]:
    """The rows as JSON has them, and what they are called there."""
    if report.format == _REGISTRY:
        from holdfast.cli_registry import artifact_fields

        models = cast("RegistryReport", report).rows()
        return "artifacts", (artifact_fields(*row) for row in models)
    rows = cast("Iterator[KvEntry | VectorRow | IndexRowView | WarmRow]", report.rows())
    return "rows", (_row_fields(row) for row in rows)


def _lines(report: Report) -> Iterator[str]:
    """The rows as text has them."""
    if report.format == _REGISTRY:
        from holdfast.cli_registry import artifact_line

        return (artifact_line(*row) for row in cast("RegistryReport", report).rows())
    rows = cast("Iterator[KvEntry | VectorRow | IndexRowView | WarmRow]", report.rows())
    return (_row_line(row) for row in rows)


def _row_fields(row: "KvEntry | VectorRow | IndexRowView | WarmRow") -> dict[str, object]:
    """A row as JSON has it."""
    if isinstance(row, KvEntry):
        return {
            "key": row.key,
            "value": row.value.hex(),
            "version": row.version.token.hex(),
        }
    fields = row._asdict() | {"vector": row.vector.hex()}
    if isinstance(fields.get("id"), bytes):
        fields["id"] = {"bytes": fields["id"].hex()}
    if _is_of_index(row):  # where no metadata and a null in it both mean something
        fields["metadata"] = None if row.metadata is None else _values(row.metadata)
    elif row.metadata is None:
        del fields["metadata"]
    else:
        fields["metadata"] = _metadata_fields(row.metadata)
    return fields


def _is_of_index(row: "VectorRow | IndexRowView | WarmRow") -> bool:
    """Whether a row is an index's; its module is loaded where that is so."""
    module = sys.modules.get("holdfast.workers.index_inspection")
    return module is not None and isinstance(row, module.IndexRowView)


def _metadata_fields(metadata: Mapping[str, object]) -> dict[str, object]:
    """The values that are not null; what JSON cannot say becomes an object that does."""
    return {name: value for name, value in _values(metadata).items() if value is not None}


def _values(metadata: Mapping[str, object]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, value in metadata.items():
        if isinstance(value, bytes):
            value = {"bytes": value.hex()}
        elif isinstance(value, float) and not math.isfinite(value):
            value = {"float": str(value)}
        fields[name] = value
    return fields


def _row_line(row: "KvEntry | VectorRow | IndexRowView | WarmRow") -> str:
    """A row as a line of text, escaped: keys, values and metadata may hold anything."""
    if isinstance(row, KvEntry):
        more = "..." if len(row.value) > _PREVIEW_BYTES else ""
        preview = repr(row.value[:_PREVIEW_BYTES])[1:]
        version = row.version.token.hex() or "-"
        return f"{row.key!a}  {version}  {len(row.value)}  {preview}{more}"
    count = min(_PREVIEW_FLOATS, len(row.vector) // 4)
    numbers = [f"{number:g}" for number in struct.unpack_from(f"<{count}f", row.vector)]
    if 4 * count < len(row.vector):
        numbers.append("...")
    *key, _, metadata = row
    names = [ascii(part) if isinstance(part, bytes) else str(part) for part in key]
    line = "  ".join([*names, f"[{', '.join(numbers)}]"])
    if metadata is None:
        return line
    values = _values(metadata) if _is_of_index(row) else _metadata_fields(metadata)
    return f"{line}  {json.dumps(values)}"


# --- everything --------------------------------------------------------------------------------


@contextlib.contextmanager
def progress_bar(title: str, as_json: bool) -> Iterator[ProgressCallback]:
    """A progress bar on stderr where someone can see it; else nothing."""
    if as_json or not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title, total=None)

        def show(progress: Progress) -> None:
            bars.update(task, completed=progress.done, total=progress.total)

        yield show


def print_result(fields: dict[str, object], text: str, as_json: bool) -> None:
    """The outcome of a command, as JSON or as a sentence."""
    print(json.dumps(fields) if as_json else text)


def print_fields(fields: Mapping[str, object]) -> None:
    """Names and values, one pair a line."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print(f"{name:<{width}}  {'-' if value in ('', None) else value}")
