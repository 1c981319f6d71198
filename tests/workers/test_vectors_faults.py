"""Every file call of every operation of a vector store, failing: a typed error or the worker's end.

Under the profile "long" every call fails in every way; otherwise some, in one way.
"""

import errno
import random
from collections.abc import Callable

import pytest

from holdfast.bench.faults import (
    GROWING,
    REACHING,
    Call,
    Choice,
    Everything,
    Fail,
    FaultyDisk,
    Lost,
    MemoryDisk,
    Nothing,
    Sampled,
)
from holdfast.formats.errors import HoldfastError, StoreFull, StoreIOError
from holdfast.workers.actor import Caller
from holdfast.workers.log_file import Fatal
from holdfast.workers.message import Durability
from holdfast.workers.vectors import VectorsActor
from tests.workers.interruptions import cuts, is_exhaustive
from tests.workers.test_vectors_crash import WORKLOADS
from tests.workers.vector_model import (
    PATH,
    POLICIES,
    Branch,
    Delete,
    Derive,
    Died,
    Embed,
    Freeze,
    History,
    Ingest,
    Op,
    State,
    ask,
    do,
    fatally,
    opened,
    row,
    state_of,
    with_small_limits,
)
from tests.workers.vector_workload import (
    CHILD,
    DERIVED,
    Step,
    Workload,
    check_state,
    checked_state,
    reopening,
)

pytestmark = pytest.mark.usefixtures("quiet")

CODES = {errno.ENOSPC: GROWING, errno.EDQUOT: GROWING, errno.EIO: REACHING}
APPENDING = frozenset({"append", "write_at"})
ONE, TWO = Ingest({1: row(1, 1, i=1)}), Ingest({1: row(2, 2, i=2), 2: row(0, 2)})


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_limits(monkeypatch)


class Host:
    """Does a workload however often it is refused or its worker ends, as a coordinator would."""

    def __init__(self, workload: Workload, fault: Fail, durability: Durability) -> None:
        self.memory, self.history = workload.begin(durability)
        self.path = workload.path
        self.fault = fault
        self.disk = FaultyDisk(self.memory, fault)
        self.actor: VectorsActor | None = None
        self.deaths = self.refusals = 0

    def do(self, step: Step) -> None:
        """Do one step to its end."""
        for _ in range(8):
            try:
                if step is reopening:
                    self._close()
                    self._open()
                else:
                    self._do(step)
            except HoldfastError as error:
                self._refused(error)
            except Died:
                self._died()
            else:
                return
        raise AssertionError("the service does not resume")

    def _do(self, step: Step) -> None:
        actor = self.actor or self._open()
        fatally(lambda: step(self.disk, actor, self.history))

    def _close(self) -> None:
        actor, self.actor = self.actor, None
        if actor is None:
            return
        try:
            fatally(lambda: self.history.close(actor))
        except HoldfastError as error:
            raise Died from error

    def _open(self) -> VectorsActor:
        history = self.history
        actor = fatally(lambda: opened(self.disk, self.path, history.durability))
        possible = history.after_power_loss() if self.fault.lost else history.after_death()
        found = checked_state(self.memory, actor, whole=False)
        assert found in possible, (found, possible)
        for number, sent in list(enumerate(history.sent))[history.answered :]:
            reply = fatally(lambda sent=sent: ask(actor, sent.op.request(), object, sent.caller))  # type: ignore[misc]
            history.sent[number] = sent._replace(reply=reply)
        fatally(lambda: history.commit(actor))
        assert checked_state(self.memory, actor, whole=False) == history.state
        self.actor = actor
        return actor

    def _refused(self, error: HoldfastError) -> None:
        """A typed error: once the cause is gone the same actor serves on, and nothing changed."""
        self.refusals += 1
        if self.fault.code in (errno.ENOSPC, errno.EDQUOT):
            assert isinstance(error, StoreFull), error
        self.disk.arm()
        if self.actor is None:  # a worker that cannot open ends
            self.disk.inner = self.memory = self.memory.crash()
            return
        self.history.commit(self.actor)
        assert checked_state(self.memory, self.actor) == self.history.state

    def _died(self) -> None:
        """The worker ended; its first successor meets the same trouble if that lasts."""
        self.deaths += 1
        self.disk.inner = self.memory = self.memory.crash()
        self.actor = None
        if self.deaths > 1:
            self.disk.arm()


def _despite(workload: Workload, fault: Fail, durability: Durability = "always") -> Host:
    """Do the workload despite a fault; in the end everything is there, also after a power loss."""
    host = Host(workload, fault, durability)
    for step in workload.steps:
        host.do(step)
    host.do(reopening)
    host.do(reopening)  # the first may have ended the worker before it had synced
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


CHOICES: dict[str, Callable[[int], Choice]] = {
    "nothing": lambda seed: Nothing(),
    "everything": lambda seed: Everything(),
    "sampled": lambda seed: Sampled(seed),
}


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
