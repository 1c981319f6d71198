"""The note of a closed index: offsets as documented, and damage never passes for a note."""

import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import iqdb_closing
from holdfast.formats.iqdb_closing import NOTE_BYTES, Closing

U64 = st.integers(0, (1 << 64) - 1)
CLOSINGS = st.builds(Closing, U64, U64, U64, st.integers(0, (1 << 32) - 1))
CLOSING = Closing(42, 1000, 43, 0xC0FFEE)


def test_layout() -> None:
    """Fields lie where the table says."""
    data = iqdb_closing.encode(CLOSING)
    assert data[:8] == b"HFcl\x01\0\0\0"
    assert struct.unpack_from("<QQQII", data, 8) == (42, 1000, 43, 0xC0FFEE, zlib.crc32(data[:36]))
    assert len(data) == NOTE_BYTES


@given(CLOSINGS)
def test_what_is_noted_is_read_back(closing: Closing) -> None:
    """Every note says what it was made of."""
    assert iqdb_closing.decode(iqdb_closing.encode(closing)) == closing


def test_every_flip_and_every_other_length_is_no_note() -> None:
    """A damaged, shortened or longer note says nothing."""
    whole = iqdb_closing.encode(CLOSING)
    for bit in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        assert iqdb_closing.decode(bytes(flipped)) is None
    for length in range(len(whole)):
        assert iqdb_closing.decode(whole[:length]) is None
    assert iqdb_closing.decode(whole + b"\0") is None


def test_another_version_is_no_note() -> None:
    """A whole note of another version or kind is passed over."""
    for head in (b"HFcl\x02\0\0\0", b"HFlg\x01\0\0\0"):
        body = head + iqdb_closing.encode(CLOSING)[8:36]
        assert iqdb_closing.decode(body + zlib.crc32(body).to_bytes(4, "little")) is None
