"""META payloads: offsets as documented, tables come back, and hostile bytes cost nothing."""

import random
import struct

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.flatbuffer import FlatTable
from holdfast.formats.rvf.meta import (
    FIELD_ID,
    HEAD_BYTES,
    decode_meta,
    encode_meta,
    field_number,
    numbered,
)
from holdfast.formats.tables import COLUMN_TYPES, table_to_ipc

U64_MAX = (1 << 64) - 1
IDS = np.array([7, 0, U64_MAX], np.uint64)
VALUES: dict[str, list[object]] = {
    "uint64": [0, None, U64_MAX],
    "int64": [-(1 << 63), None, 5],
    "float64": [0.5, float("inf"), None],
    "string": ["", None, "\u00e9"],
    "bool": [True, None, False],
    "binary": [b"", b"\xff\0", None],
    "null": [None, None, None],
}
COLUMNS = pa.Table.from_arrays(
    [pa.array(values, COLUMN_TYPES[name]) for name, values in VALUES.items()],
    schema=pa.schema([numbered(n, COLUMN_TYPES[n], 3 * i) for i, n in enumerate(VALUES)]),
)
HEAD = struct.Struct("<4sHHQQ8x")


def payload_of(table: pa.Table, rows: int | None = None) -> bytes:
    """A payload with any table behind a good head."""
    head = HEAD.pack(b"HFMD", 1, 0, 1, table.num_rows if rows is None else rows)
    return head + table_to_ipc(table)


def good_table() -> pa.Table:
    schema = pa.schema([pa.field("id", pa.uint64()), numbered("a", pa.int64(), 0)])
    return pa.Table.from_arrays([pa.array(IDS), pa.array([1, None, 3])], schema=schema)


def test_layout() -> None:
    """The head lies where the table says, and a plain Arrow stream follows it."""
    payload = encode_meta(IDS, COLUMNS, generation=9, snapshot=True)
    assert struct.unpack_from("<4sHHQQQ", payload) == (b"HFMD", 1, 1, 9, 3, 0)
    stream = pa.ipc.open_stream(payload[HEAD_BYTES:]).read_all()
    assert stream.schema.names == ["id", *VALUES]
    assert not stream.schema.field("id").nullable
    assert stream.schema.field("float64").metadata == {FIELD_ID: b"6"}
    assert len(payload) % 8 == 0


@pytest.mark.parametrize("snapshot", [False, True])
@pytest.mark.parametrize("shift", [0, 1, 8])
def test_round_trip(snapshot: bool, shift: int) -> None:
    """Rows come back with types, nulls and numbers, wherever in memory the payload lies."""
    payload = encode_meta(IDS, COLUMNS, generation=U64_MAX, snapshot=snapshot)
    found = decode_meta(memoryview(bytearray(shift) + payload)[shift:])
    assert found is not None
    assert (found.generation, found.snapshot) == (U64_MAX, snapshot)
    assert found.table.column("id").to_pylist() == IDS.tolist()
    assert found.table.select(list(VALUES)).to_pydict() == VALUES
    assert [field_number(field) for field in found.table.schema] == [None, 0, 3, 6, 9, 12, 15, 18]
    for column in found.table.columns:
        for buffer in column.chunk(0).buffers():
            assert buffer is None or buffer.address % 8 == 0


def test_rows_without_columns_and_columns_without_rows() -> None:
    """Neither is an error: a row may have no metadata, and a list of rows may be empty."""
    found = decode_meta(encode_meta(IDS, pa.table({}), generation=1))
    assert found is not None
    assert found.table.schema.names == ["id"]
    assert found.table.num_rows == 3
    found = decode_meta(encode_meta(IDS[:0], COLUMNS.slice(0, 0), generation=1))
    assert found is not None
    assert found.table.num_rows == 0


def test_slices_are_written_without_what_they_are_cut_from() -> None:
    """A payload holds the rows of a slice, not the whole array behind it."""
    schema = pa.schema([numbered("s", pa.string(), 0)])
    long = pa.Table.from_arrays([pa.array(["text" * 100] * 1000)], schema=schema)
    payload = encode_meta(IDS, long.slice(500, 3), generation=1)
    assert len(payload) < 3000
    found = decode_meta(payload)
    assert found is not None
    assert found.table.column("s").to_pylist() == ["text" * 100] * 3


@pytest.mark.parametrize("payload", [b"", b"HFM", b"HFMX" + bytes(100), bytes(200)])
def test_other_payloads_are_left_alone(payload: bytes) -> None:
    """Without the magic it is somebody else's, which is no error."""
    assert decode_meta(payload) is None


def test_another_version_is_refused() -> None:
    """A payload of a later version is named as such."""
    payload = bytearray(encode_meta(IDS, COLUMNS, generation=1))
    payload[4] = 2
    with pytest.raises(InvalidFormat, match="version 2"):
        decode_meta(payload)


def without(table: pa.Table, name: str) -> pa.Table:
    return table.drop_columns([name])


