"""What an index's snapshot says of itself, without loading it."""

from holdfast.formats.errors import typed_errors
from holdfast.formats.iqdb_snapshot import HEADER_BYTES_MAX, PREAMBLE_BYTES, decode_header
from holdfast.formats.iqdb_values import IndexFlaw
from holdfast.workers.disk import Disk
from holdfast.workers.index_messages import SnapshotInfo
from holdfast.workers.index_recovery import WAL_SUFFIX
from holdfast.workers.index_snapshot import flawed


def told_by(disk: Disk, path: str) -> SnapshotInfo:
    """The header of the snapshot at ``path``, and how long it and its log are.

    Raises ``InvalidFormat``, ``StoreCorrupt``, ``StoreIOError``.
    """
    with typed_errors("read", path):
        return _told_by(disk, path)


def _told_by(disk: Disk, path: str) -> SnapshotInfo:
    file = disk.open(path)
    try:
        header = decode_header(file.read_at(0, HEADER_BYTES_MAX + PREAMBLE_BYTES))
        file_bytes = file.size()
    except IndexFlaw as flaw:
        raise flawed(path, flaw) from flaw
    finally:
        file.close()
    compression = header.compression
    return SnapshotInfo(
        version=header.version,
        index_type=header.index_type,
        dimension=header.dimension,
        metric=header.metric,
        count=header.rows,
        compression=None if compression is None else compression.name.lower(),
        file_bytes=file_bytes,
        log_bytes=_log_bytes(disk, path + WAL_SUFFIX),
    )


def _log_bytes(disk: Disk, wal: str) -> int:
    """How long a log is; 0 where there is none."""
    if disk.inode_at(wal) is None:
        return 0
    file = disk.open(wal)
    try:
        return file.size()
    finally:
        file.close()
