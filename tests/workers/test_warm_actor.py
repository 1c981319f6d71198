"""The warm store's actor where several things go on at once, and at its limits."""

import numpy as np
import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.limits import DIMENSION_MAX
from holdfast.workers import messages
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.messages import StoreSpec
from holdfast.workers.raw_arrays import raw
from holdfast.workers.vector_messages import VectorsFreeze
from holdfast.workers.warm import WarmActor, open_warm
from tests.workers.vector_model import tick
from tests.workers.warm_model import (
    PATH,
    READER,
    Delete,
    History,
    Write,
    ask,
    opened,
    pages,
    point,
    rows_in,
    state_of,
    stray_files,
    with_small_limits,
)
from tests.workers.warm_workload import COMPACT, FLUSH, series

pytestmark = pytest.mark.usefixtures("quiet")


def begun(actor: WarmActor, request: messages.Request) -> Steps:
    """Long work, after its first slice."""
    steps = actor.handle(request, Caller(9, 9))
    assert not isinstance(steps, messages.Reply)
    next(steps)
    return steps


def result(steps: Steps) -> messages.Reply:
    """The reply at the end of long work."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            reply: messages.Reply = finished.value
            return reply


@pytest.mark.parametrize("rows", [1, 10, 200])
@pytest.mark.parametrize("metadata", [{}, {"a": "b"}], ids=["without", "with metadata"])
def test_a_request_s_bytes_may_go_once_it_is_answered(rows: int, metadata: dict[str, str]) -> None:
    """What was written does not lie in the frame it came in, which the next request overwrites."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    op = series(1, range(rows), 1, **metadata)
    sent = op.request()
    frame = [bytearray(d) for d in (sent.entities, sent.timestamps, sent.vectors, sent.metadata)]
    request = wm.WarmWrite(sent.space, *map(memoryview, frame))  # type: ignore[arg-type]  # no bool
    ask(actor, request, wm.WarmWritten, Caller(1, 1))
    for data in frame:
        data[:] = b"\xee" * len(data)
    assert state_of(disk, actor) == op.after({})
    ask(actor, FLUSH, messages.Done)
    assert state_of(disk, actor) == op.after({})


def test_a_search_asks_for_what_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The query's bytes, too, may go while the search is under way."""
    with_small_limits(monkeypatch)
    actor = opened(MemoryDisk("/data"))
    ask(actor, series(1, range(20), 1).request(), wm.WarmWritten, Caller(1, 1))
    query, entities = bytearray(raw(np.array([1, 17], "<f4"))), bytearray(raw(np.array([1], "<u8")))
    request = wm.WarmNearest(
        memoryview(query), 1, "l2", 0, 99, 0, memoryview(entities)
    )  # fmt: skip
    steps = begun(actor, request)
    query[:] = bytes(len(query))
    entities[:] = bytes(len(entities))
    hits = result(steps)
    assert isinstance(hits, wm.WarmHits)
    assert np.frombuffer(hits.timestamps, "<i8").tolist() == [17]


def test_a_search_shows_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A point that is written again meanwhile is found as it was, and chunks may go."""
    with_small_limits(monkeypatch)
    actor = opened(MemoryDisk("/data"))
    history = History()
    for entity in range(4):
        history.send(actor, series(entity, range(8), entity))
        ask(actor, FLUSH, messages.Done)
    query = raw(np.array([3, 7], np.float32))
    steps = begun(actor, wm.WarmNearest(query, 1, "l2", 0, 99))
    history.send(actor, Write(0, ((3, 7, point(50, 50)),)))
    ask(actor, COMPACT, messages.Compacted)
    hits = result(steps)
    assert isinstance(hits, wm.WarmHits)
    assert np.frombuffer(hits.entities, "<u8").tolist() == [3]
    assert np.frombuffer(hits.distances, "<f4").tolist() == [0.0]


def test_a_flush_may_overtake_a_compaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was flushed while chunks were merged stays flushed, and the store opens again."""
    with_small_limits(monkeypatch)
    disk = MemoryDisk("/data")
    actor, history = opened(disk), History()
    for number in range(4):
        history.send(actor, series(number, range(12), number))
        while actor._flush is not None or actor._is_full():
            actor.step(idle=False)
    actor.step(idle=True)
    assert actor._compaction is not None, "four runs of a class are merged"
    history.send(actor, series(9, range(12), 9))
    actor.step(idle=True)
    assert actor._flush is not None, "which a flush overtakes"
    for _ in range(200):
        actor.step(idle=True)
    assert (actor._store.flushes, actor._store.compactions) == (5, 1)
    assert {chunk.entry.number for chunk in actor._table.chunks} > {
        chunk.entry.run for chunk in actor._table.chunks
    }
    assert len({chunk.entry.run for chunk in actor._table.chunks}) == 2, "made apart"
    history.commit(actor)
    left = disk.crash()
    assert state_of(left, opened(left)) == history.state


