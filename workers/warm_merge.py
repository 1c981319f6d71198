"""Merging runs into chunks, a slice at a time: flushing merges runs in memory, compacting others.

Each slice takes, from every run, the rows up to some key, so that what was written is always a
beginning of the whole in order of key. Memory is bounded by one chunk; metadata count, too, and of
a column Arrow takes less than 2 GiB. Rows that die in a run while
it is being merged are noted there, and die in the chunks before these take the runs' place.
"""

from collections.abc import Generator, Sequence
from typing import TypeVar

import numpy as np

from holdfast.formats.limits import CHUNK_BYTES_MAX, CHUNK_ROWS_MAX, COMPRESSED_CHUNK_BYTES_MAX
from holdfast.formats.points import Points, concatenated, metadata_bytes
from holdfast.formats.warm_terms import Compression
from holdfast.workers.messages import Progress
from holdfast.workers.warm_chunks import ChunkRun
from holdfast.workers.warm_runs import Rows, Run, key_order, live_rows, series_slice

_SLICE_ROWS = 32_768
_SLICE_BYTES = 8 << 20
_SLICE_METADATA_BYTES = 32 << 20
C = TypeVar("C", bound="Cursor")

_KEY_BYTES = 20  # space, entity, timestamp


class Cursor:
    """How far a run was read."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.row = 0

    @property
    def is_done(self) -> bool:
        """Whether no row is left."""
        return self.row >= self.run.rows


class MergeCursor(Cursor):
    """How far a run is merged, and where its rows went."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.placed = np.full(run.rows, -1, np.int64)
        """For each row its number in the merged whole; -1 for one that was dead, or is not yet."""


def key_at(run: Run, row: int) -> tuple[int, int, int]:
    """Space, entity and timestamp of a row."""
    series = run.series
    place = int(series.starts.searchsorted(row, "right")) - 1
    if row == series.starts[place]:  # the zone map knows; a chunk need not be opened for it
        time = series.first_times[place]
    elif row + 1 == series.starts[place + 1]:
        time = series.last_times[place]
    else:
        time = run.timestamps[row]
    return int(series.spaces[place]), int(series.entities[place]), int(time)


def heads(cursors: Sequence[C]) -> list[C]:
    """The cursors whose next row may be the next of all: of each lane the first one not done.

    Runs of a lane come in their order. What lies behind in a lane is not touched, so that merging
    and scanning hold few chunks open, whatever the size of the store.
    """
    found: dict[object, C] = {}
    for cursor in cursors:
        if not cursor.is_done:
            found.setdefault(cursor.run.lane, cursor)
    return list(found.values())


def rows_up_to(run: Run, key: tuple[int, int, int]) -> int:
    """How many rows of a run have a key not above ``key``."""
    space, entity, time = key
    series = run.series
    low, high = series_slice(series, space)
    if low == high:
        place = int(series.spaces.searchsorted(np.uint32(space)))
        return int(series.starts[place])
    place = low + int(series.entities[low:high].searchsorted(np.uint64(entity)))
    if place >= high or series.entities[place] != entity:
        return int(series.starts[place])
    start, stop = int(series.starts[place]), int(series.starts[place + 1])
    return start + int(run.timestamps[start:stop].searchsorted(time, "right"))


def points_of(run: Run, start: int, stop: int, rows: Rows | None) -> Points:
    """The points of a run from ``start`` to ``stop``, or those of ``rows`` among them."""
    series = run.series
    first = int(series.starts.searchsorted(start, "right")) - 1
    if first < len(series) and stop <= series.starts[first + 1]:  # one series, as reads mostly do
        spaces = np.full(stop - start, series.spaces[first])
        entities = np.full(stop - start, series.entities[first])
    else:
        last = int(series.starts.searchsorted(stop))
        edges = np.clip(series.starts[first : last + 1], start, stop)
        counts = np.diff(edges)
        spaces = np.repeat(series.spaces[first:last], counts)
        entities = np.repeat(series.entities[first:last], counts)
    points = Points(
        spaces, entities, run.timestamps[start:stop], run.vectors(start, stop),
        run.metadata(start, stop),
    )  # fmt: skip
    return points if rows is None else points.take(rows - start)


