"""Writing a damaged index anew from what is intact of its snapshot and log.

Without salvage the snapshot has to be whole; of the log, the requests from before the damage count.
With it, intact records from behind the damage count as well, and of a snapshot with a wrong
checksum whatever rows are legible: nothing says then that they are what was written.
"""

from collections.abc import Callable, Iterator

import numpy as np

from holdfast.formats.checksum import crc32, crc32_combine
from holdfast.formats.errors import InvalidArgument, InvalidFormat, StoreExists
from holdfast.formats.fold_log import Ending
from holdfast.formats.iqdb_core import decode_header as decode_core
from holdfast.formats.iqdb_snapshot import Compression, encode_header, encode_preamble
from holdfast.formats.iqdb_values import IndexFlaw, encode_metadata
from holdfast.formats.iqdb_wal import HEADER
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import Disk, remove_if_there, replace, write_beside
from holdfast.workers.index_closing import SUFFIX as CLOSED_SUFFIX
from holdfast.workers.index_inspection import IndexReport, LogView, examine_index
from holdfast.workers.index_log import apply_log, intact_parts
from holdfast.workers.index_recovery import WAL_SUFFIX
from holdfast.workers.index_salvage import forget_trial
from holdfast.workers.index_snapshot import CORE_TYPES
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.log_file import clear_unsynced
from holdfast.workers.standing import Flaw, Rewriting

_COPY_BYTES = 1 << 20


def repair_index(disk: Disk, path: str, *, salvage: bool, tick: Callable[[], None]) -> Rewriting:
    """The snapshot that can be made of the index at ``path``; uncompressed, and without a log.

    Raises ``InvalidFormat`` when there is nothing to start from; plain ``OSError``.
    """
    report = examine_index(disk, path, tick)
    index = _start(report, salvage, tick)
    plan = Rewriting(lambda output: write_beside(disk, output, _chunks(index)).close(), 0)
    if report.snapshot.ending is not Ending.CLEAN:
        plan.salvaged_rows = len(index)
        lost = 0 if report.header is None else max(0, report.header.rows - len(index))
        plan.lost.append(Flaw(report.snapshot.offset, report.snapshot.reason, lost))
        plan.notes.append("the rows of the snapshot match no checksum: they may be wrong")
    if report.log is not None:
        _take_log(report.log, index, plan, salvage, tick)
    plan.rows = len(index)
    return plan


def _start(report: IndexReport, salvage: bool, tick: Callable[[], None]) -> CoreIndex:
    header, verdict = report.header, report.snapshot
    if header is not None and header.index_type not in CORE_TYPES:
        raise InvalidArgument(
            f"{report.path!r} holds an index of type {header.index_type!r}, which only its own "
            "class can read: open it with salvage=True",
            path=report.path,
        )
    if verdict.ending is Ending.CLEAN:
        return CoreIndex.load(report.payload, tick)
    try:
        core = None if header is None else decode_core(report.payload)[0]
    except IndexFlaw:
        core = None
    if not salvage or header is None or core is None:
        hint = "" if core is None else "; salvage takes what rows are legible, right or wrong"
        raise InvalidFormat(
            f"{report.path!r}: nothing of the snapshot can be trusted: {verdict.reason}{hint}",
            path=report.path,
            offset=verdict.offset,
            reason=verdict.reason,
        )
    index = CoreIndex(core.dimension, core.metric, core.parameters)
    index.index_type = header.index_type
    for row in report.rows():
        encoded = None if row.metadata is None else encode_metadata(row.metadata)
        vector = np.frombuffer(row.vector, "<f4").reshape(1, -1)
        index.put([row.id], vector, [encoded])
    return index


def _take_log(
    log: LogView, index: CoreIndex, plan: Rewriting, salvage: bool, tick: Callable[[], None]
) -> None:
    verdict, reading = log.verdict, log.reading
    if reading is not None:
        apply_log(log.view, reading.skip_to, reading.end, index, tick)
    if verdict.ending is Ending.CLEAN:
        return
    length = log.log_bytes - verdict.offset
    where = f"{length} bytes of the log from {verdict.offset} on: " if log.log_bytes else ""
    plan.lost.append(Flaw(None, where + verdict.reason))
    if salvage and reading is not None:
        for start, stop in intact_parts(log.view, verdict.offset, index.dimension, tick):
            plan.salvaged_rows += apply_log(log.view, start, stop, index, tick)


def _chunks(index: CoreIndex) -> Iterator[bytes]:
    """A snapshot of the index. Its checksum comes first, so the payload is made twice."""
    size = crc = 0
    for piece in index.payload():
        size += len(piece)
        crc = crc32(piece, crc)
    preamble = encode_preamble(Compression.NONE, size)
    crc = crc32_combine(crc32(preamble), crc, size)
    yield encode_header(index.index_type, index.dimension, index.metric, len(index), crc)
    yield preamble
    for piece in index.payload():
        yield bytes(piece)


def keep_log(disk: Disk, path: str, suffix: str) -> None:
    """Keep the log of a snapshot that was replaced under another name, and begin a new one."""
    wal = path + WAL_SUFFIX
    if disk.inode_at(wal) is None:
        _forget_log(disk, wal)
        return
    if disk.inode_at(wal + suffix) is not None:
        raise StoreExists(f"{wal + suffix!r} exists", path=wal + suffix)
    file = disk.open(wal)
    try:
        old = file.map()
    finally:
        file.close()
    replace(disk, wal + suffix, (old[n : n + _COPY_BYTES] for n in range(0, len(old), _COPY_BYTES)))
    replace(disk, wal, [HEADER])
    _forget_log(disk, wal)


def _forget_log(disk: Disk, wal: str) -> None:
    """Remove what is known of a log that is no longer there."""
    remove_if_there(disk, wal + LEDGER_SUFFIX)
    remove_if_there(disk, wal + CLOSED_SUFFIX)
    forget_trial(disk, wal)
    clear_unsynced(disk, wal)
