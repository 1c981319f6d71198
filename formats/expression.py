"""A filter on its way to the worker: a pyarrow.compute expression as bytes, and its parts.

The bytes are what pyarrow itself makes of an expression, behind a checksum, because pyarrow's
reader crashes on some of them after a single flipped bit. All integers little-endian::

    offset  size  field
         0     4  magic "HFEX"
         4     4  crc of bytes 8 to the end
         8        Arrow IPC file: one batch of one row, whose columns are the constants; the
                  metadata of its schema are the steps

The steps are the expression in prefix notation, as (kind, value)::

    field_ref NAME       a column                 literal N     the constant in column N
    call NAME ...        a call and its arguments, then, if it has some,
    options N            its options, a struct in column N, and at last
    end NAME
"""

import struct
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.flatbuffer import FlatTable
from holdfast.formats.tables import ARROW_REFUSALS

MAGIC = b"HFEX"
# pyarrow reads and computes expressions by recursion, and its stack ends between 5,000 and 20,000.
DEPTH_MAX = 500
_HEAD = struct.Struct("<4sI")
_FOOTER_END = struct.Struct("<I6s")
_FILE_MAGIC = b"ARROW1"
# Fields of the FlatBuffers: the schema of a footer, the metadata of a schema, key and value.
_SCHEMA, _METADATA, _KEY, _VALUE = 1, 2, 0, 1


class Step(NamedTuple):
    """One part of an expression: ``kind`` as in the list above, and its name or column number."""

    kind: str
    value: str


class Program(NamedTuple):
    """An expression taken apart: steps in prefix notation, constants as arrays of one value."""

    steps: tuple[Step, ...]
    constants: tuple[pa.Array, ...]

    def expression(self) -> pc.Expression:
        """The expression again. Raises ``InvalidArgument`` if pyarrow cannot make sense of it."""
        # A batch without columns would have no row either.
        constants = self.constants or (pa.nulls(1),)
        schema = pa.schema([pa.field("", constant.type) for constant in constants])
        batch = pa.RecordBatch.from_arrays(
            list(constants), schema=schema.with_metadata(pa.KeyValueMetadata(list(self.steps)))
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return _deserialised(sink.getvalue())


def encode_expression(expression: pc.Expression) -> bytes:
    """The bytes of an expression. Raises ``InvalidArgument`` for what is none or has no bytes."""
    if not isinstance(expression, pc.Expression):
        raise InvalidArgument(
            "where is a pyarrow.compute expression such as pc.field('size') > 10, "
            f"not {type(expression).__name__}"
        )
    try:
        _, (serialised,) = expression.__reduce__()
    except ARROW_REFUSALS as error:
        raise InvalidArgument(
            f"where {text_of(expression)} cannot be sent: {error}; columns are referred to by name"
        ) from error
    body: bytes = serialised.to_pybytes()
    return _HEAD.pack(MAGIC, crc32(body)) + body


def decode_expression(data: bytes | bytearray | memoryview) -> pc.Expression:
    """The expression again. Raises ``InvalidArgument`` for other bytes."""
    return take_apart(data)[0]


def take_apart(data: bytes | bytearray | memoryview) -> tuple[pc.Expression, Program]:
    """The expression again, and its parts. Raises ``InvalidArgument`` for other bytes."""
    file = _body(data)
    program = _program(file)  # checks what pyarrow's own reader takes for granted
    return _deserialised(file), program


def text_of(expression: pc.Expression) -> str:
    """An expression for an error message: one line, cut at 200 characters."""
    text = " ".join(str(expression).split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _body(data: bytes | bytearray | memoryview) -> pa.Buffer:
    """The Arrow file in the bytes, once the checksum agrees."""
    if len(data) < _HEAD.size:
        raise _malformed(f"{len(data)} bytes")
    magic, crc = _HEAD.unpack_from(data)
    body = memoryview(data)[_HEAD.size :]
    if magic != MAGIC or crc32(body) != crc:
        raise _malformed("magic or checksum is wrong")
    return pa.py_buffer(body)


def _deserialised(file: pa.Buffer) -> pc.Expression:
    try:
        return pc.Expression._deserialize(file)
    except ARROW_REFUSALS as error:
        raise InvalidArgument(f"where cannot be read: {error}") from error


def _program(file: pa.Buffer) -> Program:
    """Steps and constants, checked."""
    try:
        steps = _steps(memoryview(file))
        reader = pa.ipc.open_file(file)
        batch = reader.get_batch(0)
        batch.validate(full=True)
    except (*ARROW_REFUSALS, struct.error, ValueError) as error:
        raise _malformed(str(error)) from error
    if batch.num_rows != 1 or reader.num_record_batches != 1:
        raise _malformed(f"{reader.num_record_batches} batches, the first of {batch.num_rows} rows")
    _check_steps(steps, batch.num_columns)
    return Program(steps, tuple(batch.columns))


def _steps(file: memoryview) -> tuple[Step, ...]:
    """The metadata of the file's schema. pyarrow itself only shows them as a dictionary."""
    footer_bytes, magic = _FOOTER_END.unpack_from(file, len(file) - _FOOTER_END.size)
    start = len(file) - _FOOTER_END.size - footer_bytes
    if magic != _FILE_MAGIC or start < 0:
        raise ValueError("no footer")
    schema = FlatTable.root(file[start:]).table(_SCHEMA)
    if schema is None:
        raise ValueError("no schema")
    return tuple(Step(entry.text(_KEY), entry.text(_VALUE)) for entry in schema.tables(_METADATA))


def _check_steps(steps: tuple[Step, ...], constants: int) -> None:
    """Raise ``InvalidArgument`` unless the steps are one whole expression over these constants."""
    calls: list[str] = []
    whole = False
    for number, (kind, value) in enumerate(steps):
        if whole:
            raise _malformed(f"{kind} {value} follows the end")
        following = steps[number + 1].kind if number + 1 < len(steps) else ""
        if kind == "call":
            calls.append(value)
            if len(calls) > DEPTH_MAX:
                raise InvalidArgument(
                    f"where is nested more than {DEPTH_MAX} deep; isin() takes many values at once"
                )
            continue
        if kind == "end":
            if not calls or calls.pop() != value:
                raise _malformed(f"the end of {value!r} is not where a call of it is open")
        elif kind in ("literal", "options"):
            if not (value.isdecimal() and len(value) < 10 and int(value) < constants):
                raise _malformed(f"{kind} {value!r} of {constants} constants")
            if kind == "options" and not (calls and following == "end"):
                raise _malformed("options outside a call")
        elif kind != "field_ref":
            raise _malformed(f"{kind} {value!r} is of no known kind")
        whole = not calls
    if not whole:
        raise _malformed("it ends too early")


def _malformed(reason: str) -> InvalidArgument:
    return InvalidArgument(f"where is not the bytes of an expression: {reason}")
