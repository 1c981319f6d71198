"""The fold's actor: a key-value fold of an update stream, kept as an append-only log.

A write is encoded and checked as a whole, noted in the ledger, appended to the log in one piece,
then taken over into the table: after the answer has left, where that does not wait for the disk.
Values are never held in memory; reads are those of ``fold_queries``.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Generator
from typing import TypeVar, cast

from holdfast.formats import fold_index, fold_log
from holdfast.formats.errors import (
    HoldfastError,
    InvalidArgument,
    StaleUpdate,
    StoreCorrupt,
    corrupt,
    typed_errors,
)
from holdfast.formats.fold_log import (
    CURSOR_RECORD_BYTES_MIN,
    HEADER_BYTES,
    DamagedRecord,
)
from holdfast.formats.limits import (
    COMPACT_GARBAGE_BYTES_MIN,
)
from holdfast.formats.values import AnyUpdate, Cursor, Put
from holdfast.workers import artifacts, fold_messages, messages
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.disk import Disk
from holdfast.workers.fold_cache import save_index
from holdfast.workers.fold_compaction import Compaction, canonical_chunks, take_snapshot
from holdfast.workers.fold_queries import FoldQueries
from holdfast.workers.fold_recovery import RecoveredFold, drop_files, recover
from holdfast.workers.group_commit import GroupCommit
from holdfast.workers.letting_go import letting_go
from holdfast.workers.lock import SUFFIX as LOCK_SUFFIX
from holdfast.workers.lock import Lock, owning
from holdfast.workers.messages import Done, Reply, Request, StoreSpec
from holdfast.workers.platform import give_memory_back
from holdfast.workers.upkeep import quietly

log = logging.getLogger("holdfast.fold")

R = TypeVar("R")
Y = TypeVar("Y")


# An index cache is worth its file above this many entries, and is brought up to date when this many
# bytes of log or changes are not in it.
_INDEX_ENTRIES_MIN = 16_384
_UNINDEXED_BYTES_MAX = 8 << 20
_UNINDEXED_BYTES_AT_CLOSE_MAX = 1 << 20
_OVERLAY_ENTRIES_MAX = 65_536
_CLOSING_UPKEEP_S = 1.0


def open_fold(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> "FoldActor":
    """Recover the fold that ``spec`` names."""
    policy = spec.durability or messages.DEFAULT_DURABILITY
    with owning(disk, spec.path + LOCK_SUFFIX, spec.path) as lock:
        recovered = recover(disk, spec, sync=policy != "never", tick=tick)
    return FoldActor(disk, spec, lock, recovered, tick)


class FoldActor:
    """One fold, recovered and ready. See ``holdfast.workers.actor`` for the contract."""

    def __init__(
        self,
        disk: Disk,
        spec: StoreSpec,
        lock: Lock,
        recovered: RecoveredFold,
        tick: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._lock = lock
        self._log = recovered.log
        self._ledger = recovered.ledger
        self._group = GroupCommit(spec, recovered.log, recovered.ledger)
        self._table = recovered.table
        self._queries = FoldQueries(recovered.log, recovered.table, tick)
        self._cursor = recovered.cursor
        self._last_record = recovered.last_record
        self._torn_bytes = recovered.torn_bytes
        self._indexed_to = recovered.indexed_to
        self._tick = tick
        self._compactions = 0
        self._put_off: tuple[list[tuple[bytes, int]], dict[bytes, int]] | None = None
        """Where the last batch's keys lie, when it is in the log and not yet in the table."""
        self._replaced: memoryview | None = None
        self._upkeep: Generator[object, None, None] | None = None
        self._urgent = False
        self._rewriting = False
        self._garbage_allowed = COMPACT_GARBAGE_BYTES_MIN
        self._overlay_allowed = _OVERLAY_ENTRIES_MAX

    # --- requests --------------------------------------------------------------------------

    def properties(self) -> None:
        return None

    def handle(self, request: Request, caller: Caller) -> Reply | Steps:
        self.settle()
        try:
            match request:
                case fold_messages.FoldGet(key=key):
                    return fold_messages.Entry(self._queries.get(key))
                case fold_messages.FoldApply():
                    return self._apply(request, caller)
                case fold_messages.FoldGetMany(keys=keys):
                    return fold_messages.MaybeEntries(self._queries.get_many(keys))
                case fold_messages.FoldRange(prefix=prefix, limit=limit):
                    return fold_messages.Entries(self._queries.range(prefix, limit))
                case fold_messages.FoldScan(prefix=prefix, after=after):
                    return self._queries.scan(prefix, after)
                case fold_messages.FoldCursor():
                    return fold_messages.CursorIs(self._cursor)
                case fold_messages.FoldStaleKeys(keys=keys):
                    return fold_messages.Keys(self._queries.stale_keys(keys))
                case fold_messages.FoldCompact():
                    return self._settling(self._compact())
                case fold_messages.FoldExport(directory=directory):
                    exporting = self._typed(self._export(directory, caller), "export to", directory)
                    return self._settling(exporting)
                case messages.StoreStatus():
                    return self._status()
                case messages.StoreMayDrop():
                    return Done()
        except DamagedRecord as damage:
            raise self._corrupt(damage.offset) from None
        except HoldfastError:
            raise  # some are an OSError, too
        except OSError as error:
            raise self._log.error(error, "use") from error
        raise InvalidArgument(f"a fold does not answer {type(request).__name__}")

    def _apply(self, request: fold_messages.FoldApply, caller: Caller) -> Reply:
        if self._ledger.took_effect(*caller):
            return Done()
        cursor = self._cursor if request.cursor is None else request.cursor
        if not request.updates and cursor == self._cursor:
            return Done()
        if request.refuse_stale:
            self._refuse_stale(request.updates, cursor)
        start = self._log.end
        records, items = fold_log.encode_updates(request.updates, start)
        # Also if it stays: behind this record, damage to an update does not pass for a torn tail.
        cursor_record = fold_log.encode_cursor(cursor.token)
        data = b"".join((*records, cursor_record))
        if not self._lock.is_held():
            raise RuntimeError(f"the lock file of {self._log.path} was removed or replaced")
        if not self._log.is_in_place():
            raise RuntimeError(f"{self._log.path} was removed or replaced")
        based = self._table.look_up(items)  # what is damaged must show before anything is written
        first_crc = int.from_bytes(data[:4], "little")
        try:
            self._ledger.note(*caller, start, start + len(data), first_crc)
        except OSError as error:
            raise self._log.error(error, "note a write to") from error
        try:
            self._log.append(data)
        except HoldfastError:
            self._ledger.void()
            raise
        self._ledger.logged(*caller)
        self._cursor = cursor
        self._last_record = self._log.end - len(cursor_record)
        self._put_off = items, based
        if self._group.policy == "always":  # the caller waits for the disk in any case
            self._log.begin_sync(start)
            self.settle()
        return Done()

    def _refuse_stale(self, updates: list[AnyUpdate], cursor: Cursor) -> None:
        """Check ``stale="refuse"``: neither cursor nor versions may be seen to go backwards."""
        held, given = self._cursor.u64, cursor.u64
        to_the_start = not cursor.token and self._cursor.token
        if to_the_start or (held is not None and given is not None and given < held):
            raise StaleUpdate(
                f"cursor {cursor!r} is behind the stored {self._cursor!r}",
                path=self._log.path,
            )
        newest: dict[str, int | None] = {}
        for number, update in enumerate(updates):
            if update.key not in newest:
                entry = self._queries.get(update.key)
                newest[update.key] = entry.version.u64 if entry else None
            old, new = newest[update.key], update.version.u64
            if old is not None and new is not None and new < old:
                raise StaleUpdate(
                    f"updates[{number}]: version {new} of key {update.key!r} is older than the "
                    f"stored {old}",
                    path=self._log.path,
                )
            newest[update.key] = new if isinstance(update, Put) else None

    def _corrupt(self, offset: int) -> StoreCorrupt:
        return corrupt(self._log.path, offset, "the record no longer matches its checksum")

    # --- long work -------------------------------------------------------------------------

    def _settling(self, steps: Steps) -> Steps:
        """These steps, none of which finds the table behind the log."""
        with contextlib.closing(steps):
            while True:
                self.settle()
                try:
                    progress = next(steps)
                except StopIteration as finished:
                    return cast("Reply", finished.value)
                yield progress

    def _compact(self) -> Steps:
        before = self._log.end
        yield from self._rewrite()
        return messages.Compacted(before, self._log.end)

    def _rewrite(self) -> Generator[messages.Progress | None, None, None]:
        """Compact, after a compaction that is under way, and instead of an index being made."""
        while self._rewriting:
            yield None
        if self._upkeep is not None:
            self._upkeep.close()
            self._upkeep = None
        yield from self._typed(self._rewrite_now(), "compact", self._log.path)

    def _typed(self, steps: Generator[Y, None, R], doing: str, path: str) -> Generator[Y, None, R]:
        """Errors of the system, and damage met in the log, in their typed form."""
        try:
            with typed_errors(doing, path):
                return (yield from steps)
        except DamagedRecord as damage:
            raise self._corrupt(damage.offset) from None

    def _rewrite_now(self) -> Generator[messages.Progress | None, None, None]:
        self._rewriting = True
        try:
            compaction = Compaction(self._disk, self._log, self._ledger, self._table)
            self._last_record = yield from compaction.steps(self._cursor, lambda: self._last_record)
        finally:
            self._rewriting = False
        self._compactions += 1
        self._replaced = compaction.replaced  # until the reply has left
        self._garbage_allowed = COMPACT_GARBAGE_BYTES_MIN
        self._indexed_to = 0

    def _export(self, directory: str, caller: Caller) -> Steps:
        entries, cursor = self._table.entries, self._cursor
        snapshot = yield from take_snapshot(self._table, self._log, cursor)
        files = None
        if self._ledger.took_effect(*caller):  # begun before a crash: perhaps to its end
            files = yield from artifacts.already_exported_steps(
                self._disk,
                directory,
                canonical_chunks(snapshot),
                cursor=cursor,
                total=snapshot.total_bytes(),
            )
        if files is None:
            self._ledger.note(*caller)
            self._ledger.logged(*caller)
            files = yield from artifacts.export_steps(
                self._disk,
                directory,
                canonical_chunks(snapshot),
                cursor=cursor,
                entries=entries,
                total=snapshot.total_bytes(),
                created_at_unix=max(0, int(time.time())),
            )
        return fold_messages.Exported(directory, entries, cursor, files)

    # --- durability and upkeep -------------------------------------------------------------

    def hold(self, caller: Caller) -> None:
        self._ledger.hold(*caller)

    def release(self, caller: Caller) -> None:
        self._ledger.release(*caller)

    def commit(self) -> None:
        self._group.commit()

    def settle(self) -> None:
        put_off, self._put_off = self._put_off, None
        if put_off is not None:
            self._table.apply(*put_off)

    def sync_due_in(self) -> float | None:
        return self._group.due_in()

    def step(self, *, idle: bool) -> bool:
        self.settle()
        if self._replaced is not None:
            self._replaced = None
            give_memory_back()
        if self._upkeep is None and not self._rewriting:
            self._upkeep = self._next_upkeep(_UNINDEXED_BYTES_MAX)
        if self._upkeep is None:
            return False
        if not idle and not self._urgent:
            return True  # an index saves time at the next opening; it can wait for a quiet moment
        try:
            next(self._upkeep)
        except StopIteration:
            self._upkeep = None
        return True

    def _next_upkeep(self, unindexed_bytes_max: int) -> Generator[object, None, None] | None:
        self._urgent = self._garbage_bytes() > max(self._garbage_allowed, self._table.live_bytes)
        if self._urgent:
            return self._rewrite_quietly()
        if len(self._table.overlay) > max(self._overlay_allowed, len(self._table.base) // 8):
            return self._reindex_quietly()
        unindexed = self._log.end - self._indexed_to
        if self._table.entries >= _INDEX_ENTRIES_MIN and unindexed > max(
            unindexed_bytes_max, self._indexed_to // 8
        ):
            return self._reindex_quietly()
        return None

    def _garbage_bytes(self) -> int:
        cursor = 0 if self._cursor.is_none else CURSOR_RECORD_BYTES_MIN + len(self._cursor.token)
        return self._log.end - HEADER_BYTES - self._table.live_bytes - cursor

    def _rewrite_quietly(self) -> Generator[object, None, None]:
        def put_off() -> None:  # until there is more to gain
            self._garbage_allowed = 2 * self._garbage_bytes()

        path = self._log.path
        work = self._typed(self._rewrite_now(), "compact", path)
        yield from quietly(work, "compaction", path, log, put_off)

    def _reindex_quietly(self) -> Generator[object, None, None]:
        """The same for the index. What it was to cover counts as covered, also if it fails."""

        def put_off() -> None:
            self._overlay_allowed = 2 * len(self._table.overlay)

        path = self._log.path
        self._indexed_to = self._log.end
        work = self._typed(self._reindex(), "index", path)
        yield from quietly(work, "indexing", path, log, put_off)

    def _reindex(self) -> Generator[object, None, None]:
        """Fold the overlay into the base and write the index cache."""
        covered, last_record, cursor = self._log.end, self._last_record, self._cursor
        live_bytes = self._table.live_bytes
        yield from self._table.rebase(self._log.remap())
        self._overlay_allowed = _OVERLAY_ENTRIES_MAX
        base = self._table.base
        fingerprint = fold_index.fingerprint(base.view, base.spans, last_record, covered)
        if len(base) < _INDEX_ENTRIES_MIN or fingerprint is None:
            return
        yield None
        data = fold_index.encode(
            fold_index.FoldIndex(
                covered, live_bytes, last_record, fingerprint, cursor.token,
                self._log.file.inode(), base.spans, base.fences,
            )
        )  # fmt: skip
        yield None
        yield from save_index(self._disk, self._log.path, data)

    # --- the rest --------------------------------------------------------------------------

    def _status(self) -> fold_messages.Status:
        synced_at = self._log.synced_at
        return fold_messages.Status(
            kind="fold",
            path=self._log.path,
            durability=self._group.policy,
            entries=self._table.entries,
            log_bytes=self._log.end,
            live_bytes=self._table.live_bytes,
            dead_bytes=self._garbage_bytes(),
            cursor=self._cursor,
            synced_age_s=None if synced_at is None else time.monotonic() - synced_at,
            unsynced_bytes=self._log.unsynced_bytes,
            compactions=self._compactions,
            recovered_torn_bytes=self._torn_bytes,
            indexed_bytes=self._indexed_to,
            pid=os.getpid(),
        )

    def pressed(self) -> bool:
        return False  # a slice every few turns keeps pace

    def close(self) -> None:
        with letting_go(self._log.close, self._ledger.close, self._lock.release):
            self.settle()
            if self._log.unsynced_bytes:
                self._group.sync()
            give_up = time.monotonic() + _CLOSING_UPKEEP_S
            if self._upkeep is None and not self._rewriting:
                self._upkeep = self._next_upkeep(_UNINDEXED_BYTES_AT_CLOSE_MAX)
            while self._upkeep is not None and time.monotonic() < give_up:
                self.step(idle=True)
            if self._upkeep is not None:
                self._upkeep.close()
            self._log.close()
            self._ledger.discard()

    def remove(self) -> None:
        with letting_go(self._log.close, self._ledger.close, self._lock.release):
            self._log.close()
            self._ledger.close()
            drop_files(self._disk, self._log.path)

    def abandon(self) -> None:
        """Let go of everything as a crash would: nothing is synced, nothing tidied up."""
        self._log.close()
        self._ledger.close()
        self._lock.file.close()

    def check_invariants(self) -> None:
        self._table.check_invariants()
        assert self._log.file.size() == self._log.end
        assert self._log.synced_end <= self._log.end
