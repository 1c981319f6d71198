"""A chunk file of the original's warm tier: frames up to its end, and nothing around them.

::

    size  frame
       4  length L of the point, u32, little-endian
       L  the point (see postcard)

There is no magic, count or checksum. Points lie in the order they were written in, whatever their
timestamps; the file's name has the space, its directory's name the entity (see chronos_names).

A file that was cut ends in bytes that are no whole frame. A length that was changed puts every
frame behind it out of step, which shows as frames that are no points, as bytes behind a point
within its frame (the original writes none), or as a frame beyond the end of the file. Changed bytes
of a vector do not show at all.

Frames are decoded in blocks, all points of a block at once; ``postcard`` decodes one point at a
time, and has the last word on each that is out of the ordinary.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.postcard import (
    FLOAT_BYTES,
    VARINT_BITS_MAX,
    UndecodablePoint,
    decode_point,
    read_metadata,
)
from holdfast.formats.rvf.scan import skip_zeros

LENGTH_BYTES = 4
FRAMES_PER_BLOCK = 16_384
_BLOCK_BYTES = 4 << 20
_ZEROS_PER_BLOCK = 64 << 20
# Rows below this are copied by one call, which does not take rows of 2 GiB.
_WIDE_BYTES_MIN = 64 << 10
_LENGTH = struct.Struct("<I")

Offsets = NDArray[np.int64]
_Bytes = NDArray[np.uint8]


def encode_frame(point: bytes) -> bytes:
    """An encoded point as a frame."""
    return _LENGTH.pack(len(point)) + point


class Undecodable(NamedTuple):
    """Consecutive frames that hold no point. ``offset`` is that of the first one's length."""

    offset: int
    frames: int
    reason: str


@dataclass(frozen=True, slots=True)
class Block:
    """Consecutive whole frames of a chunk file: n of them decoded, in the file's order.

    All offsets are in the file, and in bytes.
    """

    stop: int
    """Where the last frame ends."""
    undecodable: list[Undecodable]
    frames_at: Offsets
    """(n,) Where each frame's length is."""
    entities: NDArray[np.uint64]
    """(n,)"""
    timestamps: NDArray[np.int64]
    """(n,) Microseconds."""
    dimensions: Offsets
    """(n,) How many floats each vector has; ``vectors_of`` reads them."""
    vectors_at: Offsets
    """(n,) Where each vector begins."""
    metadata_at: Offsets
    """(n,) Where ``postcard.read_metadata`` finds the pairs; zero when there are none."""
    ends: Offsets
    """(n,) Where each frame ends."""
    trailing: Offsets
    """(n,) How many bytes of the frame lie behind its point."""


def blocks(data: memoryview) -> Iterator[Block]:
    """The frames of a chunk file. What lies behind the last block's ``stop`` is no whole frame."""
    at = 0
    while True:
        walked = _walk(data, at)
        if walked.stop == at:
            return
        yield _decode(data, walked)
        at = walked.stop


def vectors_of(data: memoryview, vectors_at: Offsets, dimension: int) -> NDArray[np.float32]:
    """The vectors at these offsets, (n, dimension) float32, copied out of the file."""
    count, width = len(vectors_at), FLOAT_BYTES * dimension
    if width < _WIDE_BYTES_MIN:
        if not count or not width:
            return np.empty((count, dimension), np.float32)
        # Every place in the file as a row that begins there: rows are picked, not bytes.
        rows = np.ndarray((len(data) - width + 1,), f"V{width}", data, strides=(1,))
        return rows[vectors_at].view("<f4").reshape(count, dimension).astype(np.float32, copy=False)
    vectors = np.empty((count, dimension), np.float32)
    for row, at in enumerate(vectors_at.tolist()):
        vectors[row] = np.frombuffer(data, "<f4", dimension, at)
    return vectors


# --- one block ---------------------------------------------------------------------------------


class _Walked(NamedTuple):
    """Frames by where their points begin and end; and those that are nothing but zeros."""

    stop: int
    starts: list[int]
    ends: list[int]
    empty: list[Undecodable]


