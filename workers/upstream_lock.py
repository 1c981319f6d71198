"""The lock file by which programs of the original keep each other out: honoured, and written.

Between processes of holdfast an OS lock decides (``workers.lock``); this file is for the others. It
is looked at only with the OS lock held, so whatever it says, it is not from a living worker.
RVF section 10 has its content, and the rules by which the original takes a lock for stale: those
steal from a living owner on another host after 300 s. Here only the death of the owner counts.
"""

import contextlib
import os
import secrets
import socket
import time

from holdfast.formats.errors import StoreLocked
from holdfast.formats.rvf.lock_file import LOCK_BYTES, LockNote, decode_lock, encode_lock
from holdfast.workers.disk import Disk, directory_of, give_second_name, remove_if_there

SUFFIX = ".lock"
_OURS = b"holdfast"
"""How the writer ids of our lock files begin."""
_SETTLE_S = 0.5
_POLL_S = 0.01
# The original takes a lock of another host that is older than 300 s.
REFRESH_S = 60.0


class UpstreamLock:
    """The lock file of ``path``, ours until ``release``."""

    def __init__(self, disk: Disk, path: str, note: LockNote) -> None:
        self._disk = disk
        self._path = path
        self._note = note
        self._written_at = time.monotonic()

    @classmethod
    def acquire(cls, disk: Disk, path: str) -> "UpstreamLock":
        """Write the lock file beside ``path``; ``StoreLocked`` if a living owner has done so."""
        lock = path + SUFFIX
        note = LockNote(os.getpid(), host_name(), time.time_ns(), _OURS + secrets.token_bytes(8))
        while True:
            try:
                file = disk.create(lock)
            except FileExistsError:
                _remove_stale(disk, path, lock)
                continue
            try:
                file.append(encode_lock(note))
                file.sync()
            except OSError:
                with contextlib.suppress(OSError):
                    disk.remove(lock)
                raise
            finally:
                file.close()
            return cls(disk, lock, note)

    def refresh_due_in(self) -> float:
        """Seconds until ``refresh`` is due."""
        return max(0.0, self._written_at + REFRESH_S - time.monotonic())

    def refresh(self) -> None:
        """Tell other hosts that the owner lives; ``RuntimeError`` when the lock was taken."""
        file = self._disk.open(self._path, write=True)
        try:
            found = decode_lock(file.read_at(0, LOCK_BYTES))
            if found is None or found.writer_id != self._note.writer_id:
                raise RuntimeError(f"the lock file {self._path!r} was replaced by another program")
            self._note = self._note._replace(time_ns=time.time_ns())
            file.write_at(0, encode_lock(self._note))
        finally:
            file.close()
        self._written_at = time.monotonic()

    def release(self) -> None:
        """Remove the lock file if it is still ours."""
        try:
            file = self._disk.open(self._path)
        except OSError:
            return
        try:
            found = decode_lock(file.read_at(0, LOCK_BYTES))
        finally:
            file.close()
        if found is not None and found.writer_id == self._note.writer_id:
            remove_if_there(self._disk, self._path)


def host_name() -> str:
    """This host, by the name the original gives it."""
    return os.environ.get("HOSTNAME") or socket.gethostname()


def _remove_stale(disk: Disk, path: str, lock: str) -> None:
    """Remove a lock file whose owner is dead; ``StoreLocked`` if it may be alive."""
    content = _settled(disk, lock)
    if content is None:
        return
    found = decode_lock(content)
    if found is not None and not _is_dead(found):
        raise StoreLocked(
            f"{path!r} is locked by process {found.pid} on {found.host or 'this host'}, by its "
            f"lock file {lock!r}",
            path=path,
            pid=found.pid,
        )
    # Between the look and the removal another program may have come to the same conclusion and
    # taken the lock: what is moved aside has to be what was looked at.
    aside = f"{lock}.{secrets.token_hex(4)}"
    try:
        disk.rename(lock, aside)
    except FileNotFoundError:
        return
    stale = False
    try:
        stale = _read(disk, aside) == content
    finally:
        if not stale:  # it goes back, unless a third program has put its own there meanwhile
            with contextlib.suppress(FileExistsError):
                give_second_name(disk, aside, lock)
        disk.remove(aside)
    if not stale:
        raise StoreLocked(f"{path!r} was locked by another program a moment ago", path=path)
    disk.sync_directory(directory_of(lock))


def _settled(disk: Disk, lock: str) -> bytes | None:
    """The lock file's content once it is whole, or after a while as it is; None if it is gone.

    The original creates the file before it writes to it, and takes a short one for stale at once.
    """
    give_up = time.monotonic() + _SETTLE_S
    while True:
        content = _read(disk, lock)
        if content is None or len(content) >= LOCK_BYTES or time.monotonic() >= give_up:
            return content
        time.sleep(_POLL_S)


def _read(disk: Disk, path: str) -> bytes | None:
    try:
        file = disk.open(path)
    except FileNotFoundError:
        return None
    try:
        return file.read_at(0, LOCK_BYTES)
    finally:
        file.close()


def _is_dead(note: LockNote) -> bool:
    """Whether the owner is known to be gone. A process on another host never is."""
    if note.writer_id.startswith(_OURS):
        return True  # one of ours would hold the OS lock, which we have
    # The original takes a $HOSTNAME that is empty for the name.
    if note.host not in ("", host_name(), socket.gethostname()):
        return False
    try:
        os.kill(note.pid, 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        return False
    return False
