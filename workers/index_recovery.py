"""Opening an index: lock, load the snapshot, judge the log, read it, cut a torn tail, sync.

What can be wrong, and what is done about it:

===============================  ===============================================================
both absent, or without records  an empty index is put in place: snapshot first, then log
log absent, or a cut-short head  an empty log is put in place
one absent, the other was used   ``StoreCorrupt``; nothing is touched, unless salvage is asked for
                                 where that is the log
snapshot damaged, or foreign     ``StoreCorrupt`` or ``InvalidFormat``; nothing is touched
log of another store             ``InvalidFormat``; nothing is touched
log older than the snapshot      its records are kept beside the log, then cut
records already in the snapshot  skipped, where stamps say so; else repeated, which changes nothing
damage before intact records     ``StoreCorrupt``; nothing is touched, unless salvage is asked for
damage to what a sync had saved  the same, as far as the ledger tells, or a clean close's note
torn tail, or a tail of zeros    the bytes are kept beside the log, then cut
a request logged only in part    cut as a whole: nobody was told that it happened
a last record the index refuses  the same
others that it refuses           ``StoreCorrupt``; nothing is touched, unless salvage is asked for
others that end the process      they do each time; nothing is touched, unless salvage is asked for
the last owner's sync failed     what can be read is written to a new log before it is trusted
leftovers of writing             removed, also those of the original's programs
===============================  ===============================================================
"""

import itertools
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.formats import iqdb_wal
from holdfast.formats.errors import (
    HoldfastError,
    InvalidArgument,
    InvalidFormat,
    StoreCorrupt,
    StoreNotFound,
    from_os_error,
)
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.iqdb_snapshot import Compression, SnapshotHeader, Stamp
from holdfast.formats.iqdb_values import Flaw, HnswParameters, IndexFlaw
from holdfast.formats.iqdb_wal import HEADER, HEADER_BYTES
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Disk,
    File,
    directory_of,
    put_in_place,
    remove_if_there,
    replace,
)
from holdfast.workers.foreign_index import make_foreign
from holdfast.workers.index_closing import SUFFIX as CLOSED_SUFFIX
from holdfast.workers.index_closing import is_empty, missing_log, missing_snapshot, synced_bytes
from holdfast.workers.index_log import (
    LogReading,
    Refused,
    apply_log,
    despite_sync,
    intact_parts,
    newest_stamp,
    read_log,
    request_at,
)
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.index_salvage import SUFFIX as TRIAL_SUFFIX
from holdfast.workers.index_salvage import Taken, forget_trial, take
from holdfast.workers.index_snapshot import (
    Loaded,
    Moment,
    StoredIndex,
    flawed,
    load_snapshot,
    write_beside,
)
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import (
    UNSYNCED_SUFFIX,
    LogFile,
    guard,
    is_marked_unsynced,
)
from holdfast.workers.mending import drop_cut_bytes, keep_cut_bytes, refuse_damage, settled
from holdfast.workers.messages import StoreSpec
from holdfast.workers.persistable import Persistable, class_of, parameters_of

WAL_SUFFIX = ".wal"
COMPRESSIONS = {
    "none": Compression.NONE,
    "zstd": Compression.ZSTD,
    "lz4": Compression.LZ4,
}
# What the original's programs write snapshots to, by process and time.
_LEFTOVER = re.compile(r"\.tmp\.\d+\.\d+")


@dataclass(slots=True)
class RecoveredIndex:
    """An index's state, as its files say."""

    log: LogFile
    ledger: Ledger
    index: StoredIndex
    header: SnapshotHeader
    store: int | None
    """By which records and snapshot know each other; None if nothing is stamped yet."""
    sequence: int
    """Number of the last record."""
    snapshot_bytes: int
    snapshot_inode: int
    torn_bytes: int
    records: int
    """How many were read from the log."""


def index_class(options: IndexOptions) -> type[Persistable] | None:
    """The class of an index that is not built in. Raises ``InvalidArgument``."""
    if options.kind is None or parameters_of(options.kind) is not None:
        return None
    return class_of(options.kind)


def empty_index(options: IndexOptions, cls: type[Persistable] | None) -> StoredIndex:
    """A new index. Raises ``InvalidArgument``."""
    if options.dimension is None:
        raise InvalidArgument("a new index needs its dimension")
    metric = options.metric or "cosine"
    if cls is not None:
        return make_foreign(cls, options.dimension, metric)
    parameters = parameters_of(options.kind or "flat")
    assert parameters is not None
    if isinstance(parameters, HnswParameters) and options.hnsw is not None:
        parameters = options.hnsw
    return CoreIndex(options.dimension, metric, parameters)


