"""Checking the files of an index that is served: the snapshot's checksum, and every record's."""

from collections.abc import Generator

from holdfast.formats import iqdb_wal
from holdfast.formats.checksum import crc32
from holdfast.formats.errors import typed_errors
from holdfast.formats.iqdb_snapshot import HEADER_BYTES_MAX, PREAMBLE_BYTES, decode_header
from holdfast.formats.iqdb_values import IndexFlaw
from holdfast.formats.iqdb_wal import HEADER_BYTES, Damage
from holdfast.workers.index_messages import IndexVerified, SnapshotInfo
from holdfast.workers.index_store import IndexStore
from holdfast.workers.messages import Progress

_SLICE_BYTES = 4 << 20

Steps = Generator[Progress | None, None, IndexVerified]


def verify_steps(store: IndexStore) -> Steps:
    """Check snapshot and log as they are now, in slices; nothing is changed.

    Raises ``StoreIOError`` where the files cannot be read.
    """
    with typed_errors("verify", store.path):
        return (yield from _verify(store))


def _verify(store: IndexStore) -> Steps:
    # A checkpoint may put others in their place meanwhile: what is mapped stays as it is.
    log = store.log.remap()[: store.log.end]
    snapshot = store.map_snapshot()
    total = len(snapshot) + len(log)
    flaw = yield from _check_snapshot(snapshot, store.snapshot_info(), total)
    records, damage = yield from _check_log(log, store.index.dimension, len(snapshot), total)
    found = ((store.path, flaw), (store.log.path, damage))
    problems = [f"{path!r}: {problem}" for path, problem in found if problem is not None]
    return IndexVerified(len(snapshot), len(log), records, problems)


def _check_snapshot(
    view: memoryview, known: SnapshotInfo, total: int
) -> Generator[Progress | None, None, str | None]:
    """What is wrong with a snapshot; None if nothing is."""
    try:
        header = decode_header(view[: HEADER_BYTES_MAX + PREAMBLE_BYTES])
    except IndexFlaw as flaw:
        return f"offset {flaw.offset}: {flaw.reason}"
    told = (header.version, header.index_type, header.dimension, header.metric, header.rows)
    if told != (known.version, known.index_type, known.dimension, known.metric, known.count):
        return f"offset 0: the header says other than what was written: {told}"
    computed = 0
    for start in range(header.header_bytes, len(view), _SLICE_BYTES):
        computed = crc32(view[start : start + _SLICE_BYTES], computed)
        yield Progress("verify", start, total)
    if computed == header.crc:
        return None
    reason = f"checksum mismatch: stored {header.crc:08x}, computed {computed:08x}"
    return f"offset {header.header_bytes}: {reason}"


def _check_log(
    view: memoryview, dimension: int, before: int, total: int
) -> Generator[Progress | None, None, tuple[int, str | None]]:
    """How many records are intact before the first that is not, and what is wrong with that."""
    problem = iqdb_wal.header_problem(bytes(view[:HEADER_BYTES]))
    if problem is not None:
        return 0, f"offset {problem.offset}: {problem.reason}"
    records = 0
    told = HEADER_BYTES
    for item in iqdb_wal.read_frames(view, HEADER_BYTES, dimension):
        if isinstance(item, Damage):
            return records, f"offset {item.offset}: {item.reason}"
        records += item.records
        if item.stop - told >= _SLICE_BYTES:
            told = item.stop
            yield Progress("verify", before + told, total)
    return records, None
