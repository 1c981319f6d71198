"""A request that is sent again after a crash takes effect once, whatever happened in between."""

import errno
import random
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench.faults import (
    Crash,
    Everything,
    Fail,
    FaultyDisk,
    Kill,
    MemoryDisk,
)
from holdfast.formats import fold_log
from holdfast.formats.errors import StoreFull
from holdfast.formats.fold_log import HEADER
from holdfast.formats.limits import LEDGER_SLOTS
from holdfast.formats.values import Cursor, Delete, Put
from holdfast.workers import fold_messages, messages
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.fold_messages import FoldApply
from holdfast.workers.messages import Done
from tests.workers.fold_model import PATH, State, ask, opened, state_of

pytestmark = pytest.mark.usefixtures("quiet")

MINE, OTHERS = Caller(1, 1), Caller(2, 1)


def _batch(value: bytes, cursor: int, *keys: str) -> FoldApply:
    return FoldApply([Put(key, value) for key in keys or ("k",)], Cursor.from_u64(cursor))


class Machine:
    """A machine whose worker can be killed: in memory, or with the system's own files."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = FaultyDisk(disk)
        self.path = path
        self.actor = opened(self.disk, path)

    def do(self, request: FoldApply, caller: Caller) -> None:
        """Handle and commit; the reply may get lost."""
        ask(self.actor, request, Done, caller)
        self.actor.commit()

    def kill(self) -> None:
        """Kill the worker and start its successor."""
        inner = self.disk.inner
        self.disk.abandon()
        self.disk = FaultyDisk(inner.crash() if isinstance(inner, MemoryDisk) else inner)
        self.actor = opened(self.disk, self.path)

    @property
    def state(self) -> State:
        """What the fold holds."""
        self.actor.check_invariants()
        return state_of(self.actor)

    def compact(self) -> None:
        """Compact the log."""
        ask(self.actor, fold_messages.FoldCompact(), messages.Compacted)


MACHINES: dict[str, Callable[[Path], Machine]] = {
    "memory": lambda path: Machine(MemoryDisk("/data"), PATH),
    "system": lambda path: Machine(OsDisk(), str(path / "f.snap")),
}


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Machine:
    """A fresh machine of either kind."""
    return MACHINES[request.param](tmp_path)


def test_no_old_value_comes_back(machine: Machine) -> None:
    """Killed between sync and reply: others' newer writes of the same keys stay."""
    mine = _batch(b"mine", 1, "a", "b")
    machine.do(mine, MINE)
    machine.kill()
    theirs = FoldApply([Put("a", b"theirs"), Delete("b")], Cursor.from_u64(2))
    machine.do(theirs, OTHERS)
    machine.do(mine, MINE)
    assert machine.state == State().after(mine).after(theirs)
    machine.kill()
    machine.do(mine, MINE)
    machine.do(theirs, OTHERS)
    assert machine.state == State().after(mine).after(theirs)


@pytest.mark.parametrize("written", [None, 1, 20, 40])
def test_killed_before_all_was_logged(machine: Machine, written: int | None) -> None:
    """A request that was noted but not logged in full takes effect when sent again, and once."""
    mine, theirs = _batch(b"mine", 1, "a", "b"), _batch(b"theirs", 2, "a", "b")
    append = len(machine.disk.calls) + _calls_before_append(mine)
    machine.disk.arm(Kill(append, written=written))
    with pytest.raises(Crash):
        machine.do(mine, MINE)
    machine.kill()
    assert machine.state == State()
    machine.do(mine, MINE)
    machine.do(theirs, OTHERS)
    machine.kill()
    machine.do(mine, MINE)
    assert machine.state == State().after(mine).after(theirs)


def _lookalikes() -> dict[str, bytes]:
    log = HEADER + fold_log.encode_put(b"inner", b"x" * 100, b"") * 9
    return {
        "a log": log * 5,
        "small integers": array("i", [1, 2, 3, 300] * 250_000).tobytes(),
        "random": random.Random(1).randbytes(8 << 20),
    }


