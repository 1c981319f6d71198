"""What a load test shows while it runs, on standard error."""

from collections.abc import Iterator, Sequence

from rich.columns import Columns
from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table
from rich.text import Text

from holdfast.bench.load.outcome import Moment
from holdfast.bench.load.session import Wish
from holdfast.bench.load.timings import Recent

_MIB = 1 << 20


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
        if self._live is not None:
            tables = Columns([self._table(moment), _by_operation(operations)])
            self._live.update(tables, refresh=True)
        elif not self._quiet:
            words = ", ".join(f"{what} {value}" for what, value in overview(moment))
            self._line(f"{moment.second:.0f} s: {words}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _table(self, moment: Moment) -> Table:
        title = f"{self._wish.profile.name}, {moment.second:.0f} of {self._wish.seconds:.0f} s"
        table = Table(title=Text(title), title_justify="left", caption=Text(self._said))
        for heading in ("process", "calls/s", "CPU", "own memory", "descriptors", "on disk"):
            table.add_column(heading, justify="left" if heading == "process" else "right")
        disks = {disk.store: disk.file_bytes for disk in moment.disks}
        for process in moment.processes:
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
        table.add_section()
        for what, value in overview(moment):
            table.add_row(what, value)
        return table


def _by_operation(operations: Sequence[Recent]) -> Table:
    table = Table()
    for heading in ("operation", "calls", "p50 ms", "p99 ms", "slowest"):
        table.add_column(heading, justify="left" if heading == "operation" else "right")
    for one in operations:
        latencies = (f"{ms:.2f}" for ms in (one.p50_ms, one.p99_ms, one.max_ms))
        table.add_row(Text(one.label), f"{one.calls:,}", *latencies)
    return table


def overview(moment: Moment) -> Iterator[tuple[str, str]]:
    """A moment's figures in words."""
    yield "calls", f"{sum(moment.stores.values()):,}"
    yield "p50", f"{moment.p50_ms:.2f} ms"
    yield "p99", f"{moment.p99_ms:.2f} ms"
    yield "slowest", f"{moment.max_ms:.1f} ms"
    yield "under way", str(moment.outstanding)
    yield "overdue", f"{moment.waiting}, {moment.late_s:.2f} s late"
    yield "restarts", str(moment.restarts)
    yield "errors", str(moment.errors)
    yield "wrong reads", str(moment.wrong_reads)
