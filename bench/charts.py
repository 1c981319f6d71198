"""Charts as inline SVG: lines over time, percentiles, bars, a histogram.

Colours are those of the page, see ``page.py``.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 64, 12, 10, 26
_TICKS = 4
STYLES = ("one", "two", "three", "four", "five", "six", "seven", "eight")
"""Classes of the page, in the order in which series take them."""
_PERCENTILES = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999)


class Line(NamedTuple):
    """A series in a chart; ``style`` is one of ``STYLES``."""

    name: str
    values: Sequence[float]
    style: str


def lines(
    title: str, unit: str, seconds: Sequence[float], series: Sequence[Line],
    marks: Sequence[float] = (), *, height: int = 170, logarithmic: bool = False,
    along: str = "s",
) -> str:  # fmt: skip
    """Series over the same seconds (or what ``along`` names), with marks at some of them."""
    first, last = seconds[0], max(seconds[-1], seconds[0] + 1e-9)
    highest = max([value for line in series for value in line.values] + [1e-9])
    highest = highest if logarithmic else _round(highest)
    lowest = min([value for line in series for value in line.values if value > 0] + [highest])
    scale = _Scale(lowest, highest, height, logarithmic)

    def x(second: float) -> float:
        return _LEFT + (second - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    parts = [scale.grid(unit)]
    bottom = height - _BOTTOM
    parts += [
        f'<line class="mark" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{_TOP}" y2="{bottom}"/>'
        for at in marks
    ]
    for line in series:
        points = " ".join(
            f"{x(second):.1f},{scale.y(value):.1f}"
            for second, value in zip(seconds, line.values, strict=True)
        )
        parts.append(f'<polyline class="line {line.style}" points="{points}"/>')
    for tick in range(_TICKS + 1):
        second = first + (last - first) * tick / _TICKS
        anchor = "end" if tick == _TICKS else "middle"
        parts.append(f'<text x="{x(second):.1f}" y="{height - 8}" text-anchor="{anchor}">'
                     f"{number(second)} {escape(along)}</text>")  # fmt: skip
    return _figure(title, height, parts, [(line.name, line.style) for line in series])


def percentiles(
    title: str, unit: str, series: Sequence[tuple[str, Sequence[tuple[float, float]], str]],
    *, height: int = 240,
) -> str:  # fmt: skip
    """Distributions: (name, (percentile, value) pairs, style). Both axes are logarithmic.

    The horizontal one in what is left above a percentile, so that 90, 99 and 99.9 are equally far.
    """
    values = [value for _, points, _ in series for _, value in points if value > 0] or [1.0]
    scale = _Scale(min(values), max(values), height, True)
    rarest = max(_rarity(p) for _, points, _ in series for p, _ in points if p < 100)

    def x(percentile: float) -> float:
        share = 1.0 if percentile >= 100 else _rarity(percentile) / max(rarest, 1e-9)
        return _LEFT + min(1.0, share) * (_WIDTH - _LEFT - _RIGHT - 8)

    parts = [scale.grid(unit)]
    for name, points, style in series:
        path = " ".join(f"{x(p):.1f},{scale.y(value):.1f}" for p, value in points)
        parts.append(f'<polyline class="line {style}" points="{path}"><title>{escape(name)}</title>'
                     "</polyline>")  # fmt: skip
    parts += [
        f'<text x="{x(percentile):.1f}" y="{height - 8}" text-anchor="middle">'
        f"{percentile:g} %</text>"
        for percentile in _PERCENTILES
        if _rarity(percentile) <= rarest
    ]
    return _figure(title, height, parts, [(name, style) for name, _, style in series])


def _rarity(percentile: float) -> float:
    """Decimal digits of what is left above a percentile."""
    return -math.log10(1 - percentile / 100)


def histogram(title: str, values: Sequence[float], unit: str, *, height: int = 190) -> str:
    """How often values fall in bins, each twice as wide as the one before over four bins."""
    exponents = [math.floor(4 * math.log2(max(value, 1e-3))) for value in values]
    first, last = min(exponents), max(exponents)
    counts = [exponents.count(exponent) for exponent in range(first, last + 1)]
    scale = _Scale(0, _round(max(4, *counts)), height, False)
    wide = (_WIDTH - _LEFT - _RIGHT) / len(counts)
    parts = [scale.grid("")]
    every = max(1, -(-len(counts) // 8))
    for place, count in enumerate(counts):
        left, top = _LEFT + place * wide, scale.y(count)
        low, high = (2 ** ((first + place + more) / 4) for more in (0, 1))
        parts.append(
            f'<rect class="bar" x="{left + 1:.1f}" y="{top:.1f}" width="{max(1, wide - 2):.1f}" '
            f'height="{height - _BOTTOM - top:.1f}"><title>{count} from {number(low)} to '
            f"{number(high)} {escape(unit)}</title></rect>"
        )
        if place % every == 0:
            parts.append(f'<text x="{left:.1f}" y="{height - 8}" text-anchor="middle">'
                         f"{number(low)} {escape(unit)}</text>")  # fmt: skip
    return _figure(title, height, parts, [])


def bars(title: str, rows: Sequence[tuple[str, int]]) -> str:
    """Counts by name, the length of a bar the logarithm of its count."""
    most = math.log1p(max(count for _, count in rows))
    row_height, names_wide, counts_wide = 20, 250, 80
    height = row_height * len(rows) + 8
    room = _WIDTH - names_wide - counts_wide
    parts = []
    for place, (name, count) in enumerate(rows):
        top = 4 + place * row_height
        wide = room * math.log1p(count) / most if most else 0
        parts.append(
            f'<text x="{names_wide - 8}" y="{top + 14}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="bar" x="{names_wide}" y="{top + 3}" width="{wide:.1f}" height="14"/>'
            f'<text x="{names_wide + wide + 6:.1f}" y="{top + 14}">{count:,}</text>'
        )
    return _figure(title, height, parts, [])


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}".rstrip("0").rstrip(".")


def _round(value: float) -> float:
    """The next number above whose quarters are short."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 4, 6, 8, 10) if power * step >= value)


class _Scale:
    """The vertical axis."""

    def __init__(self, lowest: float, highest: float, height: int, logarithmic: bool) -> None:
        self._bottom = height - _BOTTOM
        self._log = logarithmic and lowest < highest
        self._low = math.log10(lowest) if self._log else 0.0
        self._high = math.log10(highest) if self._log else highest

    def y(self, value: float) -> float:
        """Where a value lies."""
        if self._log:
            value = math.log10(value) if value > 0 else self._low
        share = (value - self._low) / (self._high - self._low) if self._high > self._low else 0
        return self._bottom - max(0.0, share) * (self._bottom - _TOP)

    def grid(self, unit: str) -> str:
        """Lines across, with their values."""
        parts = []
        for tick in range(_TICKS + 1):
            value = self._low + (self._high - self._low) * tick / _TICKS
            shown = 10**value if self._log else value
            y = self._bottom - (self._bottom - _TOP) * tick / _TICKS
            parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" '
                f'y2="{y:.1f}"/><text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{number(shown)} {escape(unit)}</text>"
            )
        return "".join(parts)


def _figure(
    title: str, height: int, parts: Sequence[str], legend: Sequence[tuple[str, str]]
) -> str:
    names = "".join(
        f'<span class="key {style}">{escape(name)}</span>' for name, style in legend
    )  # fmt: skip
    return (
        f"<figure><figcaption>{escape(title)} {names}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg></figure>"
    )
