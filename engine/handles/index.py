"""The index's handles, blocking and asyncio."""

from collections.abc import AsyncIterator, Iterator
from typing import cast

import pyarrow.compute as pc

from holdfast.async_coordinator import AsyncCoordinator
from holdfast.call import Call, ProgressCallback, awaitable, operation
from holdfast.coordinator import Coordinator
from holdfast.formats.errors import OptionsConflict
from holdfast.formats.iqdb_values import Id, Metric
from holdfast.handles.base import AsyncHandle, Handle, Sized, expecting
from holdfast.handles.checks import check_flag
from holdfast.handles.index_parts import (
    AnyId,
    AnyMetadata,
    Ids,
    IndexHits,
    IndexRow,
    as_index_id,
    as_index_ids,
    as_row,
    as_rows,
    as_search,
    hits_of,
    id_of_row,
    ids_of,
    itself,
    listed,
    page_of,
    rows_of,
    sent,
)
from holdfast.workers import index_messages as im
from holdfast.workers import messages
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw

_inserted = expecting(im.IndexInserted, lambda reply: reply)
_none = expecting(im.IndexInserted, lambda _: None)
_deleted = expecting(im.IndexDeleted, lambda reply: reply.deleted)
_was_there = expecting(im.IndexDeleted, lambda reply: reply.deleted > 0)
_compacted = expecting(messages.Compacted, lambda reply: reply)
_header = expecting(im.SnapshotInfo, lambda reply: reply)
_optimized = expecting(im.IndexOptimized, lambda reply: reply.rows)
_there = expecting(im.IndexHasIt, lambda reply: reply.there)
_verified = expecting(im.IndexVerified, lambda reply: reply)
_status = expecting(im.IndexStatus, lambda reply: reply)
_count = expecting(im.IndexStatus, lambda reply: reply.live_rows)


