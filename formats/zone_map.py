"""The zone map of one chunk: which series it holds, where their rows lie, and their times.

With it a reader knows, without opening the chunk, whether the chunk can hold what is asked for, and
in which rows. It also holds the checksums of the chunk's bytes, so that a part can be checked
without reading the rest. Little-endian; every array starts at a multiple of 8::

    offset  size  field
         0     8  magic "HFWZONE\\0"
         8     4  format version, u32, 1
        12     4  dimension of the vectors, u32
        16    16  id of the store
        32     8  number of the chunk, u64
        40     8  rows of the chunk, u64
        48     8  bytes of the chunk's file, u64
        56     8  series, u64 (s)
        64     4  bytes of a block of the chunk's file, u32 (b)
        68     4  flags, u32: 1 some rows have metadata, 2 the chunk's buffers are compressed
        72     8  run, u64: the number of the first of the chunks that were made together
        80     4  crc of bytes 0 to 79, so that no size is believed unseen
        84     4  zero
        88   8*s  entities, u64
         .   8*s  first row, u64; a series ends where the next one begins
         .   8*s  time of its first row, i64, microseconds
         .   8*s  time of its last row, i64
         .   4*s  spaces, u32, zero-padded to a multiple of 8
         .     .  crc of every b bytes of the chunk's file, u32, zero-padded to a multiple of 8
         .     4  crc of everything from byte 88 on
         .     4  zero

Series are in order of (space, entity); rows of a series are in order of time.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.limits import CHUNK_ROWS_MAX

Buffer = bytes | bytearray | memoryview

MAGIC = b"HFWZONE\0"
FORMAT_VERSION = 1
BLOCK_BYTES = 1 << 16
HAS_METADATA, COMPRESSED = 1, 2

_HEAD = struct.Struct("<8sII16sQQQQIIQ")
_CRC = struct.Struct("<I4x")
HEADER_BYTES = _HEAD.size + _CRC.size
assert HEADER_BYTES == 88


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """The series of some rows that are in order of (space, entity, time)."""

    spaces: NDArray[np.uint32]
    entities: NDArray[np.uint64]
    starts: NDArray[np.int64]
    """(s + 1,); the rows of series i are starts[i] to starts[i + 1]."""
    first_times: NDArray[np.int64]
    last_times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.entities)

    @property
    def rows(self) -> int:
        """Of all series."""
        return int(self.starts[-1])


@dataclass(frozen=True, slots=True, eq=False)
class ZoneMap:
    """A zone map; arrays may be views of the file's bytes."""

    dimension: int
    store_id: bytes
    chunk: int
    run: int
    """The number of the first of the chunks that were made together with this one."""
    chunk_bytes: int
    has_metadata: bool
    compressed: bool
    series: Series
    checksums: NDArray[np.uint32]
    """Of every ``BLOCK_BYTES`` of the chunk's file."""

    @property
    def rows(self) -> int:
        """Of the chunk."""
        return self.series.rows


def series_of(
    spaces: NDArray[np.uint32], entities: NDArray[np.uint64], timestamps: NDArray[np.int64]
) -> Series:
    """The series of rows that are in order of (space, entity, time)."""
    rows = len(timestamps)
    if not rows:
        empty = np.empty(0, np.int64)
        return Series(spaces[:0], entities[:0], np.zeros(1, np.int64), empty, empty)
    changes = entities[1:] != entities[:-1]
    if spaces[0] != spaces[-1]:
        changes |= spaces[1:] != spaces[:-1]
    starts = np.concatenate(([0], np.flatnonzero(changes) + 1, [rows]))
    heads = starts[:-1]
    return Series(
        spaces[heads], entities[heads], starts, timestamps[heads], timestamps[starts[1:] - 1]
    )


def encode(zone: ZoneMap) -> bytes:
    """A zone map as a file's bytes."""
    series = zone.series
    flags = (HAS_METADATA if zone.has_metadata else 0) | (COMPRESSED if zone.compressed else 0)
    head = _HEAD.pack(
        MAGIC, FORMAT_VERSION, zone.dimension, zone.store_id, zone.chunk, zone.rows,
        zone.chunk_bytes, len(series), BLOCK_BYTES, flags, zone.run,
    )  # fmt: skip
    body = b"".join(
        [
            series.entities.astype("<u8").tobytes(),
            series.starts[:-1].astype("<u8").tobytes(),
            series.first_times.astype("<i8").tobytes(),
            series.last_times.astype("<i8").tobytes(),
            _padded(series.spaces.astype("<u4").tobytes()),
            _padded(zone.checksums.astype("<u4").tobytes()),
        ]
    )
    return head + _CRC.pack(crc32(head)) + body + _CRC.pack(crc32(body))


