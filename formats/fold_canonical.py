"""The canonical form of a fold's log, which compaction and export write.

Header; one put record per live entry, in ascending order of the key's UTF-8 bytes; then one cursor
record, unless the cursor is none. The same state always gives the same bytes. Records are copied
as they are, since nothing in a record depends on its place.
"""

import struct
from array import array
from collections.abc import Generator, Sequence

from holdfast.formats.checksum import crc32
from holdfast.formats.fold_log import (
    HEADER,
    HEADER_BYTES,
    SPAN_LENGTH_BITS,
    SPAN_LENGTH_MASK,
    DamagedRecord,
    encode_cursor,
    sliceable,
)
from holdfast.formats.values import Cursor

_CHUNK_BYTES = 1 << 20
_U32 = struct.Struct("<I")


def canonical_log(
    view: memoryview,
    spans: Sequence[int],
    cursor: Cursor,
    placed: "array[int] | None" = None,
) -> Generator[bytes, None, None]:
    """The canonical log of the records at ``spans``, in pieces of about 1 MiB.

    ``spans`` are in order of key. Where each record comes to lie is appended to ``placed``. Raises
    ``DamagedRecord``: damage must not be copied into a file that looks whole.
    """
    log, read_u32 = sliceable(view), _U32.unpack_from
    pieces: list[bytes | memoryview] = [HEADER]
    lies_at = HEADER_BYTES
    chunk_end = lies_at + _CHUNK_BYTES
    run_start = run_stop = 0  # neighbours in the log are copied as one piece
    for span in spans:
        offset, length = span >> SPAN_LENGTH_BITS, span & SPAN_LENGTH_MASK
        stop = offset + length
        if crc32(log[offset + 4 : stop]) != read_u32(view, offset)[0]:
            raise DamagedRecord(offset)
        if offset != run_stop:
            pieces.append(view[run_start:run_stop])
            run_start = offset
        run_stop = stop
        if placed is not None:
            placed.append(lies_at << SPAN_LENGTH_BITS | length)
        lies_at += length
        if lies_at >= chunk_end:
            pieces.append(view[run_start:run_stop])
            yield b"".join(pieces)
            pieces = []
            run_start = run_stop = 0
            chunk_end = lies_at + _CHUNK_BYTES
    pieces.append(view[run_start:run_stop])
    if not cursor.is_none:
        pieces.append(encode_cursor(cursor.token))
    yield b"".join(pieces)
