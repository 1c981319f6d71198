"""An append-only log on disk: its good length, its map, and what is synced of it."""

import time
from collections.abc import Callable

from holdfast.formats.errors import HoldfastError, StoreLocked, from_os_error
from holdfast.workers.disk import Buffer, Disk, File, directory_of, remove_if_there

# Tells a successor that a sync failed, and so that pages it can read may not be on disk. Like the
# ledger it needs no sync itself: after a power loss those pages are gone and so is the question.
UNSYNCED_SUFFIX = ".unsynced"

_BEGUN_BYTES_MIN = 64 << 10


class Fatal(Exception):
    """The actor can no longer vouch for its file: the worker must exit and a successor recover."""


class LogFile:
    """The log at ``file.path``, good up to ``end``."""

    def __init__(self, disk: Disk, file: File, end: int, guard: File) -> None:
        self._disk = disk
        self._guard = guard
        self.file = file
        self.end = end
        self.synced_end = 0
        self.synced_at: float | None = None
        self.view = file.map()
        self._inode = file.inode()

    @property
    def path(self) -> str:
        """Path of the log."""
        return self.file.path

    @property
    def unsynced_bytes(self) -> int:
        """Bytes appended since the last sync."""
        return self.end - self.synced_end

    def read(self, offset: int, length: int) -> Buffer:
        """Bytes of the log; the map serves what it covers, the file the rest."""
        stop = offset + length
        if stop <= len(self.view):
            return self.view[offset:stop]
        return self.file.read_at(offset, length)

    def remap(self) -> memoryview:
        """Map the log as long as it is now."""
        if len(self.view) < self.end:
            self.view = self.file.map()
        return self.view

    def append(self, *pieces: Buffer) -> None:
        """Append all of ``pieces`` or nothing; ``Fatal`` when a failed append cannot be undone."""
        try:
            self.file.write_at(self.end, *pieces)
        except OSError as error:
            try:
                self.file.truncate(self.end)
            except OSError as second:
                raise Fatal(f"cannot undo a failed append to {self.path!r}: {second}") from error
            raise self.error(error, "append to") from error
        self.end += sum(map(len, pieces))

    def try_room(self, size: int) -> None:
        """Raise the error that appending so many bytes would meet, for want of room, say.

        Zeros are appended and taken back; what a kill leaves of them is cut as a torn tail.
        """
        end = self.end
        self.append(bytes(size))
        self.take_back(end)

    def take_back(self, end: int) -> None:
        """Cut what was appended last, from ``end`` on; ``Fatal`` when that cannot be done."""
        try:
            self.file.truncate(end)
        except OSError as error:
            raise Fatal(f"cannot take back an append to {self.path!r}: {error}") from error
        self.end = end
        self.synced_end = min(self.synced_end, end)

    def begin_sync(self, start: int) -> None:
        """Have the disk begin with what was appended from ``start`` on, if that is worth a call.

        For whoever has something to do before ``sync``, whose failures this has as well.
        """
        if self.end - start >= _BEGUN_BYTES_MIN:
            self._sync(lambda: self.file.begin_sync(start, self.end - start))

    def sync(self) -> None:
        """Sync what was appended. A failure is final, whatever the file looks like afterwards."""
        self._sync(self.file.sync)
        self.synced_end = self.end
        self.synced_at = time.monotonic()

    def _sync(self, call: Callable[[], None]) -> None:
        try:
            call()
        except OSError as error:
            mark_unsynced(self._disk, self.path)
            raise Fatal(f"cannot sync {self.path!r}: {error.strerror}") from error

    def swap(self, file: File, end: int, guard: File) -> None:
        """Go on with another file, already synced and in place under the same path."""
        self.file.close()
        self._guard.close()
        self._guard = guard
        self.file = file
        self.end = self.synced_end = end
        self.synced_at = time.monotonic()
        self.view = file.map()
        self._inode = file.inode()

    def is_in_place(self) -> bool:
        """False once somebody removed or replaced the file: what is written now would be lost."""
        return self._disk.inode_at(self.path) == self._inode

    def error(self, error: OSError, doing: str) -> HoldfastError:
        """The typed form of an error met on this log."""
        return from_os_error(error, doing, self.path, self.end)

    def close(self) -> None:
        """Let go of the file."""
        self.view = memoryview(b"")
        self.file.close()
        self._guard.close()


def guard(disk: Disk, path: str) -> File:
    """Lock the file itself, since the lock beside it is by path and a file may have several.

    Through a descriptor of its own: a map of the file would keep the lock alive.
    """
    file = disk.open(path)
    if not file.lock():
        file.close()
        raise StoreLocked(f"{path!r} is open under another name", path=path)
    return file


def mark_unsynced(disk: Disk, path: str) -> None:
    """Leave the mark that a sync of ``path`` failed; best effort on a failing disk."""
    try:
        disk.open(path + UNSYNCED_SUFFIX, write=True, create=True).close()
    except OSError:
        return


def is_marked_unsynced(disk: Disk, path: str) -> bool:
    """Whether the last owner of ``path`` met a failing sync."""
    return disk.inode_at(path + UNSYNCED_SUFFIX) is not None


def clear_unsynced(disk: Disk, path: str) -> None:
    """Remove the mark, once the content was written anew and synced."""
    if is_marked_unsynced(disk, path):
        remove_if_there(disk, path + UNSYNCED_SUFFIX)
        disk.sync_directory(directory_of(path))