BROKEN: dict[str, bytes] = {
    "head cut": b"HFMD" + bytes(20),
    "no stream": HEAD.pack(b"HFMD", 1, 0, 1, 0),
    "rows": payload_of(good_table(), 4),
    "no id": payload_of(without(good_table(), "id")),
    "no columns": payload_of(pa.table({})),
    "id signed": payload_of(pa.table({"id": pa.array([1], pa.int64())})),
    "id null": payload_of(pa.table({"id": pa.array([1, None], pa.uint64())})),
    "id twice": payload_of(good_table().append_column("id", pa.array(IDS))),
    "no number": payload_of(good_table().append_column("b", pa.array([1, 2, 3]))),
    "number twice": payload_of(
        good_table().append_column(numbered("b", pa.int64(), 0), pa.array([1, 2, 3]))
    ),
    "number too large": payload_of(
        good_table().append_column(numbered("b", pa.int64(), 1 << 16), pa.array([1, 2, 3]))
    ),
    "name twice": payload_of(
        good_table().append_column(numbered("a", pa.int64(), 1), pa.array([1, 2, 3]))
    ),
    "empty name": payload_of(
        good_table().append_column(numbered("", pa.int64(), 1), pa.array([1, 2, 3]))
    ),
    "type": payload_of(
        good_table().append_column(numbered("b", pa.int32(), 1), pa.array([1, 2, 3], pa.int32()))
    ),
    "list": payload_of(
        good_table().append_column(
            numbered("b", pa.list_(pa.int64()), 1), pa.array([[1], [2], [3]])
        )
    ),
}


@pytest.mark.parametrize("payload", BROKEN.values(), ids=BROKEN.keys())
def test_broken_payloads_are_refused(payload: bytes) -> None:
    """With the magic but not the rest of the format it is an error."""
    with pytest.raises(InvalidFormat):
        decode_meta(payload)


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compression_is_refused(codec: str) -> None:
    """A few bytes that would unpack to many are refused before they are unpacked."""
    zeros = pa.table({"id": pa.array(np.zeros(1 << 20, np.uint64))})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_stream(sink, zeros.schema, options=options) as writer:
        writer.write_table(zeros)
    payload = HEAD.pack(b"HFMD", 1, 0, 1, 1 << 20) + sink.getvalue().to_pybytes()
    before = pa.total_allocated_bytes()
    peak = pa.default_memory_pool().max_memory()
    with pytest.raises(InvalidFormat, match="compressed"):
        decode_meta(payload)
    assert pa.total_allocated_bytes() == before
    assert pa.default_memory_pool().max_memory() == peak


def test_names_that_share_their_bytes_are_refused() -> None:
    """A schema cannot be made to take many times its own size in memory."""
    names = ["long" * 1000, *(f"c{number}" for number in range(50))]
    columns = [pa.array([1])] * len(names)
    data = bytearray(table_to_ipc(pa.Table.from_arrays(columns, names)))
    metadata = memoryview(data)[8:]  # behind the mark and the length of the message
    schema = FlatTable.root(metadata).table(2)
    assert schema is not None
    places = []
    for field in schema.tables(1):
        place = field._place(0)
        assert place is not None
        places.append(place)
    (offset,) = struct.unpack_from("<I", metadata, places[0])
    for place in places[1:]:
        struct.pack_into("<I", metadata, place, places[0] + offset - place)
    names_read = pa.ipc.open_stream(data).schema.names
    assert sum(map(len, names_read)) > 10 * len(data)
    with pytest.raises(InvalidFormat, match="share their names"):
        decode_meta(HEAD.pack(b"HFMD", 1, 0, 1, 1) + data)


def test_nothing_is_copied() -> None:
    """A table decoded from bytes takes no memory of its own."""
    payload = encode_meta(np.zeros(1 << 20, np.uint64), pa.table({}), generation=1)
    before = pa.total_allocated_bytes()
    found = decode_meta(payload)
    assert found is not None
    assert pa.total_allocated_bytes() - before < 1 << 16


def test_every_truncation() -> None:
    """A payload cut anywhere is foreign, refused, or whole but for the mark of its end."""
    payload = encode_meta(IDS, COLUMNS, generation=1)
    whole = decode_meta(payload)
    assert whole is not None
    for size in range(len(payload)):
        try:
            found = decode_meta(payload[:size])
        except InvalidFormat:
            assert size >= 4
            continue
        assert found is None or found.table.equals(whole.table)
        assert (found is None) == (size < 4)
        assert found is None or size >= len(payload) - 8


def test_bit_flips_are_refused_or_harmless() -> None:
    """A damaged payload never does more than give another table of as many rows."""
    payload = encode_meta(IDS, COLUMNS, generation=1)
    chance = random.Random(7)
    bits = [*range(40 * 8), *(chance.randrange(len(payload) * 8) for _ in range(3000))]
    for bit in bits:
        damaged = bytearray(payload)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = decode_meta(damaged)
        except InvalidFormat:
            continue
        if found is not None:
            assert found.table.num_rows == 3
            found.table.to_pylist()


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Nothing but an ``InvalidFormat`` comes of bytes behind the magic."""
    for payload in (b"HFMD" + data, HEAD.pack(b"HFMD", 1, 0, 1, 0) + data):
        with pytest.raises(InvalidFormat):
            decode_meta(payload)