def take_slice(cursors: Sequence[C], rows_max: int) -> list[tuple[C, int, int]]:
    """The next rows of every run up to the same key, about ``rows_max`` in all; moves on."""
    open_cursors = heads(cursors)
    step = max(1, rows_max // max(1, len(open_cursors)))
    pivots = [
        key_at(cursor.run, min(cursor.row + step, cursor.run.rows) - 1) for cursor in open_cursors
    ]
    if not pivots:
        return []
    pivot = min(pivots)
    taken = []
    for cursor in open_cursors:
        stop = max(cursor.row, rows_up_to(cursor.run, pivot))
        if stop > cursor.row:
            taken.append((cursor, cursor.row, stop))
            cursor.row = stop
    return taken


def take_bounded(cursors: Sequence[C], rows_max: int) -> list[tuple[C, int, int]]:
    """As ``take_slice``, but fewer rows where their metadata are large."""
    rows = rows_max
    while True:
        before = [cursor.row for cursor in cursors]
        taken = take_slice(cursors, rows)
        size = sum(metadata_bytes(c.run.metadata(start, stop)) for c, start, stop in taken)
        if size <= _SLICE_METADATA_BYTES or rows == 1:
            return taken
        for cursor, row in zip(cursors, before, strict=True):
            cursor.row = row
        rows = max(1, rows // 8)


def chunk_rows_max(dimension: int, compression: Compression) -> int:
    """How many points a chunk has at most."""
    limit = CHUNK_BYTES_MAX if compression == "none" else COMPRESSED_CHUNK_BYTES_MAX
    return max(1, min(CHUNK_ROWS_MAX, limit // (4 * dimension + _KEY_BYTES)))


class Merge:
    """The live points of several runs, as the points of one chunk after the other."""

    def __init__(
        self, runs: Sequence[Run], dimension: int, compression: Compression, stage: str
    ) -> None:
        self.runs = list(runs)
        self._cursors = [MergeCursor(run) for run in runs]
        self._row_bytes = 4 * dimension + _KEY_BYTES
        limit = CHUNK_BYTES_MAX if compression == "none" else COMPRESSED_CHUNK_BYTES_MAX
        self._metadata_bytes_max = limit
        self.chunk_rows = chunk_rows_max(dimension, compression)
        self._slice_rows = max(1, min(_SLICE_ROWS, _SLICE_BYTES // self._row_bytes))
        self._total = sum(run.rows for run in runs)
        self._stage = stage
        for run in runs:
            assert run.late is None, "a run is merged once at a time"
            if isinstance(run, ChunkRun):
                run.check_again()  # what was damaged since must not get a checksum that holds
            run.late = []

    def close(self) -> None:
        """Have the runs forget that they were being merged."""
        for run in self.runs:
            run.late = None

    def pass_on(self, made: Sequence[ChunkRun]) -> None:
        """Let die in the chunks made of the runs what died in the runs after it was taken."""
        found = []
        for cursor in self._cursors:
            for rows in cursor.run.late or []:
                placed = cursor.placed[rows]
                found.append(placed[placed >= 0])
        if not found:
            return
        late = np.sort(np.concatenate(found))
        start = 0
        for chunk in made:
            stop = start + chunk.rows
            rows = late[late.searchsorted(start) : late.searchsorted(stop)]
            if len(rows):
                chunk.kill(rows - start)
            start = stop

    def chunks(self) -> Generator["Progress | Points", None, None]:
        """Yields progress, and now and then the points of a chunk, in order of key."""
        numbered = 0
        parts: list[Points] = []
        waiting = 0
        while taken := take_bounded(self._cursors, self._slice_rows):
            points = self._sorted(taken, numbered)
            numbered += len(points)
            parts.append(points)
            waiting += len(points)
            while waiting >= self.chunk_rows:
                whole, parts = split(parts, self.chunk_rows)
                waiting -= self.chunk_rows
                yield whole
            if sum(part.metadata_bytes for part in parts) >= self._metadata_bytes_max:
                yield concatenated(parts)
                parts, waiting = [], 0
            done = sum(cursor.row for cursor in self._cursors)
            yield Progress(self._stage, done * self._row_bytes, self._total * self._row_bytes)
        if waiting:
            yield split(parts, waiting)[0]

    def _sorted(self, taken: Sequence[tuple[MergeCursor, int, int]], numbered: int) -> Points:
        """The live points of a slice in order of key, numbered from ``numbered`` on."""
        parts: list[Points] = []
        origins: list[tuple[MergeCursor, Rows]] = []
        for cursor, start, stop in taken:
            rows = live_rows(cursor.run, start, stop)
            points = points_of(cursor.run, start, stop, rows)
            if len(points):
                parts.append(points)
                origins.append((cursor, np.arange(start, stop) if rows is None else rows))
        if not parts:
            return points_of(taken[0][0].run, 0, 0, None)
        if len(parts) == 1:
            cursor, rows = origins[0]
            cursor.placed[rows] = np.arange(numbered, numbered + len(rows))
            return parts[0]
        together = concatenated(parts)
        order = key_order(together.spaces, together.entities, together.timestamps)
        places = np.empty(len(order), np.int64)
        places[order] = np.arange(numbered, numbered + len(order))
        at = 0
        for cursor, rows in origins:
            cursor.placed[rows] = places[at : at + len(rows)]
            at += len(rows)
        return together.take(order)


def split(parts: Sequence[Points], rows: int) -> tuple[Points, list[Points]]:
    """The first ``rows`` points together, and the rest."""
    taken: list[Points] = []
    left: list[Points] = []
    for part in parts:
        room = rows - sum(map(len, taken))
        if len(part) <= room:
            taken.append(part)
        elif room:
            taken.append(part.slice(0, room))
            left.append(part.slice(room, len(part)))
        else:
            left.append(part)
    return concatenated(taken), left
