"""A write that is sent again after a crash is answered as before and takes effect once.

In memory, and with the system's own files, which are mapped.
"""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench.faults import Crash, Everything, Fail, FaultyDisk, Kill, MemoryDisk, Nothing
from holdfast.formats.errors import StoreCorrupt, StoreExists, StoreFull
from holdfast.workers import vector_loading
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.messages import Compacted
from tests.workers.columns_model import Leaf
from tests.workers.vector_model import (
    PATH,
    Branch,
    Delete,
    DeleteWhere,
    Derive,
    Embed,
    Freeze,
    Ingest,
    Limit,
    Op,
    State,
    ask,
    do,
    opened,
    row,
    state_of,
    without_waiting,
)

pytestmark = pytest.mark.usefixtures("quiet")

MINE, OTHERS = Caller(1, 1), Caller(2, 1)
FIRST = Ingest({1: row(1, 0, i=1), 2: row(2, 0, i=2), 3: row(3, 0)})
THEIRS = Ingest({1: row(9, 9, s="theirs"), 4: row(8, 8)})


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)
    monkeypatch.setattr(vector_loading, "MAPPED_BYTES_MIN", 40)


class Machine:
    """A machine whose worker can be killed: in memory, or with the system's own files."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = FaultyDisk(disk)
        self.path = path
        self.actor = opened(self.disk, path)

    def beside(self, name: str) -> str:
        """Path of another store."""
        return os.path.join(os.path.dirname(self.path), name)

    def do(self, op: Op, caller: Caller, before: State) -> object:
        """Handle and commit; the reply may get lost."""
        reply = do(self.actor, op, caller, before)
        self.actor.commit()
        return reply

    def again(self, op: Op, caller: Caller) -> object:
        """Send it again."""
        reply = ask(self.actor, op.request(), object, caller)
        self.actor.commit()
        return reply

    def kill(self) -> None:
        """Kill the worker and start its successor."""
        inner = self.disk.inner
        self.disk.abandon()
        self.disk = FaultyDisk(inner.crash() if isinstance(inner, MemoryDisk) else inner)
        self.actor = opened(self.disk, self.path)

    @property
    def state(self) -> State:
        """What the store holds."""
        self.actor.check_invariants()
        return state_of(self.disk, self.actor)

    def compact(self) -> None:
        """Compact the file."""
        ask(self.actor, vm.VectorsCompact(), Compacted)


MACHINES: dict[str, Callable[[Path], Machine]] = {
    "memory": lambda path: Machine(MemoryDisk("/data"), PATH),
    "system": lambda path: Machine(OsDisk(), str(path / "v.rvf")),
}


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A machine of either kind, with some rows."""
    machine = MACHINES[request.param](tmp_path)
    machine.do(FIRST, Caller(0, 0), State())
    return machine


WRITES: list[Op] = [
    Ingest({2: row(5, 5, s="mine"), 7: row(6, 6)}),
    Delete((1, 3)),
    DeleteWhere(Leaf("ge", "i", (1,))),
    Embed(b"image"),
]


@pytest.mark.parametrize("compacted", ["never", "before the kill", "after it"])
@pytest.mark.parametrize("op", WRITES, ids=lambda op: type(op).__name__)
def test_no_old_value_comes_back(machine: Machine, op: Op, compacted: str) -> None:
    """Killed between sync and reply: others' newer writes of the same ids stay."""
    before = FIRST.after(State())
    reply = machine.do(op, MINE, before)
    if compacted == "before the kill":
        machine.compact()
    machine.kill()
    machine.do(THEIRS, OTHERS, op.after(before))
    if compacted == "after it":
        machine.compact()
    expected = THEIRS.after(op.after(before))
    assert machine.again(op, MINE) == reply
    assert machine.state == expected
    machine.kill()
    assert machine.again(op, MINE) == reply
    machine.again(THEIRS, OTHERS)
    assert machine.state == expected


