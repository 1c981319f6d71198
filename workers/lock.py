"""The one lock: an OS lock on a file, which goes when its holder goes.

What the file says (pid, command, since) only informs error messages; it never decides anything, so
a reused pid or a stale file does no harm and nobody has to delete one.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from holdfast.formats.errors import StoreLocked, typed_errors
from holdfast.workers.disk import Disk, File, remove_if_there

SUFFIX = ".lock"
_NOTE_BYTES_MAX = 4096
_RETRY_S = 0.002


OWNER_WAIT_S = 2.0  # a killed predecessor's lock goes with its process, within moments


class Owner(msgspec.Struct, frozen=True):
    """Who holds a lock, by its own account."""

    pid: int
    command: str
    since: str


def describe_self(pid: int) -> Owner:
    """This process as the owner of a lock."""
    command = " ".join(sys.argv) or sys.executable
    now = datetime.fromtimestamp(time.time(), UTC)
    return Owner(pid, command[:512], now.isoformat(timespec="seconds"))


class Lock:
    """An exclusive lock held on ``path`` until ``release`` or the end of the process."""

    def __init__(self, disk: Disk, path: str, file: File) -> None:
        self._disk = disk
        self._path = path
        self.file = file
        self._inode = file.inode()

    @classmethod
    def acquire(cls, disk: Disk, path: str, owner: Owner, *, wait_s: float = 0.0) -> "Lock":
        """Take the lock, waiting up to ``wait_s`` seconds; ``StoreLocked`` names its owner."""
        give_up = time.monotonic() + wait_s
        while True:
            lock = cls.try_acquire(disk, path, owner)
            if lock is not None:
                return lock
            if time.monotonic() >= give_up:
                raise locked_by(disk, path)
            time.sleep(_RETRY_S)

    @classmethod
    def try_acquire(cls, disk: Disk, path: str, owner: Owner) -> "Lock | None":
        """Take the lock at once, or return None."""
        while True:
            file = disk.open(path, write=True, create=True)
            try:
                if not file.lock():
                    file.close()
                    return None
                if disk.inode_at(path) == file.inode():
                    _note(file, owner)
                    return cls(disk, path, file)
            except BaseException:
                file.close()
                raise
            file.close()  # the former owner removed it between our open and our lock

    def is_held(self) -> bool:
        """False once somebody removed or replaced the lock file: a second owner may exist then."""
        return self._disk.inode_at(self._path) == self._inode

    def release(self) -> None:
        """Remove the lock file and let go."""
        with contextlib.suppress(OSError):  # a file that stays does no harm
            if self.is_held():
                remove_if_there(self._disk, self._path)
        self.file.close()


@contextlib.contextmanager
def owning(disk: Disk, path: str, store: str, wait_s: float | None = None) -> Iterator[Lock]:
    """The lock at ``path`` for this process to open the store at ``store``; kept behind the block.

    It is let go of again if the block fails. Raises ``StoreLocked`` or ``StoreIOError``.
    """
    with typed_errors("lock", store):
        wait_s = OWNER_WAIT_S if wait_s is None else wait_s
        lock = Lock.acquire(disk, path, describe_self(os.getpid()), wait_s=wait_s)
    try:
        yield lock
    except BaseException:
        lock.release()
        raise


def _note(file: File, owner: Owner) -> None:
    with contextlib.suppress(OSError):  # the lock holds, also on a disk too full for the note
        file.truncate(0)
        file.append(msgspec.json.encode(owner))


def read_owner(disk: Disk, path: str) -> Owner | None:
    """What the lock file says of its owner, if it says anything legible."""
    try:
        file = disk.open(path)
    except OSError:
        return None
    try:
        return msgspec.json.decode(file.read_at(0, _NOTE_BYTES_MAX), type=Owner)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    finally:
        file.close()


def locked_by(disk: Disk, path: str) -> StoreLocked:
    """The error that names the owner of the lock at ``path``."""
    locked = path.removesuffix(".lock").removesuffix(".owner")
    owner = read_owner(disk, path)
    if owner is None:
        return StoreLocked(f"{locked!r} is locked by another process", path=locked)
    return StoreLocked(
        f"{locked!r} is locked by process {owner.pid} ({owner.command}) since {owner.since}",
        path=locked,
        pid=owner.pid,
        command=owner.command,
        since=owner.since,
    )
