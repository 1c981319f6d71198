"""The notes of a salvage: offsets as documented, and damage never passes for a note."""

import struct
import zlib

from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import iqdb_trial
from holdfast.formats.iqdb_trial import NOTE_BYTES, Tried

U64 = st.integers(0, (1 << 64) - 1)
NOTES = st.builds(
    Tried, st.binary(min_size=16, max_size=16), U64, U64, st.integers(0, (1 << 32) - 1)
)
NOTE = Tried(bytes(range(16)), 42, 1000, 2)


def test_layout() -> None:
    """Fields lie where the table says, note behind note."""
    data = iqdb_trial.encode([NOTE, NOTE])
    assert data[:16] == bytes(range(16))
    assert struct.unpack_from("<QQII", data, 16) == (42, 1000, 2, zlib.crc32(data[:36]))
    assert data == data[:NOTE_BYTES] * 2


@given(st.lists(NOTES, max_size=5))
def test_what_is_noted_is_read_back(notes: list[Tried]) -> None:
    """All notes are read back in their order."""
    assert iqdb_trial.decode(iqdb_trial.encode(notes)) == notes


def test_a_damaged_note_is_passed_over() -> None:
    """Of three notes, one that is damaged or cut short is none, and the others still count."""
    whole = iqdb_trial.encode([NOTE._replace(times=number) for number in range(3)])
    for bit in range(8 * NOTE_BYTES):
        flipped = bytearray(whole)
        flipped[NOTE_BYTES + bit // 8] ^= 1 << bit % 8
        assert [note.times for note in iqdb_trial.decode(bytes(flipped))] == [0, 2]
    for length in range(len(whole)):
        assert len(iqdb_trial.decode(whole[:length])) == length // NOTE_BYTES
