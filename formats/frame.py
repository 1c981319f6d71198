"""The frame: how one message travels over a pipe between two holdfast processes.

Header, 32 bytes, little-endian, then the control body, then the bulk body::

    offset  size  field
         0     2  magic "HF"
         2     1  wire version, 1
         3     1  kind: 1 request, 2 reply, 3 error, 4 progress
         4     4  control length in bytes, u32
         8     8  bulk length in bytes, u64
        16     8  request id, u64, chosen by the caller; its answers repeat it
        24     8  deadline, f64, on the system's monotonic clock in seconds; 0 means none

The control body is one MessagePack message (``holdfast.workers.messages``); the bulk body is raw
bytes whose meaning the message gives. There is no checksum: a pipe on one machine does not damage
bytes. A header that breaks these rules condemns its session and nothing else.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from holdfast.formats.errors import ProtocolError
from holdfast.formats.limits import FRAME_BULK_BYTES_MAX, FRAME_CONTROL_BYTES_MAX

MAGIC = b"HF"
WIRE_VERSION = 1
_HEADER = struct.Struct("<2sBBIQQd")
HEADER_BYTES = _HEADER.size
assert HEADER_BYTES == 32


class FrameKind(IntEnum):
    """What a frame carries."""

    REQUEST = 1
    REPLY = 2
    ERROR = 3
    PROGRESS = 4


_KINDS = {int(kind): kind for kind in FrameKind}


class FrameHeader(NamedTuple):
    """A checked header."""

    kind: FrameKind
    control_bytes: int
    bulk_bytes: int
    request: int
    deadline: float


def encode_header(
    kind: FrameKind, control_bytes: int, request: int, *, bulk_bytes: int = 0, deadline: float = 0.0
) -> bytes:
    """A header, 32 bytes."""
    return _HEADER.pack(MAGIC, WIRE_VERSION, kind, control_bytes, bulk_bytes, request, deadline)


def decode_header(buffer: bytes | bytearray | memoryview, offset: int = 0) -> FrameHeader:
    """The header at ``offset``, of which 32 bytes must be there. Raises ``ProtocolError``."""
    magic, version, kind, control_bytes, bulk_bytes, request, deadline = _HEADER.unpack_from(
        buffer, offset
    )
    known = _KINDS.get(kind)
    if magic != MAGIC or version != WIRE_VERSION or known is None:
        raise ProtocolError(
            f"not a frame: magic {magic!r}, wire version {version}, kind {kind}; "
            f"expected {MAGIC!r}, {WIRE_VERSION}, 1 to {len(_KINDS)}"
        )
    if control_bytes > FRAME_CONTROL_BYTES_MAX or bulk_bytes > FRAME_BULK_BYTES_MAX:
        raise ProtocolError(
            f"frame of {control_bytes} + {bulk_bytes} bytes is over the limits of "
            f"{FRAME_CONTROL_BYTES_MAX} + {FRAME_BULK_BYTES_MAX}"
        )
    return FrameHeader(known, control_bytes, bulk_bytes, request, deadline)
