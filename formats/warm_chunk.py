"""A chunk of the warm store: an Arrow IPC file that is written once and never changed.

One record batch, uncompressed or with lz4 or zstd buffers, rows in order of (space, entity,
timestamp), each key once::

    space      uint32                       not null
    entity     uint64                       not null
    timestamp  int64                        not null; microseconds since 1970 UTC
    vector     fixed_size_list<float32>[d]  not null
    metadata   map<string, string>          not null; empty where none was given

The schema's metadata has, as ``holdfast.chunk``, the id of the store in hexadecimal, a slash and
the number of the chunk in ten digits, so that a reader who maps the file knows that it is the one
that was meant.

Any Arrow reader opens it. The file carries no checksum of its own: those of its blocks are in the
zone map beside it (``formats.zone_map``), and nothing here is given a byte before they were
compared. Rows that were deleted or written again are listed beside it (``formats.dead_rows``).
"""

import struct
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.flatbuffer import FlatTable
from holdfast.formats.limits import DECOMPRESSED_BYTES_MAX
from holdfast.formats.points import METADATA, METADATA_TYPE, Points, no_metadata
from holdfast.formats.tables import ARROW_REFUSALS, arrow_of, numbers_of
from holdfast.formats.warm_terms import Compression

_ALIGNMENT = 8  # of the buffers in a file

IDENTITY = b"holdfast.chunk"
"""Key of the schema's metadata under which a file says which chunk it is."""

SPACE, ENTITY, TIMESTAMP, VECTOR = "space", "entity", "timestamp", "vector"

# Arrow's own marks and structs, for what has to be known before Arrow takes memory for it.
_FOOTER_SIZE = struct.Struct("<i6s")
_MESSAGE = struct.Struct("<4si")
_BLOCK = struct.Struct("<qi4xq")
_BUFFER = struct.Struct("<qq")
_LENGTH = struct.Struct("<q")


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
            arrow_of(points.spaces),
            arrow_of(points.entities),
            arrow_of(points.timestamps),
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


def encode(points: Points, compression: Compression, identity: bytes = b"") -> list[memoryview]:
    """A chunk's file in pieces, which refer to the points' arrays; the rows are in order.

    ``identity`` says which chunk of which store it is; see ``identity``.
    """
    sink = _Pieces()
    options = pa.ipc.IpcWriteOptions(
        compression=None if compression == "none" else compression, use_threads=False
    )
    batch = record_batch(points)
    if identity:
        batch = batch.replace_schema_metadata({IDENTITY: identity})
    with pa.ipc.new_file(pa.PythonFile(sink, "w"), batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return sink.pieces


def identity(store_id: bytes, number: int) -> bytes:
    """What a chunk's file says of itself: its store and its number."""
    return b"%b/%010d" % (store_id.hex().encode(), number)


def identity_in(batch: pa.RecordBatch) -> bytes | None:
    """What a chunk's file says of itself, if it does."""
    found: bytes | None = (batch.schema.metadata or {}).get(IDENTITY)
    return found


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
        _check_sizes(memoryview(data).cast("B"))
        reader = pa.ipc.open_file(data)
        if not reader.schema.equals(schema(dimension)):
            raise _refusal(f"its columns are {reader.schema.to_string()!r}")
        batch = reader.get_batch(0)
        batch.validate()
    except (*ARROW_REFUSALS, MemoryError, struct.error, ValueError) as error:
        if isinstance(error, InvalidFormat):
            raise
        raise _refusal(str(error)) from error
    if batch.num_rows != rows:
        raise _refusal(f"{batch.num_rows} rows where the zone map has {rows}")
    vector = batch.column(VECTOR)
    if any(column.null_count for column in batch.columns) or vector.values.null_count:
        raise _refusal("null values")
    timestamps = numbers_of(batch.column(TIMESTAMP), np.int64)
    # Not ``flatten``, which loads pyarrow.compute: more than a tenth of a second for each worker.
    values = vector.values.slice(vector.offset * dimension, rows * dimension)
    vectors = numbers_of(values, np.float32).reshape(rows, dimension)
    return Chunk(batch, timestamps, vectors)


def _check_sizes(data: memoryview) -> None:
    """Raise ``InvalidFormat`` for a file that takes far more memory once it is decompressed.

    Footer: 2 dictionaries, 3 record batches. Message: 2 header. RecordBatch: 2 buffers,
    3 compression. A compressed buffer begins with its length, or with -1 if it is not after all.
    """
    if len(data) < _FOOTER_SIZE.size:
        raise _refusal(f"{len(data)} bytes are no Arrow file")
    end = len(data) - _FOOTER_SIZE.size
    size, mark = _FOOTER_SIZE.unpack_from(data, end)
    if mark != b"ARROW1":
        raise _refusal("it does not end as an Arrow file")
    if not 0 < size <= end:
        raise _refusal(f"a footer of {size} bytes in {len(data)}")
    footer = FlatTable.root(data[end - size : end])
    if any(footer.structs(2, _BLOCK)):
        raise _refusal("it has dictionaries")
    blocks = list(footer.structs(3, _BLOCK))
    if len(blocks) != 1:
        raise _refusal(f"{len(blocks)} record batches instead of one")
    ((at, head_bytes, _),) = blocks
    if not 0 <= at <= at + head_bytes <= end:
        raise _refusal(f"a record batch at {at} with a head of {head_bytes} bytes")
    mark, _ = _MESSAGE.unpack_from(data, at)
    if mark != b"\xff" * 4:
        raise _refusal(f"no record batch begins at {at}")
    batch = FlatTable.root(data[at + _MESSAGE.size : at + head_bytes]).table(2)
    if batch is None or not batch.has(3):
        return
    announced = 0
    for place, length in batch.structs(2, _BUFFER):
        if length:
            announced += max(length, _LENGTH.unpack_from(data, at + head_bytes + place)[0])
    if announced > DECOMPRESSED_BYTES_MAX:
        raise _refusal(f"{announced} bytes once it is decompressed")


def fixed_spans(dimension: int, rows: int, identity: bytes = b"") -> dict[str, int]:
    """Where the columns of fixed width begin in an uncompressed chunk of so many rows.

    That is so in what ``encode`` writes; it follows from no more than the order of the columns and
    the length of what comes before them, which does not depend on their values.
    """
    row = Points(
        np.zeros(1, np.uint32), np.zeros(1, np.uint64), np.zeros(1, np.int64),
        np.zeros((1, dimension), np.float32), None,
    )  # fmt: skip
    data = pa.py_buffer(b"".join(encode(row, "none", identity)))
    at, _ = buffer_span(pa.ipc.open_file(data).get_batch(0).column(SPACE), data)
    spans = {}
    for name, width in ((SPACE, 4), (ENTITY, 8), (TIMESTAMP, 8), (VECTOR, 4 * dimension)):
        spans[name] = at
        at += rows * width
        at += -at % _ALIGNMENT
    return spans


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
