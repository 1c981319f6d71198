"""Every file call of every index operation, interrupted; then what must be there is there."""

import pytest

from holdfast.bench.faults import (
    Call,
    Crash,
    FaultyDisk,
    MemoryDisk,
    Sampled,
)
from holdfast.workers.index_messages import IndexOptions
from holdfast.workers.message import Durability
from tests.workers.index_model import DIMENSION, PATH, POLICIES, opened
from tests.workers.index_workload import (
    History,
    check_after_death,
    check_after_power_loss,
    run,
)
from tests.workers.interruptions import choices_of, every_kill

pytestmark = pytest.mark.usefixtures("quiet", "written_behind")

COMPRESSED = IndexOptions(dimension=DIMENSION, metric="euclidean", compression="zstd")


def _recorded(history: History) -> list[Call]:
    """The calls of an undisturbed run."""
    disk = FaultyDisk(MemoryDisk("/data"))
    run(disk, history)
    return disk.calls


@pytest.mark.parametrize("options", [None, COMPRESSED], ids=["none", "zstd"])
@pytest.mark.parametrize("durability", POLICIES)
def test_interrupted_at_every_file_call(
    durability: Durability, options: IndexOptions | None
) -> None:
    """Wherever the process or the machine stops, what was promised is there and no more."""
    for number, kill in enumerate(every_kill(_recorded(History(durability, options)))):
        memory, history = MemoryDisk("/data"), History(durability, options)
        with pytest.raises(Crash):
            run(FaultyDisk(memory, kill), history)
        choices = choices_of(7 * number)
        check_after_death(memory, history, choices[number % len(choices)])
        for choice in choices:
            check_after_power_loss(memory, history, choice)


@pytest.mark.parametrize("durability", POLICIES)
def test_recovery_interrupted_at_every_file_call(durability: Durability) -> None:
    """A recovery that is interrupted itself leaves nothing worse than it found."""
    for number, kill in enumerate(every_kill(_recorded(History(durability)))):
        if number % 9 and kill.written is None:
            continue
        memory, history = MemoryDisk("/data"), History(durability)
        with pytest.raises(Crash):
            run(FaultyDisk(memory, kill), history)
        left = memory.crash() if number % 2 else memory.power_loss(Sampled(number))
        recording = FaultyDisk(left.crash())
        opened(recording, PATH, durability)
        for second in every_kill(recording.calls):
            again = left.crash()
            with pytest.raises(Crash):
                opened(FaultyDisk(again, second), PATH, durability)
            seed = 1000 * number + second.at
            if number % 2:
                check_after_death(again, history, Sampled(seed))
            check_after_power_loss(again, history, Sampled(seed, kept=0.7))
