"""Spans by the thousand: taking them apart, and checking the records they lead to.

Apart from ``fold_log``, since only work on whole logs needs numpy, which takes longer to load than
a small fold to open.
"""

from array import array
from collections.abc import Iterable

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

_CRC_BYTES = 4
_CLEARS_CRC = np.uint32(0x6DD90A9D)
_KEY_AT = 7
_KEY_LENGTH_PLACES = np.arange(5, 7)


def split_spans(spans: Spans) -> tuple[Integers, Integers]:
    """Offsets and lengths in bytes."""
    offsets = (spans >> np.uint64(SPAN_LENGTH_BITS)).astype(np.int64)
    lengths = (spans & np.uint64(SPAN_LENGTH_MASK)).astype(np.int64)
    return offsets, lengths


def first_damaged(data: Buffer, offsets: Integers, lengths: Integers) -> int | None:
    """Which of these records is the first that does not match its checksum; None if none is.

    Without a step of Python's own for each: that would take longer than the checksums do.
    """
    if not len(offsets):
        return None
    stops = offsets + lengths
    beyond = np.flatnonzero(stops > len(data))
    if len(beyond):
        return int(beyond[0])
    stored, bodies = _taken_apart(data, offsets, stops)
    wrong = np.flatnonzero(np.fromiter(map(crc32, bodies), np.uint32, len(offsets)) != stored)
    return int(wrong[0]) if len(wrong) else None


def all_intact(records: bytearray, starts: Integers) -> bool:
    """Whether records that lie back to back from offset 0 on all match their checksums.

    In one checksum of everything, which takes a fraction of one for each. A running CRC becomes 0,
    what it is before a record's first byte, with four bytes that depend on nothing but itself. So
    these take the place of each stored checksum meanwhile, as though the record before had the CRC
    that it says, and the last record's CRC comes out as stored. Where one is damaged, it does not:
    what the CRC is off by never vanishes on the way. False is certain, True is as sure as one
    record's checksum; ``first_damaged`` tells which it is.
    """
    words = np.ndarray((len(records) - _CRC_BYTES + 1,), "<u4", records, strides=(1,))
    stored = words[starts]
    words[starts[1:]] = stored[:-1] ^ _CLEARS_CRC
    computed = crc32(memoryview(records)[_CRC_BYTES:])
    words[starts] = stored
    return bool(computed == stored[-1])


def _taken_apart(
    data: Buffer, offsets: Integers, stops: Integers
) -> tuple[npt.NDArray[np.uint32], Iterable[bytes]]:
    """The checksums that these records have, and what they are of."""
    start, stop, size = int(offsets[0]), int(stops[-1]), int(stops[0] - offsets[0])
    alike = stop - start == size * len(offsets)
    if alike and np.array_equal(offsets, np.arange(start, stop, size)):
        # All of one length and back to back, as fixed-size values are: taken apart in one step.
        kind = np.dtype([("crc", "<u4"), ("body", f"V{size - _CRC_BYTES}")])
        records = np.frombuffer(data, kind, len(offsets), start)
        return records["crc"], records["body"].tolist()
    fields = np.frombuffer(data, np.uint8)[offsets[:, np.newaxis] + np.arange(_CRC_BYTES)]
    return fields.view("<u4")[:, 0], _slices(data, offsets + _CRC_BYTES, stops)


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
    offsets, lengths = split_spans(spans)
    damaged = first_damaged(view, offsets, lengths)
    if damaged is not None:
        raise DamagedRecord(int(offsets[damaged]))
