"""The lock file's content: layout, round trips, and what is no lock file."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.rvf.lock_file import LOCK_BYTES, LockNote, decode_lock, encode_lock

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
ID = st.binary(min_size=16, max_size=16)
NOTE = LockNote(4242, "some-host", 1_700_000_000_000_000_000, b"0123456789abcdef")


def test_layout() -> None:
    """Fields lie where the table says."""
    content = encode_lock(NOTE)
    assert len(content) == LOCK_BYTES == 104
    assert content[:4] == (0x52564C46).to_bytes(4, "little") == b"FLVR"
    assert struct.unpack_from("<I", content, 4) == (4242,)
    assert content[8:72] == b"some-host".ljust(64, b"\0")
    assert struct.unpack_from("<Q16sII", content, 72) == (
        NOTE.time_ns,
        NOTE.writer_id,
        1,
        zlib.crc32(content[:100]),
    )


@given(st.builds(LockNote, U32, st.from_regex(r"[a-z0-9.é-]{0,30}", fullmatch=True), U64, ID))
def test_round_trip(note: LockNote) -> None:
    """What was written is read back, whatever follows."""
    assert decode_lock(encode_lock(note)) == decode_lock(encode_lock(note) + b"more") == note


@pytest.mark.parametrize(
    ("host", "kept"), [("h" * 80, "h" * 62), ("h" * 61 + "é", "h" * 61), ("é" * 50, "é" * 31)]
)
def test_long_host_names(host: str, kept: str) -> None:
    """A host name is cut to 62 bytes, and never within a character."""
    note = decode_lock(encode_lock(NOTE._replace(host=host)))
    assert note is not None
    assert note.host == kept


def test_damage() -> None:
    """Every flipped bit and missing byte is noticed; the original looks at the magic alone."""
    content = encode_lock(NOTE)
    for bit in range(LOCK_BYTES * 8):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        assert decode_lock(damaged) is None
    for size in range(LOCK_BYTES):
        assert decode_lock(content[:size]) is None


def test_a_foreign_file() -> None:
    """Another magic is no lock file, be its checksum right."""
    body = b"LOCK" + encode_lock(NOTE)[4:100]
    assert decode_lock(body + zlib.crc32(body).to_bytes(4, "little")) is None


def test_a_host_name_that_is_no_text() -> None:
    """Bytes that are not UTF-8 are shown as well as can be."""
    body = bytearray(encode_lock(NOTE)[:100])
    body[8:10] = b"\xff\xfe"
    note = decode_lock(bytes(body) + zlib.crc32(body).to_bytes(4, "little"))
    assert note is not None
    assert note.host == "\ufffd\ufffdme-host"


@given(st.binary(max_size=150))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes are, they are no lock file."""
    assert decode_lock(data) is None
