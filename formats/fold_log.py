"""The fold's log, version 2: a header, then records back to back until the end of the file.

Header, 6 bytes, no checksum::

    offset  size  field
         0     4  magic "PGSS"
         4     2  format version, u16, always 2

Records; all integers little-endian; crc is CRC-32/ISO-HDLC of everything after the crc field::

    put     | crc u32 | 01 | key_len u16 | key | value_len u32 | value | ver_len u8 | version |
    delete  | crc u32 | 02 | key_len u16 | key | ver_len u8 | version |     also written for purge
    cursor  | crc u32 | 03 | cur_len u8 | cursor |

    put = 12 + key + value + version bytes, delete = 8 + key + version, cursor = 6 + cursor.
    key: UTF-8, up to 65,535 bytes. value: up to 16 MiB. version, cursor: up to 10 bytes.

The state is a function of the records in order: the last record of a key wins, the last cursor
wins. The cursor follows the data it covers, so data may be ahead of the cursor, never behind it.

There is no sequence number and no chain, so how a log ends is judged like this. ``clean``: the last
record ends at the end of the file. ``torn``: a record is damaged or cut short and no intact record
lies behind it, as a crash leaves it. ``corrupt`` or ``invalid``: intact records do lie behind the
damage, or a record is intact and breaks the format; nobody may cut those. An intact record behind
the damage proves nothing when both were unsynced at a power loss, because blocks reach a disk in
any order; a caller who knows so passes ``unsynced_from``.
"""