def decode(data: Buffer) -> ZoneMap:
    """A zone map. Raises ``InvalidFormat`` for what is none, is damaged or contradicts itself."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES:
        raise _refusal(f"{len(view)} bytes are no zone map, whose head has {HEADER_BYTES}")
    (
        magic, version, dimension, store_id, chunk, rows, chunk_bytes, count, block_bytes, flags,
        run,
    ) = _HEAD.unpack_from(view)  # fmt: skip
    if magic != MAGIC:
        raise _refusal(f"magic {magic!r} is not {MAGIC!r}")
    if _CRC.unpack_from(view, _HEAD.size)[0] != crc32(view[: _HEAD.size]):
        raise _refusal("the head does not match its checksum")
    if version != FORMAT_VERSION:
        raise _refusal(f"format version {version}, this release reads {FORMAT_VERSION}")
    if not 1 <= rows <= CHUNK_ROWS_MAX:
        raise _refusal(f"{rows} rows are not within 1 to {CHUNK_ROWS_MAX}")
    if block_bytes != BLOCK_BYTES:
        raise _refusal(f"blocks of {block_bytes} bytes, this release reads {BLOCK_BYTES}")
    blocks = -(-chunk_bytes // BLOCK_BYTES)
    length = count * 32 + _up(count * 4) + _up(blocks * 4)
    if len(view) != HEADER_BYTES + length + _CRC.size:
        raise _refusal(f"{len(view)} bytes do not hold {count} series and {blocks} blocks")
    body = view[HEADER_BYTES : HEADER_BYTES + length]
    if _CRC.unpack_from(view, HEADER_BYTES + length)[0] != crc32(body):
        raise InvalidFormat(
            "the zone map does not match its checksum", offset=HEADER_BYTES, reason="checksum"
        )
    starts = np.append(np.frombuffer(body, "<u8", count, count * 8), np.uint64(rows))
    if (starts > rows).any():
        raise _refusal("a series begins behind the last row")
    series = Series(
        np.frombuffer(body, "<u4", count, count * 32),
        np.frombuffer(body, "<u8", count),
        starts.astype(np.int64),
        np.frombuffer(body, "<i8", count, count * 16),
        np.frombuffer(body, "<i8", count, count * 24),
    )
    _check(series)
    checksums = np.frombuffer(body, "<u4", blocks, count * 32 + _up(count * 4))
    return ZoneMap(
        dimension, store_id, chunk, run, chunk_bytes, bool(flags & HAS_METADATA),
        bool(flags & COMPRESSED), series, checksums,
    )  # fmt: skip


def block_checksums(pieces: "list[memoryview]") -> NDArray[np.uint32]:
    """The checksum of every block of a file that consists of these pieces."""
    found: list[int] = []
    crc, room = 0, BLOCK_BYTES
    for piece in pieces:
        at = 0
        while at < len(piece):
            part = piece[at : at + room]
            crc = crc32(part, crc)
            at += len(part)
            room -= len(part)
            if not room:
                found.append(crc)
                crc, room = 0, BLOCK_BYTES
    if room < BLOCK_BYTES:
        found.append(crc)
    return np.array(found, np.uint32)


def _check(series: Series) -> None:
    """Refuse what a correct writer never makes, though its checksum holds."""
    if not len(series):
        raise _refusal("a chunk without series")
    lengths = np.diff(series.starts)
    if series.starts[0] or (lengths <= 0).any():
        raise _refusal("rows of series that are not one behind the other")
    spaces, entities = series.spaces, series.entities
    rising = (spaces[1:] > spaces[:-1]) | (
        (spaces[1:] == spaces[:-1]) & (entities[1:] > entities[:-1])
    )
    if not rising.all():
        raise _refusal("series that are not in order")
    if (series.first_times > series.last_times).any():
        raise _refusal("a series that ends before it begins")


def _up(size: int) -> int:
    return size + -size % 8


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _refusal(reason: str) -> InvalidFormat:
    return InvalidFormat(f"not a zone map: {reason}", offset=0, reason=reason)