def test_memory_is_given_back_in_a_quiet_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not between two batches, which go on to use it: once nobody asks, and once only."""
    with_small_limits(monkeypatch)
    given: list[None] = []
    monkeypatch.setattr("holdfast.workers.warm.give_memory_back", lambda: given.append(None))
    actor, history = opened(MemoryDisk("/data")), History()
    history.send(actor, series(1, range(12), 1))
    while actor._flush is not None or actor._is_full():
        actor.step(idle=False)
    assert actor._store.flushes == 1
    actor.step(idle=False)
    assert not given
    actor.step(idle=True)
    actor.step(idle=True)
    assert len(given) == 1


def test_verify_while_dead_rows_are_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of dead rows that was replaced meanwhile is no flaw, nor is a merged chunk."""
    with_small_limits(monkeypatch)
    actor, history = opened(MemoryDisk("/data")), History()
    for number in range(3):
        history.send(actor, series(number, range(7), number))
        ask(actor, FLUSH, messages.Done)
    requests: list[messages.Request] = [FLUSH, FLUSH, COMPACT]
    for number, work in enumerate(requests):
        steps = begun(actor, wm.WarmVerify())
        history.send(actor, Delete(0, tuple((entity, number) for entity in range(3))))
        history.send(actor, series(9, range(number, number + 1), 0))
        ask(actor, work, object)
        verified = result(steps)
        assert isinstance(verified, wm.WarmVerified)
        assert verified.flaws == []


def test_a_page_that_ends_with_a_dead_row_passes_no_other_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A key that is dead in one run and live in the next is in the scan, wherever pages end."""
    with_small_limits(monkeypatch)
    disk = MemoryDisk("/data")
    actor, history = opened(disk), History()
    history.send(actor, series(0, range(8), 1))
    ask(actor, FLUSH, messages.Done)
    history.send(actor, Write(0, tuple((0, time, point(5)) for time in (0, 3, 7))))
    for limit in range(10):
        for mapped in (False, True):
            found = [rows_in(disk, page).items() for page in pages(actor, limit, mapped=mapped)]
            assert dict(item for page in found for item in page) == history.state


def test_a_batch_that_does_not_fit_the_tail() -> None:
    """With the largest vectors a batch of few rows is many bytes, and is taken all the same."""
    options = wm.WarmOptions(DIMENSION_MAX)
    disk = MemoryDisk("/data")
    spec = StoreSpec("w", "warm", PATH, durability="never", options=options)
    actor = open_warm(disk, spec, tick)
    for first in range(0, 60, 20):
        times = np.arange(first, first + 20, dtype=np.int64)
        vectors = np.repeat(times.astype(np.float32), DIMENSION_MAX)
        entity = np.array([1], np.uint64)
        request = wm.WarmWrite(0, raw(entity), raw(times), raw(vectors))
        assert ask(actor, request, wm.WarmWritten, Caller(1, first + 1)).replaced == 0
    for survivor in (actor, open_warm(disk.crash(), spec, tick)):
        survivor.check_invariants()
        reply = ask(survivor, wm.WarmGet(0, 1, 39), wm.WarmPoint)
        assert np.frombuffer(reply.vector or b"", "<f4").tolist() == [39.0] * DIMENSION_MAX


@pytest.mark.parametrize("request_", [FLUSH, COMPACT], ids=["flush", "compaction"])
def test_closing_ends_what_is_under_way(
    request_: messages.Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store is closed in the midst of a flush or a compaction that was asked for."""
    with_small_limits(monkeypatch)
    disk = MemoryDisk("/data")
    actor, history = opened(disk), History()
    history.send(actor, series(1, range(20), 1))
    ask(actor, FLUSH, messages.Done)
    history.send(actor, series(1, range(10, 30), 2))
    steps = begun(actor, request_)
    history.close(actor)
    steps.close()
    assert stray_files(disk, actor) == []
    actor = opened(disk)
    assert actor._table.memory_rows == 0, "it was worth a chunk"
    assert state_of(disk, actor) == history.state


def test_two_flushes_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that is asked for twice is done one after the other, and upkeep waits for it."""
    with_small_limits(monkeypatch)
    disk = MemoryDisk("/data")
    actor, history = opened(disk), History()
    history.send(actor, series(1, range(30), 1))
    first, second = begun(actor, FLUSH), begun(actor, COMPACT)
    history.send(actor, series(1, range(20, 40), 2))
    assert not actor.step(idle=True)
    assert not actor.pressed()
    next(second)
    assert result(first) == messages.Done()
    assert isinstance(result(second), messages.Compacted)
    assert actor._store.compactions == 1
    assert state_of(disk, actor) == history.state


def test_what_a_warm_store_does_not_answer() -> None:
    """A request of another kind of store is refused by its name."""
    actor = opened(MemoryDisk("/data"))
    with pytest.raises(InvalidArgument, match="a warm store does not answer VectorsFreeze"):
        actor.handle(VectorsFreeze(), READER)
