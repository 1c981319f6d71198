"""The lock file beside a store that a writer has open: 104 bytes, saying who (RVF 10).

All integers little-endian::

    offset  size  field
         0     4  magic "FLVR"
         4     4  process id, u32
         8    64  host name, zero-padded, at most 62 bytes
        72     8  when it was taken, nanoseconds since 1970, u64
        80    16  writer id, random
        96     4  version, u32, 1
       100     4  CRC-32 of bytes 0 to 99
"""

import struct
from typing import NamedTuple

from holdfast.formats.checksum import crc32
from holdfast.formats.rvf.segment import Buffer

LOCK_BYTES = 104
HOST_BYTES_MAX = 62

_MAGIC = b"FLVR"
_VERSION = 1
_BODY = struct.Struct("<4sI64sQ16sI")
_CRC = struct.Struct("<I")
assert _BODY.size + _CRC.size == LOCK_BYTES


class LockNote(NamedTuple):
    """Who holds a store; the 16-byte ``writer_id`` tells its owner's note from another's."""

    pid: int
    host: str
    time_ns: int
    writer_id: bytes


def encode_lock(note: LockNote) -> bytes:
    """The file's content. A host name too long for its field is cut at a character."""
    host = note.host.encode()[:HOST_BYTES_MAX].decode(errors="ignore").encode()
    assert len(note.writer_id) == 16
    body = _BODY.pack(_MAGIC, note.pid, host, note.time_ns, note.writer_id, _VERSION)
    return body + _CRC.pack(crc32(body))


def decode_lock(content: Buffer) -> LockNote | None:
    """The note; None for content that is cut short, no lock file or damaged.

    The original takes a note of the right length and magic for good. It never checks the CRC.
    """
    if len(content) < LOCK_BYTES:
        return None
    magic, pid, host, time_ns, writer_id, _ = _BODY.unpack_from(content)
    crc = _CRC.unpack_from(content, _BODY.size)[0]
    if magic != _MAGIC or crc != crc32(content[: _BODY.size]):
        return None
    return LockNote(pid, host.split(b"\0")[0].decode(errors="replace"), time_ns, writer_id)
