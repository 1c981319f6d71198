"""Points as columns, and their metadata as bytes: round trips, and what is no column of them."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.points import (
    METADATA_TYPE,
    check_metadata,
    concatenated,
    metadata_array,
    metadata_from_ipc,
    metadata_to_ipc,
    rows_of_metadata,
)
from holdfast.formats.tables import table_to_ipc
from tests.formats.warm_samples import METADATA, Rows, flips, points_of, rows, rows_in


@given(st.lists(st.one_of(st.none(), METADATA)))
def test_metadata_round_trip(maps: list[dict[str, str] | None]) -> None:
    """Maps of text survive as bytes, an absent one as an empty one."""
    column = metadata_array(maps)
    found = metadata_from_ipc(memoryview(metadata_to_ipc(column)), len(maps))
    assert found is not None
    assert found.type == METADATA_TYPE
    assert rows_of_metadata(found, len(maps)) == [one or {} for one in maps]


def test_no_metadata_are_no_bytes() -> None:
    """Rows without metadata cost nothing, and come back as empty maps."""
    assert metadata_to_ipc(None) == b""
    assert metadata_from_ipc(memoryview(b""), 5) is None
    assert rows_of_metadata(None, 2) == [{}, {}]


def test_last_of_equal_keys_counts() -> None:
    """A map that repeats a key is read with its last value."""
    column = pa.array([[("a", "1"), ("b", "2"), ("a", "3")]], METADATA_TYPE)
    assert rows_of_metadata(column, 1) == [{"a": "3", "b": "2"}]


@given(rows(), st.data())
def test_slices_and_orders(some: Rows, data: st.DataObject) -> None:
    """Slices and reordered points hold what slices and reordered rows do."""
    points = points_of(some)
    order = data.draw(st.permutations(range(len(some))))
    taken = points.take(np.array(order, np.int64))
    items = list(some.items())
    assert list(rows_in(taken).items()) == [items[n] for n in order]
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(some))] * 2)))
    assert list(rows_in(points.slice(start, stop)).items()) == items[start:stop]


@given(rows(), st.lists(st.integers(0, 12), max_size=4))
def test_concatenated_parts_are_the_whole(some: Rows, cuts: list[int]) -> None:
    """Cut anywhere and put together again, with and without metadata, points are the same."""
    edges = [0, *sorted(min(cut, len(some)) for cut in cuts), len(some)]
    items = list(some.items())
    parts = [points_of(dict(items[low:high])) for low, high in itertools.pairwise(edges)]
    assert rows_in(concatenated(parts)) == some


def _stream(**columns: pa.Array) -> bytes:
    return table_to_ipc(pa.table(columns))


GOOD = metadata_array([{"a": "1"}, {}, {"ü": "", "b": "2"}])
TEXTS = pa.array(["a", "b"])


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (_stream(other=GOOD), "not a column of metadata"),
        (_stream(metadata=GOOD, more=GOOD), "not a column of metadata"),
        (_stream(metadata=TEXTS), "not a column of metadata"),
        (_stream(metadata=pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))),
         "not a column of metadata"),
        (_stream(metadata=GOOD.cast(pa.map_(pa.string(), pa.large_string()))),
         "not a column of metadata"),
        (_stream(metadata=pa.array([[], None, []], METADATA_TYPE)), "null in metadata"),
        (_stream(metadata=pa.array([[], [("a", None)], []], METADATA_TYPE)), "null in metadata"),
        (_stream(metadata=GOOD.slice(1)), "rows do not agree"),
        (_stream(metadata=pa.array([], METADATA_TYPE)), "rows do not agree"),
        (b"not a stream", "not an Arrow IPC stream"),
    ],
)  # fmt: skip
def test_refusals(stream: bytes, reason: str) -> None:
    """What is no column of metadata of three rows is refused, and why is told."""
    with pytest.raises(InvalidFormat) as caught:
        metadata_from_ipc(memoryview(stream), 3)
    assert caught.value.reason == reason


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_metadata(compression: str) -> None:
    """A stream that could take more memory than it has bytes is refused."""
    table = pa.table({"metadata": metadata_array([{"a": "x" * 10_000}])})
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(InvalidFormat) as caught:
        metadata_from_ipc(memoryview(sink.getvalue().to_pybytes()), 1)
    assert caught.value.reason == "not an Arrow IPC stream"


def test_several_batches() -> None:
    """A stream of several batches, empty ones among them, is one column."""
    table = pa.table({"metadata": pa.chunked_array([GOOD.slice(0, 1), GOOD[:0], GOOD.slice(1)])})
    found = metadata_from_ipc(memoryview(table_to_ipc(table)), 3)
    assert rows_of_metadata(found, 3) == rows_of_metadata(GOOD, 3)


def test_every_flip_and_cut() -> None:
    """Whatever a stream's bytes become, it is refused or is a column of that many texts."""
    stream = metadata_to_ipc(GOOD)
    damaged = [data for _, data in flips(stream)]
    damaged += [stream[:size] for size in range(1, len(stream))]
    refused = 0
    for data in damaged:
        try:
            found = metadata_from_ipc(memoryview(data), 3)
        except InvalidFormat:
            refused += 1
            continue
        assert found is not None
        check_metadata(found)
        for row in rows_of_metadata(found, 3):
            assert all(isinstance(text, str) for pair in row.items() for text in pair)
    assert refused > len(damaged) // 2
