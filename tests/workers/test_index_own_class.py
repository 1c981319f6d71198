"""Indexes of a class of one's own: durable, and no worker ends for what the class does."""

import errno
from typing import Any, Self

import numpy as np
import pytest

from holdfast.bench.faults import Crash as Killed
from holdfast.bench.faults import Fail, FaultyDisk, Kill, MemoryDisk
from holdfast.formats.errors import (
    InvalidArgument,
    InvalidFormat,
    StoreIOError,
)
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.foreign_index import ForeignIndex
from holdfast.workers.index import IndexActor
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.messages import Compacted
from holdfast.workers.raw_arrays import raw
from tests.workers.index_files import Writer, closed, content, ids
from tests.workers.index_model import (
    DIMENSION,
    PATH,
    WAL,
    Rows,
    ask,
    deleting,
    inserting,
    opened,
)

pytestmark = pytest.mark.usefixtures("quiet")


class Picky:
    """An index of one's own that refuses id 13, whatever it said before."""

    INDEX_TYPE = "picky"

    def __init__(self, dimension: int, metric: Any) -> None:
        self.dimension, self.metric = dimension, metric
        self.rows: dict[Any, bytes] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, id_: object) -> bool:
        return id_ in self.rows

    def insert(self, id_: Any, vector: Any, metadata: Any) -> None:
        if id_ == 13:
            raise ValueError("13 brings bad luck")
        self.rows[id_] = vector.tobytes()

    def delete(self, id_: Any) -> None:
        del self.rows[id_]

    def search(self, vector: Any, k: int) -> list[tuple[Any, float]]:
        return [(id_, float(n)) for n, id_ in enumerate(list(self.rows)[:k])]

    def save_to(self, writer: Any) -> None:
        writer.write(repr((self.dimension, self.metric, self.rows)).encode())

    @classmethod
    def load_from(cls, reader: Any) -> Self:
        import ast

        dimension, metric, rows = ast.literal_eval(reader.read().decode())
        index = cls(dimension, metric)
        index.rows = rows
        return index


PICKY = IndexOptions(
    kind="tests.workers.test_index_own_class:Picky", dimension=DIMENSION, metric="euclidean"
)


def inner(actor: IndexActor) -> dict[Any, bytes]:
    """The rows of a picky index."""
    index = actor.store.index
    assert isinstance(index, ForeignIndex)
    assert isinstance(index.inner, Picky)
    return index.inner.rows


def test_an_index_of_ones_own_is_durable() -> None:
    """Writes, deletes, replacements and snapshots of a user's class survive crashes."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=PICKY)
    Writer(actor).write(1, 2, 3)
    ask(actor, deleting(2), im.IndexDeleted, Caller(1, 1))
    ask(actor, inserting({1: ([7], None)}, replace=True), im.IndexInserted, Caller(1, 2))
    actor.commit()
    held = dict(inner(actor))
    assert inner(opened(memory.crash(), options=PICKY)) == held
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(4)
    again = opened(memory.crash(), options=PICKY)
    assert inner(again).keys() == {1, 3, 4}
    hits = ask(again, im.IndexSearch(raw(np.zeros(4, np.float32)), 1, 2), im.IndexHits)
    assert hits.each == 2
    with pytest.raises(InvalidFormat, match="picky"):
        opened(memory.crash(), options=IndexOptions())


class Forgetful(Picky):
    """An index of one's own that saves fewer rows than it has, other ones, or none at all."""

    INDEX_TYPE = "forgetful"

    def save_to(self, writer: Any) -> None:
        if 10 in self.rows:
            writer.write(b"nonsense")
            return
        metric = "dot" if 11 in self.rows else self.metric
        rows = {id_: row for id_, row in self.rows.items() if id_ != 12}
        writer.write(repr((self.dimension, metric, rows)).encode())


