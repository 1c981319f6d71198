"""Writing a damaged RVF file anew, from what is intact of it.

What counts is what the newest intact manifest says, without the segments that are damaged: the
newest intact copy of each row, its metadata, images, whatever else is listed, and the witnesses as
far as each follows the one before. Parents are not copied: a branch stays one.

What lies behind that manifest was never committed, or its commit is lost. To *salvage* is to take
the whole segments there as if it were. A file without any manifest can only be salvaged, and
nobody can tell then which of its rows had been deleted.

Nothing is written to the damaged file.
"""

import os
import secrets
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.rvf import meta, vec, witness
from holdfast.formats.rvf.manifest import Entry, Identity
from holdfast.formats.rvf.scan import find_intact
from holdfast.formats.rvf.segment import PAYLOAD_BYTES_MAX, SegmentType, decode_header, type_name
from holdfast.workers import sets
from holdfast.workers.disk import Disk, directory_of, write_beside
from holdfast.workers.standing import Flaw, Rewriting
from holdfast.workers.vector_catalog import Commit
from holdfast.workers.vector_loading import end_with_witnesses, payload_at
from holdfast.workers.vector_reading import Reading, read_what_is_left, row_count
from holdfast.workers.vector_salvage import (
    Pieces,
    find_pieces,
    with_uncommitted,
    without_manifest,
)

_SEGMENT_BYTES = 32 << 20
_META_ROWS = 1 << 16
_EPOCH_MAX = (1 << 32) - 1
_NO_ID = bytes(16)
_MADE_ANEW = {
    SegmentType.VEC, SegmentType.JOURNAL, SegmentType.MANIFEST, SegmentType.INDEX,
    SegmentType.STORE,
}  # fmt: skip
# What is superseded of these must not come back.
_ONLY_LISTED = {SegmentType.COW_MAP, SegmentType.MEMBERSHIP, SegmentType.HIDDEN}


def repair_vectors(
    disk: Disk, path: str, view: memoryview, *, salvage: bool, tick: Callable[[], None]
) -> Rewriting:
    """Find out what is intact, and how to write it. Raises ``InvalidFormat`` when nothing is."""
    located = find_intact(view, tick)
    listed = set() if located is None else {entry.offset for entry in located.manifest.entries}
    pieces = find_pieces(view, listed, tick)
    notes: list[str] = []
    if located is not None:
        limit = end_with_witnesses(view, located)
    elif salvage:
        located, limit = without_manifest(path, pieces), 0
        notes.append("there was no manifest: deleted rows may be back, and the identity is new")
        if not located.manifest.entries:
            notes.append("nothing says which metric these vectors are for: l2 is assumed")
    else:
        raise InvalidFormat(
            f"{path!r} holds no intact manifest; only salvaging can take rows from it",
            path=path,
            offset=0,
            reason="no intact manifest",
        )
    stop = len(view) if salvage else limit
    uncommitted = _uncommitted_rows(pieces, limit, listed)
    if salvage:
        located = with_uncommitted(pieces, located, limit)
    elif stop < len(view):
        notes.append(_left_behind(len(view) - stop, uncommitted))
    if pieces.given_up_at is not None:
        notes.append(f"from offset {pieces.given_up_at} on the file was not searched")
    reading = read_what_is_left(disk, path, view, located, tick)
    catalog = reading.loaded.catalog
    lost = reading.flaws + _other_losses(pieces, limit, stop, catalog.dimension, reading.flaws)
    if catalog.identity.file_id == _NO_ID:
        catalog.identity = Identity(secrets.token_bytes(16), _NO_ID, bytes(32), 0)
    beside = [os.path.join(directory_of(path), child.name) for child in catalog.record.children]
    readers = [child for child in beside if disk.inode_at(child) is not None]
    if readers:
        notes.append(f"{len(readers)} branches read the old file, not this one: {readers[:5]}")
    catalog.record = catalog.record.with_children(())
    writing = _Writing(view, pieces, reading, stop, lost)
    return Rewriting(
        lambda output: write_beside(disk, output, writing.chunks()).close(),
        rows=len(writing.rows),
        salvaged_rows=writing.rows_from(limit) if salvage else 0,
        lost=lost,
        notes=notes,
        is_branch=catalog.record.origin == "branch" or bool(catalog.of_type(SegmentType.COW_MAP)),
        readers=readers,
    )


# --- what is lost ------------------------------------------------------------------------------


def _uncommitted_rows(pieces: Pieces, limit: int, listed: set[int]) -> tuple[int, int]:
    """How many whole VEC segments lie behind the last commit, and their rows."""
    segments = rows = 0
    for entry in pieces.segments(limit):
        if entry.type == SegmentType.VEC and entry.offset not in listed:
            try:
                rows += vec.check_vec(payload_at(pieces.view, entry))[1]
            except InvalidFormat:
                continue
            segments += 1
    return segments, rows


def _left_behind(length: int, uncommitted: tuple[int, int]) -> str:
    segments, rows = uncommitted
    text = f"{length} bytes behind the last commit are left out"
    if segments:
        text += f"; salvaging would take {rows} rows of {segments} whole vec segments there"
    return text


def _other_losses(
    pieces: Pieces, limit: int, stop: int, dimension: int, flaws: list[Flaw]
) -> list[Flaw]:
    """What is damaged below ``stop`` and was not listed; the last commit ends at ``limit``."""
    known = [flaw.offset for flaw in flaws if flaw.offset is not None]
    found = []
    for gap in pieces.gaps:
        if gap.start >= stop or any(gap.start <= offset < gap.stop for offset in known):
            continue
        header = decode_header(pieces.view, gap.start)
        if header is None:
            found.append(Flaw(gap.start, f"{gap.stop - gap.start} bytes that are no segment"))
            continue
        entry = Entry(header.segment_id, gap.start, header.payload_bytes, header.type)
        where = "behind the last commit" if gap.start >= limit else "that was not in use"
        reason = f"a {type_name(header.type)} segment {where} is damaged"
        rows = row_count(entry, dimension) if entry.payload_bytes <= PAYLOAD_BYTES_MAX else 0
        found.append(Flaw(gap.start, reason, rows))
    return found


