"""Chunks: Arrow files that any reader takes, and that are refused when they are anything else."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import warm_chunk
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.points import METADATA_TYPE, Points, metadata_array
from holdfast.formats.warm_chunk import buffer_span
from holdfast.formats.warm_terms import COMPRESSIONS, Compression
from tests.formats.warm_samples import DIMENSION, Rows, flips, points_of, rows, rows_in

SAMPLE_ROWS: Rows = {
    (0, 7, -5): (np.array([1, 2, 3], "<f4").tobytes(), {}),
    (0, 7, 3): (np.array([4, 5, np.inf], "<f4").tobytes(), {"a": "ü", "b": ""}),
    (4, 1 << 63, 0): (np.array([-0.0, 7, 8], "<f4").tobytes(), {"a": "1"}),
}


def _file(some: Rows, compression: Compression = "none") -> bytes:
    return b"".join(warm_chunk.encode(points_of(some), compression))


def _decoded(data: bytes, count: int) -> Rows:
    chunk = warm_chunk.decode(pa.py_buffer(data), DIMENSION, count)
    chunk.batch.validate(full=True)
    return rows_in(
        Points(
            chunk.batch.column("space").to_numpy(),
            chunk.batch.column("entity").to_numpy(),
            chunk.timestamps,
            chunk.vectors,
            chunk.batch.column("metadata"),
        )
    )


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(some=rows(min_size=1))
def test_round_trip(compression: Compression, some: Rows) -> None:
    """What was encoded is decoded, bit for bit."""
    assert _decoded(_file(some, compression), len(some)) == some


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_any_arrow_reader(compression: Compression) -> None:
    """The file is one record batch with the columns that the table says."""
    reader = pa.ipc.open_file(pa.py_buffer(_file(SAMPLE_ROWS, compression)))
    assert reader.num_record_batches == 1
    assert [f"{field.name}: {field.type}" for field in reader.schema] == [
        "space: uint32",
        "entity: uint64",
        "timestamp: int64",
        "vector: fixed_size_list<item: float not null>[3]",
        "metadata: map<string, string>",
    ]
    assert not any(field.nullable for field in reader.schema)
    table = reader.read_all().to_pydict()
    assert table["space"] == [0, 0, 4]
    assert table["entity"] == [7, 7, 1 << 63]
    assert table["timestamp"] == [-5, 3, 0]
    assert table["vector"] == [[1, 2, 3], [4, 5, float("inf")], [-0.0, 7, 8]]
    assert table["metadata"] == [[], [("a", "ü"), ("b", "")], [("a", "1")]]


def test_columns_are_views() -> None:
    """Opening an uncompressed chunk copies none of its columns, and finds where they lie."""
    data = _file(SAMPLE_ROWS)
    buffer = pa.py_buffer(data)
    chunk = warm_chunk.decode(buffer, DIMENSION, 3)
    file = np.frombuffer(data, np.uint8)
    assert np.shares_memory(chunk.timestamps, file)
    assert np.shares_memory(chunk.vectors, file)
    start, stop = buffer_span(chunk.batch.column("timestamp"), buffer)
    assert np.frombuffer(data[start:stop], "<i8")[:3].tolist() == [-5, 3, 0]
    start, stop = buffer_span(chunk.batch.column("vector"), buffer)
    assert np.frombuffer(data[start:stop], "<f4")[:4].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_decompressed_columns_lie_nowhere(compression: Compression) -> None:
    """A column that was decompressed has no place in the file."""
    buffer = pa.py_buffer(_file(SAMPLE_ROWS, compression))
    chunk = warm_chunk.decode(buffer, DIMENSION, 3)
    assert buffer_span(chunk.batch.column("timestamp"), buffer) == (0, 0)


COLUMNS = {
    "space": pa.array([0, 0, 4], pa.uint32()),
    "entity": pa.array([1, 1, 2], pa.uint64()),
    "timestamp": pa.array([-5, 3, 0], pa.int64()),
    "vector": warm_chunk.vector_array(np.zeros((3, DIMENSION), np.float32)),
    "metadata": metadata_array([{}, {}, {}]),
}


def _made(batches: int = 1, schema: pa.Schema | None = None, **other: pa.Array) -> bytes:
    """A file of the right columns, or of others."""
    schema = schema or warm_chunk.schema(DIMENSION)
    batch = pa.RecordBatch.from_arrays(list((COLUMNS | other).values()), schema=schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema) as writer:
        for _ in range(batches):
            writer.write_batch(batch)
    return bytes(sink.getvalue())


def _schema(name: str, type_: pa.DataType, *, nullable: bool = False) -> pa.Schema:
    right = warm_chunk.schema(DIMENSION)
    return right.set(right.get_field_index(name), pa.field(name, type_, nullable=nullable))


NULL_VALUES = pa.array([0.0] * 8 + [None], pa.float32())
NULL_VECTORS = pa.FixedSizeListArray.from_buffers(
    warm_chunk.vector_type(DIMENSION), 3, [None], children=[NULL_VALUES]
)
RENAMED = pa.schema([field.with_name(field.name.upper()) for field in warm_chunk.schema(DIMENSION)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_made(batches=0), "0 record batches"),
        (_made(batches=2), "2 record batches"),
        (_made(schema=RENAMED), "its columns are"),
        (_made(schema=_schema("space", pa.int32()), space=pa.array([0, 0, 4], pa.int32())),
         "its columns are"),
        (_made(schema=_schema("entity", pa.uint64(), nullable=True)), "its columns are"),
        (_made(schema=_schema("timestamp", pa.timestamp("us")),
               timestamp=COLUMNS["timestamp"].cast(pa.timestamp("us"))), "its columns are"),
        (_made(schema=_schema("vector", warm_chunk.vector_type(2)),
               vector=warm_chunk.vector_array(np.zeros((3, 2), np.float32))), "its columns are"),
        (_made(entity=pa.array([1, None, 2], pa.uint64())), "null values"),
        (_made(vector=NULL_VECTORS), "null values"),
        (_made(metadata=pa.array([[], None, []], METADATA_TYPE)), "null values"),
        (_file(dict(list(SAMPLE_ROWS.items())[:2])), "2 rows where the zone map has 3"),
        (b"", "0 bytes are no Arrow file"),
        (b"ARROW1", "6 bytes are no Arrow file"),
        (b"ARROW1\0\0" * 20, "does not end as an Arrow file"),
        (_made()[:-1], "does not end as an Arrow file"),
        (_made()[:-10] + b"\xff\xff\xff\x7fARROW1", "a footer of 2147483647 bytes"),
    ],
)  # fmt: skip
def test_refusals(data: bytes, reason: str) -> None:
    """A file that is no chunk of three rows is refused, and why is told."""
    with pytest.raises(InvalidFormat) as caught:
        warm_chunk.decode(pa.py_buffer(data), DIMENSION, 3)
    assert reason.lower() in (caught.value.reason or "").lower()


def test_more_values_than_rows() -> None:
    """Values behind those of the last row, which Arrow allows, are passed over."""
    values = pa.array(np.arange(10), pa.float32())
    vectors = pa.FixedSizeListArray.from_buffers(
        warm_chunk.vector_type(DIMENSION), 3, [None], children=[values]
    )
    chunk = warm_chunk.decode(pa.py_buffer(_made(vector=vectors)), DIMENSION, 3)
    assert chunk.vectors.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_flip_and_cut(compression: Compression) -> None:
    """Even bytes that nobody checked before are refused or are a chunk of that many rows."""
    data = _file(SAMPLE_ROWS, compression)
    damaged = [flipped for _, flipped in flips(data)]
    damaged += [data[:size] for size in range(len(data))]
    refused = 0
    for some in damaged:
        try:
            chunk = warm_chunk.decode(pa.py_buffer(some), DIMENSION, 3)
        except InvalidFormat:
            refused += 1
            continue
        assert len(chunk.timestamps) == chunk.batch.num_rows == 3
        assert chunk.vectors.shape == (3, DIMENSION)
    assert refused > len(data)


@pytest.mark.parametrize("offsets", [(0, 9, 9, 9), (-1, 0, 0, 1), (0, 0, 0, 1 << 30)])
def test_map_offsets_out_of_range(offsets: tuple[int, ...]) -> None:
    """A map that begins or ends outside of its pairs is refused before it is looked into."""
    data = _made(metadata=metadata_array([{"a": "b"}, {}, {}]))
    right = np.array([0, 1, 1, 1], "<i4").tobytes()
    at = data.rindex(right)
    data = data[:at] + np.array(offsets, "<i4").tobytes() + data[at + len(right) :]
    with pytest.raises(InvalidFormat):
        warm_chunk.decode(pa.py_buffer(data), DIMENSION, 3)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_decompressed_size_is_bounded(
    compression: Compression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would take far more memory than its bytes is refused before it does."""
    some: Rows = {(0, 0, time): (bytes(12), {}) for time in range(5000)}
    data = _file(some, compression)
    size = 5000 * (4 + 8 + 8 + 12) + 5001 * 4
    assert len(data) < size // 2
    monkeypatch.setattr(warm_chunk, "DECOMPRESSED_BYTES_MAX", size + 100)
    assert len(_decoded(data, 5000)) == 5000
    monkeypatch.setattr(warm_chunk, "DECOMPRESSED_BYTES_MAX", size - 1)
    with pytest.raises(InvalidFormat, match="once it is decompressed"):
        warm_chunk.decode(pa.py_buffer(data), DIMENSION, 5000)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Bytes that are no chunk are refused, with Arrow's marks around them, too."""
    for some in (data, b"ARROW1\0\0" + data + b"ARROW1"):
        with pytest.raises(InvalidFormat):
            warm_chunk.decode(pa.py_buffer(some), DIMENSION, 3)