def recover(
    disk: Disk,
    spec: StoreSpec,
    options: IndexOptions,
    cls: type[Persistable] | None,
    *,
    sync: bool,
    tick: Callable[[], None],
    first: StoredIndex | None = None,
) -> RecoveredIndex:
    """Recover the index at ``spec.path``, whose lock the caller holds.

    ``first`` is what an absent one is made with, by default an empty one.
    """
    path = spec.path
    try:
        _remove_leftovers(disk, path)
        if is_empty(disk, path):
            _make(disk, spec, options, cls, first)
        else:
            first = None
        _ensure_log(disk, path, salvage=options.salvage)
        file = disk.open(path + WAL_SUFFIX, write=True)
    except HoldfastError:
        raise  # some are an OSError, too
    except OSError as error:
        raise from_os_error(error, "open", path) from error
    held: File | None = None
    try:
        held = guard(disk, file.path)
        recovered = _Recovery(disk, path, options, cls, tick).run(file, held, sync=sync)
        if first is not None:  # it was read back, and it is what its owner goes on with
            recovered.index = first
        return recovered
    except BaseException as error:
        file.close()
        if held is not None:
            held.close()
        if isinstance(error, OSError) and not isinstance(error, HoldfastError):
            raise from_os_error(error, "recover", path) from error
        raise


def _remove_leftovers(disk: Disk, path: str) -> None:
    """Remove what a crash in the middle of writing left."""
    for leftover in (path, path + WAL_SUFFIX):
        remove_if_there(disk, leftover + TEMPORARY_SUFFIX)
    directory, name = directory_of(path), os.path.basename(path)
    for found, kind in disk.list(directory):
        if kind == "file" and found.startswith(name) and _LEFTOVER.fullmatch(found[len(name) :]):
            remove_if_there(disk, os.path.join(directory, found))


def _make(
    disk: Disk,
    spec: StoreSpec,
    options: IndexOptions,
    cls: type[Persistable] | None,
    first: StoredIndex | None,
) -> None:
    path = spec.path
    wal = path + WAL_SUFFIX
    reason = missing_snapshot(disk, path, wal)
    if reason is not None:
        raise StoreCorrupt(f"{path!r}: {reason}", path=path, offset=0, reason=reason)
    if not spec.create:
        empty = "" if disk.inode_at(path) is None else ": the file is empty"
        raise StoreNotFound(f"there is no index at {path!r}{empty}", store=spec.name, path=path)
    index = empty_index(options, cls) if first is None else first
    for suffix in (LEDGER_SUFFIX, CLOSED_SUFFIX):  # of files that somebody has removed
        remove_if_there(disk, wal + suffix)
    write_now(disk, path, index, options, Stamp(secrets.randbits(64), 0))


def write_now(
    disk: Disk, path: str, index: StoredIndex, options: IndexOptions, stamp: Stamp
) -> None:
    """Put a snapshot in place to which no log belongs yet. Raises plain ``OSError``.

    The stamp, if the options want any, keeps it from being taken for a later one.
    """
    moment = Moment(stamp if options.stamps else None, 0)
    compression = COMPRESSIONS[options.compression]
    for _ in write_beside(disk, path, index, lambda: moment, compression, options.level):
        pass
    put_in_place(disk, path)


def _ensure_log(disk: Disk, path: str, *, salvage: bool) -> None:
    wal = path + WAL_SUFFIX
    if disk.inode_at(wal) is None:
        reason = missing_log(disk, path, wal)
        if reason is not None and not salvage:
            raise StoreCorrupt(f"{wal!r}: {reason}", path=wal, offset=0, reason=reason)
        replace(disk, wal, [HEADER])
        return
    file = disk.open(wal)
    try:
        head = file.read_at(0, HEADER_BYTES)
        zeros = not any(head) and not any(file.read_at(0, file.size()))
        synced = synced_bytes(disk, path, Ledger(disk, wal), wal, file.inode())
    finally:
        file.close()
    problem = None if zeros else iqdb_wal.header_problem(head)
    if synced > HEADER_BYTES and (zeros or len(head) < HEADER_BYTES):
        refuse_damage(wal, despite_sync(Verdict(Ending.TORN, 0, "it has no header"), synced))
    if problem is not None:
        raise InvalidFormat(
            f"{wal!r} is not the log of an index: {problem.reason}",
            path=wal,
            offset=problem.offset,
            reason=problem.reason,
        )
    if zeros or len(head) < HEADER_BYTES:
        replace(disk, wal, [HEADER])


