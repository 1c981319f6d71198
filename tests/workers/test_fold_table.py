"""The table against a dictionary: finding, ranges, and moving the overlay into the base."""

from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import fold_log
from holdfast.formats.fold_index import FENCE_EVERY
from holdfast.formats.fold_log import DELETED, HEADER, DamagedRecord, pack_span, unpack_span
from holdfast.workers.fold_table import FoldTable, prefix_end

T = TypeVar("T")
KEYS = st.one_of(
    st.sampled_from([b"", b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff"]),
    st.integers(0, 150).map(lambda number: b"k%03d" % number),
    st.binary(max_size=3),
)
CHANGES = st.lists(st.tuples(KEYS, st.booleans()), max_size=60)


class Model:
    """A log of puts in memory, its table, and the dictionary that the table has to agree with."""

    def __init__(self) -> None:
        self.content = bytearray(HEADER)
        self.table = FoldTable()
        self.spans: dict[bytes, int] = {}

    def change(self, changes: list[tuple[bytes, bool]]) -> list[tuple[bytes, int]]:
        """Put or delete keys, in order."""
        items = []
        for key, alive in changes:
            span = DELETED
            if alive:
                record = fold_log.encode_put(key, b"v" * (len(self.content) % 7), b"")
                span = pack_span(len(self.content), len(record))
                self.content += record
            items.append((key, span))
        self.table.apply(items, self.table.look_up(items))
        for key, span in items:
            if span:
                self.spans[key] = span
            else:
                self.spans.pop(key, None)
        return items

    def rebase(self, *between: list[tuple[bytes, bool]]) -> None:
        """Move the overlay into the base, with changes after each of the first slices."""
        steps = self.table.rebase(memoryview(bytes(self.content)))
        for changes in between:
            next(steps, None)
            self.change(changes)
            self.check()
        finished(steps)
        self.check()

    def check(self) -> None:
        """The table says what the dictionary says."""
        self.table.check_invariants()
        assert list(self.table.spans(b"")) == [span for _, span in sorted(self.spans.items())]
        assert self.table.entries == len(self.spans)
        assert self.table.live_bytes == sum(unpack_span(n)[1] for n in self.spans.values())


def finished(steps: Generator[object, None, T]) -> T:
    """What the steps return in the end."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: T = stop.value
            return result


@given(st.lists(CHANGES, max_size=5), KEYS, KEYS)
def test_finds_and_ranges(rounds: list[list[tuple[bytes, bool]]], key: bytes, after: bytes) -> None:
    """Look-ups, prefixes and continuations, with any division into base and overlay."""
    model = Model()
    for changes in rounds:
        model.change(changes)
        _check_reads(model, key, after)
        model.rebase()
        _check_reads(model, key, after)


def _check_reads(model: Model, key: bytes, after: bytes) -> None:
    model.check()
    for wanted in {key, *model.spans}:
        assert model.table.find(wanted) == model.spans.get(wanted, DELETED)
    for prefix in (b"", key, key[:1], b"k0"):
        under = [(k, span) for k, span in sorted(model.spans.items()) if k.startswith(prefix)]
        assert list(model.table.spans(prefix)) == [span for _, span in under]
        behind = [span for k, span in under if k > after]
        assert list(model.table.spans(prefix, after)) == behind


@given(CHANGES, st.lists(CHANGES, max_size=3))
def test_changes_during_a_rebase(
    before: list[tuple[bytes, bool]], between: list[list[tuple[bytes, bool]]]
) -> None:
    """What changes while the overlay moves is in the overlay behind it."""
    model = Model()
    model.change([(b"k%03d" % number, True) for number in range(100)])
    model.rebase()
    model.change(before)
    model.rebase(*between)
    model.rebase()
    assert not model.table.overlay


@given(CHANGES, CHANGES)
def test_changes_are_recorded(
    before: list[tuple[bytes, bool]], during: list[tuple[bytes, bool]]
) -> None:
    """A compaction learns of exactly what changed while it ran."""
    model = Model()
    model.change(before)
    recorded: dict[bytes, int] = {}
    model.table.record_changes(recorded)
    items = model.change(during)
    model.table.record_changes(None)
    model.change(before)
    assert recorded == dict(items)


@given(CHANGES)
def test_adopting_is_applying(changes: list[tuple[bytes, bool]]) -> None:
    """A replay's collected changes give the table that applying them one by one gives."""
    applied = Model()
    items = applied.change(changes)
    collected = dict(items)
    adopted = FoldTable()
    adopted.apply(collected.items(), adopted.look_up(collected.items()))
    adopted.check_invariants()
    assert list(adopted.spans(b"")) == list(applied.table.spans(b""))
    assert (adopted.entries, adopted.live_bytes) == (
        applied.table.entries,
        applied.table.live_bytes,
    )


@given(st.binary(max_size=4), st.binary(max_size=5))
def test_prefix_end(prefix: bytes, key: bytes) -> None:
    """It is above every key with the prefix, and at most every key above those."""
    end = prefix_end(prefix)
    if key.startswith(prefix):
        assert end is None or key < end
    elif key > prefix:
        assert end is not None
        assert key >= end


def _based(entries: int) -> Model:
    model = Model()
    model.change([(b"%05d" % number, True) for number in range(entries)])
    model.rebase()
    return model


@pytest.mark.parametrize("entries", [0, 1, FENCE_EVERY, FENCE_EVERY + 1, 1000, 5000])
def test_every_fence_is_a_way_in(entries: int) -> None:
    """Keys are found whatever their place between fences, and neighbours that are not are not."""
    model = _based(entries)
    for key, span in model.spans.items():
        assert model.table.find(key) == span
        assert model.table.find(key + b"\0") == DELETED
    assert model.table.find(b"") == DELETED
    assert len(model.table.base.fences) == -(-entries // FENCE_EVERY)


def test_a_miss_does_not_rest_on_damage() -> None:
    """Whichever byte is flipped, a key is found or an error comes; it is never absent."""
    model = _based(3 * FENCE_EVERY)
    spans, fences = model.table.base.spans, model.table.base.fences
    for at in range(len(HEADER), len(model.content)):
        damaged = bytearray(model.content)
        damaged[at] ^= 1
        table = FoldTable(type(model.table.base)(memoryview(bytes(damaged)), spans, fences))
        for key, span in list(model.spans.items())[:: FENCE_EVERY // 3]:
            try:
                found = table.find(key)
            except DamagedRecord:
                continue
            assert found in (span, _damaged_span(model, at))


def _damaged_span(model: Model, at: int) -> int:
    """The span of the record that a byte belongs to: reading it fails, so it may be found."""
    return next(
        span for span in model.spans.values() if unpack_span(span)[0] <= at < sum(unpack_span(span))
    )


def test_damage_does_not_get_into_a_base() -> None:
    """Neither a damaged fence nor a damaged record that looks like another is taken over."""
    for flipped_key in (b"00000", b"00032"):
        model = Model()
        model.change([(b"%05d" % number, True) for number in range(64)])
        at = model.content.index(flipped_key)
        model.content[at + 4] ^= 1
        with pytest.raises(DamagedRecord):
            finished(model.table.rebase(memoryview(bytes(model.content))))
    model = _based(64)
    at = model.content.index(b"00006")
    model.content[at + 4] ^= 1  # it says 00007 now
    model.table.base.view = memoryview(bytes(model.content))
    model.change([(b"00007", False)])
    with pytest.raises(DamagedRecord):
        list(model.table.spans(b""))
    with pytest.raises(DamagedRecord):
        finished(model.table.rebase(memoryview(bytes(model.content))))
