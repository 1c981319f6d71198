"""Knowing how long the log of a closed index was. See ``holdfast.formats.iqdb_closing``."""

import logging

from holdfast.formats import iqdb_closing
from holdfast.formats.iqdb_closing import NOTE_BYTES, Closing
from holdfast.formats.iqdb_snapshot import HEADER_BYTES_MAX, PREAMBLE_BYTES, decode_header
from holdfast.formats.iqdb_values import IndexFlaw
from holdfast.formats.iqdb_wal import HEADER_BYTES
from holdfast.workers.disk import Disk, directory_of, remove_if_there
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import LogFile

log = logging.getLogger("holdfast.index")

SUFFIX = ".closed"


def note_closed(disk: Disk, path: str, wal: LogFile) -> None:
    """Note how long a log is that is about to be closed, all of it synced.

    On a disk that does not take the note the index is closed without.
    """
    note = wal.path + SUFFIX
    try:
        snapshot = _snapshot_at(disk, path)
        if wal.end == HEADER_BYTES or snapshot is None:
            remove_if_there(disk, note)
            return
        file = disk.open(note, write=True, create=True)
        try:
            closing = Closing(wal.file.inode(), wal.end, *snapshot)
            file.write_at(0, iqdb_closing.encode(closing))
            file.sync()
        finally:
            file.close()
        disk.sync_directory(directory_of(path))
    except OSError as error:
        log.warning("%s: how long the log is could not be noted: %s", path, error)


def closed_bytes(disk: Disk, path: str, wal: str, inode: int | None) -> int:
    """How long the log of the snapshot at ``path`` was when it was closed; 0 if nothing tells.

    ``inode`` is that of the log, None where it is missing. Raises plain ``OSError``.
    """
    if disk.inode_at(wal + SUFFIX) is None:
        return 0
    file = disk.open(wal + SUFFIX)
    try:
        closing = iqdb_closing.decode(file.read_at(0, NOTE_BYTES + 1))
    finally:
        file.close()
    if closing is None or (inode is not None and inode != closing.log_inode):
        return 0
    known = (closing.snapshot_inode, closing.snapshot_crc)
    return closing.log_bytes if _snapshot_at(disk, path) == known else 0


def missing_log(disk: Disk, path: str, wal: str) -> str | None:
    """Why the log of the snapshot at ``path``, which is not there, should be; None if it need not.

    Raises plain ``OSError``.
    """
    closed = closed_bytes(disk, path, wal, None)
    if closed:
        return f"the log is missing; it had {closed} bytes when it was closed"
    if disk.inode_at(wal + LEDGER_SUFFIX) is not None:
        return "the log is missing, and its last owner did not close it"
    return None


def missing_snapshot(disk: Disk, path: str, wal: str) -> str | None:
    """Why the snapshot at ``path``, which is absent or empty, should not be; None if it may.

    An empty file is what a crash of other programs can leave where they begin. Beside an index that
    was in use there is a log, a ledger or a note: one that lost its bytes is never made anew.
    Raises plain ``OSError``.
    """
    empty = disk.inode_at(path) is not None
    log_bytes = 0 if disk.inode_at(wal) is None else _size(disk, wal)
    unclosed = disk.inode_at(wal + LEDGER_SUFFIX) is not None
    state = "empty" if empty else "missing"
    if log_bytes > HEADER_BYTES:
        return f"the snapshot is {state}, and the log beside it has records"
    if unclosed and (empty or disk.inode_at(wal) is not None):
        return f"the snapshot is {state}, and its last owner did not close it"
    if empty and (log_bytes == HEADER_BYTES or disk.inode_at(wal + SUFFIX) is not None):
        return "the snapshot is empty, and what is beside it says that it was not"
    return None


def is_empty(disk: Disk, path: str) -> bool:
    """Whether there is no byte at ``path``. Raises plain ``OSError``."""
    return disk.inode_at(path) is None or not _size(disk, path)


def _size(disk: Disk, path: str) -> int:
    file = disk.open(path)
    try:
        return file.size()
    finally:
        file.close()


def synced_bytes(disk: Disk, path: str, ledger: Ledger, wal: str, inode: int) -> int:
    """How much of the log with this inode was synced, for all that ledger and note tell."""
    return max(ledger.synced_of(inode), closed_bytes(disk, path, wal, inode))


def _snapshot_at(disk: Disk, path: str) -> tuple[int, int] | None:
    """Inode and checksum of a snapshot; None unless it is one."""
    if disk.inode_at(path) is None:
        return None
    file = disk.open(path)
    try:
        return file.inode(), decode_header(file.read_at(0, HEADER_BYTES_MAX + PREAMBLE_BYTES)).crc
    except IndexFlaw:
        return None
    finally:
        file.close()
