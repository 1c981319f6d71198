"""What an index is made of besides vectors: ids, metadata, metrics, parameters.

All integers are little-endian. Metadata is written the same way in a snapshot and in a log::

    metadata  | entries u32 | entry ... |        in ascending bytewise order of the key
    entry     | key_len u32 | key UTF-8 | tag u8 | value |

    tag  value
      0  string: length u32, UTF-8
      1  i64
      2  f64
      3  bool: one byte, any but 0 is true
      4  null: nothing

Rows that have no metadata and rows that have none *in* it are told apart by a flag ahead of this.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Literal, get_args

from holdfast.formats.errors import InvalidArgument, LimitExceeded

Buffer = bytes | bytearray | memoryview

Id = int | bytes
"""A u64, or bytes that are not empty."""
Value = str | int | float | bool | None
Metadata = Mapping[str, Value]

Metric = Literal["cosine", "dot", "euclidean", "manhattan", "hamming"]
METRICS: tuple[Metric, ...] = get_args(Metric)
"""In the order of their codes, from 0."""

U64_MAX = (1 << 64) - 1
_I64_MIN, _I64_MAX = -(1 << 63), (1 << 63) - 1
_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")


class Tag(IntEnum):
    """Types of metadata values."""

    STRING = 0
    INT = 1
    FLOAT = 2
    BOOL = 3
    NULL = 4


@dataclass(frozen=True, slots=True)
class FlatParameters:
    """An exact index has none."""


@dataclass(frozen=True, slots=True)
class HnswParameters:
    """Of a graph: neighbours per row, breadth of building and of searching, and so on."""

    m: int = 16
    ef_construction: int = 200
    ef_search: int = 50
    filter_widen: int = 4
    seed: int = 42


@dataclass(frozen=True, slots=True)
class IvfParameters:
    """Of an inverted file."""

    n_clusters: int
    n_probes: int
    training_sample_size: int
    use_pq: bool
    pq_subvectors: int | None
    pq_refine_factor: int
    seed: int


Parameters = FlatParameters | HnswParameters | IvfParameters


class Flaw(StrEnum):
    """What is wrong with an index's bytes."""

    MAGIC = "bad magic"
    VERSION = "unsupported version"
    CHECKSUM = "checksum mismatch"
    HEADER_CUT = "truncated header"
    PAYLOAD_CUT = "truncated payload"
    METRIC = "invalid metric"
    TYPE = "other index type"
    PAYLOAD = "invalid payload"
    COMPRESSION = "compression error"


class IndexFlaw(Exception):
    """Bytes that are not what the format says. ``offset`` counts in the bytes that were given."""

    def __init__(self, flaw: Flaw, reason: str, offset: int = 0) -> None:
        super().__init__(reason)
        self.flaw = flaw
        self.reason = reason
        self.offset = offset


def check_id(value: object, what: str = "id") -> Id:
    """The id, if it is one; ``InvalidArgument`` naming it if not, ``LimitExceeded`` beyond u64."""
    if isinstance(value, int) and not isinstance(value, bool):
        if 0 <= value <= U64_MAX:
            return value
        raise LimitExceeded(f"{what} {value} is not within 0 to {U64_MAX}")
    if isinstance(value, bytes):
        if value:
            return value
        raise InvalidArgument(f"{what} is empty: an id of bytes has at least one")
    raise InvalidArgument(f"{what} is an int or bytes, not {type(value).__name__}")


def encode_metadata(metadata: Metadata, what: str = "metadata") -> bytes:
    """The bytes of one row's metadata. Raises ``InvalidArgument`` naming key and value."""
    if not isinstance(metadata, Mapping):
        raise InvalidArgument(f"{what} is a mapping or None, not {type(metadata).__name__}")
    entries = []
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise InvalidArgument(f"{what}: key {key!r} is not a str")
        entries.append((_utf8(key, f"{what}: key {key!r}"), key, value))
    entries.sort(key=lambda entry: entry[0])
    pieces = [_U32.pack(len(entries))]
    for name, key, value in entries:
        pieces += (_U32.pack(len(name)), name, _encode_value(value, f"{what}[{key!r}]"))
    return b"".join(pieces)


def _encode_value(value: object, what: str) -> bytes:
    if isinstance(value, str):
        text = _utf8(value, what)
        return b"\x00" + _U32.pack(len(text)) + text
    if isinstance(value, bool):
        return b"\x03\x01" if value else b"\x03\x00"
    if isinstance(value, int):
        if not _I64_MIN <= value <= _I64_MAX:
            raise InvalidArgument(f"{what} = {value} is not within the range of i64")
        return b"\x01" + _I64.pack(value)
    if isinstance(value, float):
        return b"\x02" + _F64.pack(value)
    if value is None:
        return b"\x04"
    raise InvalidArgument(f"{what} is a str, int, float, bool or None, not {type(value).__name__}")


def _utf8(text: str, what: str) -> bytes:
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} is not valid Unicode: {error.reason}") from None
    if len(data) > 0xFFFF_FFFF:
        raise InvalidArgument(f"{what} has {len(data)} bytes, over the limit of 4 GiB")
    return data


def decode_metadata(data: Buffer, offset: int = 0) -> tuple[dict[str, Value], int]:
    """One row's metadata and where it ends; of a repeated key the last value. ``IndexFlaw``."""
    found, stop, _ = _read(memoryview(data), offset)
    return found, stop


def canonical_metadata(data: Buffer, offset: int = 0) -> tuple[bytes, int]:
    """The bytes of the metadata at ``offset`` as they are written here, and where it ends.

    Other writers may repeat keys, order them differently or write other bytes for true.
    Raises ``IndexFlaw``.
    """
    view = memoryview(data)
    found, stop, canonical = _read(view, offset)
    return bytes(view[offset:stop]) if canonical else encode_metadata(found), stop


def _read(view: memoryview, offset: int) -> tuple[dict[str, Value], int, bool]:
    """Metadata, where it ends, and whether it is in the one form that is written here."""
    found: dict[str, Value] = {}
    canonical = True
    last: bytes | None = None
    start = offset
    try:
        entries = _U32.unpack_from(view, offset)[0]
        offset += 4
        for _ in range(entries):
            name, offset = _text(view, offset)
            canonical = canonical and (last is None or name > last)
            last = name
            tag = view[offset]
            offset += 1
            value: Value
            if tag == Tag.STRING:
                text, offset = _text(view, offset)
                value = text.decode()
            elif tag == Tag.INT:
                value = _I64.unpack_from(view, offset)[0]
                offset += 8
            elif tag == Tag.FLOAT:
                value = _F64.unpack_from(view, offset)[0]
                offset += 8
            elif tag == Tag.BOOL:
                value = view[offset] != 0
                canonical = canonical and view[offset] < 2
                offset += 1
            elif tag == Tag.NULL:
                value = None
            else:
                raise IndexFlaw(Flaw.PAYLOAD, f"unknown metadata tag {tag}", offset - 1)
            found[name.decode()] = value
    except (struct.error, IndexError):
        raise IndexFlaw(Flaw.PAYLOAD, "metadata is cut short", start) from None
    except UnicodeDecodeError:
        raise IndexFlaw(Flaw.PAYLOAD, "metadata holds text that is not UTF-8", start) from None
    return found, offset, canonical


def _text(view: memoryview, offset: int) -> tuple[bytes, int]:
    """A length and that many bytes; IndexError when they are not all there."""
    start = offset + 4
    stop = start + _U32.unpack_from(view, offset)[0]
    if stop > len(view):
        raise IndexError
    return bytes(view[start:stop]), stop
