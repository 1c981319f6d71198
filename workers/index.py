"""The index's actor: a persistent index as the serve loop has it. ``index_store`` has the rules."""

import os
import sys
from collections.abc import Callable, Generator, Sequence

import numpy as np

from holdfast.formats.errors import HoldfastError, InvalidArgument, ResultTooLarge, from_os_error
from holdfast.formats.iqdb_values import Id, IndexFlaw, canonical_metadata, check_id
from holdfast.formats.limits import RESULT_BYTES_MAX
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.core_index import CoreIndex, Found
from holdfast.workers.disk import Disk
from holdfast.workers.index_store import IndexStore, open_store
from holdfast.workers.messages import (
    Compacted,
    Done,
    Reply,
    Request,
    StoreMayDrop,
    StoreSpec,
)
from holdfast.workers.messages import StoreStatus as AskStatus
from holdfast.workers.platform import give_memory_back
from holdfast.workers.raw_arrays import ids_of, matrix, raw


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
                    return self._get(_checked(ids))
                case im.IndexCheckpoint(reset=reset):
                    return self._checkpoint(reset)
                case im.IndexHeader():
                    return self.store.snapshot_info()
                case im.IndexOptimize():
                    return self._optimize()
                case AskStatus():
                    return self._status()
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
        _check_size(listed, entries, 4, f"{request.count} queries with k={request.k}")
        return found_reply(found, request.metadata)

    def _get(self, ids: "np.typing.NDArray[np.uint64] | list[Id]") -> Reply:
        listed = ids if isinstance(ids, list) else ids.tolist()
        index = self.store.index
        if len(listed) * index.dimension * 4 > RESULT_BYTES_MAX:
            raise ResultTooLarge(
                f"{len(listed)} rows would give more than {RESULT_BYTES_MAX} bytes"
            )
        rows = [row for row in index.take(listed) if row is not None]
        found, entries = [row[0] for row in rows], [row[2] for row in rows]
        _check_size(found, entries, 4 * index.dimension, f"{len(rows)} rows")
        vectors = np.empty((len(rows), index.dimension), np.float32)
        for place, (_, vector, _) in enumerate(rows):
            vectors[place] = vector
        return im.IndexRows(_sent(found), raw(vectors), entries)

    # --- long work -------------------------------------------------------------------------

    def _checkpoint(self, reset: bool) -> Steps:
        store = self.store
        before = store.log.end
        yield from store.checkpoint(reset=reset)
        return Compacted(before, store.log.end)

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

    def _status(self) -> Reply:
        store = self.store
        index = store.index
        return im.IndexStatus(
            kind="index",
            path=store.path,
            durability=store.group.policy,
            index=index.kind,
            index_type=index.index_type,
            dimension=index.dimension,
            metric=index.metric,
            live_rows=len(index),
            graph_rows=index.graph_rows,
            file_bytes=store.snapshot_bytes,
            log_bytes=store.log.end,
            checkpoints=store.checkpoints,
            synced_age_s=store.synced_age_s(),
            unsynced_bytes=store.log.unsynced_bytes,
            recovered_torn_bytes=store.torn_bytes,
            recovered_records=store.recovered_records,
            pid=os.getpid(),
        )

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


def found_reply(found: Found, metadata: bool) -> im.IndexHits:
    """What was found, as a message has it; ``InvalidArgument`` where metadata is not to be had."""
    entries = None
    if metadata:
        if found.metadata is None:
            raise InvalidArgument("an index of a class of your own does not give metadata back")
        entries = [row for hits in found.metadata for row in hits]
    ids = _sent([id_ for hits in found.ids for id_ in hits])
    each = found.distances.shape[1]
    return im.IndexHits(each, ids, raw(found.distances), entries, found.approximate)


def _check_size(ids: Sequence[Id], entries: Sequence[bytes | None], width: int, what: str) -> None:
    """Raise ``ResultTooLarge`` unless an answer may be sent; ``width`` is that of a row's numbers.

    A list of ids or metadata takes up to 9 bytes an entry beside the entry's own.
    """
    size = len(ids) * (9 + width) + 9 * len(entries)
    size += sum(len(id_) for id_ in ids if isinstance(id_, bytes))
    size += sum(len(row) for row in entries if row is not None)
    if size > RESULT_BYTES_MAX:
        raise ResultTooLarge(
            f"{what} would take {size} bytes, over the limit of {RESULT_BYTES_MAX}: ask for fewer, "
            "or without metadata"
        )


def _checked(ids: im.Ids) -> "np.typing.NDArray[np.uint64] | list[Id]":
    if isinstance(ids, memoryview):
        return ids_of(ids)
    for place, id_ in enumerate(ids):
        check_id(id_, f"ids[{place}]")
    return ids


def _sent(ids: Sequence[Id]) -> im.Ids:
    """Ids as messages carry them."""
    if any(isinstance(id_, bytes) for id_ in ids):
        return list(ids)
    return raw(np.array(ids, np.uint64))


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
