"""Finding one's way in a file: segment boundaries, and the manifest that counts (RVF 1, 7).

A file is read from the front by jumping from header to header::

    | header, payload | 0 0 0 | header, payload | header, pay   the file ends: broken here
    ^ start             zeros   ^                 ^
                        are skipped               broken_at

The newest manifest is the one with the highest epoch, and of several the last. It is not simply
the last thing that looks like one, as for the original, which tests neither the hash nor the
directory and believes a manifest inside an embedded image as soon as the real one is torn. One that
is believed here

* has a content hash, which matches,
* decodes, and each entry of its directory leads to a header of the same type and payload length,
* lies on a boundary. The original builds on torn tails, so that later segments may lie where no
  boundary leads; there a manifest is believed if it also knows of something at or behind the break,
  or that the manifest in front of the break was the last one, which no copy of an earlier state
  can, and does not go back in epochs.

A torn segment may come to look whole, once enough was written behind it to fill the length that its
header claims, and the jump over it then leads past what was written. So segments that no believed
manifest is behind are taken for boundaries only as far as their hashes match.

Time is bounded by what a file holds rather than by how long it says it is: a hole of a sparse file
reads as zeros, and reading a terabyte of them would take most of an hour.
"""

import re
from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.limits import RESYNC_BYTES_MAX
from holdfast.formats.rvf.manifest import (
    HEAD_BYTES,
    NO_PREVIOUS,
    Manifest,
    decode_directory,
    decode_manifest,
    peek_epoch,
)
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    MAGIC,
    NO_HASH,
    PAYLOAD_BYTES_MAX,
    SegmentHeader,
    SegmentType,
    decode_header,
    is_intact,
)

_ZEROS_PER_STEP = 1 << 18
# More zeros than this count as a break: nobody aligns by so many.
_ZEROS_MAX = 1 << 26
_BYTES_PER_SEARCH = 1 << 20
_SEGMENTS_PER_TICK = (1 << 14) - 1  # a mask
_ENTRIES_PER_STEP = 1 << 14
# A few seconds of looking; a real file has thousands, and the newest commit near its end.
_CANDIDATES_MAX = 1 << 20
_LOOK_BACK_BYTES_MAX = 1 << 31
_MANIFEST_HEADER = re.compile(re.escape(MAGIC) + b"." + bytes([SegmentType.MANIFEST]), re.DOTALL)
_MAGIC_NUMBER = int.from_bytes(MAGIC, "little")
# What a header says that a directory says as well, and its magic.
_HEADER = np.dtype(
    {
        "names": ["magic", "type", "payload_bytes"],
        "formats": ["<u4", "u1", "<u8"],
        "offsets": [0, 5, 16],
        "itemsize": 24,
    }
)


def _no_tick() -> None:
    pass


class Walk(Iterator[tuple[int, SegmentHeader]]):
    """The segments from the front: offset and header of each that is whole.

    ``end`` is where the last of them ends. Once the walk is over, ``broken_at`` is the place where
    neither a header nor zeros follow, or a segment that does not fit; None when nothing is amiss.
    """

    def __init__(
        self, view: memoryview, start: int = 0, tick: Callable[[], None] = _no_tick
    ) -> None:
        self._view = view
        self._tick = tick
        self._steps = 0
        self.end = start
        self.broken_at: int | None = None
        self.reason = ""

    def __next__(self) -> tuple[int, SegmentHeader]:
        view, offset = self._view, self.end
        if not self._steps & _SEGMENTS_PER_TICK:
            self._tick()
        self._steps += 1
        if offset < len(view) and not view[offset]:
            offset = skip_zeros(view[: offset + _ZEROS_MAX], offset, self._tick)
            if offset == self.end + _ZEROS_MAX and offset < len(view):
                self._break(self.end, f"more than {_ZEROS_MAX} zeros")
        if offset >= len(view) or self.broken_at is not None:
            raise StopIteration
        header = decode_header(view, offset)
        if header is None:
            short = len(view) - offset < HEADER_BYTES
            self._break(offset, "a header is cut short" if short else "no segment begins here")
        elif header.payload_bytes > len(view) - offset - HEADER_BYTES:
            self._break(offset, f"a payload of {header.payload_bytes} bytes is cut short")
        else:
            self.end = offset + HEADER_BYTES + header.payload_bytes
            return offset, header
        raise StopIteration

    def _break(self, offset: int, reason: str) -> None:
        self.broken_at, self.reason = offset, reason


