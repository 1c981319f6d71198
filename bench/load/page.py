"""A load test's report as one HTML page that needs no network."""

from collections.abc import Callable, Sequence
from html import escape

from holdfast.bench import charts
from holdfast.bench.charts import STYLES, Line
from holdfast.bench.load.outcome import Check, Limit, Moment, Operation, Outcome
from holdfast.bench.page import document, section, table

_MIB = 1 << 20
_POINTS_MAX = 300
"""Of a chart: of more moments, each point stands for several, with the largest value of them."""
_LATENCIES = ("p50", "p90", "p99", "p99_9", "p99_99", "max")


def page(outcome: Outcome) -> str:
    """The whole page."""
    sections = [
        _head(outcome),
        section("Operations", _operations(outcome.operations)),
        *([section("Highest rate", _limit(outcome.limit))] if outcome.limit is not None else []),
        *([section("What went wrong", _texts(outcome.texts))] if outcome.texts else []),
        section("Over time", _over_time(outcome)),
        section("Distribution of latency", _distributions(outcome.operations)),
        section("Processes", _processes(outcome.moments)),
        section("Disk", _disks(outcome.moments)),
        section("Workers killed", _kills(outcome)),
        section("Steadiness", _checks(outcome.checks)),
        section("Where", _machine(outcome)),
    ]
    return document(f"holdfast load, {outcome.settings.profile}", sections)


def _head(outcome: Outcome) -> str:
    settings = outcome.settings
    pace = "closed loop" if settings.rate is None else f"{settings.rate:g} calls/s"
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
        "operation", "calls", "a second", *(name.replace("_", ".") for name in _LATENCIES),
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
            f"{limit.objective_ms:g} ms."
        )
    rows = [
        (
            f"{step.rate:,.0f}", f"{step.reached:,.0f}", _ms(step.p99_ms), f"{step.errors:,}",
            "holds" if step.held else escape(step.why_not),
        )
        for step in limit.steps
    ]  # fmt: skip
    chart = ""
    ordered = sorted(limit.steps, key=lambda step: step.rate)
    if len(ordered) > 1:
        rates = [step.rate for step in ordered]
        chart = charts.lines(
            "99th percentile of latency at each rate, logarithmic", "ms", rates,
            [
                Line("p99", [step.p99_ms for step in ordered], "one"),
                Line("objective", [limit.objective_ms] * len(ordered), "two"),
            ],
            logarithmic=True, along="calls/s",
        )  # fmt: skip
    heads = ("calls/s asked", "calls/s made", "p99, ms", "errors", "verdict")
    return f"<p><strong>{text}</strong></p>{chart}{table(heads, rows, 0)}"


def _texts(texts: Sequence[str]) -> str:
    return "".join(f"<pre>{escape(text)}</pre>" for text in texts)


