"""The frame's header: round trip, and bytes that are none are refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import ProtocolError
from holdfast.formats.frame import (
    HEADER_BYTES,
    FrameHeader,
    FrameKind,
    decode_header,
    encode_header,
)
from holdfast.formats.limits import FRAME_BODY_BYTES_MAX


def _encoded(header: FrameHeader) -> bytes:
    return encode_header(
        header.kind,
        header.body_bytes,
        header.request,
        deadline=header.deadline,
    )


HEADERS = st.builds(
    FrameHeader,
    st.sampled_from(FrameKind),
    st.integers(0, FRAME_BODY_BYTES_MAX),
    st.integers(0, (1 << 64) - 1),
    st.floats(0, 1e12),
)


@given(HEADERS, st.binary(max_size=9))
def test_round_trip(header: FrameHeader, before: bytes) -> None:
    """What was encoded is decoded, at any offset."""
    assert decode_header(before + _encoded(header), len(before)) == header


def test_layout() -> None:
    """Fields lie where the table says."""
    header = FrameHeader(FrameKind.PROGRESS, 5, 6, 7.5)
    assert struct.unpack("<2sBBIQd", _encoded(header)) == (b"HF", 1, 4, 5, 6, 7.5)


@pytest.mark.parametrize(
    ("offset", "byte"), [(0, 0), (1, 0x47), (2, 0), (2, 2), (3, 0), (3, 5), (3, 255)]
)
def test_foreign_headers(offset: int, byte: int) -> None:
    """Magic, version and kind are checked."""
    data = bytearray(_encoded(FrameHeader(FrameKind.REQUEST, 1, 2, 0.0)))
    data[offset] = byte
    with pytest.raises(ProtocolError):
        decode_header(data)


def test_the_length_is_bounded() -> None:
    """A length over its limit condemns the frame before anything is read."""
    data = _encoded(FrameHeader(FrameKind.REPLY, FRAME_BODY_BYTES_MAX + 1, 1, 0.0))
    with pytest.raises(ProtocolError, match="over the limit of"):
        decode_header(data)


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_any_bytes(data: bytes) -> None:
    """24 bytes are a header or a protocol error, nothing else."""
    try:
        header = decode_header(data)
    except ProtocolError:
        return
    assert header.body_bytes <= FRAME_BODY_BYTES_MAX
