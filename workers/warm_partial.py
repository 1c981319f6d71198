"""What is left of a chunk of which some blocks are damaged.

The columns of fixed width lie one behind the other at places that follow from their types and the
number of rows, so a point can be taken when the blocks with its time and its vector are intact.
Space and entity come from the zone map. Nothing of an Arrow file that is damaged is decoded, but
for the metadata, when the blocks that describe the file and those of that column are intact.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats import warm_chunk
from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.points import METADATA
from holdfast.formats.tables import ARROW_REFUSALS
from holdfast.formats.zone_map import BLOCK_BYTES, Series, ZoneMap
from holdfast.workers.warm_runs import Mask, Rows, Times, mark

Damaged = NDArray[np.bool_]
"""For each block of a file whether it is damaged."""


class PartialChunk:
    """The points of a damaged chunk that are intact, as a run; the others count as dead.

    Rows keep their numbers. ``timestamps`` has, for a row that is lost, the time of the one before
    it, so that they stay in order. Raises ``InvalidFormat`` when nothing can be taken.
    """

    def __init__(self, zone: ZoneMap, data: memoryview) -> None:
        if zone.compressed:
            raise InvalidFormat("it is compressed, and its blocks tell nothing one by one")
        self.zone = zone
        self.late: list[Rows] | None = None
        self._data = data
        damaged = damaged_blocks(zone, data)
        identity = warm_chunk.identity(zone.store_id, zone.chunk)
        spans = warm_chunk.fixed_spans(zone.dimension, zone.rows, identity)
        times_at, vectors_at = spans[warm_chunk.TIMESTAMP], spans[warm_chunk.VECTOR]
        if vectors_at + zone.rows * zone.dimension * 4 > zone.chunk_bytes:
            raise InvalidFormat("its rows do not fit into it")
        self.lost: Mask = _touched(damaged, times_at, 8, zone.rows)
        self.lost |= _touched(damaged, vectors_at, 4 * zone.dimension, zone.rows)
        if self.lost.all():
            raise InvalidFormat("no block with a whole point in it is intact")
        self._vectors_at = vectors_at
        self.timestamps = _filled(zone.series, _times(data, times_at, zone.rows), self.lost)
        self.dead: Mask = self.lost.copy()
        self.dead_rows = int(np.count_nonzero(self.dead))
        self._metadata = _metadata(zone, data, damaged) if zone.has_metadata else None
        self.lacks_metadata = zone.has_metadata and self._metadata is None

    @property
    def lane(self) -> object:
        return self.zone.run

    @property
    def series(self) -> Series:
        return self.zone.series

    @property
    def rows(self) -> int:
        return self.zone.rows

    def vectors(self, start: int, stop: int) -> NDArray[np.float32]:
        width = 4 * self.zone.dimension
        first, last = self._vectors_at + start * width, self._vectors_at + stop * width
        part = self._data[first:last]
        if len(part) < last - first:  # the file was cut short; these rows are lost
            part = memoryview(part.tobytes() + bytes(last - first - len(part)))
        return np.frombuffer(part, "<f4").reshape(stop - start, self.zone.dimension)

    def metadata(self, start: int, stop: int) -> pa.MapArray | None:
        return None if self._metadata is None else self._metadata.slice(start, stop - start)

    def kill(self, rows: Rows) -> None:
        mark(self, self.dead, rows)
        self.dead_rows += len(rows)


def damaged_blocks(zone: ZoneMap, data: memoryview) -> Damaged:
    """Which blocks of a chunk's file do not match their checksums, or are not there."""
    found = np.ones(len(zone.checksums), np.bool_)
    for block, checksum in enumerate(zone.checksums.tolist()):
        start = block * BLOCK_BYTES
        stop = min(start + BLOCK_BYTES, zone.chunk_bytes)
        found[block] = stop > len(data) or crc32(data[start:stop]) != checksum
    return found


def _touched(damaged: Damaged, offset: int, width: int, rows: int) -> Mask:
    """Which rows of a column have a byte in a damaged block."""
    starts = offset + np.arange(rows, dtype=np.int64) * width
    first, last = starts // BLOCK_BYTES, (starts + width - 1) // BLOCK_BYTES
    before = np.concatenate(([0], np.cumsum(damaged)))
    touched: Mask = before[last + 1] > before[first]
    return touched


def _times(data: memoryview, offset: int, rows: int) -> Times:
    """The column of times, zero where the file is cut short."""
    times = np.zeros(rows, np.int64)
    found = np.frombuffer(data[offset : offset + 8 * rows][: (len(data) - offset) // 8 * 8], "<i8")
    times[: len(found)] = found
    return times


def _filled(series: Series, times: Times, lost: Mask) -> Times:
    """The times with those of lost rows replaced, once the others are what the zone map says."""
    heads = series.starts[:-1]
    tails = series.starts[1:] - 1
    agree = (lost[heads] | (times[heads] == series.first_times)).all() and (
        lost[tails] | (times[tails] == series.last_times)
    ).all()
    times[heads] = series.first_times
    source = np.where(lost, 0, np.arange(len(times)))
    source[heads] = heads
    filled = times[np.maximum.accumulate(source)]
    inside = np.ones(len(times), np.bool_)
    inside[heads] = False
    rising = (filled[1:] > filled[:-1]) | lost[1:] | ~inside[1:]
    of_series = np.repeat(series.last_times, np.diff(series.starts))
    if not agree or not rising.all() or (filled > of_series).any():
        raise InvalidFormat("the times in its intact blocks are not those of the zone map")
    return filled


def _metadata(zone: ZoneMap, data: memoryview, damaged: Damaged) -> pa.MapArray | None:
    """The column of metadata, if all that is needed to read it is intact."""
    if len(data) != zone.chunk_bytes or damaged[0] or damaged[-1]:
        return None
    buffer = pa.py_buffer(data)
    try:
        column = warm_chunk.decode(buffer, zone.dimension, zone.rows).batch.column(METADATA)
        start, stop = warm_chunk.buffer_span(column, buffer)
        if damaged[start // BLOCK_BYTES : -(-stop // BLOCK_BYTES)].any():
            return None
        column.validate(full=True)
    except (*ARROW_REFUSALS, InvalidFormat):
        return None
    return column
