"""Rewriting a vector store's file without what is dead, while it goes on serving.

In slices: live rows are copied in order of id to a temporary file, then their metadata, then every
other segment byte for byte, whoever wrote it; then what was appended to the old file meanwhile;
then the new file takes the old one's place. A crash before the rename leaves the old file, a crash
after it the new one; both say the same.
"""

import os
from collections.abc import Generator, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.rvf import meta, record, vec
from holdfast.formats.rvf.manifest import Entry
from holdfast.formats.rvf.record import Pin
from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    SegmentHeader,
    SegmentType,
    is_intact,
    is_unverifiable,
)
from holdfast.workers.columns import Columns
from holdfast.workers.disk import Disk, File, remove_if_there
from holdfast.workers.messages import Progress
from holdfast.workers.new_log import new_log, take_over
from holdfast.workers.row_table import RowTable
from holdfast.workers.vector_branches import add_cow_map, add_membership, check_no_branches
from holdfast.workers.vector_catalog import Commit
from holdfast.workers.vector_loading import MAPPED_BYTES_MIN, Loaded, payload_at
from holdfast.workers.vector_recovery import INDEX_SUFFIX
from holdfast.workers.vector_segments import segments_in
from holdfast.workers.vector_store import VectorStore

_SEGMENT_BYTES = 32 << 20
_SYNC_EVERY_BYTES = 16 << 20
_META_ROWS = 1 << 16
_META_BYTES = 32 << 20
_COPY_BYTES = 8 << 20
_FLUSH_BYTES = 1 << 20

Steps = Generator[Progress | None, None, None]

# Segments that are made anew: from the rows, from memory, or, as an index of the original's, by
# those who want it.
_MADE_ANEW = {
    SegmentType.VEC, SegmentType.JOURNAL, SegmentType.MANIFEST, SegmentType.INDEX,
    SegmentType.COW_MAP, SegmentType.MEMBERSHIP,
}  # fmt: skip
# So are these, if they are our own.
_OURS: dict[int, bytes] = {
    SegmentType.META: meta.MAGIC,
    SegmentType.STORE: record.STORE_MAGIC,
    SegmentType.HIDDEN: record.HIDDEN_MAGIC,
}


