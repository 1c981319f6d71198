"""Where each live key of a fold lies in its log, in key order.

Two layers. The *base* is an array of spans sorted by key, either loaded from the index cache or
built from the layer above; keys are not held in memory but read from the mapped log, with every
32nd key kept as a fence to start from. The *overlay* is a dictionary of what changed since: key to
span, or ``DELETED``. Both live writes and replay go through ``apply``.
"""

from array import array
from bisect import bisect_right
from collections.abc import Collection, Generator, Iterator, Sequence

from sortedcontainers import SortedList

from holdfast.formats.fold_index import FENCE_EVERY
from holdfast.formats.fold_log import (
    DELETED,
    SPAN_LENGTH_BITS,
    SPAN_LENGTH_MASK,
    check_put,
    put_key,
    sliceable,
)

_FENCES_PER_STEP = 1024
_ABSENT = -1


class Base:
    """Spans in key order over a mapped log."""

    def __init__(self, view: memoryview, spans: memoryview, fences: list[bytes]) -> None:
        self._log = sliceable(view)
        self._view = view
        self.spans = spans
        self.fences = fences

    @property
    def view(self) -> memoryview:
        """The mapped log."""
        return self._view

    @view.setter
    def view(self, view: memoryview) -> None:
        self._view, self._log = view, sliceable(view)

    def __len__(self) -> int:
        return len(self.spans)

    def key_at(self, ordinal: int) -> bytes:
        """The key of the ``ordinal``-th entry, unchecked."""
        return put_key(self._log, self.spans[ordinal] >> SPAN_LENGTH_BITS)

    def locate(self, key: bytes, *, hit_checked: bool = True) -> tuple[int, bool]:
        """Ordinal of the first key not below ``key``, and whether it is ``key``.

        Raises ``DamagedRecord`` when that depends on a damaged key. Without ``hit_checked`` it is
        for the caller to check the record that was found, as reading it does.
        """
        block = bisect_right(self.fences, key) - 1
        if block < 0:
            return 0, False
        low = block * FENCE_EVERY
        high = min(low + FENCE_EVERY, len(self.spans))
        log, spans = self._log, self.spans
        probed = []
        while low < high:
            middle = (low + high) >> 1
            span = spans[middle]
            found = put_key(log, span >> SPAN_LENGTH_BITS)
            if found == key:
                if hit_checked:  # a flipped bit may have made it this key
                    check_put(log, span)
                return middle, True
            probed.append(span)
            if found < key:
                low = middle + 1
            else:
                high = middle
        for span in probed:  # a flipped bit in a key must not read as "absent"
            check_put(log, span)
        return low, False

    def find(self, key: bytes) -> int:
        """The span of ``key``, or ``DELETED``."""
        ordinal = self.ordinal_of(key)
        return DELETED if ordinal == _ABSENT else self.spans[ordinal]

    def ordinal_of(self, key: bytes) -> int:
        """Which entry ``key`` is, -1 if none; the record that was found is not checked."""
        ordinal, found = self.locate(key, hit_checked=False)
        return ordinal if found else _ABSENT


def empty_base() -> Base:
    """A base of no entries."""
    return Base(memoryview(b""), memoryview(array("Q")), [])


