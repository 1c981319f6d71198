"""A load test's report as one HTML page that needs no network."""

import statistics
from collections.abc import Sequence
from html import escape

from holdfast.bench import charts
from holdfast.bench.charts import STYLES, Points
from holdfast.bench.load.outcome import Check, Limit, Operation, Outcome
from holdfast.bench.load.page_over_time import sections_over_time
from holdfast.bench.page import document, figures, section, table

_LATENCIES = ("p50", "p90", "p99", "p99_9", "p99_99", "max")


def page(outcome: Outcome) -> str:
    """The whole page."""
    wrong = [*(lost.text() for lost in outcome.lost), *outcome.texts]
    sections = [
        _head(outcome),
        *([section("What went wrong", _texts(wrong))] if wrong else []),
        *([section("Highest rate", _limit(outcome.limit))] if outcome.limit is not None else []),
        section("Operations", _operations(outcome.operations)),
        section("Distribution of latency", _distributions(outcome.operations)),
        *sections_over_time(outcome),
        section("Workers killed", _kills(outcome)),
        section("Steadiness", _checks(outcome.checks)),
        section("Where", _machine(outcome)),
    ]
    return document(f"holdfast load, {outcome.settings.profile}", sections)


def _head(outcome: Outcome) -> str:
    settings = outcome.settings
    pace = "closed loop" if settings.rate is None else f"{settings.rate:g} calls/s"
    if outcome.limit is not None:
        pace = f"search for the highest rate, from {outcome.limit.steps[0].rate:g} calls/s on"
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
    if outcome.lost:
        text += (
            f" {len(outcome.lost)} of {settings.processes} processes of clients ended before their "
            "time."
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
            *(_told(one, one.latency_ms, name) for name in _LATENCIES),
            _told(one, one.service_ms, "p50"),
            _told(one, one.service_ms, "p99"),
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
        "from the moment it was made. Of fewer calls than a percentile needs, there is a dash.</p>"
    )
    return note + table(heads, rows, 1)


def _told(operation: Operation, times_ms: dict[str, float], name: str) -> str:
    return _ms(times_ms[name]) if operation.tells(name) else "-"


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
    }
    rows = [
        (
            escape(check.name),
            f'<span class="not-covered">open: {escape(check.unclear)}</span>'
            if check.held is None
            else words[check.held],
            escape(check.figure),
            escape(check.limit),
        )
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
