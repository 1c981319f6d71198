"""The warm store's log: what was written since the last flush, in the order it took effect.

Little-endian throughout. Header, 48 bytes::

    offset  size  field
         0     8  magic "HFWARMWL"
         8     4  format version, u32, 1
        12     4  dimension of the vectors, u32
        16    16  id of the store
        32     8  sequence of the first record, u64
        40     4  crc of bytes 0 to 39
        44     4  zero

Records follow back to back, each of a head of 48 bytes and a body, which is zero-padded to a
multiple of 8, so that arrays can be used where they lie::

    offset  size  field
         0     4  crc of bytes 4 to 47 of the head
         4     4  marker "WREC"
         8     8  sequence, u64: one more than the record before
        16     4  crc of the body with its padding
        20     1  kind: 1 write, 2 delete points, 3 delete a range of time
        21     1  flags: 1 one entity for all rows, 2 every entity, 4 every space
        22     2  zero
        24     8  body length, u64, without padding
        32     4  space, u32
        36     4  rows, u32 (n)
        40     8  bytes of metadata, u64 (m)

    write          | timestamps i64 * n | entities u64 * n, or 1 | vectors f32 * n * dimension |
                   | zeros to a multiple of 8 | metadata: an Arrow IPC stream of m bytes |
    delete points  | timestamps i64 * n | entities u64 * n, or 1 |
    delete range   | first and last timestamp, i64, both included | entity u64 * n, n 0 or 1 |

CRC is CRC-32/ISO-HDLC. How a log ends is judged like this. ``clean``: the last record ends at the
end of the file. ``torn``: a record is damaged or cut short, and no intact record lies behind it, as
a crash leaves it. ``corrupt``: an intact record of a later sequence lies behind the damage; nobody
may cut that. After a power loss blocks reach a disk in any order, so a caller who knows what was
not synced passes ``unsynced_from``, from where on every damage is a torn tail; and one who knows
what was synced passes ``synced_to``, before which none is.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.limits import RESYNC_BYTES_MAX
from holdfast.formats.points import Points, metadata_from_ipc

Buffer = bytes | bytearray | memoryview

MAGIC = b"HFWARMWL"
FORMAT_VERSION = 1
MARKER = b"WREC"
STORE_ID_BYTES = 16

_HEADER = struct.Struct("<8sII16sQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = 48
_HEAD = struct.Struct("<4sQIBB2xQIIQ")
HEAD_BYTES = _CRC.size + _HEAD.size
assert _HEADER.size == 40
assert HEAD_BYTES == 48

ONE_ENTITY, EVERY_ENTITY, EVERY_SPACE = 1, 2, 4
_ALIGNMENT = 8
_FIND_MARKER = re.compile(re.escape(MARKER)).finditer


class RecordKind(IntEnum):
    """What a record does."""

    WRITE = 1
    DELETE = 2
    DELETE_RANGE = 3


_KINDS = frozenset(int(kind) for kind in RecordKind)


class LogHeader(NamedTuple):
    """A checked header."""

    dimension: int
    store_id: bytes
    first_sequence: int


class Record(NamedTuple):
    """An intact record. ``body`` is a view of the log."""

    offset: int
    end: int
    sequence: int
    kind: RecordKind
    flags: int
    space: int
    rows: int
    metadata_bytes: int
    body: memoryview


@dataclass(slots=True)
class LogScan:
    """The intact records of a log, and how it ends."""

    records: list[Record]
    end: int
    verdict: Verdict


def encode_header(dimension: int, store_id: bytes, first_sequence: int) -> bytes:
    """A header, 48 bytes."""
    head = _HEADER.pack(MAGIC, FORMAT_VERSION, dimension, store_id, first_sequence)
    return head + _CRC.pack(crc32(head)) + bytes(4)


def decode_header(log: Buffer) -> LogHeader | str:
    """The header, or what is wrong with it."""
    if len(log) < HEADER_BYTES:
        return f"{len(log)} bytes are no header, which has {HEADER_BYTES}"
    magic, version, dimension, store_id, first = _HEADER.unpack_from(log)
    if magic != MAGIC:
        return f"magic {magic!r} is not {MAGIC!r}"
    (crc,) = _CRC.unpack_from(log, _HEADER.size)
    if crc != crc32(log[: _HEADER.size]) or any(log[_HEADER.size + 4 : HEADER_BYTES]):
        return "the header does not match its checksum"
    if version != FORMAT_VERSION:
        return f"format version {version}, this release reads {FORMAT_VERSION}"
    return LogHeader(dimension, store_id, first)


# --- writing ------------------------------------------------------------------------------------


def encode_write(
    sequence: int,
    space: int,
    entities: Buffer,
    timestamps: Buffer,
    vectors: Buffer,
    metadata: Buffer = b"",
) -> list[Buffer]:
    """A write of points of one space, in pieces that follow one another.

    ``timestamps`` are i64, ``entities`` u64, one for each or one for all, ``vectors`` f32, all as
    little-endian bytes; ``metadata`` is what ``points.metadata_to_ipc`` gives.
    """
    rows = len(timestamps) // 8
    flags = ONE_ENTITY if len(entities) == 8 and rows != 1 else 0
    arrays = [timestamps, entities, vectors, bytes(-len(vectors) % _ALIGNMENT), metadata]
    return _record(sequence, RecordKind.WRITE, flags, space, rows, len(metadata), arrays)


def encode_delete(sequence: int, space: int, entities: Buffer, timestamps: Buffer) -> list[Buffer]:
    """A delete of points by key; arguments as for ``encode_write``."""
    rows = len(timestamps) // 8
    flags = ONE_ENTITY if len(entities) == 8 and rows != 1 else 0
    arrays = [timestamps, entities]
    return _record(sequence, RecordKind.DELETE, flags, space, rows, 0, arrays)


def encode_delete_range(
    sequence: int, space: int | None, entity: int | None, start: int, end: int
) -> list[Buffer]:
    """A delete of what lies from ``start`` to ``end``, both included; None means every one."""
    flags = (EVERY_ENTITY if entity is None else 0) | (EVERY_SPACE if space is None else 0)
    body = struct.pack("<qq", start, end)
    rows = 0
    if entity is not None:
        body += entity.to_bytes(8, "little")
        rows = 1
    return _record(sequence, RecordKind.DELETE_RANGE, flags, space or 0, rows, 0, [body])


def _record(
    sequence: int,
    kind: RecordKind,
    flags: int,
    space: int,
    rows: int,
    metadata_bytes: int,
    arrays: list[Buffer],
) -> list[Buffer]:
    length = sum(map(len, arrays))
    padding = bytes(-length % _ALIGNMENT)
    pieces = [piece for piece in (*arrays, padding) if len(piece)]
    crc = 0
    for piece in pieces:
        crc = crc32(piece, crc)
    head = _HEAD.pack(MARKER, sequence, crc, kind, flags, length, space, rows, metadata_bytes)
    return [_CRC.pack(crc32(head)) + head, *pieces]


# --- reading ------------------------------------------------------------------------------------


def write_of(record: Record, dimension: int) -> Points:
    """The points of a write, as views of the record.

    ``InvalidFormat`` for broken metadata, with their offset in the log.
    """
    rows, body = record.rows, record.body
    timestamps = np.frombuffer(body, "<i8", rows)
    entities, at = _entities(record, rows * 8)
    vectors = np.frombuffer(body, "<f4", rows * dimension, at).reshape(rows, dimension)
    at += rows * dimension * 4
    at += -at % _ALIGNMENT
    try:
        metadata = metadata_from_ipc(body[at : at + record.metadata_bytes], rows)
    except InvalidFormat as error:
        error.offset = record.offset + HEAD_BYTES + at
        raise
    spaces = np.full(rows, record.space, np.uint32)
    return Points(spaces, entities, timestamps, vectors, metadata)


def keys_of(record: Record) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Entities and timestamps of a delete of points."""
    entities, _ = _entities(record, record.rows * 8)
    return entities, np.frombuffer(record.body, "<i8", record.rows)


