"""The warm store's actor: temporal points in immutable Arrow chunks, with a log in front.

A write is checked as a whole, planned, noted in the ledger, appended to the log in one piece, then
taken over into the table. What has collected in memory is written to a chunk now and then, and
chunks are merged: both in slices between requests.
"""

import logging
import os
import time
from collections.abc import Callable, Generator
from typing import TypeVar

from holdfast.formats.errors import (
    HoldfastError,
    InvalidArgument,
    from_os_error,
    typed_errors,
)
from holdfast.workers import (
    warm_check,
    warm_import,
    warm_messages,
    warm_policy,
    warm_queries,
    warm_writes,
)
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.disk import Disk, directory_of
from holdfast.workers.letting_go import letting_go
from holdfast.workers.messages import (
    Compacted,
    Done,
    Progress,
    Reply,
    Request,
    StoreMayDrop,
    StoreSpec,
    StoreStatus,
)
from holdfast.workers.platform import give_memory_back
from holdfast.workers.upkeep import quietly
from holdfast.workers.warm_recovery import RecoveredWarm, mark_dropped, recover, remove_dropped

R = TypeVar("R")
Slices = Generator[Progress | None, None, None]

log = logging.getLogger("holdfast.warm")

_DONE = object()

_RETRY_S = 5.0  # before a flush or compaction that failed is tried again
_WORTH_A_CHUNK_ROWS = 4096  # fewer stay in the log when the store is closed


