"""Every file call of every operation of a vector store, failing: a typed error or the worker's end.

Under the profile "long" every call fails in every way; otherwise some, in one way.
"""

import errno
import functools
import random

import pytest

from holdfast.bench.faults import (
    Call,
    Fail,
    FaultyDisk,
    Lost,
    MemoryDisk,
    Nothing,
)
from holdfast.formats.errors import StoreIOError
from holdfast.workers.actor import Caller
from holdfast.workers.log_file import Fatal
from holdfast.workers.message import Durability
from holdfast.workers.vectors import VectorsActor
from tests.workers.interruptions import cuts, is_exhaustive
from tests.workers.test_vectors_crash import WORKLOADS
from tests.workers.troubled import APPENDING, CHOICES, CODES, Host, fatally
from tests.workers.vector_model import (
    PATH,
    POLICIES,
    Branch,
    Delete,
    Derive,
    Embed,
    Freeze,
    History,
    Ingest,
    Op,
    State,
    ask,
    do,
    opened,
    row,
    state_of,
    with_small_limits,
)
from tests.workers.vector_workload import (
    CHILD,
    DERIVED,
    Workload,
    check_state,
    checked_state,
    reopening,
)

pytestmark = pytest.mark.usefixtures("quiet")

ONE, TWO = Ingest({1: row(1, 1, i=1)}), Ingest({1: row(2, 2, i=2), 2: row(0, 2)})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_limits(monkeypatch)


class VectorsHost(Host[VectorsActor, History]):
    """Of a vector store."""

    def __init__(self, workload: Workload, fault: Fail, durability: Durability) -> None:
        memory, history = workload.begin(durability)
        super().__init__(memory, fault, history, reopening)
        self.path = workload.path

    def opened(self) -> VectorsActor:
        history = self.history
        actor = fatally(lambda: opened(self.disk, self.path, history.durability))
        possible = history.after_power_loss() if self.fault.lost else history.after_death()
        found = checked_state(self.memory, actor, whole=False)
        assert found in possible, (found, possible)
        for number, sent in list(enumerate(history.sent))[history.answered :]:
            again = functools.partial(ask, actor, sent.op.request(), object, sent.caller)
            history.sent[number] = sent._replace(reply=fatally(again))
        fatally(lambda: history.commit(actor))
        assert checked_state(self.memory, actor, whole=False) == history.state
        return actor

    def close(self, actor: VectorsActor) -> None:
        self.history.close(actor)

    def serve_on(self, actor: VectorsActor) -> None:
        self.history.commit(actor)
        assert checked_state(self.memory, actor) == self.history.state


def _despite(workload: Workload, fault: Fail, durability: Durability = "always") -> VectorsHost:
    """Do the workload despite a fault; in the end everything is there, also after a power loss."""
    host = VectorsHost(workload, fault, durability)
    for step in workload.steps:
        host.do(step)
    host.reopen()
    left = host.memory.power_loss(Nothing())
    check_state(left, workload.path, durability, [host.history.state])
    return host


def _calls(workload: Workload, durability: Durability = "always") -> list[Call]:
    """The calls of an undisturbed run."""
    return _despite(workload, Fail(-1, 0), durability).disk.calls


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_call_failing(name: str) -> None:
    """One failing call, or all from one on: nothing is lost, and service resumes."""
    workload = WORKLOADS[name]()
    outcomes = [0, 0]
    for durability in POLICIES:
        for call in _calls(workload, durability):
            ways = [
                Fail(call.number, code, lasting=lasting, written=written, calls=calls)
                for code, calls in CODES.items()
                for lasting in (False, True)
                for written in (0, *cuts(call)[:1])
                if call.name in calls
            ]
            if not is_exhaustive():
                drawn = call.number % 36 == 12 * POLICIES.index(durability)
                ways = random.Random(call.number).sample(ways, min(len(ways), 1) * drawn)
            for fault in ways:
                host = _despite(workload, fault, durability)
                outcomes[0] += host.refusals
                outcomes[1] += host.deaths
    assert outcomes[0] > 10
    assert outcomes[1] >= 2


