"""Which rows of a chunk are dead: deleted, or written again since. Chunks themselves never change.

Little-endian::

    offset  size  field
         0     8  magic "HFWDEAD\\0"
         8     4  format version, u32, 1
        12     4  form, u32: 0 a bitmap, 1 row numbers
        16    16  id of the store
        32     8  number of the chunk, u64
        40     8  rows of the chunk, u64 (n)
        48     8  dead rows, u64 (d)
        56     .  form 0: a bit for each row, least significant first, zero-padded to a byte;
                  form 1: the numbers of the dead rows, ascending, u32 * d
         .     4  crc of everything before it

The shorter form is written.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidFormat

Buffer = bytes | bytearray | memoryview
Mask = NDArray[np.bool_]

MAGIC = b"HFWDEAD\0"
FORMAT_VERSION = 1
_HEAD = struct.Struct("<8sII16sQQQ")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEAD.size
assert HEADER_BYTES == 56
_BITMAP, _NUMBERS = 0, 1


def encode(store_id: bytes, chunk: int, dead: Mask) -> bytes:
    """The dead rows as a file's bytes; ``dead`` is (n,)."""
    rows = np.flatnonzero(dead)
    form = _NUMBERS if len(rows) * 4 < -(-len(dead) // 8) else _BITMAP
    head = _HEAD.pack(MAGIC, FORMAT_VERSION, form, store_id, chunk, len(dead), len(rows))
    if form == _NUMBERS:
        body = rows.astype("<u4").tobytes()
    else:
        body = np.packbits(dead, bitorder="little").tobytes()
    return head + body + _CRC.pack(crc32(body, crc32(head)))


class Owner(NamedTuple):
    """Which chunk a file of dead rows is about."""

    store_id: bytes
    chunk: int
    rows: int
    """Of the chunk."""


def owner_of(data: Buffer) -> Owner | None:
    """Which chunk the dead rows are of; None if this is no such file, or a damaged one."""
    view = memoryview(data)
    body_end = len(view) - _CRC.size
    if body_end < HEADER_BYTES or bytes(view[: len(MAGIC)]) != MAGIC:
        return None
    if _CRC.unpack_from(view, body_end)[0] != crc32(view[:body_end]):
        return None
    return Owner(*_HEAD.unpack_from(view)[3:6])


def decode(data: Buffer, store_id: bytes, chunk: int, rows: int) -> Mask:
    """The dead rows of that chunk, (rows,). Raises ``InvalidFormat`` for anything else."""
    view = memoryview(data)
    if len(view) < HEADER_BYTES + _CRC.size:
        raise _refusal(f"{len(view)} bytes, at least {HEADER_BYTES + _CRC.size} are needed", 0)
    body_end = len(view) - _CRC.size
    if _CRC.unpack_from(view, body_end)[0] != crc32(view[:body_end]):
        raise _refusal("the checksum does not match", 0)
    magic, version, form, of_store, of_chunk, has, dead = _HEAD.unpack_from(view)
    if magic != MAGIC or version != FORMAT_VERSION or form not in (_BITMAP, _NUMBERS):
        raise _refusal(f"magic {magic!r}, version {version}, form {form}", 0)
    if (of_store, of_chunk, has) != (store_id, chunk, rows):
        raise _refusal(f"they are of chunk {of_chunk} with {has} rows of another file or store", 16)
    body = view[HEADER_BYTES:body_end]
    if len(body) != (dead * 4 if form == _NUMBERS else -(-rows // 8)):
        raise _refusal(f"{len(body)} bytes for {dead} of {rows} rows", HEADER_BYTES)
    if form == _BITMAP:
        bits = np.frombuffer(body, np.uint8)
        mask = np.unpackbits(bits, count=rows, bitorder="little").astype(np.bool_)
    else:
        numbers = np.frombuffer(body, "<u4")
        if len(numbers) and (
            numbers.max() >= rows or (np.diff(numbers.astype(np.int64)) <= 0).any()
        ):
            raise _refusal("row numbers out of order or out of range", HEADER_BYTES)
        mask = np.zeros(rows, np.bool_)
        mask[numbers] = True
    if int(np.count_nonzero(mask)) != dead:
        raise _refusal(f"{np.count_nonzero(mask)} rows where {dead} are announced", 48)
    return mask


def _refusal(reason: str, offset: int) -> InvalidFormat:
    return InvalidFormat(f"not the dead rows of a chunk: {reason}", offset=offset, reason=reason)