def open_warm(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> "WarmActor":
    """Recover the warm store that ``spec`` names."""
    return WarmActor(disk, spec, recover(disk, spec, tick), tick)


class WarmActor:
    """One warm store, recovered and ready. See ``holdfast.workers.actor`` for the contract."""

    def __init__(
        self, disk: Disk, spec: StoreSpec, recovered: RecoveredWarm, tick: Callable[[], None]
    ) -> None:
        self._disk = disk
        self._spec = spec
        self._store = recovered.store
        self._table = recovered.store.table
        self._torn_bytes = recovered.torn_bytes
        self._tick = tick
        self._flush: Slices | None = None
        self._compaction: Slices | None = None
        self._bloated = False
        """A flush or a compaction has freed memory since some was given back."""
        self._asked: Slices | None = None
        """Work that was asked for and is writing chunks, while upkeep waits."""
        self._not_before = 0.0
        self._decision: warm_policy.Decision | None = None
        self._decision_at = 0

    # --- requests --------------------------------------------------------------------------

    def properties(self) -> warm_messages.WarmIs:
        manifest = self._store.manifest
        return warm_messages.WarmIs(manifest.dimension, manifest.compression)

    def handle(self, request: Request, caller: Caller) -> Reply | Steps:
        table = self._table
        try:
            match request:
                case warm_messages.WarmWrite():
                    return warm_writes.write(self._store, request, caller)
                case warm_messages.WarmGet():
                    return warm_queries.get(table, request)
                case warm_messages.WarmRange():
                    return warm_queries.in_range(self._store, request)
                case warm_messages.WarmLatest():
                    return warm_queries.latest(table, request)
                case warm_messages.WarmDelete():
                    return warm_writes.delete(self._store, request, caller)
                case warm_messages.WarmDeleteRange():
                    return warm_writes.delete_range(self._store, request, caller)
                case warm_messages.WarmScan():
                    return warm_queries.scan(self._store, request)
                case warm_messages.WarmCount():
                    return warm_messages.WarmCounted(table.points)
                case _:
                    return self._handle_rest(request)
        except HoldfastError:
            raise  # some are an OSError, too
        except OSError as error:
            raise from_os_error(error, "use", self._store.files.directory) from error

    def _handle_rest(self, request: Request) -> Reply | Steps:
        """The requests that are rare, or take long."""
        match request:
            case warm_messages.WarmSeries():
                return warm_queries.series(self._table, request)
            case warm_messages.WarmNearest():
                return self._typed(warm_queries.nearest(self._table, request, self._tick))
            case warm_messages.WarmFlush():
                return self._typed(self._flush_now())
            case warm_messages.WarmCompact():
                return self._typed(self._compact_now())
            case warm_messages.WarmImport():
                imported = warm_import.import_steps(self._store, request, self._relief, self._tick)
                return self._typed(imported)
            case warm_messages.WarmVerify():
                return self._typed(warm_check.verify_steps(self._store, self._tick))
            case StoreStatus():
                return self._status()
            case StoreMayDrop():
                return Done()
        raise InvalidArgument(f"a warm store does not answer {type(request).__name__}")

    def _typed(
        self, steps: Generator[Progress | None, None, R]
    ) -> Generator[Progress | None, None, R]:
        with typed_errors("use", self._store.files.directory):
            return (yield from steps)

    # --- flushing and compacting -----------------------------------------------------------

    def _flush_now(self) -> Steps:
        if self._table.memory_rows:
            yield from self._alone(self._store.flush)
        return Done()

    def _compact_now(self) -> Steps:
        before = self._chunk_bytes()
        yield from self._alone(self._compact_all)
        return Compacted(before, self._chunk_bytes())

    def _relief(self) -> Slices:
        """Flush in the middle of other work, if what has collected is enough."""
        if self._is_full():
            yield from self._alone(self._store.flush)

    def _compact_all(self) -> Slices:
        if self._table.memory_rows:
            yield from self._store.flush()
        chunks = self._table.chunks
        if len({chunk.entry.run for chunk in chunks}) > 1 or any(c.dead_rows for c in chunks):
            yield from self._store.compact(chunks)

    def _alone(self, work: Callable[[], Slices]) -> Slices:
        """Do such work instead of the upkeep under way, and after other work of this sort."""
        while self._asked is not None:
            yield None
        self._drop_upkeep()
        self._asked = slices = work()
        try:
            yield from slices
        finally:
            self._asked = None
        give_memory_back()

    def _drop_upkeep(self) -> None:
        for upkeep in (self._flush, self._compaction):
            if upkeep is not None:
                upkeep.close()
        self._flush = self._compaction = None

    def pressed(self) -> bool:
        return self._asked is None and (self._is_full() or self._is_overdue())

    def _is_full(self) -> bool:
        full = warm_policy.is_full(self._table, self._store.log.end)
        return full and time.monotonic() >= self._not_before

    def _is_overdue(self) -> bool:
        return self._decided().overdue and time.monotonic() >= self._not_before

    def _decided(self) -> warm_policy.Decision:
        """What to merge next, looked at again only when chunks have changed."""
        if self._decision is None or self._decision_at != self._table.chunk_changes:
            self._decision_at = self._table.chunk_changes
            self._decision = warm_policy.decide(self._table.chunks)
        return self._decision

    def step(self, *, idle: bool) -> bool:
        if self._asked is not None:
            return False
        if self._flush is None and self._is_full():
            self._flush = self._quietly(self._store.flush(), "flush")
        if self._flush is not None:  # first, and also while a compaction is under way
            if next(self._flush, _DONE) is _DONE:
                self._flush = None
            return True
        if self._compaction is None:
            self._compaction = self._next_compaction()
        if self._compaction is None:
            if idle and self._bloated:  # who writes without a break goes on to use what was freed
                self._bloated = False
                give_memory_back()
            return False
        if (idle or self._is_overdue()) and next(self._compaction, _DONE) is _DONE:
            self._compaction = None
        return True

    def _next_compaction(self) -> Slices | None:
        if time.monotonic() < self._not_before:
            return None
        chunks = self._decided().chunks
        return self._quietly(self._store.compact(chunks), "compaction") if chunks else None

    def _quietly(self, work: Slices, what: str) -> Slices:
        def put_off() -> None:
            self._not_before = time.monotonic() + _RETRY_S

        yield from quietly(self._typed(work), what, self._spec.path, log, put_off)
        self._bloated = True

    # --- durability ------------------------------------------------------------------------

    def hold(self, caller: Caller) -> None:
        self._store.ledger.hold(*caller)

    def release(self, caller: Caller) -> None:
        self._store.ledger.release(*caller)

    def commit(self) -> None:
        self._store.group.commit()

    def settle(self) -> None:
        """Nothing is ever put off."""

    def sync_due_in(self) -> float | None:
        return self._store.group.due_in()

    # --- the rest --------------------------------------------------------------------------

    def _chunk_bytes(self) -> int:
        return sum(chunk.entry.bytes + chunk.entry.zone_bytes for chunk in self._table.chunks)

    def _status(self) -> Reply:
        store, table, chunks = self._store, self._table, self._table.chunks
        synced_at = store.log.synced_at
        return warm_messages.WarmStatus(
            kind="warm",
            path=self._spec.path,
            durability=store.group.policy,
            dimension=table.dimension,
            compression=store.manifest.compression,
            points=table.points,
            series=len(warm_queries.all_series(table.runs())),
            chunks=len(chunks),
            live_bytes=sum(map(warm_policy.live_bytes, chunks)),
            dead_bytes=sum(map(warm_policy.dead_bytes, chunks)),
            log_bytes=store.log.end,
            memory_points=table.memory_rows,
            write_amplification=store.write_amplification,
            generation=store.manifest.generation,
            synced_age_s=None if synced_at is None else time.monotonic() - synced_at,
            unsynced_bytes=store.log.unsynced_bytes,
            flushes=store.flushes,
            compactions=store.compactions,
            recovered_torn_bytes=self._torn_bytes,
            pid=os.getpid(),
        )

    def close(self) -> None:
        store = self._store
        with letting_go(store.log.close, store.ledger.close, store.lock.release):
            self._drop_upkeep()
            if self._asked is not None:  # nobody waits for it any more
                self._asked.close()
            if self._table.memory_rows >= _WORTH_A_CHUNK_ROWS:
                for _ in self._quietly(store.flush(), "flush"):
                    self._tick()
            if store.log.unsynced_bytes:
                store.group.sync()
            store.log.close()
            store.ledger.discard()

    def remove(self) -> None:
        store = self._store
        with letting_go(store.log.close, store.ledger.close, store.lock.release):
            self._drop_upkeep()
            mark_dropped(self._disk, store.files, store.manifest)
            store.log.close()
            store.ledger.close()
            remove_dropped(self._disk, store.files)
        if not self._disk.list(store.files.directory):
            self._disk.remove_directory(store.files.directory)
            self._disk.sync_directory(directory_of(store.files.directory))

    def abandon(self) -> None:
        """Let go of everything as a crash would: nothing is synced, nothing tidied up."""
        self._store.abandon()

    def check_invariants(self) -> None:
        self._table.check_invariants()
        log_file = self._store.log
        assert log_file.file.size() == log_file.end
        assert log_file.synced_end <= log_file.end
