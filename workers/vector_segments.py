"""Every segment of a vector store's file, also behind a torn one.

The original builds on torn tails: what follows lies where no boundary leads, inside the length that
the torn segment claims or behind bytes that are no segment. What a directory lists lies on a
boundary, and so does the manifest itself; from there the way goes on::

    | header, payload | header, pay| header, payload | header, payload |
                      ^ torn       ^ listed: the torn one is passed over
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentHeader


def segments_in(view: memoryview, known: Iterable[int]) -> Iterator[tuple[int, SegmentHeader]]:
    """Offset and header of each segment that is whole; ``known`` are offsets where one begins."""
    boundaries = set(known)
    ahead = sorted(boundaries)
    start: int | None = 0
    while start is not None:
        steps = walk(view, start)
        start = None
        for offset, header in steps:
            start = _next(ahead, offset)
            if start is not None and start < offset + HEADER_BYTES + header.payload_bytes:
                if offset in boundaries:
                    yield offset, header
                break
            start = None
            yield offset, header
        else:
            if steps.broken_at is not None:
                start = _next(ahead, steps.broken_at)


def _next(ahead: list[int], offset: int) -> int | None:
    """The first of ``ahead`` behind ``offset``."""
    place = bisect_right(ahead, offset)
    return ahead[place] if place < len(ahead) else None
