"""What a batch does to the cursor, and which batches ``stale="refuse"`` refuses."""

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.errors import StaleUpdate
from holdfast.formats.values import Cursor, Delete, Put, Version
from holdfast.workers.actor import Caller
from holdfast.workers.fold import FoldActor
from holdfast.workers.fold_messages import FoldApply
from holdfast.workers.messages import Done
from tests.workers.fold_model import PATH, ask, opened, state_of

pytestmark = pytest.mark.usefixtures("quiet")

NONE, TEN = b"", b"10 bytes.."
FIVE, SIX = (Cursor.from_u64(number).token for number in (5, 6))


def apply(actor: FoldActor, request: FoldApply, number: int = 1) -> None:
    """Handle and commit."""
    ask(actor, request, Done, Caller(1, number))
    actor.commit()


def holding(cursor: bytes, version: bytes = NONE) -> FoldActor:
    """A fold with this cursor, and an entry of this version."""
    actor = opened(MemoryDisk("/data"), PATH)
    apply(actor, FoldApply([Put("k", b"old", Version(version))], Cursor(cursor)))
    return actor


@pytest.mark.parametrize("held", [NONE, FIVE, TEN])
def test_without_a_cursor_it_stays(held: bytes) -> None:
    """Updates that come from no stream leave its position, also beyond a restart."""
    disk = MemoryDisk("/data")
    actor = opened(disk, PATH)
    apply(actor, FoldApply([], Cursor(held)), 1)
    apply(actor, FoldApply([Put("k", b"v")]), 2)
    apply(actor, FoldApply([Put("l", b"v")], refuse_stale=True), 3)
    apply(actor, FoldApply([]), 4)
    before = state_of(actor)
    assert (before.cursor, sorted(before.rows)) == (held, ["k", "l"])
    actor.close()
    assert state_of(opened(disk, PATH)) == before


@pytest.mark.parametrize(
    ("held", "given", "stale"),
    [
        (FIVE, SIX, False),
        (FIVE, FIVE, False),
        (SIX, FIVE, True),
        (FIVE, NONE, True),
        (TEN, NONE, True),
        (NONE, NONE, False),
        (NONE, FIVE, False),
        (FIVE, TEN, False),
        (TEN, FIVE, False),
        (TEN, b"01 bytes..", False),
    ],
)
def test_cursors_that_go_backwards(held: bytes, given: bytes, stale: bool) -> None:
    """A lower number and the start are behind; what has no order is not. As it is, all is taken."""
    actor = holding(held)
    request = FoldApply([Delete("k")], Cursor(given), refuse_stale=True)
    if not stale:
        apply(actor, request, 2)
        assert state_of(actor).cursor == given
        return
    before = state_of(actor)
    with pytest.raises(StaleUpdate, match="behind the stored"):
        apply(actor, request, 2)
    assert state_of(actor) == before
    apply(actor, FoldApply([], Cursor(given)), 3)
    assert state_of(actor).cursor == given


@pytest.mark.parametrize(
    ("versions", "stale"),
    [
        ((SIX,), False),
        ((FIVE,), False),
        ((Version.from_u64(4).token,), True),
        ((NONE,), False),
        ((TEN,), False),
        ((NONE, Version.from_u64(4).token), False),
        ((SIX, FIVE), True),
    ],
)
def test_versions_that_go_backwards(versions: tuple[bytes, ...], stale: bool) -> None:
    """A number below the entry's, also of the same batch, is refused; what has no order passes."""
    actor = holding(NONE, FIVE)
    updates = [Put("k", b"new", Version(version)) for version in versions]
    request = FoldApply([*updates], Cursor.from_u64(1), refuse_stale=True)
    if stale:
        before = state_of(actor)
        with pytest.raises(StaleUpdate, match="older than the stored"):
            apply(actor, request, 2)
        assert state_of(actor) == before
    else:
        apply(actor, request, 2)
        assert state_of(actor).rows == {"k": (b"new", versions[-1])}