@pytest.mark.parametrize("value", _lookalikes().values(), ids=_lookalikes())
def test_killed_in_a_value_that_looks_like_records(machine: Machine, value: bytes) -> None:
    """The part of a request that a kill leaves is no corruption, whatever bytes it is made of."""
    first, mine = _batch(b"first", 1), _batch(value, 2, "k", "l")
    machine.do(first, OTHERS)
    append = len(machine.disk.calls) + _calls_before_append(mine)
    machine.disk.arm(Kill(append, written=len(value) * 3 // 4))
    with pytest.raises(Crash):
        machine.do(mine, MINE)
    machine.kill()
    assert machine.state == State().after(first)
    machine.do(mine, MINE)
    assert machine.state == State().after(first).after(mine)


@pytest.mark.parametrize("after_kill", [False, True])
def test_compaction_in_between(machine: Machine, after_kill: bool) -> None:
    """The note survives a rewrite of the log, before the kill or behind it."""
    mine, theirs = _batch(b"mine", 1), _batch(b"theirs", 2)
    machine.do(mine, MINE)
    if after_kill:
        machine.kill()
        machine.compact()
    else:
        machine.compact()
        machine.kill()
    machine.do(theirs, OTHERS)
    machine.compact()
    machine.kill()
    machine.do(mine, MINE)
    assert machine.state == State().after(mine).after(theirs)


def test_the_ring_comes_round() -> None:
    """The newest requests are recognised after the ring overflowed, across kills."""
    machine = MACHINES["memory"](Path())
    for number in range(LEDGER_SLOTS + 100):
        ask(machine.actor, _batch(b"%d" % number, number + 1, "k"), Done, Caller(3, number))
    machine.actor.commit()
    machine.kill()
    last = _batch(b"last", LEDGER_SLOTS + 200)
    machine.do(last, OTHERS)
    machine.kill()
    for number in range(200, LEDGER_SLOTS + 100):
        ask(machine.actor, _batch(b"%d" % number, number + 1, "k"), Done, Caller(3, number))
    machine.actor.commit()
    assert machine.state == State().after(last)


def test_ring_comes_round_behind_a_compaction() -> None:
    """Notes carried over a compaction keep their places in the ring."""
    machine = MACHINES["memory"](Path())
    for number in range(100):
        ask(machine.actor, _batch(b"%d" % number, number + 1, "k"), Done, Caller(3, number))
    machine.compact()
    for number in range(100, 150):
        ask(machine.actor, _batch(b"%d" % number, number + 1, "k"), Done, Caller(3, number))
    machine.actor.commit()
    machine.kill()
    machine.compact()
    held = machine.state
    machine.kill()
    for number in range(149):
        ask(machine.actor, _batch(b"%d" % number, number + 1, "k"), Done, Caller(3, number))
    assert machine.state == held


@pytest.mark.parametrize("end", ["kill", "kill and compact", "none"])
def test_a_refused_request_leaves_no_note(machine: Machine, end: str) -> None:
    """An append that failed is taken back; another request at the same place is not mistaken."""
    mine, theirs = _batch(b"same", 1, "a", "b", "c"), _batch(b"same", 2, "a")
    _refuse(machine, mine, MINE)
    machine.do(theirs, OTHERS)
    if end != "none":
        machine.kill()
    if end == "kill and compact":
        machine.compact()
        machine.kill()
    assert machine.state == State().after(theirs)
    machine.do(mine, MINE)
    assert machine.state == State().after(theirs).after(mine)


def test_a_refused_request_takes_nothing_along_at_a_power_loss() -> None:
    """A note that was taken back may be on the disk all the same; it cuts nobody else's write."""
    memory = MemoryDisk("/data")
    machine = Machine(memory, PATH)
    mine, theirs = _batch(b"same", 1, "a", "b", "c"), _batch(b"same", 2, "a")
    _refuse(machine, mine, MINE)
    machine.do(theirs, OTHERS)
    for arrived in range(8):
        left = memory.power_loss(Upto(arrived))
        assert state_of(opened(left)) == State().after(theirs)


def _refuse(machine: Machine, request: FoldApply, caller: Caller) -> None:
    """Have a request refused by a full disk in the midst of its append."""
    append = len(machine.disk.calls) + _calls_before_append(request)
    machine.disk.arm(Fail(append, errno.ENOSPC, written=20))
    with pytest.raises(StoreFull):
        ask(machine.actor, request, Done, caller)
    machine.disk.arm()


def _calls_before_append(request: FoldApply) -> int:
    """How many file calls come before the log's write of a request."""
    disk = FaultyDisk(MemoryDisk("/data"))
    actor = opened(disk)
    start = len(disk.calls)
    ask(actor, request, Done, MINE)
    return next(
        c.number - start for c in disk.calls[start:] if c.name == "write_at" and c.path == PATH
    )


class Upto:
    """The first writes of every file arrived, the rest did not."""

    def __init__(self, kept: int) -> None:
        self._kept = kept

    def version(self, changes: int) -> int:
        return min(self._kept, changes)

    def names(self, changes: int) -> list[bool]:
        return [True] * changes


class TestStaleLedger:
    """A ledger beside a log that is not the one it was written for."""

    def _left_by_a_kill(self, memory: MemoryDisk) -> MemoryDisk:
        machine = Machine(memory, PATH)
        for number in range(5):
            machine.do(_batch(b"%d" % number, number + 1, "k", f"k{number}"), Caller(1, number))
        return memory.crash()

    @pytest.mark.parametrize("compacted", [False, True])
    @pytest.mark.parametrize("rebooted", [False, True])
    def test_every_older_log(self, rebooted: bool, compacted: bool) -> None:
        """Any earlier state of the log, put back under it, is what is served."""
        left = self._left_by_a_kill(MemoryDisk("/data"))
        content = left.content(PATH)
        assert content is not None
        view = memoryview(content)
        offset, state = len(HEADER), State()
        for number in range(5):
            for _ in range(3):
                record = fold_log.read_record(view, offset)
                assert isinstance(record, fold_log.Record)
                offset = record.stop
            state = state.after(_batch(b"%d" % number, number + 1, "k", f"k{number}"))
            disk = left.crash()
            disk.place(PATH, content[:offset])
            if rebooted:
                disk = disk.power_loss(Everything())
            machine = Machine(disk, PATH)
            if compacted:
                machine.compact()
            assert machine.state == state
            new = _batch(b"new", 99, "k")
            machine.do(new, OTHERS)
            machine.kill()
            assert machine.state == state.after(new)

    @pytest.mark.parametrize("rebooted", [False, True])
    def test_foreign_log(self, rebooted: bool) -> None:
        """A log of another history is served as it is, at the same inode or at another."""
        left = self._left_by_a_kill(MemoryDisk("/data"))
        records = [fold_log.encode_put(b"f%03d" % n, b"foreign", b"") for n in range(40)]
        foreign = HEADER + b"".join(records) + fold_log.encode_cursor(b"\x07" * 8)
        expected = State({f"f{n:03d}": (b"foreign", b"") for n in range(40)}, b"\x07" * 8)
        for renamed in (False, True):
            disk = left.crash()
            if renamed:
                disk.place("/data/other", foreign)
                disk.rename("/data/other", PATH)
            else:
                disk.place(PATH, foreign)
            if rebooted:
                disk = disk.power_loss(Everything())
            machine = Machine(disk, PATH)
            assert machine.state == expected
            request = _batch(b"4", 5, "k", "k4")
            machine.do(request, Caller(1, 4))
            assert machine.state == expected.after(request)

    def test_damaged_ledger(self) -> None:
        """A ledger of garbage is as good as none."""
        left = self._left_by_a_kill(MemoryDisk("/data"))
        good = left.content(PATH + ".ledger")
        assert good is not None
        expected = state_of(opened(left.crash()))
        for damaged in (b"", b"HFLG", bytes(600), good[:700], b"\xff" * len(good), good[64:]):
            disk = left.crash()
            disk.place(PATH + ".ledger", damaged)
            machine = Machine(disk, PATH)
            assert machine.state == expected
            machine.do(_batch(b"on", 9), OTHERS)
            machine.kill()
            machine.do(_batch(b"on", 9), OTHERS)
            assert machine.state == expected.after(_batch(b"on", 9))
