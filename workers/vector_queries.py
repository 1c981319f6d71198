"""Reading a vector store: nearest neighbours, rows by id, pages. Nothing here changes the store."""

from dataclasses import dataclass

import blake3
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import ResultTooLarge
from holdfast.formats.limits import RESULT_BYTES_MAX, SCAN_PAGE_BYTES, SCAN_PAGE_ENTRIES
from holdfast.formats.tables import table_to_ipc
from holdfast.workers import search
from holdfast.workers import vector_messages as messages
from holdfast.workers.id_map import ABSENT
from holdfast.workers.raw_arrays import ids_of, matrix, raw
from holdfast.workers.vector_index import VectorIndex
from holdfast.workers.vector_store import VectorStore

# Below this share of the rows, scanning just the rows that a filter passes is faster than an index.
_SCANNED_SHARE = 0.1
_ROW_BYTES = 64  # of the answer, apart from vectors


@dataclass(frozen=True, slots=True)
class Selection:
    """The rows that count for a question: live, and passed by its filter."""

    mask: NDArray[np.bool_]
    count: int


def select(store: VectorStore, where: bytes | None) -> Selection:
    """The live rows for which ``where`` is true. Raises ``InvalidArgument``."""
    table = store.table
    if where is None:
        return Selection(table.live, table.live_rows)
    passed = store.columns.evaluate(where, [table.ids]) & table.live
    return Selection(passed, int(np.count_nonzero(passed)))


def query(store: VectorStore, index: VectorIndex, request: messages.VectorsQuery) -> messages.Hits:
    """The nearest rows of each query vector."""
    queries = matrix(request.queries, request.count, store.dimension, "queries")
    selected = select(store, request.where)
    each = min(request.k, selected.count)
    row_bytes = _ROW_BYTES + (4 * store.dimension if request.vectors else 0)
    _check_size(each * len(queries) * row_bytes, f"a query for {each} rows each")
    found = None
    if request.exact is not True and each and selected.count > _SCANNED_SHARE * store.table.rows:
        found = index.search(
            queries, each, selected.mask, request.where, request.breadth,
            anyhow=request.exact is False,
        )  # fmt: skip
    approximate = found is not None
    if found is None:
        found = _exact(store, queries, each, selected)
    rows = found.rows.reshape(-1)
    return messages.Hits(
        each,
        raw(found.ids),
        raw(found.distances),
        _metadata(store, rows, request.columns) if request.metadata else None,
        raw(store.table.vectors_at(rows)) if request.vectors else None,
        approximate,
    )


def _exact(
    store: VectorStore, queries: NDArray[np.float32], each: int, selected: Selection
) -> search.Hits:
    table, metric = store.table, store.catalog.record.metric
    if selected.count <= _SCANNED_SHARE * table.rows:
        rows = np.flatnonzero(selected.mask)
        return search.nearest_among(table.blocks(), rows, queries, each, metric, tick=store.tick)
    mask = None if selected.count == table.rows else selected.mask
    return search.nearest(table.blocks(), queries, each, metric, mask, tick=store.tick)


def get(store: VectorStore, request: messages.VectorsGet) -> messages.VectorRows:
    """Rows by id, in the order asked, without those that are not there."""
    rows = store.table.find_live(ids_of(request.ids))
    return _rows(store, rows[rows != ABSENT], request.metadata, request.vectors, more=False)


def scan(store: VectorStore, request: messages.VectorsScan) -> messages.VectorRows:
    """A page of rows by ascending id."""
    row_bytes = _ROW_BYTES + (4 * store.dimension if request.vectors else 0)
    limit = min(SCAN_PAGE_ENTRIES * 4, max(1, 8 * SCAN_PAGE_BYTES // row_bytes))
    if request.limit:
        limit = min(limit, request.limit)
    passed = None if request.where is None else select(store, request.where).mask
    rows = store.table.live_behind(request.after, limit + 1, passed)
    return _rows(store, rows[:limit], request.metadata, request.vectors, more=len(rows) > limit)


def digests(store: VectorStore, after: int | None) -> messages.Digests:
    """A page of ids with 16 bytes each that stand for vector and metadata."""
    rows = store.table.live_behind(after, SCAN_PAGE_ENTRIES + 1, None)
    more, rows = len(rows) > SCAN_PAGE_ENTRIES, rows[:SCAN_PAGE_ENTRIES]
    vectors = store.table.vectors_at(rows)
    metadata = store.columns.take(rows)
    texts: list[object] = [None] * len(rows)
    if metadata.num_columns:
        texts = [
            sorted((name, value) for name, value in row.items() if value is not None)
            for row in metadata.to_pylist()
        ]
    found = bytearray()
    for vector, text in zip(vectors, texts, strict=True):
        state = blake3.blake3(vector.tobytes())
        if text:
            state.update(repr(text).encode("utf-8", "surrogatepass"))
        found += state.digest(16)
    return messages.Digests(raw(store.table.ids[rows]), memoryview(found), more)


def _rows(
    store: VectorStore, rows: NDArray[np.int64], metadata: bool, vectors: bool, *, more: bool
) -> messages.VectorRows:
    row_bytes = _ROW_BYTES + (4 * store.dimension if vectors else 0)
    _check_size(len(rows) * row_bytes, f"{len(rows)} rows")
    return messages.VectorRows(
        raw(store.table.ids[rows]),
        _metadata(store, rows, None) if metadata else None,
        raw(store.table.vectors_at(rows)) if vectors else None,
        more,
    )


def _metadata(store: VectorStore, rows: NDArray[np.int64], columns: list[str] | None) -> memoryview:
    table: pa.Table = store.columns.take(rows, columns)
    data = table_to_ipc(table)
    _check_size(len(data), f"the metadata of {len(rows)} rows")
    return memoryview(data)


def _check_size(size: int, what: str) -> None:
    if size > RESULT_BYTES_MAX:
        raise ResultTooLarge(
            f"{what} would take {size} bytes, over the limit of {RESULT_BYTES_MAX}; use scan(), a "
            "smaller k, or fewer queries"
        )