class _Thinned:
    """Moments as a chart shows them: no more than ``_POINTS_MAX``."""

    def __init__(self, moments: Sequence[Moment]) -> None:
        each = max(1, -(-len(moments) // _POINTS_MAX))
        self._groups = [moments[at : at + each] for at in range(0, len(moments), each)]
        self.seconds = [group[-1].second for group in self._groups]

    def largest(self, value: Callable[[Moment], float]) -> list[float]:
        """A value of each moment, the largest of those that share a point."""
        return [max(map(value, group)) for group in self._groups]

    def rate(self, value: Callable[[Moment], float]) -> list[float]:
        """A count of each moment as a number a second."""
        before, rates = 0.0, []
        for group, second in zip(self._groups, self.seconds, strict=True):
            rates.append(sum(map(value, group)) / max(second - before, 1e-9))
            before = second
        return rates


def _over_time(outcome: Outcome) -> str:
    moments = _whole(outcome.moments)
    if len(moments) < 2:
        return "<p>The run was too short to show.</p>"
    thin = _Thinned(moments)
    struck = [kill.second for kill in outcome.kills]
    stores = list(dict.fromkeys(store for moment in moments for store in moment.stores))
    note = "; upright lines are killed workers" if struck else ""

    def line(name: str, value: Callable[[Moment], float], style: str) -> Line:
        return Line(name, thin.largest(value), style)

    return "".join(
        (
            charts.lines(
                f"Calls a second, by store{note}", "", thin.seconds,
                [
                    Line(store, thin.rate(lambda m, s=store: m.stores.get(s, 0)), style)  # type: ignore[misc]
                    for store, style in zip(stores, STYLES, strict=False)
                ],
                struck,
            ),
            charts.lines(
                "Latency from the moment a call was due, logarithmic", "ms", thin.seconds,
                [
                    line("median", lambda m: m.p50_ms, "one"),
                    line("99th percentile", lambda m: m.p99_ms, "two"),
                    line("slowest", lambda m: m.max_ms, "seven"),
                ],
                struck, logarithmic=True,
            ),
            charts.lines(
                "Queue: calls under way, and calls that are due and not made yet", "",
                thin.seconds,
                [
                    line("under way", lambda m: m.outstanding, "one"),
                    line("overdue", lambda m: m.waiting, "two"),
                ],
                struck, height=130,
            ),
            charts.lines(
                "By how much the latest client is behind", "s", thin.seconds,
                [line("late", lambda m: m.late_s, "two")],
                struck, height=110,
            ),
            charts.lines(
                "Errors and wrong reads in each second", "", thin.seconds,
                [
                    line("errors", lambda m: m.errors, "two"),
                    line("wrong reads", lambda m: m.wrong_reads, "four"),
                ],
                struck, height=110,
            ),
        )
    )  # fmt: skip


def _whole(moments: Sequence[Moment]) -> Sequence[Moment]:
    """Without a last one that is only a part of a second."""
    if len(moments) > 2 and moments[-1].second - moments[-2].second < 0.5:
        return moments[:-1]
    return moments


def _distributions(operations: Sequence[Operation]) -> str:
    stores = list(dict.fromkeys(one.store for one in operations if one.curve))
    if not stores:
        return "<p>No call was measured.</p>"
    return "".join(
        charts.percentiles(
            f"{store}: the share of calls that took at most so long",
            "ms",
            [
                (one.operation, one.curve, style)
                for one, style in zip(
                    [one for one in operations if one.store == store and one.curve],
                    STYLES, strict=False,
                )
            ],
        )
        for store in stores
    )  # fmt: skip


def _processes(moments: Sequence[Moment]) -> str:
    if len(moments) < 2:
        return "<p>The run was too short to show.</p>"
    thin = _Thinned(moments)
    names = list(dict.fromkeys(p.name for moment in moments for p in moment.processes))

    def of(moment: Moment, name: str, what: str) -> float:
        return sum(float(getattr(p, what)) for p in moment.processes if p.name == name)

    def chart(title: str, unit: str, what: str, scale: float) -> str:
        series = [
            Line(name, [value / scale for value in
                        thin.largest(lambda m, n=name: of(m, n, what))], style)  # type: ignore[misc]
            for name, style in zip(names, STYLES * 4, strict=False)
        ]  # fmt: skip
        return charts.lines(title, unit, thin.seconds, series, height=200)

    return "".join(
        (
            chart("CPU, as a share of one core", "%", "cpu", 0.01),
            chart("Memory of its own (without what is shared)", "MiB", "own_bytes", _MIB),
            chart("Open descriptors", "", "descriptors", 1),
        )
    )


def _disks(moments: Sequence[Moment]) -> str:
    if len(moments) < 2:
        return "<p>The run was too short to show.</p>"
    thin = _Thinned(moments)
    stores = list(dict.fromkeys(disk.store for moment in moments for disk in moment.disks))

    def of(moment: Moment, store: str, what: str) -> float:
        found = [getattr(disk, what) for disk in moment.disks if disk.store == store]
        return float((found[0] if found else 0) or 0) / _MIB

    return "".join(
        charts.lines(
            f"{store}: its files, and what of them counts", "MiB", thin.seconds,
            [
                Line("files", thin.largest(lambda m, s=store: of(m, s, "file_bytes")), "one"),  # type: ignore[misc]
                Line("counts", thin.largest(lambda m, s=store: of(m, s, "live_bytes")), "three"),  # type: ignore[misc]
            ],
            height=130,
        )
        for store in stores
    )  # fmt: skip


def _kills(outcome: Outcome) -> str:
    if not outcome.kills:
        return f"<p>None. Workers were started anew {outcome.restarts} times.</p>"
    times = [kill.recovery_ms for kill in outcome.kills]
    rows = []
    for store in dict.fromkeys(kill.store for kill in outcome.kills):
        its = sorted(kill.recovery_ms for kill in outcome.kills if kill.store == store)
        rows.append((escape(store), str(len(its)), _ms(its[len(its) // 2]), _ms(its[-1])))
    return (
        f"<p>{len(times)} workers were killed, and {outcome.restarts} started anew.</p>"
        + table(("store", "kills", "median, ms", "longest, ms"), rows, 1)
        + charts.histogram("From a kill to the successor's first answer", times, "ms")
    )


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
