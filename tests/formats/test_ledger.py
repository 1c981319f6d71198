"""The ledger's bytes: offsets as documented, and damage never raises or invents a slot."""

import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import ledger
from holdfast.formats.ledger import (
    HEADER_BYTES,
    LEDGER_BYTES,
    SLOT_BYTES,
    LedgerHeader,
    Slot,
    slot_offset,
)
from holdfast.formats.limits import LEDGER_SLOTS

U64 = st.integers(0, (1 << 64) - 1)
SLOTS = st.builds(
    Slot, U64, st.integers(1, (1 << 64) - 1), U64, U64, U64, st.integers(0, (1 << 32) - 1), U64, U64
)
HEADER = LedgerHeader(b"boot id 16 bytes", 42, 1000)


def _file(*slots: Slot) -> bytearray:
    data = bytearray(LEDGER_BYTES)
    header = ledger.encode_header(HEADER)
    data[: len(header)] = header
    for slot in slots:
        offset = slot_offset(slot.sequence)
        data[offset : offset + SLOT_BYTES] = ledger.encode_slot(slot)
    return data


def test_layout() -> None:
    """Fields lie where the table says, each slot within a page."""
    header = ledger.encode_header(HEADER)
    assert header[:8] == b"HFLG\x02\0\0\0"
    assert header[8:24] == HEADER.boot_id
    assert struct.unpack_from("<QQI", header, 24) == (42, 1000, zlib.crc32(header[:40]))
    slot = ledger.encode_slot(Slot(7, 8, 9, 10, 11, 12, 13, 14))
    assert struct.unpack("<QQQQQIQQI", slot) == (*range(7, 15), zlib.crc32(slot[:60]))
    for sequence in (0, 1, 55, 56, LEDGER_SLOTS - 1, LEDGER_SLOTS, LEDGER_SLOTS + 3):
        start = slot_offset(sequence)
        assert HEADER_BYTES <= start <= LEDGER_BYTES - SLOT_BYTES
        assert start // 4096 == (start + SLOT_BYTES - 1) // 4096
    assert slot_offset(LEDGER_SLOTS) == slot_offset(0) == HEADER_BYTES


@given(st.lists(SLOTS, max_size=6, unique_by=lambda slot: slot.sequence % LEDGER_SLOTS))
def test_round_trip(slots: list[Slot]) -> None:
    """What was written is read back, in order of sequence, without regard to its place."""
    assert ledger.decode(bytes(_file(*slots))) == (HEADER, sorted(slots))


def test_every_bit_flip_is_noticed() -> None:
    """A flipped slot is no slot; a flipped header is no ledger; padding does not matter."""
    slot = Slot(3, 1, 2, 30, 40, 50)
    good = _file(slot)
    for bit in range(44 * 8):
        damaged = bytearray(good)
        damaged[bit // 8] ^= 1 << bit % 8
        assert ledger.decode(bytes(damaged)) is None
        damaged = bytearray(good)
        damaged[slot_offset(3) + bit // 8] ^= 1 << bit % 8
        assert ledger.decode(bytes(damaged)) == (HEADER, [])


def test_every_length() -> None:
    """A file cut anywhere has the slots that are whole."""
    slots = [Slot(n, 1, n, 1, 2, 3) for n in range(4)]
    data = bytes(_file(*slots))
    for size in range(HEADER_BYTES + 5 * SLOT_BYTES):
        decoded = ledger.decode(data[:size])
        if size < HEADER_BYTES:
            assert decoded is None
        else:
            assert decoded == (HEADER, slots[: (size - HEADER_BYTES) // SLOT_BYTES])


@given(st.binary(max_size=2000))
def test_any_bytes(data: bytes) -> None:
    """Nothing raises, and nothing that is no ledger is taken for one."""
    assert ledger.decode(data) is None
    assert ledger.decode(bytes(LEDGER_BYTES)) is None


def test_foreign_header_is_refused() -> None:
    """Another magic or version is no ledger, also with a good checksum."""
    for head in (b"HFLX\x02\0\0\0", b"HFLG\x01\0\0\0"):
        data = bytearray(_file())
        data[:8] = head
        struct.pack_into("<I", data, 40, zlib.crc32(data[:40]))
        assert ledger.decode(bytes(data)) is None
