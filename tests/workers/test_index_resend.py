"""A request sent again to a successor takes effect once, and gets the answer of the first time."""

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import Duplicate, NotFound
from holdfast.formats.limits import LEDGER_SLOTS
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.index import IndexActor
from holdfast.workers.index_messages import IndexDelete, IndexInsert
from holdfast.workers.messages import Compacted
from tests.workers.index_model import ask, deleting, inserting, opened, row, rows_of

pytestmark = pytest.mark.usefixtures("quiet")

BEFORE = inserting({1: ([1.0], None), 2: ([2.0], None)})
WRITES: dict[str, tuple[IndexInsert | IndexDelete, object]] = {
    "strict insert": (inserting({3: ([3.0], {"a": 1})}), im.IndexInserted(1, 0)),
    "upsert": (
        inserting({1: ([9.0], None), 4: ([4.0], None)}, replace=True),
        im.IndexInserted(2, 1),
    ),
    "strict delete": (deleting(1, 2), im.IndexDeleted(2)),
    "lenient delete": (deleting(1, 404, missing_ok=True), im.IndexDeleted(1)),
}
RIVAL = inserting({n: ([-1.0], None) for n in (1, 2, 3, 4)}, replace=True)


def prepared() -> tuple[MemoryDisk, IndexActor]:
    """An index with two rows."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    ask(actor, BEFORE, im.IndexInserted, Caller(1, 1))
    actor.commit()
    return memory, actor


@pytest.mark.parametrize("committed", [True, False])
@pytest.mark.parametrize("checkpointed", ["no", "before the death", "after it"])
@pytest.mark.parametrize("name", WRITES)
def test_once_and_with_the_same_counts(name: str, checkpointed: str, committed: bool) -> None:
    """Although a rival wrote since, and whether or not the log is another one by now."""
    memory, actor = prepared()
    request, answer = WRITES[name]
    assert actor.handle(request, Caller(1, 2)) == answer
    if committed:
        actor.commit()
    if checkpointed == "before the death":
        ask(actor, im.IndexCheckpoint(), Compacted)
    actor = opened(memory.crash())
    if checkpointed == "after it":
        ask(actor, im.IndexCheckpoint(), Compacted)
    ask(actor, RIVAL, im.IndexInserted, Caller(2, 1))
    held = rows_of(actor)
    assert actor.handle(request, Caller(1, 2)) == answer
    assert rows_of(actor) == held


def test_another_request_with_the_same_content_is_another() -> None:
    """A strict write by someone else is refused, whatever the first caller was answered."""
    memory, actor = prepared()
    request, _ = WRITES["strict insert"]
    actor.handle(request, Caller(1, 2))
    actor.commit()
    actor = opened(memory.crash())
    with pytest.raises(Duplicate):
        actor.handle(request, Caller(2, 2))
    ask(actor, deleting(3), im.IndexDeleted, Caller(3, 1))
    with pytest.raises(NotFound):
        actor.handle(deleting(3), Caller(3, 2))


def test_a_held_request_is_remembered() -> None:
    """One whose answer waits in a full pipe keeps its slot, however many come after it."""
    memory, actor = prepared()
    request, answer = WRITES["strict insert"]
    actor.handle(request, Caller(1, 2))
    actor.hold(Caller(1, 2))
    for number in range(LEDGER_SLOTS + 10):
        actor.handle(inserting({7: ([number], None)}, replace=True), Caller(5, number + 1))
    actor.commit()
    actor = opened(memory.crash())
    assert actor.handle(request, Caller(1, 2)) == answer
    actor.release(Caller(1, 2))
    assert row(3, 3.0, a=1) in rows_of(actor)
