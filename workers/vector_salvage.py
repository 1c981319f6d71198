"""Finding every intact segment of an RVF file, wherever damage has put it out of reach of a jump.

A jump from header to header ends at the first header that is damaged. Here what is damaged is
searched for the next header that a matching payload follows; nothing else is believed, not even
the length of what is damaged.
"""

import contextlib
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.rvf import journal, record, vec
from holdfast.formats.rvf.manifest import NO_PREVIOUS, Entry, Manifest
from holdfast.formats.rvf.scan import Located, skip_zeros
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    MAGIC,
    SegmentType,
    decode_header,
    is_intact,
    is_unverifiable,
)
from holdfast.workers import sets
from holdfast.workers.vector_loading import payload_at

_BYTES_PER_SEARCH = 1 << 20
_BYTES_IN_VAIN_MAX = 1 << 31  # searched, or hashed for nothing, until one gives up
_MAGIC = re.compile(re.escape(MAGIC))


class Gap(NamedTuple):
    """Bytes from ``start`` to ``stop`` that are no intact segment, and begin with no zero."""

    start: int
    stop: int


@dataclass(slots=True)
class Pieces:
    """What a file consists of. ``given_up_at``: from there on nothing was looked at."""

    view: memoryview
    offsets: "array[int]" = field(default_factory=lambda: array("Q"))
    gaps: list[Gap] = field(default_factory=list)
    given_up_at: int | None = None

    def segments(self, start: int = 0) -> Iterator[Entry]:
        """The intact segments that begin at ``start`` or behind it."""
        for offset in self.offsets:
            if offset >= start:
                header = decode_header(self.view, offset)
                assert header is not None
                yield Entry(header.segment_id, offset, header.payload_bytes, header.type)


def find_pieces(view: memoryview, listed: set[int], tick: Callable[[], None]) -> Pieces:
    """Every intact segment; one without a hash only if it is ``listed``, by its offset."""
    pieces = Pieces(view)
    budget = _BYTES_IN_VAIN_MAX
    at, gap = 0, -1
    while at < len(view):
        tick()
        end = _end_of_intact(view, at, listed)
        if end is not None:
            if gap >= 0:
                pieces.gaps.append(Gap(gap, at))
                gap = -1
            pieces.offsets.append(at)
            at = end
            continue
        header = decode_header(view, at)
        if header is not None and header.payload_bytes <= len(view) - at:
            budget -= header.payload_bytes
        if gap < 0 and view[at]:
            gap = at
        stop = min(len(view), at + max(1, budget))
        following = (
            _next_magic(view, at + 1, stop, tick) if view[at] else skip_zeros(view[:stop], at)
        )
        budget -= following - at
        at = following
        if budget <= 0 and at < len(view):
            pieces.given_up_at = at
            break
    if gap >= 0:
        pieces.gaps.append(Gap(gap, at))
    return pieces


def _end_of_intact(view: memoryview, offset: int, listed: set[int]) -> int | None:
    """Where the segment at ``offset`` ends; None unless there is one that is intact."""
    header = decode_header(view, offset)
    if header is None or header.payload_bytes > len(view) - offset - HEADER_BYTES:
        return None
    end = offset + HEADER_BYTES + header.payload_bytes
    taken = is_intact(header, view[offset + HEADER_BYTES : end])
    return end if taken or (is_unverifiable(header) and offset in listed) else None


def _next_magic(view: memoryview, start: int, stop: int, tick: Callable[[], None]) -> int:
    """Where the next header may begin, or ``stop``."""
    for first in range(start, stop, _BYTES_PER_SEARCH):
        tick()
        last = min(stop, first + _BYTES_PER_SEARCH + len(MAGIC) - 1)
        found = _MAGIC.search(view, first, last)
        if found is not None:
            return found.start()
    return stop


# --- what was never committed ------------------------------------------------------------------

# Made anew, or of an earlier state of the store.
_LEFT_OUT = {
    SegmentType.INDEX, SegmentType.JOURNAL, SegmentType.MANIFEST, SegmentType.WITNESS,
    SegmentType.STORE, SegmentType.COW_MAP, SegmentType.MEMBERSHIP,
}  # fmt: skip


def with_uncommitted(pieces: Pieces, located: Located, limit: int) -> Located:
    """The manifest with what lies from ``limit`` on, as if it had been committed in that order."""
    listed = {entry.offset for entry in located.manifest.entries}
    entries = list(located.manifest.entries)
    deleted = located.manifest.deleted
    for entry in pieces.segments(limit):
        if entry.offset in listed:
            continue
        if entry.type == SegmentType.JOURNAL:
            with contextlib.suppress(InvalidFormat):
                gone = journal.decode_journal(payload_at(pieces.view, entry)).ids
                deleted = sets.union(deleted, sets.unique(gone))
        elif entry.type == SegmentType.VEC:
            with contextlib.suppress(InvalidFormat):
                given, _ = vec.view_rows(payload_at(pieces.view, entry))
                deleted = sets.difference(deleted, sets.unique(given))
        if entry.type not in _LEFT_OUT:
            entries.append(entry)
    manifest = replace(located.manifest, entries=tuple(entries), deleted=deleted)
    return located._replace(manifest=manifest)


def without_manifest(path: str, pieces: Pieces) -> Located:
    """A manifest for a file that has none: the dimension most rows have, and options if it says.

    It lists nothing else yet, and its identity is nobody's. Raises ``InvalidFormat`` when there is
    no row.
    """
    rows: Counter[int] = Counter()
    options: list[tuple[int, Entry]] = []
    for entry in pieces.segments():
        with contextlib.suppress(InvalidFormat):
            if entry.type == SegmentType.VEC:
                dimension, count = vec.check_vec(payload_at(pieces.view, entry))
                rows[dimension] += count
            elif entry.type == SegmentType.STORE:
                found = record.decode_store(payload_at(pieces.view, entry))
                if found is not None and found[1].origin != "branch":
                    options.append((found[0], entry))
    if not rows.total():
        raise InvalidFormat(
            f"{path!r} holds no intact manifest and no intact row",
            path=path,
            offset=0,
            reason="no intact manifest",
        )
    newest = max(options, default=None)
    manifest = Manifest(
        epoch=0,
        dimension=rows.most_common(1)[0][0],
        total_vectors=0,
        profile=0,
        metric=0,
        entries=() if newest is None else (newest[1],),
        deleted=np.empty(0, np.uint64),
        identity=None,
        extension=None,
    )
    return Located(NO_PREVIOUS, manifest, len(pieces.view), None)
