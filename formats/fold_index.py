"""The index cache beside a fold's log: every live key's place, so that opening needs no replay.

The log alone is the truth. A cache that is damaged, or does not fit the log, is ignored.

Little-endian throughout::

    offset  size  field
         0     4  magic "HFIX"
         4     4  format version, u32, 1
         8     8  log length covered, u64: records behind it are replayed on top
        16     8  live entries, u64 (n)
        24     8  live bytes, u64: sum of the live put records' lengths
        32     8  offset of the last record covered, u64
        40     4  fingerprint, u32: crc of samples of the log, see below
        44     4  cursor length, u32, then 16 bytes holding the cursor, zero-filled
        64     8  inode of the log, u64
        72     8  bytes of fences, u64 (f)
        80   8*n  spans (offset << 25 | length) in ascending order of key
         .     f  fences: for every 32nd key, u16 length and the key
         .     4  crc of everything before it

The fingerprint is a crc over the checksum fields of up to 1,024 evenly spaced live records and the
bytes of the last record covered. It binds the cache to this log's content, at the price of reading
a few pages.
"""

import struct
from dataclasses import dataclass

from holdfast.formats.checksum import crc32
from holdfast.formats.fold_log import HEADER_BYTES as LOG_HEADER_BYTES
from holdfast.formats.fold_log import Record, read_record, unpack_span
from holdfast.formats.limits import TOKEN_BYTES_MAX

MAGIC = b"HFIX"
FORMAT_VERSION = 1
FENCE_EVERY = 32
_SAMPLES = 1024
_HEADER = struct.Struct("<4sIQQQQII16sQQ")
_CRC = struct.Struct("<I")
_LENGTH = struct.Struct("<H")
assert _HEADER.size == 80


@dataclass(frozen=True, slots=True)
class FoldIndex:
    """A decoded cache. ``spans`` is a u64 view in key order, ``fences`` every 32nd key."""

    covered: int
    live_bytes: int
    last_record: int
    fingerprint: int
    cursor: bytes
    inode: int
    spans: memoryview
    fences: list[bytes]


def encode(index: FoldIndex) -> bytes:
    """The cache file's bytes."""
    fences = b"".join(_LENGTH.pack(len(key)) + key for key in index.fences)
    body = b"".join(
        (
            _HEADER.pack(
                MAGIC,
                FORMAT_VERSION,
                index.covered,
                len(index.spans),
                index.live_bytes,
                index.last_record,
                index.fingerprint,
                len(index.cursor),
                index.cursor,
                index.inode,
                len(fences),
            ),
            index.spans,
            fences,
        )
    )
    return body + _CRC.pack(crc32(body))


def decode(data: bytes) -> FoldIndex | None:
    """The cache in ``data``, or None when it is damaged or of another version."""
    if len(data) < _HEADER.size + _CRC.size:
        return None
    view = memoryview(data)
    if crc32(view[: -_CRC.size]) != _CRC.unpack_from(data, len(data) - _CRC.size)[0]:
        return None
    (magic, version, covered, entries, live, last, fingerprint, cursor_bytes, cursor, inode,
     fence_bytes) = _HEADER.unpack_from(data)  # fmt: skip
    spans_end = _HEADER.size + 8 * entries
    if magic != MAGIC or version != FORMAT_VERSION or cursor_bytes > TOKEN_BYTES_MAX:
        return None
    if spans_end + fence_bytes + _CRC.size != len(data):
        return None
    fences = _decode_fences(data, spans_end, spans_end + fence_bytes)
    if len(fences) != -(-entries // FENCE_EVERY):
        return None
    spans = view[_HEADER.size : spans_end].cast("Q")
    return FoldIndex(covered, live, last, fingerprint, cursor[:cursor_bytes], inode, spans, fences)


def _decode_fences(data: bytes, offset: int, end: int) -> list[bytes]:
    fences = []
    while offset + 2 <= end:
        start = offset + 2
        offset = start + int.from_bytes(data[offset:start], "little")
        fences.append(data[start:offset])
    return fences


def fingerprint(log: memoryview, spans: memoryview, last_record: int, covered: int) -> int | None:
    """The fingerprint of the first ``covered`` bytes of ``log``; None if they cannot fit."""
    if len(log) < covered:
        return None
    samples = []
    for ordinal in range(0, len(spans), max(1, len(spans) // _SAMPLES)):
        offset, length = unpack_span(spans[ordinal])
        if offset + length > covered:
            return None
        samples.append(bytes(log[offset : offset + 4]))
    if covered > LOG_HEADER_BYTES:
        if not LOG_HEADER_BYTES <= last_record < covered:
            return None
        record = read_record(log[:covered], last_record)
        if not isinstance(record, Record) or record.stop != covered:
            return None
        samples.append(bytes(log[last_record:covered]))
    return crc32(b"".join(samples))