class Compaction:
    """One compaction of a store. ``steps`` runs it."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._disk: Disk = store.disk
        self._begun_at = store.log.end
        self._old = store.log.remap()
        self._listed = {entry.offset for entry in store.catalog.others}
        self._boundaries = {entry.offset for entry in store.catalog.entries()}
        self._boundaries.add(store.catalog.manifest_at)
        self._rows = self._live_own_rows()
        self._segments_before = len(store.catalog.entries())
        start = store.catalog.copy()
        start.vecs, start.others, start.deleted = [], [], set()
        start.record_entry = None
        start.unlisted_bytes = 0
        self._commit = Commit(start, 0)
        self._written = 0
        self._unsynced = 0
        self._total = store.live_bytes()
        self._table = RowTable(store.dimension)
        self._columns = Columns()

    def _live_own_rows(self) -> NDArray[np.int64]:
        rows = self._store.table.live_in_id_order()
        return rows[rows >= self._store.inherited_rows]

    def steps(self) -> Steps:
        """Compact in slices; on an error the file stays as it is and the error passes on."""
        store = self._store
        assert store.ledger is not None
        store.deleted_since = set()
        try:
            with new_log(self._disk, store.log, store.ledger) as new:
                yield from self._write(new.file)
                remove_if_there(self._disk, store.path + INDEX_SUFFIX)
        finally:
            store.deleted_since, deleted = None, store.deleted_since
        take_over(self._disk, store.log, store.ledger, new, self._commit.end)
        self._adopt(deleted or set())

    def _write(self, file: File) -> Steps:
        store = self._store
        yield from self._copy_rows(file)
        yield from self._check_sources()
        yield from self._copy_metadata(file)
        yield from self._copy_others(file)
        file.sync()
        yield from self._load_rows(file)
        copied_to = self._begun_at
        while store.log.end - copied_to > _COPY_BYTES:
            copied_to = self._catch_up(file, copied_to, _COPY_BYTES)
            yield None
        check_no_branches(store, "compact")  # one may have been made meanwhile
        self._catch_up(file, copied_to, store.log.end - copied_to)
        self._finish(file)

    # --- writing ---------------------------------------------------------------------------

    def _flush(self, file: File) -> Progress:
        data = self._commit.drain()
        file.append(data)
        self._written += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_EVERY_BYTES:  # so that no single sync keeps callers waiting
            file.sync()
            self._unsynced = 0
        return Progress("compact", min(self._written, self._total), self._total)

    def _copy_rows(self, file: File) -> Steps:
        table = self._store.table
        step = max(1, _SEGMENT_BYTES // vec.vec_payload_bytes(1, table.dimension))
        for start in range(0, len(self._rows), step):
            rows = self._rows[start : start + step]
            first = self._store.inherited_rows + start
            self._commit.vectors(table.ids[rows], table.vectors_at(rows), first)
            yield self._flush(file)

    def _check_sources(self) -> Steps:
        """Check the segments that rows were copied from, and not before, lest damage comes between.

        What was damaged since the file was opened must not get a hash that holds.
        """
        store = self._store
        for segment in list(store.catalog.vecs):
            rows = slice(segment.first_row, segment.first_row + segment.rows)
            if store.table.live[rows].any():
                store.check_mapped(segment)
                yield None

    def _copy_metadata(self, file: File) -> Steps:
        """All metadata, which makes every older segment of it void."""
        columns = self._store.columns
        if not columns.has_columns:
            return
        average = 1 + columns.nbytes // max(1, columns.rows)
        step = max(1, min(_META_ROWS, _META_BYTES // average))
        snapshot = True
        for start in range(0, max(1, len(self._rows)), step):
            for rows, table in self._metadata(self._rows[start : start + step]):
                self._add_metadata(rows, table, snapshot=snapshot)
                snapshot = False
                yield self._flush(file)

    def _metadata(self, rows: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
        """The metadata of rows, in parts that a segment has room for."""
        table = self._store.columns.take(rows)
        if table.nbytes <= 2 * _META_BYTES or len(rows) < 2:
            yield rows, table
            return
        for half in np.array_split(rows, 2):
            yield from self._metadata(half)

    def _add_metadata(
        self, rows: NDArray[np.int64], table: pa.Table, *, snapshot: bool = False
    ) -> None:
        ids, generation = self._store.table.ids[rows], self._commit.next_generation()
        payload = meta.encode_meta(ids, table, generation=generation, snapshot=snapshot)
        self._commit.other(SegmentType.META, payload)

    def _copy_others(self, file: File) -> Steps:
        """Every other segment, byte for byte, listed or not."""
        for offset, header in segments_in(self._old[: self._begun_at], self._boundaries):
            listed = offset in self._listed
            if _is_kept(self._old, offset, header) and (listed or self._is_whole(offset, header)):
                self._commit.copied(self._old, offset, header, listed)
            if self._commit.end - self._written >= _FLUSH_BYTES:
                yield self._flush(file)
        yield self._flush(file)

    def _is_whole(self, offset: int, header: SegmentHeader) -> bool:
        """Whether a segment that nothing lists is more than the rest of a torn commit."""
        start = offset + HEADER_BYTES
        payload = self._old[start : start + header.payload_bytes]
        return is_intact(header, payload) or is_unverifiable(header)

    def _load_rows(self, file: File) -> Steps:
        """Make the table that goes with the new file."""
        store = self._store
        inherited = store.inherited_rows
        for block in store.table.blocks():
            if block.first_row < inherited:
                count = min(len(block.ids), inherited - block.first_row)
                self._table.add(block.ids[:count], block.vectors[:count], lasting=True)
        rows = np.arange(inherited)
        self._columns.append(store.columns.take(rows), inherited)
        view = file.map()
        for segment in self._commit.catalog.vecs:
            self._add_segment(view, segment.entry)
            start = segment.first_row - inherited
            rows = self._rows[start : start + segment.rows]
            self._columns.append(store.columns.take(rows), segment.rows)
            yield None

    def _add_segment(self, view: memoryview, entry: Entry) -> None:
        ids, vectors = vec.view_rows(payload_at(view, entry))
        self._table.add(ids, vectors, lasting=entry.payload_bytes >= MAPPED_BYTES_MIN)

    def _catch_up(self, file: File, start: int, length: int) -> int:
        """Append what the old file gained from ``start`` on, about ``length`` bytes of it."""
        store = self._store
        view = store.log.remap()[: store.log.end]
        listed = {entry.offset for entry in store.catalog.others}
        gained = {s.entry.offset: s for s in store.catalog.vecs if s.entry.offset >= start}
        end = start
        for offset, header in walk(view, start):
            if offset in gained:
                segment = gained[offset]
                rows = np.arange(segment.first_row, segment.first_row + segment.rows)
                ids_of, metadata = store.table.ids[rows], store.columns.take(rows)
                vectors = store.table.vectors_at(rows)
                self._commit.vectors(ids_of, vectors, self._table.rows)
                if store.columns.has_columns:
                    for part, table in self._metadata(rows):
                        self._add_metadata(part, table)
                self._table.add(ids_of, vectors)
                self._columns.append(metadata, segment.rows)
            elif _is_kept(view, offset, header):
                self._commit.copied(view, offset, header, offset in listed)
            end = offset + HEADER_BYTES + header.payload_bytes
            if self._commit.end - self._written >= _FLUSH_BYTES:
                self._flush(file)
            if end - start >= length:
                break
        self._flush(file)
        return end

    def _finish(self, file: File) -> None:
        """What is known only now: options, what is hidden, the witness, the manifest."""
        store, commit = self._store, self._commit
        catalog, newest = commit.catalog, store.catalog
        catalog.epoch = newest.epoch + 1
        catalog.generation = max(catalog.generation, newest.generation)
        catalog.next_segment_id = max(catalog.next_segment_id, newest.next_segment_id)
        catalog.witness_hash, catalog.witnesses = newest.witness_hash, newest.witnesses
        commit.store_record(newest.record)
        if store.ancestors:
            payload = record.encode_hidden(store.hidden, commit.next_generation(), snapshot=True)
            commit.other(SegmentType.HIDDEN, payload)
            parent = store.ancestors[0]
            pin = Pin(os.path.basename(parent.path), parent.pin.manifest, parent.pin.end)
            add_cow_map(commit, newest.record.parent or pin, store.inherited_ids, 0)
            add_membership(commit, store.inherited_ids, store.hidden, store.tick)
        catalog.deleted = set(store.deleted_since or ())
        reclaimed = max(0, store.log.end - self._written)
        commit.witness(
            f"compact:segments_compacted={self._segments_before},"
            f"bytes_reclaimed={reclaimed},epoch={catalog.epoch}"
        )
        file.append(commit.finish(store.own_live_rows()))

    # --- taking over -----------------------------------------------------------------------

    def _adopt(self, deleted: set[int]) -> None:
        """Go on with the rows as the new file has them, less those deleted meanwhile."""
        store = self._store
        table = self._table
        table.kill(table.find_live(np.array(sorted(deleted), np.uint64)))
        inherited = store.inherited_rows
        shown = store.table.live[:inherited]
        table.kill(np.flatnonzero(~shown))
        store.adopt(
            Loaded(
                self._commit.catalog,
                table,
                self._columns,
                inherited,
                store.inherited_ids,
                store.hidden,
                store.ancestors,
            )
        )


def _is_kept(view: memoryview, offset: int, header: SegmentHeader) -> bool:
    """Whether a segment is copied as it is."""
    if header.type in _MADE_ANEW:
        return False
    magic = _OURS.get(header.type)
    start = offset + HEADER_BYTES
    return magic is None or view[start : start + len(magic)] != magic
