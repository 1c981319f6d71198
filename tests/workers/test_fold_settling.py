"""The table may be brought up to date after the answer; nobody finds it behind."""

import pytest

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.values import Delete, Put
from holdfast.workers import fold_messages, messages
from holdfast.workers.actor import Caller
from holdfast.workers.fold import FoldActor
from holdfast.workers.message import Durability
from tests.workers.fold_model import PATH, POLICIES, State, ask, opened, state_of
from tests.workers.fold_workload import apply

pytestmark = pytest.mark.usefixtures("quiet", "written_behind")


def _rounds(actor: FoldActor, state: State, first: int, count: int) -> State:
    """Write batches that insert, replace and delete, with nothing in between."""
    for number in range(first, first + count):
        request = apply(
            Put("always", b"%d" % number),
            Put(f"k{number}", bytes(number)),
            Delete(f"k{number - 2}"),
            cursor=number,
        )
        ask(actor, request, messages.Done, Caller(1, number))
        state = state.after(request)
    return state


@pytest.mark.parametrize("policy", POLICIES)
def test_a_compaction_finds_every_batch_in_the_table(policy: Durability) -> None:
    """A batch written between any two slices is in the compacted log as in the table."""
    disk = MemoryDisk("/data")
    actor = opened(disk, PATH, policy)
    state = _rounds(actor, State(), 1, 30)
    number = 31
    steps = actor.handle(fold_messages.FoldCompact(), Caller(9, 9))
    assert not isinstance(steps, messages.Reply)
    for _ in steps:
        state = _rounds(actor, state, number, 1)
        number += 1
    assert number > 32
    actor.check_invariants()
    assert state_of(actor) == state
    actor.close()
    assert state_of(opened(disk, PATH, policy)) == state


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_settled_is_what_would_have_been(policy: Durability) -> None:
    """Settling after an answer, settling twice and not settling at all come to the same."""
    actor = opened(MemoryDisk("/data"), PATH, policy)
    state = State()
    for number in range(1, 20):
        state = _rounds(actor, state, number, 1)
        for _ in range(number % 3):
            actor.settle()
    assert state_of(actor) == state
    actor.check_invariants()


@pytest.mark.parametrize("policy", POLICIES)
def test_a_repeated_request_is_known_before_it_is_settled(policy: Durability) -> None:
    """A batch that is sent again at once takes effect once."""
    actor = opened(MemoryDisk("/data"), PATH, policy)
    request = apply(Put("k", b"v"), cursor=1)
    for _ in range(2):
        ask(actor, request, messages.Done, Caller(1, 1))
    status = ask(actor, fold_messages.FoldRange(""), fold_messages.Entries)
    assert len(status.entries) == 1
    actor.check_invariants()
