"""Building an answer of points: segments that the reader maps, and segments in the message.

Rows that lie together in a chunk and are all live are not sent: the reader maps the chunk's file,
which never changes, and the map outlives the file's removal. Everything else is copied together.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from holdfast.formats.errors import ResultTooLarge
from holdfast.formats.limits import MAPPED_BYTES_MIN, RESULT_BYTES_MAX
from holdfast.formats.points import Points, concatenated, metadata_bytes, metadata_to_ipc
from holdfast.workers.raw_arrays import raw
from holdfast.workers.warm_chunks import ChunkRun
from holdfast.workers.warm_merge import points_of
from holdfast.workers.warm_messages import EMPTY, RowsHere, RowsInChunk, Segment
from holdfast.workers.warm_runs import Rows, Run, Times, key_order, live_rows

# A compressed chunk is decompressed as a whole by whoever maps it.
_COMPRESSED_WORTH = 16
_KEY_BYTES = 20


class Piece:
    """Rows of one run, from ``start`` to ``stop``; ``rows`` are the live ones unless all are."""

    __slots__ = ("first", "last", "rows", "run", "start", "stop")

    def __init__(self, run: Run, start: int, stop: int) -> None:
        self.run = run
        self.start = start
        self.stop = stop
        self.rows: Rows | None = live_rows(run, start, stop)
        self.first = self.last = 0
        self._keep(0, len(self))

    def __len__(self) -> int:
        return self.stop - self.start if self.rows is None else len(self.rows)

    def times(self) -> Times:
        """Of the live rows."""
        times = self.run.timestamps
        return times[self.start : self.stop] if self.rows is None else times[self.rows]

    def first_rows(self, limit: int) -> None:
        """Keep no more than the first rows."""
        if len(self) > limit:
            self._keep(0, limit)

    def last_rows(self, limit: int) -> None:
        """Keep no more than the last rows."""
        if len(self) > limit:
            self._keep(len(self) - limit, len(self))

    def _keep(self, low: int, high: int) -> None:
        """Keep the live rows from the ``low``-th to the ``high``-th."""
        if self.rows is None:
            self.start, self.stop = self.start + low, self.start + high
        else:
            self.rows = self.rows[low:high]
            self.start, self.stop = (
                (int(self.rows[0]), int(self.rows[-1]) + 1) if high > low else (0, 0)
            )
        if high > low:
            times = self.run.timestamps
            self.first, self.last = int(times[self.start]), int(times[self.stop - 1])

    def points(self) -> Points:
        """The live points."""
        return points_of(self.run, self.start, self.stop, self.rows)


class Answer:
    """An answer being built, in the order of its rows."""

    def __init__(
        self, dimension: int, *, vectors: bool, metadata: bool, mapped: bool, keys: bool
    ) -> None:
        self.row_bytes = _KEY_BYTES + (4 * dimension if vectors else 0)
        self._vectors = vectors
        self._metadata = metadata
        self._mapped = mapped
        self._keys = keys
        self._segments: list[Segment] = []
        self._here: list[Points] = []
        self._budget = RESULT_BYTES_MAX
        self.sent_bytes = 0
        self.mapped_bytes = 0

    def add(self, piece: Piece) -> None:
        """Add the rows of a piece."""
        if not len(piece):
            return
        spans = self._mapped_spans(piece)
        if spans is None:
            self._take(piece.points())
            return
        assert isinstance(piece.run, ChunkRun)
        self._flush()
        for start, stop in spans:
            piece.run.check_columns(
                start, stop, keys=self._keys, vectors=self._vectors, metadata=self._metadata
            )
            self.mapped_bytes += (stop - start) * self.row_bytes
            self._segments.append(RowsInChunk(piece.run.entry.number, start, stop))

    def _mapped_spans(self, piece: Piece) -> list[tuple[int, int]] | None:
        """The rows of a piece as the reader is to map them, if that is worth it."""
        run, rows = piece.run, piece.rows
        if not self._mapped or not isinstance(run, ChunkRun):
            return None
        worth = MAPPED_BYTES_MIN * (_COMPRESSED_WORTH if run.is_compressed else 1)
        size = len(piece) * self.row_bytes
        if self._metadata:
            size += metadata_bytes(run.metadata(piece.start, piece.stop))
        if size < worth:
            return None
        if rows is None:
            return [(piece.start, piece.stop)]
        edges = np.flatnonzero(np.diff(rows) != 1) + 1
        if size < worth * (len(edges) + 1):
            return None
        starts = [0, *edges.tolist(), len(rows)]
        return [(int(rows[low]), int(rows[high - 1]) + 1) for low, high in pairwise(starts)]

    def add_merged(self, pieces: Sequence[Piece]) -> None:
        """Add the rows of several pieces in order of key."""
        parts = [piece.points() for piece in pieces if len(piece)]
        if not parts:
            return
        together = concatenated(parts)
        if len(parts) > 1:
            order = key_order(together.spaces, together.entities, together.timestamps)
            together = together.take(order)
        self._take(together)

    def _take(self, points: Points) -> None:
        size = len(points) * self.row_bytes
        if self._metadata:
            size += points.metadata_bytes
        self._budget -= size
        self.sent_bytes += size
        if self._budget < 0:
            raise ResultTooLarge(
                f"the part of the answer that has to be sent is over the limit of "
                f"{RESULT_BYTES_MAX} bytes; use scan(), a limit, or compact() first"
            )
        self._here.append(points)

    def segments(self) -> list[Segment]:
        """Everything that was added."""
        self._flush()
        return self._segments

    def _flush(self) -> None:
        """Close the segment in the message, if one is open."""
        if not self._here:
            return
        points = concatenated(self._here)
        self._here = []
        self._segments.append(
            RowsHere(
                raw(points.timestamps),
                raw(points.vectors) if self._vectors else EMPTY,
                memoryview(metadata_to_ipc(points.metadata)) if self._metadata else EMPTY,
                raw(points.entities) if self._keys else EMPTY,
                raw(points.spaces) if self._keys else EMPTY,
            )
        )
