"""Looking at an index's snapshot and log without an engine; see ``holdfast.workers.inspection``.

The verdict is that of opening: on the snapshot as a whole, then on the log, the ledger beside it
included. Rows are those of the snapshot in file order, or with the log applied. Where opening
refuses, whatever is legible is shown: of a snapshot with a wrong checksum too, and then nobody
knows whether a row is what was written.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from holdfast.formats import iqdb_core, iqdb_wal
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.iqdb_core import CoreHeader
from holdfast.formats.iqdb_snapshot import (
    HEADER_BYTES_MAX,
    PREAMBLE_BYTES,
    SnapshotHeader,
    Stamp,
    check_region,
    decode_header,
    open_payload,
    split_stamp,
)
from holdfast.formats.iqdb_values import Flaw, Id, IndexFlaw, Value, decode_metadata
from holdfast.formats.iqdb_wal import HEADER_BYTES
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import Disk
from holdfast.workers.index_closing import missing_log, missing_snapshot, synced_bytes
from holdfast.workers.index_log import LogReading, apply_log, despite_sync, read_log
from holdfast.workers.index_recovery import WAL_SUFFIX
from holdfast.workers.index_snapshot import CORE_TYPES, FOREIGN
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import is_marked_unsynced
from holdfast.workers.standing import STANDINGS, Standing

IQDB = "iqdb"


class IndexRowView(NamedTuple):
    """A row: ``vector`` is float32, little-endian."""

    id: Id
    vector: bytes
    metadata: dict[str, Value] | None


@dataclass(frozen=True, slots=True)
class LogView:
    """What the log beside a snapshot holds."""

    verdict: Verdict
    frames: int
    """Records of whole requests."""
    log_bytes: int
    reading: LogReading | None = field(default=None, repr=False)
    view: memoryview = field(default=memoryview(b""), repr=False)


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What a snapshot and its log hold, or what is named like one."""

    path: str
    header: SnapshotHeader | None
    snapshot: Verdict
    log: LogView | None
    file_bytes: int
    payload: memoryview = field(default=memoryview(b""), repr=False)
    index: CoreIndex | None = field(default=None, repr=False)
    """What there is with the log applied, if that was asked for."""

    format: str = IQDB

    @property
    def verdict(self) -> Verdict:
        """On the two together; its offset is one in the file that is damaged."""
        if self.snapshot.ending is not Ending.CLEAN or self.log is None:
            return self.snapshot
        if self.log.verdict.ending is Ending.CLEAN:
            return self.snapshot
        verdict = self.log.verdict
        return Verdict(verdict.ending, verdict.offset, f"in the log: {verdict.reason}")

    @property
    def standing(self) -> Standing:
        """What can be done with it."""
        if self.header is None and self.snapshot.ending is Ending.INVALID:
            return Standing.NOT_OURS
        return STANDINGS[self.verdict.ending]

    @property
    def problems(self) -> list[str]:
        """What there is to say beyond the verdict."""
        if self.header is not None and self.header.index_type not in CORE_TYPES:
            return [f"only its own class can read an index of type {self.header.index_type!r}"]
        return []

    @property
    def count(self) -> int | None:
        """How many rows the header tells of, or there are with the log applied."""
        if self.index is not None:
            return len(self.index)
        return None if self.header is None else self.header.rows

    def applied(self) -> "IndexReport":
        """The report on what there is with the log applied, as far as both are whole."""
        if self.snapshot.ending is not Ending.CLEAN or not self._is_core():
            return self
        index = CoreIndex.load(self.payload)
        if self.log is not None and self.log.reading is not None:
            reading = self.log.reading
            apply_log(self.log.view, reading.skip_to, reading.end, index, lambda: None)
        return replace(self, index=index)

    def rows(self) -> Iterator[IndexRowView]:
        """The rows in file order, as far as they are legible."""
        return self._rows_of_snapshot() if self.index is None else _rows_of(self.index)

    def _is_core(self) -> bool:
        return self.header is not None and self.header.index_type in CORE_TYPES

    def _rows_of_snapshot(self) -> Iterator[IndexRowView]:
        if not self._is_core():
            return
        try:
            header, start = iqdb_core.decode_header(self.payload)
            for batch in iqdb_core.decode_rows(self.payload, start, header):
                entries = batch.metadata or [None] * len(batch.ids)
                for id_, vector, encoded in zip(batch.ids, batch.vectors, entries, strict=True):
                    yield _row(id_, vector.astype("<f4").tobytes(), encoded)
        except IndexFlaw:
            return  # the verdict tells of it

    def fields(self) -> dict[str, object]:
        """The report as JSON has it, without rows; null where no header is legible."""
        header, log = self.header, self.log
        compression = None if header is None else header.compression
        fields: dict[str, object] = {
            "format": self.format,
            "verdict": str(self.verdict.ending),
            "version": None if header is None else header.version,
            "index_type": None if header is None else header.index_type,
            "dim": None if header is None else header.dimension,
            "metric": None if header is None else header.metric,
            "count": self.count,
            "compression": None if compression is None else compression.name.lower(),
            "wal": None
            if log is None
            else {"frames": log.frames, "verdict": str(log.verdict.ending)},
        }
        if self.verdict.ending is not Ending.CLEAN:
            fields |= {"offset": self.verdict.offset, "reason": self.verdict.reason}
        return fields

    def summary(self) -> dict[str, object]:
        """The report as text has it."""
        fields = self.fields()
        if self.log is not None:
            fields["wal"] = f"{self.log.frames} records, {self.log.verdict.ending}"
            if self.log.frames and self.index is None and self._is_core():
                fields["wal"] = f"{fields['wal']}; --wal counts and shows rows with these applied"
        return fields

    def figures(self) -> dict[str, object]:
        """What matters beside other stores: rows are those there are with the log applied.

        None where only the class of the index could tell.
        """
        log_bytes, rows = 0, self.count
        if self.log is not None:
            log_bytes = self.log.log_bytes
            if self.log.frames:
                rows = self.applied().count if self._is_core() else None
        return self.fields() | {"live_rows": rows, "file_bytes": self.file_bytes + log_bytes}


