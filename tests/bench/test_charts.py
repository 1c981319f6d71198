"""Charts of reports: axes with round ticks, labels that fit, colours that can be told apart."""

import itertools
import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.bench import axes, charts, page
from holdfast.bench.axes import Axis
from holdfast.bench.charts import STYLES, Line, Mark, Points
from tests.bench.pages import counted, read

WIDTH = 560
values = st.floats(1e-6, 1e12)


def labels(axis: Axis) -> list[str]:
    return [label for _, label in axis.ticks]


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        (axes.linear(0.0, "s"), ["0 s", "0.25 s", "0.5 s", "0.75 s", "1 s"]),
        (axes.linear(37.0, "MiB"), ["0 MiB", "10 MiB", "20 MiB", "30 MiB", "40 MiB"]),
        (axes.linear(100.0, "%"), ["0 %", "25 %", "50 %", "75 %", "100 %"]),
        (axes.linear(1.0, ""), ["0", "1"]),
        (axes.linear(7.0, ""), ["0", "2", "4", "6", "8"]),
        (axes.logarithmic(0.3, 40.0, "ms"), ["1 ms", "10 ms"]),
        (axes.logarithmic(2.0, 9.0, "ms"), ["2 ms", "5 ms", "10 ms"]),
        (axes.logarithmic(5.0, 5.0, "ms"), ["5 ms", "10 ms"]),
        (axes.time(60.0), [f"{s} s" for s in range(0, 61, 10)]),
        (axes.time(300.0), [f"{m} min" for m in range(6)]),
        (axes.time(86400.0), ["0 h", "4 h", "8 h", "12 h", "16 h", "20 h", "24 h"]),
        (axes.percentiles(99.95), ["0 %", "50 %", "90 %", "99 %", "99.9 %"]),
    ],
)
def test_ticks_are_round(axis: Axis, said: list[str]) -> None:
    """Axes are labelled at round values with their unit, counts at whole numbers only."""
    assert labels(axis) == said


def check(axis: Axis, within: Sequence[float]) -> None:
    assert all(axis.low * (1 - 1e-8) <= value <= axis.high * (1 + 1e-8) for value in within)
    assert len(axis.ticks) >= 2 or axis.scaled is not float
    shares = [axis.share(value) for value, _ in axis.ticks]
    assert shares == sorted(set(shares))
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert len(set(labels(axis))) == len(axis.ticks)


@given(values)
def test_a_linear_axis_holds_its_values(highest: float) -> None:
    """Whatever the highest value, it is on the axis, of which at most six ticks are labelled."""
    for unit in ("", "ms"):
        axis = axes.linear(highest, unit)
        check(axis, [0.0, highest])
        assert len(axis.ticks) <= 6


@given(values, values)
def test_a_logarithmic_axis_holds_its_values(one: float, other: float) -> None:
    """Whatever the values, they are on the axis, of which one to seven ticks are labelled."""
    axis = axes.logarithmic(min(one, other), max(one, other), "ms")
    check(axis, [one, other])
    assert 1 <= len(axis.ticks) <= 7


@given(st.floats(0.01, 1e6))
def test_an_axis_of_time_has_few_ticks(last: float) -> None:
    """A run of any length has at most thirteen ticks up to a week and a half, and begins at 0."""
    axis = axes.time(last)
    assert axis.ticks[0][0] == 0.0
    assert len(axis.ticks) <= 13


@pytest.mark.parametrize(
    ("value", "said"),
    [(0, "0"), (0.00123, "0.00123"), (1.5, "1.5"), (10, "10"), (99.96, "100"), (12345.6, "12,346")],
)
def test_numbers_have_three_digits(value: float, said: str) -> None:
    """Three significant digits, thousands separated, no exponent, no zeros at the end."""
    assert axes.number(value) == said


def many() -> dict[str, str]:
    """A chart of each sort, with long labels."""
    seconds = [float(n) for n in range(1, 40)]
    big = [1e9 / (n + 1) for n in range(39)]
    curve = [(100 * (1 - 0.5**n), 1.5**n) for n in range(20)] + [(100.0, 9e5)]
    return {
        "lines": charts.lines("t", "MiB", seconds, [Line("a", big, "one")]),
        "log": charts.lines("t", "ms", seconds, [Line("a", big, "one")], logarithmic=True),
        "percentiles": charts.percentiles("t", "ms", [Points("a", curve, "one")]),
        "points": charts.points(
            "t", ("calls/s", "ms"), [Points("a", [(15e5, 2.0), (3.0, 1e6)], "one")], ("o", 50.0)
        ),
        "histogram": charts.histogram("t", [26.9, 45.3, 1e5], "ms"),
    }


