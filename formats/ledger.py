"""The ledger: a small file beside a log that says which unanswered requests the log holds.

It is written with plain writes and never synced on the way, because it has to outlive processes,
not the machine: requests are only sent again while the machine is up, and then the page cache
still has it. Two questions are asked of it after a crash:

* Was the request that a caller sends again already in the log? Then it is answered, not repeated.
* Was power lost, and from which offset on was nothing known to be synced? Damage behind that is a
  torn tail even when intact records follow it, since blocks reach a disk in any order.

One header sector, then a ring of slots; all integers little-endian::

    offset  size  header (the rest of the 512 bytes is zero)
         0     4  magic "HFLG"
         4     4  format version, u32, 2
         8    16  boot id of the machine when this was written
        24     8  inode of the log, u64: offsets are void for any other file
        32     8  synced, u64: every byte of the log below it was synced
        40     4  crc of bytes 0 to 39

    offset  size  slot k, at 512 + 64 * k, so that none straddles a page
         0     8  sequence number, u64, counting up
         8     8  client, u64
        16     8  request, u64
        24     8  start, u64: where in the log its records begin
        32     8  end, u64: where they end
        40     4  crc field of its first record, u32
        44    16  two u64 of its answer, where the store's kind has such
        60     4  crc of bytes 0 to 59

A request whose ``end`` is within the log's intact part took effect. One that is cut by the end of
the intact part did not, and is cut away as a whole. Start and end of zero mean: took effect, in
whichever file.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.formats.checksum import crc32
from holdfast.formats.limits import LEDGER_SLOTS

MAGIC = b"HFLG"
FORMAT_VERSION = 2
HEADER_BYTES = 512
_HEADER = struct.Struct("<4sI16sQQ")
_SLOT = struct.Struct("<QQQQQIQQ")
_STORED_SLOT = struct.Struct("<QQQQQIQQI")
_CRC = struct.Struct("<I")
SLOT_BYTES = 64
assert _HEADER.size == 40
assert _SLOT.size == 60
assert _STORED_SLOT.size == SLOT_BYTES
LEDGER_BYTES = HEADER_BYTES + LEDGER_SLOTS * SLOT_BYTES
_EMPTY = bytes(64 * SLOT_BYTES)


@dataclass(frozen=True, slots=True)
class LedgerHeader:
    """What the ring belongs to, and how far the log is known to be synced."""

    boot_id: bytes
    inode: int
    synced: int


class Slot(NamedTuple):
    """One request and where its records were to go."""

    sequence: int
    client: int
    request: int
    start: int = 0
    end: int = 0
    first_crc: int = 0
    counted: int = 0
    """What its answer counted; and the second such number."""
    counted_too: int = 0


def encode_header(header: LedgerHeader) -> bytes:
    """The header's 44 meaningful bytes."""
    body = _HEADER.pack(MAGIC, FORMAT_VERSION, header.boot_id, header.inode, header.synced)
    return body + _CRC.pack(crc32(body))


def encode_slot(slot: Slot) -> bytes:
    """One slot, 64 bytes."""
    body = _SLOT.pack(*slot)
    return body + _CRC.pack(crc32(body))


def slot_offset(sequence: int) -> int:
    """Where in the file the slot with this sequence number lies."""
    return HEADER_BYTES + sequence % LEDGER_SLOTS * SLOT_BYTES


def decode(data: bytes) -> tuple[LedgerHeader, list[Slot]] | None:
    """Header and valid slots in order of sequence; None when there is no valid header."""
    if len(data) < HEADER_BYTES or crc32(data[:40]) != _CRC.unpack_from(data, 40)[0]:
        return None
    magic, version, boot_id, inode, synced = _HEADER.unpack_from(data)
    if magic != MAGIC or version != FORMAT_VERSION:
        return None
    slots = []
    for first in range(HEADER_BYTES, len(data), len(_EMPTY)):
        part = data[first : first + len(_EMPTY)]
        if part == _EMPTY:
            continue  # as most of the ring is, and looking at each slot takes a millisecond
        whole = memoryview(part)[: len(part) // SLOT_BYTES * SLOT_BYTES]
        for number, fields in enumerate(_STORED_SLOT.iter_unpack(whole)):
            if not fields[1]:
                continue
            start = number * SLOT_BYTES
            if crc32(whole[start : start + _SLOT.size]) == fields[-1]:
                slots.append(Slot(*fields[:-1]))
    slots.sort()
    return LedgerHeader(boot_id, inode, synced), slots
