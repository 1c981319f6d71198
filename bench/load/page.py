"""A load test's report as one HTML page that needs no network."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise

from holdfast.bench import charts
from holdfast.bench.charts import STYLES, Line, Mark, Points
from holdfast.bench.load.outcome import (
    Check,
    Disk,
    Limit,
    Moment,
    Operation,
    Outcome,
    Process,
)
from holdfast.bench.load.profile import OPERATIONS
from holdfast.bench.page import document, figures, section, table

_MIB = 1 << 20
_POINTS_MAX = 200
"""Of a chart: of more moments, each point stands for several, with the largest value of them."""
_LATENCIES = ("p50", "p90", "p99", "p99_9", "p99_99", "max")


def page(outcome: Outcome) -> str:
    """The whole page."""
    sections = [
        _head(outcome),
        *([section("What went wrong", _texts(outcome.texts))] if outcome.texts else []),
        *([section("Highest rate", _limit(outcome.limit))] if outcome.limit is not None else []),
        section("Operations", _operations(outcome.operations)),
        section("Distribution of latency", _distributions(outcome.operations)),
        *_timed(outcome),
        section("Workers killed", _kills(outcome)),
        section("Steadiness", _checks(outcome.checks)),
        section("Where", _machine(outcome)),
    ]
    return document(f"holdfast load, {outcome.settings.profile}", sections)


def _head(outcome: Outcome) -> str:
    settings = outcome.settings
    pace = "closed loop" if settings.rate is None else f"{settings.rate:g} calls/s"
    if outcome.limit is not None:
        pace = f"search for the highest rate, from {pace} on"
    about = [
        f"{settings.clients} clients ({settings.clients_are}) in {settings.processes} processes",
        pace,
        f"{outcome.seconds:,.0f} s after {settings.warm_up_s:g} s of warm-up",
        f"durability {settings.durability}",
        *([f"a worker killed every {settings.kill_every_s:g} s"] if settings.kill_every_s else []),
        f"seed {settings.seed}",
        *(["ended by Ctrl-C"] if outcome.interrupted else []),
    ]
    text = (
        f"{outcome.calls:,} calls, {outcome.errors:,} errors, {outcome.wrong_reads:,} wrong reads; "
        f"{outcome.read_back:,} keys read back at the end."
    )
    if outcome.unmade:
        text += f" The clients were late: {outcome.unmade:,} calls were due and not made."
    described = f"<p>{escape(settings.description)}</p>" if settings.description else ""
    return (
        f"<h1>holdfast load: {escape(settings.profile)}</h1>{described}"
        f'<p class="about">{escape(" · ".join(about))}</p>'
        f'<p class="verdict {"held" if outcome.ok else "broken"}">{escape(text)}</p>'
    )


def _operations(operations: Sequence[Operation]) -> str:
    if not operations:
        return "<p>No call was measured.</p>"
    rows = [
        (
            escape(f"{one.store} {one.operation}"),
            f"{one.count:,}",
            f"{one.per_second:,.1f}",
            *(_ms(one.latency_ms[name]) for name in _LATENCIES),
            _ms(one.service_ms["p50"]),
            _ms(one.service_ms["p99"]),
            f"{one.errors:,}",
            f"{one.wrong_reads:,}",
        )
        for one in operations
    ]
    heads = (
        "operation", "calls", "calls/s", *(name.replace("_", ".") for name in _LATENCIES),
        "p50 of service", "p99 of service", "errors", "wrong reads",
    )  # fmt: skip
    note = (
        "<p>Times are in milliseconds. Latency counts from the moment a call was due, service time "
        "from the moment it was made.</p>"
    )
    return note + table(heads, rows, 1)


def _ms(value: float) -> str:
    return f"{value:,.2f}" if value < 100 else f"{value:,.0f}"


def _limit(limit: Limit) -> str:
    if limit.highest_rate is None:
        text = f"No rate that was tried keeps p99 at {limit.objective_ms:g} ms."
    else:
        text = (
            f"{limit.highest_rate:,.0f} calls/s is the highest rate that keeps p99 at "
            f"{limit.objective_ms:g} ms; everything below is of a run at that rate."
        )
    rows = [
        (
            f"{step.rate:,.0f}", f"{step.reached:,.0f}", _ms(step.p99_ms), f"{step.errors:,}",
            "holds" if step.held else escape(step.why_not),
        )
        for step in limit.steps
    ]  # fmt: skip
    chart = ""
    if limit.steps:
        groups = [
            Points(name, [(step.rate, step.p99_ms) for step in limit.steps if step.held is held],
                   style)
            for name, held, style in (("holds", True, "three"), ("does not hold", False, "two"))
        ]  # fmt: skip
        chart = charts.points(
            "99th percentile of latency at each rate, logarithmic", ("calls/s", "ms"), groups,
            ("objective", limit.objective_ms),
        )  # fmt: skip
    heads = ("calls/s asked", "calls/s made", "p99, ms", "errors", "verdict")
    return f"<p><strong>{text}</strong></p>{figures([chart])}{table(heads, rows, 0)}"


def _texts(texts: Sequence[str]) -> str:
    return "".join(f"<pre>{escape(text)}</pre>" for text in texts)


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


def _timed(outcome: Outcome) -> list[str]:
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


def _distributions(operations: Sequence[Operation]) -> str:
    stores = dict.fromkeys(one.store for one in operations if one.curve)
    if not stores:
        return "<p>No call was measured.</p>"
    note = (
        "<p>How long the calls below a percentile took at most, from the moment they were due. "
        "90, 99 and 99.9 per cent are equally far from each other.</p>"
    )
    found = []
    for store in stores:
        its = [one for one in operations if one.store == store and one.curve]
        series = [
            Points(one.operation, one.curve, style) for one, style in zip(its, STYLES, strict=False)
        ]
        found.append(charts.percentiles(f"{store}, logarithmic", "ms", series))
    return note + figures(found)


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


def _kills(outcome: Outcome) -> str:
    more = max(0, outcome.restarts - len(outcome.kills))
    text = f"{len(outcome.kills)} workers were killed; {more} more were started anew."
    if not outcome.kills:
        return f"<p>{text}</p>"
    stores = dict.fromkeys(kill.store for kill in outcome.kills)
    rows = []
    for store in stores:
        its = [kill.recovery_ms for kill in outcome.kills if kill.store == store]
        rows.append((escape(store), str(len(its)), _ms(statistics.median(its)), _ms(max(its))))
    times = [kill.recovery_ms for kill in outcome.kills]
    chart = charts.histogram("From a kill to the successor's first answer", times, "ms")
    heads = ("store", "kills", "median, ms", "longest, ms")
    return f"<p>{text}</p>{table(heads, rows, 1)}{figures([chart])}"


def _checks(checks: Sequence[Check]) -> str:
    if not checks:
        return "<p>The run was too short to tell.</p>"
    words = {
        True: '<strong class="held">yes</strong>',
        False: '<strong class="broken">no</strong>',
        None: '<span class="not-covered">too short to tell</span>',
    }
    rows = [
        (escape(check.name), words[check.held], escape(check.figure), escape(check.limit))
        for check in checks
    ]
    return table(("question", "answer", "figure", "limit"), rows, 4)


def _machine(outcome: Outcome) -> str:
    facts = {"holdfast": outcome.version, **outcome.machine}
    listed = "".join(
        f"<dt>{escape(str(name).replace('_', ' '))}</dt><dd>{escape(_fact(value))}</dd>"
        for name, value in facts.items()
    )
    return f"<dl>{listed}</dl>"


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)
