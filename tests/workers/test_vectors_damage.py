"""Every cut and every flipped bit of a vector store's file: a right answer or a typed error.

Under the profile "long" every bit is flipped; otherwise one in sixteen, drawn by a seed.
"""

import random
from collections.abc import Callable, Iterable
from typing import NamedTuple

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import HoldfastError, InvalidFormat, ParentChanged, StoreCorrupt
from holdfast.formats.rvf.scan import walk
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentType
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.vectors import VectorsActor
from tests.workers.interruptions import is_exhaustive
from tests.workers.vector_model import (
    PATH,
    Branch,
    Delete,
    History,
    Ingest,
    Op,
    Row,
    State,
    ask,
    columns_of,
    do,
    opened,
    opened_read_only,
    row,
    rows_in,
    state_of,
    without_waiting,
)
from tests.workers.vector_workload import CHILD, RIVAL

pytestmark = pytest.mark.usefixtures("quiet")

OPS: tuple[Op, ...] = (
    Ingest({1: row(1, 2), 2: row(3, 4), 300: row(5, 6)}),
    Delete((2,)),
    Ingest({2: row(7, 8, s="two"), 1: row(9, 9)}),
    Delete((300,)),
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


class Span(NamedTuple):
    """A segment: where it is, and which state it belongs to."""

    start: int
    end: int
    type: int
    state: int


class Sample(NamedTuple):
    """A small file, every state it went through, and its segments."""

    content: bytes
    states: list[State]
    spans: list[Span]

    @property
    def manifests(self) -> list[Span]:
        """One for each state."""
        return [span for span in self.spans if span.type == SegmentType.MANIFEST]


def _sample() -> Sample:
    disk = MemoryDisk("/data")
    actor = opened(disk)
    history = History()
    for op in OPS:
        history.send(actor, op)
    actor.close()
    content = disk.content(PATH)
    assert content is not None
    spans: list[Span] = []
    state = 0
    for offset, header in walk(memoryview(content)):
        end = offset + HEADER_BYTES + header.payload_bytes
        spans.append(Span(offset, end, header.type, state))
        state += header.type == SegmentType.MANIFEST
    assert state == len(history.states())
    return Sample(content, history.states(), spans)


SAMPLE = _sample()
CONTENT, STATES = SAMPLE.content, SAMPLE.states


def _damaged(bit: int, content: bytes = CONTENT) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def _bits(content: bytes) -> Iterable[int]:
    if is_exhaustive():
        return range(8 * len(content))
    chance = random.Random(1)
    return [8 * byte + chance.randrange(8) for byte in range(len(content)) if chance.random() < 0.5]


def _read(actor: VectorsActor) -> tuple[dict[int, Row], frozenset[str]]:
    """Rows and columns, as quickly as can be."""
    page = ask(actor, vm.VectorsScan(), vm.VectorRows)
    assert not page.more
    return rows_in(page), columns_of(actor)


def _facts(state: State) -> tuple[dict[int, Row], frozenset[str]]:
    return dict(state.rows), state.columns


def _attempt(open_: Callable[[], VectorsActor]) -> VectorsActor | HoldfastError:
    """An actor, or the error that opening it gave."""
    try:
        return open_()
    except HoldfastError as error:
        return error


def _looked_at(content: bytes) -> tuple[dict[int, Row], frozenset[str]] | HoldfastError:
    """What a reader makes of a file."""
    disk = MemoryDisk("/data")
    disk.place(PATH, content)
    actor = _attempt(lambda: opened_read_only(disk))
    assert disk.content(PATH) == content
    if isinstance(actor, HoldfastError):
        return actor
    found = _read(actor)
    actor.close()
    return found


def _opened_damaged(content: bytes) -> tuple[State | HoldfastError, MemoryDisk]:
    """What the store makes of a file; a refused one is left exactly as it was."""
    disk = MemoryDisk("/data")
    disk.place(PATH, content)
    inode, names = disk.inode_at(PATH), disk.list("/data")
    actor = _attempt(lambda: opened(disk))
    if isinstance(actor, HoldfastError):
        assert disk.content(PATH) == content
        assert (disk.inode_at(PATH), disk.list("/data")) == (inode, names)
        return actor, disk
    actor.check_invariants()
    found = state_of(disk, actor)
    do(actor, RIVAL, Caller(5, 5), found)
    actor.close()
    actor = opened(disk)
    assert state_of(disk, actor) == RIVAL.after(found)
    actor.close()
    return found, disk


def _fill(number: int) -> bytes:
    return (b"", bytes(600), random.Random(number).randbytes(90))[number % 3]


def _whole(content: bytes) -> tuple[int, int]:
    """How many states are in the beginning that a file shares with the sample, and their end.

    A witness behind the last manifest stays, as one that a program of the original has left.
    """
    size = min(len(content), len(CONTENT))
    same = next((n for n in range(size) if content[n] != CONTENT[n]), size)
    spans = [span for span in SAMPLE.spans if span.end <= same]
    numbers = [n for n, span in enumerate(spans) if span.type == SegmentType.MANIFEST]
    if not numbers:
        return 0, 0
    last, following = spans[numbers[-1]], spans[numbers[-1] + 1 :][:1]
    is_kept = bool(following) and following[0].type == SegmentType.WITNESS
    return len(numbers), following[0].end if is_kept else last.end


def test_every_truncation() -> None:
    """A file cut anywhere, with anything behind the cut, holds the commits that are whole."""
    for cut in range(len(CONTENT) + 1):
        content = CONTENT[:cut] + _fill(cut)
        states, _ = _whole(content)
        found = _looked_at(content)
        if not states:
            assert isinstance(found, InvalidFormat), cut
        else:
            assert found == _facts(STATES[states - 1]), cut
        if not cut % 7:
            _check_written(cut, content, states)


def _check_written(cut: int, content: bytes, states: int) -> None:
    """A writer finds the same, cuts what is torn, and keeps what it cut."""
    outcome, disk = _opened_damaged(content)
    if not content:
        assert outcome == State()  # as the original leaves it when it cannot have the lock
    elif not states:
        assert isinstance(outcome, InvalidFormat), cut
        assert (outcome.path, outcome.offset) == (PATH, 0)
    else:
        assert outcome == STATES[states - 1], cut
        left = disk.content(PATH)
        assert left is not None
        _, end = _whole(content)
        assert left[:end] == content[:end]
        kept = disk.content(f"{PATH}.cut1")
        assert kept is None or content.endswith(kept)
        assert (kept is None) == (not content[end:].strip(b"\0"))


def test_every_bit_flip() -> None:
    """A flip is seen or harmless; in the newest manifest it costs the newest commit at most."""
    newest = SAMPLE.manifests[-1]
    outcomes = {"same": 0, "before": 0, "refused": 0}
    for bit in _bits(CONTENT):
        found = _looked_at(_damaged(bit))
        if found == _facts(STATES[-1]):
            outcomes["same"] += 1
        elif isinstance(found, HoldfastError):
            outcomes["refused"] += 1
            assert isinstance(found, StoreCorrupt), bit
            assert found.path == PATH
            assert found.offset is not None
            assert found.reason
        else:
            outcomes["before"] += 1
            assert found == _facts(STATES[-2]), bit
            assert newest.start <= bit // 8 < newest.end, bit
    assert min(outcomes.values()) > 50, outcomes


def test_every_bit_flip_of_a_row_is_seen() -> None:
    """Vectors, ids and metadata: none that counts is ever answered with another bit."""
    counting = {SegmentType.VEC, SegmentType.META, SegmentType.STORE}
    for span in SAMPLE.spans:
        if span.type in counting:
            for bit in range(8 * (span.start + HEADER_BYTES), 8 * span.end, 5):
                found = _looked_at(_damaged(bit))
                assert isinstance(found, StoreCorrupt)
                assert found.offset == span.start


def test_a_writer_refuses_what_a_reader_refuses() -> None:
    """And it touches nothing then, whatever bit it is."""
    for bit in random.Random(2).sample(range(8 * len(CONTENT)), 150):
        content = _damaged(bit)
        looked, (written, _) = _looked_at(content), _opened_damaged(content)
        if isinstance(looked, HoldfastError):
            assert type(looked) is type(written)
            assert str(looked) == str(written)
        else:
            assert isinstance(written, State)
            assert looked == _facts(written)


def test_what_was_synced_is_not_given_up() -> None:
    """As long as a ledger says that more was synced, a damaged manifest is corruption."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    history = History()
    for op in OPS:
        history.send(actor, op)
    history.commit(actor)
    content = disk.content(PATH)
    assert content is not None
    spans = [(at, h) for at, h in walk(memoryview(content)) if h.type == SegmentType.MANIFEST]
    start = spans[-1][0]
    for bit in range(8 * start, 8 * len(content), 11):
        left = disk.crash()
        left.place(PATH, _damaged(bit, content))
        found = _attempt(lambda left=left: opened(left))  # type: ignore[misc]
        if isinstance(found, VectorsActor):  # fields of a header that mean nothing
            assert state_of(left, found) == history.state
            assert start <= bit // 8 < start + HEADER_BYTES
            found.abandon()
        else:
            assert isinstance(found, StoreCorrupt)
            assert found.offset is not None
            assert found.offset <= bit // 8
            assert left.content(PATH) == _damaged(bit, content)


@pytest.mark.parametrize("count", [1, 63, 64, 4096, 70_000, 1 << 20])
def test_zero_tails(count: int) -> None:
    """Zeros behind the last commit are nothing, however many, and go."""
    assert _looked_at(CONTENT + bytes(count)) == _facts(STATES[-1])
    found, disk = _opened_damaged(CONTENT + bytes(count))
    assert found == STATES[-1]
    left = disk.content(PATH)
    assert left is not None
    assert left.startswith(CONTENT)
    assert len(left) < len(CONTENT) + 4096
    assert disk.list("/data") == [("v.rvf", "file")]


def test_damaged_newest_manifest() -> None:
    """The commit before counts, and what is cut away is kept beside the file."""
    newest = SAMPLE.manifests[-1]
    content = _damaged(8 * (newest.start + HEADER_BYTES))
    found, disk = _opened_damaged(content)
    assert found == STATES[-2]
    kept = disk.content(f"{PATH}.cut1")
    witness = next(s for s in SAMPLE.spans if s.state == newest.state)
    assert kept == content[witness.end :]  # the witness of the delete that is lost stays


def test_two_damaged_manifests() -> None:
    """Two commits are lost, and no more; not if rows that they do not list were between."""
    newest, before = SAMPLE.manifests[-1], SAMPLE.manifests[-2]
    both = _damaged(8 * (before.start + HEADER_BYTES), _damaged(8 * (newest.end - 1)))
    assert _looked_at(both) == _facts(STATES[-3])


def test_damaged_parents_are_not_shown() -> None:
    """A branch tells of damage in its parent, or shows the rows as they were."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    history = History()
    for op in (*OPS, Branch(CHILD)):
        history.send(actor, op)
    actor.close()
    content = disk.content(PATH)
    assert content is not None
    expected = history.state.children[CHILD]
    refused = 0
    for bit in random.Random(3).sample(range(8 * len(content)), 400):
        left = disk.crash()
        left.place(PATH, _damaged(bit, content))
        child = _attempt(lambda left=left: opened_read_only(left, CHILD))  # type: ignore[misc]
        if isinstance(child, VectorsActor):
            assert _read(child) == _facts(expected)
            child.close()
        else:
            assert isinstance(child, ParentChanged)
            assert child.path == PATH
            refused += 1
    assert refused > 300
