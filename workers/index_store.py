"""One index with its files: the rules of a write, a checkpoint and a death.

This is what an engine's worker (``workers/index.py``) and an index in the caller's own process
(``holdfast.PersistedIndex``) share. A write is checked as a whole, encoded, noted in the ledger,
appended in one piece, then applied; by a class of somebody's own applied first, then appended.
Nothing is logged that the index would refuse.
"""

import logging
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats import iqdb_wal
from holdfast.formats.errors import (
    Duplicate,
    HoldfastError,
    InvalidArgument,
    OptionsConflict,
    from_os_error,
)
from holdfast.formats.iqdb_snapshot import Compression, Stamp
from holdfast.formats.iqdb_values import Id
from holdfast.formats.iqdb_wal import HEADER, HEADER_BYTES, FrameStamp
from holdfast.formats.limits import (
    INDEX_LOG_BYTES_MIN,
)
from holdfast.workers.actor import Caller
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import Disk, put_in_place
from holdfast.workers.foreign_index import ForeignIndex, HalfDone
from holdfast.workers.group_commit import GroupCommit
from holdfast.workers.index_closing import note_closed
from holdfast.workers.index_log import Refused
from holdfast.workers.index_messages import IndexOptions, SnapshotInfo
from holdfast.workers.index_recovery import (
    COMPRESSIONS,
    RecoveredIndex,
    drop_files,
    index_class,
    load_again,
    recover,
)
from holdfast.workers.index_requests import check_sizes, not_found
from holdfast.workers.index_snapshot import Moment, StoredIndex, Written, write_beside
from holdfast.workers.letting_go import letting_go
from holdfast.workers.lock import Lock, owning
from holdfast.workers.log_file import Fatal, mark_unsynced
from holdfast.workers.messages import DEFAULT_DURABILITY, Compacted, Progress, StoreSpec
from holdfast.workers.new_log import new_log, take_over
from holdfast.workers.persistable import Persistable
from holdfast.workers.upkeep import quietly

log = logging.getLogger("holdfast.index")

Floats = NDArray[np.float32]

LOCK_SUFFIX = ".lock"
_COPY_BYTES = 1 << 20
NOBODY = Caller(0, 0)
"""Who writes without ever asking again, so that the ledger need not know."""


class Inserted(NamedTuple):
    """Counts of rows: taken, and of these in place of others."""

    accepted: int
    replaced: int


def open_store(
    disk: Disk,
    spec: StoreSpec,
    tick: Callable[[], None],
    *,
    cls: type[Persistable] | None = None,
    first: StoredIndex | None = None,
    lock_wait_s: float | None = None,
) -> "IndexStore":
    """Lock and recover the index that ``spec`` names, or make it, of ``first`` if that is given.

    ``cls`` is the class of an index that is not built in, unless the options name it.
    """
    options = spec.options
    if not isinstance(options, IndexOptions):
        options = IndexOptions()
    if cls is None:
        cls = index_class(options)
    with owning(disk, spec.path + LOCK_SUFFIX, spec.path, lock_wait_s) as lock:
        sync = (spec.durability or DEFAULT_DURABILITY) != "never"
        recovered = recover(disk, spec, options, cls, sync=sync, tick=tick, first=first)
        try:
            _check_agreed(spec, options, recovered.index)
        except BaseException:
            recovered.log.close()
            recovered.ledger.close()
            raise
    return IndexStore(disk, spec, options, lock, recovered)


def _check_agreed(spec: StoreSpec, options: IndexOptions, index: StoredIndex) -> None:
    """Raise ``OptionsConflict`` unless the index is what was asked for."""
    kind, hnsw = (index.kind, index.hnsw) if isinstance(index, CoreIndex) else (options.kind, None)
    for what, asked, has in (
        ("kind", options.kind, kind),
        ("dimension", options.dimension, index.dimension),
        ("metric", options.metric, index.metric),
        ("hnsw", options.hnsw, hnsw),
    ):
        if asked is not None and asked != has:
            raise OptionsConflict(
                f"index {spec.name!r} has {what}={has!r}, not {asked!r}",
                store=spec.name,
                path=spec.path,
            )


