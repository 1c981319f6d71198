"""Ids, metadata, options and results of an index, as a caller has them and as they travel."""

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from holdfast.formats.errors import NOT_FINITE, InvalidArgument, LimitExceeded
from holdfast.formats.expression import encode_expression
from holdfast.formats.iqdb_snapshot import ZSTD_LEVELS
from holdfast.formats.iqdb_values import (
    METRICS,
    U64_MAX,
    HnswParameters,
    Id,
    Metadata,
    Metric,
    Value,
    check_id,
    decode_metadata,
    encode_metadata,
)
from holdfast.formats.limits import INDEX_DIMENSION_MAX
from holdfast.handles.arrays import as_ids, as_queries, as_vectors, first_non_finite, imported
from holdfast.handles.checks import check_choice, check_count, check_flag
from holdfast.handles.metadata import as_metadata, column_of
from holdfast.handles.results import queries_of, with_rest
from holdfast.workers import index_messages as im
from holdfast.workers.raw_arrays import raw

T = TypeVar("T")
AnyId: TypeAlias = Id | np.integer[Any]
"""An id as a caller may have it: results of a search have numpy's integers."""
Ids = object
"""u64 ids as for a vector store, or bytes, or both, in a list, a numpy or an Arrow array."""
AnyMetadata: TypeAlias = Mapping[str, Value | np.generic]
"""Metadata as a caller may have it: numpy's scalars count as Python's."""
_CUSTOM = ":"
_LEAST = {"m": 2, "seed": 0}


class CheckedRows(NamedTuple):
    """A batch as it may be written."""

    ids: "NDArray[np.uint64] | list[Id]"
    """(n,)"""
    vectors: NDArray[np.float32]
    """(n, dimension), finite."""
    metadata: list[bytes | None] | None
    """Encoded; None if no row has any."""


@dataclass(frozen=True, eq=False)
class IndexHits:
    """The nearest rows, nearest first, equally near ones in storage order.

    For a batch of q queries the arrays have one row a query; for a single vector they lack that
    first dimension.
    """

    ids: "NDArray[np.uint64] | NDArray[np.object_]"
    """(q, m), m being the ``k`` asked for, or fewer when fewer rows count. Of type object where
    some ids are bytes."""
    distances: NDArray[np.float32]
    """(q, m); lower is nearer, whatever the metric."""
    metadata: list[dict[str, Value] | None] | None = None
    """If asked for: that of each id, in the order of ``ids`` flattened, so that of the id at [a, b]
    is at ``a * m + b``."""
    approximate: bool = False
    """Whether rows that are nearer may be missing."""

    def __len__(self) -> int:
        """Queries of a batch; hits of a single vector."""
        return len(self.ids)

    def to_arrow(self) -> pa.Table:
        """One row a hit: ``query`` (uint32), ``id`` (uint64), ``distance``, and the metadata.

        Where some ids are bytes, these are in a column ``id_bytes`` and ``id`` is null. Metadata
        has a column for each field, null where a row lacks it, and ``metadata.<name>`` for one that
        is named like another column. Raises ``InvalidArgument`` for a field of several types.
        """
        ids = self.ids.reshape(-1).tolist()
        numbers = [None if isinstance(id_, bytes) else id_ for id_ in ids]
        columns = {"query": queries_of(self.ids), "id": pa.array(numbers, pa.uint64())}
        if None in numbers:
            names = [id_ if isinstance(id_, bytes) else None for id_ in ids]
            columns["id_bytes"] = pa.array(names, pa.binary())
        columns["distance"] = pa.array(self.distances.reshape(-1))
        rows = [row or {} for row in self.metadata or []]
        fields = dict.fromkeys(name for row in rows for name in row)
        found = {name: column_of(name, [row.get(name) for row in rows]) for name in fields}
        return with_rest(columns, pa.table(found) if found else None, None)


@dataclass(frozen=True, eq=False)
class IndexRow:
    """One row of an index."""

    id: Id
    vector: NDArray[np.float32]
    """(dimension,)"""
    metadata: dict[str, Value] | None


# --- arguments ----------------------------------------------------------------------------------


def as_index_id(value: object, what: str = "id") -> Id:
    """One id as a plain int or bytes; ``InvalidArgument`` naming it if it is none."""
    if isinstance(value, np.integer) and value.dtype.kind != "m":  # numpy counts durations in
        value = int(value)
    checked = check_id(value, what)
    return bytes(checked) if isinstance(checked, bytes) else checked


