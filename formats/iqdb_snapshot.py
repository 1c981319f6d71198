"""A snapshot of an index (.iqdb): header, checksum, compression; what is inside is the index's.

All integers are little-endian; N is the length of the index type::

    offset  size  field
         0     8  magic "IQDBPRST"
         8     4  format version, u32: 2 is written, 1 and 2 are read
        12     8  N, u64, up to 4096
        20     N  index type, UTF-8
      20+N     8  dimension, u64
      28+N     1  metric: 0 cosine, 1 dot product, 2 Euclidean, 3 Manhattan, 4 Hamming
      29+N     8  number of vectors, u64
      37+N     4  CRC-32 of everything from here on to the end of the file
      41+N        region

    region, version 1:  payload
    region, version 2:  compression u8 (0 none, 1 zstd, 2 LZ4 block)
                        length of the payload u64, when it is not compressed
                        payload, perhaps compressed

The header is outside the checksum; it is held against what the payload says. A file that is cut
short shows as a wrong checksum, since no length says where the region ends. A payload may not be
more than 4096 times as long as what is stored of it: so a writer that would compress better stores
it as it is, and a reader may lift the guard.

At the very end of the payload, behind what the index itself reads there, a *stamp* may lie that
ties the snapshot to its log (``iqdb_wal``)::

    offset  size  field
         0     4  magic "HFst"
         4     8  store, u64, drawn at random when the log was first stamped
        12     8  sequence number of the last record of the log that is in here, u64
        20     4  CRC-32 of bytes 0 to 19
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import lz4.block
import zstandard

from holdfast.formats.checksum import crc32
from holdfast.formats.iqdb_values import METRICS, Buffer, Flaw, IndexFlaw, Metric
from holdfast.formats.limits import (
    INDEX_DIMENSION_MAX,
    INDEX_RATIO_MAX,
    INDEX_TYPE_BYTES_MAX,
    MIB,
)
from holdfast.formats.memory import fresh_memory

MAGIC = b"IQDBPRST"
VERSION = 2
SUPPORTED = (1, 2)
_HEAD = struct.Struct("<8sIQ")
_TAIL = struct.Struct("<QBQI")
_PREAMBLE = struct.Struct("<BQ")
PREAMBLE_BYTES = _PREAMBLE.size
HEADER_BYTES_MAX = _HEAD.size + INDEX_TYPE_BYTES_MAX + _TAIL.size
_STAMP_MAGIC = b"HFst"
_STAMP = struct.Struct("<4sQQ")
_CRC = struct.Struct("<I")
STAMP_BYTES = _STAMP.size + _CRC.size
LZ4_INPUT_BYTES_MAX = 0x7E00_0000
_CHUNK_BYTES = MIB
ZSTD_LEVELS = (1, 22)


class Compression(IntEnum):
    """Codes of the ways a payload is stored."""

    NONE = 0
    ZSTD = 1
    LZ4 = 2


@dataclass(frozen=True, slots=True)
class SnapshotHeader:
    """What a snapshot says of itself ahead of its payload."""

    version: int
    index_type: str
    dimension: int
    metric: Metric
    rows: int
    """How many vectors the payload has."""
    crc: int
    header_bytes: int
    """Where the region begins."""
    compression: Compression | None
    """None where the file ends before it says so, or says what this release does not know."""
    payload_bytes: int | None
    """Length of the payload, as far as the file says it."""


class Stamp(NamedTuple):
    """What ties a snapshot to its log: the store, and the last record that is in the snapshot."""

    store: int
    sequence: int


def encode_header(index_type: str, dimension: int, metric: Metric, count: int, crc: int) -> bytes:
    """The header, up to the region."""
    name = index_type.encode()
    head = _HEAD.pack(MAGIC, VERSION, len(name))
    return head + name + _TAIL.pack(dimension, METRICS.index(metric), count, crc)


def encode_preamble(compression: Compression, payload_bytes: int) -> bytes:
    """The first bytes of the region."""
    return _PREAMBLE.pack(compression, payload_bytes)


def decode_header(head: Buffer) -> SnapshotHeader:
    """The header in the first ``HEADER_BYTES_MAX + PREAMBLE_BYTES`` of a file. ``IndexFlaw``."""
    view = memoryview(head)
    if bytes(view[:8]) != MAGIC:
        found = bytes(view[:8])
        if MAGIC.startswith(found):
            raise _cut(len(view), 8 - len(found))
        raise IndexFlaw(Flaw.MAGIC, f"bad magic {found!r}, expected {MAGIC!r}")
    if len(view) < 12:
        raise _cut(8, 4)
    version = int.from_bytes(view[8:12], "little")
    if version not in SUPPORTED:
        reason = f"unsupported format version {version}, this release reads {SUPPORTED}"
        raise IndexFlaw(Flaw.VERSION, reason, 8)
    if len(view) < _HEAD.size:
        raise _cut(12, 8)
    length = int.from_bytes(view[12:20], "little")
    if length > INDEX_TYPE_BYTES_MAX:
        reason = f"an index type of {length} bytes, over the limit of {INDEX_TYPE_BYTES_MAX}"
        raise IndexFlaw(Flaw.PAYLOAD, reason, 12)
    stop = 20 + length
    if len(view) < stop + _TAIL.size:
        raise _cut(20, length + _TAIL.size)
    try:
        index_type = bytes(view[20:stop]).decode()
    except UnicodeDecodeError:
        raise IndexFlaw(Flaw.PAYLOAD, "the index type is not UTF-8", 20) from None
    dimension, metric, count, crc = _TAIL.unpack_from(view, stop)
    if metric >= len(METRICS):
        raise IndexFlaw(Flaw.METRIC, f"unknown metric code {metric}", stop + 8)
    if dimension > INDEX_DIMENSION_MAX:
        reason = f"dimension {dimension} is over the limit of {INDEX_DIMENSION_MAX}"
        raise IndexFlaw(Flaw.PAYLOAD, reason, stop)
    start = stop + _TAIL.size
    compression, size = _preamble(view, version, start)
    return SnapshotHeader(
        version, index_type, dimension, METRICS[metric], count, crc, start, compression, size
    )


def _preamble(view: memoryview, version: int, start: int) -> tuple[Compression | None, int | None]:
    if version == 1:
        return Compression.NONE, None
    if len(view) < start + PREAMBLE_BYTES:
        return None, None
    code, size = _PREAMBLE.unpack_from(view, start)
    return (Compression(code) if code <= Compression.LZ4 else None), size


def _cut(offset: int, needed: int) -> IndexFlaw:
    return IndexFlaw(Flaw.HEADER_CUT, f"the file ends inside its header; {needed} bytes", offset)


# --- the payload --------------------------------------------------------------------------------


def check_region(
    file: memoryview, header: SnapshotHeader, tick: Callable[[], None] = lambda: None
) -> None:
    """Raise ``IndexFlaw`` unless the region matches its checksum."""
    computed = 0
    for start in range(header.header_bytes, len(file), 16 * _CHUNK_BYTES):
        computed = crc32(file[start : start + 16 * _CHUNK_BYTES], computed)
        tick()
    if computed != header.crc:
        raise IndexFlaw(
            Flaw.CHECKSUM,
            f"checksum mismatch: stored {header.crc:08x}, computed {computed:08x}",
            header.header_bytes,
        )


def open_payload(
    file: memoryview, header: SnapshotHeader, *, ratio_max: int | None = INDEX_RATIO_MAX
) -> memoryview:
    """The payload, without a copy where it is not compressed. Raises ``IndexFlaw``.

    One that was compressed lies in memory of its own, which the caller may write to.
    ``ratio_max`` bounds how much longer than its stored bytes a payload may be; None lifts that.
    """
    start = header.header_bytes
    if header.version == 1:
        return file[start:]
    region = len(file) - start
    if header.payload_bytes is None:
        reason = f"a region of {region} bytes, of which the first {PREAMBLE_BYTES} say how it is"
        raise IndexFlaw(Flaw.PAYLOAD_CUT, reason, start)
    if header.compression is None:
        raise IndexFlaw(Flaw.PAYLOAD, f"unknown compression {file[start]}", start)
    stored, size = file[start + PREAMBLE_BYTES :], header.payload_bytes
    if header.compression is Compression.NONE:
        return stored  # whatever length is recorded: the original does not look at it either
    if ratio_max is not None and size > ratio_max * len(stored):
        reason = f"a payload of {size} bytes in {len(stored)} is over {ratio_max} times as long"
        raise IndexFlaw(Flaw.PAYLOAD, reason, start + 1)
    expand = _unzstd if header.compression is Compression.ZSTD else _unlz4
    try:
        return expand(stored, size)
    except IndexFlaw as flaw:
        raise IndexFlaw(flaw.flaw, flaw.reason, start + PREAMBLE_BYTES) from flaw
    except MemoryError:
        reason = f"there is no memory for a payload of {size} bytes"
        raise IndexFlaw(Flaw.COMPRESSION, reason, start + 1) from None


def _unzstd(stored: memoryview, size: int) -> memoryview:
    payload = fresh_memory(size)
    filled = 0
    try:
        reader = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True)
        with reader:
            while filled < size and (got := reader.readinto(payload[filled:])):
                filled += got
            more = bool(reader.read(1))
    except zstandard.ZstdError as error:
        raise IndexFlaw(Flaw.COMPRESSION, f"zstd: {error}") from error
    if filled < size or more:
        longer = "more than that" if more else f"{filled} bytes"
        raise IndexFlaw(Flaw.COMPRESSION, f"zstd: {size} bytes are recorded, {longer} are there")
    return payload


def _unlz4(stored: memoryview, size: int) -> memoryview:
    try:
        payload: bytearray = lz4.block.decompress(
            stored, uncompressed_size=size, return_bytearray=True
        )
    except (lz4.block.LZ4BlockError, ValueError, OverflowError) as error:
        raise IndexFlaw(Flaw.COMPRESSION, f"LZ4: {error}") from error
    if len(payload) != size:
        reason = f"LZ4: {size} bytes are recorded, {len(payload)} are there"
        raise IndexFlaw(Flaw.COMPRESSION, reason)
    return memoryview(payload)


class Encoder:
    """Turns a payload, given in pieces, into stored bytes, in pieces.

    LZ4 needs the whole payload first; the others keep nothing. ``expected`` is about how many bytes
    it has.
    """

    def __init__(self, compression: Compression, level: int, expected: int) -> None:
        self.compression = compression
        self._zstd: Any = None
        self._held: memoryview | None = None
        self._held_bytes = 0
        if compression is Compression.ZSTD:
            self._zstd = zstandard.ZstdCompressor(level=level).compressobj()
        elif compression is Compression.LZ4:
            self._held = fresh_memory(expected)

    def add(self, piece: Buffer) -> Buffer:
        """What can be stored once this is added."""
        if self._zstd is not None:
            stored: bytes = self._zstd.compress(piece)
            return stored
        if self._held is not None:
            self._hold(self._held, piece)
            return b""
        return piece

    def _hold(self, held: memoryview, piece: Buffer) -> None:
        stop = self._held_bytes + len(piece)
        if stop > len(held):
            self._held = fresh_memory(max(stop, len(held) * 3 // 2))
            self._held[: self._held_bytes] = held[: self._held_bytes]
            held = self._held
        held[self._held_bytes : stop] = piece
        self._held_bytes = stop

    def finish(self) -> Buffer:
        """The rest."""
        if self._zstd is not None:
            rest: bytes = self._zstd.flush()
            return rest
        if self._held is not None:
            held = self._held[: self._held_bytes]
            stored: bytes = lz4.block.compress(held, store_size=False)
            return stored
        return b""


# --- the stamp ----------------------------------------------------------------------------------


def encode_stamp(stamp: Stamp) -> bytes:
    """The last bytes of a payload."""
    body = _STAMP.pack(_STAMP_MAGIC, *stamp)
    return body + _CRC.pack(crc32(body))


def split_stamp(payload: memoryview) -> tuple[memoryview, Stamp | None]:
    """The payload that is the index's, and the stamp behind it, if there is one."""
    start = len(payload) - STAMP_BYTES
    if start < 0 or payload[start : start + 4] != _STAMP_MAGIC:
        return payload, None
    if crc32(payload[start:-4]) != _CRC.unpack_from(payload, start + _STAMP.size)[0]:
        return payload, None
    _, store, sequence = _STAMP.unpack_from(payload, start)
    return payload[:start], Stamp(store, sequence)
