"""Every file call of every registry operation, failing: a typed error or the end, and no loss."""

import errno
from collections.abc import Callable
from typing import TypeVar

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
from holdfast.formats.errors import (
    HoldfastError,
    StoreFull,
    StoreIOError,
    StoreReadOnly,
)
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller
from holdfast.workers.message import Durability
from holdfast.workers.registry import RegistryActor
from tests.workers.registry_model import (
    PATH,
    POLICIES,
    Died,
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
    cuts,
    reopening,
)

pytestmark = pytest.mark.usefixtures("quiet")

CODES = {errno.ENOSPC: GROWING, errno.EDQUOT: GROWING, errno.EIO: REACHING}
R = TypeVar("R")


def _fatally(action: Callable[[], R]) -> R:
    """Run ``action``; what would end a worker becomes ``Died``, other errors pass."""
    try:
        return action()
    except HoldfastError:
        raise
    except Exception as error:
        raise Died from error


class Host:
    """Does a workload however often it is refused or its worker ends, as a coordinator would."""

    def __init__(self, fault: Fail, history: History) -> None:
        self.memory = MemoryDisk("/data")
        self.history = history
        self.fault = fault
        self.disk = FaultyDisk(self.memory, fault)
        self.actor: RegistryActor | None = None
        self.deaths = self.refusals = 0

    def do(self, step: Step) -> None:
        """Do one step to its end."""
        for _ in range(8):
            try:
                if step is reopening:
                    self._close()
                    self._open()
                elif self._is_done_by_resending(step):
                    return
            except HoldfastError as error:
                self._refused(error)
            except Died:
                self._died()
            else:
                return
        raise AssertionError("the service does not resume")

    def _is_done_by_resending(self, step: Step) -> bool:
        """Do the step; True when a successor did it already, as the requests were sent again."""
        states = len(self.history.states)
        had_pending = bool(self.history.pending)
        actor = self.actor or self._open()
        if had_pending and len(self.history.states) > states:
            return True
        _fatally(lambda: step(self.disk, actor, self.history))
        return False

    def _close(self) -> None:
        actor, self.actor = self.actor, None
        if actor is None:
            return
        self.history.last = []
        try:
            _fatally(actor.close)
        except HoldfastError as error:
            raise Died from error
        self.history.synced()

    def _open(self) -> RegistryActor:
        actor = _fatally(lambda: opened(self.disk, PATH, self.history.durability))
        found, possible = checked_state(self.memory, actor), self.history.after_death()
        assert found in possible
        for caller, request in self.history.pending:
            _fatally(lambda c=caller, r=request: write(actor, r, c))  # type: ignore[misc]
        if self.history.pending:
            self.history.answer()
        assert checked_state(self.memory, actor) == self.history.state
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
        self.actor.commit()
        assert checked_state(self.memory, self.actor) == self.history.state

    def _died(self) -> None:
        """The worker ended; its first successor meets the same trouble if that lasts."""
        self.deaths += 1
        self.disk.inner = self.memory = self.memory.crash()
        self.actor = None
        if self.deaths > 1:
            self.disk.arm()


def _despite(fault: Fail, history: History) -> Host:
    """Do the workload despite a fault; in the end everything is there, also after a power loss."""
    host = Host(fault, history)
    for step in WORKLOAD:
        host.do(step)
    host.do(reopening)
    host.do(reopening)  # the first may have ended the worker before it had synced
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


CHOICES: dict[str, Callable[[int], Choice]] = {
    "nothing": lambda seed: Nothing(),
    "everything": lambda seed: Everything(),
    "sampled": lambda seed: Sampled(seed),
}


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
        _fatally(actor.close)
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
    appending = frozenset({"append", "write_at"})
    for number in range(2, 12):
        disk.arm(Fail(len(disk.calls), code, lasting=True, written=number, calls=appending))
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
