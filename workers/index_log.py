"""Reading an index's log: what of it is whole, what the snapshot has, and what it changes.

A log is gone through twice: first to judge it from end to end, checksums included, then to apply
what counts. Vectors are views of the mapped file, so neither pass holds more than some thousand.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.formats import iqdb_wal
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.iqdb_snapshot import Stamp
from holdfast.formats.iqdb_values import Flaw, IndexFlaw
from holdfast.formats.iqdb_wal import HEADER_BYTES, Damage, Delete, Frames
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.foreign_index import HalfDone
from holdfast.workers.index_snapshot import StoredIndex


@dataclass(slots=True)
class LogReading:
    """What a log says, once it was looked at from end to end."""

    end: int = HEADER_BYTES
    """Where the last whole request ends."""
    skip_to: int = HEADER_BYTES
    """Up to here the snapshot has it all."""
    damage: Damage | None = None
    store: int | None = None
    records: int = 0
    """How many records there are up to ``end``."""
    sequence: int | None = None
    """Number of the last stamped record, those without a stamp behind it counted."""


def read_log(
    view: memoryview, dimension: int, snapshot: Stamp | None, tick: Callable[[], None]
) -> LogReading:
    """Look at a log from end to end: what is whole, what the snapshot has, where it is damaged.

    Raises ``IndexFlaw`` where the stamps say that log and snapshot do not belong together.
    """
    reading = LogReading(store=None if snapshot is None else snapshot.store)
    before = 0
    stop = HEADER_BYTES
    for item in iqdb_wal.read_frames(view, HEADER_BYTES, dimension, tick=tick):
        if isinstance(item, Damage):
            reading.damage = item
            break
        if item.first is None or item.last is None:
            if reading.sequence is None:
                before += item.records
            else:
                reading.sequence += item.records
        else:
            _check_stamps(reading, item, snapshot, before)
            reading.sequence = item.last.sequence
            if snapshot is not None and item.first.sequence <= snapshot.sequence:
                covered = min(item.records, snapshot.sequence - item.first.sequence + 1)
                stride = (item.stop - item.start) // item.records
                reading.skip_to = item.start + covered * stride
        if item.whole_to > item.start:
            reading.end = item.whole_to
        reading.records += item.records
        stop = item.stop
    if stop > reading.end:  # the numbers of records that will be cut are given again
        whole = read_log(view[: reading.end], dimension, snapshot, tick)
        whole.damage = reading.damage
        return whole
    if reading.sequence is None:
        reading.sequence = (0 if snapshot is None else snapshot.sequence) + before
    return reading


def _check_stamps(reading: LogReading, item: Frames, snapshot: Stamp | None, before: int) -> None:
    assert item.first is not None
    store, sequence = item.first.store, item.first.sequence
    if reading.store is None:
        reading.store = store
    if store != reading.store:
        reason = f"its records are of store {store:016x}, not of {reading.store:016x}"
        raise IndexFlaw(Flaw.TYPE, reason, item.start)
    expected = None if reading.sequence is None else reading.sequence + 1
    if expected is None and snapshot is not None and sequence - before > snapshot.sequence + 1:
        reason = f"record {sequence} follows, but the snapshot ends with {snapshot.sequence}"
        raise IndexFlaw(Flaw.PAYLOAD_CUT, reason, item.start)
    if expected is not None and sequence != expected:
        reason = f"record {sequence} follows where {expected} is due"
        raise IndexFlaw(Flaw.PAYLOAD_CUT, reason, item.start)


class Refused(Exception):
    """The index refused a record of the log."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset = offset
        self.reason = reason


def apply_log(
    view: memoryview,
    start: int,
    end: int,
    index: StoredIndex,
    tick: Callable[[], None],
) -> int:
    """Apply what was read before, from ``start`` to ``end``; returns how many records."""
    count = 0
    for item in _applicable(view[:end], start, index, tick):
        try:
            apply_frames(item, index)
        except (InvalidArgument, HalfDone) as error:
            raise Refused(item.start, str(error)) from error
        count += item.records
    return count


def _applicable(
    view: memoryview, start: int, index: StoredIndex, tick: Callable[[], None]
) -> Iterator[Frames]:
    """The frames, one by one for an index that may refuse one."""
    if isinstance(index, CoreIndex):
        for item in iqdb_wal.read_frames(view, start, index.dimension, check=False, tick=tick):
            assert isinstance(item, Frames)
            yield item
        return
    while start < len(view):
        item = iqdb_wal.read_frame(view, start, index.dimension, check=False)
        assert isinstance(item, Frames)
        tick()
        yield item
        start = item.stop


def apply_frames(item: Frames, index: StoredIndex) -> None:
    """Have the changes take effect; those that did already change nothing."""
    if isinstance(item.change, Delete):
        index.remove([item.change.id])
    else:
        index.put(*item.change)


def newest_stamp(view: memoryview, start: int, stop: int, dimension: int, known: Stamp) -> Stamp:
    """``known``, or the last record of the same store from ``start`` to ``stop`` if it is newer."""
    for item in iqdb_wal.read_frames(view[:stop], start, dimension, check=False):
        assert isinstance(item, Frames)
        if item.last is not None and item.last.store == known.store:
            known = Stamp(known.store, max(known.sequence, item.last.sequence))
    return known


def despite_sync(verdict: Verdict, synced: int) -> Verdict:
    """The verdict, but what was synced is never a torn tail, nor may it be missing."""
    if verdict.offset >= synced or verdict.ending not in (Ending.CLEAN, Ending.TORN):
        return verdict
    reason = f"{verdict.reason or 'the file ends'}; up to {synced} it had been synced"
    return Verdict(Ending.CORRUPT, verdict.offset, reason)


def request_at(view: memoryview, offset: int, dimension: int) -> tuple[int, int]:
    """Where the request begins and ends that the frame at ``offset`` belongs to."""
    begin = at = HEADER_BYTES
    while at < len(view):
        item = iqdb_wal.read_frame(view, at, dimension, check=False)
        if isinstance(item, Damage):
            break
        at = item.stop
        if item.whole_to == item.stop:
            if at > offset:
                return begin, at
            begin = at
    return begin, at


def intact_parts(
    view: memoryview, offset: int, dimension: int, tick: Callable[[], None]
) -> Iterator[tuple[int, int]]:
    """Where frames lie that are intact although ``offset`` is damaged: from and to."""
    at: int | None = offset + 1
    while at is not None and (at := iqdb_wal.find_intact(view, at, dimension, tick)) is not None:
        if at < 0:
            return
        start = stop = at
        for item in iqdb_wal.read_frames(view, start, dimension, tick=tick):
            if isinstance(item, Damage):
                break
            stop = item.stop
        yield start, stop
        at = stop + 1 if stop < len(view) else None