def walk(view: memoryview, start: int = 0, tick: Callable[[], None] = _no_tick) -> Walk:
    """The segments from ``start``, which is a boundary; ``tick`` is called now and then."""
    return Walk(view, start, tick)


def skip_zeros(view: memoryview, offset: int, tick: Callable[[], None] = _no_tick) -> int:
    """Offset of the first byte from ``offset`` on that is not zero, or the length."""
    while offset < len(view):
        tick()
        step = np.frombuffer(view, np.uint8, min(_ZEROS_PER_STEP, len(view) - offset), offset)
        if step.max():
            return offset + int((step != 0).argmax())
        offset += len(step)
    return offset


class Located(NamedTuple):
    """The manifest that counts; ``offset`` and ``end`` are those of its segment.

    ``refused`` is the offset of the newest manifest that is newer and intact and yet not believed,
    because the segments it lists are not there; None when there is none. If there is one, then what
    lies behind ``end`` is no torn tail: something older than it was damaged or lost.
    """

    offset: int
    manifest: Manifest
    end: int
    refused: int | None


def find_manifest(view: memoryview, tick: Callable[[], None] = _no_tick) -> Located | None:
    """The newest manifest that can be believed, see above; None when there is none.

    Raises ``InvalidFormat`` when what lies behind a break is so full of look-alikes, or so long,
    that bounded time does not suffice for a verdict.
    """
    found = _search(view, tick)
    if found.given_up_at is not None:
        raise InvalidFormat(
            f"behind the damage at {found.given_up_at} is more that might be a manifest than the "
            f"{_CANDIDATES_MAX} headers and {_LOOK_BACK_BYTES_MAX} bytes that are looked at",
            offset=found.given_up_at,
        )
    return found.best


def find_intact(view: memoryview, tick: Callable[[], None] = _no_tick) -> Located | None:
    """The newest manifest that is intact, though segments it lists may not be there.

    For telling what a damaged file held: nothing that this one leads to can be taken for granted.
    """
    found = _search(view, tick)
    if found.refused is None:
        return found.best
    plausible = _plausible(view, found.refused)
    assert plausible is not None
    try:
        manifest = decode_manifest(plausible[1])
    except InvalidFormat:
        return found.best
    end = found.refused + HEADER_BYTES + len(plausible[1])
    return Located(found.refused, manifest, end, None)


class _Found(NamedTuple):
    """``refused`` is that of the newest manifest, also when none is believed.

    ``given_up_at`` is a break behind which not everything was looked at.
    """

    best: Located | None
    refused: int | None
    given_up_at: int | None


def _search(view: memoryview, tick: Callable[[], None]) -> _Found:
    """Look for the newest manifest."""
    steps = walk(view, tick=tick)
    offsets = array(
        "Q",
        (
            offset
            for offset, header in steps
            if header.type == SegmentType.MANIFEST and header.payload_bytes >= HEAD_BYTES
        ),
    )
    best = None
    refused = None
    for offset in _newest_first(view, offsets):
        tick()
        found = _plausible(view, offset)
        if found is None or not is_intact(*found):
            continue
        best = _believed(view, offset, found[1], refused)
        if best is not None:
            break
        refused = offset if refused is None else refused
    broken_at = steps.broken_at
    committed = 0 if best is None else best.end
    if steps.end > committed:
        broken_at = first_doubt(view, committed, tick)
    if broken_at is None:
        return _Found(best, refused, None)
    behind = _behind_break(view, broken_at, best, tick)
    return behind if behind.refused is not None else behind._replace(refused=refused)


def first_doubt(
    view: memoryview,
    start: int,
    tick: Callable[[], None] = _no_tick,
    zeros_max: int = _ZEROS_MAX,
) -> int | None:
    """Where the first segment from ``start`` on lies that is not intact, or the walk's break.

    More than ``zeros_max`` zeros ahead of a segment are in doubt, too. ``start`` is a boundary.
    """
    steps = walk(view, start, tick)
    expected = start
    for offset, header in steps:
        tick()
        end = offset + HEADER_BYTES + header.payload_bytes
        if offset - expected > zeros_max:
            return expected
        if header.payload_bytes > PAYLOAD_BYTES_MAX or not is_intact(
            header, view[offset + HEADER_BYTES : end]
        ):
            return offset
        expected = end
    return steps.broken_at


def _newest_first(view: memoryview, offsets: "array[int]") -> Iterator[int]:
    """Manifests by descending epoch, then offset, whether their epochs are true or not."""
    if not offsets:
        return
    places = np.frombuffer(offsets, np.uint64)
    # An epoch is a payload's first field; this is what any four bytes behind a header would be.
    fields = np.ndarray((len(view) - HEADER_BYTES - 3,), "<u4", view, HEADER_BYTES, (1,))
    order = np.lexsort((places, fields[places.astype(np.intp)]))
    yield from map(int, places[order[::-1]])


