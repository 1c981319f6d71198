"""The index cache's bytes: round trip, and a cache that is damaged or unfit is none."""

import struct
import zlib
from array import array

from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import fold_index, fold_log
from holdfast.formats.fold_index import FENCE_EVERY, FoldIndex
from holdfast.formats.fold_log import HEADER, HEADER_BYTES, pack_span


def _log(entries: int) -> "tuple[bytes, array[int], int]":
    """A log of puts in key order and a cursor; their spans, and where the last record lies."""
    content, spans = HEADER, array("Q")
    for number in range(entries):
        record = fold_log.encode_put(b"%05d" % number, b"value %d" % number, b"")
        spans.append(pack_span(len(content), len(record)))
        content += record
    return content + fold_log.encode_cursor(b"cursor"), spans, len(content)


def _index(entries: int) -> tuple[FoldIndex, bytes]:
    content, spans, last = _log(entries)
    view = memoryview(spans)
    mark = fold_index.fingerprint(memoryview(content), view, last, len(content))
    assert mark is not None
    fences = [b"%05d" % number for number in range(0, entries, FENCE_EVERY)]
    live = sum(fold_log.unpack_span(span)[1] for span in spans)
    return FoldIndex(len(content), live, last, mark, b"cursor", 77, view, fences), content


def test_layout() -> None:
    """Fields lie where the table says."""
    index, content = _index(40)
    data = fold_index.encode(index)
    assert struct.unpack_from("<4sIQQQQII16sQQ", data) == (
        b"HFIX", 1, len(content), 40, index.live_bytes, index.last_record, index.fingerprint,
        6, b"cursor".ljust(16, b"\0"), 77, 2 * (2 + 5),
    )  # fmt: skip
    assert data[80 : 80 + 8 * 40] == bytes(index.spans.cast("B"))
    assert data[80 + 8 * 40 : -4] == b"\x05\x0000000\x05\x0000032"
    assert struct.unpack_from("<I", data, len(data) - 4) == (zlib.crc32(data[:-4]),)


@given(st.integers(0, 200))
def test_round_trip(entries: int) -> None:
    """What was encoded is decoded."""
    index, _ = _index(entries)
    found = fold_index.decode(fold_index.encode(index))
    assert found == index


def test_damage_is_noticed() -> None:
    """Every flipped bit and every cut makes it no cache."""
    data = fold_index.encode(_index(40)[0])
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        assert fold_index.decode(bytes(damaged)) is None
    for size in range(len(data)):
        assert fold_index.decode(data[:size]) is None
        assert fold_index.decode(data + bytes(size + 1)) is None


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes(data: bytes, sealed: bool) -> None:
    """Nothing raises, not even bytes with a good checksum."""
    if sealed:
        data = b"HFIX\x01\0\0\0" + data
        data += struct.pack("<I", zlib.crc32(data))
    found = fold_index.decode(data)
    assert found is None or sealed


def test_inconsistent_figures_are_refused() -> None:
    """A good checksum over numbers that cannot be is no cache either."""
    index, _ = _index(40)
    good = fold_index.encode(index)
    for offset, form, value in (
        (16, "<Q", 1 << 61),  # entries
        (16, "<Q", 39),
        (44, "<I", 17),  # cursor length
        (72, "<Q", 1 << 60),  # bytes of fences
        (4, "<I", 2),  # version
        (0, "<4s", b"HFIY"),
    ):
        data = bytearray(good[:-4])
        struct.pack_into(form, data, offset, value)
        assert fold_index.decode(bytes(data + struct.pack("<I", zlib.crc32(data)))) is None


def test_fingerprint_binds_to_the_log() -> None:
    """A log that is shorter, or whose sampled records differ, has another fingerprint or none."""
    index, content = _index(40)
    arguments = (index.spans, index.last_record, index.covered)
    assert fold_index.fingerprint(memoryview(content + b"more"), *arguments) == index.fingerprint
    for size in range(len(content)):
        assert fold_index.fingerprint(memoryview(content[:size]), *arguments) is None
    for span in index.spans:
        offset = fold_log.unpack_span(span)[0]
        damaged = content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :]
        assert fold_index.fingerprint(memoryview(damaged), *arguments) != index.fingerprint
    for bit in range(8 * index.last_record, 8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        assert fold_index.fingerprint(memoryview(flipped), *arguments) != index.fingerprint
    for last in (0, HEADER_BYTES - 1, len(content), 1 << 40):
        unfit = (index.spans, last, index.covered)
        assert fold_index.fingerprint(memoryview(content), *unfit) != index.fingerprint
