"""The frame: how one message travels over a pipe between two holdfast processes.

Header, 24 bytes, little-endian, then the body::

    offset  size  field
         0     2  magic "HF"
         2     1  wire version, 1
         3     1  kind: 1 request, 2 reply, 3 error, 4 progress
         4     4  length of the body in bytes, u32
         8     8  request id, u64, chosen by the caller; its answers repeat it
        16     8  deadline, f64, on the system's monotonic clock in seconds; 0 means none

The body is one MessagePack message (``holdfast.workers.messages`` and the modules beside it). There
is no checksum: a pipe on one machine does not damage bytes. A header that breaks these rules
condemns its session and nothing else.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

from holdfast.formats.errors import ProtocolError
from holdfast.formats.limits import FRAME_BODY_BYTES_MAX

MAGIC = b"HF"
WIRE_VERSION = 1
_HEADER = struct.Struct("<2sBBIQd")
HEADER_BYTES = _HEADER.size
assert HEADER_BYTES == 24


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
    body_bytes: int
    request: int
    deadline: float


def encode_header(
    kind: FrameKind, body_bytes: int, request: int, *, deadline: float = 0.0
) -> bytes:
    """A header, 24 bytes."""
    return _HEADER.pack(MAGIC, WIRE_VERSION, kind, body_bytes, request, deadline)


def decode_header(buffer: bytes | bytearray | memoryview, offset: int = 0) -> FrameHeader:
    """The header at ``offset``, of which 24 bytes must be there. Raises ``ProtocolError``."""
    magic, version, kind, body_bytes, request, deadline = _HEADER.unpack_from(buffer, offset)
    known = _KINDS.get(kind)
    if magic != MAGIC or version != WIRE_VERSION or known is None:
        raise ProtocolError(
            f"not a frame: magic {magic!r}, wire version {version}, kind {kind}; "
            f"expected {MAGIC!r}, {WIRE_VERSION}, 1 to {len(_KINDS)}"
        )
    if body_bytes > FRAME_BODY_BYTES_MAX:
        raise ProtocolError(
            f"frame of {body_bytes} bytes is over the limit of {FRAME_BODY_BYTES_MAX}"
        )
    return FrameHeader(known, body_bytes, request, deadline)