@pytest.mark.parametrize("sort", sorted(many()))
def test_labels_fit(sort: str) -> None:
    """No label is cut off by an edge of its chart, and none below overlaps the next."""
    below: list[tuple[float, float]] = []
    for x, y, anchor, text in re.findall(
        r'<text\s+x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)<', many()[sort]
    ):
        wide = 6.5 * len(text)
        left = float(x) - (wide if anchor == "end" else wide / 2)
        right = float(x) + (0 if anchor == "end" else wide / 2)
        assert 0 <= left <= right <= WIDTH, text
        assert float(y) - 10 >= 0
        if anchor == "middle":
            below.append((left, right))
    assert len(below) >= 2
    assert all(one[1] < other[0] for one, other in itertools.pairwise(sorted(below)))


def test_lines_have_gaps_and_dots() -> None:
    """Where a series has no value its line is broken, and a value alone is a dot."""
    drawn = charts.lines(
        "t", "s", [1.0, 2.0, 3.0, 4.0], [Line("a", [1.0, None, 2.0, 3.0], "three")]
    )
    assert drawn.count("<polyline") == 1
    assert drawn.count("<circle") == 1
    assert "<title>2 s: </title>" in drawn
    assert "<title>4 s: a 3 s</title>" in drawn


def test_marks_say_what_they_are() -> None:
    """A mark lies at its second and tells its text when pointed at, markup in it being text."""
    drawn = charts.lines("t", "s", [0.0, 10.0], [Line("a", [1.0, 1.0], "one")], [Mark(5.0, "<x>")])
    (at,) = re.findall(r'class="mark" d="M([\d.]+) ', drawn)
    edges = [float(x) for x in re.findall(r"([\d.]+),", drawn.partition("polyline")[2])]
    assert float(at) == pytest.approx(sum(edges) / 2, abs=0.1)
    assert "<title>&lt;x&gt;</title>" in drawn


def test_a_distribution_ends_where_its_calls_end() -> None:
    """The maximum of few calls is drawn at their last percentile, not at that of many calls."""
    few = Points("few", [(0.0, 1.0), (50.0, 2.0), (100.0, 9.0)], "one")
    lots = Points("lots", [(0.0, 1.0), (99.0, 2.0), (100.0, 3.0)], "two")
    drawn = charts.percentiles("t", "ms", [few, lots])
    ends = [
        float(line.split()[-1].split(",")[0]) for line in re.findall(r'points="([^"]+)"', drawn)
    ]
    assert ends[0] < ends[1]
    assert "few 9 ms, lots" not in drawn
    assert "<title>50 %: few 9 ms</title>" in drawn


def test_bars_and_bins_count_everything() -> None:
    """A histogram's bins add up to its values; each bar has its name and its count."""
    drawn = charts.histogram("t", [1.0, 1.1, 7.0, 7.1, 900.0], "ms")
    assert sum(int(n) for n in re.findall(r"<title>(\d+) from", drawn)) == 5
    bars = read(charts.bars("t", [("<a>", 1000), ("z", 0)]))
    assert "<a>1,000z0" in bars.text
    assert counted(bars, "rect") == 2


def palette(theme: int) -> dict[str, NDArray[np.float64]]:
    """The colours of the page's variables: 0 light, 1 dark; linear RGB."""
    style = page.document("t", []).split(":root{")[1 + theme].split("}")[0]
    found = {}
    for name, digits in re.findall(r"--(\w+):#(\w{6}|\w{3})\b", style):
        full = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
        srgb = np.array([int(full[at : at + 2], 16) / 255 for at in (0, 2, 4)])
        found[name] = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return found


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* of linear RGB."""
    matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.asarray(matrix) @ rgb.clip(0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def luminance(rgb: NDArray[np.float64]) -> float:
    return float(np.array([0.2126, 0.7152, 0.0722]) @ rgb)


SIGHTS = {
    "full": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
}  # fmt: skip
"""Of linear RGB, by Machado, Oliveira and Fernandes (2009)."""


@pytest.mark.parametrize("theme", [0, 1])
@pytest.mark.parametrize("sight", sorted(SIGHTS))
def test_colours_can_be_told_apart(theme: int, sight: str) -> None:
    """The five colours of whole lines differ for people who see red and green alike, as do the
    three of dashed lines, and every colour stands out from the ground by 3 to 1."""
    colours = palette(theme)
    ground = luminance(colours["ground"]) + 0.05
    for style in STYLES:
        contrast = (luminance(colours[style]) + 0.05) / ground
        assert max(contrast, 1 / contrast) >= 3, style
    seen = {style: lab(SIGHTS[sight] @ colours[style]) for style in STYLES}
    for group in (STYLES[:5], STYLES[5:]):
        for one, other in itertools.combinations(group, 2):
            assert np.linalg.norm(seen[one] - seen[other]) >= 20, (one, other)
