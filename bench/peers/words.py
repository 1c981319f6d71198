"""Figures in words, and rows as tables in Markdown."""

from collections.abc import Mapping, Sequence

from holdfast.bench.peers.contest import OURS, Comparison, Figure
from holdfast.bench.peers.curves import Curve
from holdfast.bench.peers.limits import Speed
from holdfast.bench.report import figure

_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{figure(seconds / size)} {unit}"
    return f"{figure(seconds / 1e-9)} ns"


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{figure(100 * share)} %"


def _spread(found: Figure) -> str:
    return f"{100 * found.spread:.0f} %"


def rows_table(rows: Sequence[Comparison]) -> str:
    """The rows of an area: for each work its limit and everyone who took part, fastest first."""
    lines = ["| work | who | time | spread | of the limit | recall |", "|---|---|---|---|---|---|"]
    for row in rows:
        work = row.work
        first = f"**{work.what}**, per {work.per}; {work.durability}"
        lines.append(
            f"| {first} | *limit: {work.limit}* | {duration(row.limit.median)} "
            f"| {_spread(row.limit)} | | |"
        )
        for name in sorted(row.figures, key=lambda name: row.figures[name].median):
            found = row.figures[name]
            shown = f"**{name}**" if name.startswith(OURS) else name
            recall = "" if found.recall is None else f"{found.recall:.3f}"
            lines.append(
                f"| | {shown} | {duration(found.median)} | {_spread(found)} "
                f"| {percent(row.share(name))} | {recall} |"
            )
    return "\n".join(lines) + "\n"


def notes(rows: Sequence[Comparison], left_out: Mapping[str, str]) -> str:
    """What has to be said beside the table: notes, who is ahead where, who was left out."""
    lines = [f"- {row.work.what}: {row.note}." for row in rows if row.note]
    lines += [_who_is_ahead(row) for row in rows if row.ahead()]
    lines += [f"- {name} took no part: {why}." for name, why in left_out.items()]
    return "\n".join(lines) + "\n" if lines else ""


def _who_is_ahead(row: Comparison) -> str:
    own = row.ours()
    assert own is not None, "nobody is ahead of nothing"
    ours = row.figures[own].median
    others = (f"{name} {_times(ours / row.figures[name].median)}" for name in row.ahead())
    return f"- Ahead of {own} in {row.work.what} ({row.work.durability}): {', '.join(others)}."


def _times(factor: float) -> str:
    return f"{factor:,.1f} times" if factor < 10 else f"{factor:,.0f} times"


def curves_table(curves: Sequence[Curve], left_out: Sequence[str]) -> str:
    """Every curve from its first point to its last, with its slope; what was left out."""
    lines = [
        "| operation | over | first | last | slope | by design | holds |",
        "|---|---|---|---|---|---|---|",
    ]
    for curve in curves:
        ends = [f"{duration(found.median)} at {at:,}" for at, found in curve.points.items()]
        verdict = {True: "yes", False: "no", None: ""}[curve.holds]
        lines.append(
            f"| {curve.what} | {curve.over} | {ends[0]} | {ends[-1]} | {curve.slope:+.2f} "
            f"| {'flat' if curve.flat else 'grows'} | {verdict} |"
        )
    if left_out:
        lines += ["", *(f"- Left out: {what}." for what in left_out)]
    return "\n".join(lines) + "\n"


def speeds_table(speeds: Sequence[Speed]) -> str:
    """What the machine does."""
    lines = ["| what | speed |", "|---|---|"]
    lines += [f"| {speed.what} | {figure(speed.value)} {speed.unit} |" for speed in speeds]
    return "\n".join(lines) + "\n"


def machine_words(machine: Mapping[str, object]) -> str:
    """The machine's facts as one sentence and one list of versions."""
    versions = machine["versions"]
    assert isinstance(versions, dict)
    memory = machine["memory_bytes"]
    assert isinstance(memory, int)
    return (
        f"{machine['cpus']} cores of {machine['cpu'] or 'an unnamed processor'}, "
        f"{memory / 2**30:.0f} GiB, {machine['system']}, {machine['python']}, "
        f"{machine['file_system']}; load at the start {machine['load_at_start']}. "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ".\n"
    )
