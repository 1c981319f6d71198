"""A registry's file on disk, written as a whole each time, and the generation before it.

A new generation is written beside the file, synced, and renamed over it; then the directory is
synced. So the file is always one whole generation, the old or the new. The one before stays as
``.previous``: the same file under a second name.

Without a sync (``durability`` of ``interval`` or ``never``) a power loss may leave the new name on
a file whose content never came. So before the first unsynced generation the mark ``.unsynced`` is
left, and ``.previous`` stays the last generation that was synced; recovery goes back to it.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

from holdfast.formats.errors import HoldfastError, StoreFull, from_os_error
from holdfast.workers.disk import (
    Disk,
    File,
    directory_of,
    give_second_name,
    remove_if_there,
)
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import UNSYNCED_SUFFIX, Fatal, clear_unsynced, guard

# Not the usual suffix for temporary files: the original writes its own under that name.
NEW_SUFFIX = ".new"
PREVIOUS_SUFFIX = ".previous"
_WRITE_BYTES = 8 << 20
_CRC_FROM_END = 12  # where a file's checks keep the checksum that tells it from others

Notes = Iterable[tuple[tuple[int, int], tuple[int, int]]]


class RegistryFile:
    """The file at ``path``, and what is synced of it."""

    def __init__(
        self,
        disk: Disk,
        file: File,
        held: File,
        ledger: Ledger,
        tick: Callable[[], None],
        *,
        synced: bool,
    ) -> None:
        self._disk = disk
        self._tick = tick
        self._file = file
        self._held = held
        self._ledger = ledger
        self.path = file.path
        self.end = file.size()
        self.unsynced_bytes = 0 if synced else self.end
        self.synced_at = time.monotonic() if synced else None
        self._inode = file.inode()

    def is_in_place(self) -> bool:
        """False once somebody else removed or replaced the file."""
        return self._disk.inode_at(self.path) == self._inode

    def put(self, chunks: Iterable[bytes], notes: Notes, *, sync: bool) -> None:
        """Make ``chunks`` the file's content, and have the ledger tell whose requests it brings.

        Raises ``StoreFull`` or ``StoreIOError`` when it cannot be written; the file is as before
        then. ``Fatal`` when nobody can tell which file is in place, or a sync fails.
        """
        try:
            file, held = self._write_beside(chunks, notes, sync=sync)
        except HoldfastError:
            raise  # some are an OSError, too
        except OSError as error:
            raise from_os_error(error, "write", self.path) from error
        try:
            self._disk.rename(self.path + NEW_SUFFIX, self.path)
            if sync:
                self._disk.sync_directory(directory_of(self.path))
        except OSError as error:
            raise Fatal(f"cannot put the new {self.path!r} in place: {error}") from error
        self._ledger.replaced()
        self._swap(file, held)
        if not sync:
            self.unsynced_bytes = self.end
            return
        self.synced_at = time.monotonic()
        if self.unsynced_bytes:
            self._clear_mark()

    def _write_beside(
        self, chunks: Iterable[bytes], notes: Notes, *, sync: bool
    ) -> tuple[File, File]:
        """Write the new file and everything that has to be there before it gets its name."""
        new = self.path + NEW_SUFFIX
        remove_if_there(self._disk, new)
        file = self._disk.create(new)
        held: File | None = None
        try:
            end = self._write(file, chunks, sync=sync)
            held = guard(self._disk, new)
            self._disk.copy_mode(self.path, new)
            if not self.unsynced_bytes:
                self._keep_previous()
                if not sync:
                    self._mark_unsynced()
            crc_at = end - _CRC_FROM_END
            crc = int.from_bytes(file.read_at(crc_at, 4), "little")
            self._ledger.replacing(notes, file.inode(), end, crc, crc_at)
        except BaseException as error:
            file.close()
            if held is not None:
                held.close()
            if isinstance(error, Exception):
                with contextlib.suppress(OSError):
                    remove_if_there(self._disk, new)
            raise
        return file, held

    def _write(self, file: File, chunks: Iterable[bytes], *, sync: bool) -> int:
        end = 0
        for pieces in _worth_a_call(chunks):
            file.write_at(end, *pieces)
            end += sum(map(len, pieces))
            if sync:
                self._sync_new(file)
            self._tick()
        return end

    def _sync_new(self, file: File) -> None:
        try:
            file.sync()
        except OSError as error:
            refused = from_os_error(error, "sync", self.path)
            if isinstance(refused, StoreFull):  # nothing depends on this file; it is removed
                raise refused from error
            raise Fatal(f"cannot sync {file.path!r}: {error.strerror}") from error

    def _keep_previous(self) -> None:
        """Give the file in place, which is synced, its second name."""
        previous = self.path + PREVIOUS_SUFFIX
        remove_if_there(self._disk, previous + NEW_SUFFIX)
        give_second_name(self._disk, self.path, previous + NEW_SUFFIX)
        self._disk.rename(previous + NEW_SUFFIX, previous)

    def _mark_unsynced(self) -> None:
        """Leave the mark, durably, and so the previous generation's name."""
        mark = self._disk.open(self.path + UNSYNCED_SUFFIX, write=True, create=True)
        try:
            mark.write_at(0, self._disk.boot_id())
        finally:
            mark.close()
        self._disk.sync_directory(directory_of(self.path))

    def _swap(self, file: File, held: File) -> None:
        self._file.close()
        self._held.close()
        self._file, self._held = file, held
        file.path = self.path
        self.end, self._inode = file.size(), file.inode()

    def sync(self) -> None:
        """Sync the file in place and its name. A failure is final."""
        try:
            self._file.sync()
            self._disk.sync_directory(directory_of(self.path))
        except OSError as error:
            raise Fatal(f"cannot sync {self.path!r}: {error.strerror}") from error
        self.synced_at = time.monotonic()
        self._clear_mark()

    def _clear_mark(self) -> None:
        """Remove the mark, now that the file and its name are synced."""
        try:
            clear_unsynced(self._disk, self.path)
        except OSError as error:
            raise Fatal(f"cannot remove the mark beside {self.path!r}: {error.strerror}") from error
        self.unsynced_bytes = 0

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
        self._held.close()


def _worth_a_call(chunks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The same bytes, as many together as are worth a system call."""
    gathered: list[bytes] = []
    size = 0
    for chunk in chunks:
        gathered.append(chunk)
        size += len(chunk)
        if size >= _WRITE_BYTES:
            yield gathered
            gathered, size = [], 0
    if gathered:
        yield gathered
