"""Writing a damaged file anew, whatever its format, from what is intact of it.

============  ====================================================================================
fold log      the entries and the cursor from before the damage: the stream has the rest, and goes
              on from that cursor
RVF file      every intact row, metadata, image and other segment; see ``vector_repair``
index         the snapshot, and of the log the requests from before the damage; see
              ``index_repair``
artifact      nothing: export it again
============  ====================================================================================

The source stays as it is. In its place the new file comes only if asked, under the locks of an
owner, and the old one is kept beside it first.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from holdfast.formats.errors import (
    HasBranches,
    HoldfastError,
    InvalidArgument,
    InvalidFormat,
    StoreCorrupt,
    StoreExists,
    from_os_error,
)
from holdfast.formats.fold_log import DamagedRecord, Ending
from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Disk,
    directory_of,
    put_in_place,
    remove_if_there,
    replace,
    write_beside,
)
from holdfast.workers.fold_cache import INDEX_SUFFIX as FOLD_INDEX_SUFFIX
from holdfast.workers.fold_inspection import LogReport, examine_log
from holdfast.workers.inspection import is_index_file, is_vector_file, kind_of
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.lock import Lock, describe_self
from holdfast.workers.log_file import clear_unsynced, guard
from holdfast.workers.standing import Flaw, Rewriting, Standing
from holdfast.workers.upstream_lock import UpstreamLock

OUTPUT_SUFFIX = ".repaired"
DAMAGED_SUFFIX = ".damaged"
_COPY_BYTES = 1 << 20


def _no_tick() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was written, and what was not. ``rows`` are a fold's entries or a vector file's rows."""

    source: str
    output: str
    rows: int
    salvaged_rows: int
    lost: list[Flaw]
    notes: list[str]
    kept: str | None
    """Where the damaged file is now, if the new one is in its place."""

    def fields(self) -> dict[str, object]:
        """As JSON has it."""
        return {
            "source": self.source,
            "output": self.output,
            "kept": self.kept,
            "rows": self.rows,
            "salvaged_rows": self.salvaged_rows,
            "lost": [flaw._asdict() for flaw in self.lost],
            "notes": self.notes,
        }


def repair(
    disk: Disk,
    path: str,
    output: str | None = None,
    *,
    in_place: bool = False,
    salvage: bool = False,
    tick: Callable[[], None] = _no_tick,
) -> Repaired:
    """Write what is intact of the file at ``path`` to ``output``, by default ``path.repaired``.

    ``in_place`` replaces the file and keeps it as ``path.damaged``; the store must not be open.
    ``salvage`` also takes whole segments of an RVF file that belong to no commit, and of an index
    the records from behind the damage.

    Raises ``InvalidFormat`` when there is nothing to start from, ``StoreExists`` when ``output``
    does, ``StoreLocked`` or ``HasBranches`` where the file cannot be replaced, ``StoreIOError``.
    """
    try:
        if kind_of(disk, path) != "file":
            raise InvalidArgument(
                f"{path!r} is no regular file; an artifact is not repaired but exported again",
                path=path,
            )
        index = is_index_file(disk, path)
        vectors = not index and is_vector_file(disk, path)
        destination = path + (DAMAGED_SUFFIX if in_place else OUTPUT_SUFFIX)
        if output is not None:
            destination = output
        if disk.inode_at(destination) is not None:
            raise StoreExists(f"{destination!r} exists", path=destination)
        with _owned(disk, path, vectors) if in_place else contextlib.nullcontext():
            plan = _plan(disk, path, index, vectors, salvage, tick)
            if in_place:
                _replace(disk, path, destination, plan)
                if index:
                    _begin_log(disk, path)
            else:
                _write(disk, path, destination, plan)
    except HoldfastError:
        raise  # some are an OSError, too
    except DamagedRecord as damage:
        raise StoreCorrupt(
            f"{path!r} is damaged at offset {damage.offset}, and was not a moment ago",
            path=path,
            offset=damage.offset,
        ) from damage
    except OSError as error:
        raise from_os_error(error, "repair", path) from error
    return Repaired(
        path,
        path if in_place else destination,
        plan.rows,
        plan.salvaged_rows,
        plan.lost,
        plan.notes,
        destination if in_place else None,
    )