def prefix_end(prefix: bytes) -> bytes | None:
    """The least byte string above every one that starts with ``prefix``; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None


class FoldTable:
    """Key to span, ordered."""

    def __init__(self, base: Base | None = None, live_bytes: int = 0) -> None:
        self.base = base if base is not None else empty_base()
        self.entries = len(self.base)
        self.live_bytes = live_bytes
        self.overlay: dict[bytes, int] = {}
        self._ordered: SortedList[bytes] = SortedList()
        self._unordered: list[bytes] = []
        self._changes: dict[bytes, int] | None = None
        self._ordinals: dict[bytes, int] = {}  # where the base has keys of the overlay, if known

    def find(self, key: bytes) -> int:
        """The span of the live record of ``key``, or ``DELETED``."""
        span = self.overlay.get(key)
        return self.base.find(key) if span is None else span

    def look_up(self, items: Collection[tuple[bytes, int]]) -> dict[bytes, int]:
        """Where the base has these keys, of which the overlay says nothing.

        Raises ``DamagedRecord``, as ``apply`` with the result never does.
        """
        if not len(self.base):
            return {}
        overlay, ordinal_of = self.overlay, self.base.ordinal_of
        return {key: ordinal_of(key) for key, _ in items if key not in overlay}

    def apply(self, items: Collection[tuple[bytes, int]], based: dict[bytes, int]) -> None:
        """Take over where records of these keys lie now, in order; ``based`` is by ``look_up``."""
        if self._changes is not None:
            self._changes.update(items)
        overlay, unordered = self.overlay, self._unordered
        entries, live_bytes = self.entries, self.live_bytes
        for key, span in items:
            old = overlay.get(key)
            if old is None:
                unordered.append(key)
                old = DELETED
                if based and (ordinal := based[key]) != _ABSENT:
                    self._ordinals[key] = ordinal
                    old = self.base.spans[ordinal]
            overlay[key] = span
            if old:
                entries -= 1
                live_bytes -= old & SPAN_LENGTH_MASK
            if span:
                entries += 1
                live_bytes += span & SPAN_LENGTH_MASK
        self.entries, self.live_bytes = entries, live_bytes

    def adopt(self, items: dict[bytes, int]) -> None:
        """Take over the result of a whole log's replay, as ``apply`` would, but at once.

        ``items`` becomes the table's own: a copy would be all of it again.
        """
        assert not self.overlay
        assert not len(self.base)
        if DELETED in items.values():
            items = {key: span for key, span in items.items() if span}
        self.overlay = items
        self.entries = len(items)
        self.live_bytes = sum(map(SPAN_LENGTH_MASK.__and__, items.values()))
        self._unordered = list(items)

    def settle(self) -> None:
        """Bring the overlay's new keys into order, as a range would have to."""
        if self._unordered:
            self._ordered.update(self._unordered)
            self._unordered = []

    def spans(self, prefix: bytes, after: bytes | None = None) -> Iterator[int]:
        """Spans of the live entries under ``prefix`` behind ``after``, in key order.

        The table must not change while this runs.
        """
        self.settle()
        above = after is not None and after >= prefix
        start = after if above and after is not None else prefix
        end = prefix_end(prefix)
        base = self.base
        ordinal, found = base.locate(start) if len(base) else (0, False)
        if above and found:
            ordinal += 1
        stop = len(base) if end is None or not len(base) else base.locate(end)[0]
        for key in self._ordered.irange(start, end, (not above, False)):
            span = self.overlay[key]
            if ordinal < stop:
                there, found = base.locate(key)
                yield from base.spans[ordinal : min(there, stop)]
                ordinal = there + found
            if span:
                yield span
        if ordinal < stop:
            yield from base.spans[ordinal:stop]

    def merged_spans(self) -> Generator[None, None, memoryview]:
        """The live spans at this moment, in key order; writes may come in between the slices."""
        return self._merged(self.overlay.copy())

    def _merged(self, taken: dict[bytes, int]) -> Generator[None, None, memoryview]:
        from holdfast.workers.fold_merge import merged_spans

        return merged_spans(self.base, taken, self._ordinals.copy())

    def rebase(self, view: memoryview) -> Generator[None, None, None]:
        """Fold the overlay into a new base over ``view``, in slices; writes may come in between."""
        taken = self.overlay.copy()
        spans = yield from self._merged(taken)
        fences = yield from fences_of(view, spans)
        # At once: in between, an order of both layers would be wrong.
        left = {key: span for key, span in self.overlay.items() if taken.get(key) != span}
        self.replace(Base(view, spans, fences), left)

    def record_changes(self, changes: dict[bytes, int] | None) -> None:
        """Collect what ``apply`` is given from now on into ``changes``; None ends it."""
        self._changes = changes

    def replace(self, base: Base, overlay: dict[bytes, int]) -> None:
        """Take over a new base and overlay that say the same of another log."""
        self.base, self.overlay, self._ordinals = base, overlay, {}
        self._ordered = SortedList()
        self._unordered = list(self.overlay)

    def check_invariants(self) -> None:
        """Assert that figures and layers agree; for tests."""
        spans = list(self.spans(b""))
        assert len(spans) == self.entries, (len(spans), self.entries)
        assert sum(span & SPAN_LENGTH_MASK for span in spans) == self.live_bytes
        keys = [self.base.key_at(n) for n in range(len(self.base))]
        assert keys == sorted(set(keys))
        assert self.base.fences == keys[::FENCE_EVERY]
        assert self.overlay.keys() == set(self._ordered)


def fences_of(
    view: memoryview, spans: Sequence[int] | memoryview
) -> Generator[None, None, list[bytes]]:
    """Every 32nd key, read from the log in slices; raises ``DamagedRecord``."""
    fences = []
    log = sliceable(view)
    for ordinal in range(0, len(spans), FENCE_EVERY):
        check_put(log, spans[ordinal])  # a wrong fence would hide the keys behind it
        fences.append(put_key(log, spans[ordinal] >> SPAN_LENGTH_BITS))
        if not len(fences) % _FENCES_PER_STEP:
            yield
    return fences
