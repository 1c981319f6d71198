"""The vector store's actor: what the serve loop asks of it, and who answers.

The modules behind it: ``vector_store`` (file and memory, commits), ``vector_writes``,
``vector_queries``, ``vector_branches``, ``vector_compaction``, ``vector_index``,
``vector_recovery`` (opening) and ``vector_check`` (verifying).
"""

import logging
import os
import time
from collections.abc import Callable, Generator
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import (
    HasBranches,
    HoldfastError,
    InvalidArgument,
    corrupt,
    typed_errors,
)
from holdfast.formats.rvf.addrot import addrot
from holdfast.formats.rvf.segment import SegmentType, type_name
from holdfast.workers import (
    sets,
    vector_branches,
    vector_check,
    vector_messages,
    vector_queries,
    vector_writes,
)
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.disk import Disk
from holdfast.workers.group_commit import GroupCommit
from holdfast.workers.ledger import Ledger
from holdfast.workers.letting_go import letting_go
from holdfast.workers.lock import Lock, owning
from holdfast.workers.log_file import Fatal, LogFile
from holdfast.workers.messages import (
    Compacted,
    Done,
    Progress,
    Reply,
    Request,
    StoreMayDrop,
    StoreSpec,
)
from holdfast.workers.messages import StoreStatus as AskStatus
from holdfast.workers.platform import give_memory_back
from holdfast.workers.raw_arrays import ids_of, raw
from holdfast.workers.upkeep import quietly
from holdfast.workers.upstream_lock import UpstreamLock
from holdfast.workers.vector_compaction import Compaction
from holdfast.workers.vector_index import VectorIndex
from holdfast.workers.vector_loading import DamagedSegment
from holdfast.workers.vector_recovery import (
    OWNER_SUFFIX,
    RecoveredVectors,
    drop_files,
    open_read_only,
    recover,
)
from holdfast.workers.vector_store import VectorStore

log = logging.getLogger("holdfast.vectors")

R = TypeVar("R")

_DEAD_BYTES_MIN = 2 << 20  # below this much a file is left alone
_BRANCHES_LOOK_S = 5.0  # to see whether they are still there means opening their files
_IMAGES = {
    "kernel": SegmentType.KERNEL,
    "ebpf": SegmentType.EBPF,
    "wasm": SegmentType.WASM,
    "dashboard": SegmentType.DASHBOARD,
}


