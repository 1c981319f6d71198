"""Segment headers: offsets as documented, the four-fold hash, and no exception for any bytes."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import LimitExceeded
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    MAGIC,
    NO_HASH,
    PAYLOAD_BYTES_MAX,
    SegmentHeader,
    SegmentType,
    content_hash,
    decode_header,
    encode_header,
    hash_of_crc,
    is_intact,
    is_unverifiable,
    type_name,
)

U64 = st.integers(0, (1 << 64) - 1)


def test_layout() -> None:
    """Fields lie where the table says and everything else is zero."""
    hashed = bytes(range(100, 116))
    header = encode_header(SegmentType.VEC, 7, 1000, hashed, timestamp_ns=9)
    assert len(header) == HEADER_BYTES
    assert header[:8] == b"SFVR\x01\x01\0\0"
    assert struct.unpack_from("<QQQ", header, 8) == (7, 1000, 9)
    assert header[32:40] == bytes(8)
    assert header[40:56] == hashed
    assert header[56:] == bytes(8)
    assert int.from_bytes(MAGIC, "little") == 0x52564653


@given(st.binary(max_size=200))
def test_content_hash(payload: bytes) -> None:
    """The hash is zlib's CRC-32 and its rotations by one, two and three bytes."""
    crc = zlib.crc32(payload)
    words = struct.unpack("<4I", content_hash(payload))
    assert words[0] == crc
    for word, bits in zip(words[1:], (8, 16, 24), strict=True):
        assert word == (crc << bits | crc >> 32 - bits) & 0xFFFFFFFF
    assert hash_of_crc(zlib.crc32(payload[5:], zlib.crc32(payload[:5]))) == content_hash(payload)


@given(
    kind=st.integers(0, 255),
    segment_id=U64,
    payload_bytes=st.integers(0, PAYLOAD_BYTES_MAX),
    hashed=st.binary(min_size=16, max_size=16),
    timestamp_ns=U64,
    before=st.integers(0, 9),
)
def test_round_trip(
    kind: int, segment_id: int, payload_bytes: int, hashed: bytes, timestamp_ns: int, before: int
) -> None:
    """What was written is read back, wherever it lies."""
    data = encode_header(kind, segment_id, payload_bytes, hashed, timestamp_ns=timestamp_ns)
    expected = SegmentHeader(1, kind, 0, segment_id, payload_bytes, timestamp_ns, hashed)
    assert decode_header(bytes(before) + data, before) == expected
    assert decode_header(memoryview(data)) == expected


def test_a_header_that_is_none() -> None:
    """Fewer than 64 bytes, or another magic, is no header."""
    data = encode_header(1, 1, 0, NO_HASH)
    for size in range(HEADER_BYTES):
        assert decode_header(data[:size]) is None
        assert decode_header(data, size + 1) is None
    for bit in range(32):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_header(damaged) is None


def test_versions_and_flags_are_handed_out() -> None:
    """The original reads headers of any version and with any flags, so they are no error."""
    data = bytearray(encode_header(1, 1, 0, NO_HASH))
    data[4], data[6:8] = 9, b"\x08\x80"
    header = decode_header(data)
    assert header is not None
    assert (header.version, header.flags) == (9, 0x8008)


@given(st.binary(max_size=200), st.integers(0, 210))
def test_any_bytes(data: bytes, offset: int) -> None:
    """Nothing raises, whatever the bytes are."""
    decode_header(data, offset)
    decode_header(MAGIC + data, 0)


@given(st.binary(min_size=1, max_size=50), st.data())
def test_intact(payload: bytes, data: st.DataObject) -> None:
    """A payload is intact with its own hash and length, and with nothing else."""
    header = decode_header(encode_header(1, 1, len(payload), content_hash(payload)))
    assert header is not None
    assert is_intact(header, payload)
    assert not is_intact(header, payload[:-1])
    assert not is_intact(header, payload + b"\0")
    damaged = bytearray(payload)
    damaged[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not is_intact(header, damaged)
    for place in range(16):  # each of the four copies counts
        wrong = bytearray(header.content_hash)
        wrong[place] ^= 1
        assert not is_intact(header._replace(content_hash=bytes(wrong)), payload)


def test_no_hash() -> None:
    """Sixteen zeros say nothing about a payload; about an empty one nothing is to be said."""
    some = SegmentHeader(1, 1, 0, 1, 3, 0, NO_HASH)
    assert is_unverifiable(some)
    assert not is_intact(some, b"abc")
    empty = some._replace(payload_bytes=0)
    assert not is_unverifiable(empty)
    assert is_intact(empty, b"")
    assert not is_unverifiable(some._replace(content_hash=content_hash(b"abc")))


def test_limit() -> None:
    """A payload that the original could write but never read again is refused, by length."""
    encode_header(1, 1, PAYLOAD_BYTES_MAX, NO_HASH)
    with pytest.raises(LimitExceeded, match=f"vec .* {PAYLOAD_BYTES_MAX + 1} .* {1 << 28}"):
        encode_header(1, 1, PAYLOAD_BYTES_MAX + 1, NO_HASH)


def test_names() -> None:
    """Every number has a name, the known ones their own."""
    assert type_name(SegmentType.VEC) == "vec"
    assert type_name(0x0D) == "meta_idx"
    assert type_name(0x20) == "cow_map"
    assert type_name(0xF1) == "store"
    assert type_name(0x40) == "unknown_0x40"
    assert len({type_name(number) for number in range(256)}) == 256
