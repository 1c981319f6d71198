"""The notes that a salvage leaves beside a log (.iqdb.wal.trial): which record it is trying.

A class of somebody's own can end the process that gives it a record. Its successor has to know
which record that was, to leave it out. All integers are little-endian; notes of 40 bytes, one after
the other, each for a record::

    offset  size  field
         0    16  boot id of the machine when this was written
        16     8  inode of the log, u64
        24     8  offset of the record in the log, u64
        32     4  how often the record was being tried, u32
        36     4  crc of bytes 0 to 35

Like a ledger's they need no sync, since they tell of the death of processes, not of the machine:
they hold for that log, until the machine starts anew.
"""

import struct
from collections.abc import Iterable
from typing import NamedTuple

from holdfast.formats.checksum import crc32

_NOTE = struct.Struct("<16sQQI")
_CRC = struct.Struct("<I")
NOTE_BYTES = _NOTE.size + _CRC.size
assert NOTE_BYTES == 40


class Tried(NamedTuple):
    """One record, and how often it was being tried."""

    boot_id: bytes
    log_inode: int
    offset: int
    times: int


def encode(notes: Iterable[Tried]) -> bytes:
    """Notes, 40 bytes each."""
    bodies = [_NOTE.pack(*note) for note in notes]
    return b"".join(body + _CRC.pack(crc32(body)) for body in bodies)


def decode(data: bytes) -> list[Tried]:
    """The notes that are whole, in order."""
    notes = []
    for start in range(0, len(data) - NOTE_BYTES + 1, NOTE_BYTES):
        body = data[start : start + _NOTE.size]
        if crc32(body) == _CRC.unpack_from(data, start + _NOTE.size)[0]:
            notes.append(Tried(*_NOTE.unpack(body)))
    return notes
