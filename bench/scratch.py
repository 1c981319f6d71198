"""Directories for the data of a run, removed at its end, or by a later run if it was killed.

Each has a file on which its owner holds a lock, which goes with the owner. So what was left is told
from what is in use, and from a directory of somebody else's, which has no such file.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator

from holdfast.workers.places import Places

_MARK = ".scratch"


@contextlib.contextmanager
def scratch(prefix: str, parent: str) -> Iterator[str]:
    """A new empty directory in ``parent``, removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as path:
        mark = os.path.join(path, _MARK)
        descriptor = os.open(mark + ".new", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # without locks it is nobody's to remove
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(mark + ".new", mark)  # it is never there without its lock
            yield path
        finally:
            os.close(descriptor)


def swept(prefix: str, parent: str) -> list[str]:
    """Remove what runs that were killed have left in ``parent``; returns the names."""
    with os.scandir(parent) as entries:
        found = [
            entry
            for entry in entries
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False)
        ]
    return sorted(entry.name for entry in found if _remove(entry.path))


def _remove(path: str) -> bool:
    """Remove a directory of a run, unless somebody is in it; whether that was done."""
    with contextlib.ExitStack() as held:
        if not _lock(held, os.path.join(path, _MARK)):
            return False
        for folder, names, _ in os.walk(path):
            lock = Places(folder).lock
            # The owner is gone, but the processes that served it may need a moment more.
            if ".holdfast" in names and os.path.exists(lock) and not _lock(held, lock):
                return False
        shutil.rmtree(path, ignore_errors=True)
        return not os.path.exists(path)


def _lock(held: contextlib.ExitStack, path: str) -> bool:
    """Whether a file is there and its lock was free, which it is not any more."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        held.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
