"""What a load test shows while it runs, on standard error."""

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live as RichLive
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from holdfast.bench.load.outcome import Moment, Process
from holdfast.bench.load.session import Wish
from holdfast.bench.load.timings import Recent

_MIB = 1 << 20
_GAP = 3
"""Columns between two tables that are beside each other."""
_HEAD_ROWS = 1
_CLIENTS = "clients "


class Live:
    """A table where somebody can see it, lines where not, nothing if it is to be quiet."""

    def __init__(self, wish: Wish, *, quiet: bool) -> None:
        self._wish = wish
        self._quiet = quiet
        self._console = Console(stderr=True)
        self._live = (
            RichLive(console=self._console, auto_refresh=False, transient=True)
            if self._console.is_terminal and not quiet
            else None
        )
        self._said = ""
        self._errors = 0
        self._wrong_reads = 0

    def __enter__(self) -> "Live":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """What is done now."""
        self._said = text
        if self._live is not None:
            self._live.update(Text(text), refresh=True)
        elif not self._quiet:
            self._line(text)

    def show(self, moment: Moment, operations: Sequence[Recent]) -> None:
        """The last second."""
        self._errors += moment.errors
        self._wrong_reads += moment.wrong_reads
        if self._live is not None:
            self._live.update(self._view(moment, operations), refresh=True)
        elif not self._quiet:
            words = ", ".join(f"{what} {value}" for what, value in self._overview(moment))
            self._line(f"{moment.second:.0f} s: {words}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _view(self, moment: Moment, operations: Sequence[Recent]) -> RenderableType:
        """What fits: the figures of all, the processes, and the operations, slow ones first."""
        width, height = self._console.size
        head = self._head(moment)
        processes = _by_process(moment)
        rows = height - 1 - len(head.wrap(self._console, width))
        beside = _by_operation(operations, rows - _HEAD_ROWS)
        if self._width(processes) + _GAP + self._width(beside) <= width:
            both = Table.grid(padding=(0, _GAP, 0, 0))
            both.add_row(processes, beside)
            return Group(head, both)
        rows -= _HEAD_ROWS + processes.row_count
        if rows < _HEAD_ROWS + 2:
            return Group(head, processes)
        return Group(head, processes, _by_operation(operations, rows - _HEAD_ROWS))

    def _width(self, table: Table) -> int:
        """How wide a table wants to be."""
        unbounded = self._console.options.update(max_width=1000)
        return Measurement.get(self._console, unbounded, table).maximum

    def _head(self, moment: Moment) -> Text:
        name, wished = self._wish.profile.name, self._wish.seconds
        head = Text(f"{name}, {moment.second:.0f} of {wished:.0f} s; Ctrl-C ends it with a report")
        head.append(f"\n{self._said}\n", "dim")
        for what, value in self._overview(moment):
            failed = what in ("errors", "wrong reads") and value != "0"
            # A figure stays together with its name where the line is broken.
            head.append(f"{what} {value}".replace(" ", "\N{NO-BREAK SPACE}"),
                        "bold red" if failed else "")  # fmt: skip
            head.append("  ")
        head.rstrip()
        return head

    def _overview(self, moment: Moment) -> Iterator[tuple[str, str]]:
        """A moment's figures in words; what went wrong is of the whole run so far."""
        yield "calls", f"{sum(moment.stores.values()):,}"
        yield "p50", f"{moment.p50_ms:.2f} ms"
        yield "p99", f"{moment.p99_ms:.2f} ms"
        yield "slowest", f"{moment.max_ms:.1f} ms"
        yield "under way", str(moment.outstanding)
        yield "overdue", f"{moment.waiting}, {moment.late_s:.2f} s late"
        yield "restarts", str(moment.restarts)
        yield "errors", str(self._errors)
        yield "wrong reads", str(self._wrong_reads)


def _table(*headings: str) -> Table:
    """A table with names in its first column and figures in the others."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        justify: JustifyMethod = "left" if heading == headings[0] else "right"
        table.add_column(heading, justify=justify, no_wrap=True)
    return table


def _by_process(moment: Moment) -> Table:
    table = _table("process", "calls/s", "CPU", "own memory", "descriptors", "on disk")
    disks = {disk.store: disk.file_bytes for disk in moment.disks}
    for process in _together(moment.processes):
        calls = moment.stores.get(process.name)
        disk = disks.get(process.name)
        table.add_row(
            Text(process.name),
            "" if calls is None else f"{calls:,}",
            f"{process.cpu:.0%}",
            f"{process.own_bytes / _MIB:.1f} MiB",
            str(process.descriptors),
            "" if disk is None else f"{disk / _MIB:.1f} MiB",
        )
    return table


def _together(processes: Sequence[Process]) -> list[Process]:
    """The processes, with those of clients, of which there may be many, as one at the end."""
    clients = [process for process in processes if process.name.startswith(_CLIENTS)]
    if len(clients) < 2:
        return list(processes)
    total = Process(
        f"{len(clients)} of clients", 0, sum(one.cpu for one in clients),
        sum(one.own_bytes for one in clients), sum(one.resident_bytes for one in clients),
        sum(one.descriptors for one in clients),
    )  # fmt: skip
    return [*(process for process in processes if process not in clients), total]


def _by_operation(operations: Sequence[Recent], rows: int) -> Table:
    """At most so many rows; of more operations the slowest."""
    table = _table("operation", "calls", "p50 ms", "p99 ms", "slowest ms")
    kept = list(operations)
    if len(kept) > rows:
        by_p99 = sorted(operations, key=lambda one: one.p99_ms, reverse=True)[: max(0, rows - 1)]
        kept = [one for one in operations if one in by_p99]
    for one in kept:
        latencies = [f"{ms:,.2f}" for ms in (one.p50_ms, one.p99_ms, one.max_ms)]
        table.add_row(Text(one.label), f"{one.calls:,}", *(latencies if one.max_ms else ()))
    if len(kept) < len(operations):
        table.add_row(f"{len(operations) - len(kept)} faster ones")
    return table