def open_vectors(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> "VectorsActor":
    """Recover the vector store that ``spec`` names."""
    if isinstance(spec.options, vector_messages.VectorOptions) and spec.options.read_only:
        return VectorsActor(disk, spec, None, None, open_read_only(disk, spec.path, tick), tick)
    policy = spec.durability or "always"
    with owning(disk, spec.path + OWNER_SUFFIX, spec.path) as lock:
        with typed_errors("lock", spec.path):
            upstream = UpstreamLock.acquire(disk, spec.path)
        try:
            recovered = recover(disk, spec, sync=policy != "never", tick=tick)
        except BaseException:
            upstream.release()
            raise
    return VectorsActor(disk, spec, lock, upstream, recovered, tick)


class VectorsActor:
    """One vector store, recovered and ready. See ``holdfast.workers.actor`` for the contract."""

    def __init__(
        self,
        disk: Disk,
        spec: StoreSpec,
        lock: Lock | None,
        upstream: UpstreamLock | None,
        recovered: RecoveredVectors,
        tick: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._spec = spec
        self._lock = lock
        self._upstream = upstream
        self._tick = tick
        self._torn_bytes = recovered.torn_bytes
        self._log: LogFile = recovered.log
        self._ledger: Ledger | None = recovered.ledger
        self._group = None if self._ledger is None else GroupCommit(spec, self._log, self._ledger)
        self._store = VectorStore(disk, self._log, self._ledger, lock, recovered.loaded, tick)
        self._index = VectorIndex(self._store)
        self._compactions = 0
        self._rewriting = False
        self._upkeep: Generator[object, None, None] | None = None
        self._dead_allowed = _DEAD_BYTES_MIN
        self._compact_after = 0.0
        if self._ledger is not None:
            self._store.shorten_manifest()  # a predecessor may have died in between

    # --- requests --------------------------------------------------------------------------

    def properties(self) -> vector_messages.VectorsAre:
        record = self._store.catalog.record
        return vector_messages.VectorsAre(
            self._store.dimension, record.metric, record.profile, self._ledger is None
        )

    def handle(self, request: Request, caller: Caller) -> Reply | Steps:
        store = self._store
        try:
            match request:
                case vector_messages.VectorsQuery():
                    return vector_queries.query(store, self._index, request)
                case vector_messages.VectorsIngest():
                    reply = vector_writes.ingest(store, request, caller)
                    self._index.grown()
                    return reply
                case vector_messages.VectorsGet():
                    return vector_queries.get(store, request)
                case vector_messages.VectorsDelete(ids=ids):
                    return vector_writes.delete(store, ids_of(ids), caller)
                case vector_messages.VectorsDeleteWhere(where=where):
                    return vector_writes.delete_where(store, where, caller)
                case vector_messages.VectorsScan():
                    return vector_queries.scan(store, request)
                case vector_messages.VectorsCount(where=where):
                    return vector_messages.Counted(vector_queries.select(store, where).count)
                case vector_messages.VectorsCompact():
                    store.check_writable()
                    return self._typed(self._compact(), "compact")
                case AskStatus():
                    return self._status()
                case _:
                    return self._handle_rest(request, caller)
        except HoldfastError:
            raise  # some are an OSError, too
        except (OSError, DamagedSegment) as error:
            raise self._typed_error(error, "use") from error

    def _typed(
        self, steps: Generator[Progress | None, None, R], doing: str
    ) -> Generator[Progress | None, None, R]:
        """Long work, whose errors are typed as well."""
        try:
            return (yield from steps)
        except HoldfastError:
            raise
        except (OSError, DamagedSegment) as error:
            raise self._typed_error(error, doing) from error

    def _typed_error(self, error: OSError | DamagedSegment, doing: str) -> HoldfastError:
        if isinstance(error, OSError):
            return self._log.error(error, doing)
        return corrupt(self._log.path, error.offset, error.reason)

    def _handle_rest(self, request: Request, caller: Caller) -> Reply | Steps:
        """The requests that are rare."""
        store = self._store
        match request:
            case StoreMayDrop():
                vector_branches.check_no_branches(store, "drop")
                return Done()
            case vector_messages.VectorsSegments():
                return vector_messages.Segments(
                    [
                        vector_messages.Segment(*entry, type_name(entry.type))
                        for entry in store.catalog.entries()
                    ]
                )
            case vector_messages.VectorsFreeze():
                return self._freeze(caller)
            case vector_messages.VectorsBranch(path=path):
                self._refuse_read_only()
                hidden = self._outside(request.include, request.exclude, self._live_ids())
                vector_branches.branch(store, path, hidden, caller, self._sync)
                return Done()
            case vector_messages.VectorsDerive(path=path, derivation=kind, dimension=dimension):
                self._refuse_read_only()
                vector_branches.derive(store, path, kind, dimension, caller, self._sync)
                return Done()
            case vector_messages.VectorsLineage():
                view = self._log.remap()
                return vector_check.lineage(self._disk, store.path, view, store.catalog)
            case vector_messages.VectorsCow():
                return vector_branches.cow_stats(store)
            case vector_messages.VectorsMembers():
                return self._members(request, caller)
            case vector_messages.VectorsEmbed():
                return self._embed(request, caller)
            case vector_messages.VectorsExtract(kind=kind):
                return self._extract(kind)
            case vector_messages.VectorsVerify():
                view = self._log.remap()[: self._log.end]
                return self._typed(
                    vector_check.verify_steps(self._disk, store.path, view), "verify"
                )
            case vector_messages.VectorsRefresh():
                return self._refresh()
            case vector_messages.VectorsIndex(action=action):
                return self._index.act(action)
            case vector_messages.VectorsDigests(after=after):
                return vector_queries.digests(store, after)
        raise InvalidArgument(f"a vector store does not answer {type(request).__name__}")

    def _refuse_read_only(self) -> None:
        """A frozen store can be branched; one that is only read cannot."""
        if self._ledger is None:
            self._store.check_writable()

    # --- rare writes -----------------------------------------------------------------------

    def _freeze(self, caller: Caller) -> Reply:
        store = self._store
        self._refuse_read_only()
        if not store.catalog.record.frozen:
            commit = store.begin()
            commit.store_record(store.catalog.record.as_frozen())
            store.write(commit, store.own_live_rows(), caller)
        return Done()

    def _live_ids(self) -> NDArray[np.uint64]:
        table = self._store.table
        return table.ids[table.live_in_id_order()]

    @staticmethod
    def _outside(
        include: memoryview | None, exclude: memoryview | None, ids: NDArray[np.uint64]
    ) -> NDArray[np.uint64]:
        """Those of ``ids`` that the sets do not let through."""
        outside = np.empty(0, np.uint64)
        if include is not None:
            outside = sets.difference(ids, sets.unique(ids_of(include)))
        if exclude is not None:
            outside = sets.union(outside, sets.intersection(ids, sets.unique(ids_of(exclude))))
        return outside

    def _members(self, request: vector_messages.VectorsMembers, caller: Caller) -> Reply:
        store = self._store
        if request.change and store.counted_before(caller) is None:
            if not store.ancestors:
                raise InvalidArgument(f"{store.path!r} is no branch", path=store.path)
            outside = self._outside(request.include, request.exclude, store.inherited_ids)
            commit = store.begin()
            commit.catalog.epoch += 1
            hidden = vector_branches.hide(
                commit, store.inherited_ids, store.hidden, outside, self._tick
            )
            store.write(commit, store.own_live_rows(), caller)
            store.hidden = hidden
            rows = store.table.find_live(hidden)
            store.table.kill(rows[rows < store.inherited_rows])
        stats = vector_branches.cow_stats(store)
        return vector_messages.Membership(
            len(store.inherited_ids), stats.inherited_rows, raw(store.hidden)
        )

    def _embed(self, request: vector_messages.VectorsEmbed, caller: Caller) -> Reply:
        store = self._store
        if store.counted_before(caller) is None:
            commit = store.begin()
            commit.catalog.epoch += 1
            commit.other(_IMAGES[request.kind], bytes(request.payload))
            store.write(commit, store.own_live_rows(), caller)
        return Done()

    def _extract(self, kind: vector_messages.ImageKind) -> Reply:
        """The newest image of a kind; the original gives the oldest."""
        entries = self._store.catalog.of_type(_IMAGES[kind])
        if not entries:
            return vector_messages.Image(None)
        manifest = self._store.manifest_payload()
        return vector_messages.Image(self._store.payload(entries[-1]), addrot(manifest, self._tick))

    def _refresh(self) -> Reply:
        """See what others have committed since; only a store opened read-only can fall behind."""
        if self._ledger is None:
            known = self.properties()
            fresh = open_read_only(self._disk, self._spec.path, self._tick)
            self._log.close()
            self._log = self._store.log = fresh.log
            self._store.adopt(fresh.loaded)
            self._index.reset()
            if self.properties() != known:
                raise Fatal(f"{self._log.path!r} was made anew, and no longer has {known}")
        return vector_messages.Counted(self._store.table.live_rows)

    # --- compaction and upkeep -------------------------------------------------------------

    def _compact(self) -> Steps:
        before = self._log.end
        vector_branches.check_no_branches(self._store, "compact")
        if self._upkeep is not None:  # it would go on only when nobody asks for anything
            self._upkeep.close()
            self._upkeep = None
        while self._rewriting:
            yield None
        yield from self._rewrite()
        return Compacted(before, self._log.end)

    def _rewrite(self) -> Generator[Progress | None, None, None]:
        self._rewriting = True
        try:
            yield from Compaction(self._store).steps()
        finally:
            self._rewriting = False
        self._compactions += 1
        self._dead_allowed = _DEAD_BYTES_MIN
        self._index.reset()
        self._store.shorten_manifest()  # which had to wait
        give_memory_back()

    def step(self, *, idle: bool) -> bool:
        if self._upkeep is None and not self._rewriting and self._is_wasteful():
            self._upkeep = self._rewrite_quietly()
        if self._upkeep is not None:
            try:
                next(self._upkeep)
            except StopIteration:
                self._upkeep = None
            return True
        if idle and self._ledger is not None and self._store.shorten_manifest():
            return True
        return self._index.step(idle=idle)

    def _is_wasteful(self) -> bool:
        store = self._store
        if self._ledger is None or store.catalog.record.frozen:
            return False
        return (
            store.dead_bytes() > max(self._dead_allowed, store.live_bytes())
            and time.monotonic() >= self._compact_after
        )

    def _rewrite_quietly(self) -> Generator[object, None, None]:
        def put_off() -> None:  # until there is more to gain
            self._dead_allowed = 2 * self._store.dead_bytes()

        work = self._typed(self._rewrite_unless_branched(), "compact")
        yield from quietly(work, "compaction", self._log.path, log, put_off)

    def _rewrite_unless_branched(self) -> Generator[Progress | None, None, None]:
        try:
            vector_branches.check_no_branches(self._store, "compact")
            yield from self._rewrite()
        except HasBranches:
            # They may be dropped at any moment, and nobody tells.
            self._compact_after = time.monotonic() + _BRANCHES_LOOK_S

    # --- durability ------------------------------------------------------------------------

    def hold(self, caller: Caller) -> None:
        if self._ledger is not None:
            self._ledger.hold(*caller)

    def release(self, caller: Caller) -> None:
        if self._ledger is not None:
            self._ledger.release(*caller)

    def commit(self) -> None:
        if self._group is not None:
            self._group.commit()
        if self._upstream is not None and self._upstream.refresh_due_in() <= 0:
            self._upstream.refresh()
        self._index.poll()

    def _sync(self) -> None:
        assert self._group is not None
        if self._log.unsynced_bytes:
            self._group.sync()

    def settle(self) -> None:
        """Nothing is ever put off."""

    def sync_due_in(self) -> float | None:
        due = [
            self._group.due_in() if self._group is not None else None,
            self._upstream.refresh_due_in() if self._upstream is not None else None,
            self._index.due_in(),
        ]
        return min((seconds for seconds in due if seconds is not None), default=None)

    # --- the rest --------------------------------------------------------------------------

    def _status(self) -> Reply:
        store, table = self._store, self._store.table
        catalog, record, synced_at = store.catalog, store.catalog.record, self._log.synced_at
        return vector_messages.VectorStatus(
            kind="vectors",
            path=store.path,
            durability=self._group.policy if self._group is not None else "never",
            dimension=store.dimension,
            metric=record.metric,
            profile=record.profile,
            rows=table.rows,
            live_rows=table.live_rows,
            deleted_ids=len(catalog.deleted) + len(store.hidden),
            file_bytes=self._log.end,
            live_bytes=store.live_bytes(),
            dead_bytes=store.dead_bytes(),
            segments=len(catalog.entries()),
            epoch=catalog.epoch,
            frozen=record.frozen,
            read_only=self._ledger is None,
            index=self._index.state,
            index_rows=self._index.rows,
            index_recall=self._index.recall,
            index_progress=self._index.progress,
            synced_age_s=None if synced_at is None else time.monotonic() - synced_at,
            unsynced_bytes=self._log.unsynced_bytes if self._ledger is not None else 0,
            compactions=self._compactions,
            recovered_torn_bytes=self._torn_bytes,
            pid=os.getpid(),
        )

    def pressed(self) -> bool:
        return False  # a slice every few turns keeps pace

    def close(self) -> None:
        with letting_go(*self._endings()):
            if self._ledger is not None:
                self._sync()
            if self._upkeep is not None:
                self._upkeep.close()
            self._index.close(save=self._ledger is not None)
            self._log.close()
            if self._ledger is not None:
                self._ledger.discard()

    def remove(self) -> None:
        with letting_go(*self._endings()):
            self._index.close(save=False)
            drop_files(self._disk, self._log.path)

    def _endings(self) -> list[Callable[[], None]]:
        """How to let go of everything, in order."""
        endings = [self._log.close]
        if self._ledger is not None:
            endings.append(self._ledger.close)
        if self._upstream is not None:
            endings.append(self._upstream.release)
        if self._lock is not None:
            endings.append(self._lock.release)
        return endings

    def abandon(self) -> None:
        """Let go of everything as a crash would: nothing is synced, nothing tidied up."""
        self._index.close(save=False)
        self._store.abandon()

    def check_invariants(self) -> None:
        store = self._store
        store.table.check_invariants()
        assert store.columns.rows == store.table.rows
        # To one that is only read, its writer may have added.
        assert self._ledger is None or self._log.file.size() == self._log.end
        own = sum(segment.rows for segment in store.catalog.vecs)
        assert own + store.inherited_rows <= store.table.rows