def as_index_ids(value: object) -> "NDArray[np.uint64] | list[Id]":
    """Ids as an array, or as a list where some are bytes; ``InvalidArgument`` names a bad one."""
    if isinstance(value, bytes):
        raise InvalidArgument(f"ids is a list of ids, for one write [{value!r}]")
    if isinstance(value, int | np.integer | range):
        return as_ids(value)
    values = imported(value, "ids")
    if isinstance(values, pa.ChunkedArray) and _is_binary(values.type):
        values = values.to_pylist()
    elif isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype.kind in "SO":
        values = values.tolist()
    if isinstance(values, list) and any(isinstance(id_, bytes) for id_ in values):
        return [as_index_id(id_, f"ids[{place}]") for place, id_ in enumerate(values)]
    return as_ids(values)


def _is_binary(of: pa.DataType) -> bool:
    if pa.types.is_dictionary(of):
        of = of.value_type
    types = pa.types
    tests = (
        types.is_binary,
        types.is_large_binary,
        types.is_fixed_size_binary,
        types.is_binary_view,
    )
    return any(test(of) for test in tests)


def as_rows(ids: object, vectors: object, metadata: object, dimension: int) -> CheckedRows:
    """A batch, checked: ids, finite vectors (n, dimension), encoded metadata."""
    checked = as_index_ids(ids)
    rows = as_vectors(vectors, dimension)
    if len(checked) != len(rows):
        raise InvalidArgument(f"{len(checked)} ids for {len(rows)} vectors")
    bad = first_non_finite(rows)
    if bad is not None:
        raise InvalidArgument(f"vectors, row {bad}: a value is {NOT_FINITE}")
    return CheckedRows(checked, rows, as_entries(metadata, len(rows)))


def as_row(id_: object, vector: object, metadata: object, dimension: int) -> CheckedRows:
    """One row as a batch."""
    checked = as_index_id(id_)
    return as_rows([checked], [vector], None if metadata is None else [metadata], dimension)


def as_entries(metadata: object, rows: int) -> list[bytes | None] | None:
    """Metadata of so many rows, encoded; None if no row has any.

    A list has a mapping or None for each row. In a table, a data frame or a dict of columns, a null
    means that the row lacks that field.
    """
    if metadata is None:
        return None
    if isinstance(metadata, list | tuple):
        if len(metadata) != rows:
            raise InvalidArgument(f"metadata has {len(metadata)} rows, and there are {rows} rows")
        return [
            None if entries is None else encode_metadata(_plain(entries), f"metadata[{place}]")
            for place, entries in enumerate(metadata)
        ]
    table = as_metadata(metadata, rows)
    if table is None:
        return None
    return [
        encode_metadata(
            {name: value for name, value in row.items() if value is not None}, f"metadata[{place}]"
        )
        for place, row in enumerate(table.to_pylist())
    ]


def _plain(entries: object) -> Metadata:
    """Metadata with Python's values where there are numpy's."""
    if not isinstance(entries, Mapping):
        return cast("Metadata", entries)  # to be refused by the encoder, which knows where it is
    return {
        key: value.item() if isinstance(value, np.generic) else value
        for key, value in entries.items()
    }


def as_search(
    vectors: object,
    k: object,
    where: pc.Expression | None,
    ef: object,
    dimension: int,
) -> tuple[NDArray[np.float32], bool, int, bytes | None, int | None]:
    """Arguments of a search, checked: queries, whether there is one, k, filter, ef."""
    count = check_count("k", k)
    breadth = None if ef is None else check_count("ef", ef)
    queries, single = as_queries(vectors, dimension)
    bad = first_non_finite(queries)
    if bad is not None:
        raise InvalidArgument(f"query {bad} has values that are {NOT_FINITE}")
    condition = None if where is None else encode_expression(where)
    return queries, single, count, condition, breadth


def sent(ids: "NDArray[np.uint64] | list[Id]") -> im.Ids:
    """Ids as messages carry them."""
    return ids if isinstance(ids, list) else raw(ids)


