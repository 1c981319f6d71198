"""Whether a long run stays as it is: descriptors, memory, disk, latency."""

import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from holdfast.bench.load.outcome import Check, Moment, Process
from holdfast.bench.load.timings import Histogram

MIB = 1 << 20
SETTLED = 0.2
"""The share of a run after which memory has to be flat: caches and buffers have their size then."""
SLOPE_MIB_PER_HOUR = 1.0
MEMORY_PARTS = 3
"""What a process keeps is the least it has in such a part of the time: rows come in until a flush,
a compaction or a checkpoint, and what they took goes again. A line through such teeth has a slope
of its own."""
MEMORY_AFTER_S = 900.0
"""Shorter times say nothing about so small a slope."""
DESCRIPTORS_MORE = 4
DESCRIPTORS_AFTER_S = 600.0
"""A process has as many connections to a store as it had calls under way at once within a minute.
Their number swings until its clients have met often enough."""
P99_GROWTH = 1.2
P99_AFTER_S = 600.0
P99_SHARE = 1 / 6
SPACE: dict[str, tuple[float, int]] = {
    "fold": (2.0, 10 * MIB),
    "vectors": (2.0, 2 * MIB),
    "warm": (2.0, (2 + 32) * MIB),
    "index": (2.0, 16 * MIB),
    "registry": (2.0, 1 * MIB),
}
"""At most so many times the bytes that count, and so many more, as README.md promises by kind."""
_BESIDE = 2 * MIB
"""What may lie beside any store: its ledger, caches."""
_NOTHING = 64 << 10
"""Where less than this counts a store has shown nothing: what is allowed beside it is more."""


def checks(moments: Sequence[Moment], first: Histogram, last: Histogram) -> list[Check]:
    """The questions about a run, with their answers.

    ``first`` and ``last`` have the latencies of all calls in its first and last ``P99_SHARE``.
    """
    if not moments:
        return []
    return [_descriptors(moments), *_memory(moments), *_disk(moments),
            _latency(moments, first, last)]  # fmt: skip


def _descriptors(moments: Sequence[Moment]) -> Check:
    held = [sum(process.descriptors for process in moment.processes) for moment in moments]
    third = max(1, len(held) // 3)
    first, last = statistics.median(held[:third]), statistics.median(held[-third:])
    return _answered(
        "descriptors are flat", f"{first:g}, then {last:g}", f"at most {DESCRIPTORS_MORE} more",
        last <= first + DESCRIPTORS_MORE, _too_short(moments[-1].second, DESCRIPTORS_AFTER_S),
    )  # fmt: skip


def _answered(name: str, figure: str, limit: str, held: bool, unclear: str) -> Check:
    """A question with its answer, unless something stands against giving one."""
    return Check(name, figure, limit, None if unclear else held, unclear)


def _too_short(seconds: float, least: float) -> str:
    return f"the run was shorter than {least:g} s" if seconds < least else ""


def _memory(moments: Sequence[Moment]) -> Iterable[Check]:
    """The slope of what each process keeps to itself; of its last process, if it was killed."""
    for store in _processes(moments):
        points = _settled(moments, store)
        if not points:
            continue
        kept = _least([(second, process.own_bytes) for second, process in points])
        slope = slope_per_hour(kept)
        least_s = MEMORY_AFTER_S / (1 - SETTLED)
        short = f"the life of its last process was shorter than {least_s:g} s"
        yield _answered(
            f"memory of the {store} process is flat", f"{slope / MIB:+.2f} MiB/h",
            f"at most {SLOPE_MIB_PER_HOUR:g} MiB/h", slope <= SLOPE_MIB_PER_HOUR * MIB,
            short if points[-1][0] - points[0][0] < MEMORY_AFTER_S else "",
        )  # fmt: skip


def _least(points: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """The least value in each of so many parts of the time, and the middle of that part."""
    start, end = points[0][0], points[-1][0]
    width = (end - start) / MEMORY_PARTS
    least: list[tuple[float, int]] = []
    for number in range(MEMORY_PARTS):
        first = start + number * width
        last = end if number == MEMORY_PARTS - 1 else first + width
        inside = [value for second, value in points if first <= second <= last]
        if inside:
            least.append(((first + last) / 2, min(inside)))
    return least


def _names(moments: Sequence[Moment]) -> list[str]:
    return [disk.store for disk in moments[-1].disks]


def _processes(moments: Sequence[Moment]) -> list[str]:
    return [*_names(moments), "supervisor"]


def _settled(moments: Sequence[Moment], store: str) -> list[tuple[float, Process]]:
    points = [(moment.second, process) for moment in moments
              for process in moment.processes if process.name == store]  # fmt: skip
    if points:
        points = [point for point in points if point[1].pid == points[-1][1].pid]
    return points[int(SETTLED * len(points)) :]


def slope_per_hour(points: Sequence[tuple[float, float]]) -> float:
    """By how much (second, value) grow in an hour, by least squares; 0 for fewer than two."""
    if len(points) < 2:
        return 0.0
    seconds, values = np.array(points, float).T
    (slope, _), *_ = np.linalg.lstsq(np.column_stack([seconds, np.ones(len(points))]), values)
    return float(slope) * 3600


def _disk(moments: Sequence[Moment]) -> Iterable[Check]:
    """The files of each store against what of them counts, in the last third of the run.

    The median: while a store is written anew, old and new are there together.
    """
    last = moments[-max(1, len(moments) // 3) :]
    for store in _names(moments):
        disks = [disk for moment in last for disk in moment.disks if disk.store == store]
        told = [disk.live_bytes for disk in disks if disk.live_bytes is not None]
        live = statistics.median(told) if told else 0.0
        factor, more = SPACE[store]
        allowed = more + _BESIDE
        taken = statistics.median(disk.file_bytes for disk in disks)
        bounded = taken <= factor * live + allowed
        unclear = ""
        if not told:
            unclear = "the store never said what of its files counts"
        elif live < _NOTHING and bounded:
            unclear = (
                f"next to nothing counts yet, and {allowed / MIB:g} MiB are allowed beside that"
            )
        weak = ", which is most of it" if factor * live < allowed else ""
        yield _answered(
            f"files of the {store} store are bounded", f"{taken / MIB:.1f} MiB",
            f"{factor:g} x the {live / MIB:.1f} MiB that count + {allowed / MIB:g} MiB{weak}",
            bounded, unclear,
        )  # fmt: skip


def _latency(moments: Sequence[Moment], first: Histogram, last: Histogram) -> Check:
    before, after = first.percentile_ms(99.0), last.percentile_ms(99.0)
    unclear = _too_short(moments[-1].second, P99_AFTER_S)
    if not unclear and not (first.count and last.count):
        unclear = "there were no calls in its first or last part"
    return _answered(
        "latency does not grow", f"p99 {before:.2f} ms, then {after:.2f} ms",
        f"at most {P99_GROWTH:g} x", after <= P99_GROWTH * before, unclear,
    )  # fmt: skip
