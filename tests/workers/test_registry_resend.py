"""A request that is sent again after a crash takes effect once, whatever happened in between."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench.faults import Crash, Everything, Fail, FaultyDisk, Kill, MemoryDisk
from holdfast.formats.errors import StoreFull
from holdfast.formats.limits import DRAIN_REQUESTS_MAX, LEDGER_SLOTS
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.messages import Done, Reply
from tests.workers.registry_model import (
    PATH,
    State,
    Write,
    after,
    deleting,
    finished,
    key_of,
    opened,
    saving,
    state_of,
    write,
)

pytestmark = pytest.mark.usefixtures("quiet")

MINE, OTHERS = Caller(1, 1), Caller(2, 1)


class Machine:
    """A machine whose worker can be killed: in memory, or with the system's own files."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = FaultyDisk(disk)
        self.path = path
        self.actor = opened(self.disk, path)

    def do(self, request: Write, caller: Caller) -> Reply:
        """Handle and commit; the reply may get lost."""
        return write(self.actor, request, caller)

    def kill(self) -> None:
        """Kill the worker and start its successor."""
        inner = self.disk.inner
        self.disk.abandon()
        self.disk = FaultyDisk(inner.crash() if isinstance(inner, MemoryDisk) else inner)
        self.actor = opened(self.disk, self.path)

    @property
    def state(self) -> State:
        """What the registry holds."""
        self.actor.check_invariants()
        return state_of(self.actor)


MACHINES: dict[str, Callable[[Path], Machine]] = {
    "memory": lambda path: Machine(MemoryDisk("/data"), PATH),
    "system": lambda path: Machine(OsDisk(), str(path / "m.zsm")),
}


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A fresh machine of either kind."""
    return MACHINES[request.param](tmp_path)


def test_no_old_model_comes_back(machine: Machine) -> None:
    """Killed between write and reply: others' newer models of the same schemas stay."""
    mine, theirs = saving(("a", 1), ("b", 1)), saving(("a", 2))
    machine.do(mine, MINE)
    machine.kill()
    machine.do(theirs, OTHERS)
    machine.do(deleting("b"), Caller(2, 2))
    assert machine.do(mine, MINE) == Done()
    expected = after(after({}, mine), theirs)
    del expected[key_of("b")]
    assert machine.state == expected
    machine.kill()
    machine.do(mine, MINE)
    machine.do(theirs, OTHERS)
    assert machine.state == expected


def test_a_deletion_is_answered_as_the_first_time(machine: Machine) -> None:
    """A deletion sent again says that it deleted, and leaves what was saved since."""
    machine.do(saving(("a", 1)), OTHERS)
    assert machine.do(deleting("a"), MINE) == rm.RegistryDeleted(deleted=True)
    machine.kill()
    machine.do(saving(("a", 2)), Caller(2, 2))
    assert machine.do(deleting("a"), MINE) == rm.RegistryDeleted(deleted=True)
    assert machine.state == after({}, saving(("a", 2)))


@pytest.mark.parametrize("call", ["write_at", "sync", "link", "rename"])
def test_killed_before_the_file_was_in_place(machine: Machine, call: str) -> None:
    """What was noted for a file that never got its name takes effect when sent again, and once."""
    first, mine, theirs = saving(("a", 1)), saving(("a", 2)), saving(("a", 3))
    machine.do(first, OTHERS)
    recorded = len(machine.disk.calls)
    machine.do(saving(("z", 1)), Caller(2, 2))
    # The last such call of a write: of the renames the one that puts the file in place.
    numbers = [c.number for c in machine.disk.calls[recorded:] if c.name == call]
    machine.disk.arm(Kill(len(machine.disk.calls) + numbers[-1] - recorded))
    with pytest.raises(Crash):
        machine.do(mine, MINE)
    machine.kill()
    held = after(after({}, first), saving(("z", 1)))
    assert machine.state == held
    machine.do(mine, MINE)
    machine.do(theirs, OTHERS._replace(request=3))
    machine.kill()
    machine.do(mine, MINE)
    assert machine.state == after(held, theirs)