def range_of(record: Record) -> tuple[int | None, int | None, int, int]:
    """Space, entity (None: every one), first and last timestamp of a delete of a range."""
    start, end = struct.unpack_from("<qq", record.body)
    space = None if record.flags & EVERY_SPACE else record.space
    if record.flags & EVERY_ENTITY:
        return space, None, start, end
    return space, int.from_bytes(record.body[16:24], "little"), start, end


def _entities(record: Record, at: int) -> tuple[NDArray[np.uint64], int]:
    count = 1 if record.flags & ONE_ENTITY else record.rows
    entities = np.frombuffer(record.body, "<u8", count, at)
    if count != record.rows:
        entities = np.full(record.rows, entities[0], np.uint64)
    return entities, at + count * 8


def read_record(log: memoryview, offset: int, dimension: int) -> Record | str:
    """The record at ``offset``, or what is wrong with it."""
    head = _read_head(log, offset)
    if isinstance(head, str):
        return head
    sequence, body_crc, kind, flags, length, space, rows, metadata_bytes = head
    start = offset + HEAD_BYTES
    padded = length + -length % _ALIGNMENT
    if padded > len(log) - start:
        return f"a body of {padded} bytes is cut short after {max(0, len(log) - start)}"
    body = log[start : start + length]
    if crc32(log[start : start + padded]) != body_crc:
        return "the body does not match its checksum"
    record = Record(
        offset, start + padded, sequence, RecordKind(kind), flags, space, rows, metadata_bytes, body
    )
    if length != _length_of(record, dimension):
        return f"a body of {length} bytes does not hold {rows} rows"
    return record


