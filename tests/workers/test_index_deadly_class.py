"""Indexes of a class that ends its process: what was acknowledged stays, and can be had."""

import contextlib
import errno
from typing import Any

import pytest

from holdfast.bench.faults import Crash, Fail, FaultyDisk, MemoryDisk
from holdfast.formats.errors import StoreCorrupt, StoreFull
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.index import IndexActor
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.messages import Compacted
from tests.workers.index_files import Writer, content
from tests.workers.index_model import DIMENSION, WAL, ask, deleting, inserting, opened
from tests.workers.interruptions import every_kill
from tests.workers.test_index_own_class import Picky

pytestmark = pytest.mark.usefixtures("quiet")

TRIAL = WAL + ".trial"


class Deadly(Picky):
    """An index of one's own that ends the process at id 66, and refuses id 77, while armed."""

    INDEX_TYPE = "deadly"
    armed = True

    def insert(self, id_: Any, vector: Any, metadata: Any) -> None:
        if type(self).armed and id_ == 66:
            raise Crash
        if type(self).armed and id_ == 77:
            raise ValueError("not this one")
        super().insert(id_, vector, metadata)


def deadly(*, salvage: bool = False, stamps: bool = True) -> IndexOptions:
    """How the tests open it."""
    return IndexOptions(
        kind="tests.workers.test_index_deadly_class:Deadly",
        dimension=DIMENSION,
        metric="euclidean",
        salvage=salvage,
        stamps=stamps,
    )


def ids(actor: IndexActor) -> set[int]:
    """The ids of all rows."""
    return set(actor.store.index.inner.rows)  # type: ignore[union-attr]  # of the class above


def batch(*numbers: int) -> im.IndexInsert:
    """The request that inserts rows with these ids."""
    return inserting({number: ([number], None) for number in numbers})


@pytest.mark.parametrize("stamps", [True, False])
def test_a_write_that_ends_the_process_is_not_in_the_log(stamps: bool) -> None:
    """However often it is sent again, successors open with what was acknowledged before it."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=deadly(stamps=stamps))
    Writer(actor).write(1, 2)
    before = content(memory, WAL)
    for _ in range(3):
        with pytest.raises(Crash):
            actor.handle(batch(5, 66, 6), Caller(1, 1))
        memory = memory.crash()
        assert content(memory, WAL) == before
        actor = opened(memory, options=deadly(stamps=stamps))
        assert ids(actor) == {1, 2}
    Writer(actor).write(3)
    assert ids(opened(memory.crash(), options=deadly(stamps=stamps))) == {1, 2, 3}


def _deadly_workload(disk: FaultyDisk, answered: set[int]) -> None:
    """Writes that are answered, then one that is refused and one that ends the process."""
    actor = opened(disk, options=deadly())
    for request in (batch(1), batch(2, 3), deleting(1), batch(4)):
        actor.handle(request, Caller(1, len(answered) + 1))
        actor.commit()
        answered.symmetric_difference_update(
            {1} if isinstance(request, im.IndexDelete) else set(_numbers(request))
        )
        if request.ids == [1]:
            ask(actor, im.IndexCheckpoint(), Compacted)
    with pytest.raises(Exception, match="not this one"):
        actor.handle(batch(7, 77), Caller(2, 1))
    actor.handle(batch(8, 66), Caller(2, 2))


def _numbers(request: im.IndexInsert) -> list[int]:
    assert isinstance(request.ids, memoryview)
    return list(memoryview(bytes(request.ids)).cast("Q"))


def test_deaths_at_every_file_call_lose_nothing_acknowledged() -> None:
    """Killed anywhere, and twice more in recovery, the index has every acknowledged row, whole."""
    memory = MemoryDisk("/data")
    recording = FaultyDisk(memory)
    with pytest.raises(Crash):
        _deadly_workload(recording, set())
    for kill in every_kill(recording.calls):
        memory, answered = MemoryDisk("/data"), set[int]()
        with pytest.raises(Crash):
            _deadly_workload(FaultyDisk(memory, kill), answered)
        left = memory.crash()
        probe = FaultyDisk(left.crash())
        found = ids(opened(probe, options=deadly()))
        assert found >= answered - {1}
        assert found <= {1, 2, 3, 4}
        assert not {2, 3} & found or {2, 3} <= found, "a part of a request"
        for second in every_kill(probe.calls)[:: 1 if kill.at % 5 == 0 else 4]:
            again = left.crash()
            for _ in range(2):
                with contextlib.suppress(Crash):  # what the first did the second need not do
                    opened(FaultyDisk(again, second), options=deadly())
                again = again.crash()
            assert ids(opened(again, options=deadly())) == found


@pytest.mark.parametrize("after", [False, True], ids=["no room", "room no more"])
def test_a_full_disk_leaves_the_class_as_it_was(after: bool) -> None:
    """A write that finds no room, before the class took it or after, changes nothing."""
    memory = MemoryDisk("/data")
    counted = FaultyDisk(memory)
    actor = opened(counted, options=deadly())
    Writer(actor).write(1)
    begun = len(counted.calls)
    actor.handle(batch(2), Caller(1, 1))
    writes = [c.number for c in counted.calls[begun:] if c.name == "write_at" and c.path == WAL]
    assert len(writes) == 2
    actor.handle(deleting(2), Caller(1, 2))
    offset = writes[1] - begun if after else writes[0] - begun
    fault = Fail(len(counted.calls) + offset, errno.ENOSPC, written=3)
    counted.arm(fault)
    before = content(memory, WAL)
    with pytest.raises(StoreFull):
        actor.handle(batch(3, 4), Caller(1, 3))
    assert content(memory, WAL) == before
    assert ids(actor) == {1}
    actor.handle(batch(3, 4), Caller(1, 3))
    assert ids(actor) == {1, 3, 4} == ids(opened(memory.crash(), options=deadly()))


def _with_deadly_records(monkeypatch: pytest.MonkeyPatch, *, stamps: bool = True) -> MemoryDisk:
    """An index whose log has acknowledged requests that its class no longer takes."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=deadly(stamps=stamps))
    cls = type(actor.store.index.inner)  # type: ignore[union-attr]  # of the module as imported
    monkeypatch.setattr(cls, "armed", False)
    requests: list[im.IndexInsert | im.IndexDelete]
    requests = [batch(1), batch(2, 66, 3), batch(4), batch(5, 77), deleting(1), batch(77), batch(6)]
    for number, request in enumerate(requests):
        if number == 5:
            actor.handle(deleting(77), Caller(1, 50))
        actor.handle(request, Caller(1, number))
        actor.commit()
    monkeypatch.setattr(cls, "armed", True)
    return memory.crash()