class IndexStore:
    """One index, recovered and ready."""

    def __init__(
        self,
        disk: Disk,
        spec: StoreSpec,
        options: IndexOptions,
        lock: Lock,
        recovered: RecoveredIndex,
    ) -> None:
        self.path = spec.path
        self.index = recovered.index
        self.log = recovered.log
        self.ledger = recovered.ledger
        self.group = GroupCommit(spec, recovered.log, recovered.ledger)
        self.snapshot_bytes = recovered.snapshot_bytes
        self._snapshot_inode: int | None = recovered.snapshot_inode
        self.torn_bytes = recovered.torn_bytes
        self.recovered_records = recovered.records
        self.checkpoints = 0
        self._disk = disk
        self._options = options
        self._lock = lock
        self._sequence = recovered.sequence
        self._store = secrets.randbits(64) if recovered.store is None else recovered.store
        header = recovered.header
        self._compression = header.compression or Compression.NONE
        self._count = header.rows
        self._version = header.version
        self._next_count = header.rows
        self._writing = False
        self._log_allowed = 0

    # --- writing ---------------------------------------------------------------------------

    def insert(
        self,
        ids: "NDArray[np.uint64] | list[Id]",
        vectors: Floats,
        metadata: list[bytes | None] | None,
        *,
        replace: bool = False,
        caller: Caller = NOBODY,
    ) -> Inserted:
        """Insert rows (n,), (n, d), with encoded metadata: one durable unit.

        Raises ``Duplicate`` for an id that is there or comes twice, unless ``replace``;
        ``LimitExceeded`` for a record over 256 MiB. Nothing was changed then.
        """
        if self.ledger.took_effect(*caller):
            return Inserted(*self.ledger.counted(*caller))
        if metadata is not None and not any(metadata):
            metadata = None
        check_sizes(ids, metadata, self.index.dimension, self.path)
        listed: list[Id] = ids if isinstance(ids, list) else ids.tolist()
        known = self._known(listed)
        if known is not None and not replace:
            again = "comes twice in the batch" if known[1] else "is in the index already"
            raise Duplicate(f"id {known[0]!r} {again}", path=self.path)
        replaced = 0 if known is None else len(listed) - self._fresh(listed)
        counts = Inserted(len(listed), replaced)
        if listed:
            data = iqdb_wal.encode_inserts(ids, vectors, metadata, self._stamp(len(listed)))
            self._write(data, caller, counts, lambda: self.index.put(listed, vectors, metadata))
            self._sequence += len(listed)
        return counts

    def delete(
        self,
        ids: "NDArray[np.uint64] | list[Id]",
        *,
        missing_ok: bool = False,
        caller: Caller = NOBODY,
    ) -> int:
        """Delete rows: one durable unit; returns how many there were.

        Raises ``NotFound`` for an id that is not there or comes twice, unless ``missing_ok``.
        """
        if self.ledger.took_effect(*caller):
            return self.ledger.counted(*caller)[0]
        listed: list[Id] = ids if isinstance(ids, list) else ids.tolist()
        there = list(dict.fromkeys(id_ for id_ in listed if id_ in self.index))
        if len(there) < len(listed) and not missing_ok:
            raise not_found(listed, self.index, self.path)
        if there:
            data = iqdb_wal.encode_deletes(there, self._stamp(len(there)))
            self._write(data, caller, (len(there), 0), lambda: self.index.remove(there))
            self._sequence += len(there)
        return len(there)

    def _known(self, ids: Sequence[Id]) -> tuple[Id, bool] | None:
        """The first id that is in the index, or (then True) came before in the batch."""
        index = self.index
        slots = index.table.slots if isinstance(index, CoreIndex) else None
        if slots is not None and slots.keys().isdisjoint(ids) and len(set(ids)) == len(ids):
            return None
        seen: set[Id] = set()
        for id_ in ids:
            if id_ in seen or id_ in self.index:
                return id_, id_ in seen
            seen.add(id_)
        return None

    def _fresh(self, ids: Sequence[Id]) -> int:
        """How many ids are new to the index."""
        return sum(id_ not in self.index for id_ in set(ids))

    def _stamp(self, count: int) -> FrameStamp | None:
        if not self._options.stamps:
            return None
        return FrameStamp(self._store, self._sequence + 1, count - 1)

    def _write(
        self, data: bytes, caller: Caller, counts: tuple[int, int], apply: Callable[[], object]
    ) -> None:
        """Note, log and apply, or do nothing of it.

        A class of somebody's own comes before the log: it may end the process, as native code can.
        What is logged first would then end every successor that reads the log, too.
        """
        if not self._lock.is_held():
            raise Fatal(f"the lock file of {self.path} was removed or replaced")
        if not self.log.is_in_place():
            raise Fatal(f"{self.log.path} was removed or replaced")
        if self._disk.inode_at(self.path) != self._snapshot_inode:
            raise Fatal(f"{self.path} was removed or replaced")
        start = self.log.end
        noted = caller != NOBODY
        if noted:
            first_crc = int.from_bytes(data[:4], "little")
            try:
                self.ledger.note(*caller, start, start + len(data), first_crc, counts)
            except OSError as error:
                raise self.log.error(error, "note a write to") from error
        try:
            if isinstance(self.index, ForeignIndex):
                self._apply_foreign(apply, len(data))
                self._log_applied(data)
            else:
                self.log.append(data)
        except HoldfastError:
            if noted:
                self.ledger.void()
            raise
        if isinstance(self.index, CoreIndex):
            if self.group.policy == "always":
                self.log.begin_sync(start)  # while the index takes it over
            apply()
        if noted:
            self.ledger.logged(*caller, counts)

    def _apply_foreign(self, apply: Callable[[], object], size: int) -> None:
        """Have the class take a request whose records need ``size`` bytes of the log.

        Whether there is room is tried before, since the class cannot be asked to undo anything.
        """
        self.log.try_room(size)
        try:
            apply()
        except HalfDone as error:
            self._load_again()
            raise InvalidArgument(str(error)) from error

    def _log_applied(self, data: bytes) -> None:
        """Log what the class has taken; if that fails, it is as before."""
        try:
            self.log.append(data)
        except HoldfastError:
            self._load_again()
            raise

    def _load_again(self) -> None:
        """Go on with what the files say, since the index has taken a part of a request.

        The class cannot be asked to undo that: it does not give replaced rows back.
        """
        assert isinstance(self.index, ForeignIndex)
        try:
            self.index = load_again(
                self._disk, self.path, type(self.index.inner), self.log, self._options
            )
        except (OSError, HoldfastError, Refused) as error:
            raise Fatal(f"{self.path!r} took a part of a request only: {error}") from error

    # --- snapshots -------------------------------------------------------------------------

    def needs_checkpoint(self) -> bool:
        """Whether the log is long enough for a new snapshot."""
        return not self._writing and self.log.end > max(self._log_limit(), self._log_allowed)

    def is_behind(self) -> bool:
        """Whether the log grows while a snapshot is written, so that this should not be put off."""
        return self._writing and self.log.end > 2 * self._log_limit()

    def _log_limit(self) -> int:
        limit = self._options.checkpoint_bytes
        return max(INDEX_LOG_BYTES_MIN, self.snapshot_bytes) if limit is None else limit

    def quiet_checkpoint(self) -> Generator[Progress | None, None, None]:
        """A checkpoint that nobody asked for. If it fails, the log doubles before there is another.

        What was written is in the log.
        """

        def put_off() -> None:
            self._log_allowed = 2 * self.log.end

        return quietly(self.checkpoint(), "a checkpoint", self.path, log, put_off)

    def checkpoint(self, *, reset: bool = True) -> Generator[Progress | None, None, Compacted]:
        """Write a snapshot, in slices, and with ``reset`` begin the log anew behind it.

        Returns the log's length before and after.

        The old snapshot goes once the new one was read back; the log, once that is in place. On an
        error the old ones stay and the error passes on.
        """
        before = self.log.end
        while self._writing:
            yield None
        self._writing = True
        try:
            written = yield from self._write_snapshot()
            self._put_in_place(written)
            if reset:
                yield from self._reset_log(written.log_end)
        except HoldfastError:
            raise  # some are an OSError, too
        except OSError as error:
            raise from_os_error(error, "write a snapshot of", self.path) from error
        finally:
            self._writing = False
        self._log_allowed = 0
        self.checkpoints += 1
        return Compacted(before, self.log.end)

    def _write_snapshot(self) -> Generator[Progress | None, None, Written]:
        while True:
            index = self.index
            written = yield from write_beside(
                self._disk,
                self.path,
                index,
                self._moment,
                COMPRESSIONS[self._options.compression],
                self._options.level,
            )
            if index is self.index:
                return written
            # Loaded again meanwhile: the one written may have had a part of a refused request.

    def _moment(self) -> Moment:
        self._next_count = len(self.index)
        stamp = Stamp(self._store, self._sequence) if self._options.stamps else None
        return Moment(stamp, self.log.end)

    def _put_in_place(self, written: Written) -> None:
        # A log that a power loss leaves shorter than the snapshot could not be read over it.
        if self.log.unsynced_bytes:
            self.group.sync()
        try:
            put_in_place(self._disk, self.path)
        except OSError as error:
            mark_unsynced(self._disk, self.log.path)
            raise Fatal(f"cannot put a snapshot of {self.path!r} in place: {error}") from error
        self._snapshot_inode = self._disk.inode_at(self.path)
        self.snapshot_bytes = written.file_bytes
        self._compression = written.compression
        self._count = self._next_count
        self._version = 2

    def _reset_log(self, start: int) -> Generator[Progress | None, None, None]:
        """Begin the log anew with what was appended from ``start`` on, which the snapshot lacks."""
        log = self.log
        with new_log(self._disk, log, self.ledger) as new:
            new.file.append(HEADER)
            copied_to = start
            while log.end - copied_to > _COPY_BYTES:  # until little is left
                new.file.append(log.read(copied_to, _COPY_BYTES))
                copied_to += _COPY_BYTES
                yield None
            new.file.sync()
            new.file.append(log.read(copied_to, log.end - copied_to))
        take_over(self._disk, log, self.ledger, new, HEADER_BYTES + log.end - start)

    def map_snapshot(self) -> memoryview:
        """The snapshot in place. Raises plain ``OSError``."""
        file = self._disk.open(self.path)
        try:
            return file.map()
        finally:
            file.close()

    def snapshot_info(self) -> SnapshotInfo:
        """What the snapshot in place says of itself."""
        return SnapshotInfo(
            version=self._version,
            index_type=self.index.index_type,
            dimension=self.index.dimension,
            metric=self.index.metric,
            count=self._count,
            compression=self._compression.name.lower(),
            file_bytes=self.snapshot_bytes,
            log_bytes=self.log.end,
        )

    # --- the end ---------------------------------------------------------------------------

    def synced_age_s(self) -> float | None:
        """Seconds since the last sync; None before the first."""
        return None if self.log.synced_at is None else time.monotonic() - self.log.synced_at

    def close(self) -> None:
        """Sync and let go of everything."""
        with letting_go(self.log.close, self.ledger.close, self._lock.release):
            if self.log.unsynced_bytes:
                self.group.sync()
            note_closed(self._disk, self.path, self.log)
            self.log.close()
            self.ledger.discard()

    def remove(self) -> None:
        """Remove the files for good, then let go of everything."""
        with letting_go(self.log.close, self.ledger.close, self._lock.release):
            self.log.close()
            self.ledger.close()
            drop_files(self._disk, self.path)

    def abandon(self) -> None:
        """Let go of everything as a crash would: nothing is synced, nothing tidied up."""
        self.log.close()
        self.ledger.close()
        self._lock.file.close()

    def check_invariants(self) -> None:
        """Assert that the state is consistent; for tests."""
        self.index.check_invariants()
        assert self.log.file.size() == self.log.end
        assert self.log.synced_end <= self.log.end
