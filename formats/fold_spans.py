"""Spans by the thousand: taking them apart, and checking the records they lead to.

Apart from ``fold_log``, since only work on whole logs needs numpy, which takes longer to load than
a small fold to open.
"""

from array import array
from collections.abc import Generator, Iterable

import numpy as np
import numpy.typing as npt

from holdfast.formats.checksum import crc32
from holdfast.formats.fold_log import (
    SPAN_LENGTH_BITS,
    SPAN_LENGTH_MASK,
    Buffer,
    DamagedRecord,
    sliceable,
)

Spans = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]

_PIECE_BYTES = 1 << 20
_CRC_BYTES = 4
_CLEARS_CRC = np.uint32(0x6DD90A9D)
_KEY_AT = 7
_KEY_LENGTH_PLACES = np.arange(5, 7)


def split_spans(spans: Spans) -> tuple[Integers, Integers]:
    """Offsets and lengths in bytes."""
    offsets = (spans >> np.uint64(SPAN_LENGTH_BITS)).astype(np.int64)
    lengths = (spans & np.uint64(SPAN_LENGTH_MASK)).astype(np.int64)
    return offsets, lengths


def copied(view: memoryview, spans: Spans) -> Generator[tuple[bytearray, Spans], None, None]:
    """The records at ``spans`` back to back, in pieces of about 1 MiB.

    With each come the spans of its records in it. Raises ``DamagedRecord``; it is what was copied
    that is checked, not what it was copied from.
    """
    ends = np.cumsum(spans & np.uint64(SPAN_LENGTH_MASK), dtype=np.int64)
    first, begun, count = 0, 0, len(spans)
    while first < count:
        last = min(int(np.searchsorted(ends, begun + _PIECE_BYTES)) + 1, count)
        offsets, lengths = split_spans(spans[first:last])
        piece = _joined(view, offsets, lengths)
        starts = ends[first:last] - lengths - begun
        if not all_intact(piece, starts):
            raise DamagedRecord(int(offsets[_first_damaged(piece, starts, lengths)]))
        yield piece, (starts << SPAN_LENGTH_BITS | lengths).astype(np.uint64)
        begun += len(piece)
        first = last


def _joined(view: memoryview, offsets: Integers, lengths: Integers) -> bytearray:
    """What lies at these places; neighbours are copied as one."""
    stops = offsets + lengths
    beyond = np.flatnonzero(stops > len(view))
    if len(beyond):  # a slice would be shorter, and records behind it would be taken for damaged
        raise DamagedRecord(int(offsets[beyond[0]]))
    apart = np.flatnonzero(offsets[1:] != stops[:-1])
    run_starts = offsets[np.concatenate(([0], apart + 1))]
    run_stops = stops[np.concatenate((apart, [len(stops) - 1]))]
    runs = map(slice, run_starts.tolist(), run_stops.tolist())
    return bytearray().join(map(view.__getitem__, runs))


def all_intact(records: bytearray, starts: Integers) -> bool:
    """Whether records that lie back to back from offset 0 on all match their checksums.

    In one checksum of everything, which takes a fraction of one for each. A running CRC becomes 0,
    what it is before a record's first byte, with four bytes that depend on nothing but itself. So
    these take the place of each stored checksum meanwhile, as though the record before had the CRC
    that it says, and the last record's CRC comes out as stored. Where one is damaged, it does not:
    what the CRC is off by never vanishes on the way. False is certain, True is as sure as one
    record's checksum; which it is takes one for each.
    """
    words = np.ndarray((len(records) - _CRC_BYTES + 1,), "<u4", records, strides=(1,))
    stored = words[starts]
    words[starts[1:]] = stored[:-1] ^ _CLEARS_CRC
    computed = crc32(memoryview(records)[_CRC_BYTES:])
    words[starts] = stored
    return bool(computed == stored[-1])


def _first_damaged(records: bytearray, starts: Integers, lengths: Integers) -> int:
    """Which is the first of them that does not match its checksum, when one does not."""
    bodies = _slices(records, starts + _CRC_BYTES, starts + lengths)
    stored = _slices(records, starts, starts + _CRC_BYTES)
    for number, (body, crc) in enumerate(zip(bodies, stored, strict=True)):
        if crc32(body) != int.from_bytes(crc, "little"):
            return number
    raise AssertionError("none of them is damaged")


def _slices(data: Buffer, starts: Integers, stops: Integers) -> Iterable[bytes]:
    log = sliceable(memoryview(data))
    return map(log.__getitem__, map(slice, starts.tolist(), stops.tolist()))


def put_keys(data: Buffer, spans: "array[int]", lies_at: int) -> list[bytes]:
    """The keys of these intact put records; ``data`` is what the log has from ``lies_at`` on."""
    offsets = split_spans(np.asarray(spans, np.uint64))[0] - lies_at
    fields = np.frombuffer(data, np.uint8)[offsets[:, np.newaxis] + _KEY_LENGTH_PLACES]
    starts = offsets + _KEY_AT
    return list(_slices(data, starts, starts + fields.view("<u2")[:, 0]))


def check_puts(view: memoryview, spans: Spans) -> None:
    """Raise ``DamagedRecord`` unless the bytes at all of ``spans`` match their checksums."""
    for _ in copied(view, spans):
        pass
