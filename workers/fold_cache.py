"""The index cache of a fold on disk; see ``holdfast.formats.fold_index`` for what is in it."""

import logging
from collections.abc import Generator

from holdfast.formats import fold_index
from holdfast.workers.disk import TEMPORARY_SUFFIX, Disk, remove_if_there

log = logging.getLogger("holdfast.fold")

INDEX_SUFFIX = ".index"
_SLICE_BYTES = 1 << 20


def load_index(disk: Disk, path: str, view: memoryview, inode: int) -> fold_index.FoldIndex | None:
    """The index cache of the log at ``path``, if there is one that fits."""
    try:
        if disk.inode_at(path + INDEX_SUFFIX) is None:
            return None
        file = disk.open(path + INDEX_SUFFIX)
        try:
            index = fold_index.decode(file.read_at(0, file.size()))
        finally:
            file.close()
    except OSError as error:
        log.warning("index cache of %s cannot be read, so it is ignored: %s", path, error)
        return None
    if index is None or index.inode != inode:
        return None
    expected = fold_index.fingerprint(view, index.spans, index.last_record, index.covered)
    return index if expected == index.fingerprint else None


def save_index(disk: Disk, path: str, data: bytes) -> Generator[None, None, None]:
    """Put the cache in place, unsynced: its checksum tells whether all of it got there."""
    temporary = path + INDEX_SUFFIX + TEMPORARY_SUFFIX
    file = disk.open(temporary, write=True, create=True)
    try:
        file.truncate(0)
        for start in range(0, len(data), _SLICE_BYTES):
            file.append(data[start : start + _SLICE_BYTES])
            yield
        disk.rename(temporary, path + INDEX_SUFFIX)
    except BaseException:  # broken off, too
        remove_if_there(disk, temporary)
        raise
    finally:
        file.close()
