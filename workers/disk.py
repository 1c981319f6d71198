"""The one file layer: every file a worker touches, it touches through a ``Disk``.

``OsDisk`` is the real one. Tests and drills put a recording or failing one in its place, which is
why the operations are few and small: what a crash can interrupt is visible here.

A ``Disk`` raises plain ``OSError``; the actors turn it into typed errors, since only they know what
was being done and what state is left.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

Buffer = bytes | bytearray | memoryview

TEMPORARY_SUFFIX = ".tmp"
_SYNC_EVERY_BYTES = 16 * 1024 * 1024
_PIECES_MAX = 1024  # that one call writes
_COPY_BYTES = 8 * 1024 * 1024
# What file systems say that cannot give a file a second name.
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# What they say that know no F_FULLFSYNC, as of a server or in a container.
_NO_FULL_SYNC = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
_SYNC_FILE_RANGE_WRITE = 2
_SYNC_FILE_RANGE_ALL = 1 | 2 | 4  # wait for what is being written, write the rest, wait for that


class File(Protocol):
    """An open file. Offsets and sizes are in bytes."""

    path: str

    def size(self) -> int:
        """Length now."""
        ...

    def inode(self) -> int:
        """What identifies the file on its file system while it exists."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        ...

    def append(self, data: Buffer) -> None:
        """Write all of ``data`` at the end. A failure may leave a part of it there."""
        ...

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        """Write all of ``pieces``, one behind the other, from ``offset`` on.

        A failure may leave a part of it there.
        """
        ...

    def truncate(self, size: int) -> None:
        """Cut or extend to ``size``."""
        ...

    def sync(self) -> None:
        """Return once data and length are on stable storage. A failure is final: never retry."""
        ...

    def begin_sync(self, offset: int, length: int) -> None:
        """Begin to bring a range to the disk, on systems that can be told so, and do not wait.

        So that the ``sync`` that follows, which this never stands in for, waits less. A failure is
        as final as one of ``sync``.
        """
        ...

    def write_behind(self, offset: int, length: int) -> None:
        """Begin to bring a range to the disk, and wait for what lies before it.

        So that a later ``sync``, which this never stands in for, takes less time.
        """
        ...

    def map(self) -> memoryview:
        """A read-only view of the file as long as it is now; it outlives the file's removal."""
        ...

    def lock(self) -> bool:
        """Take the file's exclusive lock, at once; False when another process has it."""
        ...

    def close(self) -> None:
        """Let go of the descriptor, and with it of a lock."""
        ...


class Disk(Protocol):
    """A file system."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> File:
        """Open ``path``; ``create`` makes it if absent."""
        ...

    def create(self, path: str) -> File:
        """Make the file ``path``; ``FileExistsError`` if there is anything of that name."""
        ...

    def inode_at(self, path: str) -> int | None:
        """The inode of the file at ``path``, following links; None when there is none."""
        ...

    def is_directory(self, path: str) -> bool:
        """Whether ``path`` is a directory."""
        ...

    def list(self, path: str) -> list[tuple[str, str]]:
        """Names in a directory, sorted, each with ``file``, ``directory`` or ``other``.

        A symbolic link is ``other``.
        """
        ...

    def make_directory(self, path: str) -> None:
        """Make one directory; its parent must exist."""
        ...

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file."""
        ...

    def rename(self, source: str, destination: str) -> None:
        """Rename, replacing a file at ``destination`` in one step."""
        ...

    def link(self, source: str, destination: str) -> None:
        """Give the file ``source`` a second name; ``FileExistsError`` if that is taken."""
        ...

    def copy_mode(self, source: str, destination: str) -> None:
        """Give ``destination`` the permissions and, where allowed, the owner of ``source``."""
        ...

    def sync_directory(self, path: str) -> None:
        """Return once the names in a directory are on stable storage."""
        ...

    def boot_id(self) -> bytes:
        """16 bytes that differ after every start of the machine."""
        ...


