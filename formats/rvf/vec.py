"""VEC: rows of an id and a vector (RVF 5.1).

All integers and floats little-endian::

    offset  size           field
         0     2           dimension, u16
         2     4           rows n, u32
         6     n*(8 + 4*d) rows: id u64, then d float32, without gaps

Nothing is aligned by itself. The first float lies 78 bytes behind the segment's header, and rows
are a multiple of four bytes apart, so a header whose offset leaves 2 when divided by 4 makes every
vector of a mapped file readable in place. ``padding_before`` says how many zeros that takes.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.limits import DIMENSION_MAX
from holdfast.formats.rvf.segment import HEADER_BYTES, PAYLOAD_BYTES_MAX, Buffer

_HEAD = struct.Struct("<HI")
_ID_BYTES = 8
_FLOAT_BYTES = 4

ALIGNMENT_OF_HEADER = -(HEADER_BYTES + _HEAD.size + _ID_BYTES) % _FLOAT_BYTES
"""What a header's offset leaves when divided by 4, for its vectors to be aligned in memory."""
assert ALIGNMENT_OF_HEADER == 2
PADDING_MAX = _FLOAT_BYTES - 1
"""No commit has more zeros than this between two of its segments."""


def padding_before(offset: int) -> int:
    """How many zeros to write at ``offset`` for the header behind them to have the alignment."""
    return (ALIGNMENT_OF_HEADER - offset) % _FLOAT_BYTES


def _row_bytes(dimension: int) -> int:
    return _ID_BYTES + _FLOAT_BYTES * dimension


def vec_payload_bytes(rows: int, dimension: int) -> int:
    """Length of a payload."""
    return _HEAD.size + rows * _row_bytes(dimension)


def rows_per_segment(dimension: int) -> int:
    """The most rows that leave a payload readable: 256 MiB."""
    return (PAYLOAD_BYTES_MAX - _HEAD.size) // _row_bytes(dimension)


def check_vec(payload: Buffer) -> tuple[int, int]:
    """Dimension and rows; raises ``InvalidFormat`` for a payload shorter than it says.

    The original passes over such a segment in silence, and its rows are gone. As there, bytes
    behind the last row are ignored.
    """
    if len(payload) < _HEAD.size:
        raise InvalidFormat(
            f"a vector segment of {len(payload)} bytes, shorter than its head of {_HEAD.size}"
        )
    dimension, rows = _HEAD.unpack_from(payload)
    if not dimension:
        raise InvalidFormat("a vector segment of dimension 0")
    needed = vec_payload_bytes(rows, dimension)
    if needed > len(payload):
        raise InvalidFormat(
            f"a vector segment of {len(payload)} bytes says {rows} rows of dimension {dimension}, "
            f"which are {needed} bytes"
        )
    return dimension, rows


def encode_vec(
    ids: NDArray[np.uint64], vectors: NDArray[np.float32], room: memoryview | None = None
) -> bytearray | memoryview:
    """The payload for ids (n,) and vectors (n, dimension), in that order.

    ``room``, if given, is of ``vec_payload_bytes`` and becomes the payload.
    Raises ``LimitExceeded`` for a payload that no reader would take: see ``rows_per_segment``.
    """
    if vectors.ndim != 2 or ids.shape != vectors.shape[:1]:
        raise InvalidArgument(f"{ids.shape} ids do not go with {vectors.shape} vectors")
    rows, dimension = vectors.shape
    if not 1 <= dimension <= DIMENSION_MAX:
        raise LimitExceeded(f"dimension {dimension} is not between 1 and {DIMENSION_MAX}")
    if rows > rows_per_segment(dimension):
        raise LimitExceeded(
            f"{rows} rows of dimension {dimension} are over the limit of "
            f"{rows_per_segment(dimension)} rows in a segment"
        )
    payload = bytearray(vec_payload_bytes(rows, dimension)) if room is None else room
    _HEAD.pack_into(payload, 0, dimension, rows)
    # Bytes, since numpy copies unaligned floats one by one.
    table = np.frombuffer(payload, np.uint8, offset=_HEAD.size)
    table = table.reshape(rows, _row_bytes(dimension))
    table[:, :_ID_BYTES] = _as_bytes(ids[:, np.newaxis], "<u8")
    table[:, _ID_BYTES:] = _as_bytes(vectors, "<f4")
    return payload


def _as_bytes(values: NDArray[np.generic], dtype: str) -> NDArray[np.uint8]:
    """A table of shape (n, m) as the bytes of its rows."""
    return np.ascontiguousarray(values, dtype).view(np.uint8)


def view_rows(payload: Buffer) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Ids (n,), copied, and vectors (n, dimension), float32.

    The vectors are a strided view of the payload where they are aligned in memory, and a copy where
    they are not. Raises ``InvalidFormat`` as ``check_vec`` does.
    """
    dimension, rows = check_vec(payload)
    row_bytes = _row_bytes(dimension)
    table = np.frombuffer(payload, np.uint8, rows * row_bytes, _HEAD.size)
    table = table.reshape(rows, row_bytes)
    ids = table[:, :_ID_BYTES].copy().view("<u8").reshape(rows)
    vectors = table[:, _ID_BYTES:].view("<f4")
    if not vectors.flags.aligned:
        vectors = table[:, _ID_BYTES:].copy().view("<f4")  # as bytes, see encode_vec
    return ids, vectors
