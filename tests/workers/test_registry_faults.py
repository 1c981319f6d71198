"""Every file call of every registry operation, failing: a typed error or the end, and no loss."""

import errno
import functools

import pytest

from holdfast.bench.faults import (
    Call,
    Fail,
    FaultyDisk,
    Lost,
    MemoryDisk,
    Nothing,
)
from holdfast.formats.errors import (
    StoreIOError,
    StoreReadOnly,
)
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller
from holdfast.workers.message import Durability
from holdfast.workers.registry import RegistryActor
from tests.workers.interruptions import cuts
from tests.workers.registry_model import (
    PATH,
    POLICIES,
    History,
    after,
    ask,
    finished,
    opened,
    saving,
    state_of,
    write,
)
from tests.workers.registry_workload import (
    WORKLOAD,
    Step,
    check_state,
    checked_state,
    reopening,
)
from tests.workers.troubled import APPENDING, CHOICES, CODES, Died, Host, fatally

pytestmark = pytest.mark.usefixtures("quiet")


class RegistryHost(Host[RegistryActor, History]):
    """Of a registry."""

    def opened(self) -> RegistryActor:
        actor = fatally(lambda: opened(self.disk, PATH, self.history.durability))
        found, possible = checked_state(self.memory, actor), self.history.after_death()
        assert found in possible, (found, possible)
        for caller, request in self.history.pending:
            fatally(functools.partial(write, actor, request, caller))
        if self.history.pending:
            self.history.answer()
        assert checked_state(self.memory, actor) == self.history.state
        return actor

    def work(self, step: Step) -> None:
        """Try a step, unless a successor did it as the requests were sent again."""
        states, was_pending = len(self.history.states), bool(self.history.pending)
        if self.actor is None:
            self.open()
        if not (was_pending and len(self.history.states) > states):
            super().work(step)

    def close(self, actor: RegistryActor) -> None:
        self.history.last = []
        actor.close()
        self.history.synced()

    def serve_on(self, actor: RegistryActor) -> None:
        actor.commit()
        assert checked_state(self.memory, actor) == self.history.state


def _despite(fault: Fail, history: History) -> RegistryHost:
    """Do the workload despite a fault; in the end everything is there, also after a power loss."""
    host = RegistryHost(MemoryDisk("/data"), fault, history, reopening)
    for step in WORKLOAD:
        host.do(step)
    host.reopen()
    check_state(host.memory.power_loss(Nothing()), history.durability, [history.state])
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
        if call.name != "sync":
            continue
        for seed in range(3 if kept == "sampled" else 1):
            lost = Lost(CHOICES[kept](100 * call.number + seed), evict=evict)
            fault = Fail(call.number, errno.EIO, calls=frozenset({"sync"}), lost=lost)
            deaths += _despite(fault, History()).deaths
    assert deaths >= 6


@pytest.mark.parametrize("kept", CHOICES)
@pytest.mark.parametrize("evict", [False, True], ids=["cached", "evicted"])
@pytest.mark.parametrize("durability", ["interval", "never"])
def test_a_late_sync_that_fails_goes_back_to_a_whole_generation(
    durability: Durability, evict: bool, kept: str
) -> None:
    """What was lost with a late sync is missing as a whole; what was synced before is there."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk, PATH, durability)
    write(actor, saving(("a", 1)), Caller(1, 1))
    actor.close()
    actor = opened(disk, PATH, durability)
    write(actor, saving(("a", 2), ("b", 1)), Caller(1, 2))
    later = state_of(actor)
    lost = Lost(CHOICES[kept](3), evict=evict)
    disk.arm(Fail(len(disk.calls), errno.EIO, calls=frozenset({"sync"}), lost=lost))
    with pytest.raises(Died):
        fatally(actor.close)
    left = memory.crash()
    found = check_state(left, durability, [after({}, saving(("a", 1))), later])
    assert found == later or evict
    check_state(left.power_loss(Nothing()), durability, [after({}, saving(("a", 1))), later])


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
def test_refused_write_leaves_the_store_serving(code: int) -> None:
    """A disk that stays full refuses every writer of a turn, and goes on answering reads."""
    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory)
    actor = opened(disk)
    write(actor, saving(("a", 1)), Caller(1, 1))
    held = state_of(actor)
    for number in range(2, 12):
        disk.arm(Fail(len(disk.calls), code, lasting=True, written=number, calls=APPENDING))
        steps = [
            actor.handle(saving((name, 2)), Caller(1, 10 * number + n))
            for n, name in enumerate("abc")
        ]
        nothing = actor.handle(rm.RegistryDelete(bytes(32)), Caller(1, 10 * number + 9))
        for step in (*steps, nothing):
            with pytest.raises(StoreIOError) as caught:
                finished(step)
            assert caught.value.errno == code
            assert caught.value.path == PATH
        alone = actor.handle(rm.RegistryDelete(bytes(32)), Caller(1, 10 * number + 8))
        assert finished(alone) == rm.RegistryDeleted(deleted=False)
        assert state_of(actor) == held
        actor.commit()
    disk.arm()
    write(actor, saving(("a", 3)), Caller(2, 1))
    check_state(memory.power_loss(Nothing()), "always", [state_of(actor)])


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_links_keeps_a_copy(code: int) -> None:
    """Where a file cannot have a second name, its previous generation is a copy of it."""
    memory = MemoryDisk("/data")
    always = frozenset({"link"})
    actor = opened(FaultyDisk(memory, Fail(0, code, lasting=True, calls=always)))
    write(actor, saving(("a", 1)), Caller(1, 1))
    first = memory.content(PATH)
    write(actor, saving(("a", 2)), Caller(1, 2))
    assert memory.content(PATH + ".previous") == first
    assert memory.inode_at(PATH + ".previous") != memory.inode_at(PATH)
    check_state(memory.crash(), "always", [state_of(actor)])


def test_a_file_that_cannot_be_looked_at_is_no_empty_registry() -> None:
    """Without permission to look, opening is refused, and the file stays as it is."""
    memory = MemoryDisk("/data")
    actor = opened(memory)
    write(actor, saving(("a", 1)), Caller(1, 1))
    actor.close()
    content = memory.content(PATH)
    for name in ("inode_at", "open"):
        disk = FaultyDisk(memory.crash())
        recording = FaultyDisk(memory.crash())
        opened(recording)
        for call in recording.calls:
            if call.name == name and call.path == PATH:
                disk.arm(Fail(call.number, errno.EACCES))
                with pytest.raises(StoreReadOnly):
                    opened(disk)
                assert isinstance(disk.inner, MemoryDisk)
                assert disk.inner.content(PATH) == content
                break
        else:
            raise AssertionError(f"opening does not call {name}")


def test_a_full_disk_keeps_nothing_shut() -> None:
    """A registry that a crash left unsynced opens on a disk without space."""
    memory = MemoryDisk("/data")
    actor = opened(memory, PATH, "never")
    write(actor, saving(("a", 1)), Caller(1, 1))
    held = state_of(actor)
    left = memory.crash()
    recording = FaultyDisk(left.crash())
    opened(recording)
    first = next(c.number for c in recording.calls if c.name == "create" or "new" in c.path)
    growing = frozenset({"create", "append", "link"})
    disk = FaultyDisk(left.crash(), Fail(first, errno.ENOSPC, lasting=True, calls=growing))
    actor = opened(disk)
    assert state_of(actor) == held
    assert ask(actor, rm.RegistryGet(bytes(32)), rm.RegistryFound).artifact is None
