"""Temporal points as columns, and their metadata as Arrow has it.

A point is (space u32, entity u64, timestamp i64 in microseconds since 1970 UTC, vector float32,
metadata text -> text). Its key is (space, entity, timestamp).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.tables import arrow_of, ipc_to_table, table_to_ipc

SPACE_MAX = (1 << 32) - 1
ENTITY_MAX = (1 << 64) - 1
TIME_MIN, TIME_MAX = -(1 << 63), (1 << 63) - 1

METADATA = "metadata"
METADATA_TYPE = pa.map_(pa.string(), pa.string())
_METADATA_SCHEMA = pa.schema([(METADATA, METADATA_TYPE)])


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """n points as columns. ``metadata`` is None when none of them has any."""

    spaces: NDArray[np.uint32]
    """(n,)"""
    entities: NDArray[np.uint64]
    """(n,)"""
    timestamps: NDArray[np.int64]
    """(n,), microseconds"""
    vectors: NDArray[np.float32]
    """(n, dimension)"""
    metadata: pa.MapArray | None

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return int(self.vectors.shape[1])

    @property
    def metadata_bytes(self) -> int:
        """Bytes that their metadata take."""
        return metadata_bytes(self.metadata)

    def take(self, order: NDArray[np.int64]) -> "Points":
        """These points, in this order."""
        return Points(
            self.spaces[order],
            self.entities[order],
            self.timestamps[order],
            self.vectors.take(order, axis=0),  # by whole rows, unlike an index
            None if self.metadata is None else self.metadata.take(arrow_of(order)),
        )

    def slice(self, start: int, stop: int) -> "Points":
        """These points from ``start`` to ``stop``, as views."""
        metadata = self.metadata
        return Points(
            self.spaces[start:stop],
            self.entities[start:stop],
            self.timestamps[start:stop],
            self.vectors[start:stop],
            None if metadata is None else metadata.slice(start, stop - start),
        )


def concatenated(parts: Sequence[Points]) -> Points:
    """Points one behind the other; of a single part, itself."""
    if len(parts) == 1:
        return parts[0]
    return Points(
        np.concatenate([part.spaces for part in parts]),
        np.concatenate([part.entities for part in parts]),
        np.concatenate([part.timestamps for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        concat_metadata([(part.metadata, len(part)) for part in parts]),
    )


def no_metadata(rows: int) -> pa.MapArray:
    """As many empty maps."""
    text = pa.nulls(0, pa.string())
    return pa.MapArray.from_arrays(arrow_of(np.zeros(rows + 1, np.int32)), text, text)


def metadata_array(rows: Sequence[Mapping[str, str] | None]) -> pa.MapArray:
    """Maps as an Arrow column: keys in order, none null. Raises what pyarrow raises."""
    return pa.array([sorted(row.items()) if row else [] for row in rows], METADATA_TYPE)


def concat_metadata(parts: Sequence[tuple[pa.MapArray | None, int]]) -> pa.MapArray | None:
    """Columns, each None or of so many rows, one behind the other."""
    if all(column is None for column, _ in parts):
        return None
    arrays = [no_metadata(rows) if column is None else column for column, rows in parts]
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


def metadata_bytes(column: pa.MapArray | None) -> int:
    """Bytes that a column takes, as far as its rows reach; 0 for None."""
    return 0 if column is None else int(column.nbytes)


def metadata_to_ipc(column: pa.MapArray | None) -> bytes:
    """The column as an Arrow IPC stream; nothing for None."""
    return b"" if column is None else table_to_ipc(pa.table({METADATA: column}))


def metadata_from_ipc(data: memoryview, rows: int) -> pa.MapArray | None:
    """The column of so many rows that ``metadata_to_ipc`` gave; ``InvalidFormat`` if it is none."""
    if not len(data):
        return None
    table = ipc_to_table(data)
    if not table.schema.equals(_METADATA_SCHEMA):
        raise InvalidFormat(
            f"metadata is one column {METADATA!r} of {METADATA_TYPE}, and these "
            f"{table.num_columns} are not",
            reason="not a column of metadata",
        )
    column = table.column(0)
    check_metadata(column)
    if len(column) != rows:
        raise InvalidFormat(
            f"metadata has {len(column)} rows for {rows} points", reason="rows do not agree"
        )
    combined = column.combine_chunks()
    if isinstance(combined, pa.ChunkedArray):  # of no chunks at all
        combined = pa.concat_arrays(combined.chunks) if combined.num_chunks else no_metadata(0)
    return combined


def check_metadata(column: "pa.ChunkedArray | pa.MapArray") -> None:
    """Raise ``InvalidFormat`` for a map that is null or has a null value."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    if any(chunk.null_count or chunk.items.null_count for chunk in chunks):
        raise InvalidFormat("metadata with a null map or value", reason="null in metadata")


def rows_of_metadata(column: pa.MapArray | None, rows: int) -> list[dict[str, str]]:
    """Each row's map as a dict; of a repeated key the last value counts."""
    if column is None:
        return [{} for _ in range(rows)]
    return [dict(pairs) for pairs in column.to_pylist()]