class Index(Handle, Sized):
    """An index in memory made durable: a snapshot, and a log of what came since.

    Obtained from ``Engine.index``. Ids are u64 or non-empty bytes, vectors float32. All methods
    take ``timeout`` in seconds (None: the engine's) and raise ``CallTimeout``, ``WorkerCrashed``,
    ``StoreFailed`` or ``EngineClosed`` besides what they name; writes raise ``StoreReadOnly`` or
    ``StoreFull``. Each write is one durable unit: all of its rows, or none.
    """

    def __init__(self, coordinator: Coordinator, spec: StoreSpec, properties: im.IndexIs) -> None:
        super().__init__(coordinator, spec)
        self._properties = properties

    @property
    def kind(self) -> str:
        """``flat``, ``hnsw``, ``ivf`` or ``custom``."""
        return self._properties.kind

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return self._properties.dimension

    @property
    def metric(self) -> Metric:
        """``cosine``, ``dot``, ``euclidean``, ``manhattan`` or ``hamming``."""
        return self._properties.metric

    # --- writing ---------------------------------------------------------------------------

    @operation
    def insert(
        self,
        id: AnyId,
        vector: object,
        metadata: AnyMetadata | None = None,
        *,
        timeout: float | None = None,
    ) -> Call[None]:
        """Add a row. Raises ``Duplicate`` when its id is there; ``InvalidArgument``.

        ``metadata`` maps text to str, int (i64), float, bool or None.
        """
        ids, vectors, entries = as_row(id, vector, metadata, self.dimension)
        return Call(im.IndexInsert(sent(ids), raw(vectors), entries), _none, timeout)

    @operation
    def upsert(
        self,
        id: AnyId,
        vector: object,
        metadata: AnyMetadata | None = None,
        *,
        timeout: float | None = None,
    ) -> Call[None]:
        """Add a row, or put it in the place of the one of the same id, of which nothing stays."""
        ids, vectors, entries = as_row(id, vector, metadata, self.dimension)
        return Call(im.IndexInsert(sent(ids), raw(vectors), entries, True), _none, timeout)

    @operation
    def insert_batch(
        self, ids: Ids, vectors: object, metadata: object = None, *, timeout: float | None = None
    ) -> Call[im.IndexInserted]:
        """Add rows: one durable unit, one sync. ``Duplicate`` if an id is there or comes twice.

        ``ids`` are u64 or bytes as numpy, Arrow or a list, which may have both; ``vectors`` n rows
        of float32 in any of the forms a vector store takes; ``metadata`` a list of a mapping or
        None for each row, an Arrow table, a data frame or a dict of columns.
        """
        checked, rows, entries = as_rows(ids, vectors, metadata, self.dimension)
        return Call(im.IndexInsert(sent(checked), raw(rows), entries), _inserted, timeout)

    @operation
    def upsert_batch(
        self, ids: Ids, vectors: object, metadata: object = None, *, timeout: float | None = None
    ) -> Call[im.IndexInserted]:
        """Add or replace rows: one durable unit. Of an id that comes twice the last row stays."""
        checked, rows, entries = as_rows(ids, vectors, metadata, self.dimension)
        return Call(im.IndexInsert(sent(checked), raw(rows), entries, True), _inserted, timeout)

    @operation
    def delete(
        self, id: AnyId, *, missing_ok: bool = False, timeout: float | None = None
    ) -> Call[bool]:
        """Delete a row; returns whether it was there. ``NotFound``, unless ``missing_ok``."""
        message = im.IndexDelete(sent([as_index_id(id)]), check_flag("missing_ok", missing_ok))
        return Call(message, _was_there, timeout)

    @operation
    def delete_batch(
        self, ids: Ids, *, missing_ok: bool = False, timeout: float | None = None
    ) -> Call[int]:
        """Delete rows: one durable unit; returns how many there were."""
        message = im.IndexDelete(sent(as_index_ids(ids)), check_flag("missing_ok", missing_ok))
        return Call(message, _deleted, timeout)

    # --- reading ---------------------------------------------------------------------------

    @operation
    def search(
        self,
        vectors: object,
        k: int = 10,
        *,
        where: pc.Expression | None = None,
        exact: bool = False,
        ef: int | None = None,
        metadata: bool = False,
        timeout: float | None = None,
    ) -> Call[IndexHits]:
        """The ``k`` nearest rows of one vector, or of each row of a batch.

        ``where`` is a ``pyarrow.compute`` expression of comparisons, ``isin``, ``is_null``,
        ``is_valid``, ``&``, ``|`` and ``~`` over metadata; ``InvalidArgument`` for any other. A
        comparison is true only of a value of the constant's own type that is there: a row without
        the field fails it, and an int never equals a float. A row without the field is null.
        ``exact`` looks at every row, also where there is a graph; ``ef`` is how much of a graph is
        looked at.
        """
        queries, single, count, condition, breadth = as_search(
            vectors, k, where, ef, self.dimension
        )
        message = im.IndexSearch(
            raw(queries), len(queries), count, condition, check_flag("exact", exact), breadth,
            check_flag("metadata", metadata),
        )  # fmt: skip
        take = expecting(im.IndexHits, lambda hits: hits_of(hits, len(queries), single))
        return Call(message, take, timeout)

    @operation
    def get(self, ids: Ids, *, timeout: float | None = None) -> Call[list[IndexRow]]:
        """The rows of these ids, in that order; ids that are not there are left out."""
        dimension = self.dimension
        take = expecting(im.IndexRows, lambda reply: rows_of(reply, dimension))
        return Call(im.IndexGet(sent(as_index_ids(ids))), take, timeout)

    @operation
    def contains(self, id: AnyId, *, timeout: float | None = None) -> Call[bool]:
        """Whether there is a row of this id; so does ``in``."""
        return Call(im.IndexHas(as_index_id(id)), _there, timeout)

    def __contains__(self, id: object) -> bool:
        return self.contains(cast("AnyId", id))

    @operation
    def count(self, *, timeout: float | None = None) -> Call[int]:
        """How many rows there are; so does ``len``."""
        return Call(messages.StoreStatus(), _count, timeout)

    @operation
    def _ids_behind(
        self, after: Id | None, *, timeout: float | None = None
    ) -> Call[tuple[list[Id], bool]]:
        return Call(im.IndexScan(after, rows=False), expecting(im.IndexRows, ids_of), timeout)

    @operation
    def _rows_behind(
        self, after: Id | None, *, timeout: float | None = None
    ) -> Call[tuple[list[IndexRow], bool]]:
        dimension = self.dimension
        take = expecting(im.IndexRows, lambda reply: page_of(reply, dimension))
        return Call(im.IndexScan(after), take, timeout)

    def ids(self, *, timeout: float | None = None) -> Iterator[Id]:
        """All ids in order: u64 ascending, then bytes. See ``scan``."""
        return listed(lambda after: self._ids_behind(after, timeout=timeout), itself)

    def scan(self, *, timeout: float | None = None) -> Iterator[IndexRow]:
        """All rows in order of id: u64 ascending, then bytes.

        They come in pages of some megabytes, asked for as they are needed; ``timeout`` is per page,
        and a row is as it was when its page was read. A row that is there all the while comes once;
        one that comes or goes meanwhile may be left out. ``InvalidArgument`` for an index of a
        class of your own.
        """
        return listed(lambda after: self._rows_behind(after, timeout=timeout), id_of_row)

    # --- the files -------------------------------------------------------------------------

    @operation
    def checkpoint(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[messages.Compacted]:
        """Write a snapshot and begin the log anew; reads and writes go on meanwhile.

        It happens by itself when the log outgrows the snapshot and 16 MiB. Returns the log's length
        before and after.
        """
        return Call(im.IndexCheckpoint(), _compacted, timeout, progress)

    @operation
    def save(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[messages.Compacted]:
        """Write a snapshot and leave the log as it is."""
        return Call(im.IndexCheckpoint(reset=False), _compacted, timeout, progress)

    @operation
    def header(self, *, timeout: float | None = None) -> Call[im.SnapshotInfo]:
        """What the snapshot says of itself, which is from before what is in the log."""
        return Call(im.IndexHeader(), _header, timeout)

    @operation
    def optimize(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[int]:
        """Bring every row into the graph of an ``hnsw`` index; returns how many are in it.

        0 where there is no graph and every search looks at all rows: below 4096 rows, where that
        takes less; for ``hamming``; without the extra ``ann``; and for other kinds.
        """
        return Call(im.IndexOptimize(), _optimized, timeout, progress)

    @operation
    def verify(
        self, *, progress: ProgressCallback | None = None, timeout: float | None = None
    ) -> Call[im.IndexVerified]:
        """Check the snapshot's checksum and every record of the log, as they lie on disk."""
        return Call(im.IndexVerify(), _verified, timeout, progress)

    @operation
    def status(self, *, timeout: float | None = None) -> Call[im.IndexStatus]:
        """Figures of the index: rows, bytes of snapshot and log, durability, last sync."""
        return Call(messages.StoreStatus(), _status, timeout)


class AsyncIndex(AsyncHandle):
    """``Index`` for asyncio: the same operations, awaitable; ``ids`` and ``scan`` iterate."""

    def __init__(
        self, coordinator: AsyncCoordinator, spec: StoreSpec, properties: im.IndexIs
    ) -> None:
        super().__init__(coordinator, spec)
        self._properties = properties

    @property
    def kind(self) -> str:
        """See ``Index.kind``."""
        return self._properties.kind

    @property
    def dimension(self) -> int:
        """See ``Index.dimension``."""
        return self._properties.dimension

    @property
    def metric(self) -> Metric:
        """See ``Index.metric``."""
        return self._properties.metric

    insert = awaitable(Index.insert)
    upsert = awaitable(Index.upsert)
    insert_batch = awaitable(Index.insert_batch)
    upsert_batch = awaitable(Index.upsert_batch)
    delete = awaitable(Index.delete)
    delete_batch = awaitable(Index.delete_batch)
    search = awaitable(Index.search)
    get = awaitable(Index.get)
    contains = awaitable(Index.contains)
    count = awaitable(Index.count)
    _ids_behind = awaitable(Index._ids_behind)
    _rows_behind = awaitable(Index._rows_behind)
    checkpoint = awaitable(Index.checkpoint)
    save = awaitable(Index.save)
    header = awaitable(Index.header)
    optimize = awaitable(Index.optimize)
    verify = awaitable(Index.verify)
    status = awaitable(Index.status)

    async def ids(self, *, timeout: float | None = None) -> AsyncIterator[Id]:
        """See ``Index.ids``."""
        after, more = None, True
        while more:
            found, more = await self._ids_behind(after, timeout=timeout)
            for id_ in found:
                yield id_
                after = id_

    async def scan(self, *, timeout: float | None = None) -> AsyncIterator[IndexRow]:
        """See ``Index.scan``."""
        after, more = None, True
        while more:
            found, more = await self._rows_behind(after, timeout=timeout)
            for row in found:
                yield row
                after = row.id


def agreed(opened: StoreSpec, asked: im.IndexOptions) -> im.IndexIs:
    """The properties of an index, if they are what was asked for; ``OptionsConflict`` if not."""
    found, name = opened.properties, opened.name
    assert isinstance(found, im.IndexIs)
    custom = asked.kind is not None and ":" in asked.kind
    for what in ("kind", "dimension", "metric", "hnsw"):
        wanted, has = getattr(asked, what), getattr(found, what)
        if what == "kind" and custom:
            wanted = "custom"
        if wanted is not None and wanted != has:
            raise OptionsConflict(f"index {name!r} has {what}={has!r}, not {wanted!r}", store=name)
    return found
