"""One segment: a 64-byte header, then the payload (RVF 2, 3).

All integers little-endian::

    offset  size  field
         0     4  magic "SFVR"
         4     1  version, 1
         5     1  segment type
         6     2  flags
         8     8  segment id
        16     8  payload length in bytes
        24     8  timestamp, nanoseconds
        32     8  checksum id, compression, reserved: all zero
        40    16  content hash
        56     8  zero

The content hash is the CRC-32 of the payload four times: as it is, and rotated left by 8, 16 and 24
bits. Sixteen zeros mean that nobody computed it, so a payload whose CRC is zero cannot be told from
an unchecked one. The header itself is covered by nothing.

Segments follow each other without alignment; zeros between them are allowed.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import LimitExceeded
from holdfast.formats.limits import MIB

Buffer = bytes | bytearray | memoryview

MAGIC = b"SFVR"
VERSION = 1
HEADER_BYTES = 64
PAYLOAD_BYTES_MAX = 256 * MIB  # no reader of the original takes a larger one
NO_HASH = bytes(16)

_HEADER = struct.Struct("<4sBBHQQQ8x16s8x")
_HASH = struct.Struct("<4I")
assert _HEADER.size == HEADER_BYTES


class SegmentType(IntEnum):
    """What a payload is (RVF 3). Few are ever written; 0xF0 to 0xFF are free for extensions."""

    INVALID = 0x00
    VEC = 0x01
    INDEX = 0x02
    OVERLAY = 0x03
    JOURNAL = 0x04
    MANIFEST = 0x05
    QUANT = 0x06
    META = 0x07
    HOT = 0x08
    SKETCH = 0x09
    WITNESS = 0x0A
    PROFILE = 0x0B
    CRYPTO = 0x0C
    META_IDX = 0x0D
    KERNEL = 0x0E
    EBPF = 0x0F
    WASM = 0x10
    DASHBOARD = 0x11
    COW_MAP = 0x20
    REFCOUNT = 0x21
    MEMBERSHIP = 0x22
    DELTA = 0x23
    TRANSFER_PRIOR = 0x30
    POLICY_KERNEL = 0x31
    COST_CURVE = 0x32
    FEDERATED_MANIFEST = 0x33
    DP_PROOF = 0x34
    REDACTION_LOG = 0x35
    AGGREGATE_WEIGHTS = 0x36
    # holdfast's own, which the original carries along unread: the store record, and the ids of its
    # parent that a branch does not show.
    STORE = 0xF1
    HIDDEN = 0xF2


_NAMES = {kind.value: kind.name.lower() for kind in SegmentType}


def type_name(number: int) -> str:
    """``vec``, ``cow_map`` and so on; ``unknown_0x40`` for a number without a name."""
    return _NAMES.get(number) or f"unknown_0x{number:02x}"


class SegmentHeader(NamedTuple):
    """The fields of a header that mean something. ``type`` is a plain number, known or not."""

    version: int
    type: int
    flags: int
    segment_id: int
    payload_bytes: int
    timestamp_ns: int
    content_hash: bytes


def hash_of_crc(crc: int) -> bytes:
    """The 16-byte content hash of a payload with this CRC-32."""
    rotated = ((crc << bits | crc >> 32 - bits) & 0xFFFFFFFF for bits in (8, 16, 24))
    return _HASH.pack(crc, *rotated)


def content_hash(payload: Buffer) -> bytes:
    """The 16-byte content hash of a payload."""
    return hash_of_crc(crc32(payload))


def encode_header(
    type: int, segment_id: int, payload_bytes: int, content_hash: bytes, *, timestamp_ns: int = 0
) -> bytes:
    """A header, 64 bytes. Raises ``LimitExceeded`` for a payload that no reader would take."""
    if payload_bytes > PAYLOAD_BYTES_MAX:
        raise LimitExceeded(
            f"a {type_name(type)} segment's payload is {payload_bytes} bytes, over the limit of "
            f"{PAYLOAD_BYTES_MAX}"
        )
    assert len(content_hash) == 16
    return _HEADER.pack(
        MAGIC, VERSION, type, 0, segment_id, payload_bytes, timestamp_ns, content_hash
    )


def decode_header(buffer: Buffer, offset: int = 0) -> SegmentHeader | None:
    """The header at ``offset``; None where fewer than 64 bytes are left or the magic is missing.

    Version and flags are handed out as they are: the original ignores both.
    """
    if offset + HEADER_BYTES > len(buffer):
        return None
    magic, *fields = _HEADER.unpack_from(buffer, offset)
    return SegmentHeader._make(fields) if magic == MAGIC else None


def is_intact(header: SegmentHeader, payload: Buffer) -> bool:
    """Whether ``payload`` is the one the header was written for, as far as 32 bits can tell.

    False for a header without a hash: see ``is_unverifiable``.
    """
    return len(payload) == header.payload_bytes and content_hash(payload) == header.content_hash


def is_unverifiable(header: SegmentHeader) -> bool:
    """Whether the header has no hash, so that nothing can be said of its payload."""
    return header.payload_bytes > 0 and header.content_hash == NO_HASH
