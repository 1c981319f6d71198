"""A write that is sent again after a crash is answered as before and takes effect once.

In memory, and with the system's own files, which are mapped.
"""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench.faults import Call, Crash, Fail, Fault, FaultyDisk, Kill, MemoryDisk
from holdfast.formats.errors import StoreFull
from holdfast.workers import messages
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk, OsDisk
from tests.workers import warm_model
from tests.workers.warm_model import (
    Delete,
    DeleteRange,
    Op,
    State,
    Write,
    ask,
    do,
    opened,
    point,
    state_of,
    with_small_limits,
)
from tests.workers.warm_workload import COMPACT, FLUSH, series

pytestmark = pytest.mark.usefixtures("quiet")

MINE, OTHERS = Caller(1, 1), Caller(2, 1)
FIRST = series(1, range(9), 1, a="first")
THEIRS = series(1, range(2, 12), 9, a="theirs")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_limits(monkeypatch)


class Machine:
    """A machine whose worker can be killed: in memory, or with the system's own files."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.path = path
        self._fault: Callable[[int], Fault] | None = None
        self._open(disk)

    def _open(self, disk: Disk) -> None:
        self.disk = FaultyDisk(disk, on_call=self._look)
        self.actor = opened(self.disk, self.path)

    def _look(self, call: Call) -> None:
        if self._fault and (call.name, call.path) == ("write_at", f"{self.path}/LOG"):
            self.disk.arm(self._fault(call.number))
            self._fault = None

    def break_at_next_record(self, fault: Callable[[int], Fault]) -> None:
        """Have this happen when the log is written to next."""
        self._fault = fault

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
        self._open(inner.crash() if isinstance(inner, MemoryDisk) else inner)

    def work(self, request: messages.Request | None) -> None:
        """Flush or compact, if that is asked for."""
        if request is not None:
            ask(self.actor, request, object)

    @property
    def state(self) -> State:
        """What the store holds."""
        self.actor.check_invariants()
        return state_of(self.disk, self.actor)


MACHINES: dict[str, Callable[[Path], Machine]] = {
    "memory": lambda path: Machine(MemoryDisk("/data"), "/data/w.warm"),
    "system": lambda path: Machine(OsDisk(), str(path / "w.warm")),
}


@pytest.fixture(params=MACHINES)
def machine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Machine:
    """A machine of either kind, with some points in a chunk."""
    machine = MACHINES[request.param](tmp_path)
    monkeypatch.setattr(warm_model, "PATH", machine.path)
    machine.do(FIRST, Caller(0, 0), {})
    machine.work(FLUSH)
    return machine


WRITES: dict[str, Op] = {
    "put": Write(0, ((1, 3, point(5, 5, a="mine")),)),
    "batch": Write(0, (*series(1, range(4, 11), 7).points, (2, 2, point(3)), (1, 5, point(4)))),
    "delete": Delete(0, ((1, 2), (1, 4), (1, 99))),
    "many deletes": Delete(0, tuple((1, time) for time in range(1, 7))),
    "delete a range": DeleteRange(0, 1, 3, 5),
    "retention": DeleteRange(None, None, -100, 4),
}
LONG_WORK = {"": None, "flush": FLUSH, "compaction": COMPACT}


@pytest.fixture(params=WRITES)
def op(request: pytest.FixtureRequest) -> Op:
    """A write of each sort."""
    return WRITES[request.param]


@pytest.mark.parametrize("then", LONG_WORK)
@pytest.mark.parametrize("first", LONG_WORK)
def test_no_old_value_comes_back(machine: Machine, op: Op, first: str, then: str) -> None:
    """Killed between sync and reply: others' newer writes of the same keys stay.

    Also when a flush or a compaction came before the kill or after it, or both.
    """
    before = FIRST.after({})
    reply = machine.do(op, MINE, before)
    machine.work(LONG_WORK[first])
    machine.kill()
    machine.do(THEIRS, OTHERS, op.after(before))
    machine.work(LONG_WORK[then])
    expected = THEIRS.after(op.after(before))
    assert machine.again(op, MINE) == reply
    assert machine.state == expected
    machine.kill()
    assert machine.again(op, MINE) == reply
    machine.again(THEIRS, OTHERS)
    assert machine.state == expected


def test_killed_before_all_was_written(machine: Machine, op: Op) -> None:
    """A request that was noted but not written in full takes effect when sent again, and once."""
    before = FIRST.after({})
    for written in (None, 1, 20, 31, 40):
        machine.break_at_next_record(lambda at, count=written: Kill(at, written=count))  # type: ignore[misc] # a lambda's default
        with pytest.raises(Crash):
            machine.do(op, Caller(3, written or 0), before)
        machine.kill()
        assert machine.state == before
    reply = machine.do(op, MINE, before)
    machine.do(THEIRS, OTHERS, op.after(before))
    machine.kill()
    assert machine.again(op, MINE) == reply
    assert machine.state == THEIRS.after(op.after(before))


@pytest.mark.parametrize("end", ["kill", "kill and compact", "none"])
def test_a_refused_request_leaves_no_note(machine: Machine, op: Op, end: str) -> None:
    """A record that failed is taken back; another at the same place is not mistaken for it."""
    before = FIRST.after({})
    machine.break_at_next_record(lambda at: Fail(at, errno.ENOSPC, written=20))
    with pytest.raises(StoreFull):
        machine.do(op, MINE, before)
    machine.disk.arm()
    machine.do(THEIRS, OTHERS, before)
    if end != "none":
        machine.kill()
    if end == "kill and compact":
        machine.work(COMPACT)
        machine.kill()
    assert machine.state == THEIRS.after(before)
    machine.do(op, MINE, THEIRS.after(before))
    assert machine.state == op.after(THEIRS.after(before))


def test_killed_while_the_log_is_shortened(machine: Machine, op: Op) -> None:
    """Wherever a flush is killed, the requests before it and during it are known afterwards."""
    before = FIRST.after({})
    probe = Machine(MemoryDisk("/data"), "/data/probe.warm")
    probe.do(FIRST, Caller(0, 0), {})
    probe.work(FLUSH)
    probe.do(op, MINE, before)
    start = len(probe.disk.calls)
    probe.work(FLUSH)
    flushing = len(probe.disk.calls) - start
    reply = machine.do(op, MINE, before)
    state = op.after(before)
    for number in range(0, flushing, 5):
        theirs = series(1, range(number % 7, 11), number)
        caller = Caller(4, number)
        answer = machine.do(theirs, caller, state)
        state = theirs.after(state)
        machine.disk.arm(Kill(len(machine.disk.calls) + number))
        try:
            machine.work(FLUSH)
            machine.disk.arm()
        except Crash:
            machine.kill()
        assert machine.again(op, MINE) == reply
        assert machine.again(theirs, caller) == answer
        assert machine.state == state
