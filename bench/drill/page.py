"""The report as one HTML page: no script, no font, no picture from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape

from holdfast.bench.drill import charts, report
from holdfast.bench.drill.plan import STORES
from holdfast.bench.drill.run import Outcome
from holdfast.bench.drill.tally import Counts, Moment
from holdfast.bench.drill.verdicts import Judged, judge

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
_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--soft:#f3f5f7;--text:#1b2127;--faint:#5d6875;
--edge:#d5dbe1;--one:#1f6feb;--two:#c2571a;--three:#2f855a;--good:#1a7f42;--bad:#c62828;
--none:#8a6d00;--mark:#c6282844}
@media(prefers-color-scheme:dark){:root{--ground:#14181d;--soft:#1d232a;--text:#e4e9ee;
--faint:#9aa7b4;--edge:#333c46;--one:#6cb0ff;--two:#f0a35e;--three:#6fcf97;--good:#5fd38a;
--bad:#ff7b72;--none:#e3c04f;--mark:#ff7b7255}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--text);font:16px/1.5 system-ui,sans-serif}
main{max-width:66rem;margin:0 auto;padding:2rem 1.25rem 4rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}
.about{color:var(--faint);margin:.3rem 0 1.2rem}
.verdict{font-size:1.15rem;font-weight:600;padding:.8rem 1rem;border-left:.4rem solid;
background:var(--soft)}
.held{color:var(--good)}.broken{color:var(--bad)}.not-covered{color:var(--none)}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;padding:.35rem .5rem;border-bottom:1px solid var(--edge);vertical-align:top}
th{color:var(--faint);font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.v{font-weight:600;white-space:nowrap}
figure{margin:1rem 0}figcaption{font-size:.92rem;color:var(--faint)}
svg{width:100%;height:auto;display:block}
svg text{font:11px system-ui,sans-serif;fill:var(--faint)}
.grid{stroke:var(--edge);stroke-width:1}.mark{stroke:var(--mark);stroke-width:2}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.one{stroke:var(--one);color:var(--one)}.two{stroke:var(--two);color:var(--two)}
.three{stroke:var(--three);color:var(--three)}.bar{fill:var(--one)}
.key{margin-left:.8rem;font-weight:600}
article{border:1px solid var(--edge);border-left:.4rem solid var(--bad);padding:.6rem 1rem;
margin:.8rem 0}
pre{background:var(--soft);padding:.7rem;overflow-x:auto;white-space:pre-wrap;
overflow-wrap:anywhere;font-size:.85rem;margin:.4rem 0}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem;margin:.4rem 0}
dt{color:var(--faint)}dd{margin:0;overflow-wrap:anywhere}
li{margin:.2rem 0}
"""


def page(outcome: Outcome) -> str:
    """The whole page."""
    judged = judge(outcome)
    sections = [
        _head(outcome),
        _section("Promises", _promises(judged)),
        *([_section("What was broken", _failures(judged))] if not outcome.ok else []),
        _section("What was tried, by store", _stores(outcome)),
        _section("What was tried, by fault", _faults(outcome.tally.faults)),
        _section("Soak", _soak(outcome.tally.timeline)),
        _section("Recovery", _recovery(outcome.tally.recovery_ms)),
        _section("Time spent", _parts(outcome)),
        _section("Not covered", _not_covered(outcome.tally.not_covered)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>holdfast drill, seed {outcome.plan.seed}</title><style>{_STYLE}</style></head>"
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


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


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int) -> str:
    """A table of cells that are HTML already; columns from some number on hold numbers."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if place >= numbers_from else ''}>{cell}</{tag}>"
            for place, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{cells("th", heads)}</tr>{body}</table></div>'


def _promises(judged: Sequence[Judged]) -> str:
    rows = [
        (
            f'<strong class="{one.verdict.replace(" ", "-")}">{one.verdict}</strong>',
            escape(one.promise),
            f"{one.tried:,}",
            str(len(one.failures)),
        )
        for one in judged
    ]
    return _table(("verdict", "promise", "faults tried", "failures"), rows, 2)


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
    return _table(("store", *_COLUMNS.values()), rows, 1)


def _faults(faults: Mapping[str, int]) -> str:
    if not faults:
        return "<p>Nothing was tried.</p>"
    rows = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    return charts.bars("How often each fault was tried; lengths are logarithmic", rows)


def _soak(timeline: Sequence[Moment]) -> str:
    if len(timeline) < 2:
        return "<p>There was no soak, or it was too short to show.</p>"
    seconds = [moment.second for moment in timeline]
    struck = [moment.second for moment in timeline if moment.faults]

    def line(name: str, values: Sequence[float], style: str) -> charts.Line:
        return charts.Line(name, values, style)

    return "".join(
        (
            charts.lines(
                "Calls a second; upright lines are faults", "", seconds,
                [
                    line("answered", [m.calls - m.failed for m in timeline], "one"),
                    line("failed", [m.failed for m in timeline], "two"),
                ],
                struck,
            ),
            charts.lines(
                "Latency from the moment a call was due, logarithmic", "ms", seconds,
                [
                    line("median", [m.p50_ms for m in timeline], "one"),
                    line("99th percentile", [m.p99_ms for m in timeline], "two"),
                ],
                struck, logarithmic=True,
            ),
            charts.lines(
                "Restarts in each interval", "", seconds,
                [line("workers started anew", [m.restarts for m in timeline], "three")],
                struck, height=110,
            ),
            charts.lines(
                "Memory of the engines' processes, and their files", "MiB", seconds,
                [
                    line("memory", [m.memory_mib for m in timeline], "one"),
                    line("disk", [m.disk_mib for m in timeline], "two"),
                ],
                struck,
            ),
            charts.lines(
                "Open descriptors", "", seconds,
                [line("descriptors", [m.descriptors for m in timeline], "three")],
                struck, height=110,
            ),
        )
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
    return f"<p>{text}</p>" + charts.histogram("How many took how long", times_ms, "ms")


def _parts(outcome: Outcome) -> str:
    rows = [
        (escape(part.name), f"{part.seconds:,.1f} s", f"{part.tried:,}",
         f"{part.tried / part.seconds:,.0f}" if part.seconds else "")
        for part in outcome.parts
    ]  # fmt: skip
    return _table(("drill", "time", "faults tried", "a second"), rows, 1)


def _not_covered(texts: Sequence[str]) -> str:
    if not texts:
        return "<p>Nothing that drills know of.</p>"
    return f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ul>"
