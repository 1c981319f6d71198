"""Every file call of every index operation, failing: a typed error or the worker's end, no loss."""

import errno
import functools

import pytest

from holdfast.bench.faults import (
    SYNCS,
    Call,
    Fail,
    FaultyDisk,
    Lost,
    MemoryDisk,
    Nothing,
)
from holdfast.formats.errors import StoreIOError
from holdfast.workers import index_messages as im
from holdfast.workers.actor import Caller
from holdfast.workers.index import IndexActor
from holdfast.workers.log_file import Fatal
from holdfast.workers.message import Durability
from tests.workers.index_model import PATH, POLICIES, ask, inserting, opened, rows_of
from tests.workers.index_workload import (
    History,
    after,
    check_state,
    checked_state,
    reopening,
    workload,
)
from tests.workers.interruptions import cuts
from tests.workers.troubled import APPENDING, CHOICES, CODES, Host, fatally

pytestmark = pytest.mark.usefixtures("quiet", "written_behind")


class IndexHost(Host[IndexActor, History]):
    """Of an index."""

    def opened(self) -> IndexActor:
        actor = fatally(lambda: opened(self.disk, PATH, self.history.durability))
        found, possible = checked_state(self.memory, actor), self.history.after_death()
        assert found in possible, (found, possible)
        for caller, request, _ in self.history.pending:
            fatally(functools.partial(actor.handle, request, caller))
        if self.history.pending:
            fatally(actor.commit)
            self.history.answer()
        assert checked_state(self.memory, actor) == self.history.state
        return actor

    def close(self, actor: IndexActor) -> None:
        self.history.last = None
        actor.close()
        self.history.synced()

    def serve_on(self, actor: IndexActor) -> None:
        actor.commit()
        self.history.answer()
        assert checked_state(self.memory, actor) == self.history.state


def _despite(fault: Fail, history: History) -> IndexHost:
    """Do the workload despite a fault; in the end everything is there, also after a power loss."""
    host = IndexHost(MemoryDisk("/data"), fault, history, reopening)
    for step in workload(strict=False):
        host.do(step)
    host.reopen()
    check_state(host.memory.power_loss(Nothing()), history, [history.state])
    return host


NEVER = Fail(-1, 0)


def _calls(durability: Durability = "always") -> list[Call]:
    """The calls of an undisturbed run."""
    return _despite(NEVER, History(durability)).disk.calls


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
@pytest.mark.parametrize("durability", POLICIES)
def test_every_call_failing(durability: Durability, lasting: bool, code: int) -> None:
    """One failing call, or all from one on: nothing is lost, and service resumes."""
    outcomes = [0, 0]
    for call in _calls(durability):
        if call.name not in CODES[code]:
            continue
        for written in (0, *cuts(call)[:1]):
            fault = Fail(call.number, code, lasting=lasting, written=written, calls=CODES[code])
            host = _despite(fault, History(durability))
            outcomes[0] += host.refusals
            outcomes[1] += host.deaths
    assert outcomes[0] > 10
    assert outcomes[1] >= 5


@pytest.mark.parametrize("evict", [False, True], ids=["cached", "evicted"])
@pytest.mark.parametrize("kept", CHOICES)
def test_failing_sync_is_final(kept: str, evict: bool) -> None:
    """A sync that fails is never answered with success, whatever became of the data."""
    deaths = 0
    for call in _calls():
        if call.name not in SYNCS:
            continue
        for seed in range(3 if kept == "sampled" else 1):
            lost = Lost(CHOICES[kept](100 * call.number + seed), evict=evict)
            fault = Fail(call.number, errno.EIO, calls=SYNCS, lost=lost)
            deaths += _despite(fault, History()).deaths
    assert deaths >= 12


@pytest.mark.parametrize("markable", [True, False], ids=["marked", "unmarked"])
@pytest.mark.parametrize("evict", [False, True], ids=["cached", "evicted"])
def test_successor_of_a_failed_sync_writes_again(evict: bool, markable: bool) -> None:
    """Pages that a failing sync left are not trusted: they are written anew before an answer.

    So it is even when the disk is too full to leave the mark that a sync failed.
    """
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    first = inserting({1: ([1.0], {"what": "durable"})})
    second = inserting({1: ([2.0], {"what": "in doubt"})}, replace=True)
    ask(actor, first, im.IndexInserted, Caller(1, 1))
    actor.commit()
    ask(actor, second, im.IndexInserted, Caller(1, 2))
    lost = Lost(Nothing(), evict=evict)
    failing = frozenset({"sync"} if markable else {"sync", "open"})
    disk.arm(Fail(len(disk.calls), errno.ENOSPC, lasting=True, calls=failing, lost=lost))
    with pytest.raises(Fatal):
        actor.commit()
    left = memory.crash()
    actor = opened(left)
    expected = after((), first)
    assert tuple(rows_of(actor)) == (expected if evict else after(expected, second))
    ask(actor, second, im.IndexInserted, Caller(1, 2))
    actor.commit()
    check_state(left.power_loss(Nothing()), History(), [after(expected, second)])


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_refused_write_leaves_the_store_serving(code: int) -> None:
    """A disk that stays full refuses writes and goes on answering reads."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    ask(actor, inserting({1: ([1.0], None)}), im.IndexInserted, Caller(1, 1))
    actor.commit()
    held = rows_of(actor)
    for number in range(2, 12):
        disk.arm(Fail(len(disk.calls), code, lasting=True, written=number, calls=APPENDING))
        with pytest.raises(StoreIOError) as caught:
            ask(actor, inserting({2: ([2.0], None)}), im.IndexInserted, Caller(1, number))
        assert caught.value.errno == code
        assert caught.value.path is not None
        assert rows_of(actor) == held
        actor.commit()
    disk.arm()
    ask(actor, inserting({3: ([3.0], None)}), im.IndexInserted, Caller(1, 20))
    actor.commit()
    check_state(memory.power_loss(Nothing()), History(), [tuple(rows_of(actor))])