# --- the new file ------------------------------------------------------------------------------


class _Writing:
    """The content of the new file. ``lost`` gets what cannot be copied though it is intact."""

    def __init__(
        self, view: memoryview, pieces: Pieces, reading: Reading, stop: int, lost: list[Flaw]
    ) -> None:
        loaded = reading.loaded
        self._view = view
        self._loaded = loaded
        live = loaded.table.live_in_id_order()
        self.rows: NDArray[np.int64] = live[live >= loaded.inherited_rows]
        self._lost = lost
        self._listed = {entry.offset for entry in reading.sound}
        self._copied = self._choose(pieces, stop)
        catalog = loaded.catalog.copy()
        catalog.vecs, catalog.others, catalog.deleted = [], [], set()
        catalog.record_entry = None
        catalog.unlisted_bytes = catalog.witnesses = 0
        catalog.witness_hash = witness.CHAIN_START
        catalog.epoch = min(_EPOCH_MAX, catalog.epoch + 1)
        ids = (self._entry(offset).segment_id for offset in self._copied)
        taken = max((number for number in ids if number < 1 << 63), default=0)
        catalog.next_segment_id = max(catalog.next_segment_id, taken + 1)
        self._commit = Commit(catalog, 0)

    def rows_from(self, offset: int) -> int:
        """How many of the rows lie in segments from ``offset`` on."""
        return sum(
            int(np.count_nonzero((self.rows >= s.first_row) & (self.rows < s.first_row + s.rows)))
            for s in self._loaded.catalog.vecs
            if s.entry.offset >= offset
        )

    def chunks(self) -> Iterator[bytes]:
        """The new file."""
        commit = self._commit
        yield from self._vectors()
        yield from self._metadata()
        for offset in self._copied:
            header = decode_header(self._view, offset)
            assert header is not None
            if header.type == SegmentType.WITNESS:
                self._follow(self._entry(offset))
            commit.copied(self._view, offset, header, self._is_listed(self._entry(offset)))
            yield commit.drain()
        commit.store_record(self._loaded.catalog.record)
        commit.witness(
            f"repair:rows={len(self.rows)},lost={len(self._lost)},epoch={commit.catalog.epoch}"
        )
        yield commit.finish(len(self.rows))

    def _vectors(self) -> Iterator[bytes]:
        table = self._loaded.table
        step = max(1, _SEGMENT_BYTES // vec.vec_payload_bytes(1, table.dimension))
        for start in range(0, len(self.rows), step):
            rows = self.rows[start : start + step]
            self._commit.vectors(table.ids[rows], table.vectors_at(rows), start)
            yield self._commit.drain()

    def _metadata(self) -> Iterator[bytes]:
        """All metadata, so that no older segment of it is needed."""
        table, columns = self._loaded.table, self._loaded.columns
        if not columns.has_columns:
            return
        for start in range(0, max(1, len(self.rows)), _META_ROWS):
            rows = self.rows[start : start + _META_ROWS]
            payload = meta.encode_meta(
                table.ids[rows],
                columns.take(rows),
                generation=self._commit.next_generation(),
                snapshot=not start,
            )
            self._commit.other(SegmentType.META, payload)
            yield self._commit.drain()

    # --- what is copied byte for byte ------------------------------------------------------

    def _choose(self, pieces: Pieces, stop: int) -> list[int]:
        """Offsets of the segments to copy, in the order of the old file."""
        found = np.frombuffer(pieces.offsets, np.uint64)
        listed = np.array(sorted(self._listed), np.uint64)
        chosen = []
        expected, dropped = witness.CHAIN_START, Flaw(None, "", 0)
        for offset in map(int, sets.union(found[found < stop], listed)):
            entry = self._entry(offset)
            if entry.type == SegmentType.WITNESS:
                payload = payload_at(self._view, entry)
                if _previous_hash(payload) not in (expected, witness.CHAIN_START):
                    first = offset if dropped.offset is None else dropped.offset
                    dropped = Flaw(first, "", dropped.rows + 1)
                    continue
                expected = witness.entry_hash(payload)
            elif entry.type in _MADE_ANEW or not self._is_kept(entry):
                continue
            chosen.append(offset)
        if dropped.offset is not None:
            reason = f"{dropped.rows} witnesses that do not follow the one before are left out"
            self._lost.append(Flaw(dropped.offset, reason))
        return chosen

    def _is_kept(self, entry: Entry) -> bool:
        if entry.type in _ONLY_LISTED:
            return entry.offset in self._listed
        payload = payload_at(self._view, entry)
        return entry.type != SegmentType.META or payload[: len(meta.MAGIC)] != meta.MAGIC

    def _is_listed(self, entry: Entry) -> bool:
        return entry.offset in self._listed and entry.type != SegmentType.WITNESS

    def _entry(self, offset: int) -> Entry:
        header = decode_header(self._view, offset)
        assert header is not None
        return Entry(header.segment_id, offset, header.payload_bytes, header.type)

    def _follow(self, entry: Entry) -> None:
        catalog = self._commit.catalog
        catalog.witness_hash = witness.entry_hash(payload_at(self._view, entry))
        catalog.witnesses += 1


def _previous_hash(payload: memoryview) -> bytes:
    """What a witness names as the one before; of one that is broken, what no witness names."""
    try:
        return witness.decode_witness(payload).previous_hash
    except InvalidFormat:
        return b""
