"""Removing an index of a class that nobody named: its files go without being read.

A worker would have to load the rows first, and for that it would need the class.
"""

import contextlib
import os

from holdfast.formats.errors import HoldfastError, from_os_error
from holdfast.formats.iqdb_snapshot import HEADER_BYTES_MAX, PREAMBLE_BYTES, decode_header
from holdfast.formats.iqdb_values import IndexFlaw
from holdfast.workers.disk import Disk
from holdfast.workers.index_recovery import WAL_SUFFIX, drop_files
from holdfast.workers.index_snapshot import CORE_TYPES
from holdfast.workers.lock import SUFFIX as LOCK_SUFFIX
from holdfast.workers.lock import Lock, describe_self
from holdfast.workers.log_file import guard


def is_foreign(disk: Disk, path: str) -> bool:
    """Whether the snapshot at ``path`` says that it holds an index of a class of somebody's own."""
    try:
        file = disk.open(path)
        try:
            header = decode_header(file.read_at(0, HEADER_BYTES_MAX + PREAMBLE_BYTES))
        finally:
            file.close()
    except (IndexFlaw, OSError):
        return False
    return header.index_type not in CORE_TYPES


def remove_unread(disk: Disk, path: str) -> None:
    """Remove the index at ``path`` for good. Raises ``StoreLocked``, ``StoreIOError``."""
    try:
        with contextlib.ExitStack() as held:
            lock = Lock.acquire(disk, path + LOCK_SUFFIX, describe_self(os.getpid()))
            held.callback(lock.release)
            wal = path + WAL_SUFFIX
            if disk.inode_at(wal) is not None:
                held.callback(guard(disk, wal).close)
            drop_files(disk, path)
    except HoldfastError:
        raise  # some are an OSError, too
    except OSError as error:
        raise from_os_error(error, "remove", path) from error
