"""Putting a new file in the place of a log that is in use, the same way for every store.

It is written beside the old one, guarded and synced, and the ledger is made valid for either; then
it is renamed over it. A crash before the rename leaves the old log and a temporary file, which the
next opening removes; a crash after it the new log.
"""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Disk,
    File,
    put_in_place,
    remove_if_there,
)
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import Fatal, LogFile, guard, mark_unsynced


class NewLog(NamedTuple):
    """A file that is to be a log, and what guards it."""

    file: File
    held: File


@contextlib.contextmanager
def new_log(disk: Disk, log: LogFile, ledger: Ledger) -> Iterator[NewLog]:
    """A file to be written within the block, and to be given to ``take_over`` behind it.

    By then it is synced, and the ledger knows requests without the places of their records, as is
    right for either log. On an error nothing is left of the file and the old log goes on. Raises
    plain ``OSError``.
    """
    temporary = log.path + TEMPORARY_SUFFIX
    with contextlib.ExitStack() as undoing:
        remove_if_there(disk, temporary)
        file = disk.open(temporary, write=True, create=True)
        undoing.callback(remove_if_there, disk, temporary)
        undoing.callback(file.close)
        held = guard(disk, temporary)
        undoing.callback(held.close)
        yield NewLog(file, held)
        file.sync()
        ledger.forget_offsets()
        undoing.pop_all()


def take_over(disk: Disk, log: LogFile, ledger: Ledger, new: NewLog, end: int) -> None:
    """Put a new log, good up to ``end``, in place and go on with it; there is no way back.

    Raises ``Fatal`` when nobody can tell which file is in place.
    """
    try:
        put_in_place(disk, log.path)
        new.file.path = log.path
        log.swap(new.file, end, new.held)
        ledger.bind(new.file.inode(), end)
    except BaseException as error:
        new.file.close()  # also if they are the log's by now: it serves no longer
        new.held.close()
        if isinstance(error, OSError):
            mark_unsynced(disk, log.path)
            raise Fatal(f"cannot put the new {log.path!r} in place: {error}") from error
        raise
