"""A chunk of the warm store: an Arrow IPC file that is written once and never changed.

One record batch, uncompressed or with lz4 or zstd buffers, rows in order of (space, entity,
timestamp), each key once::

    space      uint32                       not null
    entity     uint64                       not null
    timestamp  int64                        not null; microseconds since 1970 UTC
    vector     fixed_size_list<float32>[d]  not null
    metadata   map<string, string>          not null; empty where none was given

Any Arrow reader opens it. The file carries no checksum of its own: those of its blocks are in the
zone map beside it (``formats.zone_map``), and nothing here is given a byte before they were
compared. Rows that were deleted or written again are listed beside it (``formats.dead_rows``).
"""

from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.points import METADATA, METADATA_TYPE, Points, no_metadata
from holdfast.formats.tables import ARROW_REFUSALS

Compression = Literal["none", "zstd", "lz4"]
COMPRESSIONS: tuple[Compression, ...] = ("none", "zstd", "lz4")

SPACE, ENTITY, TIMESTAMP, VECTOR = "space", "entity", "timestamp", "vector"


def schema(dimension: int) -> pa.Schema:
    """The columns of a chunk."""
    return pa.schema(
        [
            pa.field(SPACE, pa.uint32(), nullable=False),
            pa.field(ENTITY, pa.uint64(), nullable=False),
            pa.field(TIMESTAMP, pa.int64(), nullable=False),
            pa.field(VECTOR, vector_type(dimension), nullable=False),
            pa.field(METADATA, METADATA_TYPE, nullable=False),
        ]
    )


def vector_type(dimension: int) -> pa.DataType:
    """Of the column of vectors."""
    return pa.list_(pa.field("item", pa.float32(), nullable=False), dimension)


def vector_array(vectors: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """Vectors (n, d) as an Arrow column that refers to them; they must be C-contiguous."""
    rows, dimension = vectors.shape
    values = pa.Array.from_buffers(
        pa.float32(), rows * dimension, [None, pa.py_buffer(vectors.reshape(-1))]
    )
    return pa.Array.from_buffers(vector_type(dimension), rows, [None], children=[values])


def record_batch(points: Points) -> pa.RecordBatch:
    """Points as a batch of a chunk's schema, without a copy."""
    metadata = no_metadata(len(points)) if points.metadata is None else points.metadata
    return pa.RecordBatch.from_arrays(
        [
            pa.array(points.spaces, pa.uint32()),
            pa.array(points.entities, pa.uint64()),
            pa.array(points.timestamps, pa.int64()),
            vector_array(points.vectors),
            metadata,
        ],
        schema=schema(points.dimension),
    )


class _Pieces:
    """Takes what an Arrow writer writes, and keeps it in pieces, without a copy."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[memoryview] = []

    def write(self, data: "bytes | pa.Buffer") -> int:
        piece = memoryview(data).cast("B")
        if len(piece):
            self.pieces.append(piece)
        return len(piece)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def encode(points: Points, compression: Compression) -> list[memoryview]:
    """A chunk's file in pieces, which refer to the points' arrays; the rows are in order."""
    sink = _Pieces()
    options = pa.ipc.IpcWriteOptions(
        compression=None if compression == "none" else compression, use_threads=False
    )
    batch = record_batch(points)
    with pa.ipc.new_file(pa.PythonFile(sink, "w"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.pieces


class Chunk(NamedTuple):
    """A chunk's columns, as views of the file unless it is compressed."""

    batch: pa.RecordBatch
    timestamps: NDArray[np.int64]
    vectors: NDArray[np.float32]


def decode(data: pa.Buffer, dimension: int, rows: int) -> Chunk:
    """The columns of a chunk whose bytes were checked. Raises ``InvalidFormat``.

    Only the structure is looked at, and no value.
    """
    try:
        reader = pa.ipc.open_file(data)
        if reader.num_record_batches != 1:
            raise _refusal(f"{reader.num_record_batches} record batches instead of one")
        if not reader.schema.equals(schema(dimension)):
            raise _refusal(f"its columns are {reader.schema.to_string()!r}")
        batch = reader.get_batch(0)
        batch.validate()
    except (*ARROW_REFUSALS, ValueError) as error:
        if isinstance(error, InvalidFormat):
            raise
        raise _refusal(str(error)) from error
    if batch.num_rows != rows:
        raise _refusal(f"{batch.num_rows} rows where the zone map has {rows}")
    vector = batch.column(VECTOR)
    if any(column.null_count for column in batch.columns) or vector.values.null_count:
        raise _refusal("null values")
    timestamps = batch.column(TIMESTAMP).to_numpy()
    vectors = vector.values.to_numpy().reshape(-1, dimension)[vector.offset :][:rows]
    return Chunk(batch, timestamps, vectors)


def buffer_span(array: pa.Array, data: pa.Buffer) -> tuple[int, int]:
    """From and to which offset of a file its array's buffers lie; (0, 0) if they are not in it."""
    buffers = [buffer for buffer in array.buffers() if buffer is not None and buffer.size]
    if not buffers:
        return 0, 0
    start = min(buffer.address for buffer in buffers) - data.address
    stop = max(buffer.address + buffer.size for buffer in buffers) - data.address
    return (start, stop) if start >= 0 and stop <= data.size else (0, 0)


def _refusal(reason: str) -> InvalidFormat:
    return InvalidFormat(f"not a chunk: {reason}", reason=reason)
