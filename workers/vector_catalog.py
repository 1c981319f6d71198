"""What a vector store's file holds, segment by segment; and commits, which change it.

A commit is a run of segments with a manifest at its end that makes them count, appended in one
piece. It works on a copy of the catalog, which takes the place of the old one when the bytes are
in the file.
"""

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.rvf import record, vec, witness
from holdfast.formats.rvf.manifest import (
    Entry,
    Extension,
    Identity,
    Manifest,
    encode_manifest,
    manifest_bytes,
)
from holdfast.formats.rvf.record import StoreRecord
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    SegmentHeader,
    SegmentType,
    content_hash,
    encode_header,
)
from holdfast.formats.rvf.terms import Metric
from holdfast.formats.rvf.witness import Witness
from holdfast.workers.raw_arrays import Scratch

Buffer = bytes | bytearray | memoryview

METRIC_BYTES: dict[Metric, int] = {"l2": 0, "ip": 1, "cosine": 2}
NO_MANIFEST = (1 << 64) - 1

# Readers of the original's source tree look for the manifest in the last 64 KiB, header included.
MANIFEST_BYTES_MAX = 60_000
_WITNESS_OF_WRITE = 1
_WITNESS_OF_DELETE = 0


@dataclass(frozen=True, slots=True)
class VecSegment:
    """A VEC segment of this file and the rows of the table that are its rows."""

    entry: Entry
    first_row: int
    rows: int


@dataclass(slots=True)
class Catalog:
    """The state that the newest manifest describes."""

    dimension: int
    identity: Identity
    record: StoreRecord
    epoch: int = 0
    hardware: int = 0
    generation: int = 0
    """Of the newest metadata, store record or list of hidden ids."""
    next_segment_id: int = 1
    witness_hash: bytes = bytes(32)
    witnesses: int = 0
    manifest_at: int = NO_MANIFEST
    vecs: list[VecSegment] = field(default_factory=list)
    others: list[Entry] = field(default_factory=list)
    """Every other segment of the directory."""
    record_entry: Entry | None = None
    """Where the store record is, one of ``others``; other programs may use its type, too."""
    deleted: set[int] = field(default_factory=set)
    """Ids whose rows in VEC segments of this file are void."""
    unlisted_bytes: int = 0
    """Witness segments, which no directory of ours lists."""

    def copy(self) -> "Catalog":
        """Another one to change."""
        return replace(
            self, vecs=list(self.vecs), others=list(self.others), deleted=set(self.deleted)
        )

    def entries(self) -> tuple[Entry, ...]:
        """The directory. VEC segments are in the order in which later rows win."""
        return (*(segment.entry for segment in self.vecs), *self.others)

    def of_type(self, kind: SegmentType) -> list[Entry]:
        """The directory's segments of one type, VEC aside."""
        return [entry for entry in self.others if entry.type == kind]

    def drop(self, kind: SegmentType) -> None:
        """Leave all segments of this type out of the directory."""
        self.others = [entry for entry in self.others if entry.type != kind]

    def manifest_bytes(self) -> int:
        """Length of the manifest segment that lists all this."""
        return HEADER_BYTES + manifest_bytes(len(self.vecs) + len(self.others), len(self.deleted))

    def manifest(self, own_live_rows: int) -> Manifest:
        """The manifest of this state."""
        return Manifest(
            epoch=self.epoch,
            dimension=self.dimension,
            total_vectors=own_live_rows + len(self.deleted),
            profile=self.hardware,
            metric=METRIC_BYTES[self.record.metric],
            entries=self.entries(),
            deleted=np.array(sorted(self.deleted), np.uint64),
            identity=self.identity,
            extension=Extension(
                generation=self.generation,
                previous=self.manifest_at,
                next_segment_id=self.next_segment_id,
                witness_hash=self.witness_hash,
                witnesses=self.witnesses,
            ),
        )


