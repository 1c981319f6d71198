"""An open vector store: its file, its rows in memory, and how a commit changes both.

A write becomes one run of bytes with a manifest at its end, is noted in the ledger, appended in one
piece, and only then taken over into memory. The original's readers give up on a long manifest, so
now and then small segments are merged, and segments with many deleted rows rewritten, by a commit
of their own that changes no answer.
"""

import logging
import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import (
    HoldfastError,
    StoreFrozen,
    StoreReadOnly,
)
from holdfast.formats.rvf import meta, record
from holdfast.formats.rvf.manifest import Entry
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentType, decode_header
from holdfast.formats.rvf.vec import vec_payload_bytes
from holdfast.formats.tables import numbers_of
from holdfast.workers import sets
from holdfast.workers.actor import Caller
from holdfast.workers.columns import Columns
from holdfast.workers.disk import Disk
from holdfast.workers.ledger import Ledger
from holdfast.workers.lock import Lock
from holdfast.workers.log_file import LogFile
from holdfast.workers.raw_arrays import Scratch
from holdfast.workers.row_table import RowTable
from holdfast.workers.vector_catalog import MANIFEST_BYTES_MAX, Catalog, Commit, VecSegment
from holdfast.workers.vector_loading import (
    Ancestor,
    DamagedSegment,
    Loaded,
    check_entry,
    payload_at,
)

log = logging.getLogger("holdfast.vectors")

# The first byte of a commit that differs between commits: the content hash of its first segment.
_HASH_AT = 0x28
_ROW_HEAD_BYTES = 8

# A directory entry takes 25 bytes of every manifest from then on, a deleted id 8.
_VECS_MAX = 512
_VECS_LEFT = 64
_SMALL_BYTES = 1 << 16
_SMALL_MAX = 64
_MERGED_BYTES_MAX = 64 << 20
_METAS_MAX = 64
_HIDDEN_MAX = 256
_DELETED_MAX = 4096
_DELETED_LEFT = 1024
_DAMAGE_LOOK_S = 60.0  # before segments one of which is damaged are looked at again


