"""Vector segments: layout, round trips, the zero-copy view, and sizes that lie."""

import mmap
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.limits import DIMENSION_MAX
from holdfast.formats.rvf.segment import HEADER_BYTES, PAYLOAD_BYTES_MAX
from holdfast.formats.rvf.vec import (
    ALIGNMENT_OF_HEADER,
    check_vec,
    encode_vec,
    padding_before,
    rows_per_segment,
    vec_payload_bytes,
    view_rows,
)

SHAPES = st.tuples(st.integers(0, 6), st.integers(1, 9))


def _rows(shape: tuple[int, int], seed: int) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Ids and vectors of any bits at all, so NaN among them."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 1 << 64, shape[0], np.uint64, endpoint=False)
    return ids, rng.integers(0, 1 << 32, shape, np.uint32, endpoint=False).view(np.float32)


def _bits(vectors: NDArray[np.float32]) -> list[list[int]]:
    bits: list[list[int]] = np.ascontiguousarray(vectors).view(np.uint32).tolist()
    return bits


def test_layout() -> None:
    """Fields lie where the table says."""
    ids = np.array([5, (1 << 64) - 1], np.uint64)
    vectors = np.array([[1, 2, 3], [-1, 0.5, np.inf]], np.float32)
    payload = encode_vec(ids, vectors)
    assert struct.unpack_from("<HI", payload) == (3, 2)
    assert struct.unpack_from("<Q3f", payload, 6) == (5, 1, 2, 3)
    assert struct.unpack_from("<Q3f", payload, 26) == ((1 << 64) - 1, -1, 0.5, np.inf)
    assert len(payload) == 46 == vec_payload_bytes(2, 3)


@given(SHAPES, st.integers(0, 1 << 32), st.integers(0, 7))
def test_round_trip(shape: tuple[int, int], seed: int, before: int) -> None:
    """Every bit comes back, wherever the payload lies; only aligned floats are not copied."""
    ids, vectors = _rows(shape, seed)
    payload = encode_vec(ids, vectors)
    assert check_vec(payload) == shape[::-1]
    buffer = np.zeros(len(payload) + before, np.uint8)
    buffer[before:] = np.frombuffer(payload, np.uint8)
    found_ids, found = view_rows(buffer.data[before:])
    assert found_ids.tolist() == ids.tolist()
    assert _bits(found) == _bits(vectors)
    assert found.shape == shape
    assert (found_ids.dtype.str, found.dtype.str) == ("<u8", "<f4")
    assert found_ids.flags.c_contiguous
    assert found_ids.flags.aligned
    assert found.flags.aligned
    if shape[0]:
        aligned = (buffer.ctypes.data + before + 14) % 4 == 0
        assert np.shares_memory(found, buffer) == aligned
        assert not np.shares_memory(found_ids, buffer)


def test_inputs_of_any_layout() -> None:
    """Columns of a larger array, and views that step backwards, are written like copies of them."""
    ids, vectors = _rows((12, 8), 1)
    for rows, part in [(ids[::-2], vectors[::-2, 1:4]), (ids[:8], vectors.T[:, :5])]:
        assert encode_vec(rows, part) == encode_vec(rows.copy(), np.ascontiguousarray(part))


def test_room_that_is_given() -> None:
    """The payload fills the room it is given, whatever that held before."""
    ids, vectors = _rows((5, 3), 2)
    room = memoryview(bytearray(b"\xff" * vec_payload_bytes(5, 3)))
    assert encode_vec(ids, vectors, room) is room
    assert room == encode_vec(ids, vectors)


@given(st.integers(0, 1 << 40))
def test_padding(offset: int) -> None:
    """A header behind the padding has the offset whose vectors are aligned."""
    padding = padding_before(offset)
    assert 0 <= padding < 4
    assert (offset + padding) % 4 == ALIGNMENT_OF_HEADER
    assert (offset + padding + HEADER_BYTES + 14) % 4 == 0


def test_a_mapped_file_is_read_in_place(tmp_path: Path) -> None:
    """Behind its padding, a segment of a mapped file gives vectors that are the map itself."""
    ids, vectors = _rows((5, 3), 7)
    path = tmp_path / "file"
    for start in range(162, 166):
        header_at = start + padding_before(start)
        path.write_bytes(bytes(header_at + HEADER_BYTES) + encode_vec(ids, vectors))
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = view_rows(memoryview(mapped)[header_at + HEADER_BYTES :])[1]
        assert np.shares_memory(found, np.frombuffer(mapped, np.uint8))
        assert not found.flags.writeable
        assert _bits(found) == _bits(vectors)


def test_rows_per_segment() -> None:
    """As many rows as a reader of the original takes, and not one more."""
    for dimension in (1, 2, 8, 384, 1536, DIMENSION_MAX):
        rows = rows_per_segment(dimension)
        assert vec_payload_bytes(rows, dimension) <= PAYLOAD_BYTES_MAX
        assert vec_payload_bytes(rows + 1, dimension) > PAYLOAD_BYTES_MAX
    rows = rows_per_segment(DIMENSION_MAX) + 1
    too_many = np.broadcast_to(np.float32(0), (rows, DIMENSION_MAX))  # takes no memory
    with pytest.raises(LimitExceeded, match=f"{rows} rows .* limit of {rows - 1}"):
        encode_vec(np.zeros(rows, np.uint64), too_many)


@pytest.mark.parametrize("dimension", [0, DIMENSION_MAX + 1])
def test_dimensions_out_of_range(dimension: int) -> None:
    """A dimension that the field cannot hold, or none, is refused."""
    with pytest.raises(LimitExceeded, match=f"dimension {dimension}"):
        encode_vec(np.zeros(1, np.uint64), np.zeros((1, dimension), np.float32))


def test_shapes_that_do_not_match() -> None:
    """Ids and vectors have to be equally many, and vectors a table."""
    for vectors in (np.zeros((3, 2), np.float32), np.zeros(2, np.float32)):
        with pytest.raises(InvalidArgument, match="do not go with"):
            encode_vec(np.zeros(2, np.uint64), vectors)


def test_every_length() -> None:
    """A payload shorter than it says is refused, where the original silently passes over it."""
    payload = bytes(encode_vec(*_rows((3, 2), 3)))
    for size in range(len(payload)):
        with pytest.raises(InvalidFormat, match=f"{size} bytes"):
            check_vec(payload[:size])
        with pytest.raises(InvalidFormat):
            view_rows(payload[:size])
    longer = view_rows(payload + b"tail")
    assert _bits(longer[1]) == _bits(view_rows(payload)[1])


def test_counts_that_lie() -> None:
    """The largest count and dimension cost nothing."""
    with pytest.raises(InvalidFormat, match="4294967295 rows of dimension 65535"):
        view_rows(b"\xff" * 6 + bytes(100))
    with pytest.raises(InvalidFormat, match="dimension 0"):
        view_rows(bytes(100))


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes are, they are rows or raise InvalidFormat."""
    try:
        ids, vectors = view_rows(data)
    except InvalidFormat:
        return
    assert len(ids) == len(vectors)
