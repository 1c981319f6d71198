"""Latencies counted: in a member process by value, in all of them by histograms.

A member sends the latencies of an interval as values in whole microseconds, to three significant
digits, and how often each came; the histograms (Gil Tene's HdrHistogram) keep three as well, from
1 us to an hour.
"""

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from holdfast.bench.load.outcome import PERCENTILES
from holdfast.formats.errors import InvalidArgument

HIGHEST_US = 3_600_000_000
DIGITS = 3


class Counted(msgspec.Struct, frozen=True):
    """Values in microseconds, ascending, and how often each came."""

    values: list[int]
    counts: list[int]

    @property
    def total(self) -> int:
        """How many there are."""
        return sum(self.counts)


def counted(seconds: Sequence[float]) -> Counted:
    """Latencies, to three significant digits."""
    if not seconds:
        return Counted([], [])
    us = np.maximum(1.0, np.asarray(seconds) * 1e6)
    step = 10.0 ** np.maximum(0, np.floor(np.log10(us)) - (DIGITS - 1))
    values, counts = np.unique((np.rint(us / step) * step).astype(np.int64), return_counts=True)
    return Counted(values.tolist(), counts.tolist())


def quantile_ms(parts: Sequence[Counted], share: float) -> float:
    """The latency, in milliseconds, that this share of calls was within; 0 if there were none."""
    values, counts = merged(parts)
    if not len(values):
        return 0.0
    rank = max(1, int(np.ceil(share * counts.sum())))
    return float(values[np.searchsorted(np.cumsum(counts), rank)]) / 1e3


def merged(parts: Sequence[Counted]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All values of several, ascending, and how often each came."""
    values = np.concatenate([np.zeros(0, np.int64), *(np.array(p.values, np.int64) for p in parts)])
    counts = np.concatenate([np.zeros(0, np.int64), *(np.array(p.counts, np.int64) for p in parts)])
    order = np.argsort(values, kind="stable")
    return values[order], counts[order]


@dataclass(frozen=True, slots=True)
class Recent:
    """One operation in a moment, as it is shown while a test runs."""

    label: str
    calls: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Tape:
    """What the clients of a process measured since it was asked last. Safe for many threads."""

    def __init__(self) -> None:
        self._timed: deque[tuple[float, float | None]] = deque()

    def add(self, latency_s: float, service_s: float | None) -> None:
        """Note one call; one that was never made took no service time."""
        self._timed.append((latency_s, service_s))

    def take(self) -> tuple[Counted, Counted]:
        """Latencies and service times since the last call."""
        pairs = [self._timed.popleft() for _ in range(len(self._timed))]
        services = [pair[1] for pair in pairs if pair[1] is not None]
        return counted([pair[0] for pair in pairs]), counted(services)


class _Hdr(Protocol):
    """What is used of a histogram of the package ``hdrhistogram``."""

    def record_value(self, value: int, count: int) -> bool: ...
    def add(self, other: object) -> None: ...
    def get_value_at_percentile(self, percentile: float) -> int: ...
    def get_total_count(self) -> int: ...
    def get_min_value(self) -> int: ...
    def get_max_value(self) -> int: ...


class Histogram:
    """All latencies of an operation."""

    def __init__(self) -> None:
        self._hdr = _new_histogram()
        self._lock = threading.Lock()

    def add(self, part: Counted) -> None:
        """Count these as well."""
        with self._lock:
            for value, count in zip(part.values, part.counts, strict=True):
                self._hdr.record_value(min(value, HIGHEST_US), count)

    def merge(self, other: "Histogram") -> None:
        """Count all of another's as well."""
        with self._lock:
            self._hdr.add(other._hdr)

    @property
    def count(self) -> int:
        """How many were counted."""
        return self._hdr.get_total_count()

    def percentile_ms(self, percentile: float) -> float:
        """The latency that so many per cent of the calls were within; 0 if there were none."""
        return self._hdr.get_value_at_percentile(percentile) / 1e3 if self.count else 0.0

    def figures_ms(self) -> dict[str, float]:
        """``min``, the ``PERCENTILES``, and ``max``."""
        if not self.count:
            return dict.fromkeys(["min", *PERCENTILES, "max"], 0.0)
        found = {name: self.percentile_ms(percentile) for name, percentile in PERCENTILES.items()}
        low, high = self._hdr.get_min_value() / 1e3, self._hdr.get_max_value() / 1e3
        return {"min": low, **found, "max": high}

    def curve(self) -> list[tuple[float, float]]:
        """(percentile, milliseconds) for a chart: every half of what is left, in eight steps."""
        if not self.count:
            return []
        percentiles = [100 * (1 - 2 ** (-step / 8)) for step in range(8 * 40)]
        known = [p for p in percentiles if (1 - p / 100) * self.count >= 1]
        return [(p, self.percentile_ms(p)) for p in [*known, 100.0]]


def _new_histogram() -> _Hdr:
    try:
        from hdrh.histogram import HdrHistogram
    except ImportError as error:
        raise InvalidArgument(
            "load tests need the package hdrhistogram: pip install 'holdfast[load]'"
        ) from error
    return cast(_Hdr, HdrHistogram(1, HIGHEST_US, DIGITS))