def _read_head(log: memoryview, offset: int) -> tuple[int, int, int, int, int, int, int, int] | str:
    if len(log) - offset < HEAD_BYTES:
        return f"a head is cut short after {len(log) - offset} bytes"
    marker, *fields = _HEAD.unpack_from(log, offset + _CRC.size)
    (crc,) = _CRC.unpack_from(log, offset)
    if marker != MARKER:
        return "no record begins here"
    if crc != crc32(log[offset + _CRC.size : offset + HEAD_BYTES]):
        return "the head does not match its checksum"
    sequence, body_crc, kind, flags, length, space, rows, metadata_bytes = fields
    if kind not in _KINDS:
        return f"a record of unknown kind {kind}"
    return sequence, body_crc, kind, flags, length, space, rows, metadata_bytes


def _length_of(record: Record, dimension: int) -> int:
    """How long the body of a record has to be."""
    rows = record.rows
    entities = 8 * (1 if record.flags & ONE_ENTITY else rows)
    match record.kind:
        case RecordKind.DELETE_RANGE:
            return 16 + (0 if record.flags & EVERY_ENTITY else 8)
        case RecordKind.DELETE:
            return rows * 8 + entities
        case RecordKind.WRITE:
            arrays = rows * 8 + entities + rows * dimension * 4
            return arrays + -arrays % _ALIGNMENT + record.metadata_bytes


