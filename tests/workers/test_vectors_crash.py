"""Every file call of every operation of a vector store, interrupted; then all is as it must be.

Under the profile "long" each call is interrupted in every way, under every policy; otherwise each
second in one way, drawn by a seed.
"""

import random
from collections.abc import Callable, Iterator

import pytest

from holdfast.bench.faults import Call, Crash, FaultyDisk, Kill, MemoryDisk, Sampled
from holdfast.bench.memory_file import SECTOR_BYTES
from holdfast.workers.message import Durability
from tests.workers.interruptions import choices_of, is_exhaustive, kills_of
from tests.workers.vector_model import (
    PATH,
    POLICIES,
    Delete,
    Freeze,
    History,
    Ingest,
    State,
    opened,
    row,
    with_small_limits,
    without_waiting,
)
from tests.workers.vector_workload import (
    Workload,
    branch_workload,
    check_after_death,
    check_after_power_loss,
    check_state,
    checked_state,
    root_workload,
)

pytestmark = pytest.mark.usefixtures("quiet")

WORKLOADS: dict[str, Callable[[], Workload]] = {"root": root_workload, "branch": branch_workload}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_limits(monkeypatch)


def _recorded(workload: Workload, durability: Durability) -> list[Call]:
    """The calls of an undisturbed run."""
    memory, history = workload.begin(durability)
    disk = FaultyDisk(memory)
    workload.run(disk, history)
    return disk.calls


def _killed(workload: Workload, durability: Durability, kill: Kill) -> tuple[MemoryDisk, History]:
    memory, history = workload.begin(durability)
    with pytest.raises(Crash):
        workload.run(FaultyDisk(memory, kill), history)
    return memory, history


@pytest.mark.parametrize("name", WORKLOADS)
def test_interrupted_at_every_file_call(name: str) -> None:
    """Wherever the process or the machine stops, what was promised is there and no more."""
    workload = WORKLOADS[name]()
    for durability in POLICIES:
        for number, kills in enumerate(kills_of(_recorded(workload, durability))):
            choices = choices_of(7 * number)
            if is_exhaustive():
                for which, kill in enumerate(kills):
                    memory, history = _killed(workload, durability, kill)
                    check_after_death(memory, workload, history, choices[(number + which) % 6])
                    for choice in choices:
                        check_after_power_loss(memory, workload, history, choice)
            elif durability == POLICIES[number % len(POLICIES)] and number % 2 == (name == "root"):
                chance = random.Random(number)
                memory, history = _killed(workload, durability, chance.choice(kills))
                if number % 4 < 2:
                    check_after_death(memory, workload, history, chance.choice(choices))
                else:
                    check_after_power_loss(memory, workload, history, chance.choice(choices))


@pytest.mark.parametrize("name", WORKLOADS)
def test_recovery_interrupted_at_every_file_call(name: str) -> None:
    """A recovery that is interrupted itself leaves nothing worse than it found."""
    workload = WORKLOADS[name]()
    for durability in POLICIES:
        every = 9 if is_exhaustive() else 240
        for number, kills in enumerate(kills_of(_recorded(workload, durability))):
            if number % every != POLICIES.index(durability) * every // 3:
                continue
            memory, history = _killed(workload, durability, kills[-1])
            died = not number % 2
            left = memory.crash() if died else memory.power_loss(Sampled(number))
            for second in _recovery_kills(workload, left, durability):
                again = left.crash()
                with pytest.raises(Crash):
                    opened(FaultyDisk(again, second), workload.path, durability)
                seed = 1000 * number + second.at
                if died and second.at % 2:
                    check_after_death(again, workload, history, Sampled(seed))
                else:
                    check_after_power_loss(again, workload, history, Sampled(seed, kept=0.7))


def _recovery_kills(workload: Workload, left: MemoryDisk, durability: Durability) -> Iterator[Kill]:
    recording = FaultyDisk(left.crash())
    opened(recording, workload.path, durability)
    for number, kills in enumerate(kills_of(recording.calls)):
        yield from kills if is_exhaustive() else kills[-1:] * (number % 2)


class Lost:
    """All but one sector of the unsynced changes arrived."""

    def __init__(self, sector: int) -> None:
        self._left = sector

    def version(self, changes: int) -> int:
        self._left -= 1
        return changes if self._left >= 0 or self._left < -1 else 0

    def names(self, changes: int) -> list[bool]:
        return [True] * changes


@pytest.mark.parametrize("shift", [0, 8, 24, 48, 56])
def test_every_single_sector_lost(shift: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of commits that were never synced, one whose sector is missing is not believed.

    A sector may hold the second half of a header, which then looks like one without a hash.
    """
    monkeypatch.undo()
    without_waiting(monkeypatch)
    memory, history = MemoryDisk("/data"), History("never")
    actor = opened(memory, PATH, "never")
    history.send(actor, Ingest({1: row(1, 1, s="x" * (300 + shift))}))
    for number in range(2, 7):
        history.send(actor, Ingest({number: row(number, 0, s="y" * 40 * number, i=number)}))
        history.send(actor, Delete((number - 1,)))
    history.send(actor, Freeze())
    history.commit(actor)
    content = memory.content(PATH)
    assert content is not None
    found = []
    for sector in range(len(content) // SECTOR_BYTES + 3):
        left = memory.power_loss(Lost(sector))
        found.append(check_state(left, PATH, "never", history.states()))
    assert len(set(map(repr, found))) > 8  # it is the commits that are lost, one by one


def test_a_torn_delete_leaves_no_witness() -> None:
    """A witness that arrived without its commit tells of something that never was."""
    memory, history = MemoryDisk("/data"), History()
    actor = opened(memory)
    history.send(actor, Ingest({1: row(1, 1), 2: row(2, 2)}))
    history.commit(actor)
    before = memory.content(PATH)
    assert before is not None
    disk = FaultyDisk(memory.crash())
    actor = opened(disk)
    at = len(disk.calls)
    history.send(actor, Delete((1,)))
    call = next(c for c in disk.calls[at:] if c.path == PATH and c.name == "write_at")
    for written in range(0, call.size, 7):
        left = memory.crash()
        disk = FaultyDisk(left, Kill(call.number, written=written))
        actor = opened(disk)
        history = History(first=State({1: row(1, 1), 2: row(2, 2)}), _requests=9)
        with pytest.raises(Crash):
            history.send(actor, Delete((1,)))
        left = left.crash()
        actor = opened(left)
        assert checked_state(left, actor) == history.first
        assert left.content(PATH) == before
