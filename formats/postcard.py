"""One point of a series as postcard encodes it: its fields in order, without names or tags.

::

    size    field
    varint  entity, u64
    varint  timestamp, i64 in zigzag form: n is 2n where n >= 0, else -2n - 1
    varint  number of floats d
    4*d     the vector, float32, little-endian
    varint  number of pairs of metadata, then for each of them
      varint  bytes of the key
      ...     the key, UTF-8
      varint  bytes of the value
      ...     the value, UTF-8

A varint is LEB128: seven bits a byte, the lowest first, and the top bit set in all bytes but the
last. 64 bits take at most ten bytes, and the tenth is 0 or 1. Written ones are as short as they
can be; read ones may be padded (``81 00`` is 1). The pairs are in no order; of a repeated key the
last value counts. Whatever follows the pairs is not looked at here.

Numbers of things are believed only as far as there are bytes for them, so memory is bounded by the
bytes that are given; and a point may have ``PAIRS_MAX`` pairs.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from holdfast.formats.errors import InvalidArgument

FLOAT_BYTES = 4
VARINT_BITS_MAX = 64
PAIRS_MAX = 65_536
"""Of metadata in one point. The format has no bound; decoding must not be silent for minutes."""
_PAIR_BYTES_MIN = 2
Buffer = bytes | bytearray | memoryview


class UndecodablePoint(Exception):
    """Bytes that are no point; ``offset`` in the buffer is that of the field concerned."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class Point(NamedTuple):
    """A decoded point; ``timestamp`` is in microseconds, ``vector`` (d,) float32 of its own."""

    entity: int
    timestamp: int
    vector: NDArray[np.float32]
    metadata: dict[str, str]


class Layout(NamedTuple):
    """The fixed fields of a point, and where in the buffer its vector begins."""

    entity: int
    timestamp: int
    dimension: int
    vector_at: int

    @property
    def metadata_at(self) -> int:
        """Where the number of pairs is."""
        return self.vector_at + FLOAT_BYTES * self.dimension


def decode_point(data: Buffer, at: int = 0, end: int | None = None) -> Point:
    """The point that begins at ``at``. Raises ``UndecodablePoint``."""
    end = len(data) if end is None else end
    layout = locate(data, at, end)
    metadata, _ = read_metadata(data, layout.metadata_at, end)
    vector = np.frombuffer(data, "<f4", layout.dimension, layout.vector_at).astype(np.float32)
    return Point(layout.entity, layout.timestamp, vector, metadata)


def locate(data: Buffer, at: int, end: int) -> Layout:
    """What there is before the metadata. Raises ``UndecodablePoint``."""
    entity, at = read_varint(data, at, end, "entity")
    zigzag, at = read_varint(data, at, end, "timestamp")
    dimension, vector_at = read_varint(data, at, end, "number of floats")
    if dimension > (end - vector_at) // FLOAT_BYTES:
        left = end - vector_at
        raise UndecodablePoint(at, f"a vector of {dimension} floats in the {left} bytes left")
    return Layout(entity, (zigzag >> 1) ^ -(zigzag & 1), dimension, vector_at)


def read_metadata(data: Buffer, at: int, end: int) -> tuple[dict[str, str], int]:
    """The pairs whose number is at ``at``, and where they end. Raises ``UndecodablePoint``."""
    pairs, behind = read_varint(data, at, end, "number of metadata pairs")
    if pairs > (end - behind) // _PAIR_BYTES_MIN:
        raise UndecodablePoint(at, f"{pairs} pairs of metadata in the {end - behind} bytes left")
    if pairs > PAIRS_MAX:
        raise UndecodablePoint(at, f"{pairs} pairs of metadata, the most is {PAIRS_MAX}")
    metadata = {}
    at = behind
    for _ in range(pairs):
        key, at = _read_text(data, at, end, "key")
        metadata[key], at = _read_text(data, at, end, "value")
    return metadata, at


def _read_text(data: Buffer, at: int, end: int, what: str) -> tuple[str, int]:
    size, start = read_varint(data, at, end, f"length of a metadata {what}")
    if size > end - start:
        raise UndecodablePoint(at, f"a metadata {what} of {size} bytes in the {end - start} left")
    try:
        return str(data[start : start + size], "utf-8"), start + size
    except UnicodeDecodeError as error:
        reason = f"a metadata {what} that is not UTF-8"
        raise UndecodablePoint(start + error.start, reason) from error


def read_varint(data: Buffer, at: int, end: int, what: str) -> tuple[int, int]:
    """A u64 and where it ends. Raises ``UndecodablePoint``, which says ``what`` was to be read."""
    if at < end and (byte := data[at]) < 0x80:
        return byte, at + 1  # as nearly all are
    value = 0
    for shift in range(0, VARINT_BITS_MAX, 7):
        if at + shift // 7 >= end:
            raise UndecodablePoint(at, f"the {what} is cut off")
        byte = data[at + shift // 7]
        value |= (byte & 0x7F) << shift
        if byte < 0x80 and value >> VARINT_BITS_MAX == 0:
            return value, at + shift // 7 + 1
    raise UndecodablePoint(at, f"the {what} takes more than {VARINT_BITS_MAX} bits")


# --- encoding ----------------------------------------------------------------------------------


def encode_point(
    entity: int, timestamp: int, vector: ArrayLike, metadata: Mapping[str, str] | None = None
) -> bytes:
    """A point, its pairs in the order of ``metadata``.

    Raises ``InvalidArgument`` for an entity that is no u64 or a timestamp that is no i64.
    """
    if not -(1 << 63) <= timestamp < 1 << 63:
        raise InvalidArgument(f"timestamp {timestamp} is not a signed number of 64 bits")
    floats = np.asarray(vector, "<f4").reshape(-1)
    parts = [
        _varint(entity),
        _varint(timestamp << 1 if timestamp >= 0 else ~(timestamp << 1)),
        _varint(len(floats)),
        floats.tobytes(),
        _varint(len(metadata or {})),
    ]
    for pair in (metadata or {}).items():
        for text in pair:
            encoded = text.encode()
            parts += (_varint(len(encoded)), encoded)
    return b"".join(parts)


def _varint(value: int) -> bytes:
    """A u64, in as few bytes as it takes."""
    if not 0 <= value < 1 << VARINT_BITS_MAX:
        raise InvalidArgument(f"{value} is not an unsigned number of {VARINT_BITS_MAX} bits")
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
