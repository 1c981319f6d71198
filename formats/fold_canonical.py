"""The canonical form of a fold's log, which compaction and export write.

Header; one put record per live entry, in ascending order of the key's UTF-8 bytes; then one cursor
record, unless the cursor is none. The same state always gives the same bytes. Records are copied
as they are, since nothing in a record depends on its place.
"""

from array import array
from collections.abc import Generator, Sequence

import numpy as np

from holdfast.formats.fold_log import (
    HEADER,
    HEADER_BYTES,
    SPAN_LENGTH_BITS,
    SPAN_LENGTH_MASK,
    Buffer,
    DamagedRecord,
    encode_cursor,
)
from holdfast.formats.fold_spans import Integers, all_intact, first_damaged, split_spans
from holdfast.formats.values import Cursor

_CHUNK_BYTES = 1 << 20


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
    ends = HEADER_BYTES + np.cumsum(listed & np.uint64(SPAN_LENGTH_MASK), dtype=np.int64)
    head = HEADER
    tail: Buffer = b"" if cursor.is_none else encode_cursor(cursor.token)
    first, count, lies_at = 0, len(listed), HEADER_BYTES
    while first < count:
        last = min(int(np.searchsorted(ends, lies_at + _CHUNK_BYTES)) + 1, count)
        offsets, lengths = split_spans(listed[first:last])
        starts = ends[first:last] - lengths
        chunk = _copied(view, offsets, lengths)
        # What was copied is checked, not what it was copied from.
        if not all_intact(chunk, starts - lies_at):
            damaged = first_damaged(chunk, starts - lies_at, lengths)
            if damaged is not None:
                raise DamagedRecord(int(offsets[damaged]))
        if placed is not None:
            lie = starts << SPAN_LENGTH_BITS | lengths
            placed.frombytes(lie.astype(np.uint64).tobytes())
        lies_at += len(chunk)
        first = last
        if first < count:
            yield head + chunk if head else chunk
            head = b""
        else:
            tail = chunk + tail
    yield head + tail


def _copied(view: memoryview, offsets: Integers, lengths: Integers) -> bytearray:
    """The records at these offsets, back to back; neighbours are copied as one piece."""
    stops = offsets + lengths
    beyond = np.flatnonzero(stops > len(view))
    if len(beyond):  # a slice would be shorter, and records behind it would be taken for damaged
        raise DamagedRecord(int(offsets[beyond[0]]))
    apart = np.flatnonzero(offsets[1:] != stops[:-1])
    run_starts = offsets[np.concatenate(([0], apart + 1))]
    run_stops = stops[np.concatenate((apart, [len(stops) - 1]))]
    return bytearray().join(
        map(view.__getitem__, map(slice, run_starts.tolist(), run_stops.tolist()))
    )