class OsFile:
    """A file of the operating system."""

    _descriptor = -1

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def inode(self) -> int:
        return os.fstat(self._descriptor).st_ino

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]  # one call reads 2 GiB at most
        read = len(data)
        while read < length and (more := os.pread(self._descriptor, length - read, offset + read)):
            parts.append(more)
            read += len(more)
        return b"".join(parts)

    def append(self, data: Buffer) -> None:
        self.write_at(self.size(), data)

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        left: Sequence[Buffer] = pieces
        while left:
            written = os.pwritev(self._descriptor, left[:_PIECES_MAX], offset)
            offset += written
            left = unwritten(left, written)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def sync(self) -> None:
        if sys.platform == "darwin":
            sync_fully(self._descriptor)
        else:
            os.fdatasync(self._descriptor)

    def begin_sync(self, offset: int, length: int) -> None:
        if sys.platform == "linux":
            write_range(self._descriptor, offset, length, wait=False)

    def write_behind(self, offset: int, length: int) -> None:
        if sys.platform == "linux":
            write_range(self._descriptor, 0, offset, wait=True)
            self.begin_sync(offset, length)
        else:
            os.fsync(self._descriptor)  # which does not wait for the drive's own cache here

    def map(self) -> memoryview:
        size = self.size()
        if not size:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._descriptor, size, prot=mmap.PROT_READ))

    def lock(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def fileno(self) -> int:
        """The descriptor, for handing a lock over to a child process."""
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()  # a lock must not stay with a process in which Ctrl-C came before this


class OsDisk:
    """The operating system's files."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        flags = os.O_RDWR if write else os.O_RDONLY
        if create:
            flags |= os.O_CREAT
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISFIFO(os.stat(path).st_mode):  # which would wait for its other end
                raise OSError(errno.EINVAL, "it is a pipe", path)
        return OsFile(path, os.open(path, flags | os.O_CLOEXEC, 0o666))

    def create(self, path: str) -> OsFile:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return OsFile(path, os.open(path, flags, 0o666))

    def inode_at(self, path: str) -> int | None:
        try:
            return os.stat(path).st_ino
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_directory(self, path: str) -> bool:
        return os.path.isdir(path)

    def list(self, path: str) -> list[tuple[str, str]]:
        found = []
        with os.scandir(path) as entries:
            for entry in entries:
                kind = "other"  # also one that is gone by now
                if entry.is_file(follow_symlinks=False):
                    kind = "file"
                elif entry.is_dir(follow_symlinks=False):
                    kind = "directory"
                found.append((entry.name, kind))
        return sorted(found)

    def make_directory(self, path: str) -> None:
        os.mkdir(path)

    def remove_directory(self, path: str) -> None:
        os.rmdir(path)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def rename(self, source: str, destination: str) -> None:
        os.rename(source, destination)

    def link(self, source: str, destination: str) -> None:
        os.link(source, destination)

    def copy_mode(self, source: str, destination: str) -> None:
        kept = os.stat(source)
        os.chmod(destination, stat.S_IMODE(kept.st_mode))
        # Only root may give files away; for anyone else the owner is the same already.
        with contextlib.suppress(PermissionError):
            os.chown(destination, kept.st_uid, kept.st_gid)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if sys.platform == "darwin":
                sync_fully(descriptor)
            else:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def boot_id(self) -> bytes:
        text = read_system_file("/proc/sys/kernel/random/boot_id")
        if text:
            return bytes.fromhex(text.strip().replace("-", ""))
        import psutil

        return int(psutil.boot_time()).to_bytes(16, "big")


def sync_fully(descriptor: int) -> None:
    """Sync a file or directory on macOS, whose fsync leaves what it writes in the drive's cache.

    Where a file system does not know how, fsync is all there is. Other errors are those of a sync,
    which must not be tried again.
    """
    try:
        # Only the platform that this is for knows it.
        fcntl.fcntl(descriptor, getattr(fcntl, "F_FULLFSYNC"))  # noqa: B009
    except OSError as error:
        if error.errno not in _NO_FULL_SYNC:
            raise
        os.fsync(descriptor)


def unwritten(pieces: Sequence[Buffer], written: int) -> list[Buffer]:
    """What is left of ``pieces`` when so many bytes of them were taken."""
    left: list[Buffer] = []
    for piece in pieces:
        if written < len(piece):
            left.append(memoryview(piece)[written:] if written else piece)
        written = max(0, written - len(piece))
    return left


def write_range(descriptor: int, offset: int, length: int, *, wait: bool) -> None:
    """Have Linux begin to write a range of a file to the disk, and with ``wait`` finish it."""
    call = _sync_file_range()
    if call is None or not length:  # which would mean all of the file
        return
    flags = _SYNC_FILE_RANGE_ALL if wait else _SYNC_FILE_RANGE_WRITE
    if call(descriptor, offset, length, flags):
        code = ctypes.get_errno()
        if code not in (errno.ENOSYS, errno.ESPIPE):  # the file system may not know of it
            raise OSError(code, os.strerror(code))


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    """A call of which Python knows nothing."""
    try:
        call = ctypes.CDLL(None, use_errno=True).sync_file_range
    except AttributeError:  # not every C library has it
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


def anonymous_memory(size: int) -> memoryview:
    """Memory that belongs to no file and, unlike a bytearray, costs nothing until written to."""
    try:
        return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except OSError as error:  # and not an error of the socket that is being read
        raise MemoryError(f"no {size} bytes of memory: {error}") from error


def read_system_file(path: str) -> str:
    """Text of one of the kernel's files; empty where the kernel has no such file."""
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError:
        return ""


def directory_of(path: str) -> str:
    """The directory that holds ``path``; never empty, so a bare name is safe to sync."""
    return os.path.dirname(path) or "."


def give_second_name(disk: Disk, path: str, second: str) -> None:
    """Have ``second`` be the same file, or a synced copy where the file system has no links."""
    try:
        disk.link(path, second)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(disk, path, second)


def _copy(disk: Disk, path: str, to: str) -> None:
    source = disk.open(path)
    try:
        copy = disk.create(to)
        try:
            for offset in range(0, source.size(), _COPY_BYTES):
                copy.write_at(offset, source.read_at(offset, _COPY_BYTES))
            copy.sync()
        finally:
            copy.close()
    finally:
        source.close()


def remove_if_there(disk: Disk, path: str) -> None:
    """Remove a file that may be absent."""
    with contextlib.suppress(FileNotFoundError):
        disk.remove(path)


def remove_tree(disk: Disk, path: str) -> None:
    """Remove a directory and all below it; symbolic links are removed, not followed."""
    for name, kind in disk.list(path):
        inner = os.path.join(path, name)
        if kind == "directory":
            remove_tree(disk, inner)
        else:
            disk.remove(inner)
    disk.remove_directory(path)


def write_beside(disk: Disk, path: str, chunks: Iterable[Buffer]) -> File:
    """Write ``chunks`` to a temporary file beside ``path``, sync it, and return it still open."""
    temporary = path + TEMPORARY_SUFFIX
    remove_if_there(disk, temporary)
    file = disk.open(temporary, write=True, create=True)
    try:
        unsynced = 0
        for chunk in chunks:
            file.append(chunk)
            unsynced += len(chunk)
            if unsynced >= _SYNC_EVERY_BYTES:  # so that the last sync is a short one
                file.sync()
                unsynced = 0
        file.sync()
    except BaseException:
        file.close()
        raise
    return file


def put_in_place(disk: Disk, path: str) -> None:
    """Rename the temporary file beside ``path`` over it, durably."""
    temporary = path + TEMPORARY_SUFFIX
    if disk.inode_at(path) is not None:
        disk.copy_mode(path, temporary)
    disk.rename(temporary, path)
    disk.sync_directory(directory_of(path))


def replace(disk: Disk, path: str, chunks: Iterable[Buffer]) -> None:
    """Make ``chunks`` the content of ``path`` in one step: beside, sync, rename, sync directory."""
    write_beside(disk, path, chunks).close()
    put_in_place(disk, path)