def _walk(data: memoryview, at: int) -> _Walked:
    """The whole frames from ``at`` on, of a few MiB in all or else one."""
    size, first = len(data), at
    starts: list[int] = []
    ends: list[int] = []
    empty: list[Undecodable] = []
    while at + LENGTH_BYTES <= size and at - first < _BLOCK_BYTES:
        (length,) = _LENGTH.unpack_from(data, at)
        if not length:
            # A hole that a power loss left may be a gigabyte of frames of length zero.
            zeros = skip_zeros(data[: at + _ZEROS_PER_BLOCK], at) - at
            empty.append(Undecodable(at, zeros // LENGTH_BYTES, "a frame of length zero"))
            at += zeros // LENGTH_BYTES * LENGTH_BYTES
            continue
        start = at + LENGTH_BYTES
        if length > size - start:
            break
        at = start + length
        starts.append(start)
        ends.append(at)
        if len(starts) == FRAMES_PER_BLOCK:
            break
    return _Walked(at, starts, ends, empty)


def _decode(data: memoryview, walked: _Walked) -> Block:
    starts, ends = np.array(walked.starts, np.int64), np.array(walked.ends, np.int64)
    read = _Varints(np.frombuffer(data, np.uint8), starts, ends)
    entities = read.next()
    zigzag = read.next()
    counts = read.next()
    read.good &= counts <= ((ends - read.at) // FLOAT_BYTES).astype(np.uint64)
    dimensions = np.where(read.good, counts, 0).astype(np.int64)
    vectors_at = read.at.copy()
    read.at += FLOAT_BYTES * dimensions
    metadata_at = read.at.copy()
    has_metadata = read.next() > 0
    stops = read.at

    undecodable = walked.empty
    for row in np.flatnonzero(~read.good | has_metadata).tolist():
        try:
            if not read.good[row]:
                decode_point(data, walked.starts[row], walked.ends[row])
                raise AssertionError("one by one and all at once, the same bytes are points")
            _, stops[row] = read_metadata(data, int(metadata_at[row]), walked.ends[row])
        except UndecodablePoint as error:
            read.good[row] = False
            place = walked.starts[row] - LENGTH_BYTES
            reason = f"a frame that is no point: {error.reason}, at offset {error.offset}"
            undecodable.append(Undecodable(place, 1, reason))

    good = read.good
    return Block(
        stop=walked.stop,
        undecodable=sorted(undecodable),
        frames_at=starts[good] - LENGTH_BYTES,
        entities=entities[good],
        timestamps=_signed(zigzag[good]),
        dimensions=dimensions[good],
        vectors_at=vectors_at[good],
        metadata_at=np.where(has_metadata, metadata_at, 0)[good],
        ends=ends[good],
        trailing=(ends - stops)[good],
    )


class _Varints:
    """Reads one varint after another from many places at once.

    ``at``, (n,), is where each of them is; ``good``, (n,), whether all it read so far were varints.
    """

    def __init__(self, data: _Bytes, starts: Offsets, ends: Offsets) -> None:
        self._data = data
        self._ends = ends
        self.at = starts.copy()
        self.good = np.ones(len(starts), np.bool_)

    def next(self) -> NDArray[np.uint64]:
        """The next value of each, (n,) uint64; meaningless for those that are not ``good``."""
        values = np.zeros(len(self.at), np.uint64)
        more = self.good.copy()
        last = max(0, len(self._data) - 1)
        for shift in range(0, VARINT_BITS_MAX, 7):
            self.good &= ~more | (self.at < self._ends)
            more &= self.good
            byte = np.where(more, self._data[np.minimum(self.at, last)], 0)
            values |= (byte & 0x7F).astype(np.uint64) << np.uint64(shift)
            self.at += more
            if shift + 7 > VARINT_BITS_MAX:
                self.good &= byte >> (VARINT_BITS_MAX - shift) == 0
            more &= byte >= 0x80
            if not more.any():
                break
        return values


def _signed(zigzag: NDArray[np.uint64]) -> NDArray[np.int64]:
    one = np.uint64(1)
    return ((zigzag >> one) ^ (np.uint64(0) - (zigzag & one))).view(np.int64)