def _plan(
    disk: Disk, path: str, index: bool, vectors: bool, salvage: bool, tick: Callable[[], None]
) -> Rewriting:
    if index:
        from holdfast.workers.index_repair import repair_index

        return repair_index(disk, path, salvage=salvage, tick=tick)
    if vectors:
        from holdfast.workers.vector_repair import repair_vectors

        file = disk.open(path)
        try:
            view = file.map()
        finally:
            file.close()
        return repair_vectors(disk, path, view, salvage=salvage, tick=tick)
    if salvage:
        raise InvalidArgument("there is nothing to salvage in a fold's log", path=path)
    return _plan_of_log(examine_log(disk, path, tick))


def _plan_of_log(report: LogReport) -> Rewriting:
    verdict = report.verdict
    if report.standing is Standing.NOT_OURS:
        raise InvalidFormat(
            f"{report.path!r}: {verdict.reason}",
            path=report.path,
            offset=verdict.offset,
            reason=verdict.reason,
        )
    plan = Rewriting(report.canonical(), report.entries)
    if verdict.ending is not Ending.CLEAN:
        length = report.log_bytes - verdict.offset
        plan.lost.append(Flaw(verdict.offset, f"{length} bytes from here on: {verdict.reason}"))
        plan.notes.append("the cursor is the last one before that: the stream resumes from there")
    return plan


# --- putting it there --------------------------------------------------------------------------


def _write(disk: Disk, path: str, output: str, plan: Rewriting) -> None:
    if plan.is_branch and directory_of(output) != directory_of(path):
        raise InvalidArgument(
            f"{path!r} is a branch, which finds its parent by where it lies: repair it in place or "
            "to a file beside it",
            path=output,
        )
    _write_temporary(disk, output, plan.chunks)
    put_in_place(disk, output)


def _replace(disk: Disk, path: str, kept: str, plan: Rewriting) -> None:
    """Put the new file in place of the old one, of which a copy is kept first."""
    if plan.readers:
        raise HasBranches(
            f"cannot replace {path!r}: {len(plan.readers)} branches read it where it is damaged or "
            f"not: {', '.join(plan.readers[:5])}",
            path=path,
        )
    file = disk.open(path)
    try:
        old = file.map()
    finally:
        file.close()
    _write_temporary(disk, path, plan.chunks)
    try:
        replace(disk, kept, (old[n : n + _COPY_BYTES] for n in range(0, len(old), _COPY_BYTES)))
        disk.copy_mode(path, kept)
    except BaseException:
        remove_if_there(disk, path + TEMPORARY_SUFFIX)
        raise
    put_in_place(disk, path)
    # What these said was about the old file, and they know it by its inode.
    for suffix in (LEDGER_SUFFIX, FOLD_INDEX_SUFFIX):
        remove_if_there(disk, path + suffix)
    clear_unsynced(disk, path)


def _begin_log(disk: Disk, path: str) -> None:
    """Have an index that was replaced begin a new log; the old one is kept as it is."""
    from holdfast.workers.index_repair import keep_log

    keep_log(disk, path, DAMAGED_SUFFIX)


def _write_temporary(disk: Disk, path: str, chunks: Iterable[bytes]) -> None:
    try:
        write_beside(disk, path, chunks).close()
    except BaseException:
        remove_if_there(disk, path + TEMPORARY_SUFFIX)
        raise


@contextlib.contextmanager
def _owned(disk: Disk, path: str, vectors: bool) -> Iterator[None]:
    """Hold the locks that an owner of the store would hold."""
    with contextlib.ExitStack() as held:
        if vectors:
            from holdfast.workers.vector_recovery import OWNER_SUFFIX as OWNER
        else:
            from holdfast.workers.fold import LOCK_SUFFIX as OWNER
        held.callback(Lock.acquire(disk, path + OWNER, describe_self(os.getpid())).release)
        if vectors:
            held.callback(UpstreamLock.acquire(disk, path).release)
        held.callback(guard(disk, path).close)
        yield
