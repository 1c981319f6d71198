"""Opening a fold: lock, read, judge the log's end, cut a torn tail, sync.

What can be wrong, and what is done about it:

===============================  ===============================================================
absent, or a cut-short header    a new log is put in place (temporary file, sync, rename)
foreign, or another version      ``InvalidFormat``; nothing is touched
damage before intact records     ``StoreCorrupt``; nothing is touched
torn tail                        the bytes are kept beside the log, then cut
a request logged only in part    cut as a whole: nobody was told that it happened
the last owner's sync failed     what can be read is written to a new file before it is trusted
index cache absent or unfit      ignored; the log is read from its beginning
===============================  ===============================================================
"""

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.formats import fold_log
from holdfast.formats.errors import (
    HoldfastError,
    InvalidFormat,
    StoreNotFound,
    from_os_error,
)
from holdfast.formats.fold_log import HEADER, HEADER_BYTES, DamagedRecord, Ending, Verdict
from holdfast.formats.values import Cursor
from holdfast.workers import artifacts
from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Disk,
    File,
    directory_of,
    remove_if_there,
    replace,
)
from holdfast.workers.fold_cache import INDEX_SUFFIX, load_index
from holdfast.workers.fold_table import Base, FoldTable
from holdfast.workers.ledger import SUFFIX, Ledger
from holdfast.workers.log_file import (
    UNSYNCED_SUFFIX,
    LogFile,
    guard,
    is_marked_unsynced,
)
from holdfast.workers.mending import drop_cut_bytes, refuse_damage, settled
from holdfast.workers.messages import StoreSpec

log = logging.getLogger("holdfast.fold")


@dataclass(slots=True)
class RecoveredFold:
    """A fold's state, as its log says."""

    log: LogFile
    ledger: Ledger
    table: FoldTable
    cursor: Cursor
    last_record: int
    torn_bytes: int
    indexed_to: int
    """How much of the log the index cache covered; 0 without one."""


def recover(disk: Disk, spec: StoreSpec, *, sync: bool, tick: Callable[[], None]) -> RecoveredFold:
    """Recover the fold at ``spec.path``, whose lock the caller holds."""
    path = spec.path
    try:
        for leftover in (path, path + INDEX_SUFFIX):  # of a crash in the middle of writing
            remove_if_there(disk, leftover + TEMPORARY_SUFFIX)
        _ensure_exists(disk, spec, tick)
        file = disk.open(path, write=True)
    except HoldfastError:
        raise  # some are an OSError, too
    except OSError as error:
        raise from_os_error(error, "open", path) from error
    try:
        return _recover_file(disk, file, sync=sync, tick=tick)
    except HoldfastError:
        file.close()
        raise  # some are an OSError, too
    except OSError as error:
        file.close()
        raise from_os_error(error, "recover", path) from error
    except DamagedRecord as damage:  # met through the index cache: a replay would have refused it
        file.close()
        refuse_damage(path, Verdict(Ending.CORRUPT, damage.offset, "checksum mismatch"))
        raise
    except BaseException:
        file.close()
        raise


def _ensure_exists(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> None:
    path = spec.path
    if spec.import_from is not None and not artifacts.already_imported(
        disk, spec.import_from, path
    ):
        artifacts.import_artifact(disk, spec.import_from, path, tick)
    if disk.inode_at(path) is None:
        if not spec.create:
            raise StoreNotFound(f"there is no fold at {path!r}", store=spec.name, path=path)
        replace(disk, path, [HEADER])
        return
    file = disk.open(path)
    try:
        head = file.read_at(0, HEADER_BYTES)
    finally:
        file.close()
    problem = fold_log.header_problem(head)
    if problem is not None:
        raise InvalidFormat(
            f"{path!r} is not a fold log: {problem}", path=path, offset=0, reason=problem
        )
    if len(head) < HEADER_BYTES:  # a crash between creation and the header reaching the disk
        replace(disk, path, [HEADER])


def _recover_file(disk: Disk, file: File, *, sync: bool, tick: Callable[[], None]) -> RecoveredFold:
    path = file.path
    held = guard(disk, path)
    try:
        return _recover_guarded(disk, file, held, sync=sync, tick=tick)
    except BaseException:
        held.close()
        raise


def _recover_guarded(
    disk: Disk, file: File, held: File, *, sync: bool, tick: Callable[[], None]
) -> RecoveredFold:
    path, inode = file.path, file.inode()
    view = file.map()
    ledger = Ledger(disk, path)
    sync_failed = is_marked_unsynced(disk, path)
    unsynced_from = ledger.unsynced_from(view, inode, sync_failed=sync_failed)
    index = load_index(disk, path, view, inode)
    table = FoldTable()
    start, cursor, last_record = HEADER_BYTES, Cursor.none(), HEADER_BYTES
    if index is not None:
        table = FoldTable(Base(view, index.spans, index.fences), index.live_bytes)
        start, cursor, last_record = index.covered, Cursor(index.cursor), index.last_record
    changes: dict[bytes, int] = {}
    scan = fold_log.scan(view, start, changes, unsynced_from=unsynced_from, tick=tick)
    refuse_damage(path, scan.verdict)
    whole = ledger.cut(view, inode, scan.end)
    if whole < scan.end:
        changes = {}
        if whole < start:  # the cache covers what is cut
            table, start, index = FoldTable(), HEADER_BYTES, None
            cursor, last_record = Cursor.none(), HEADER_BYTES
        scan = fold_log.scan(view[:whole], start, changes, tick=tick)
    if index is None:
        table.adopt(changes)
    else:
        table.apply(changes.items(), table.look_up(changes.items()))
    if scan.cursor is not None:
        cursor = scan.cursor
    if scan.records:
        last_record = scan.last_record
    opened = settled(
        disk, file, held, ledger, view, scan.end, scan.verdict.reason,
        sync=sync, sync_failed=sync_failed,
    )  # fmt: skip
    torn_bytes = len(view) - scan.end
    table.base.view = opened.view  # the file may be a new one by now
    return RecoveredFold(
        opened, ledger, table, cursor, last_record, torn_bytes, index.covered if index else 0
    )


def drop_files(disk: Disk, path: str) -> None:
    """Remove a fold's log and everything beside it that is holdfast's."""
    directory = directory_of(path)
    for suffix in (SUFFIX, INDEX_SUFFIX, TEMPORARY_SUFFIX, UNSYNCED_SUFFIX):
        remove_if_there(disk, path + suffix)
    drop_cut_bytes(disk, path)
    with contextlib.suppress(FileNotFoundError):
        disk.remove(path)
    disk.sync_directory(directory)