def _rows_of(index: CoreIndex) -> Iterator[IndexRowView]:
    table = index.table
    for slot, id_ in enumerate(table.ids):
        yield _row(id_, table.vectors[slot].astype("<f4").tobytes(), table.metadata[slot])


def _row(id_: Id, vector: bytes, encoded: bytes | None) -> IndexRowView:
    return IndexRowView(id_, vector, None if encoded is None else decode_metadata(encoded)[0])


def examine_index(disk: Disk, path: str, tick: Callable[[], None]) -> IndexReport:
    """The index at ``path``; raises plain ``OSError`` when it cannot be read."""
    view = _mapped(disk, path)
    if not len(view):
        reason = missing_snapshot(disk, path, path + WAL_SUFFIX)
        ending = Ending.TORN if reason is None else Ending.CORRUPT
        reason = reason or "the file is empty; opening it with a dimension makes an empty index"
        return IndexReport(path, None, Verdict(ending, 0, reason), None, 0)
    try:
        header = decode_header(view[: HEADER_BYTES_MAX + PREAMBLE_BYTES])
    except IndexFlaw as flaw:
        ours = flaw.flaw not in (Flaw.MAGIC, Flaw.VERSION)
        ending = Ending.CORRUPT if ours else Ending.INVALID
        return IndexReport(path, None, Verdict(ending, flaw.offset, flaw.reason), None, len(view))
    payload, stamp, snapshot = _judge_snapshot(view, header, tick)
    log = _examine_log(disk, path, header.dimension, stamp, tick)
    return IndexReport(path, header, snapshot, log, len(view), payload)


