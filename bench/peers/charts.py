"""The figures as pictures: one SVG an area, the same bytes for the same figures."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure as Sheet
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from holdfast.bench.peers.contest import OURS, Comparison
from holdfast.bench.peers.curves import Curve
from holdfast.bench.peers.words import duration, percent

_OURS_COLOUR, _PEER_COLOUR, _LIMIT_COLOUR = "#0b6e4f", "#9aa5b1", "#b3261e"
_WIDTH_IN = 11.0
_BAR_IN, _PANEL_IN = 0.3, 1.15
_COLUMNS = 3
_SETTINGS = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and read aloud
    "svg.hashsalt": "holdfast",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_ROOM = 25.0  # to the right of the longest bar, for its label: a factor on a logarithmic axis


def draw_rows(path: str, title: str, rows: Sequence[Comparison]) -> None:
    """Bars of every row, the shortest on top, and its limit as a line."""
    with matplotlib.rc_context(_SETTINGS):
        heights = [_PANEL_IN + _BAR_IN * len(row.figures) for row in rows]
        sheet = Sheet(figsize=(_WIDTH_IN, sum(heights) + 0.6), layout="constrained")
        sheet.suptitle(f"{title}: time of one operation (less is better, logarithmic)")
        panels = sheet.subplots(len(rows), 1, squeeze=False, height_ratios=heights)[:, 0]
        for panel, row in zip(panels, rows, strict=True):
            _bars(panel, row)
        _save(sheet, path)


def _bars(panel: Any, row: Comparison) -> None:
    names = sorted(row.figures, key=lambda name: row.figures[name].median, reverse=True)
    medians = [row.figures[name].median for name in names]
    ends = [
        [m - min(row.figures[n].seconds) for n, m in zip(names, medians, strict=True)],
        [max(row.figures[n].seconds) - m for n, m in zip(names, medians, strict=True)],
    ]
    colours = [_OURS_COLOUR if name.startswith(OURS) else _PEER_COLOUR for name in names]
    panel.barh(names, medians, xerr=ends, color=colours, ecolor="#444444", height=0.7)
    limit = row.limit.median
    panel.axvline(limit, color=_LIMIT_COLOUR, linewidth=1.5, linestyle="--")
    panel.set_xscale("log")
    panel.xaxis.set_major_formatter(FuncFormatter(lambda at, _: duration(at)))
    panel.xaxis.set_minor_formatter(NullFormatter())
    shortest, longest = min([*medians, limit]), max([*medians, limit])
    panel.set_xlim(shortest / 3, longest * _ROOM)
    for place, name in enumerate(names):
        figure = row.figures[name]
        found = "" if figure.recall is None else f", recall {figure.recall:.3f}"
        text = f"  {duration(figure.median)}, {percent(row.share(name))} of the limit{found}"
        panel.text(
            max(figure.seconds), place, text, va="center", fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5},
        )  # fmt: skip
    panel.set_title(
        f"{row.work.what}\n{row.work.durability}; dashed: {row.work.limit}, {duration(limit)}",
        loc="left", fontsize=10,
    )  # fmt: skip
    panel.set_xlabel(f"time per {row.work.per}", fontsize=9)
    panel.margins(y=0.02)


def draw_curves(path: str, curves: Sequence[Curve]) -> None:
    """A panel for each curve, both axes logarithmic, with its slope."""
    with matplotlib.rc_context(_SETTINGS):
        lines = math.ceil(len(curves) / _COLUMNS)
        sheet = Sheet(figsize=(_WIDTH_IN + 1, 2.9 * lines + 0.6), layout="constrained")
        sheet.suptitle("time of one operation as things grow (both axes logarithmic)")
        panels = sheet.subplots(lines, _COLUMNS, squeeze=False).ravel()
        for panel in panels[len(curves) :]:
            panel.set_axis_off()
        for panel, curve in zip(panels, curves, strict=False):
            _line(panel, curve)
        _save(sheet, path)


def _line(panel: Any, curve: Curve) -> None:
    places = list(curve.points)
    medians = [figure.median for figure in curve.points.values()]
    panel.plot(places, medians, marker="o", color=_OURS_COLOUR)
    panel.fill_between(
        places,
        [min(figure.seconds) for figure in curve.points.values()],
        [max(figure.seconds) for figure in curve.points.values()],
        color=_OURS_COLOUR, alpha=0.2,
    )  # fmt: skip
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.set_ylim(min(medians) / 10, max(medians) * 10)
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set_xticks(places, [_count(at) for at in places], fontsize=8)
    panel.yaxis.set_major_formatter(FuncFormatter(lambda at, _: duration(at)))
    promise = "flat by design" if curve.flat else "grows by design"
    panel.set_title(f"{curve.what}\n{promise}; slope {curve.slope:+.2f}", fontsize=8.5, loc="left")
    panel.set_xlabel(curve.over, fontsize=9)


def _count(number: int) -> str:
    """A count on an axis, short."""
    for size, letter in ((1_000_000_000, "G"), (1_000_000, "M"), (1000, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return str(number)


def _save(sheet: Sheet, path: str) -> None:
    sheet.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    # Lines end where their text does.
    with open(path, encoding="utf-8") as file:
        lines = [line.rstrip() for line in file]
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
