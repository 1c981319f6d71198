"""The rows of an index in memory, in storage order.

A row's *slot* is its place: rows come at the end, a replaced row keeps its slot, and a deleted one
is replaced by the last row. The original's files have this order, and ties of a search are decided
by it, so that a recovered index answers as the one before it did.

A snapshot is written while the index goes on changing: ``freeze`` fixes the rows as they are, and
from then on a row that is about to change and was not yet written is put aside first.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.iqdb_values import Id
from holdfast.formats.memory import fresh_memory

Floats = NDArray[np.float32]
_ROWS_MIN = 256
_FLOATS_MIN = 1 << 20
# Vectors that come from the memory they go to are copied twice; so much of that is cached.
_COPY_FLOATS = 1 << 17


def _room(rows: int, dimension: int) -> Floats:
    return _matrix(fresh_memory(4 * rows * dimension), rows, dimension)


def _matrix(memory: memoryview, rows: int, dimension: int) -> Floats:
    return np.frombuffer(memory, np.float32, rows * dimension).reshape(rows, dimension)


class Watcher(Protocol):
    """Whoever keeps something about each row by its slot."""

    def changed(self, slots: Sequence[int]) -> None:
        """The rows in these slots are other ones; a range: they are new, at the end."""
        ...

    def moved(self, source: int, target: int) -> None:
        """The row in ``target`` is gone, and that of ``source``, the last, is there now."""
        ...


class IndexTable:
    """Ids, vectors and encoded metadata by slot."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.ids: list[Id] = []
        self.metadata: list[bytes | None] = []
        self.slots: dict[Id, int] = {}
        self.watchers: list[Watcher] = []
        self.version = 0
        """Counts changes, for those who remember what they worked out."""
        rows = min(_ROWS_MIN, max(1, _FLOATS_MIN // dimension))
        self._vectors = _room(rows, dimension)
        self._frozen: Frozen | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def vectors(self) -> Floats:
        """All vectors, (n, d); a view that is void after the next change."""
        return self._vectors[: len(self.ids)]

    @property
    def memory_bytes(self) -> int:
        """What the vectors take, unused room included."""
        return self._vectors.nbytes

    def put(
        self, ids: Sequence[Id], vectors: Floats, metadata: Sequence[bytes | None] | None
    ) -> int:
        """Insert rows, or replace those of the same id; returns how many were replaced."""
        self.version += 1
        entries: Sequence[bytes | None] = [None] * len(ids) if metadata is None else metadata
        first = len(self.ids)
        if self.slots.keys().isdisjoint(ids):
            fresh = dict(zip(ids, range(first, first + len(ids)), strict=True))
            if len(fresh) == len(ids):
                if self.slots:
                    self.slots.update(fresh)
                else:
                    self.slots = fresh
                self._append(ids, vectors, entries)
                return 0
        replaced = 0
        for place, id_ in enumerate(ids):
            slot = self.slots.get(id_)
            if slot is None:
                self.slots[id_] = len(self.ids)
                self._append([id_], vectors[place : place + 1], [entries[place]])
                continue
            replaced += 1
            self._keep(slot)
            self._vectors[slot] = vectors[place]
            self.metadata[slot] = entries[place]
            self._tell([slot])
        return replaced

    def _append(self, ids: Sequence[Id], vectors: Floats, metadata: Sequence[bytes | None]) -> None:
        first, stop = len(self.ids), len(self.ids) + len(ids)
        if stop > len(self._vectors):
            self.reserve(max(stop, len(self._vectors) * 3 // 2))
        step = max(1, _COPY_FLOATS // self.dimension)
        for start in range(0, len(ids), step):
            part = vectors[start : start + step]
            self._vectors[first + start : first + start + len(part)] = part
        self.ids += ids
        self.metadata += metadata
        self._tell(range(first, stop))

    def reserve(self, rows: int) -> None:
        """Have room for so many rows, which costs memory only once they are there."""
        if rows > len(self._vectors):
            grown = _room(rows, self.dimension)
            grown[: len(self.ids)] = self.vectors
            self._vectors = grown

    def adopt(self, memory: memoryview) -> None:
        """Keep the vectors in ``memory`` from here on, as far as it goes; the table is empty.

        It may be that which the rows are read from, if a row there is longer than its vector and
        what was read is put at once: then no row is written over before it was read.
        """
        assert not self.ids
        self._vectors = _matrix(memory, len(memory) // (4 * self.dimension), self.dimension)

    def remove(self, id_: Id) -> bool:
        """Delete a row; False when it is not there."""
        slot = self.slots.pop(id_, None)
        if slot is None:
            return False
        self.version += 1
        last = len(self.ids) - 1
        self._keep(slot)
        if slot != last:
            self._keep(last)
            self._vectors[slot] = self._vectors[last]
            self.ids[slot] = self.ids[last]
            self.metadata[slot] = self.metadata[last]
            self.slots[self.ids[slot]] = slot
        self.ids.pop()
        self.metadata.pop()
        for watcher in self.watchers:
            watcher.moved(last, slot)
        return True

    def _tell(self, slots: Sequence[int]) -> None:
        for watcher in self.watchers:
            watcher.changed(slots)

    # --- for snapshots ---------------------------------------------------------------------

    def freeze(self) -> "Frozen":
        """The rows as they are now, to be read while others change; one at a time."""
        self._frozen = Frozen(self)
        return self._frozen

    def thaw(self) -> None:
        """Nobody reads the frozen rows any longer."""
        self._frozen = None

    def _keep(self, slot: int) -> None:
        if self._frozen is not None:
            self._frozen.keep(slot)

    def check_invariants(self) -> None:
        """Assert that the parts agree; for tests."""
        assert len(self.ids) == len(self.metadata) == len(self.slots) <= len(self._vectors)
        assert all(self.slots[id_] == slot for slot, id_ in enumerate(self.ids))


class Frozen:
    """The rows of a table as they were at one moment."""

    def __init__(self, table: IndexTable) -> None:
        self._table = table
        self.rows = len(table)
        self._read = 0
        self._kept: dict[int, tuple[Id, Floats, bytes | None]] = {}

    def keep(self, slot: int) -> None:
        """Put a row aside that is about to change, unless it was read or kept already."""
        if self._read <= slot < self.rows and slot not in self._kept:
            table = self._table
            vector = table.vectors[slot].copy()
            self._kept[slot] = (table.ids[slot], vector, table.metadata[slot])

    def chunks(self, rows: int) -> Iterator[tuple[list[Id], Floats, list[bytes | None]]]:
        """All rows in order, some at a time; the table may change between two chunks."""
        while self._read < self.rows:
            start, stop = self._read, min(self._read + rows, self.rows)
            self._read = stop
            yield self._chunk(start, stop)

    def _chunk(self, start: int, stop: int) -> tuple[list[Id], Floats, list[bytes | None]]:
        table = self._table
        kept = [slot for slot in range(start, stop) if slot in self._kept] if self._kept else []
        if not kept:
            return table.ids[start:stop], table.vectors[start:stop], table.metadata[start:stop]
        # Rows may have gone from the end since: those were kept before they went.
        ids: list[Id] = table.ids[start:stop]
        metadata = table.metadata[start:stop]
        vectors = np.empty((stop - start, table.dimension), np.float32)
        there = min(stop, len(table)) - start
        if there > 0:
            vectors[:there] = table.vectors[start : start + there]
        ids += [b""] * (stop - start - len(ids))
        metadata += [None] * (stop - start - len(metadata))
        for slot in kept:
            ids[slot - start], vectors[slot - start], metadata[slot - start] = self._kept.pop(slot)
        return ids, vectors, metadata
