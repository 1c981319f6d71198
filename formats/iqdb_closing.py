"""The note a closed index leaves beside its log (.iqdb.wal.closed): how long the log was.

Neither format tells how long a log should be, and a last record that is damaged or cut away looks
like one a crash left. A crash leaves a ledger, which knows what was synced; a clean close leaves
this. All integers are little-endian; 40 bytes::

    offset  size  field
         0     4  magic "HFcl"
         4     4  format version, u32, 1
         8     8  inode of the log, u64
        16     8  length of the log, u64: all of it was synced
        24     8  inode of the snapshot, u64
        32     4  crc field of the snapshot's header, u32
        36     4  crc of bytes 0 to 35

It holds for that log beside that snapshot only. Other programs may append to the log; where one has
written a snapshot since, it may have emptied the log in place, and the note says nothing any more.
"""

import struct
from typing import NamedTuple

from holdfast.formats.checksum import crc32

MAGIC = b"HFcl"
FORMAT_VERSION = 1
_NOTE = struct.Struct("<4sIQQQI")
_CRC = struct.Struct("<I")
NOTE_BYTES = _NOTE.size + _CRC.size
assert NOTE_BYTES == 40


class Closing(NamedTuple):
    """What was there when an index was closed."""

    log_inode: int
    log_bytes: int
    snapshot_inode: int
    snapshot_crc: int


def encode(closing: Closing) -> bytes:
    """The note, 40 bytes."""
    body = _NOTE.pack(MAGIC, FORMAT_VERSION, *closing)
    return body + _CRC.pack(crc32(body))


def decode(data: bytes) -> Closing | None:
    """What a note says; None unless it is one and whole."""
    if (
        len(data) != NOTE_BYTES
        or crc32(data[: _NOTE.size]) != _CRC.unpack_from(data, _NOTE.size)[0]
    ):
        return None
    magic, version, *fields = _NOTE.unpack_from(data)
    if (magic, version) != (MAGIC, FORMAT_VERSION):
        return None
    return Closing(*fields)