@pytest.mark.parametrize("count", [3, DRAIN_REQUESTS_MAX, DRAIN_REQUESTS_MAX + 5])
def test_everything_written_together_is_remembered(count: int) -> None:
    """All requests of a turn, which may be more than go into one file, are recognised."""
    machine = MACHINES["memory"](Path())
    names = ["a", "b", "c"]
    mine = [(Caller(1, n), saving((names[n % 3], n + 1))) for n in range(count)]
    steps = [machine.actor.handle(request, caller) for caller, request in mine]
    for step in steps:
        assert finished(step) == Done()
    renames = [c for c in machine.disk.calls if (c.name, c.path) == ("rename", PATH)]
    assert len(renames) == 1 + -(-count // DRAIN_REQUESTS_MAX)  # with the empty registry's
    machine.kill()
    theirs = saving(*((name, 9999) for name in names))
    machine.do(theirs, OTHERS)
    for caller, request in mine:
        machine.do(request, caller)
    assert machine.state == after({}, theirs)


def test_the_ring_comes_round() -> None:
    """The newest requests are recognised after the ring overflowed, across kills."""
    machine = MACHINES["memory"](Path())
    total = LEDGER_SLOTS + 100
    for start in range(0, total, 600):
        steps = [
            machine.actor.handle(saving(("a", n % 7)), Caller(3, n))
            for n in range(start, min(start + 600, total))
        ]
        for step in steps:
            finished(step)
    machine.kill()
    last = saving(("a", 50))
    machine.do(last, OTHERS)
    machine.kill()
    for number in range(200, total):
        finished(machine.actor.handle(saving(("a", number % 7)), Caller(3, number)))
    assert machine.state == after({}, last)


def test_a_held_request_outlives_the_ring() -> None:
    """More writes than the ledger has slots do not make it forget an undelivered answer."""
    machine = MACHINES["memory"](Path())
    slow = Caller(7, 1)
    machine.do(saving(("a", 1)), slow)
    machine.actor.hold(slow)
    for start in range(0, LEDGER_SLOTS + 10, 500):
        steps = [
            machine.actor.handle(saving(("a", 2 + n % 5)), Caller(8, start + n + 1))
            for n in range(500)
        ]
        for step in steps:
            finished(step)
    held = machine.state
    machine.kill()
    machine.do(saving(("a", 1)), slow)
    assert machine.state == held
    machine.actor.release(slow)


@pytest.mark.parametrize("kill", [False, True])
def test_a_refused_request_leaves_no_note(machine: Machine, kill: bool) -> None:
    """A write that found no space is no write: sent once more it takes effect."""
    mine, theirs = saving(("a", 1)), saving(("b", 1))
    machine.disk.arm(Fail(len(machine.disk.calls), errno.ENOSPC, True, 0, frozenset({"link"})))
    with pytest.raises(StoreFull):
        machine.do(mine, MINE)
    machine.disk.arm()
    machine.do(theirs, OTHERS)
    if kill:
        machine.kill()
    assert machine.state == after({}, theirs)
    machine.do(mine, MINE)
    assert machine.state == after(after({}, theirs), mine)


class TestOtherPrograms:
    """The original takes no lock and puts whole files of its own in place."""

    def _file_of(self, *requests: rm.RegistrySave) -> bytes:
        disk = MemoryDisk("/data")
        actor = opened(disk)
        for number, request in enumerate(requests):
            write(actor, request, Caller(5, number))
        content = disk.content(PATH)
        assert content is not None
        return content[: content.index(b"HFZCHK")]  # which the original does not write

    def _put_in_place(self, machine: Machine, content: bytes) -> None:
        assert isinstance(machine.disk.inner, MemoryDisk)
        machine.disk.inner.place("/data/m.zsm.tmp", content)
        machine.disk.inner.rename("/data/m.zsm.tmp", PATH)

    def test_reads_see_their_file(self) -> None:
        """A read shows what another program has put in place."""
        machine = MACHINES["memory"](Path())
        machine.do(saving(("a", 1)), MINE)
        self._put_in_place(machine, self._file_of(saving(("x", 1))))
        assert machine.state == after({}, saving(("x", 1)))

    def test_writes_keep_their_models(self) -> None:
        """A write goes on from what another program has put in place, also if it was gathered."""
        machine = MACHINES["memory"](Path())
        machine.do(saving(("a", 1)), MINE)
        step = machine.actor.handle(saving(("b", 1)), OTHERS)
        self._put_in_place(machine, self._file_of(saving(("x", 1), ("y", 1))))
        finished(step)
        assert machine.state == after({}, saving(("x", 1), ("y", 1), ("b", 1)))

    @pytest.mark.parametrize("rebooted", [False, True])
    def test_notes_for_our_file_are_not_taken_for_theirs(self, rebooted: bool) -> None:
        """A request that went into a file since replaced is not mistaken for one in theirs."""
        machine = MACHINES["memory"](Path())
        machine.do(saving(("a", 1)), MINE)
        self._put_in_place(machine, self._file_of(saving(("x", 1))))
        assert isinstance(machine.disk.inner, MemoryDisk)
        if rebooted:
            machine.disk.inner = machine.disk.inner.power_loss(Everything())
        machine.kill()
        assert machine.state == after({}, saving(("x", 1)))
        machine.do(saving(("a", 2)), OTHERS)
        assert machine.state == after({}, saving(("x", 1), ("a", 2)))

    def test_removed(self) -> None:
        """A file that somebody took away is not made anew, and nothing more is answered."""
        machine = MACHINES["memory"](Path())
        machine.do(saving(("a", 1)), MINE)
        machine.disk.inner.remove(PATH)
        with pytest.raises(RuntimeError, match="removed"):
            state_of(machine.actor)
        with pytest.raises(RuntimeError, match="removed"):
            machine.do(saving(("b", 1)), OTHERS)

    def test_damaged(self) -> None:
        """A file of theirs that cannot be read ends the worker and is left as it is."""
        machine = MACHINES["memory"](Path())
        machine.do(saving(("a", 1)), MINE)
        bad = self._file_of(saving(("x", 1)))[:-3]
        self._put_in_place(machine, bad)
        with pytest.raises(RuntimeError, match="bytes are needed"):
            state_of(machine.actor)
        assert isinstance(machine.disk.inner, MemoryDisk)
        assert machine.disk.inner.content(PATH) == bad


class TestStaleLedger:
    """A ledger beside a file that is not the one it was written for."""

    def _left_by_a_kill(self) -> tuple[MemoryDisk, list[bytes]]:
        memory = MemoryDisk("/data")
        machine = Machine(memory, PATH)
        contents = []
        for number in range(5):
            machine.do(saving(("a", number + 1)), Caller(1, number))
            content = memory.content(PATH)
            assert content is not None
            contents.append(content)
        return memory.crash(), contents

    @pytest.mark.parametrize("rebooted", [False, True])
    def test_every_older_file(self, rebooted: bool) -> None:
        """Any earlier generation, put back under it, is what is served."""
        left, contents = self._left_by_a_kill()
        for number, content in enumerate(contents):
            disk = left.crash()
            disk.place(PATH, content)
            if rebooted:
                disk = disk.power_loss(Everything())
            machine = Machine(disk, PATH)
            state = after({}, saving(("a", number + 1)))
            assert machine.state == state
            new = saving(("b", 99))
            machine.do(new, OTHERS)
            machine.kill()
            assert machine.state == after(state, new)

    def test_damaged_ledger(self) -> None:
        """A ledger of garbage is as good as none."""
        left, _ = self._left_by_a_kill()
        good = left.content(PATH + ".ledger")
        assert good is not None
        expected = state_of(opened(left.crash()))
        for damaged in (b"", b"HFLG", bytes(600), good[:700], b"\xff" * len(good), good[64:]):
            disk = left.crash()
            disk.place(PATH + ".ledger", damaged)
            machine = Machine(disk, PATH)
            assert machine.state == expected
            machine.do(saving(("on", 9)), OTHERS)
            machine.kill()
            machine.do(saving(("on", 9)), OTHERS)
            assert machine.state == after(expected, saving(("on", 9)))