import re
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, cast

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import LimitExceeded
from holdfast.formats.limits import (
    BATCH_BYTES_MAX,
    KEY_BYTES_MAX,
    RESYNC_BYTES_MAX,
    TOKEN_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from holdfast.formats.values import AnyUpdate, Cursor, KvEntry, Put, Version

Buffer = bytes | bytearray | memoryview

MAGIC = b"PGSS"
FORMAT_VERSION = 2
HEADER = MAGIC + FORMAT_VERSION.to_bytes(2, "little")
HEADER_BYTES = len(HEADER)

PUT, DELETE, CURSOR = 1, 2, 3

_CRC = struct.Struct("<I")
_HEAD = struct.Struct("<IBH")  # crc, type, key_len
_KIND_KEY = struct.Struct("<BH")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_LENGTH_BYTE = [bytes([length]) for length in range(TOKEN_BYTES_MAX + 1)]

# A span is where a put record lies, packed into one int: offset << 25 | length in bytes. Zero,
# which no record has, marks a key as deleted.
SPAN_LENGTH_BITS = 25
SPAN_LENGTH_MASK = (1 << SPAN_LENGTH_BITS) - 1
DELETED = 0

PUT_OVERHEAD_BYTES = 12
RECORD_BYTES_MAX = PUT_OVERHEAD_BYTES + KEY_BYTES_MAX + VALUE_BYTES_MAX + TOKEN_BYTES_MAX
CURSOR_RECORD_BYTES_MIN = 6
assert RECORD_BYTES_MAX <= SPAN_LENGTH_MASK

# How often a long scan reports that it is alive.
_RECORDS_PER_TICK = (1 << 14) - 1  # a mask


def encode_put(key: bytes, value: bytes, token: bytes) -> bytes:
    """One put record. Lengths are the caller's to check: see ``limits``."""
    body = b"%b%b%b%b%c%b" % (
        _KIND_KEY.pack(PUT, len(key)), key, _U32.pack(len(value)), value, len(token), token
    )  # fmt: skip
    return _CRC.pack(crc32(body)) + body


def encode_delete(key: bytes, token: bytes) -> bytes:
    """One delete record, which is also how a purge is written."""
    body = b"%b%b%c%b" % (_KIND_KEY.pack(DELETE, len(key)), key, len(token), token)
    return _CRC.pack(crc32(body)) + body


def encode_cursor(token: bytes) -> bytes:
    """One cursor record."""
    body = b"%c%c%b" % (CURSOR, len(token), token)
    return _CRC.pack(crc32(body)) + body


def encode_updates(
    updates: Sequence[AnyUpdate], start: int
) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """Pieces of the records of a batch that begins at ``start``, and where each key's will lie.

    Raises ``LimitExceeded`` naming the update that is over a limit.
    """
    pieces: list[bytes] = []
    items: list[tuple[bytes, int]] = []
    pack_kind_key, pack_u32, join = _KIND_KEY.pack, _U32.pack, b"".join
    add, note = pieces.append, items.append
    offset, key_bytes, value_bytes, token_bytes = start, -1, -1, -1
    for update in updates:
        key, token = update.key.encode(), update.version.token
        if len(key) != key_bytes or len(token) != token_bytes:  # else as in the record before
            key_bytes, token_bytes = len(key), len(token)
            if key_bytes > KEY_BYTES_MAX or token_bytes > TOKEN_BYTES_MAX:
                raise _over_limit(updates)
            head, tail = pack_kind_key(PUT, key_bytes), _LENGTH_BYTE[token_bytes]
        if type(update) is Put:  # the common record, inline, as in scan
            value = update.value
            if len(value) != value_bytes:
                value_bytes = len(value)
                if value_bytes > VALUE_BYTES_MAX:
                    raise _over_limit(updates)
                middle = pack_u32(value_bytes)
            body = join((head, key, middle, value, tail, token))
            add(pack_u32(crc32(body)))
            add(body)
            length = 4 + len(body)
            note((key, offset << SPAN_LENGTH_BITS | length))
        else:
            record = encode_delete(key, token)
            add(record)
            length = len(record)
            note((key, DELETED))
        offset += length
    if offset - start > BATCH_BYTES_MAX:
        raise _too_long("the batch", offset - start, BATCH_BYTES_MAX)
    return pieces, items


def _over_limit(updates: Sequence[AnyUpdate]) -> LimitExceeded:
    """The error for the first update that is over a limit."""
    for number, update in enumerate(updates):
        sizes = [
            ("key", len(update.key.encode()), KEY_BYTES_MAX),
            ("version", len(update.version.token), TOKEN_BYTES_MAX),
        ]
        if isinstance(update, Put):
            sizes.append((f"value of key {update.key[:80]!r}", len(update.value), VALUE_BYTES_MAX))
        for what, size, limit in sizes:
            if size > limit:
                return _too_long(f"updates[{number}].{what}", size, limit)
    raise AssertionError("no update is over a limit")


def _too_long(what: str, size: int, limit: int) -> LimitExceeded:
    return LimitExceeded(f"{what} is {size} bytes, over the limit of {limit}")


def pack_span(offset: int, length: int) -> int:
    """The span of a put record."""
    return offset << SPAN_LENGTH_BITS | length


def unpack_span(span: int) -> tuple[int, int]:
    """Offset and length in bytes of a put record."""
    return span >> SPAN_LENGTH_BITS, span & SPAN_LENGTH_MASK


def header_problem(head: Buffer) -> str | None:
    """What is wrong with a file's first bytes, or None. A cut-short header is no problem."""
    head = bytes(head[:HEADER_BYTES])
    if HEADER.startswith(head):
        return None
    if not MAGIC.startswith(head[:4]):
        return f"bad magic {head[:4].hex(' ')}, expected {MAGIC.hex(' ')}"
    found = int.from_bytes(head[4:], "little")
    return f"unsupported version {found}, this release reads {FORMAT_VERSION}"


class Flaw(StrEnum):
    """What a record that cannot be used suffers from."""

    CUT = "cut short"
    CHECKSUM = "checksum mismatch"
    MALFORMED = "malformed"
    ILLEGAL = "intact but illegal"


class Record(NamedTuple):
    """One intact record. ``stop`` is the offset just behind it."""

    kind: int
    key: bytes
    value: memoryview
    token: bytes
    stop: int


class Damage(NamedTuple):
    """Bytes at ``offset`` that are no usable record."""

    offset: int
    flaw: Flaw
    reason: str


def _malformed(offset: int, reason: str) -> Damage:
    return Damage(offset, Flaw.MALFORMED, reason)


def _cut(offset: int, what: str) -> Damage:
    return Damage(offset, Flaw.CUT, f"the file ends inside {what}")


def read_record(view: memoryview, offset: int) -> Record | Damage:
    """The record at ``offset``, checked in full; never raises, whatever the bytes are."""
    end = len(view)
    if end - offset < CURSOR_RECORD_BYTES_MIN:
        return _cut(offset, "a record's first 6 bytes")
    kind = view[offset + 4]
    if kind not in (PUT, DELETE, CURSOR):
        return _malformed(offset, f"unknown record type 0x{kind:02x}")
    key_at = offset + 7
    value_at = value_end = offset + 5
    key_end = key_at
    if kind != CURSOR:
        if end - offset < 7:
            return _cut(offset, "a key length")
        key_end = key_at + _U16.unpack_from(view, offset + 5)[0]
        value_at = value_end = key_end
    if kind == PUT:
        if key_end + 4 > end:
            return _cut(offset, "a key or value length")
        value_at = key_end + 4
        value_bytes = _U32.unpack_from(view, key_end)[0]
        if value_bytes > VALUE_BYTES_MAX:
            reason = f"value length {value_bytes} is over the limit of {VALUE_BYTES_MAX}"
            return Damage(offset, Flaw.CHECKSUM, reason)
        value_end = value_at + value_bytes
    if value_end >= end:
        return _cut(offset, "a record")
    stop = value_end + 1 + view[value_end]
    if stop > end:
        return _cut(offset, "a version or cursor")
    stored = _CRC.unpack_from(view, offset)[0]
    computed = crc32(view[offset + 4 : stop])
    too_long = view[value_end] > TOKEN_BYTES_MAX
    if too_long:
        reason = f"token length {view[value_end]} is over the limit of {TOKEN_BYTES_MAX}"
        flaw = Flaw.ILLEGAL if stored == computed else Flaw.MALFORMED
        return Damage(offset, flaw, reason)
    if stored != computed:
        reason = f"checksum mismatch: stored {stored:08x}, computed {computed:08x}"
        return Damage(offset, Flaw.CHECKSUM, reason)
    key = bytes(view[key_at:key_end])
    if not _is_utf8(key):
        return Damage(offset, Flaw.ILLEGAL, "key is not UTF-8")
    return Record(kind, key, view[value_at:value_end], bytes(view[value_end + 1 : stop]), stop)


def _is_utf8(key: bytes) -> bool:
    if key.isascii():
        return True
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


class DamagedRecord(Exception):
    """A record that an index led to does not match its checksum. ``offset`` is where."""

    def __init__(self, offset: int) -> None:
        super().__init__(offset)
        self.offset = offset


class Sliceable(Protocol):
    """Bytes whose slices are ``bytes``, such as a mapped file."""

    def __getitem__(self, part: slice, /) -> bytes: ...

    def __len__(self) -> int: ...


class _Copied:
    """A view as ``Sliceable``, for views that show only a part or belong to a bytearray."""

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def __getitem__(self, part: slice, /) -> bytes:
        return bytes(self._view[part])

    def __len__(self) -> int:
        return len(self._view)


def sliceable(view: memoryview) -> Sliceable:
    """What ``view`` shows. Slicing a mapped file itself costs half of slicing a view of it."""
    whole = view.obj
    if isinstance(whole, bytearray) or len(cast("Sliceable", whole)) != view.nbytes:
        return _Copied(view)
    return cast("Sliceable", whole)


def check_put(log: Sliceable, span: int) -> None:
    """Raise ``DamagedRecord`` unless the bytes at ``span`` match their checksum."""
    offset = span >> SPAN_LENGTH_BITS
    record = log[offset : offset + (span & SPAN_LENGTH_MASK)]
    if crc32(record[4:]) != int.from_bytes(record[:4], "little"):
        raise DamagedRecord(offset)


def decode_puts(view: memoryview, spans: Iterable[int]) -> list[KvEntry]:
    """The entries at ``spans``, each checked; raises ``DamagedRecord``."""
    entries: list[KvEntry] = []
    log = sliceable(view)
    read_head, read_u32, add = _HEAD.unpack_from, _U32.unpack_from, entries.append
    for span in spans:
        offset = span >> SPAN_LENGTH_BITS
        record = log[offset : offset + (span & SPAN_LENGTH_MASK)]
        if len(record) < PUT_OVERHEAD_BYTES:
            raise DamagedRecord(offset)
        crc, _, key_bytes = read_head(record)
        if crc32(record[4:]) != crc:
            raise DamagedRecord(offset)
        key_end = 7 + key_bytes
        value_end = key_end + 4 + read_u32(record, key_end)[0]
        value = record[key_end + 4 : value_end]
        add(KvEntry(record[7:key_end].decode(), value, Version(record[value_end + 1 :])))
    return entries


def put_key(log: Sliceable, offset: int) -> bytes:
    """The key of the put record at ``offset``, unchecked; whatever bytes are there otherwise."""
    key_bytes = int.from_bytes(log[offset + 5 : offset + 7], "little")
    return log[offset + 7 : offset + 7 + key_bytes]


class Ending(StrEnum):
    """How a log ends; see the module's docstring."""

    CLEAN = "clean"
    TORN = "torn"
    CORRUPT = "corrupt"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement on a log. ``offset`` is where the damage begins, or the length when clean."""

    ending: Ending
    offset: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan found: how far records are good, the last cursor, and the verdict."""

    end: int
    cursor: Cursor | None
    last_record: int
    """Offset of the last good record, or the scan's start when there is none."""
    records: int
    verdict: Verdict


def _no_tick() -> None:
    pass


def scan(
    buffer: Buffer,
    start: int,
    table: dict[bytes, int],
    *,
    unsynced_from: int | None = None,
    tick: Callable[[], None] = _no_tick,
) -> Scan:
    """Read records from ``start`` to the end, collecting each key's last span into ``table``.

    Deleted keys are collected as ``DELETED``. ``tick`` is called now and then.
    """
    view = memoryview(buffer)
    end = len(view)
    offset, last, records = start, start, 0
    token: bytes | None = None
    damage: Damage | None = None
    read_head, read_u32, log = _HEAD.unpack_from, _U32.unpack_from, sliceable(view)
    while offset < end:
        if not records & _RECORDS_PER_TICK:
            tick()
        try:  # the common record, inline: a call per record would double the time
            crc, kind, key_bytes = read_head(view, offset)
            if kind == PUT:
                key_end = offset + 7 + key_bytes
                value_bytes = read_u32(view, key_end)[0]
                value_end = key_end + 4 + value_bytes
                token_bytes = view[value_end]
                stop = value_end + 1 + token_bytes
                if (
                    stop <= end
                    and value_bytes <= VALUE_BYTES_MAX
                    and token_bytes <= TOKEN_BYTES_MAX
                    and crc32(view[offset + 4 : stop]) == crc
                ):
                    key = log[offset + 7 : key_end]
                    if key.isascii() or _is_utf8(key):
                        table[key] = offset << SPAN_LENGTH_BITS | (stop - offset)
                        last, offset = offset, stop
                        records += 1
                        continue
        except (struct.error, IndexError):
            pass  # the lengths point behind the end: the careful reader says what is wrong
        record = read_record(view, offset)
        if isinstance(record, Damage):
            damage = record
            break
        if record.kind == CURSOR:
            token = record.token
        elif record.kind == DELETE:
            table[record.key] = DELETED
        else:
            table[record.key] = pack_span(offset, record.stop - offset)
        last, offset = offset, record.stop
        records += 1
    verdict = (
        Verdict(Ending.CLEAN, offset)
        if damage is None
        else judge(view, damage, unsynced_from=unsynced_from, tick=tick)
    )
    cursor = None if token is None else Cursor(token)
    return Scan(offset, cursor, last, records, verdict)


def judge(
    view: memoryview,
    damage: Damage,
    *,
    unsynced_from: int | None = None,
    tick: Callable[[], None] = _no_tick,
) -> Verdict:
    """Whether ``damage`` is a torn tail, which may be cut, or corruption, which may not."""
    if damage.flaw is Flaw.ILLEGAL:
        return Verdict(Ending.INVALID, damage.offset, damage.reason)
    if unsynced_from is not None and damage.offset >= unsynced_from:
        reason = f"{damage.reason}; nothing from {unsynced_from} on had been synced"
        return Verdict(Ending.TORN, damage.offset, reason)
    intact = find_intact(view, damage.offset + 1, tick)
    if intact is None:
        return Verdict(Ending.TORN, damage.offset, damage.reason)
    behind = (
        "too much lies behind it to be searched for intact records"
        if intact < 0
        else f"an intact record follows at {intact}"
    )
    ending = Ending.INVALID if damage.flaw is Flaw.MALFORMED else Ending.CORRUPT
    return Verdict(ending, damage.offset, f"{damage.reason}; {behind}")


_RECORD_TYPE = re.compile(rb"[\x01-\x03]")
_CANDIDATES_MAX = 1 << 18  # a second or so of looking


def find_intact(view: memoryview, start: int, tick: Callable[[], None] = _no_tick) -> int | None:
    """Offset of the first intact record at or behind ``start``; None if there is none.

    Gives up with -1 after checksumming ``RESYNC_BYTES_MAX`` bytes, or that many candidates, so that
    a file made of look-alikes costs bounded time.
    """
    budget = RESYNC_BYTES_MAX
    for number, match in enumerate(_RECORD_TYPE.finditer(view, start + 4)):
        if not number & _RECORDS_PER_TICK:
            tick()
        offset = match.start() - 4
        record = read_record(view, offset)
        if isinstance(record, Record):
            return offset
        if record.flaw is not Flaw.CUT:
            budget -= _claimed_bytes(view, offset)
        if budget < 0 or number >= _CANDIDATES_MAX:
            return -1
    return None


def _claimed_bytes(view: memoryview, offset: int) -> int:
    """How many bytes the record at ``offset`` claims to have, for accounting only."""
    if view[offset + 4] == CURSOR:
        return CURSOR_RECORD_BYTES_MIN + TOKEN_BYTES_MAX
    key_bytes: int = _U16.unpack_from(view, offset + 5)[0]
    key_end = offset + 7 + key_bytes
    if view[offset + 4] == DELETE:
        return key_end - offset
    value_bytes: int = _U32.unpack_from(view, key_end)[0]
    return key_end - offset + value_bytes if value_bytes <= VALUE_BYTES_MAX else 0
