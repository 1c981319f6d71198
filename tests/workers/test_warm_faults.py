"""Every file call of every operation of a warm store, failing: a typed error or the worker's end.

Under the profile "long" every call fails in every way; otherwise some, in one way.
"""

import errno
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
from holdfast.workers import messages
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.log_file import Fatal
from holdfast.workers.message import Durability
from holdfast.workers.warm import WarmActor
from tests.workers.interruptions import cuts, is_exhaustive
from tests.workers.troubled import APPENDING, CHOICES, CODES, Host, fatally
from tests.workers.warm_model import (
    PATH,
    POLICIES,
    Delete,
    DeleteRange,
    History,
    Op,
    Write,
    ask,
    do,
    let_go,
    opened,
    point,
    state_of,
    stray_files,
    with_small_limits,
)
from tests.workers.warm_workload import (
    COMPACT,
    FLUSH,
    STEPS,
    check_state,
    checked_state,
    reopening,
    series,
    upkeep,
)

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_limits(monkeypatch)


class WarmHost(Host[WarmActor, History]):
    """Of a warm store."""

    def opened(self) -> WarmActor:
        history = self.history
        actor = fatally(lambda: opened(self.disk, PATH, history.durability))
        self.actor = actor  # so that it is let go of if it dies in what follows
        found = fatally(lambda: state_of(self.disk, actor))
        possible = history.after_power_loss() if self.fault.lost else history.after_death()
        assert found in possible, (found, possible)
        fatally(lambda: history.resend(actor))
        fatally(lambda: history.commit(actor))
        assert fatally(lambda: state_of(self.disk, actor)) == history.state
        return actor

    def close(self, actor: WarmActor) -> None:
        self.history.close(actor)

    def serve_on(self, actor: WarmActor) -> None:
        self.history.commit(actor)
        assert checked_state(self.disk, actor) == self.history.state

    def let_go(self, actor: WarmActor) -> None:
        let_go(actor)


def _despite(fault: Fail, durability: Durability = "always") -> WarmHost:
    """Do the workload despite a fault; in the end everything is there, also after a power loss.

    Nothing that came to nothing is left by then.
    """
    host = WarmHost(MemoryDisk("/data"), fault, History(durability), reopening)
    for step in STEPS:
        host.do(step)
    host.disk.arm()
    host.do(upkeep)
    host.do(working_at_once)
    assert host.actor is not None
    assert stray_files(host.disk, host.actor) == [], "not for long"
    host.reopen()
    check_state(host.memory.power_loss(Nothing()), durability, [host.history.state])
    return host


def working_at_once(disk: Disk, actor: WarmActor, history: History) -> WarmActor:
    """Compact in one go."""
    ask(actor, COMPACT, messages.Compacted)
    history.synced()
    return actor


def _calls(durability: Durability = "always") -> list[Call]:
    """The calls of an undisturbed run."""
    return _despite(Fail(-1, 0), durability).disk.calls


@pytest.mark.parametrize("durability", POLICIES)
def test_every_call_failing(durability: Durability) -> None:
    """One failing call, or all from one on: nothing is lost, and service resumes."""
    refusals = deaths = 0
    for call in _calls(durability):
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
            host = _despite(fault, durability)
            refusals += host.refusals
            deaths += host.deaths
    assert refusals > 3
    assert deaths >= 1


def test_failing_sync_is_final() -> None:
    """A sync that fails is never answered with success, whatever became of the data."""
    deaths = refusals = 0
    syncs = [call for call in _calls() if call.name == "sync"]
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
            host = _despite(fault)
            deaths += host.deaths
            refusals += host.refusals
    assert deaths >= 2, "of the log"
    assert refusals >= 2, "of a chunk, which comes to nothing then"


BATCH = series(1, range(10), 1, a="b")


@pytest.mark.parametrize("markable", [True, False], ids=["marked", "unmarked"])
@pytest.mark.parametrize("evict", [False, True], ids=["cached", "evicted"])
def test_successor_of_a_failed_sync_writes_again(evict: bool, markable: bool) -> None:
    """Pages that a failing sync left are not trusted: they are written anew before an answer.

    So it is even when the disk is too full to leave the mark that a sync failed.
    """
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    do(actor, BATCH, Caller(1, 1), {})
    actor.commit()
    first = BATCH.after({})
    op = Delete(0, ((1, 3),))
    do(actor, op, Caller(1, 2), first)
    lost = Lost(Nothing(), evict=evict)
    failing = frozenset({"sync"} if markable else {"sync", "open"})
    disk.arm(Fail(len(disk.calls), errno.ENOSPC, lasting=True, calls=failing, lost=lost))
    with pytest.raises(Fatal):
        actor.commit()
    left = memory.crash()
    actor = opened(left)
    assert state_of(left, actor) == (first if evict else op.after(first))
    ask(actor, op.request(), object, Caller(1, 2))
    actor.commit()
    check_state(left.power_loss(Nothing()), "always", [op.after(first)])


