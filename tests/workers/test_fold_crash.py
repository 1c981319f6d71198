"""Every file call of every fold operation, interrupted; then what must be there is there."""

import pytest

from holdfast.bench.faults import (
    Call,
    Crash,
    FaultyDisk,
    Kill,
    MemoryDisk,
    Sampled,
)
from holdfast.workers.message import Durability
from tests.workers.fold_model import PATH, POLICIES, History, opened
from tests.workers.fold_workload import (
    check_after_death,
    check_after_power_loss,
    run,
)
from tests.workers.interruptions import choices_of, every_kill

pytestmark = pytest.mark.usefixtures("quiet", "written_behind")


def _recorded(durability: Durability) -> list[Call]:
    """The calls of an undisturbed run."""
    disk = FaultyDisk(MemoryDisk("/data"))
    run(disk, History(durability))
    return disk.calls


@pytest.mark.parametrize("durability", POLICIES)
def test_interrupted_at_every_file_call(durability: Durability) -> None:
    """Wherever the process or the machine stops, what was promised is there and no more."""
    for number, kill in enumerate(every_kill(_recorded(durability))):
        memory, history = MemoryDisk("/data"), History(durability)
        with pytest.raises(Crash):
            run(FaultyDisk(memory, kill), history)
        choices = choices_of(7 * number)
        check_after_death(memory, history, choices[number % len(choices)])
        for choice in choices:
            check_after_power_loss(memory, history, choice)


@pytest.mark.parametrize("durability", POLICIES)
def test_recovery_interrupted_at_every_file_call(durability: Durability) -> None:
    """A recovery that is interrupted itself leaves nothing worse than it found."""
    for number, kill in enumerate(every_kill(_recorded(durability))):
        if number % 9 and kill.written is None:
            continue
        memory, history = MemoryDisk("/data"), History(durability)
        with pytest.raises(Crash):
            run(FaultyDisk(memory, kill), history)
        left = memory.crash() if number % 2 else memory.power_loss(Sampled(number))
        for second in _recovery_kills(left, durability):
            again = left.crash()
            with pytest.raises(Crash):
                opened(FaultyDisk(again, second), PATH, durability)
            seed = 1000 * number + second.at
            if number % 2:
                check_after_death(again, history, Sampled(seed))
            check_after_power_loss(again, history, Sampled(seed, kept=0.7))


def _recovery_kills(left: MemoryDisk, durability: Durability) -> list[Kill]:
    recording = FaultyDisk(left.crash())
    opened(recording, PATH, durability)
    return every_kill(recording.calls)
