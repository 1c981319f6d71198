"""Temporal points as a caller may give them, as the arrays that travel to the worker.

Every refusal is an ``InvalidArgument`` that names the column and the first offending row or value.
"""

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.points import (
    ENTITY_MAX,
    METADATA,
    SPACE_MAX,
    TIME_MAX,
    TIME_MIN,
    metadata_array,
)
from holdfast.formats.tables import ARROW_REFUSALS
from holdfast.formats.warm_chunk import ENTITY, TIMESTAMP, VECTOR
from holdfast.handles.arrays import Integers, as_integers, as_vectors, imported

ENTITIES = Integers("entities", np.uint64, 0, ENTITY_MAX, "0 to 2**64 - 1")
TIMESTAMPS = Integers("timestamps", np.int64, TIME_MIN, TIME_MAX, "-2**63 to 2**63 - 1")
_COLUMNS = (ENTITY, TIMESTAMP, VECTOR, METADATA)


@dataclass(frozen=True, eq=False)
class TemporalPoint:
    """One point. ``timestamp`` is in microseconds since 1970-01-01 UTC, earlier ones negative."""

    entity: int
    timestamp: int
    vector: NDArray[np.float32]
    """(dimension,)"""
    metadata: Mapping[str, str] = field(default_factory=dict)


class Batch(NamedTuple):
    """Points of one space, ready to travel. ``entities`` has one id for each or one for all."""

    entities: NDArray[np.uint64]
    timestamps: NDArray[np.int64]
    vectors: NDArray[np.float32]
    metadata: pa.MapArray | None


def as_number(name: str, value: object, low: int, high: int) -> int:
    """An integer given by the caller, if it is one within its bounds."""
    if isinstance(value, bool | np.bool_):
        raise InvalidArgument(f"{name} is an integer, not a bool")
    try:
        number = operator.index(cast("int", value))
    except TypeError:
        raise InvalidArgument(
            f"{name} is an integer, not {value!r} ({type(value).__name__})"
        ) from None
    if not low <= number <= high:
        raise LimitExceeded(f"{name} {number} is not from {low} to {high}")
    return number


def as_space(value: object) -> int:
    """The number of a space."""
    return as_number("space", value, 0, SPACE_MAX)


def as_entity(value: object) -> int:
    """The id of an entity."""
    return as_number("entity", value, 0, ENTITY_MAX)


def as_time(name: str, value: object) -> int:
    """A time in microseconds."""
    return as_number(name, value, TIME_MIN, TIME_MAX)


def as_times(value: object) -> NDArray[np.int64]:
    """Times in microseconds, (n,); a single one becomes a list."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return np.array([as_time("timestamp", value)], np.int64)
    return cast("NDArray[np.int64]", as_integers(value, TIMESTAMPS))


def as_entities(value: object) -> NDArray[np.uint64]:
    """Ids of entities, (n,)."""
    return cast("NDArray[np.uint64]", as_integers(value, ENTITIES))


def series_batch(
    entity: object, timestamps: object, vectors: object, metadata: object, dimension: int
) -> Batch:
    """Points of one series."""
    ids = np.array([as_entity(entity)], np.uint64)
    times = cast("NDArray[np.int64]", as_integers(timestamps, TIMESTAMPS))
    return _batch(ids, times, vectors, metadata, dimension)


def point_batch(point: object, dimension: int) -> Batch:
    """A single point."""
    _check_point(point, "point")
    assert isinstance(point, TemporalPoint)
    times = np.array([as_time("timestamp", point.timestamp)], np.int64)
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
    times = cast("NDArray[np.int64]", as_integers(columns[TIMESTAMP], TIMESTAMPS))
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
    times = cast(
        "NDArray[np.int64]", as_integers([point.timestamp for point in checked], TIMESTAMPS)
    )
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

    Taken are lists of dicts, where None is an empty one, and Arrow columns of maps.
    """
    if value is None:
        return None
    given = imported(value, "metadata")
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if isinstance(given, pa.ChunkedArray):
        if not pa.types.is_map(given.type) and not pa.types.is_null(given.type):
            raise InvalidArgument(f"metadata is a column of maps of text, not {given.type}")
        maps: list[object] = [None if row is None else dict(row) for row in given.to_pylist()]
    else:
        maps = given
    if len(maps) != rows:
        raise InvalidArgument(f"metadata has {len(maps)} rows for {rows} points")
    checked = [_checked_map(row, number) for number, row in enumerate(maps)]
    if not any(checked):
        return None
    try:
        return metadata_array(checked)
    except (*ARROW_REFUSALS, UnicodeEncodeError, ValueError) as error:
        raise InvalidArgument(f"metadata: {error}") from error


def _checked_map(row: object, number: int) -> Mapping[str, str] | None:
    if row is None:
        return None
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