def options(
    kind: str | None,
    dimension: int | None,
    metric: str | None,
    hnsw: HnswParameters | None,
    compression: str,
    level: int,
    checkpoint_bytes: int | None,
    stamps: bool,
    salvage: bool,
    ratio_guard: bool,
) -> im.IndexOptions:
    """Checked options of an index."""
    if kind is not None and not (
        isinstance(kind, str) and (kind in ("flat", "hnsw") or _CUSTOM in kind)
    ):
        raise InvalidArgument(
            f"kind={kind!r} is neither 'flat', 'hnsw' nor of the form 'package.module:Class'"
        )
    if dimension is not None:
        dimension = check_count("dimension", dimension)
        if dimension > INDEX_DIMENSION_MAX:
            raise LimitExceeded(f"dimension={dimension} is over the limit of {INDEX_DIMENSION_MAX}")
    if metric is not None:
        check_choice("metric", metric, METRICS)
    if hnsw is not None:
        _check_graph(hnsw, kind)
    check_choice("compression", compression, get_args(im.CompressionName))
    level = check_count("level", level)
    if level > ZSTD_LEVELS[1]:
        raise InvalidArgument(f"level={level} is not within {ZSTD_LEVELS[0]} to {ZSTD_LEVELS[1]}")
    if checkpoint_bytes is not None:
        checkpoint_bytes = check_count("checkpoint_bytes", checkpoint_bytes)
    for name, flag in (("stamps", stamps), ("salvage", salvage), ("ratio_guard", ratio_guard)):
        check_flag(name, flag)
    custom = kind is not None and _CUSTOM in kind
    return im.IndexOptions(
        kind=kind,
        dimension=dimension,
        metric=cast("Metric | None", metric),
        hnsw=hnsw,
        compression=cast("im.CompressionName", compression),
        level=level,
        checkpoint_bytes=checkpoint_bytes,
        stamps=stamps,
        salvage=salvage,
        ratio_guard=ratio_guard,
        search_path=tuple(sys.path) if custom else (),
    )


def _check_graph(hnsw: object, kind: str | None) -> None:
    """Refuse parameters that no graph can have. Files may hold such: then they are made to do."""
    if not isinstance(hnsw, HnswParameters):
        raise InvalidArgument(f"hnsw is HnswParameters or None, not {type(hnsw).__name__}")
    if kind != "hnsw":
        raise InvalidArgument(f"hnsw goes with kind='hnsw', not with kind={kind!r}")
    for each in dataclasses.fields(hnsw):
        value, least = getattr(hnsw, each.name), _LEAST.get(each.name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= U64_MAX:
            raise InvalidArgument(f"hnsw.{each.name}={value!r} is not within {least} to {U64_MAX}")


# --- results ------------------------------------------------------------------------------------


def received(ids: im.Ids) -> "NDArray[np.uint64] | NDArray[np.object_]":
    """Ids of a reply, copied out of its frame: (n,)."""
    if isinstance(ids, memoryview):
        return np.frombuffer(ids, "<u8").astype(np.uint64)
    found = np.empty(len(ids), object)
    found[:] = ids
    return found


def hits_of(reply: im.IndexHits, queries: int, single: bool) -> IndexHits:
    """The arrays of a reply."""
    shape = (reply.each,) if single else (queries, reply.each)
    metadata = None
    if reply.metadata is not None:
        metadata = [decoded(entries) for entries in reply.metadata]
    return IndexHits(
        received(reply.ids).reshape(shape),
        np.frombuffer(reply.distances, "<f4").astype(np.float32).reshape(shape),
        metadata,
        reply.approximate,
    )


def rows_of(reply: im.IndexRows, dimension: int) -> list[IndexRow]:
    """The rows of a reply."""
    ids = received(reply.ids).tolist()
    vectors = np.frombuffer(reply.vectors, "<f4").astype(np.float32).reshape(-1, dimension)
    return [
        IndexRow(id_, vector, decoded(entries))
        for id_, vector, entries in zip(ids, vectors, reply.metadata, strict=True)
    ]


def page_of(reply: im.IndexRows, dimension: int) -> tuple[list[IndexRow], bool]:
    """The rows of a page, and whether another may follow."""
    return rows_of(reply, dimension), reply.more


def ids_of(reply: im.IndexRows) -> tuple[list[Id], bool]:
    """The ids of a page, and whether another may follow."""
    return received(reply.ids).tolist(), reply.more


def listed(
    page: Callable[[Id | None], tuple[list[T], bool]], id_of: Callable[[T], Id]
) -> Iterator[T]:
    """What all pages have, each asked for when it is needed."""
    after: Id | None = None
    more = True
    while more:
        found, more = page(after)
        yield from found
        after = id_of(found[-1]) if found else None


def itself(id_: Id) -> Id:
    """The id of an id."""
    return id_


def id_of_row(row: IndexRow) -> Id:
    """The id of a row."""
    return row.id


def decoded(metadata: bytes | None) -> dict[str, Value] | None:
    """Metadata as a dictionary."""
    return None if metadata is None else decode_metadata(metadata)[0]
