"""The index's actor: a persistent index as the serve loop has it. ``index_store`` has the rules."""

import sys
from collections.abc import Callable, Generator

import numpy as np

from holdfast.formats.errors import HoldfastError, InvalidArgument, ResultTooLarge, from_os_error
from holdfast.formats.iqdb_values import Id, IndexFlaw, canonical_metadata, check_id
from holdfast.formats.limits import RESULT_BYTES_MAX
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import Disk
from holdfast.workers.index_answers import (
    check_size,
    found_reply,
    page_reply,
    rows_reply,
    status_of,
)
from holdfast.workers.index_check import verify_steps
from holdfast.workers.index_store import IndexStore, open_store
from holdfast.workers.messages import (
    Done,
    Reply,
    Request,
    StoreMayDrop,
    StoreSpec,
)
from holdfast.workers.messages import StoreStatus as AskStatus
from holdfast.workers.platform import give_memory_back
from holdfast.workers.raw_arrays import ids_of, matrix


def open_index(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> "IndexActor":
    """Recover the index that ``spec`` names."""
    if isinstance(spec.options, im.IndexOptions):
        # This process is the store's own, so what its caller can import is added for good.
        sys.path += [path for path in spec.options.search_path if path not in sys.path]
    return IndexActor(open_store(disk, spec, tick), tick)


class IndexActor:
    """One index, recovered and ready. See ``holdfast.workers.actor`` for the contract."""

    def __init__(self, store: IndexStore, tick: Callable[[], None]) -> None:
        self.store = store
        self._tick = tick
        self._upkeep: Generator[object, None, None] | None = None

    # --- requests --------------------------------------------------------------------------

    def properties(self) -> im.IndexIs:
        index = self.store.index
        hnsw = index.hnsw if isinstance(index, CoreIndex) else None
        return im.IndexIs(index.kind, index.index_type, index.dimension, index.metric, hnsw)

    def handle(self, request: Request, caller: Caller) -> Reply | Steps:
        try:
            match request:
                case im.IndexSearch():
                    return self._search(request)
                case im.IndexInsert():
                    return self._insert(request, caller)
                case im.IndexDelete(ids=ids, missing_ok=missing_ok):
                    deleted = self.store.delete(_checked(ids), missing_ok=missing_ok, caller=caller)
                    return im.IndexDeleted(deleted)
                case im.IndexGet(ids=ids):
                    return rows_reply(self.store.index, _checked(ids))
                case im.IndexCheckpoint(reset=reset):
                    return self._checkpoint(reset)
                case im.IndexHeader():
                    return self.store.snapshot_info()
                case im.IndexOptimize():
                    return self._optimize()
                case im.IndexScan(after=after, rows=rows):
                    if after is not None:
                        check_id(after, "after")
                    return page_reply(self.store.index, after, rows=rows)
                case im.IndexHas(id=id_):
                    return im.IndexHasIt(check_id(id_, "id") in self.store.index)
                case im.IndexVerify():
                    return verify_steps(self.store)
                case AskStatus():
                    return status_of(self.store)
                case StoreMayDrop():
                    return Done()
        except HoldfastError:
            raise  # some are an OSError, too
        except OSError as error:
            raise from_os_error(error, "use", self.store.path) from error
        raise InvalidArgument(f"an index does not answer {type(request).__name__}")

    def _insert(self, request: im.IndexInsert, caller: Caller) -> Reply:
        ids = _checked(request.ids)
        index = self.store.index
        vectors = matrix(request.vectors, len(ids), index.dimension, "vectors")
        metadata = request.metadata
        if metadata is not None:
            metadata = _canonical(metadata, len(ids))
        counts = self.store.insert(ids, vectors, metadata, replace=request.replace, caller=caller)
        return im.IndexInserted(*counts)

    def _search(self, request: im.IndexSearch) -> Reply:
        index = self.store.index
        queries = matrix(request.queries, request.count, index.dimension, "queries")
        each = min(request.k, len(index))
        if request.count * each * 12 > RESULT_BYTES_MAX:
            raise ResultTooLarge(
                f"{request.count} queries with k={request.k} would give more than "
                f"{RESULT_BYTES_MAX} bytes"
            )
        found = index.find(
            queries,
            request.k,
            where=request.where,
            exact=request.exact,
            ef=request.ef,
            tick=self._tick,
        )
        listed = [id_ for ids in found.ids for id_ in ids]
        metadata = (found.metadata or []) if request.metadata else []
        entries = [row for rows in metadata for row in rows]
        check_size(listed, entries, 4, f"{request.count} queries with k={request.k}")
        return found_reply(found, request.metadata)

    # --- long work -------------------------------------------------------------------------

    def _checkpoint(self, reset: bool) -> Steps:
        return (yield from self.store.checkpoint(reset=reset))

    def _optimize(self) -> Steps:
        index = self.store.index
        while index.optimize_step():
            yield None
        return im.IndexOptimized(index.graph_rows)

    # --- durability and upkeep -------------------------------------------------------------

    def hold(self, caller: Caller) -> None:
        self.store.ledger.hold(*caller)

    def release(self, caller: Caller) -> None:
        self.store.ledger.release(*caller)

    def commit(self) -> None:
        self.store.group.commit()

    def settle(self) -> None:
        """Nothing is ever put off."""

    def sync_due_in(self) -> float | None:
        return self.store.group.due_in()

    def step(self, *, idle: bool) -> bool:
        if self._upkeep is None and self.store.needs_checkpoint():
            self._upkeep = self._checkpoint_quietly()
        if self._upkeep is None:
            return idle and self.store.index.optimize_step()
        try:
            next(self._upkeep)
        except StopIteration:
            self._upkeep = None
        return True

    def pressed(self) -> bool:
        return self._upkeep is not None and self.store.is_behind()

    def _checkpoint_quietly(self) -> Generator[object, None, None]:
        yield from self.store.quiet_checkpoint()
        give_memory_back()

    # --- the rest --------------------------------------------------------------------------

    def close(self) -> None:
        if self._upkeep is not None:
            self._upkeep.close()
        self.store.close()

    def remove(self) -> None:
        if self._upkeep is not None:
            self._upkeep.close()
        self.store.remove()

    def abandon(self) -> None:
        """Let go of everything as a crash would: nothing is synced, nothing tidied up."""
        self.store.abandon()

    def check_invariants(self) -> None:
        self.store.check_invariants()


def _checked(ids: im.Ids) -> "np.typing.NDArray[np.uint64] | list[Id]":
    if isinstance(ids, memoryview):
        return ids_of(ids)
    for place, id_ in enumerate(ids):
        check_id(id_, f"ids[{place}]")
    return ids


def _canonical(metadata: im.Entries, rows: int) -> list[bytes | None]:
    if len(metadata) != rows:
        raise InvalidArgument(f"metadata of {len(metadata)} rows for {rows} ids")
    checked: list[bytes | None] = []
    for place, entries in enumerate(metadata):
        if entries is None:
            checked.append(None)
            continue
        try:
            canonical, stop = canonical_metadata(entries)
        except IndexFlaw as flaw:
            raise InvalidArgument(f"metadata[{place}]: {flaw.reason}") from flaw
        if stop != len(entries):
            raise InvalidArgument(f"metadata[{place}] has {len(entries) - stop} bytes too many")
        checked.append(canonical)
    return checked
