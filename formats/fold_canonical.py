"""The canonical form of a fold's log, which compaction and export write.

Header; one put record per live entry, in ascending order of the key's UTF-8 bytes; then one cursor
record, unless the cursor is none. The same state always gives the same bytes. Records are copied
as they are, since nothing in a record depends on its place.
"""

from array import array
from collections.abc import Generator, Sequence

import numpy as np

from holdfast.formats.fold_log import HEADER, HEADER_BYTES, Buffer, encode_cursor, pack_span
from holdfast.formats.fold_spans import copied
from holdfast.formats.values import Cursor


def canonical_log(
    view: memoryview,
    spans: Sequence[int],
    cursor: Cursor,
    placed: "array[int] | None" = None,
) -> Generator[Buffer, None, None]:
    """The canonical log of the records at ``spans``, in pieces of about 1 MiB.

    ``spans`` are in order of key. Where each record comes to lie is appended to ``placed``. Raises
    ``DamagedRecord``: damage must not be copied into a file that looks whole.
    """
    listed = np.asarray(spans, np.uint64)
    head, lies_at, left = HEADER, HEADER_BYTES, len(listed)
    tail: Buffer = b"" if cursor.is_none else encode_cursor(cursor.token)
    for piece, lie in copied(view, listed):
        if placed is not None:
            placed.frombytes((lie + np.uint64(pack_span(lies_at, 0))).tobytes())
        lies_at += len(piece)
        left -= len(lie)
        if left:
            yield head + piece if head else piece
            head = b""
        else:
            tail = piece + tail
    yield head + tail