@pytest.mark.parametrize("compression", ["none", "lz4"])
@pytest.mark.parametrize("number", [10, 11, 12])
def test_a_snapshot_that_does_not_load_replaces_none(
    number: int, compression: im.CompressionName
) -> None:
    """What a class's ``save_to`` leaves out is noticed before the old snapshot and log go."""
    forgetful = IndexOptions(
        kind="tests.workers.test_index_own_class:Forgetful",
        dimension=DIMENSION,
        metric="euclidean",
        compression=compression,
    )
    memory = MemoryDisk("/data")
    actor = opened(memory, options=forgetful)
    Writer(actor).write(1, 2)
    ask(actor, im.IndexCheckpoint(), Compacted)
    Writer(actor).write(number)
    before = content(memory, PATH), content(memory, WAL)
    for reset in (True, False):
        with pytest.raises(InvalidArgument, match=r"Forgetful\.save_to"):
            ask(actor, im.IndexCheckpoint(reset), Compacted)
    assert (content(memory, PATH), content(memory, WAL)) == before
    assert memory.inode_at(f"{PATH}.tmp") is None
    Writer(actor).write(3)
    again = opened(memory.crash(), options=forgetful)
    assert inner(again).keys() == {1, 2, number, 3}
    ask(again, deleting(number), im.IndexDeleted, Caller(1, 1))
    ask(again, im.IndexCheckpoint(), Compacted)


class Unsaving(Picky):
    """An index of one's own that cannot be saved while it has row 10, nor with row 11."""

    INDEX_TYPE = "unsaving"

    def save_to(self, writer: Any) -> None:
        if 10 in self.rows:
            raise OSError(errno.ENOSPC, "no room for that")
        if 11 in self.rows:
            raise SystemExit(3)
        super().save_to(writer)


@pytest.mark.parametrize("number", [10, 11])
def test_a_class_that_fails_to_save_itself_is_served_all_the_same(number: int) -> None:
    """Asked for, a snapshot gets a typed error; otherwise it is put off."""
    unsaving = IndexOptions(
        kind="tests.workers.test_index_own_class:Unsaving",
        dimension=DIMENSION,
        metric="euclidean",
        checkpoint_bytes=50,
    )
    memory = MemoryDisk("/data")
    actor = opened(memory, options=unsaving)
    writer = Writer(actor)
    writer.write(number, 1)
    assert actor.store.needs_checkpoint()
    assert actor.step(idle=True)
    assert not actor.store.needs_checkpoint()
    with pytest.raises(InvalidArgument, match=r"Unsaving\.save_to"):
        ask(actor, im.IndexCheckpoint(), Compacted)
    assert memory.inode_at(f"{PATH}.tmp") is None
    writer.write(2)
    ask(actor, deleting(number), im.IndexDeleted, Caller(1, 1))
    actor.commit()
    ask(actor, im.IndexCheckpoint(), Compacted)
    assert inner(opened(memory.crash(), options=unsaving)).keys() == {1, 2}


def test_a_record_that_the_index_refuses_is_taken_back() -> None:
    """What the index refuses after all leaves no record, and what comes later is not lost."""
    memory = MemoryDisk("/data")
    actor = opened(memory, options=PICKY)
    Writer(actor).write(1)
    before = memory.content(WAL)
    with pytest.raises(InvalidArgument, match="bad luck"):
        actor.handle(inserting({13: ([1], None)}), Caller(1, 1))
    assert memory.content(WAL) == before
    Writer(actor).write(2)
    assert inner(opened(memory.crash(), options=PICKY)).keys() == {1, 2}


