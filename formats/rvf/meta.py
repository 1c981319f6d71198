"""META segments (type 0x07): ids and typed columns, as an Arrow table.

The original has the segment type and no content for it; both its readers keep such segments byte
for byte (RVF "Room for holdfast"). A payload is little-endian::

    offset  size  field
         0     4  magic "HFMD"
         4     2  format version, u16, 1
         6     2  flags, u16; bit 0: snapshot, every META of a lower generation is void
         8     8  generation, u64
        16     8  rows, u64
        24     8  zero
        32        Arrow IPC stream, not compressed: column "id" (uint64, no nulls), then the
                  metadata columns in the types of ``holdfast.formats.tables``

Each metadata column carries its number among the store's fields, u16, as decimal text in its
Arrow field metadata under "holdfast.field_id". The original knows fields by such numbers only.
There is no checksum: the content hash of the segment covers the payload.
"""

import struct
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, InvalidFormat
from holdfast.formats.flatbuffer import FlatTable
from holdfast.formats.tables import (
    ARROW_REFUSALS,
    COLUMN_TYPES,
    ID,
    arrow_of,
    check_names,
    ipc_to_table,
    write_stream,
)

MAGIC = b"HFMD"
FORMAT_VERSION = 1
HEAD_BYTES = 32
FIELD_ID = b"holdfast.field_id"
FIELD_ID_MAX = 0xFFFF
_HEAD = struct.Struct("<4sHHQQ8x")
_SNAPSHOT = 1
_TYPES = frozenset(COLUMN_TYPES.values())
# As FlatBuffers count types: null, integers, floats, binary, text, bool.
_PLAIN_TYPES = range(1, 7)
_ID_FIELD = pa.field(ID, pa.uint64(), nullable=False)
assert _HEAD.size == HEAD_BYTES


class MetaRows(NamedTuple):
    """The rows of one META segment: column ``id``, then metadata columns with their numbers."""

    generation: int
    snapshot: bool
    table: pa.Table


def numbered(name: str, type_: pa.DataType, number: int) -> pa.Field:
    """A metadata column with its number."""
    return pa.field(name, type_, metadata={FIELD_ID: b"%d" % number})


def field_number(field: pa.Field) -> int | None:
    """The number of a metadata column; None when it carries none, or none that is a u16."""
    text = (field.metadata or {}).get(FIELD_ID, b"")
    if not (text.isdigit() and len(text) <= 5):
        return None
    number = int(text)
    return number if number <= FIELD_ID_MAX else None


def encode_meta(
    ids: NDArray[np.uint64], columns: pa.Table, *, generation: int, snapshot: bool = False
) -> bytes:
    """The payload for these rows; ``columns`` as ``Columns.check`` gives them, row by row."""
    assert len(ids) == columns.num_rows or not columns.num_columns, (len(ids), columns.num_rows)
    assert all(field_number(field) is not None for field in columns.schema), columns.schema
    table = pa.Table.from_arrays(
        [arrow_of(ids), *columns.columns],
        schema=pa.schema([_ID_FIELD, *columns.schema]),
    )
    sink = pa.BufferOutputStream()
    sink.write(
        _HEAD.pack(MAGIC, FORMAT_VERSION, _SNAPSHOT if snapshot else 0, generation, len(ids))
    )
    write_stream(sink, table)
    payload: bytes = sink.getvalue().to_pybytes()
    return payload


def decode_meta(payload: bytes | bytearray | memoryview) -> MetaRows | None:
    """The rows of a payload; None when it lacks the magic, so is another writer's.

    The table refers to the payload if that is bytes, and to a copy if it is anything that may
    change later; it takes no other memory, whatever the payload says. Raises ``InvalidFormat``.
    """
    if bytes(payload[: len(MAGIC)]) != MAGIC:
        return None
    if len(payload) < HEAD_BYTES:
        raise _broken(f"{len(payload)} bytes, the head alone takes {HEAD_BYTES}")
    _, version, flags, generation, rows = _HEAD.unpack_from(payload)
    if version != FORMAT_VERSION:
        raise _broken(f"version {version}, known is {FORMAT_VERSION}")
    _check_schema(memoryview(payload)[HEAD_BYTES:])
    table = ipc_to_table(payload, HEAD_BYTES)
    if table.num_rows != rows:
        raise _broken(f"{table.num_rows} rows, the head says {rows}")
    _check_columns(table)
    return MetaRows(generation, bool(flags & _SNAPSHOT), table)


def _check_schema(stream: memoryview) -> None:
    """Raise ``InvalidFormat`` unless the stream begins with a schema of plain types.

    Arrow would copy a name or a time zone that a hostile schema has its many fields share for each
    of them. Schema: 1 fields, 2 metadata; field: 0 name, 2 type, 4 dictionary, 5 children,
    6 metadata; a piece of metadata: 0 key, 1 value.
    """
    try:
        message = pa.ipc.read_message(stream)
        schema = FlatTable.root(memoryview(message.metadata)).table(2)
        if message.type != "schema" or schema is None:
            raise ValueError("it begins with no schema")
        left = len(message.metadata)
        for piece in schema.tables(2):
            left -= 8 + len(piece.text(0)) + len(piece.text(1))
        for field in schema.tables(1):
            left -= 8 + len(field.text(0))
            for piece in field.tables(6):
                left -= 8 + len(piece.text(0)) + len(piece.text(1))
            if (
                field.byte(2) not in _PLAIN_TYPES
                or field.has(4)
                or any(True for _ in field.tables(5))
            ):
                raise ValueError(f"column {field.text(0)!r} is of no plain type")
            if left < 0:
                raise ValueError("columns share their names")
    except (*ARROW_REFUSALS, EOFError, struct.error, ValueError) as error:
        raise _broken(str(error)) from error


def _check_columns(table: pa.Table) -> None:
    """Raise ``InvalidFormat`` unless there are ids and columns a store can have."""
    schema = table.schema
    if not schema.names or schema.names[0] != ID or schema.field(0).type != pa.uint64():
        raise _broken(f"the first column is not {ID!r} of uint64, but of {schema.names[:1]}")
    if table.column(0).null_count:
        raise _broken("an id is null")
    try:
        check_names(schema.names[1:])
    except InvalidArgument as error:
        raise _broken(str(error)) from error
    numbers = set()
    for field in list(schema)[1:]:
        number = field_number(field)
        if field.type not in _TYPES:
            raise _broken(f"column {field.name!r} is of type {field.type}")
        if number is None or number in numbers:
            raise _broken(f"column {field.name!r} has no number of its own")
        numbers.add(number)


def _broken(reason: str) -> InvalidFormat:
    return InvalidFormat(f"META segment: {reason}", reason=reason)
