"""Charts as inline SVG: lines over time, points, percentiles, a histogram; and bars as HTML.

Colours are those of the page, see ``page.py``. A chart is as wide as half a page, so that its
labels have the size of the text around it on a wide page (two in a row) and on a narrow one.
"""

import math
from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from holdfast.bench import axes
from holdfast.bench.axes import Axis, number

_WIDTH, _TOP, _BOTTOM = 560, 10, 26
_CHARACTER = 7.0
"""The width of one in a label, about."""
STYLES = ("one", "two", "three", "four", "five", "six", "seven", "eight")
"""Classes of the page, in the order in which series take them."""


class Line(NamedTuple):
    """A series in a chart; ``style`` is one of ``STYLES``; None: there was no value then."""

    name: str
    values: Sequence[float | None]
    style: str


class Mark(NamedTuple):
    """Something that happened."""

    second: float
    text: str


class Points(NamedTuple):
    """Points that belong together, (x, y) each."""

    name: str
    points: Sequence[tuple[float, float]]
    style: str


def lines(
    title: str, unit: str, seconds: Sequence[float], series: Sequence[Line],
    marks: Sequence[Mark] = (), *, height: int = 190, logarithmic: bool = False,
) -> str:  # fmt: skip
    """Series over the same seconds, with marks where something happened."""
    values = [value for line in series for value in line.values if value is not None]
    box = _Box(axes.time(seconds[-1]), _vertical(values, unit, logarithmic), height)
    parts = [*box.grid(), *box.hover(seconds, series, unit)]
    for mark in marks:
        x = box.x(mark.second)
        parts.append(f'<path class="mark" d="M{x:.1f} {_TOP}V{box.bottom}"/>'
                     f'<path class="over" d="M{x - 3:.1f} {_TOP}h6V{box.bottom}h-6z">'
                     f"<title>{escape(mark.text)}</title></path>")  # fmt: skip
    parts += [part for line in series for part in box.line(seconds, line.values, line.style)]
    return _figure(title, box, parts, [(line.name, line.style) for line in series])


def percentiles(title: str, unit: str, series: Sequence[Points], *, height: int = 230) -> str:
    """Distributions: (percentile, value) pairs. The vertical axis is logarithmic.

    The horizontal one is so in what is left above a percentile. 100, where nothing is left, is
    drawn where the other percentiles of its line end.
    """
    values = [value for line in series for _, value in line.points]
    drawn = [_ended(line) for line in series]
    steps = sorted({p for line in drawn for p, _ in line.points})
    box = _Box(axes.percentiles(steps[-1]), _vertical(values, unit, True), height)
    known = [dict(line.points) for line in drawn]
    at_steps = [
        Line(line.name, [its.get(step) for step in steps], line.style)
        for line, its in zip(drawn, known, strict=True)
    ]
    parts = [*box.grid(), *box.hover(steps, at_steps, unit, "{:.6g} %")]
    for line in drawn:
        parts += box.line([p for p, _ in line.points], [v for _, v in line.points], line.style)
    return _figure(title, box, parts, [(line.name, line.style) for line in series])


def _ended(line: Points) -> Points:
    """The largest value is that of the last percentile under 100."""
    last = max((p for p, _ in line.points if p < 100), default=0.0)
    return line._replace(points=[(min(p, last), value) for p, value in line.points])


def points(
    title: str, units: tuple[str, str], groups: Sequence[Points], level: tuple[str, float],
    *, height: int = 230,
) -> str:  # fmt: skip
    """Groups of points, (x, y) each, against a level. The vertical axis is logarithmic."""
    every = [point for group in groups for point in group.points]
    across = axes.linear(max(x for x, _ in every), units[0])
    box = _Box(across, _vertical([level[1], *(y for _, y in every)], units[1], True), height)
    y = box.y(level[1])
    parts = [*box.grid(), f'<path class="line eight" d="M{box.left} {y:.1f}H{box.right}"/>']
    for group in groups:
        parts += [
            f'<circle class="dot {group.style}" cx="{box.x(x):.1f}" cy="{box.y(y):.1f}" r="4">'
            f"<title>{escape(group.name)}: {number(x)} {escape(units[0])}, {number(y)} "
            f"{escape(units[1])}</title></circle>"
            for x, y in group.points
        ]
    legend = [*((group.name, group.style) for group in groups), (level[0], "eight")]
    return _figure(title, box, parts, legend)