@pytest.mark.parametrize("stamps", [True, False])
@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_batch_that_the_index_refuses_in_part_changes_nothing(
    checkpointed: bool, stamps: bool
) -> None:
    """Rows taken or replaced before the refused one are as before, and the same worker goes on."""
    options = IndexOptions(kind=PICKY.kind, dimension=DIMENSION, metric="euclidean", stamps=stamps)
    memory = MemoryDisk("/data")
    actor = opened(memory, options=options)
    Writer(actor).write(1, 2)
    if checkpointed:
        ask(actor, im.IndexCheckpoint(reset=False), Compacted)
    Writer(actor).write(3)
    before, held = memory.content(WAL), dict(inner(actor))
    batch: Rows = {5: ([5.0], None), 1: ([9.0], None), 13: ([1.0], None), 6: ([6.0], None)}
    for number in (1, 2):
        with pytest.raises(InvalidArgument, match="bad luck"):
            actor.handle(inserting(batch, replace=True), Caller(1, number))
        assert memory.content(WAL) == before
        assert inner(actor) == held
    Writer(actor).write(7)
    assert inner(opened(memory.crash(), options=options)) == inner(actor)
    assert inner(actor).keys() == {1, 2, 3, 7}


class Quitting(Picky):
    """An index of one's own whose every method but those that load it ends the process, armed."""

    INDEX_TYPE = "quitting"
    armed = False

    def _quit(self) -> None:
        if Quitting.armed:
            raise SystemExit(3)

    def __len__(self) -> int:
        self._quit()
        return super().__len__()

    def __contains__(self, id_: object) -> bool:
        self._quit()
        return super().__contains__(id_)

    def search(self, vector: Any, k: int) -> list[tuple[Any, float]]:
        self._quit()
        return super().search(vector, k)


def test_a_class_that_fails_ends_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever its methods raise, even ``SystemExit``, is an error that names the class."""
    quitting = IndexOptions(
        kind="tests.workers.test_index_own_class:Quitting", dimension=DIMENSION, metric="euclidean"
    )
    memory = MemoryDisk("/data")
    actor = opened(memory, options=quitting)
    Writer(actor).write(1)
    search = im.IndexSearch(raw(np.zeros(4, np.float32)), 1, 2)
    cls = type(actor.store.index.inner)  # type: ignore[union-attr]  # of the module as imported
    monkeypatch.setattr(cls, "armed", True)
    monkeypatch.setattr(Quitting, "armed", True)
    for request in (search, inserting({2: ([2], None)}), deleting(1)):
        with pytest.raises(InvalidArgument, match=r"Quitting\.__(len|contains)__: SystemExit"):
            actor.handle(request, Caller(1, 1))
    monkeypatch.setattr(cls, "__len__", Picky.__len__)
    with pytest.raises(InvalidArgument, match=r"Quitting\.search: SystemExit"):
        actor.handle(search, Caller(1, 1))
    monkeypatch.setattr(cls, "armed", False)
    monkeypatch.setattr(Quitting, "armed", False)
    Writer(actor).write(2)
    assert inner(opened(memory.crash(), options=quitting)).keys() == {1, 2}


def test_refused_record_then_crash() -> None:
    """Killed before the refused record is taken back, the index opens, without that record."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk, options=PICKY)
    Writer(actor).write(1)
    counted = FaultyDisk(memory.crash())
    probe = opened(counted, options=PICKY)
    with pytest.raises(InvalidArgument):
        probe.handle(inserting({13: ([1], None)}), Caller(1, 1))
    (truncate,) = (call for call in counted.calls if call.name == "truncate" and call.path == WAL)
    again = memory.crash()
    killed = opened(FaultyDisk(again, Kill(truncate.number)), options=PICKY)
    with pytest.raises(Killed):
        killed.handle(inserting({13: ([1], None)}), Caller(1, 1))
    left = again.crash()
    actor = opened(left, options=PICKY)
    assert inner(actor).keys() == {1}
    Writer(actor).write(2)
    assert inner(opened(left.crash(), options=PICKY)).keys() == {1, 2}


def test_reading_what_cannot_be_read_is_a_typed_error() -> None:
    """A failing medium gives ``StoreIOError`` at opening, and the next opening works."""
    memory = MemoryDisk("/data")
    closed(memory, 1)
    disk = FaultyDisk(memory, Fail(0, errno.EIO, lasting=True, calls=frozenset({"map"})))
    with pytest.raises(StoreIOError):
        opened(disk)
    assert ids(opened(memory)) == [1]