class VectorStore:
    """One open store. Without a ledger it is read-only: nobody's locks are held then."""

    def __init__(
        self,
        disk: Disk,
        log_file: LogFile,
        ledger: Ledger | None,
        lock: Lock | None,
        loaded: Loaded,
        tick: Callable[[], None],
    ) -> None:
        self.disk = disk
        self.log = log_file
        self.ledger = ledger
        self.tick = tick
        self._lock = lock
        self.vectors_scratch = Scratch()
        self.payload_scratch = Scratch()
        """For a batch while it is written, as it came and as the file has it."""
        self.catalog: Catalog
        self.table: RowTable
        self.columns: Columns
        self._merge_after = 0.0
        self.deleted_since: set[int] | None = None
        """Ids deleted while a compaction is under way, and not given a row again since."""
        self.adopt(loaded)

    def adopt(self, loaded: Loaded) -> None:
        """Take over what was loaded from the file, or a parent's rows with it."""
        self.catalog = loaded.catalog
        self.table = loaded.table
        self.columns = loaded.columns
        self.inherited_rows = loaded.inherited_rows
        self.inherited_ids: NDArray[np.uint64] = loaded.inherited_ids
        self.hidden: NDArray[np.uint64] = loaded.hidden
        self.ancestors: list[Ancestor] = loaded.ancestors

    # --- figures ---------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Path of the file."""
        return self.log.path

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return self.catalog.dimension

    def own_live_rows(self) -> int:
        """Live rows that lie in this file."""
        return self.table.live_rows - self.table.live_below(self.inherited_rows)

    def live_bytes(self) -> int:
        """Bytes of the file that compaction would keep."""
        catalog = self.catalog
        rows = self.own_live_rows() * (_ROW_HEAD_BYTES + 4 * self.dimension)
        others = sum(HEADER_BYTES + entry.payload_bytes for entry in catalog.others)
        return rows + others + catalog.unlisted_bytes + catalog.manifest_bytes()

    def dead_bytes(self) -> int:
        """Bytes of the file that compaction would drop."""
        return max(0, self.log.end - self.live_bytes())

    def manifest_payload(self) -> memoryview:
        """The payload of the newest manifest."""
        at = self.catalog.manifest_at
        header = decode_header(self.log.remap(), at)
        assert header is not None
        return self.log.view[at + HEADER_BYTES : at + HEADER_BYTES + header.payload_bytes]

    def payload(self, entry: Entry) -> memoryview:
        """A segment's payload, from the map."""
        return payload_at(self.log.remap(), entry)

    def check_mapped(self, segment: VecSegment) -> None:
        """Raise ``DamagedSegment`` unless the rows of a segment still are what they were.

        Those of a small one lie in memory, and are right whatever has become of the file. Others
        are read where they lie; what was damaged there must not get a hash that holds.
        """
        if self.table.is_lasting(segment.first_row):
            check_entry(self.log.remap(), segment.entry)

    # --- writing ---------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise ``StoreReadOnly`` or ``StoreFrozen`` if nothing may be written."""
        if self.ledger is None:
            raise StoreReadOnly(f"{self.path!r} was opened read-only", path=self.path)
        if self.catalog.record.frozen:
            raise StoreFrozen(f"{self.path!r} is frozen; write to a branch of it", path=self.path)

    def counted_before(self, caller: Caller) -> tuple[int, int] | None:
        """The counts of a request that took effect before it was sent again.

        None for a new one, which may be done: raises ``StoreReadOnly`` or ``StoreFrozen``.
        """
        if self.ledger is not None and self.ledger.took_effect(*caller):
            return self.ledger.counted(*caller)
        self.check_writable()
        return None

    def begin(self) -> Commit:
        """A commit to fill."""
        return Commit(self.catalog, self.log.end)

    def write(
        self,
        commit: Commit,
        own_live_rows: int,
        caller: Caller | None = None,
        counted: tuple[int, int] = (0, 0),
    ) -> None:
        """Append a commit; on an error nothing has changed. ``own_live_rows``: as of then."""
        ledger = self.ledger
        assert ledger is not None
        assert self._lock is not None
        if not self._lock.is_held():
            raise RuntimeError(f"the lock file of {self.path} was removed or replaced")
        if not self.log.is_in_place():
            raise RuntimeError(f"{self.path} was removed or replaced")
        commit.close(own_live_rows)
        if caller is not None:
            start = commit.first_header + _HASH_AT
            first = int.from_bytes(commit.first_hash[:4], "little")
            try:
                ledger.note(*caller, start, commit.end, first, counted)
            except OSError as error:
                raise self.log.error(error, "note a write to") from error
        try:
            self.log.append(*commit.parts)
        except HoldfastError:
            if caller is not None:
                ledger.void()
            raise
        if caller is not None:
            ledger.logged(*caller, counted)
        self.catalog = commit.catalog

    def add_metadata(self, commit: Commit, ids: NDArray[np.uint64], table: pa.Table) -> None:
        """A metadata segment for rows with these ids, which replaces what they had."""
        payload = meta.encode_meta(ids, table, generation=commit.next_generation())
        commit.other(SegmentType.META, payload)

    # --- keeping the manifest short --------------------------------------------------------

    def shorten_manifest(self) -> bool:
        """Merge and rewrite segments if the manifest has become long; False if nothing was done.

        A bounded amount of work, so that a large store may need several calls. A disk that refuses
        is not told of: what was written before stays, and the next write tries again.
        """
        if self.deleted_since is not None or self.catalog.record.frozen:
            return False  # a compaction will do more
        if time.monotonic() < self._merge_after:
            return False
        before = self.log.end
        try:
            self._shorten_manifest()
        except (HoldfastError, OSError, DamagedSegment) as error:
            if isinstance(error, DamagedSegment):  # which finding anew takes long
                self._merge_after = time.monotonic() + _DAMAGE_LOOK_S
            log.warning("%s: merging segments is put off: %s", self.path, error)
            return False
        return self.log.end > before

    def _shorten_manifest(self) -> None:
        if len(self.catalog.of_type(SegmentType.META)) > _METAS_MAX:
            self._merge_metadata()
        if len(self.catalog.of_type(SegmentType.HIDDEN)) > _HIDDEN_MAX:
            self._merge_hidden()
        catalog = self.catalog
        victims: list[VecSegment] = []
        if len(catalog.deleted) > _DELETED_MAX:
            victims = self._most_deleted()
        if len(catalog.vecs) > _VECS_MAX:
            victims = victims or self._smallest()
        elif not victims and len(catalog.vecs) > _SMALL_MAX and not len(catalog.vecs) % 16:
            small = [s for s in catalog.vecs if s.entry.payload_bytes < _SMALL_BYTES]
            victims = small if len(small) > _SMALL_MAX else []
        if catalog.manifest_bytes() > MANIFEST_BYTES_MAX and not victims:
            victims = self._most_deleted() or self._smallest()
        if victims:
            self._rewrite(victims)

    def _most_deleted(self) -> list[VecSegment]:
        """Segments to rewrite so that few ids are left in the deleted list."""
        counts = self._deleted_in(self.catalog.vecs)
        order = np.argsort(-counts, kind="stable")
        left = int(counts.sum())
        victims: list[VecSegment] = []
        total = 0
        for number in order:
            segment = self.catalog.vecs[number]
            total += vec_payload_bytes(segment.rows, self.dimension)
            if left <= _DELETED_LEFT or not counts[number]:
                break
            if victims and total > _MERGED_BYTES_MAX:
                break
            victims.append(segment)
            left -= int(counts[number])
        return victims

    def _deleted_in(self, segments: list[VecSegment]) -> NDArray[np.int64]:
        """How many rows of deleted ids each segment has."""
        deleted = np.array(sorted(self.catalog.deleted), np.uint64)
        counts = [np.count_nonzero(sets.contains(deleted, self._dead_ids(s))) for s in segments]
        return np.array(counts, np.int64)

    def _dead_ids(self, segment: VecSegment) -> NDArray[np.uint64]:
        """Ids of a segment's dead rows, which are few; those of deleted ids are among them."""
        rows = slice(segment.first_row, segment.first_row + segment.rows)
        return self.table.ids[rows][~self.table.live[rows]]

    def _smallest(self) -> list[VecSegment]:
        """Small segments to merge, so that few are left."""
        by_size = sorted(self.catalog.vecs, key=lambda segment: segment.rows)
        victims, total = [], 0
        for segment in by_size[: len(by_size) - _VECS_LEFT]:
            total += vec_payload_bytes(segment.rows, self.dimension)
            if total > _MERGED_BYTES_MAX:
                break
            victims.append(segment)
        return victims if len(victims) > 1 else []

    def _rewrite(self, victims: list[VecSegment]) -> None:
        """Append the live rows of some segments again, and leave those segments out."""
        table = self.table
        live: list[NDArray[np.int64]] = []
        for segment in victims:
            rows = np.arange(segment.first_row, segment.first_row + segment.rows)
            live.append(rows[table.live[rows]])
            self.tick()
        rows = np.concatenate(live)
        ids, vectors = table.ids[rows].copy(), table.vectors_at(rows)
        for segment in victims:  # not before, lest one is damaged meanwhile
            self.check_mapped(segment)
            self.tick()
        commit = self.begin()
        catalog = commit.catalog
        gone = {segment.entry for segment in victims}
        catalog.vecs = [segment for segment in catalog.vecs if segment.entry not in gone]
        catalog.deleted = self._still_deleted(catalog)
        commit.vectors(ids, vectors, table.rows)
        self.write(commit, self.own_live_rows())
        table.add(ids, vectors)
        self.columns.append(self.columns.take(rows), len(rows))

    def _still_deleted(self, catalog: Catalog) -> set[int]:
        """The deleted ids that some VEC segment still has a row of."""
        if not catalog.deleted:
            return set()
        deleted = np.array(sorted(catalog.deleted), np.uint64)
        found = np.zeros(len(deleted), np.bool_)
        for segment in catalog.vecs:
            found |= sets.contains(np.sort(self._dead_ids(segment)), deleted)
            self.tick()
        return set(deleted[found].tolist())

    def _merge_metadata(self) -> None:
        """One metadata segment in place of the smaller ones."""
        commit = self.begin()
        by_size = sorted(
            commit.catalog.of_type(SegmentType.META), key=lambda entry: entry.payload_bytes
        )
        victims, total = set(), 0
        ids: list[NDArray[np.uint64]] = []
        for entry in by_size[: len(by_size) - _METAS_MAX // 8]:
            total += entry.payload_bytes
            if total > _MERGED_BYTES_MAX:
                break
            check_entry(self.log.remap(), entry)
            found = meta.decode_meta(self.payload(entry))
            if found is not None:
                victims.add(entry)
                ids.append(numbers_of(found.table.column("id"), np.uint64))
        if not ids:
            return
        # What these rows have now is the newest there is, so it may take the highest generation.
        rows = self.table.find_live(sets.unique(np.concatenate(ids)))
        rows = rows[rows >= self.inherited_rows]
        commit.catalog.others = [e for e in commit.catalog.others if e not in victims]
        self.add_metadata(commit, self.table.ids[rows], self.columns.take(rows))
        self.write(commit, self.own_live_rows())

    def _merge_hidden(self) -> None:
        """One list of hidden ids in place of all."""
        commit = self.begin()
        commit.catalog.others = [
            entry
            for entry in commit.catalog.others
            if entry.type != SegmentType.HIDDEN or record.decode_hidden(self.payload(entry)) is None
        ]
        payload = record.encode_hidden(self.hidden, commit.next_generation(), snapshot=True)
        commit.other(SegmentType.HIDDEN, payload)
        self.write(commit, self.own_live_rows())

    # --- the rest --------------------------------------------------------------------------

    def abandon(self) -> None:
        """Let go of everything as a crash would."""
        self.log.close()
        if self.ledger is not None:
            self.ledger.close()
        if self._lock is not None:
            self._lock.file.close()
