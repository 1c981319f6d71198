"""Writing a damaged file anew, whatever its format, from what is intact of it.

============  ====================================================================================
fold log      the entries and the cursor from before the damage: the stream has the rest, and goes
              on from that cursor
RVF file      every intact row, metadata, image and other segment; see ``vector_repair``
index         the snapshot, and of the log the requests from before the damage; see
              ``index_repair``
warm store    every intact point, from chunks and log, in a new directory; see ``warm_repair``
registry      every intact model; with ``salvage`` what it lacks from the generation before
artifact      nothing: export it again
============  ====================================================================================

The source stays as it is. In its place the new store comes only if asked, under the locks of an
owner. A file is copied beside first, and replaced in one step. A directory is renamed, and then the
new one: a crash between the two leaves the old store as ``.damaged`` and the new one complete
under its temporary name, ``.tmp``.
"""

import contextlib
from collections.abc import Callable
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
    remove_tree,
    replace,
    write_beside,
)
from holdfast.workers.fold_cache import INDEX_SUFFIX as FOLD_INDEX_SUFFIX
from holdfast.workers.fold_inspection import LogReport, examine_log
from holdfast.workers.inspection import (
    is_warm_directory,
    kind_of,
    store_kind_of,
)
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.log_file import clear_unsynced
from holdfast.workers.messages import Kind
from holdfast.workers.standing import Flaw, Rewriting, Standing
from holdfast.workers.store_locks import all_locks
from holdfast.workers.warm_files import WarmFiles

OUTPUT_SUFFIX = ".repaired"
DAMAGED_SUFFIX = ".damaged"
_COPY_BYTES = 1 << 20


def _no_tick() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was written, and what was not. ``rows`` are entries, rows, points or models."""

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
            "lost": [flaw.fields() for flaw in self.lost],
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
    ``salvage`` also takes whole segments of an RVF file that belong to no commit, of an index the
    records from behind the damage, points that only chunks have which a warm store's manifest does
    not list, and what a registry lacks from the generation before it.

    Raises ``InvalidFormat`` when there is nothing to start from, ``StoreExists`` when ``output``
    does, ``StoreLocked`` or ``HasBranches`` where the file cannot be replaced, ``StoreCorrupt``
    when nothing of a warm store would be left in its place, ``StoreIOError``.
    """
    try:
        kind = _kind(disk, path)
        destination = path + (DAMAGED_SUFFIX if in_place else OUTPUT_SUFFIX)
        if output is not None:
            destination = output
        if disk.inode_at(destination) is not None:
            raise StoreExists(f"{destination!r} exists", path=destination)
        with all_locks(disk, path, kind) if in_place else contextlib.nullcontext():
            plan = _plan(disk, path, kind, salvage, tick)
            if in_place and kind == "warm" and plan.lost and not plan.rows:
                raise StoreCorrupt(
                    f"nothing of {path!r} is intact, and an empty store is not put in its place: "
                    + "; ".join(map(str, plan.lost[:3])),
                    path=path,
                    offset=plan.lost[0].offset,
                    reason=plan.lost[0].reason,
                )
            if in_place and kind == "warm":
                _exchange(disk, path, destination, plan)
            elif in_place:
                _replace(disk, path, destination, plan)
                if kind == "index":
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


def _kind(disk: Disk, path: str) -> Kind:
    """Which kind of store is to be repaired. Raises ``InvalidArgument`` for what is none."""
    found = kind_of(disk, path)
    if found == "directory" and is_warm_directory(path, [name for name, _ in disk.list(path)]):
        return "warm"
    if found != "file":
        raise InvalidArgument(
            f"{path!r} is no store; an artifact is not repaired but exported again, and a "
            "directory of chronos-vector is imported",
            path=path,
        )
    return store_kind_of(disk, path)


def _plan(disk: Disk, path: str, kind: Kind, salvage: bool, tick: Callable[[], None]) -> Rewriting:
    if kind == "warm":
        from holdfast.workers.warm_repair import repair_warm

        return repair_warm(disk, path, salvage=salvage, tick=tick)
    if kind == "registry":
        from holdfast.workers.registry_inspection import repair_registry

        return repair_registry(disk, path, salvage=salvage, tick=tick)
    if kind == "index":
        from holdfast.workers.index_repair import repair_index

        return repair_index(disk, path, salvage=salvage, tick=tick)
    if kind == "vectors":
        from holdfast.workers.vector_repair import repair_vectors

        file = disk.open(path)
        try:
            view = file.map()
        finally:
            file.close()
        return repair_vectors(disk, path, view, salvage=salvage, tick=tick)
    if salvage:
        raise InvalidArgument("there is nothing to salvage in a fold's log", path=path)
    return _plan_of_log(disk, examine_log(disk, path, tick))


def _plan_of_log(disk: Disk, report: LogReport) -> Rewriting:
    verdict = report.verdict
    if report.standing is Standing.NOT_OURS:
        raise InvalidFormat(
            f"{report.path!r}: {verdict.reason}",
            path=report.path,
            offset=verdict.offset,
            reason=verdict.reason,
        )
    plan = Rewriting(
        lambda output: write_beside(disk, output, report.canonical()).close(), report.entries
    )
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
    _write_temporary(disk, output, plan)
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
    _write_temporary(disk, path, plan)
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


def _exchange(disk: Disk, path: str, kept: str, plan: Rewriting) -> None:
    """Put the new directory in place of the old one, which gets another name."""
    _write_temporary(disk, path, plan)
    temporary = path + TEMPORARY_SUFFIX
    try:
        disk.copy_mode(path, temporary)
        disk.sync_directory(directory_of(path))  # the new one must be there when the old one goes
        disk.rename(path, kept)
    except BaseException:
        remove_tree(disk, temporary)
        raise
    try:
        disk.sync_directory(directory_of(path))  # and the old one when the new one takes its name
        disk.rename(temporary, path)
    except BaseException:
        disk.rename(kept, path)
        remove_tree(disk, temporary)
        raise
    remove_if_there(disk, WarmFiles(kept).owner)
    disk.sync_directory(directory_of(path))


def _write_temporary(disk: Disk, path: str, plan: Rewriting) -> None:
    _remove_temporary(disk, path)
    try:
        plan.write(path)
    except BaseException:
        _remove_temporary(disk, path)
        raise


def _remove_temporary(disk: Disk, path: str) -> None:
    temporary = path + TEMPORARY_SUFFIX
    if disk.is_directory(temporary):
        remove_tree(disk, temporary)
    else:
        remove_if_there(disk, temporary)
