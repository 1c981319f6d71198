"""What recovery does to a file that a crash left unsettled, whatever kind of store it is."""

import logging
from collections.abc import Iterator

from holdfast.formats.errors import InvalidFormat, StoreCorrupt, corrupt
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.workers.disk import Disk, File, put_in_place, remove_if_there, write_beside
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import LogFile, clear_unsynced, guard

log = logging.getLogger("holdfast.recovery")

CUT_SUFFIX = ".cut"
_CUTS_KEPT_MAX = 8
_COPY_BYTES = 1 << 20


def settled(
    disk: Disk,
    file: File,
    held: File,
    ledger: Ledger,
    view: memoryview,
    end: int,
    reason: str,
    *,
    sync: bool,
    sync_failed: bool,
) -> LogFile:
    """The log, good up to ``end`` of ``view``, once what lies behind that is cut and kept aside.

    ``reason`` says why it is. With ``sync`` all of the log is synced then, and after a sync that
    failed it is a new file. The ledger's term of service begins. ``held`` is the file's guard.
    """
    path, inode = file.path, file.inode()
    torn_bytes = len(view) - end
    if torn_bytes:
        keep_cut_bytes(disk, path, view[end:], end, reason)
    synced = end
    if sync_failed:
        file = written_anew(disk, path, view[:end], file, ledger)
        inode = file.inode()
        clear_unsynced(disk, path)
    elif torn_bytes:
        file.truncate(end)
    known_synced = ledger.known_synced(inode, end)
    if torn_bytes or (sync and known_synced < end):
        write_again(file, view, known_synced, end)
        file.sync()
    elif not sync_failed:
        synced = known_synced
    if sync_failed:
        held.close()
        held = guard(disk, path)
    else:
        ledger.begin(view, inode, end, synced)
    opened = LogFile(disk, file, end, held)
    opened.synced_end = synced
    return opened


def refuse_damage(path: str, verdict: Verdict) -> None:
    """Raise the error that the verdict on a log calls for; clean and torn call for none."""
    if verdict.ending in (Ending.CLEAN, Ending.TORN):
        return
    cls = InvalidFormat if verdict.ending is Ending.INVALID else StoreCorrupt
    raise corrupt(path, verdict.offset, verdict.reason, cls)


def keep_cut_bytes(disk: Disk, path: str, tail: memoryview, offset: int, reason: str) -> None:
    """Keep a torn tail beside the file before it is cut; zeros tell nothing and are not kept."""
    log.warning(
        "%s: cutting a torn tail of %d bytes at offset %d: %s",
        path, len(tail), offset, reason,
    )  # fmt: skip
    if not any(chunk.tobytes().strip(b"\0") for chunk in _chunks(tail)):
        return
    number = 1
    while disk.inode_at(f"{path}{CUT_SUFFIX}{number}") is not None:
        number += 1
    if number > _CUTS_KEPT_MAX:
        log.warning("%s: %d cut tails are kept already; this one is not", path, _CUTS_KEPT_MAX)
        return
    try:
        file = disk.open(f"{path}{CUT_SUFFIX}{number}", write=True, create=True)
        try:
            file.append(tail)
            file.sync()
        finally:
            file.close()
    except OSError as error:
        # Nobody was told that these bytes were written; a full disk must not keep the store shut.
        log.warning("%s: the cut bytes could not be kept: %s", path, error)


def drop_cut_bytes(disk: Disk, path: str) -> None:
    """Remove the tails kept beside ``path``."""
    for number in range(1, _CUTS_KEPT_MAX + 1):
        remove_if_there(disk, f"{path}{CUT_SUFFIX}{number}")


def written_anew(disk: Disk, path: str, content: memoryview, old: File, ledger: Ledger) -> File:
    """The file again, as a new one whose sync can be believed.

    With it begins the ledger's term of service. The requests it knows are in both files, so at no
    moment would one that is sent again be repeated.
    """
    log.warning("%s: a sync failed before, so the file is written anew", path)
    end, inode = len(content), old.inode()
    ledger.begin(content, inode, end, ledger.known_synced(inode, end))
    ledger.forget_offsets()
    file = write_beside(disk, path, _chunks(content))
    put_in_place(disk, path)
    ledger.bind(file.inode(), end)
    old.close()
    # The handle was opened under the temporary name; reopen it under its own.
    file.close()
    return disk.open(path, write=True)


def write_again(file: File, content: memoryview, start: int, end: int) -> None:
    """Write what no sync is known to have saved once more, over itself.

    If its sync failed and the mark of that could not be left, the next sync would pass it over.
    """
    for offset in range(start, end, _COPY_BYTES):
        file.write_at(offset, bytes(content[offset : min(offset + _COPY_BYTES, end)]))


def _chunks(content: memoryview) -> Iterator[memoryview]:
    return (content[n : n + _COPY_BYTES] for n in range(0, len(content), _COPY_BYTES))
