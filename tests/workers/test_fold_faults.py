"""Every file call of every fold operation, failing: a typed error or the worker's end, no loss."""

import errno
from collections.abc import Callable

import pytest

from holdfast.bench.faults import (
    Choice,
    Everything,
    Fail,
    FaultyDisk,
    GROWING,
    MemoryDisk,
    Nothing,
    REACHING,
    Sampled,
)
from holdfast.formats.errors import HoldfastError, StoreFull
from holdfast.workers import messages
from holdfast.workers.fold import FoldActor
from tests.workers.fold_model import PATH, POLICIES, Died, History, ask, fatally, opened
from tests.workers.fold_workload import (
    EXPORTED,
    WORKLOAD,
    Step,
    check_state,
    checked_state,
    exporting,
    run,
)

pytestmark = pytest.mark.usefixtures("quiet")

CODES = {errno.ENOSPC: GROWING, errno.EDQUOT: GROWING, errno.EIO: REACHING}


class Host:
    """Does a workload however often it is refused or its worker ends, as a coordinator would."""

    def __init__(self, fault: Fail, history: History) -> None:
        self.memory = MemoryDisk("/data")
        self.history = history
        self.fault = fault
        self.disk = FaultyDisk(self.memory, fault)
        self.actor: FoldActor | None = None
        self.deaths = self.refusals = 0

    def do(self, step: Step) -> None:
        """Do one step to its end."""
        for _ in range(8):
            try:
                actor = self.actor or self._open()
                self.actor = fatally(lambda actor=actor: step(self.disk, actor, self.history))
            except HoldfastError as error:
                self._refused(error)
            except Died:
                self._died()
            else:
                return
        raise AssertionError("the service does not resume")

    def close(self) -> None:
        """Close, and come back to close if the worker ended over it."""

        def closing(disk: object, actor: FoldActor, history: History) -> FoldActor:
            history.last = None
            actor.close()
            return actor

        self.do(closing)

    def _open(self) -> FoldActor:
        actor: FoldActor = fatally(lambda: opened(self.disk, PATH, self.history.durability))
        found = checked_state(self.memory, actor)
        assert found in self.history.after_death(), (found, self.history.after_death())
        pending, self.history.pending = self.history.pending, []
        for caller, request in pending:
            self.history.pending.append((caller, request))
            fatally(lambda caller=caller, request=request: ask(
                actor, request, messages.Done, caller))  # fmt: skip
        if pending:
            fatally(actor.commit)
            self.history.answer()
        assert checked_state(self.memory, actor) == self.history.state
        return actor

    def _refused(self, error: HoldfastError) -> None:
        """A typed error: once the cause is gone the same actor serves on, and nothing changed."""
        self.refusals += 1
        if self.fault.code in (errno.ENOSPC, errno.EDQUOT):
            assert isinstance(error, StoreFull), error
        self.disk.arm()
        if self.actor is None:
            return
        self.actor.commit()
        self.history.answer()
        assert checked_state(self.memory, self.actor) == self.history.state

    def _died(self) -> None:
        """The worker ended; its first successor meets the same trouble if that lasts."""
        self.deaths += 1
        self.memory = self.memory.crash()
        lasting = self.fault.lasting and self.deaths == 1
        faults = [Fail(0, self.fault.code, lasting=True, calls=self.fault.calls)] if lasting else []
        self.disk = FaultyDisk(self.memory, *faults)
        self.actor = None


def _despite(fault: Fail, history: History) -> Host:
    """Do the workload despite a fault; in the end everything is there, also after a power loss."""
    host = Host(fault, history)
    for step in WORKLOAD:
        if step is not exporting or host.memory.inode_at(EXPORTED) is None:
            host.do(step)
    host.close()
    check_state(host.memory.power_loss(Nothing()), history.durability, [history.state])
    return host


def _calls(durability: messages.Durability = "always") -> list[tuple[int, str]]:
    disk = FaultyDisk(MemoryDisk("/data"))
    run(disk, History(durability))
    return [(call.number, call.name) for call in disk.calls]


@pytest.mark.parametrize("code", CODES, ids=errno.errorcode.get)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "for good"])
def test_every_call_failing(code: int, lasting: bool) -> None:
    """One failing call, or all from one on: nothing is lost, and service resumes with the cause."""
    outcomes = [0, 0]
    for number, name in _calls():
        if name not in CODES[code]:
            continue
        for written in (0, 7) if name in ("append", "write_at") else (0,):
            fault = Fail(number, code, lasting=lasting, written=written, calls=CODES[code])
            host = _despite(fault, History())
            outcomes[0] += host.refusals
            outcomes[1] += host.deaths
    assert outcomes[0] > 10
    assert outcomes[1] > 10