def _behind_break(
    view: memoryview, broken_at: int, best: Located | None, tick: Callable[[], None]
) -> _Found:
    """The newest manifest behind a break that can be believed, else ``best``."""
    epoch = 0 if best is None else best.manifest.epoch
    refused = None
    budget = RESYNC_BYTES_MAX
    start = max(broken_at, len(view) - _LOOK_BACK_BYTES_MAX)
    given_up_at = broken_at if start > broken_at else None
    for number, offset in enumerate(_look_alikes(view, start, tick)):
        found = _plausible(view, offset)
        if found is not None and peek_epoch(found[1]) >= epoch:
            budget -= found[0].payload_bytes
        else:
            found = None
        if budget < 0 or number >= _CANDIDATES_MAX:
            given_up_at = broken_at
            break
        if found is None or not is_intact(*found) or not _reaches(found[1], broken_at, best):
            continue
        located = _believed(view, offset, found[1], refused)
        if located is not None:
            return _Found(located, refused, None)
        refused = offset if refused is None else refused
    if best is not None and refused is not None:
        best = best._replace(refused=refused)
    return _Found(best, refused, given_up_at)


def _look_alikes(view: memoryview, start: int, tick: Callable[[], None]) -> Iterator[int]:
    """Offsets from the end down to ``start`` where the header of a manifest may begin."""
    overlap = len(MAGIC) + 1
    for stop in range(len(view), start, -_BYTES_PER_SEARCH):
        tick()
        first = max(start, stop - _BYTES_PER_SEARCH)
        matches = _MANIFEST_HEADER.finditer(view, first, min(len(view), stop + overlap))
        yield from reversed([match.start() for match in matches])


def _plausible(view: memoryview, offset: int) -> tuple[SegmentHeader, memoryview] | None:
    """Header and payload at ``offset`` if both are whole, with a hash, and no size is absurd."""
    header = decode_header(view, offset)
    if header is None or header.content_hash == NO_HASH:
        return None
    payload = view[offset + HEADER_BYTES : offset + HEADER_BYTES + header.payload_bytes]
    whole = len(payload) == header.payload_bytes
    return (header, payload) if whole and HEAD_BYTES <= len(payload) <= PAYLOAD_BYTES_MAX else None


def _reaches(payload: memoryview, offset: int, best: Located | None) -> bool:
    """Whether a manifest knows of something at or behind ``offset``, or that it follows ``best``.

    One of ours lists neither its witness nor former manifests, but says where the last one was.
    """
    try:
        if (decode_directory(payload)["offset"] >= offset).any():
            return True
        extension = decode_manifest(payload).extension
    except InvalidFormat:
        return False
    if extension is None or extension.previous == NO_PREVIOUS:
        return False
    return extension.previous >= offset or (best is not None and extension.previous == best.offset)


def _believed(
    view: memoryview, offset: int, payload: memoryview, refused: int | None
) -> Located | None:
    """The manifest in an intact payload, unless it does not decode or leads astray."""
    try:
        if not _leads_to_segments(view, decode_directory(payload)):
            return None
        manifest = decode_manifest(payload)
    except InvalidFormat:
        return None
    return Located(offset, manifest, offset + HEADER_BYTES + len(payload), refused)


def _leads_to_segments(view: memoryview, directory: NDArray[np.void]) -> bool:
    """Whether each entry has a header of its type and length, with room for the payload.

    And for all of them together, or a directory could have one read a million times.
    """
    # Every place where a header might begin, as an array over the same bytes.
    room = len(view) - HEADER_BYTES
    headers = np.ndarray((room + 1,), _HEADER, view, 0, (1,))
    total = 0
    for start in range(0, len(directory), _ENTRIES_PER_STEP):
        part = directory[start : start + _ENTRIES_PER_STEP]
        length, offsets = part["payload_bytes"], part["offset"]
        if not ((length <= room) & (offsets <= room - length)).all():
            return False
        found = headers[offsets.astype(np.intp)]
        same = (
            (found["magic"] == _MAGIC_NUMBER)
            & (found["type"] == part["type"])
            & (found["payload_bytes"] == length)
        )
        if not same.all():
            return False
        total += int(length.sum()) + HEADER_BYTES * len(part)
        if total > len(view):
            return False
    return True