@pytest.mark.parametrize("name", WORKLOADS)
def test_failing_sync_is_final(name: str) -> None:
    """A sync that fails is never answered with success, whatever became of the data."""
    workload = WORKLOADS[name]()
    deaths = 0
    syncs = [call for call in _calls(workload) if call.name == "sync"]
    for call in syncs if is_exhaustive() else syncs[::3]:
        ways = [
            Lost(choice(call.number), evict=evict)
            for choice in CHOICES.values()
            for evict in (False, True)
        ]
        if not is_exhaustive():
            ways = random.Random(call.number).sample(ways, 1)
        for lost in ways:
            fault = Fail(call.number, errno.EIO, calls=frozenset({"sync"}), lost=lost)
            deaths += _despite(workload, fault).deaths
    assert deaths >= 2


@pytest.mark.parametrize("markable", [True, False], ids=["marked", "unmarked"])
@pytest.mark.parametrize("evict", [False, True], ids=["cached", "evicted"])
def test_successor_of_a_failed_sync_writes_again(evict: bool, markable: bool) -> None:
    """Pages that a failing sync left are not trusted: they are written anew before an answer.

    So it is even when the disk is too full to leave the mark that a sync failed.
    """
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    do(actor, ONE, Caller(1, 1), State())
    actor.commit()
    first = ONE.after(State())
    do(actor, TWO, Caller(1, 2), first)
    lost = Lost(Nothing(), evict=evict)
    failing = frozenset({"sync"} if markable else {"sync", "open"})
    disk.arm(Fail(len(disk.calls), errno.ENOSPC, lasting=True, calls=failing, lost=lost))
    with pytest.raises(Fatal):
        actor.commit()
    left = memory.crash()
    actor = opened(left)
    assert state_of(left, actor) == (first if evict else TWO.after(first))
    ask(actor, TWO.request(), object, Caller(1, 2))
    actor.commit()
    check_state(left.power_loss(Nothing()), PATH, "always", [TWO.after(first)])


WRITES: list[Op] = [
    TWO,
    Delete((1,)),
    Embed(b"image"),
    Freeze(),
    Branch(CHILD),
    Derive(DERIVED),
]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("op", WRITES, ids=lambda op: type(op).__name__)
def test_refused_write_leaves_the_store_serving(op: Op, code: int) -> None:
    """A disk that stays full refuses writes and goes on answering reads."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    history = History()
    history.send(actor, ONE)
    history.commit(actor)
    for number in range(2, 8):
        disk.arm(Fail(len(disk.calls), code, lasting=True, written=number, calls=APPENDING))
        with pytest.raises(StoreIOError) as caught:
            history.send(actor, op)
        assert caught.value.errno == code
        assert caught.value.path is not None
        assert state_of(memory, actor, [CHILD, DERIVED]) == history.state
        actor.commit()
    disk.arm()
    history.send(actor, op)
    history.commit(actor)
    actor.check_invariants()
    check_state(memory.power_loss(Nothing()), PATH, "always", [history.state])


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_merging_segments_is_put_off(code: int) -> None:
    """What is written for the store's own good may fail without a word to the caller."""
    memory = MemoryDisk("/data")
    writes: list[Call] = []

    def on_call(call: Call) -> None:
        if call.name == "write_at" and call.path == PATH:
            writes.append(call)
            if len(writes) == 2:
                disk.arm(Fail(call.number, code, written=30))

    disk = FaultyDisk(memory, on_call=on_call)
    actor = opened(disk)
    history = History()
    for number in range(4):  # as many segments as there may be
        history.send(actor, Ingest({number: row(number, 0)}))
        assert len(writes) == 1
        writes.clear()
    for number in range(4, 7):
        history.send(actor, Ingest({number: row(number, 0)}))
        assert len(writes) == 2
        assert disk.struck == number - 3
        writes.clear()
    history.commit(actor)
    assert checked_state(memory, actor) == history.state
    left = memory.crash()
    actor = opened(left)
    assert len(actor._store.catalog.vecs) <= 4, "caught up with at the next opportunity"
    assert checked_state(left, actor) == history.state
