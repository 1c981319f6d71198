"""The rows of a vector store in memory: where each vector lies, which ids are live, in blocks.

Rows are numbered in the order they came, and a row never changes: a newer row of the same id, or a
delete, makes it dead. A block's vectors lie in the mapped file, or, for small segments, in memory
that many of them share; both look the same to a search.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from holdfast.workers import sets
from holdfast.workers.id_map import ABSENT, IdMap
from holdfast.workers.search import Rows, squared_norms

_POOL_BYTES = 64 << 20
_FIRST_CAPACITY = 1024
_LOOK_AT_ROWS = 1024


class RowTable:
    """Rows of ``dimension`` float32 each, by number and by id."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.rows = 0
        self.live_rows = 0
        self.changes = 0
        """Counts everything that changes an answer, for caches."""
        self._ids = np.empty(_FIRST_CAPACITY, np.uint64)
        self._norms = np.empty(_FIRST_CAPACITY, np.float32)
        self._live = np.empty(_FIRST_CAPACITY, np.bool_)
        self._vectors: list[NDArray[np.float32]] = []  # per block; the last may have spare room
        self._starts: list[int] = []
        self._pooled = False  # the last block is shared memory with spare room
        self._lasting: set[int] = set()  # first rows of blocks that lie where they came from
        self._blocks: list[Rows] = []
        self._map = IdMap()
        self._below = (0, 0)  # a row, and how many before it are live

    # --- changing --------------------------------------------------------------------------

    def add(
        self,
        ids: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        norms: NDArray[np.float32] | None = None,
        *,
        lasting: bool = False,
    ) -> int:
        """Append rows, (n,) and (n, d); older rows of these ids die. Returns how many did.

        ``norms`` are their squared norms, if known. ``lasting`` vectors are referred to where they
        are; others are copied.
        """
        count = len(ids)
        if not count:
            return 0
        first = self.rows
        self._make_room(first + count)
        self._ids[first : first + count] = ids
        self._norms[first : first + count] = squared_norms(vectors) if norms is None else norms
        self._live[first : first + count] = True
        replaced = self.kill(self.find_live(ids))
        if lasting:
            self._vectors.append(vectors)
            self._starts.append(first)
            self._lasting.add(first)
            self._pooled = False
        else:
            self._pool(vectors)
        self.rows += count
        self.live_rows += count
        if self._map.add(ids, first) < count:  # only files of the original repeat ids in a segment
            winners = self._map.find(ids) == np.arange(first, first + count)
            self.kill(np.flatnonzero(~winners) + first)
        self._blocks = self._blocks[: max(0, len(self._blocks) - 1)]
        self.changes += 1
        return replaced

    def kill(self, rows: NDArray[np.int64]) -> int:
        """Make rows dead; ``ABSENT`` and dead ones are passed over. Returns how many died."""
        rows = sets.unique(rows[rows != ABSENT])
        rows = rows[self._live[rows]]
        self._live[rows] = False
        self.live_rows -= len(rows)
        end, live = self._below
        if end:
            self._below = end, live - int(np.count_nonzero(rows < end))
        self.changes += 1
        return len(rows)

    def _make_room(self, rows: int) -> None:
        if rows <= len(self._ids):
            return
        capacity = max(rows, 2 * len(self._ids))
        for name in ("_ids", "_norms", "_live"):
            old = getattr(self, name)
            new = np.empty(capacity, old.dtype)
            new[: self.rows] = old[: self.rows]
            setattr(self, name, new)
        self._blocks = []  # they refer to the old arrays

    def _pool(self, vectors: NDArray[np.float32]) -> None:
        done = 0
        at = self.rows
        while done < len(vectors):
            used = at - self._starts[-1] if self._pooled else 0
            if not self._pooled or used == len(self._vectors[-1]):
                capacity = max(1, _POOL_BYTES // (4 * self.dimension))
                self._vectors.append(np.empty((capacity, self.dimension), np.float32))
                self._starts.append(at)
                self._pooled = True
                used = 0
            taken = min(len(vectors) - done, len(self._vectors[-1]) - used)
            self._vectors[-1][used : used + taken] = vectors[done : done + taken]
            done += taken
            at += taken

    # --- asking ----------------------------------------------------------------------------

    @property
    def ids(self) -> NDArray[np.uint64]:
        """The id of every row."""
        return self._ids[: self.rows]

    @property
    def live(self) -> NDArray[np.bool_]:
        """Whether each row is live; changes as the table does."""
        return self._live[: self.rows]

    def live_below(self, row: int) -> int:
        """How many of the rows before ``row`` are live; counted when ``row`` is another one."""
        if self._below[0] != row:
            self._below = row, int(np.count_nonzero(self.live[:row]))
        return self._below[1]

    def blocks(self) -> list[Rows]:
        """Every row, in order."""
        for number in range(len(self._blocks), len(self._starts)):
            start = self._starts[number]
            stop = self._starts[number + 1] if number + 1 < len(self._starts) else self.rows
            self._blocks.append(
                Rows(
                    start,
                    self._ids[start:stop],
                    self._vectors[number][: stop - start],
                    self._norms[start:stop],
                )
            )
        return self._blocks

    def is_lasting(self, row: int) -> bool:
        """Whether a block of vectors that lie where they came from begins with this row."""
        return row in self._lasting

    def find_live(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The live row of each id, or ``ABSENT``."""
        rows = self._map.find(ids)
        rows[~self._live[rows]] = ABSENT  # ABSENT itself asks for the last place, and stays
        return rows

    def live_in_id_order(self) -> NDArray[np.int64]:
        """The live rows, by ascending id."""
        rows = self._map.merged().rows
        return rows[self._live[rows]]

    def live_behind(
        self, after: int | None, limit: int, passed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Up to ``limit`` live rows by ascending id, from behind the id ``after``.

        ``passed`` is a mask over all rows in place of liveness.
        """
        counts = self._live if passed is None else passed
        run = self._map.merged()
        start = 0
        if after is not None:
            start = int(np.searchsorted(run.ids, np.uint64(after), side="right"))
        found: list[NDArray[np.int64]] = []
        missing = limit
        while missing and start < len(run.ids):
            step = max(missing, _LOOK_AT_ROWS)
            rows = run.rows[start : start + step]
            live = rows[counts[rows]][:missing]
            found.append(live)
            missing -= len(live)
            start += step
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def vectors_at(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of these rows, (n, d), copied; fastest if the rows ascend."""
        blocks = self.blocks()
        if len(blocks) == 1:
            return _at(blocks[0].vectors, rows)
        out = np.empty((len(rows), self.dimension), np.float32)
        order = None
        if np.any(rows[1:] < rows[:-1]):
            order = np.argsort(rows, kind="stable")
            rows = rows[order]
        owners = np.searchsorted(np.array(self._starts), rows, side="right") - 1
        cuts = np.flatnonzero(owners[1:] != owners[:-1]) + 1
        for start, stop in pairwise([0, *cuts.tolist(), len(rows)]):
            if start < stop:
                block = blocks[owners[start]]
                here = slice(start, stop) if order is None else order[start:stop]
                out[here] = _at(block.vectors, rows[start:stop] - block.first_row)
        return out

    def check_invariants(self) -> None:
        """Assert that map, masks and blocks agree."""
        self._map.check_invariants()
        assert self.live_rows == np.count_nonzero(self.live)
        assert self._below[1] == np.count_nonzero(self.live[: self._below[0]])
        live = np.flatnonzero(self.live)
        assert np.array_equal(self.find_live(self.ids[live]), live)
        position = 0
        for block in self.blocks():
            assert block.first_row == position
            assert len(block.ids) == len(block.vectors) == len(block.squared_norms) > 0
            position += len(block.ids)
        assert position == self.rows


def _at(vectors: NDArray[np.float32], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Some rows of a block, copied."""
    if vectors.flags.c_contiguous:  # or else numpy would copy the whole block first
        return vectors.take(rows, axis=0)  # twice as fast as an index
    return vectors[rows]
