"""Files of dead rows: both forms, and that no damage, exchange or contradiction is believed."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import dead_rows
from holdfast.formats.errors import InvalidFormat
from tests.formats.warm_samples import STORE_ID, flips

BITMAP, NUMBERS = 0, 1


def _mask(rows: int, *dead: int) -> dead_rows.Mask:
    mask = np.zeros(rows, np.bool_)
    mask[list(dead)] = True
    return mask


def _file(form: int, rows: int, dead: int, body: bytes, **other: int | bytes) -> bytes:
    """A file as the table has it; ``other`` overrides fields of its head."""
    data = struct.pack(
        "<8sII16sQQQ", other.get("magic", b"HFWDEAD\0"), other.get("version", 1), form,
        other.get("store", STORE_ID), other.get("chunk", 7), rows, dead,
    ) + body  # fmt: skip
    return data + struct.pack("<I", zlib.crc32(data))


def _decoded(data: bytes, rows: int = 80) -> list[int]:
    mask = dead_rows.decode(data, STORE_ID, 7, rows)
    assert mask.dtype == np.bool_
    assert len(mask) == rows
    return np.flatnonzero(mask).tolist()


def test_layout() -> None:
    """Both forms lie as the table says."""
    numbers = struct.pack("<II", 3, 79)
    assert dead_rows.encode(STORE_ID, 7, _mask(80, 3, 79)) == _file(NUMBERS, 80, 2, numbers)
    bits = bytes([0b1001, 0, 0b10])
    assert dead_rows.encode(STORE_ID, 7, _mask(20, 0, 3, 17)) == _file(BITMAP, 20, 3, bits)


@given(st.integers(1, 300).flatmap(
    lambda rows: st.tuples(st.just(rows), st.sets(st.integers(0, rows - 1)))
))  # fmt: skip
def test_round_trip_in_the_shorter_form(case: tuple[int, set[int]]) -> None:
    """What was encoded is decoded, and takes no more bytes than the other form would."""
    rows, dead = case
    data = dead_rows.encode(STORE_ID, 7, _mask(rows, *dead))
    assert _decoded(data, rows) == sorted(dead)
    assert len(data) == 60 + min(4 * len(dead), -(-rows // 8))


@pytest.mark.parametrize("mask", [_mask(80, 3, 79), _mask(20, 0, 3, 17)])
def test_every_flip_and_cut(mask: dead_rows.Mask) -> None:
    """Every damage is refused, of the numbers and of the bitmap."""
    data = dead_rows.encode(STORE_ID, 7, mask)
    damaged = [flipped for _, flipped in flips(data)]
    damaged += [data[:size] for size in range(len(data))]
    damaged += [data + bytes(size) for size in range(1, 70)]
    for some in damaged:
        with pytest.raises(InvalidFormat) as caught:
            dead_rows.decode(some, STORE_ID, 7, len(mask))
        assert caught.value.offset == 0
        assert caught.value.reason


def _numbers(*numbers: int) -> bytes:
    return np.array(numbers, "<u4").tobytes()


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (_file(NUMBERS, 80, 1, _numbers(3), magic=b"HFWDEAD\1"), 0, "magic"),
        (_file(NUMBERS, 80, 1, _numbers(3), version=2), 0, "version 2"),
        (_file(2, 80, 1, _numbers(3)), 0, "form 2"),
        (_file(NUMBERS, 80, 1, _numbers(3), store=bytes(16)), 16, "another file or store"),
        (_file(NUMBERS, 80, 1, _numbers(3), chunk=8), 16, "chunk 8"),
        (_file(NUMBERS, 81, 1, _numbers(3)), 16, "81 rows"),
        (_file(NUMBERS, (1 << 64) - 1, 1, _numbers(3)), 16, "rows"),
        (_file(NUMBERS, 80, 2, _numbers(3)), 56, "4 bytes for 2"),
        (_file(NUMBERS, 80, 1, _numbers(3, 4)), 56, "8 bytes for 1"),
        (_file(NUMBERS, 80, (1 << 64) - 1, _numbers(3)), 56, "bytes for"),
        (_file(NUMBERS, 80, 1, _numbers(80)), 56, "out of range"),
        (_file(NUMBERS, 80, 1, _numbers((1 << 32) - 1)), 56, "out of range"),
        (_file(NUMBERS, 80, 2, _numbers(4, 3)), 56, "out of order"),
        (_file(NUMBERS, 80, 2, _numbers(3, 3)), 56, "out of order"),
        (_file(BITMAP, 80, 1, bytes(9)), 56, "9 bytes"),
        (_file(BITMAP, 80, 1, bytes(11)), 56, "11 bytes"),
        (_file(BITMAP, 80, 1, bytes(10)), 48, "0 rows where 1 are announced"),
        (_file(BITMAP, 80, 7, b"\xff" + bytes(9)), 48, "8 rows where 7 are announced"),
    ],
)
def test_contradictions(data: bytes, offset: int, reason: str) -> None:
    """Numbers that cannot be are refused though the checksum holds, with their place."""
    with pytest.raises(InvalidFormat) as caught:
        _decoded(data)
    assert caught.value.offset == offset
    assert reason in (caught.value.reason or "")


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes(data: bytes, sealed: bool) -> None:
    """Bytes that are not such a file are refused, with a good checksum, too."""
    if sealed:
        data += struct.pack("<I", zlib.crc32(data))
    with pytest.raises(InvalidFormat):
        _decoded(data)
