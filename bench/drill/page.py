"""The report as one HTML page: no script, no font, no picture from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape

from holdfast.bench import charts
from holdfast.bench.charts import Line, Mark
from holdfast.bench.drill import report
from holdfast.bench.drill.plan import STORES
from holdfast.bench.drill.run import Outcome
from holdfast.bench.drill.tally import Counts, Moment
from holdfast.bench.drill.verdicts import Judged, judge
from holdfast.bench.page import document, figures, section, table

_SHOWN_MAX = 4000
_COLUMNS = {
    "crash_states": "crash states",
    "kill_points": "kill points",
    "bit_flips": "bits flipped",
    "torn": "torn",
    "exchanged": "exchanged",
    "errors_injected": "errors",
    "process_faults": "processes",
    "clock_jumps": "clock jumps",
    "operations": "operations",
}


def page(outcome: Outcome) -> str:
    """The whole page."""
    judged = judge(outcome)
    sections = [
        _head(outcome),
        section("Promises", _promises(judged)),
        *([section("What was broken", _failures(judged))] if not outcome.ok else []),
        section("What was tried, by store", _stores(outcome)),
        section("What was tried, by fault", _faults(outcome.tally.faults)),
        section("Soak", _soak(outcome.tally.timeline)),
        section("Recovery", _recovery(outcome.tally.recovery_ms)),
        section("Time spent", _parts(outcome)),
        section("Not covered", _not_covered(outcome.tally.not_covered)),
    ]
    return document(f"holdfast drill, seed {outcome.plan.seed}", sections)


def _head(outcome: Outcome) -> str:
    tally, plan = outcome.tally, outcome.plan
    held = outcome.ok
    tried = sum(tally.faults.values())
    text = (
        f"{'Every promise that was tried held' if held else 'A promise was broken'}: "
        f"{tried:,} faults, {tally.lost_acknowledged} acknowledged writes lost, "
        f"{tally.wrong_answers} wrong answers, {tally.leaked_processes} processes left behind."
    )
    about = [
        f"seed {plan.seed}",
        f"{outcome.seconds:,.0f} seconds" + (", ended by Ctrl-C" if outcome.interrupted else ""),
        "all short sequences" if plan.exhaustive else "as much as there was time for",
        f"stores: {', '.join(plan.stores)}",
        *([f"on a copy of {plan.source}"] if plan.source is not None else []),
        report.machine(),
    ]
    return (
        f'<h1>holdfast drill</h1><p class="about">{escape(" · ".join(about))}</p>'
        f'<p class="verdict {"held" if held else "broken"}">{escape(text)}</p>'
    )


def _promises(judged: Sequence[Judged]) -> str:
    rows = [
        (
            f'<strong class="{one.verdict.replace(" ", "-")}">{one.verdict}</strong>',
            escape(one.promise),
            f"{one.tried:,}",
            str(one.broken),
        )
        for one in judged
    ]
    return table(("verdict", "promise", "faults tried", "failures"), rows, 2)


def _failures(judged: Sequence[Judged]) -> str:
    parts = []
    for failure in [failure for one in judged for failure in one.failures]:
        facts = {
            "store": failure.store,
            "fault": failure.fault,
            "seed": str(failure.seed),
            "operations": ", ".join(failure.operations),
            "files": failure.state or "",
        }
        listed = "".join(
            f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items() if text
        )
        again = f"<pre>{escape(failure.replay)}</pre>" if failure.replay else ""
        found = "\n".join([failure.detail[-_SHOWN_MAX:], *failure.history])
        parts.append(
            f"<article><strong>{escape(failure.promise)}</strong><dl>{listed}</dl>"
            f"<pre>{escape(found)}</pre>{again}</article>"
        )
    return "".join(parts) or "<p>Counted, but none was kept.</p>"


def _stores(outcome: Outcome) -> str:
    rows = []
    for kind in STORES:
        counts = outcome.tally.stores.get(kind, Counts())
        rows.append((kind, *(f"{getattr(counts, name):,}" for name in _COLUMNS)))
    return table(("store", *_COLUMNS.values()), rows, 1)


def _faults(faults: Mapping[str, int]) -> str:
    if not faults:
        return "<p>Nothing was tried.</p>"
    rows = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    return charts.bars("How often each fault was tried; lengths are logarithmic", rows)


def _soak(timeline: Sequence[Moment]) -> str:
    if len(timeline) < 2:
        return "<p>There was no soak, or it was too short to show.</p>"
    seconds = [moment.second for moment in timeline]
    struck = [Mark(m.second, f"{m.faults} faults") for m in timeline if m.faults]
    return figures(
        [
            charts.lines(
                "Calls a second; upright lines are faults", "/s", seconds,
                [
                    Line("answered", [m.calls - m.failed for m in timeline], "one"),
                    Line("failed", [m.failed for m in timeline], "two"),
                ],
                struck,
            ),
            charts.lines(
                "Latency from the moment a call was due, logarithmic", "ms", seconds,
                [
                    Line("median", [m.p50_ms for m in timeline], "one"),
                    Line("99th percentile", [m.p99_ms for m in timeline], "two"),
                ],
                struck, logarithmic=True,
            ),
            charts.lines(
                "Workers started anew in each interval", "", seconds,
                [Line("restarts", [m.restarts for m in timeline], "three")], struck,
            ),
            charts.lines(
                "Memory of the engines' processes, and their files", "MiB", seconds,
                [
                    Line("memory", [m.memory_mib for m in timeline], "one"),
                    Line("disk", [m.disk_mib for m in timeline], "two"),
                ],
                struck,
            ),
            charts.lines(
                "Open descriptors", "", seconds,
                [Line("descriptors", [m.descriptors for m in timeline], "three")], struck,
            ),
        ]
    )  # fmt: skip


def _recovery(times_ms: Sequence[float]) -> str:
    if not times_ms:
        return "<p>No process was killed, or none was waited for.</p>"
    found = report.recovery(times_ms)
    text = (
        f"From a death to the successor's first answer: {found['p50']:.1f} ms in the median, "
        f"{found['p99']:.1f} ms at the 99th percentile, {found['max']:.1f} ms at most, "
        f"of {found['count']:,}."
    )
    chart = charts.histogram("How many took how long", times_ms, "ms")
    return f"<p>{text}</p>" + figures([chart])


def _parts(outcome: Outcome) -> str:
    rows = [
        (escape(part.name), f"{part.seconds:,.1f} s", f"{part.tried:,}",
         f"{part.tried / part.seconds:,.0f}" if part.seconds else "")
        for part in outcome.parts
    ]  # fmt: skip
    return table(("drill", "time", "faults tried", "a second"), rows, 1)


def _not_covered(texts: Sequence[str]) -> str:
    if not texts:
        return "<p>Nothing that drills know of.</p>"
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
