"""Temporal points as a caller may give them, as the arrays that travel to the worker.

Every refusal is an ``InvalidArgument`` that names the column and the first offending row or value.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.points import (
    ENTITY_MAX,
    METADATA,
    SPACE_MAX,
    metadata_array,
)
from holdfast.formats.tables import ARROW_REFUSALS
from holdfast.formats.warm_chunk import ENTITY, TIMESTAMP, VECTOR
from holdfast.handles.arrays import Integers, as_integers, as_vector, as_vectors, imported
from holdfast.handles.checks import as_number
from holdfast.handles.moments import Moment, as_time, as_times

ENTITIES = Integers("entities", np.uint64, 0, ENTITY_MAX, "0 to 2**64 - 1")
_COLUMNS = (ENTITY, TIMESTAMP, VECTOR, METADATA)


@dataclass(frozen=True, init=False, eq=False)
class TemporalPoint:
    """One point. Points are equal if all they hold is; a NaN counts as equal to a NaN.

    Raises ``InvalidArgument`` for a timestamp that is no moment and a vector that is none; the
    rest is looked at when the point is written.
    """

    entity: int
    timestamp: int
    """Microseconds since 1970-01-01 UTC, earlier ones negative."""
    vector: NDArray[np.float32]
    """(dimension,)"""
    metadata: Mapping[str, str]

    def __init__(
        self,
        entity: int,
        timestamp: Moment,
        vector: ArrayLike,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        vars(self).update(
            entity=entity,
            timestamp=as_time("timestamp", timestamp),
            vector=as_vector(vector),
            metadata={} if metadata is None else metadata,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TemporalPoint):
            return NotImplemented
        return (
            (self.entity, self.timestamp) == (other.entity, other.timestamp)
            and np.array_equal(self.vector, other.vector, equal_nan=True)
            and self.metadata == other.metadata
        )

    def __hash__(self) -> int:
        return hash((self.entity, self.timestamp))


class Batch(NamedTuple):
    """Points of one space, ready to travel. ``entities`` has one id for each or one for all."""

    entities: NDArray[np.uint64]
    timestamps: NDArray[np.int64]
    vectors: NDArray[np.float32]
    metadata: pa.MapArray | None


def as_space(value: object) -> int:
    """The number of a space."""
    return as_number("space", value, 0, SPACE_MAX)


def as_entity(value: object) -> int:
    """The id of an entity."""
    return as_number("entity", value, 0, ENTITY_MAX)


def as_entities(value: object) -> NDArray[np.uint64]:
    """Ids of entities, (n,)."""
    return cast("NDArray[np.uint64]", as_integers(value, ENTITIES))


def series_batch(
    entity: object, timestamps: object, vectors: object, metadata: object, dimension: int
) -> Batch:
    """Points of one series."""
    ids = np.array([as_entity(entity)], np.uint64)
    return _batch(ids, as_times(timestamps), vectors, metadata, dimension)


def point_batch(point: object, dimension: int) -> Batch:
    """A single point."""
    _check_point(point, "point")
    assert isinstance(point, TemporalPoint)
    times = np.array([point.timestamp], np.int64)
    ids = np.array([as_entity(point.entity)], np.uint64)
    return _batch(ids, times, [point.vector], [point.metadata], dimension)


def any_batch(points: object, dimension: int) -> Batch:
    """Points of any entities: an Arrow table, columns by name, or ``TemporalPoint``s."""
    if isinstance(points, Mapping):
        columns = dict(points)
    elif hasattr(points, "__arrow_c_stream__") or hasattr(points, "__arrow_c_array__"):
        columns = _columns_of_table(points)
    elif isinstance(points, Iterable) and not isinstance(points, str | bytes):
        return _batch_of_points(list(points), dimension)
    else:
        raise InvalidArgument(
            "points are an Arrow table, a dict of columns or a list of TemporalPoint, not "
            f"{type(points).__name__}"
        )
    for name in columns:
        if name not in _COLUMNS:
            raise InvalidArgument(f"column {name!r} is none of {', '.join(_COLUMNS)}")
    missing = [name for name in _COLUMNS[:3] if name not in columns]
    if missing:
        raise InvalidArgument(f"points without a column {missing[0]!r}")
    ids = as_entities(columns[ENTITY])
    times = as_times(columns[TIMESTAMP])
    if len(ids) != len(times):
        raise InvalidArgument(f"{len(ids)} entities for {len(times)} timestamps")
    return _batch(ids, times, columns[VECTOR], columns.get(METADATA), dimension)


def _columns_of_table(points: object) -> dict[str, pa.ChunkedArray]:
    try:
        table = points if isinstance(points, pa.Table) else pa.table(points)
    except (*ARROW_REFUSALS, AttributeError, TypeError, ValueError) as error:
        raise InvalidArgument(f"points as {type(points).__name__}: {error}") from error
    names = [name for name in table.schema.names if not name.startswith("__index_level_")]
    if len(set(names)) != len(names):
        raise InvalidArgument(f"points have two columns of the same name: {names}")
    return {name: table.column(name) for name in names}


def _batch_of_points(points: list[object], dimension: int) -> Batch:
    for number, point in enumerate(points):
        _check_point(point, f"point {number}")
    checked = cast("list[TemporalPoint]", points)
    ids = as_entities([point.entity for point in checked])
    times = as_times([point.timestamp for point in checked])
    vectors = [point.vector for point in checked]
    return _batch(ids, times, vectors, [point.metadata for point in checked], dimension)


def _check_point(point: object, what: str) -> None:
    if not isinstance(point, TemporalPoint):
        raise InvalidArgument(f"{what} is a TemporalPoint, not {type(point).__name__}")


def _batch(
    ids: NDArray[np.uint64],
    times: NDArray[np.int64],
    vectors: object,
    metadata: object,
    dimension: int,
) -> Batch:
    rows = as_vectors(vectors, dimension)
    if len(rows) != len(times):
        raise InvalidArgument(f"{len(times)} timestamps for {len(rows)} vectors")
    return Batch(ids, times, rows, as_metadata_maps(metadata, len(times)))


def as_metadata_maps(value: object, rows: int) -> pa.MapArray | None:
    """Maps of text to text, one for each row; None when no row has any.

    A row is a dict, pairs of key and value, or None for an empty one, in a list or an Arrow column
    of maps, of lists of pairs (which maps become in a pandas frame) or of structs (which dicts
    become there: a null means that the row lacks the key). Of a repeated key the last value counts.
    """
    if value is None:
        return None
    given = imported(value, METADATA)
    if isinstance(given, pa.ChunkedArray):
        given = _rows_of_column(given)
    elif isinstance(given, np.ndarray):
        given = np.atleast_1d(given).tolist()
    if len(given) != rows:
        raise InvalidArgument(f"metadata has {len(given)} rows for {rows} points")
    checked = [_checked_map(row, number) for number, row in enumerate(given)]
    if not any(checked):
        return None
    try:
        return metadata_array(checked)
    except (*ARROW_REFUSALS, UnicodeEncodeError, ValueError) as error:
        raise InvalidArgument(f"metadata: {error}") from error


def _rows_of_column(column: pa.ChunkedArray) -> list[object]:
    """Each row as dict, pairs or None."""
    types, type_ = pa.types, column.type
    if types.is_struct(type_):
        return [
            None if row is None else {k: text for k, text in row.items() if text is not None}
            for row in column.to_pylist()
        ]
    is_list = types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_)
    if not (is_list or types.is_map(type_) or types.is_null(type_)):
        raise InvalidArgument(f"metadata is a column of maps of text, not {type_}")
    rows: list[object] = column.to_pylist()
    return rows


def _checked_map(row: object, number: int) -> Mapping[str, str] | None:
    if row is None:
        return None
    if isinstance(row, list | tuple | np.ndarray):
        row = _of_pairs(row, number)
    if not isinstance(row, Mapping):
        raise InvalidArgument(f"metadata, row {number}: a {type(row).__name__} is no dict of text")
    for key, text in row.items():
        if not isinstance(key, str):
            raise InvalidArgument(f"metadata, row {number}: key {key!r} is no text")
        if not isinstance(text, str):
            raise InvalidArgument(
                f"metadata, row {number}: the value of {key!r} is {text!r} "
                f"({type(text).__name__}), not text"
            )
    return row


def _of_pairs(pairs: Iterable[object], number: int) -> Mapping[object, object]:
    found: dict[object, object] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple | np.ndarray) or len(pair) != 2:
            raise InvalidArgument(
                f"metadata, row {number}: {pair!r:.80} is no pair of key and value"
            )
        key, text = pair
        if not isinstance(key, str):
            raise InvalidArgument(f"metadata, row {number}: key {key!r:.80} is no text")
        found[key] = text
    return found
