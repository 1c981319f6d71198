"""Latencies of load tests: counted, put together, and their quantiles."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.load import timings
from holdfast.bench.load.timings import Counted, Histogram, Tape, counted, quantile_ms
from holdfast.formats.errors import InvalidArgument

LATENCIES = st.lists(st.floats(1e-6, 1000.0), min_size=1, max_size=200)
_ERROR = 0.006
"""Three significant digits, twice rounded."""


def exact_ms(seconds: list[float], share: float) -> float:
    """What numpy says."""
    return 1e3 * float(np.quantile(seconds, share, method="inverted_cdf"))


@given(st.lists(LATENCIES, min_size=1, max_size=4), st.sampled_from([0.01, 0.5, 0.9, 0.99, 1.0]))
def test_quantiles_of_parts_are_those_of_the_whole(parts: list[list[float]], share: float) -> None:
    """The quantiles of several processes' counts together are what numpy says of all latencies."""
    everything = [latency for part in parts for latency in part]
    found = quantile_ms([counted(part) for part in parts], share)
    assert found == pytest.approx(exact_ms(everything, share), rel=_ERROR, abs=1e-3)


@given(LATENCIES, LATENCIES)
def test_histograms_merge(first: list[float], second: list[float]) -> None:
    """Two histograms merged are the histogram of all, whose percentiles are numpy's."""
    one, other, both = Histogram(), Histogram(), Histogram()
    one.add(counted(first))
    other.add(counted(second))
    both.add(counted(first))
    both.add(counted(second))
    one.merge(other)
    assert one.figures_ms() == both.figures_ms()
    assert one.count == len(first) + len(second)
    figures = one.figures_ms()
    assert figures["max"] == pytest.approx(1e3 * max(first + second), rel=_ERROR, abs=1e-3)
    assert figures["min"] == pytest.approx(1e3 * min(first + second), rel=_ERROR, abs=1e-3)
    wanted = exact_ms(first + second, 0.5)
    below = exact_ms(first + second, max(0.0, 0.5 - 1 / one.count))
    assert below * (1 - _ERROR) - 1e-3 <= figures["p50"] <= wanted * (1 + _ERROR) + 1e-3


def test_the_far_tail_is_found() -> None:
    """One slow call in ten thousand is the maximum and not the 99.9th percentile; two in ten
    thousand are the 99.99th."""
    histogram = Histogram()
    histogram.add(Counted([1000, 500_000], [9998, 2]))
    figures = histogram.figures_ms()
    assert figures["p99_9"] == pytest.approx(1.0, rel=_ERROR)
    assert figures["p99_99"] == pytest.approx(500.0, rel=_ERROR)
    curve = histogram.curve()
    assert [percentile for percentile, _ in curve] == sorted({p for p, _ in curve})
    assert [ms for _, ms in curve] == sorted(ms for _, ms in curve)
    assert curve[-1] == (100.0, figures["max"])


def test_nothing_measured_is_nought() -> None:
    """Without a call there are figures, all 0, and no curve."""
    assert set(Histogram().figures_ms().values()) == {0.0}
    assert Histogram().curve() == []
    assert quantile_ms([], 0.99) == quantile_ms([Counted([], [])], 0.5) == 0.0


def test_a_latency_beyond_the_histogram_is_its_highest() -> None:
    """A call of more than an hour is counted as one of an hour, not lost."""
    histogram = Histogram()
    histogram.add(counted([10_000.0]))
    assert histogram.count == 1
    assert histogram.figures_ms()["max"] == pytest.approx(3_600_000, rel=_ERROR)


def test_a_tape_gives_everything_once() -> None:
    """What was noted is given when it is asked for, and not a second time."""
    tape = Tape()
    tape.add(0.002, 0.001)
    tape.add(0.002, 0.0015)
    latency, service = tape.take()
    assert (latency.values, latency.counts) == ([2000], [2])
    assert (service.values, service.counts) == ([1000, 1500], [1, 1])
    assert [part.total for part in tape.take()] == [0, 0]


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where hdrhistogram is not installed the error says which extra brings it."""
    monkeypatch.setitem(sys.modules, "hdrh.histogram", None)
    with pytest.raises(InvalidArgument, match=r"holdfast\[load\]"):
        timings.Histogram()
