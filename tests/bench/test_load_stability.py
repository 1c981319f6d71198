"""What load tests say of a long run, on made-up moments."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from holdfast.bench.load.outcome import Check, Disk, Moment, Process
from holdfast.bench.load.stability import MIB, checks, slope_per_hour
from holdfast.bench.load.timings import Histogram, counted


@dataclass(frozen=True)
class Shape:
    """How figures go with the second."""

    descriptors: Callable[[float], int] = lambda second: 20
    memory: Callable[[float], float] = lambda second: 50 * MIB
    file_bytes: Callable[[float], float] = lambda second: 10 * MIB
    live_bytes: int | None = 8 * MIB
    p99_ms: Callable[[float], float] = lambda second: 10.0
    pid: Callable[[float], int] = lambda second: 7


def moment(second: float, shape: Shape) -> Moment:
    """One second of a run with a fold."""
    memory, p99_ms = int(shape.memory(second)), shape.p99_ms(second)
    process = Process("fold", shape.pid(second), 0.5, memory, memory, shape.descriptors(second))
    disk = Disk("fold", int(shape.file_bytes(second)), shape.live_bytes)
    return Moment(
        second, {"fold": 100}, 0, 0, 1.0, p99_ms, p99_ms, 0, 0, 0.0, 0, [], [process], [disk]
    )


def answers(seconds: int, **changes: Any) -> dict[str, Check]:
    """The checks of a run of so many seconds, by their first word."""
    shape = Shape(**changes)
    moments = [moment(float(second), shape) for second in range(1, seconds + 1)]
    first, last = Histogram(), Histogram()
    for number, one in enumerate(moments):
        for histogram, is_in in ((first, number < seconds / 6), (last, number >= seconds * 5 / 6)):
            if is_in:
                histogram.add(counted([one.p99_ms / 1e3] * 10))
    found = checks(moments, first, last)
    assert len(found) == 4
    return {check.name.split()[0]: check for check in found}


def test_a_run_without_moments_has_no_checks() -> None:
    """Nothing is asked about a run that was not seen."""
    assert checks([], Histogram(), Histogram()) == []


def test_a_steady_run_is_well() -> None:
    """Half an hour in which nothing changes passes every check."""
    assert {check.held for check in answers(1800).values()} == {True}


def test_a_short_run_cannot_tell() -> None:
    """Half a minute says how full the disk is and leaves the rest open, whatever it looks like."""
    found = answers(30, memory=lambda s: s * MIB, p99_ms=lambda s: s, descriptors=lambda s: int(s))
    assert {name: check.held for name, check in found.items()} == {
        "descriptors": None, "memory": None, "files": True, "latency": None,
    }  # fmt: skip
    assert {name: check.unclear for name, check in found.items()} == {
        "descriptors": "the run was shorter than 600 s",
        "memory": "the life of its last process was shorter than 1125 s",
        "files": "",
        "latency": "the run was shorter than 600 s",
    }


def test_descriptors_that_grow_are_noticed() -> None:
    """One more descriptor every half a minute is noticed; a few at the start are not held against
    a run."""
    assert answers(1800, descriptors=lambda s: 20 + int(s / 30))["descriptors"].held is False
    assert answers(1800, descriptors=lambda s: 20 if s > 60 else 10)["descriptors"].held is True


def test_memory_that_grows_is_noticed() -> None:
    """1.5 MiB an hour is noticed and named, through noise; 0.5 MiB an hour is not, nor is what
    the first fifth of a run fills."""
    noise = np.random.default_rng(3).normal(0, MIB / 50, 2000)

    def growing(mib_per_hour: float) -> Callable[[float], float]:
        return lambda s: 50 * MIB + s / 3600 * mib_per_hour * MIB + noise[int(s)]

    grows = answers(1800, memory=growing(1.5))["memory"]
    assert grows.held is False
    assert "fold" in grows.name
    assert float(grows.figure.split()[0]) == pytest.approx(1.5, abs=0.2)
    assert answers(1800, memory=growing(0.5))["memory"].held is True
    filling = answers(1800, memory=lambda s: min(s, 300) * MIB)
    assert filling["memory"].held is True


@pytest.mark.parametrize("phase", range(0, 280, 40))
def test_memory_that_comes_and_goes_is_not_growth(phase: int) -> None:
    """Teeth of 8 MiB, from one compaction to the next, are no slope wherever a run begins in them;
    1.5 MiB an hour is noticed under them all the same."""

    def teeth(second: float) -> float:
        return 50 * MIB + (second + phase) % 280 / 280 * 8 * MIB

    assert answers(1800, memory=teeth)["memory"].held is True
    grows = answers(1800, memory=lambda s: teeth(s) + s / 3600 * 1.5 * MIB)["memory"]
    assert grows.held is False


def test_memory_that_was_held_once_more_than_before_is_noticed() -> None:
    """Two MiB more, taken once in the middle of a run and kept, are noticed."""
    step = answers(1800, memory=lambda s: (50 if s < 1000 else 52) * MIB)["memory"]
    assert step.held is False


def test_memory_of_a_worker_that_was_killed_late_cannot_be_judged() -> None:
    """Only the last process of a store is looked at, so a kill near the end leaves it open."""
    found = answers(1800, pid=lambda s: 7 if s < 1700 else 8, memory=lambda s: s * MIB)
    assert found["memory"].held is None


def test_files_that_outgrow_what_counts_are_noticed() -> None:
    """A fold may take twice its live bytes and some megabytes; a peak is not held against it."""
    too_much = (2 * 8 + 10 + 2) * MIB + 1
    assert answers(1800, file_bytes=lambda s: too_much)["files"].held is False
    assert answers(1800, file_bytes=lambda s: too_much - 1)["files"].held is True
    peak = answers(1800, file_bytes=lambda s: 100 * MIB if 1500 < s < 1600 else 10 * MIB)
    assert peak["files"].held is True


def test_a_store_that_never_said_what_counts_is_not_judged() -> None:
    """Without the live bytes the question about files stays open, and says so."""
    files = answers(1800, live_bytes=None, file_bytes=lambda s: 1000 * MIB)["files"]
    assert (files.held, files.unclear) == (None, "the store never said what of its files counts")


def test_a_store_with_next_to_nothing_in_it_is_not_praised() -> None:
    """Where almost nothing counts, files within what is allowed beside it leave the question open,
    and files beyond that do not; where that is most of the bound, this is said."""
    idle = answers(1800, live_bytes=1000)["files"]
    assert (idle.held, idle.unclear) == (
        None, "next to nothing counts yet, and 12 MiB are allowed beside that"
    )  # fmt: skip
    assert answers(1800, live_bytes=1000, file_bytes=lambda s: 13 * MIB)["files"].held is False
    little, much = answers(1800, live_bytes=5 * MIB)["files"], answers(1800)["files"]
    assert little.held is True
    assert little.limit == "2 x the 5.0 MiB that count + 12 MiB, which is most of it"
    assert much.limit == "2 x the 8.0 MiB that count + 12 MiB"


def test_a_part_without_calls_says_nothing_of_latency() -> None:
    """When no call was made in the first or the last sixth, latency is not judged by the other."""
    moments = [moment(float(second), Shape()) for second in range(1, 1801)]
    some = Histogram()
    some.add(counted([0.01]))
    for first, last in ((some, Histogram()), (Histogram(), some)):
        (check,) = [one for one in checks(moments, first, last) if one.name.startswith("latency")]
        assert check.held is None
        assert "no calls" in check.unclear


def test_latency_that_grows_is_noticed() -> None:
    """A p99 that is a half higher at the end than at the beginning is noticed; a tenth is not."""
    assert answers(1800, p99_ms=lambda s: 10 * (1 + s / 3600))["latency"].held is False
    assert answers(1800, p99_ms=lambda s: 10 * (1 + s / 18000))["latency"].held is True


def test_some_slow_calls_at_the_end_are_noticed() -> None:
    """A p99 is that of all calls of five minutes: slow ones may be in a few of its seconds."""
    slow = answers(1800, p99_ms=lambda s: 5000.0 if s > 1500 and s % 10 == 0 else 5.0)["latency"]
    assert slow.held is False


def test_the_slope_is_that_of_least_squares() -> None:
    """A line's slope is found exactly, and of fewer than two points it is 0."""
    seconds = [1.0, 2.0, 4.0, 9.0]
    assert slope_per_hour([(s, 5 + 2 * s) for s in seconds]) == pytest.approx(7200)
    assert slope_per_hour([(1.0, 3.0)]) == slope_per_hour([]) == 0.0