@pytest.mark.parametrize("op", WRITES, ids=lambda op: type(op).__name__)
def test_killed_before_all_was_written(machine: Machine, op: Op) -> None:
    """A request that was noted but not written in full takes effect when sent again, and once."""
    before = FIRST.after(State())
    for written in (None, 1, 20, 63, 64, 100, 300):
        machine.disk.arm(Kill(_write_to_file(machine, op), written=written))
        with pytest.raises(Crash):
            machine.do(op, Caller(3, written or 0), before)
        machine.kill()
        assert machine.state == before
    machine.do(op, MINE, before)
    machine.do(THEIRS, OTHERS, op.after(before))
    machine.kill()
    machine.again(op, MINE)
    assert machine.state == THEIRS.after(op.after(before))


def _write_to_file(machine: Machine, op: Op) -> int:
    """The number of the call that will write an op's commit."""
    probe = FaultyDisk(MemoryDisk("/data"))
    actor = opened(probe)
    do(actor, FIRST, Caller(0, 0), State())
    start = len(probe.calls)
    do(actor, op, MINE, FIRST.after(State()))
    calls = [c for c in probe.calls[start:] if c.name == "write_at" and c.path == PATH]
    return len(machine.disk.calls) + calls[0].number - start


@pytest.mark.parametrize("end", ["kill", "kill and compact", "none"])
def test_a_refused_request_leaves_no_note(machine: Machine, end: str) -> None:
    """A commit that failed is taken back; another at the same place is not mistaken for it."""
    before = FIRST.after(State())
    mine = WRITES[0]
    fault = Fail(_write_to_file(machine, mine), errno.ENOSPC, written=20)
    machine.disk.arm(fault)
    with pytest.raises(StoreFull):
        machine.do(mine, MINE, before)
    machine.disk.arm()
    machine.do(THEIRS, OTHERS, before)
    if end != "none":
        machine.kill()
    if end == "kill and compact":
        machine.compact()
        machine.kill()
    assert machine.state == THEIRS.after(before)
    machine.do(mine, MINE, THEIRS.after(before))
    assert machine.state == mine.after(THEIRS.after(before))


def test_answered_as_before_once_the_store_is_frozen(machine: Machine) -> None:
    """What took effect is not refused because of what came later."""
    state = FIRST.after(State())
    replies = []
    for number, op in enumerate(WRITES[:2]):
        replies.append(machine.do(op, Caller(5, number), state))
        state = op.after(state)
    machine.do(Freeze(), MINE, state)
    machine.kill()
    for number, op in enumerate(WRITES[:2]):
        assert machine.again(op, Caller(5, number)) == replies[number]
    machine.again(Freeze(), MINE)
    assert machine.state == Freeze().after(state)


def test_a_branch_is_made_once(machine: Machine) -> None:
    """It shows what it showed at first, and another of the same name is refused."""
    op = Branch(machine.beside("b.rvf"), exclude=(2,))
    before = FIRST.after(State())
    machine.do(op, MINE, before)
    machine.do(THEIRS, OTHERS, before)
    machine.kill()
    machine.again(op, MINE)
    child = opened(machine.disk, op.path)
    assert set(state_of(machine.disk, child).rows) == {1, 3}
    with pytest.raises(StoreExists):
        machine.again(op, Caller(6, 6))


def test_a_branch_whose_file_was_never_made(machine: Machine) -> None:
    """The parent remembers it, then forgets it for another; sent again it is made all the same."""
    before = FIRST.after(State())
    first, second = (Branch(machine.beside(name)) for name in ("b.rvf", "c.rvf"))
    probe = FaultyDisk(MemoryDisk("/data"))
    actor = opened(probe)
    start = len(probe.calls)
    do(actor, Branch("/data/b.rvf"), MINE, State())
    making = next(c for c in probe.calls[start:] if c.path == "/data/b.rvf.tmp")
    machine.disk.arm(Kill(len(machine.disk.calls) + making.number - start))
    with pytest.raises(Crash):
        machine.do(first, MINE, before)
    machine.kill()
    machine.do(second, OTHERS, before)
    machine.do(THEIRS, Caller(3, 3), before)
    machine.again(first, MINE)
    machine.again(first, MINE)
    for op, shown in ((first, {1, 2, 3, 4}), (second, {1, 2, 3})):
        child = opened(machine.disk, op.path)
        assert set(state_of(machine.disk, child).rows) == shown
        child.close()
    machine.do(Delete((3,)), Caller(4, 4), THEIRS.after(before))
    with pytest.raises(Exception, match="2 branches"):
        machine.compact()