WRITES: list[Op] = [
    Write(0, ((1, 5, point(7)),)),
    series(2, range(9), 2, long="x" * 100),
    Delete(0, ((1, 3), (1, 4))),
    DeleteRange(None, None, 2, 6),
]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("op", WRITES, ids=["put", "batch", "delete", "range"])
def test_refused_write_leaves_the_store_serving(op: Op, code: int) -> None:
    """A disk that stays full refuses writes and goes on answering reads."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    history = History()
    history.send(actor, BATCH)
    history.commit(actor)
    for number in range(2, 8):
        disk.arm(Fail(len(disk.calls), code, lasting=True, written=number, calls=APPENDING))
        with pytest.raises(StoreIOError) as caught:
            history.send(actor, op)
        assert caught.value.errno == code
        assert caught.value.path is not None
        assert checked_state(memory, actor) == history.state
        actor.commit()
    disk.arm()
    history.send(actor, op)
    history.commit(actor)
    check_state(memory.power_loss(Nothing()), "always", [history.state])


def _filled() -> tuple[FaultyDisk, WarmActor, History]:
    """A store with chunks, dead rows, and points in its log alone."""
    disk = FaultyDisk(MemoryDisk("/data"))
    actor, history = opened(disk), History()
    for step in STEPS[:4]:
        actor = step(disk, actor, history)
    return disk, actor, history


def _memory(disk: FaultyDisk) -> MemoryDisk:
    assert isinstance(disk.inner, MemoryDisk)
    return disk.inner


@pytest.mark.parametrize("request_", [FLUSH, COMPACT], ids=["flush", "compact"])
@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_a_failed_flush_or_compaction_changes_nothing(
    code: int, request_: messages.Request
) -> None:
    """Whichever write fails: a typed error, everything there, nothing left behind; then it works.

    What was written and deleted since the attempt counts, too.
    """
    probe, actor, _ = _filled()
    start = len(probe.calls)
    ask(actor, request_, object)
    failed = 0
    for call in probe.calls[start:]:
        if call.name not in ("write_at", "append", "create") or call.path.endswith(".ledger"):
            continue
        disk, actor, history = _filled()
        disk.arm(Fail(call.number, code, lasting=True, calls=CODES[code]))
        try:
            ask(actor, request_, object)
        except (StoreIOError, Fatal) as error:
            died = isinstance(error, Fatal)
        else:
            pytest.fail("it did not notice")
        failed += 1 - died
        disk.arm()
        if died:
            disk = FaultyDisk(_memory(disk).crash())
            actor = opened(disk)
        assert checked_state(disk, actor) == history.state
        history.send(actor, Delete(0, ((1, 2),)))
        history.send(actor, series(1, range(3, 12), 5))
        history.commit(actor)
        ask(actor, request_, object)
        assert actor._table.memory_rows == 0
        assert stray_files(disk, actor) == []
        assert checked_state(disk, actor) == history.state
        check_state(_memory(disk).power_loss(Nothing()), "always", [history.state])
    assert failed > 10


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_upkeep_that_fails_is_put_off(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for chunks the store takes writes as long as its log has room, and waits."""
    monkeypatch.setattr("holdfast.workers.warm._RETRY_S", 3600.0)
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor, history = opened(disk), History()
    disk.arm(Fail(0, code, lasting=True, calls=frozenset({"create"})))
    for number in range(5):
        history.send(actor, series(number, range(10), number))
        history.commit(actor)
        assert state_of(disk, actor) == history.state
        upkeep(disk, actor, history)
    assert disk.struck == 1, "it is not tried over and over"
    assert not actor.pressed()
    monkeypatch.setattr("holdfast.workers.warm.time.monotonic", lambda: 1e12)
    disk.arm()
    upkeep(disk, actor, history)
    assert actor._table.memory_rows == 0
    assert stray_files(disk, actor) == []
    assert checked_state(disk, actor) == history.state
