"""Chunk files decoded in blocks: the same points as one by one, whatever the frames are."""

import struct
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.formats.chronos_chunk import (
    FRAMES_PER_BLOCK,
    Block,
    blocks,
    encode_frame,
    vectors_of,
)
from holdfast.formats.postcard import (
    UndecodablePoint,
    decode_point,
    encode_point,
    locate,
    read_metadata,
)


class Read(NamedTuple):
    """A decoded frame, with all that can be compared."""

    frame_at: int
    entity: int
    timestamp: int
    vector: bytes
    metadata: dict[str, str]
    trailing: int


class Content(NamedTuple):
    """A chunk file, decoded."""

    points: list[Read]
    undecodable: list[int]
    tail_at: int


def one_by_one(data: bytes) -> Content:
    """The frames as the format says, with nothing but the decoder of single points."""
    points, undecodable, at = [], [], 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from("<I", data, at)
        start, end = at + 4, at + 4 + length
        if end > len(data):
            break
        try:
            point = decode_point(data, start, end)
            _, stop = read_metadata(data, locate(data, start, end).metadata_at, end)
        except UndecodablePoint:
            undecodable.append(at)
        else:
            vector = point.vector.tobytes()
            points.append(
                Read(at, point.entity, point.timestamp, vector, point.metadata, end - stop)
            )
        at = end
    return Content(points, undecodable, at)


def all_at_once(data: bytes) -> Content:
    """The same in blocks."""
    points: list[Read] = []
    undecodable: list[int] = []
    stop = 0
    view = memoryview(data)
    for block in blocks(view):
        points += reads_of(view, block)
        for offset, frames, _ in block.undecodable:
            # Only frames of length zero are taken together.
            undecodable += [offset + 4 * number for number in range(frames)]
        stop = block.stop
    return Content(points, undecodable, stop)


def reads_of(view: memoryview, block: Block) -> list[Read]:
    """The points of one block."""
    points = []
    for row in range(len(block.entities)):
        at, end = int(block.metadata_at[row]), int(block.ends[row])
        place, dimension = block.vectors_at[row : row + 1], int(block.dimensions[row])
        points.append(
            Read(
                int(block.frames_at[row]),
                int(block.entities[row]),
                int(block.timestamps[row]),
                vectors_of(view, place, dimension).tobytes(),
                read_metadata(view, at, end)[0] if at else {},
                int(block.trailing[row]),
            )
        )
    return points


# Around the edges of a varint's bytes.
EDGES = sorted({(1 << bits) + d for bits in range(0, 64, 7) for d in (-1, 0)} | {(1 << 64) - 1})
POINTS = st.builds(
    encode_point,
    st.sampled_from(EDGES) | st.integers(0, 300),
    st.sampled_from([sign * (edge >> 1) for edge in EDGES for sign in (1, -1)]),
    st.lists(st.floats(width=32), max_size=5),
    st.just({}) | st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
)
PADDED = st.integers(0, 8).map(lambda more: b"\x81" + b"\x80" * more + b"\x00\x02\x00\x80\x00")
LONG = st.sampled_from(
    [
        b"\xff" * 9 + b"\x02\x02\x00\x00",
        b"\x80" * 10 + b"\x01\x02\x00\x00",
        b"\x01\x02" + b"\x80" * 8 + b"\x40\x00",  # 4 bytes each for 1 << 62 floats: 0 in 64 bits
        b"\x01\x02" + b"\xff" * 9 + b"\x01" + bytes(9),
    ]
)
FRAMES = st.one_of(
    POINTS,
    POINTS,
    PADDED,
    LONG,
    st.builds(lambda point, more: point + more, POINTS, st.binary(min_size=1, max_size=4)),
    st.binary(max_size=12),
    st.integers(0, 40).map(lambda zeros: bytes(4 * zeros)),
).map(encode_frame)


@given(st.lists(FRAMES, max_size=12), st.binary(max_size=9))
def test_all_at_once_is_one_by_one(frames: list[bytes], tail: bytes) -> None:
    """Frames of points, of padded and overlong numbers, of garbage and of zeros come out alike."""
    data = b"".join(frames) + tail
    assert all_at_once(data) == one_by_one(data)


@given(st.lists(FRAMES, min_size=1, max_size=6), st.data())
def test_with_flipped_bits(frames: list[bytes], drawn: st.DataObject) -> None:
    """They come out alike as well when any bits of the file have changed."""
    data = bytearray(b"".join(frames))
    for _ in range(drawn.draw(st.integers(1, 3))):
        bit = drawn.draw(st.integers(0, 8 * len(data) - 1))
        data[bit // 8] ^= 1 << bit % 8
    assert all_at_once(bytes(data)) == one_by_one(bytes(data))


@pytest.mark.parametrize(("dimension", "count"), [(1, 2 * FRAMES_PER_BLOCK + 5), (1000, 3000)])
def test_more_frames_than_a_block_has(dimension: int, count: int) -> None:
    """Blocks follow each other without a gap, whether many frames end them or long ones."""
    vectors = np.arange(count * dimension, dtype=np.float32).reshape(count, dimension)
    frames = [
        encode_frame(encode_point(7, number - 20, vectors[number])) for number in range(count)
    ]
    data = memoryview(b"".join(frames))
    found = list(blocks(data))
    assert len(found) > 2
    assert found[-1].stop == len(data)
    assert not any(block.undecodable for block in found)
    stamps = np.concatenate([block.timestamps for block in found])
    assert np.array_equal(stamps, np.arange(count) - 20)
    read = [vectors_of(data, block.vectors_at, dimension) for block in found]
    assert np.array_equal(np.concatenate(read), vectors)


@pytest.mark.parametrize("dimension", [0, 1, 3, 16_383, 16_384, 20_000])
def test_vectors_of_any_width(dimension: int) -> None:
    """Vectors are read bit for bit in the order asked for, from offsets that nothing aligns."""
    bits = np.random.default_rng(5).integers(0, 1 << 32, (5, dimension), dtype=np.uint32)
    given_: NDArray[np.float32] = bits.view(np.float32)
    data = memoryview(b"".join(encode_frame(encode_point(1, 0, row)) for row in given_))
    (block,) = blocks(data)
    order = np.array([3, 0, 4, 3])
    read = vectors_of(data, block.vectors_at[order], dimension)
    assert read.shape == (4, dimension)
    assert read.tobytes() == given_[order].tobytes()
    assert vectors_of(data, block.vectors_at[:0], dimension).shape == (0, dimension)


@pytest.mark.parametrize("zeros", [4, 7, 8, 1 << 20, (65 << 20) + 3])
def test_a_hole_of_zeros(zeros: int) -> None:
    """Any number of zeros is counted as frames of length zero without a line for each."""
    point = encode_frame(encode_point(1, 2, [1.0]))
    data = memoryview(point + bytes(zeros))
    found = list(blocks(data))
    stretches = [stretch for block in found for stretch in block.undecodable]
    assert stretches[0].offset == len(point)
    assert sum(stretch.frames for stretch in stretches) == zeros // 4
    assert len(stretches) <= 2
    assert len(data) - found[-1].stop == zeros % 4
    assert sum(len(block.entities) for block in found) == 1


def test_a_frame_longer_than_the_file() -> None:
    """A length that the file has no bytes for ends the frames, and costs no memory."""
    point = encode_frame(encode_point(1, 2, [1.0]))
    data = memoryview(point + b"\xff\xff\xff\xff" + point)
    (block,) = blocks(data)
    assert (block.stop, len(block.entities)) == (len(point), 1)
    assert not list(blocks(data[len(point) :]))
    assert not list(blocks(memoryview(b"")))