def scan(
    log: memoryview,
    header: LogHeader,
    *,
    unsynced_from: int | None = None,
    synced_to: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> LogScan:
    """Read a log whose header was checked, and judge its end."""
    records: list[Record] = []
    offset, sequence = HEADER_BYTES, header.first_sequence
    while offset < len(log):
        record = read_record(log, offset, header.dimension)
        if not isinstance(record, str) and record.sequence != sequence:
            record = f"record {record.sequence} where {sequence} was due"
        if isinstance(record, str):
            verdict = _judge(log, offset, sequence, record, header, unsynced_from, synced_to, tick)
            return LogScan(records, offset, verdict)
        records.append(record)
        offset, sequence = record.end, sequence + 1
        tick()
    if offset < synced_to:
        lost = Verdict(Ending.CORRUPT, offset, f"the log ends here, and was synced to {synced_to}")
        return LogScan(records, offset, lost)
    return LogScan(records, offset, Verdict(Ending.CLEAN, offset, ""))


def _judge(
    log: memoryview,
    offset: int,
    sequence: int,
    reason: str,
    header: LogHeader,
    unsynced_from: int | None,
    synced_to: int,
    tick: Callable[[], None],
) -> Verdict:
    """Torn or corrupt: what the damage at ``offset`` is."""
    if offset < synced_to:
        return Verdict(Ending.CORRUPT, offset, f"{reason}; this was synced")
    if unsynced_from is not None and offset >= unsynced_from:
        return Verdict(Ending.TORN, offset, reason)
    behind = _record_behind(log, offset, sequence, header.dimension, tick)
    if behind is None:
        return Verdict(Ending.TORN, offset, reason)
    return Verdict(Ending.CORRUPT, offset, f"{reason}; {behind}")


def _record_behind(
    log: memoryview, start: int, sequence: int, dimension: int, tick: Callable[[], None]
) -> str | None:
    """Says that an intact record of this sequence or a later one lies behind ``start``, if so."""
    found = _find_record(log, start, sequence, dimension, _Budget(), tick)
    if isinstance(found, Record):
        return f"record {found.sequence} at offset {found.offset} is intact"
    return found


class _Budget:
    """How many bytes may still be looked through for intact records."""

    def __init__(self) -> None:
        self.left = RESYNC_BYTES_MAX


def _find_record(
    log: memoryview,
    start: int,
    sequence: int,
    dimension: int,
    budget: _Budget,
    tick: Callable[[], None],
) -> Record | str | None:
    """The next intact record of this sequence or a later one; or why it is not looked for."""
    for found in _FIND_MARKER(log, start + _CRC.size):
        offset = found.start() - _CRC.size
        if offset % _ALIGNMENT:
            continue
        head = _read_head(log, offset)
        if isinstance(head, str) or head[0] < sequence:
            continue
        record = read_record(log, offset, dimension)
        if not isinstance(record, str):
            return record
        budget.left -= min(head[4], len(log) - offset)
        if budget.left < 0:
            return f"{RESYNC_BYTES_MAX} bytes behind it were searched for an intact record"
        tick()
    return None


class Gap(NamedTuple):
    """Bytes of a log that are no intact record. ``rows`` are those of the record, if it tells."""

    start: int
    stop: int
    reason: str
    rows: int


def intact_records(
    log: memoryview, dimension: int, tick: Callable[[], None]
) -> tuple[list[Record], list[Gap]]:
    """Every intact record of a damaged log, in order of sequence, and what lies between them."""
    records: list[Record] = []
    gaps: list[Gap] = []
    offset, sequence, budget = HEADER_BYTES, 0, _Budget()
    while offset < len(log):
        record = read_record(log, offset, dimension)
        if not isinstance(record, str) and record.sequence < sequence:
            record = f"record {record.sequence} where {sequence} was due"
        if isinstance(record, str):
            behind = _find_record(log, offset + _ALIGNMENT, sequence, dimension, budget, tick)
            stop = behind.offset if isinstance(behind, Record) else len(log)
            reason = f"{record}; {behind}" if isinstance(behind, str) else record
            gaps.append(Gap(offset, stop, reason, _rows_announced(log, offset)))
            offset = stop
            continue
        records.append(record)
        offset, sequence = record.end, record.sequence + 1
        tick()
    return records, gaps


def _rows_announced(log: memoryview, offset: int) -> int:
    """How many points a record has whose head is intact, and its body perhaps not."""
    head = _read_head(log, offset)
    return 0 if isinstance(head, str) or head[2] != RecordKind.WRITE else head[6]