def test_a_limit_takes_effect_once(machine: Machine) -> None:
    """And so does a derived file."""
    branch = Branch(machine.beside("b.rvf"))
    machine.do(branch, MINE, FIRST.after(State()))
    child = Machine(machine.disk, branch.path)
    first = branch.after(FIRST.after(State())).children[branch.path]
    limit = Limit(include=(1, 2))
    child.do(limit, MINE, first)
    child.do(Ingest({3: row(0, 0)}), OTHERS, limit.after(first))
    child.kill()
    child.again(limit, MINE)
    assert child.state == Ingest({3: row(0, 0)}).after(limit.after(first))
    derive = Derive(machine.beside("d.rvf"))
    child.do(derive, Caller(3, 3), child.state)
    child.kill()
    child.again(derive, Caller(3, 3))
    with pytest.raises(StoreExists):
        child.again(derive, Caller(4, 4))


class TestStaleLedger:
    """A ledger beside a file that is not the one it was written for."""

    def _left_by_a_kill(self) -> tuple[MemoryDisk, list[bytes], list[State]]:
        """A disk whose worker was killed, and the file and its state after each commit."""
        disk = MemoryDisk("/data")
        actor = opened(disk)
        contents, states = [], [State()]
        for number, op in enumerate((FIRST, *WRITES)):
            do(actor, op, Caller(1, number), states[-1])
            actor.commit()
            states.append(op.after(states[-1]))
            content = disk.content(PATH)
            assert content is not None
            contents.append(content)
        return disk.crash(), contents, states[1:]

    @pytest.mark.parametrize("rebooted", [False, True])
    def test_an_older_file_in_its_place(self, rebooted: bool) -> None:
        """Written over the newer one it lacks what was synced; put in its place it is another."""
        left, contents, states = self._left_by_a_kill()
        for number, content in enumerate(contents[:-1]):
            disk = left.crash()
            disk.place(PATH, content)
            disk = disk.power_loss(Everything()) if rebooted else disk
            with pytest.raises(StoreCorrupt, match="synced"):
                opened(disk)
            assert disk.content(PATH) == content
            disk = left.crash()
            disk.place("/data/other", content)
            disk.rename("/data/other", PATH)
            disk = disk.power_loss(Everything()) if rebooted else disk
            actor = opened(disk)
            assert state_of(disk, actor) == states[number]
            do(actor, THEIRS, OTHERS, states[number])
            actor.commit()
            disk = disk.crash()
            actor = opened(disk)
            assert state_of(disk, actor) == THEIRS.after(states[number])

    def test_damaged_ledgers(self) -> None:
        """A ledger of garbage is as good as none."""
        left, _, states = self._left_by_a_kill()
        good = left.content(PATH + ".ledger")
        assert good is not None
        for damaged in (b"", b"HFLG", bytes(600), good[:700], b"\xff" * len(good), good[64:]):
            disk = left.crash()
            disk.place(PATH + ".ledger", damaged)
            actor = opened(disk)
            assert state_of(disk, actor) == states[-1]
            do(actor, THEIRS, OTHERS, states[-1])
            actor.commit()
            disk = disk.crash()
            actor = opened(disk)
            ask(actor, THEIRS.request(), vm.Ingested, OTHERS)
            assert state_of(disk, actor) == THEIRS.after(states[-1])


def test_a_refused_request_takes_nothing_along_at_a_power_loss() -> None:
    """A note that was taken back may be on the disk all the same; it cuts nobody else's write."""
    memory = MemoryDisk("/data")
    machine = Machine(memory, PATH)
    machine.do(FIRST, Caller(0, 0), State())
    before = FIRST.after(State())
    machine.disk.arm(Fail(_write_to_file(machine, WRITES[0]), errno.ENOSPC, written=20))
    with pytest.raises(StoreFull):
        machine.do(WRITES[0], MINE, before)
    machine.disk.arm()
    machine.do(THEIRS, OTHERS, before)
    for choice in (Nothing(), Everything()):
        left = memory.power_loss(choice)
        assert state_of(left, opened(left)) == THEIRS.after(before)