def test_what_was_acknowledged_is_never_cut_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record in the log that ends its process ends every opening, and the files stay."""
    memory = _with_deadly_records(monkeypatch)
    before = content(memory, WAL)
    for _ in range(4):
        with pytest.raises(Crash):
            opened(memory, options=deadly())
        memory = memory.crash()
        assert content(memory, WAL) == before


def test_a_salvage_leaves_out_what_ends_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two deaths at one record a salvage opens with all other requests, the rest kept."""
    memory = _with_deadly_records(monkeypatch)
    for _ in range(2):
        with pytest.raises(Crash):
            opened(memory, options=deadly(salvage=True))
        memory = memory.crash()
    actor = opened(memory, options=deadly(salvage=True))
    assert ids(actor) == {4, 6}
    assert [memory.inode_at(f"{WAL}.cut{n}") is not None for n in (1, 2, 3, 4)] == [
        True, True, True, False,
    ]  # fmt: skip
    assert memory.inode_at(TRIAL) is None
    Writer(actor).write(9)
    assert ids(opened(memory.crash(), options=deadly())) == {4, 6, 9}


def test_a_salvage_that_is_killed_otherwise_leaves_nothing_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A death from outside, at any file call of a salvage, costs no record that the class takes."""
    memory = _with_deadly_records(monkeypatch)
    for _ in range(2):
        with pytest.raises(Crash):
            opened(memory, options=deadly(salvage=True))
        memory = memory.crash()
    probe = FaultyDisk(memory.crash())
    opened(probe, options=deadly(salvage=True))
    for kill in every_kill(probe.calls):
        left = memory.crash()
        with pytest.raises(Crash):
            opened(FaultyDisk(left, kill), options=deadly(salvage=True))
        left = left.crash()
        actor = opened(left, options=deadly(salvage=True))
        assert ids(actor) == {4, 6}, kill


def test_a_refused_record_amid_others_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a class refuses in the midst of its log is ``StoreCorrupt``, until it is salvaged."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=deadly())
    cls = type(actor.store.index.inner)  # type: ignore[union-attr]  # of the module as imported
    monkeypatch.setattr(cls, "armed", False)
    for number, request in enumerate((batch(1), batch(2, 77), batch(77 + 1))):
        actor.handle(request, Caller(1, number))
    monkeypatch.setattr(cls, "armed", True)
    memory = memory.crash()
    with pytest.raises(StoreCorrupt, match="not this one"):
        opened(memory, options=deadly())
    assert ids(opened(memory, options=deadly(salvage=True))) == {1, 78}


def test_a_last_record_that_the_class_refuses_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log may end in a record that its class refused and nobody took back: it opens without."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=deadly())
    cls = type(actor.store.index.inner)  # type: ignore[union-attr]  # of the module as imported
    Writer(actor).write(1)
    monkeypatch.setattr(cls, "armed", False)
    actor.handle(batch(2, 77), Caller(1, 1))
    monkeypatch.setattr(cls, "armed", True)
    left = memory.crash()
    actor = opened(left, options=deadly())
    assert ids(actor) == {1}
    Writer(actor).write(3)
    assert ids(opened(left.crash(), options=deadly())) == {1, 3}