def _judge_snapshot(
    view: memoryview, header: SnapshotHeader, tick: Callable[[], None]
) -> tuple[memoryview, Stamp | None, Verdict]:
    """The payload as far as it can be had, the stamp, and what opening would say."""
    payload, stamp = memoryview(b""), None
    try:
        payload, stamp = split_stamp(open_payload(view, header))
        check_region(view, header, tick)
        if header.index_type in CORE_TYPES:
            _check_rows(payload, header, tick)
    except IndexFlaw as flaw:
        ending = Ending.INVALID if flaw.flaw in FOREIGN else Ending.CORRUPT
        return payload, stamp, Verdict(ending, flaw.offset, flaw.reason)
    return payload, stamp, Verdict(Ending.CLEAN, len(view))


def _check_rows(payload: memoryview, header: SnapshotHeader, tick: Callable[[], None]) -> None:
    """Raise ``IndexFlaw`` unless the rows are what the header says, each with an id of its own."""
    core, start = iqdb_core.decode_header(payload)
    seen: set[Id] = set()
    for batch in iqdb_core.decode_rows(payload, start, core, tick):
        seen.update(batch.ids)
    if len(seen) != core.rows:
        reason = f"{core.rows} rows, of which only {len(seen)} have ids of their own"
        raise IndexFlaw(Flaw.PAYLOAD, reason, start)
    if _told(core) != (header.dimension, header.metric, header.rows):
        reason = "the header says other than the payload of dimension, metric or number of vectors"
        raise IndexFlaw(Flaw.PAYLOAD, reason, header.header_bytes)


def _told(core: CoreHeader) -> tuple[int, str, int]:
    return core.dimension, core.metric, core.rows


def _examine_log(
    disk: Disk, path: str, dimension: int, stamp: Stamp | None, tick: Callable[[], None]
) -> LogView | None:
    """The log beside a snapshot, if there is one."""
    wal = path + WAL_SUFFIX
    if disk.inode_at(wal) is None:
        reason = missing_log(disk, path, wal)
        return None if reason is None else LogView(Verdict(Ending.CORRUPT, 0, reason), 0, 0)
    file = disk.open(wal)
    try:
        ledger = Ledger(disk, wal)  # ahead of the map: so it never tells of more than is mapped
        view, inode = file.map(), file.inode()
    finally:
        file.close()
    synced = synced_bytes(disk, path, ledger, wal, inode)
    if not any(view[:HEADER_BYTES]) and not any(bytes(view)):
        empty = Verdict(Ending.TORN if len(view) else Ending.CLEAN, 0, "nothing but zeros")
        return LogView(despite_sync(empty, synced), 0, len(view))
    problem = iqdb_wal.header_problem(bytes(view[:HEADER_BYTES]))
    if problem is not None:
        return LogView(Verdict(Ending.INVALID, problem.offset, problem.reason), 0, len(view))
    if len(view) < HEADER_BYTES:
        short = Verdict(Ending.TORN, 0, "the file ends inside its header")
        return LogView(despite_sync(short, synced), 0, len(view))
    try:
        reading = read_log(view, dimension, stamp, tick)
    except IndexFlaw as flaw:
        ending = Ending.INVALID if flaw.flaw in FOREIGN else Ending.CORRUPT
        return LogView(Verdict(ending, flaw.offset, flaw.reason), 0, len(view))
    sync_failed = is_marked_unsynced(disk, wal)
    unsynced_from = ledger.unsynced_from(view, inode, sync_failed=sync_failed)
    verdict = iqdb_wal.judge(
        view, reading.damage, dimension, unsynced_from=unsynced_from, tick=tick
    )
    if verdict.ending is Ending.CLEAN and reading.end < len(view):
        verdict = Verdict(Ending.TORN, reading.end, "a request was logged only in part")
    return LogView(despite_sync(verdict, synced), reading.records, len(view), reading, view)


def _mapped(disk: Disk, path: str) -> memoryview:
    file = disk.open(path)
    try:
        return file.map()
    finally:
        file.close()
