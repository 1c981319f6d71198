"""The sections of a load test's page whose charts run over time."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

from holdfast.bench import charts
from holdfast.bench.charts import STYLES, Line, Mark
from holdfast.bench.load.outcome import Disk, Moment, Outcome, Process
from holdfast.bench.load.profile import OPERATIONS
from holdfast.bench.page import figures, section

_MIB = 1 << 20
_POINTS_MAX = 200
"""Of a chart: of more moments, each point stands for several, with the largest value of them."""


class _Thinned:
    """Moments as a chart shows them: no more than ``_POINTS_MAX``."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        each = max(1, -(-len(moments) // _POINTS_MAX))
        self._groups = [moments[at : at + each] for at in range(0, len(moments), each)]
        self.seconds = [group[-1].second for group in self._groups]

    def largest(self, value: Callable[[Moment], float | None]) -> list[float | None]:
        """A value of each moment, the largest of those that share a point; None: none has one."""
        return [max(_known(map(value, group)), default=None) for group in self._groups]

    def rate(self, value: Callable[[Moment], float]) -> list[float]:
        """A count of each moment as a number a second."""
        before, rates = 0.0, []
        for group, second in zip(self._groups, self.seconds, strict=True):
            rates.append(sum(map(value, group)) / max(second - before, 1e-9))
            before = second
        return rates


def _known(values: Iterable[float | None]) -> Iterator[float]:
    return (value for value in values if value is not None)


def _whole(moments: Sequence[Moment]) -> Sequence[Moment]:
    """Without a last one that is only a part of a second."""
    if len(moments) > 1 and moments[-1].second - moments[-2].second < 0.5:
        return moments[:-1]
    return moments


def sections_over_time(outcome: Outcome) -> list[str]:
    """The sections with charts over time."""
    moments = _whole(outcome.moments)
    if not moments:
        return [section("Over time", "<p>The run was too short to show.</p>")]
    thin = _Thinned(moments)
    marks = _marks(outcome)
    notes = ["Point at a chart to read its values."]
    if marks:
        notes.append("Upright lines are workers that were killed or started anew.")
    if len(thin.seconds) < len(moments):
        notes.append(
            f"Each point stands for {-(-len(moments) // _POINTS_MAX)} seconds: of calls a second "
            "it is the mean, of everything else the largest value."
        )
    return [
        section(
            "Over time", f"<p>{' '.join(notes)}</p>" + figures(_over_time(moments, thin, marks))
        ),
        section("Processes", figures(_processes(moments, thin, marks))),
        section("Disk", figures(_disks(moments, thin, marks))),
    ]


def _marks(outcome: Outcome) -> list[Mark]:
    """Kills, and workers that were started anew without one shortly before."""
    marks = [
        Mark(kill.second, f"{kill.second:,.0f} s: {kill.store} killed, served again after "
                          f"{kill.recovery_ms:,.0f} ms")
        for kill in outcome.kills
    ]  # fmt: skip
    for before, after in pairwise(outcome.moments):
        struck = any(after.second - 5 <= kill.second <= after.second for kill in outcome.kills)
        if after.restarts > before.restarts and not struck:
            marks.append(Mark(after.second, f"{after.second:,.0f} s: a worker was started anew"))
    return marks


def _over_time(moments: Sequence[Moment], thin: _Thinned, marks: Sequence[Mark]) -> list[str]:
    seen = {store for moment in moments for store in moment.stores}
    stores = [store for store in OPERATIONS if store in seen]

    def line(name: str, value: Callable[[Moment], float], style: str) -> Line:
        return Line(name, thin.largest(value), style)

    def calls(store: str) -> Line:
        return Line(store, thin.rate(lambda m: m.stores.get(store, 0)), _style(store))

    total = Line("all", thin.rate(lambda m: sum(m.stores.values())), "eight")
    return [
        charts.lines(
            "Calls a second", "/s", thin.seconds, [*map(calls, stores), total], marks, height=230
        ),
        charts.lines(
            "Latency from the moment a call was due, logarithmic", "ms", thin.seconds,
            [
                line("median", lambda m: m.p50_ms, "one"),
                line("99th percentile", lambda m: m.p99_ms, "two"),
                line("slowest", lambda m: m.max_ms, "seven"),
            ],
            marks, logarithmic=True, height=230,
        ),
        charts.lines(
            "Calls under way, and due but not made yet", "", thin.seconds,
            [
                line("under way", lambda m: m.outstanding, "one"),
                line("overdue", lambda m: m.waiting, "two"),
            ],
            marks,
        ),
        charts.lines(
            "By how much the latest client is behind", "ms", thin.seconds,
            [line("lateness", lambda m: 1e3 * m.late_s, "two")], marks,
        ),
        *([charts.lines(
            "Errors and wrong reads in each second", "", thin.seconds,
            [
                line("errors", lambda m: m.errors, "two"),
                line("wrong reads", lambda m: m.wrong_reads, "four"),
            ],
            marks,
        )] if any(m.errors or m.wrong_reads for m in moments) else []),
    ]  # fmt: skip


def _style(name: str) -> str:
    """A store has the same colour in every chart."""
    return dict(zip(OPERATIONS, STYLES, strict=False)).get(name, STYLES[-1])


def _processes(moments: Sequence[Moment], thin: _Thinned, marks: Sequence[Mark]) -> list[str]:
    names = {p.name: _role(p.name) for moment in moments for p in moment.processes}
    found = dict.fromkeys(names.values())
    roles = [
        *(one for one in OPERATIONS if one in found),
        *(one for one in found if one not in OPERATIONS),
    ]
    others = iter(STYLES[len(OPERATIONS) :])
    styles = {role: _style(role) if role in OPERATIONS else next(others) for role in roles}

    def chart(title: str, unit: str, value: Callable[[Process], float]) -> str:
        def of(role: str) -> Callable[[Moment], float | None]:
            def total(moment: Moment) -> float | None:
                its = [value(p) for p in moment.processes if names[p.name] == role]
                return sum(its) if its else None

            return total

        series = [Line(role, thin.largest(of(role)), styles[role]) for role in roles]
        return charts.lines(title, unit, thin.seconds, series, marks, height=230)

    return [
        chart("CPU, as a share of one core", "%", lambda p: 100 * p.cpu),
        chart("Memory of its own, without what is shared", "MiB", lambda p: p.own_bytes / _MIB),
        chart("Resident memory", "MiB", lambda p: p.resident_bytes / _MIB),
        chart("Open descriptors", "", lambda p: p.descriptors),
    ]


def _role(process: str) -> str:
    """All processes of clients are one line."""
    return "clients" if process.startswith("clients ") else process


def _disks(moments: Sequence[Moment], thin: _Thinned, marks: Sequence[Mark]) -> list[str]:
    seen = {disk.store for moment in moments for disk in moment.disks}
    stores = [store for store in OPERATIONS if store in seen]

    def line(name: str, store: str, value: Callable[[Disk], int | None], style: str) -> Line:
        def mib(moment: Moment) -> float | None:
            found = [value(disk) for disk in moment.disks if disk.store == store]
            return found[0] / _MIB if found and found[0] is not None else None

        return Line(name, thin.largest(mib), style)

    return [
        charts.lines(
            store, "MiB", thin.seconds,
            [
                line("its files on disk", store, lambda disk: disk.file_bytes, _style(store)),
                line("what of them counts", store, lambda disk: disk.live_bytes, "seven"),
            ],
            marks,
        )
        for store in stores
    ]  # fmt: skip