class _Recovery:
    """One recovery of files that are there."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        options: IndexOptions,
        cls: type[Persistable] | None,
        tick: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._path = path
        self._wal = path + WAL_SUFFIX
        self._options = options
        self._cls = cls
        self._tick = tick
        self._snapshot_inode = 0

    def run(self, file: File, held: File, *, sync: bool) -> RecoveredIndex:
        loaded, snapshot_bytes = self._load()
        disk, wal, inode = self._disk, self._wal, file.inode()
        view = file.map()
        ledger = Ledger(disk, wal)
        sync_failed = is_marked_unsynced(disk, wal)
        unsynced_from = ledger.unsynced_from(view, inode, sync_failed=sync_failed)
        dimension = loaded.index.dimension
        try:
            reading = read_log(view, dimension, loaded.stamp, self._tick)
        except IndexFlaw as flaw:
            raise flawed(wal, flaw) from flaw
        verdict = iqdb_wal.judge(
            view, reading.damage, dimension, unsynced_from=unsynced_from, tick=self._tick
        )
        synced = synced_bytes(disk, self._path, ledger, wal, inode)
        verdict = despite_sync(verdict, synced)
        damaged = verdict.ending in (Ending.CORRUPT, Ending.INVALID)
        if not (damaged and self._options.salvage):
            refuse_damage(wal, verdict)
        end = verdict.offset if damaged else ledger.cut(view, inode, reading.end)
        taken = None
        if self._options.salvage:
            taken = self._take(loaded, file, view, min(reading.skip_to, end), end, damaged=damaged)
        if taken is not None and (damaged or taken.left_out):
            loaded = taken.loaded
            file, reading = self._begin_anew(taken, file, view, reading, end, verdict.reason)
            held.close()
            held = guard(disk, wal)
            view, inode, sync_failed = file.map(), file.inode(), False
            records, end, torn_bytes = reading.records, HEADER_BYTES, 0
        else:
            if taken is None:
                loaded, records, end = self._apply(loaded, view, reading, end)
            else:
                loaded, records = taken.loaded, taken.records
            if end < reading.end:
                reading = read_log(view[:end], dimension, loaded.stamp, self._tick)
            if loaded.stamp is not None and (reading.sequence or 0) < loaded.stamp.sequence:
                end = HEADER_BYTES  # the snapshot is newer: records that follow must not come here
            torn_bytes = len(view) - end
        reason = verdict.reason or "it ends in a part of a request, or before the snapshot"
        opened = settled(
            disk, file, held, ledger, view, end, reason, sync=sync, sync_failed=sync_failed
        )
        forget_trial(disk, wal)
        return self._recovered(opened, ledger, loaded, reading, snapshot_bytes, torn_bytes, records)

    def load_with(self, view: memoryview) -> StoredIndex:
        """The index with a log applied that is whole."""
        loaded, _ = self._load()
        try:
            reading = read_log(view, loaded.index.dimension, loaded.stamp, self._tick)
        except IndexFlaw as flaw:
            raise flawed(self._wal, flaw) from flaw
        damage = reading.damage
        if damage is not None:
            refuse_damage(self._wal, Verdict(Ending.CORRUPT, damage.offset, damage.reason))
        apply_log(view, min(reading.skip_to, reading.end), reading.end, loaded.index, self._tick)
        return loaded.index

    def _take(
        self, loaded: Loaded, file: File, view: memoryview, start: int, end: int, *, damaged: bool
    ) -> Taken:
        """What the index takes of a log from ``start`` to ``end``, and of what is intact behind."""
        parts = [(start, end)]
        if damaged:
            parts += intact_parts(view, end, loaded.index.dimension, self._tick)
        loads = itertools.chain([loaded], iter(lambda: self._load()[0], None))
        return take(self._disk, self._wal, file.inode(), view, parts, loads.__next__, self._tick)

    def _begin_anew(
        self,
        taken: Taken,
        file: File,
        view: memoryview,
        reading: LogReading,
        end: int,
        reason: str,
    ) -> tuple[File, LogReading]:
        """Put what was taken of a log into a new snapshot, and begin the log anew.

        What was not taken, and all from ``end`` on, is kept beside the log. Returns that, and how
        to go on: after a crash in between, the snapshot and the old log still belong together.
        """
        index, old, disk, wal = taken.loaded.index, taken.loaded.stamp, self._disk, self._wal
        store = secrets.randbits(64) if reading.store is None else reading.store
        stamp = Stamp(store, max(reading.sequence or 0, 0 if old is None else old.sequence))
        for start, stop in intact_parts(view, end, index.dimension, self._tick):
            stamp = newest_stamp(view, start, stop, index.dimension, stamp)
        if end < len(view):
            keep_cut_bytes(disk, wal, view[end:], end, reason)
        for start, stop in taken.left_out:
            if stop <= end:  # the others are kept already
                keep_cut_bytes(disk, wal, view[start:stop], start, taken.reason)
        write_now(disk, self._path, index, self._options, stamp)
        self._snapshot_inode = disk.inode_at(self._path) or 0
        replace(disk, wal, [HEADER])
        file.close()
        going_on = LogReading(store=store, records=taken.records, sequence=stamp.sequence)
        return disk.open(wal, write=True), going_on

    def _recovered(
        self,
        opened: LogFile,
        ledger: Ledger,
        loaded: Loaded,
        reading: LogReading,
        snapshot_bytes: int,
        torn_bytes: int,
        records: int,
    ) -> RecoveredIndex:
        sequence = reading.sequence or 0
        if loaded.stamp is not None:
            sequence = max(sequence, loaded.stamp.sequence)
        return RecoveredIndex(
            opened,
            ledger,
            loaded.index,
            loaded.header,
            reading.store,
            sequence,
            snapshot_bytes,
            self._snapshot_inode,
            torn_bytes,
            records,
        )

    def _load(self) -> tuple[Loaded, int]:
        file = self._disk.open(self._path)
        try:
            view = file.map()
            self._snapshot_inode = file.inode()
        finally:
            file.close()
        try:
            loaded = load_snapshot(
                view, self._cls, ratio_guard=self._options.ratio_guard, tick=self._tick
            )
        except IndexFlaw as flaw:
            raise flawed(self._path, flaw) from flaw
        return loaded, len(view)

    def _apply(
        self, loaded: Loaded, view: memoryview, reading: LogReading, end: int
    ) -> tuple[Loaded, int, int]:
        """Apply the log; a last request that the index refuses is cut, since nobody was told."""
        start = min(reading.skip_to, end)
        try:
            return loaded, apply_log(view, start, end, loaded.index, self._tick), end
        except Refused as refused:
            request = request_at(view, refused.offset, loaded.index.dimension)
            if request[1] < end:
                raise flawed(
                    self._wal, IndexFlaw(Flaw.PAYLOAD, refused.reason, refused.offset)
                ) from refused
            end = request[0]
        loaded, _ = self._load()  # it may have taken a part of that request
        return loaded, apply_log(view, min(start, end), end, loaded.index, self._tick), end


def load_again(
    disk: Disk, path: str, cls: type[Persistable], wal: LogFile, options: IndexOptions
) -> StoredIndex:
    """The index as snapshot and log say, both in use and whole; ``cls`` is the user's own.

    Raises ``Refused``, errors of the tree, plain ``OSError``.
    """
    recovery = _Recovery(disk, path, options, cls, lambda: None)
    return recovery.load_with(wal.file.map()[: wal.end])


def drop_files(disk: Disk, path: str) -> None:
    """Remove an index's snapshot and log, and everything beside them that is holdfast's."""
    wal = path + WAL_SUFFIX
    for leftover in (path + TEMPORARY_SUFFIX, wal + TEMPORARY_SUFFIX):
        remove_if_there(disk, leftover)
    for suffix in (LEDGER_SUFFIX, UNSYNCED_SUFFIX, CLOSED_SUFFIX, TRIAL_SUFFIX):
        remove_if_there(disk, wal + suffix)
    drop_cut_bytes(disk, wal)
    disk.sync_directory(directory_of(path))  # none of these tells of a log that is gone
    # The log first: a log without its snapshot could not be opened.
    remove_if_there(disk, wal)
    remove_if_there(disk, path)
    disk.sync_directory(directory_of(path))