class Commit:
    """The bytes of one commit, to be appended at ``start``, and the catalog they lead to."""

    def __init__(self, catalog: Catalog, start: int) -> None:
        self.catalog = catalog.copy()
        self.start = start
        self.end = start
        self.first_header = start
        self.first_hash = b""
        """Content hash of the first segment."""
        self.parts: list[Buffer] = []

    def _segment(self, kind: int, payload: Buffer, segment_id: int | None = None) -> Entry:
        if segment_id is None:
            segment_id = self._take_id()
        digest = content_hash(payload)
        self.first_hash = self.first_hash or digest
        header = encode_header(kind, segment_id, len(payload), digest)
        entry = Entry(segment_id, self.end, len(payload), kind)
        self.parts += (header, payload)
        self.end += len(header) + len(payload)
        return entry

    def _take_id(self) -> int:
        self.catalog.next_segment_id += 1
        return self.catalog.next_segment_id - 1

    def vectors(
        self,
        ids: NDArray[np.uint64],
        vectors: NDArray[np.float32],
        first_row: int,
        scratch: Scratch | None = None,
    ) -> None:
        """Rows, in as many VEC segments as their limit asks for.

        Those of a single segment may lie in ``scratch`` until they are written.
        """
        step = vec.rows_per_segment(self.catalog.dimension)
        for start in range(0, len(ids), step):
            # Aligned, the vectors can be searched in the mapped file, without a copy.
            padding = vec.padding_before(self.end)
            if not self.parts:
                self.first_header += padding
            self.parts.append(bytes(padding))
            self.end += padding
            part = ids[start : start + step]
            room = None
            if scratch is not None and len(part) == len(ids):
                room = scratch.take(vec.vec_payload_bytes(len(part), self.catalog.dimension))
            payload = vec.encode_vec(part, vectors[start : start + step], room)
            entry = self._segment(SegmentType.VEC, payload)
            self.catalog.vecs.append(VecSegment(entry, first_row + start, len(part)))

    def other(self, kind: SegmentType, payload: Buffer) -> None:
        """Any other segment that the directory lists."""
        self.catalog.others.append(self._segment(kind, payload))

    def copied(self, view: memoryview, offset: int, header: SegmentHeader, listed: bool) -> None:
        """A segment of another file, byte for byte; ``listed``: in the directory."""
        data = view[offset : offset + HEADER_BYTES + header.payload_bytes]
        if listed:
            self.catalog.others.append(
                Entry(header.segment_id, self.end, header.payload_bytes, header.type)
            )
        else:
            self.catalog.unlisted_bytes += len(data)
        self.parts.append(data)
        self.end += len(data)

    def drain(self) -> bytes:
        """The bytes so far, which the caller writes; the commit goes on behind them."""
        data = b"".join(self.parts)
        self.parts.clear()
        return data

    def next_generation(self) -> int:
        """For a segment of ours that is part of this commit."""
        self.catalog.generation += 1
        return self.catalog.generation

    def store_record(self, changed: StoreRecord) -> None:
        """A new store record in place of the old one."""
        catalog = self.catalog
        catalog.others = [entry for entry in catalog.others if entry != catalog.record_entry]
        catalog.record = changed
        self.other(SegmentType.STORE, record.encode_store(changed, self.next_generation()))
        catalog.record_entry = catalog.others[-1]

    def witness(self, action: str, *, delete: bool = False) -> None:
        """The next link of the witness chain."""
        catalog = self.catalog
        kind = _WITNESS_OF_DELETE if delete else _WITNESS_OF_WRITE
        payload = witness.encode_witness(
            Witness(kind, time.time_ns(), action, catalog.witness_hash)
        )
        self._segment(SegmentType.WITNESS, payload)
        catalog.witness_hash = witness.entry_hash(payload)
        catalog.witnesses += 1
        catalog.unlisted_bytes += HEADER_BYTES + len(payload)

    def finish(self, own_live_rows: int) -> bytes:
        """Add the manifest; returns all bytes of the commit."""
        self.close(own_live_rows)
        return self.drain()

    def close(self, own_live_rows: int) -> None:
        """Add the manifest to ``parts``."""
        catalog = self.catalog
        # An index of the original's would not know of this commit, and may be believed.
        catalog.drop(SegmentType.INDEX)
        at = self.end
        segment_id = self._take_id()
        self._segment(
            SegmentType.MANIFEST, encode_manifest(catalog.manifest(own_live_rows)), segment_id
        )
        catalog.manifest_at = at
