"""Metadata as Arrow tables: the column types a store keeps, and tables as bytes.

Bytes are an Arrow IPC stream, never compressed: a reader that refuses compression never takes more
memory than the bytes it was given.
"""

import struct
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.flatbuffer import FlatTable

N = TypeVar("N", bound=np.generic)

ID = "id"
"""Name of the column of row ids, which no metadata column may have."""
VECTOR = "vector"
"""Name of the column of vectors, which metadata written by older releases may have."""

COLUMN_TYPES: dict[str, pa.DataType] = {
    "uint64": pa.uint64(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "binary": pa.binary(),
    "null": pa.null(),
}
"""What a metadata column may be, by name. ``null``: no value has been seen yet."""

_NAMES = {type_: name for name, type_ in COLUMN_TYPES.items()}
_WIDENED = {
    **{type_: type_ for type_ in COLUMN_TYPES.values()},
    **dict.fromkeys((pa.uint8(), pa.uint16(), pa.uint32()), pa.uint64()),
    **dict.fromkeys((pa.int8(), pa.int16(), pa.int32()), pa.int64()),
    **dict.fromkeys((pa.float16(), pa.float32()), pa.float64()),
    **dict.fromkeys((pa.large_string(), pa.string_view()), pa.string()),
    **dict.fromkeys((pa.large_binary(), pa.binary_view()), pa.binary()),
}
# What pyarrow raises for data it cannot take. OSError: a stream that ends too early.
ARROW_REFUSALS = (
    pa.ArrowCapacityError,
    pa.ArrowInvalid,
    pa.ArrowIndexError,
    pa.ArrowKeyError,
    pa.ArrowNotImplementedError,
    pa.ArrowTypeError,
    OSError,
)
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def type_name(type_: pa.DataType) -> str:
    """What a column type is called: one of the names above, or Arrow's own for any other."""
    return _NAMES.get(type_, str(type_))


def check_names(names: Iterable[object]) -> None:
    """Refuse names of metadata columns that are empty, reserved, repeated or not text."""
    seen = set()
    for name in names:
        if not isinstance(name, str):
            raise InvalidArgument(
                f"metadata columns are named by str, not {type(name).__name__}: {name!r}"
            )
        if not name or "\0" in name or not _is_unicode(name):
            raise InvalidArgument(
                f"{name!r} cannot name a metadata column: a name is not empty, holds no NUL and "
                "can be written as UTF-8"
            )
        if name == ID:
            raise InvalidArgument(f"metadata column {ID!r}: this name means the id of a row")
        if name in seen:
            raise InvalidArgument(f"metadata column {name!r} appears twice")
        seen.add(name)


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def widened(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A metadata column in one piece and in the type of ``COLUMN_TYPES`` that holds its values.

    Raises ``InvalidArgument`` naming column and type when there is none, ``LimitExceeded`` when its
    text or bytes are 2 GiB or more.
    """
    given = column.type
    wanted = _WIDENED.get(given)
    if wanted is None and pa.types.is_dictionary(given):
        wanted = _WIDENED.get(given.value_type)
    if wanted is None and pa.types.is_fixed_size_binary(given):
        wanted = pa.binary()
    if wanted is None:
        raise InvalidArgument(
            f"metadata column {name!r} is of type {given}; a store keeps "
            f"{', '.join(COLUMN_TYPES)} and what widens to these"
        )
    try:
        if given is not wanted and given != wanted:
            column = column.cast(wanted)
        return column if column.num_chunks == 1 else pa.chunked_array([column.combine_chunks()])
    except ARROW_REFUSALS as error:
        too_large = isinstance(error, pa.ArrowInvalid | pa.ArrowCapacityError)
        kind = LimitExceeded if too_large else InvalidArgument
        raise kind(f"metadata column {name!r} of type {given}: {error}") from error


def table_to_ipc(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    write_stream(sink, table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def write_stream(sink: pa.NativeFile, table: pa.Table) -> None:
    """Write a table to ``sink`` as an uncompressed Arrow IPC stream."""
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def ipc_to_table(data: bytes | bytearray | memoryview, start: int = 0) -> pa.Table:
    """The table of an uncompressed Arrow IPC stream that begins at ``start``.

    It refers to ``data`` if that is bytes, and to a copy if it is anything that may change later.
    Raises ``InvalidFormat`` for what is not such a stream, is compressed, or has broken arrays.
    """
    buffer = pa.py_buffer(data if isinstance(data, bytes) else bytes(data)).slice(start)
    if buffer.address % 8:  # Arrow computes on misaligned values, but warns on standard error
        buffer = pa.py_buffer(buffer.to_pybytes())
    try:
        for message in pa.ipc.MessageReader.open_stream(buffer):
            _refuse_compression(message.metadata)
        table = pa.ipc.open_stream(buffer).read_all()
        table.validate(full=True)
    except (*ARROW_REFUSALS, struct.error, ValueError) as error:
        raise InvalidFormat(
            f"{len(buffer)} bytes are not a table as an Arrow IPC stream: {error}",
            reason="not an Arrow IPC stream",
        ) from error
    return table


def _refuse_compression(metadata: pa.Buffer) -> None:
    """Raise ``ValueError`` for the header of a compressed message.

    Message: 1 type of header, 2 header. DictionaryBatch: 1 batch. RecordBatch: 3 compression.
    """
    message = FlatTable.root(memoryview(metadata))
    kind, batch = message.byte(1), message.table(2)
    if kind == _DICTIONARY_BATCH and batch is not None:
        batch = batch.table(1)
    if kind in (_DICTIONARY_BATCH, _RECORD_BATCH) and batch is not None and batch.has(3):
        raise ValueError("compressed")


def numbers_of(column: pa.Array | pa.ChunkedArray, kind: type[N]) -> NDArray[N]:
    """The values of a column of that kind without nulls, (n,); a view, if they are in one piece.

    Arrow's own ``to_numpy`` loads pandas where that is installed, which takes a worker longer than
    to open its store.
    """
    if isinstance(column, pa.ChunkedArray):
        pieces = [numbers_of(piece, kind) for piece in column.chunks]
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, kind), *pieces])
    values = column.buffers()[1]
    start = column.offset * np.dtype(kind).itemsize
    return np.frombuffer(b"" if values is None else values, kind, len(column), start)


def arrow_of(numbers: NDArray[np.generic], absent: NDArray[np.bool_] | None = None) -> pa.Array:
    """The numbers, (n,), as an array that shares their memory; null where ``absent``.

    Not by ``pa.array``, for the same reason.
    """
    numbers = np.ascontiguousarray(numbers)
    valid = None if absent is None else pa.py_buffer(np.packbits(~absent, bitorder="little"))
    kind = pa.from_numpy_dtype(numbers.dtype)
    return pa.Array.from_buffers(kind, len(numbers), [valid, pa.py_buffer(numbers)])
