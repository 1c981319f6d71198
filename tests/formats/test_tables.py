"""Tables as bytes, and the headers read on the way."""

import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.flatbuffer import FlatTable
from holdfast.formats.tables import (
    COLUMN_TYPES,
    check_names,
    ipc_to_table,
    table_to_ipc,
    type_name,
    widened,
)

VECTORS = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 3)
TABLE = pa.table({"id": pa.array([1, 2], pa.uint64()), "s": ["a", None], "v": VECTORS})


@pytest.mark.parametrize("table", [TABLE, TABLE.slice(1), TABLE.slice(0, 0), pa.table({})])
@pytest.mark.parametrize("shift", [0, 3])
def test_round_trip(table: pa.Table, shift: int) -> None:
    """Any table comes back from its bytes, wherever in memory they lie."""
    data = table_to_ipc(table)
    assert ipc_to_table(memoryview(bytearray(shift) + data)[shift:]).equals(table)


def test_only_what_cannot_change_is_referred_to() -> None:
    """A table does not change with the buffer it was read from."""
    data = bytearray(table_to_ipc(TABLE))
    table = ipc_to_table(data)
    data[:] = bytes(len(data))
    assert table.equals(TABLE)
    fixed = bytes(1 << 20)
    stream = table_to_ipc(pa.table({"y": [fixed]}))
    before = pa.total_allocated_bytes()
    table = ipc_to_table(stream)
    assert pa.total_allocated_bytes() - before < len(fixed)
    address = table.column("y").chunk(0).buffers()[2].address
    start = pa.py_buffer(stream).address
    assert start < address < start + len(stream)


def test_several_batches_come_back() -> None:
    """A stream may have more than one batch."""
    table = pa.concat_tables([TABLE, TABLE])
    assert ipc_to_table(table_to_ipc(table)).equals(table)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Bytes that are no stream are refused as such."""
    with pytest.raises(InvalidFormat):
        ipc_to_table(data)
    with pytest.raises(InvalidFormat):
        ipc_to_table(struct.pack("<Ii", 0xFFFFFFFF, len(data)) + data)


def test_compressed_dictionaries_are_refused() -> None:
    """Compression is also found in the batch of a dictionary."""
    words = pa.array(["word" * 1000, "x"]).dictionary_encode()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, pa.schema([("w", words.type)]), options=options) as writer:
        writer.write_table(pa.table({"w": words}))
    with pytest.raises(InvalidFormat, match="compressed"):
        ipc_to_table(sink.getvalue().to_pybytes())


def test_text_that_is_no_unicode_is_refused() -> None:
    """What a stream calls a string is one."""
    data = table_to_ipc(pa.table({"s": ["marker"]})).replace(b"marker", b"mark\xff\xff")
    with pytest.raises(InvalidFormat, match="UTF8"):
        ipc_to_table(data)


def test_type_names() -> None:
    """Types are called as the documentation does; others as Arrow does."""
    assert [type_name(type_) for type_ in COLUMN_TYPES.values()] == list(COLUMN_TYPES)
    assert type_name(pa.date32()) == "date32[day]"


def test_columns_become_one_piece() -> None:
    """A column of several chunks, or of none, is widened into one array."""
    column = pa.chunked_array([pa.array([1], pa.int8()), pa.array([2], pa.int8())])
    assert widened("a", column).chunks == [pa.array([1, 2], pa.int64())]
    assert widened("a", pa.chunked_array([], pa.string())).num_chunks == 1


def test_too_much_text_for_one_column() -> None:
    """Text of 2 GiB or more is refused by the name of its column."""
    mebibyte = pa.array(["x" * (1 << 20)])
    column = pa.chunked_array([mebibyte] * (1 << 11))
    with pytest.raises(LimitExceeded, match="'text'"):
        widened("text", column)


@pytest.mark.parametrize("name", [1, None, b"a", "", "\0", "\ud800", "id"])
def test_names(name: object) -> None:
    """A column's name is text that can be written, and not the one of the ids."""
    with pytest.raises(InvalidArgument, match="column"):
        check_names(["a", name])


@given(st.binary(min_size=0, max_size=64), st.integers(0, 5))
def test_flat_tables_stay_in_their_buffer(data: bytes, field: int) -> None:
    """No bytes make the reader of headers do more than raise the errors it names."""
    try:
        table = FlatTable.root(memoryview(data))
        table.has(field)
        table.text(field)
        list(table.tables(field))
        table.table(field)
        table.byte(field)
    except (struct.error, ValueError):
        pass