def histogram(title: str, values: Sequence[float], unit: str, *, height: int = 190) -> str:
    """How often values fall in bins, each twice as wide as the one before over four bins."""
    exponents = [math.floor(4 * math.log2(max(value, 1e-3))) for value in values]
    first, last = min(exponents), max(exponents) + 1
    edges = [2 ** (exponent / 4) for exponent in range(first, last + 1)]
    counts = [exponents.count(exponent) for exponent in range(first, last)]
    room = max(1, math.ceil(len(edges) / 7))
    labels = tuple((edge, f"{number(edge)} {unit}") for edge in edges[::room])
    across = Axis(edges[0], edges[-1], labels, math.log10)
    box = _Box(across, axes.linear(max(counts), ""), height)
    parts = list(box.grid())
    for (low, high), count in zip(pairwise(edges), counts, strict=True):
        left, top = box.x(low), box.y(count)
        parts.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{top:.1f}" '
            f'width="{max(1, box.x(high) - left - 2):.1f}" height="{box.bottom - top:.1f}">'
            f"<title>{count} from {number(low)} to {number(high)} {escape(unit)}</title></rect>"
        )
    return _figure(title, box, parts, [])


def bars(title: str, rows: Sequence[tuple[str, int]]) -> str:
    """Counts by name, the length of a bar the logarithm of its count."""
    most = math.log1p(max(count for _, count in rows))
    parts = []
    for name, count in rows:
        share = 100 * math.log1p(count) / most if most else 0
        parts.append(
            f'<span>{escape(name)}</span><svg viewBox="0 0 100 10" preserveAspectRatio="none">'
            f'<rect class="bar" width="{share:.1f}" height="10"/></svg><span>{count:,}</span>'
        )
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="bars">{"".join(parts)}</div>'
        "</figure>"
    )


def _vertical(values: Sequence[float], unit: str, logarithmic: bool) -> Axis:
    above = [value for value in values if value > 0]
    if logarithmic and above:
        return axes.logarithmic(min(above), max(above), unit)
    return axes.linear(max(above, default=0.0), unit)


class _Box:
    """The area of a chart between its axes."""

    def __init__(self, across: Axis, up: Axis, height: int) -> None:
        self._across, self._up = across, up
        self.height = height
        below = [round(_CHARACTER * len(label) / 2) for _, label in across.ticks]
        beside = round(_CHARACTER * max(len(label) for _, label in up.ticks))
        self.left = max(12 + beside, 2 + below[0])
        self.right = _WIDTH - 2 - max(8, below[-1])
        self.bottom = height - _BOTTOM

    def x(self, value: float) -> float:
        """Where a value lies from left to right."""
        return self.left + self._across.share(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a value lies from top to bottom."""
        return self.bottom - self._up.share(value) * (self.bottom - _TOP)

    def grid(self) -> Iterator[str]:
        """Lines across with their values, and the labels below."""
        for value, label in self._up.ticks:
            y = self.y(value)
            yield (
                f'<path class="grid" d="M{self.left} {y:.1f}H{self.right}"/><text '
                f'x="{self.left - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>'
            )
        for value, label in self._across.ticks:
            yield (
                f'<text x="{self.x(value):.1f}" y="{self.height - 8}" text-anchor="middle">'
                f"{escape(label)}</text>"
            )

    def line(
        self, across: Sequence[float], values: Sequence[float | None], style: str
    ) -> Iterator[str]:
        """A line with gaps where there is no value; a dot where one stands alone."""
        run: list[str] = []
        for at, value in [*zip(across, values, strict=True), (0.0, None)]:
            if value is not None:
                run.append(f"{self.x(at):.1f},{self.y(value):.1f}")
                continue
            if len(run) == 1:
                x, y = run[0].split(",")
                yield f'<circle class="dot {style}" cx="{x}" cy="{y}" r="2"/>'
            elif run:
                yield f'<polyline class="line {style}" points="{" ".join(run)}"/>'
            run = []

    def hover(
        self, across: Sequence[float], series: Sequence[Line], unit: str, where: str = "{:,.0f} s"
    ) -> Iterator[str]:
        """For each place a strip that says what all series are there."""
        places = [self.x(at) for at in across]
        edges = [
            self.left,
            *((one + other) / 2 for one, other in pairwise(places)),
            self.right,
        ]
        for number_, at in enumerate(across):
            said = [
                f"{line.name} {number(value)} {unit}".rstrip()
                for line in series
                if (value := line.values[number_]) is not None
            ]
            left, right = edges[number_], edges[number_ + 1]
            yield (
                f'<path class="over" d="M{left:.1f} {_TOP}H{right:.1f}V{self.bottom}H{left:.1f}z">'
                f"<title>{escape(where.format(at))}: {escape(', '.join(said))}</title></path>"
            )


def _figure(title: str, box: _Box, parts: Sequence[str], legend: Sequence[tuple[str, str]]) -> str:
    keys = "".join(
        f'<span class="key"><i class="{style}"></i>{escape(name)}</span>' for name, style in legend
    )
    return (
        f"<figure><figcaption>{escape(title)} {keys}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {box.height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )
