"""Every file call of every operation of a warm store, interrupted; then all is as it must be.

Under the profile "long" each call is interrupted in every way, under every policy; otherwise some
in one way, drawn by a seed.
"""

import random
from collections.abc import Iterator

import pytest

from holdfast.bench.faults import Call, Crash, FaultyDisk, Kill, MemoryDisk, Sampled
from holdfast.formats.errors import StoreNotFound
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.warm import WarmActor, open_warm
from tests.workers.interruptions import choices_of, is_exhaustive, kills_of
from tests.workers.vector_model import tick
from tests.workers.warm_model import (
    PATH,
    POLICIES,
    History,
    State,
    opened,
    state_of,
    with_small_limits,
)
from tests.workers.warm_workload import (
    FLUSH,
    STEPS,
    check_after_death,
    check_after_power_loss,
    checked_state,
    run,
    series,
    working,
    writing,
)

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    with_small_limits(monkeypatch)


def _recorded(durability: Durability) -> list[Call]:
    """The calls of an undisturbed run."""
    disk = FaultyDisk(MemoryDisk("/data"))
    run(disk, History(durability))
    return disk.calls


def _killed(durability: Durability, kill: Kill) -> tuple[MemoryDisk, History]:
    memory, history = MemoryDisk("/data"), History(durability)
    with pytest.raises(Crash):
        run(FaultyDisk(memory, kill), history)
    return memory, history


@pytest.mark.parametrize("durability", POLICIES)
def test_interrupted_at_every_file_call(durability: Durability) -> None:
    """Wherever the process or the machine stops, what was promised is there and no more."""
    for number, kills in enumerate(kills_of(_recorded(durability))):
        choices = choices_of(7 * number)
        if is_exhaustive():
            for which, kill in enumerate(kills):
                memory, history = _killed(durability, kill)
                check_after_death(memory, history, choices[(number + which) % 6])
                for choice in choices:
                    check_after_power_loss(memory, history, choice)
        elif number % 5 == POLICIES.index(durability):
            chance = random.Random(number)
            memory, history = _killed(durability, chance.choice(kills))
            if number % 2:
                check_after_death(memory, history, chance.choice(choices))
            else:
                check_after_power_loss(memory, history, chance.choice(choices))


def _flushed_up_to_the_log() -> tuple[MemoryDisk, State]:
    """A store whose manifest says that all is in chunks; its log was not synced, nor shortened."""
    disk = FaultyDisk(MemoryDisk("/data"))

    def work(disk: FaultyDisk) -> State:
        actor, history = opened(disk, PATH, "never"), History("never")
        for first in range(3):
            writing(series(1, range(4 * first, 4 * first + 4), first))(disk, actor, history)
        working(FLUSH)(disk, actor, history)
        return history.state

    state = work(disk)
    names = [(call.number, call.path) for call in disk.calls if call.name == "rename"]
    at = names[-1][0]
    assert names[-1][1].endswith("/LOG"), names
    memory = MemoryDisk("/data")
    with pytest.raises(Crash):
        work(FaultyDisk(memory, Kill(at)))
    return memory, state


def test_a_log_lost_that_was_in_chunks() -> None:
    """What was flushed under ``never`` is there whatever a power loss leaves of the log."""
    memory, state = _flushed_up_to_the_log()
    ends = set()
    for choice in (*choices_of(3), *(Sampled(seed, kept=0.5, ordered=True) for seed in range(40))):
        left = memory.power_loss(choice)
        before = left.open(f"{PATH}/LOG")
        ends.add(before.size())
        actor = opened(left, PATH, "never")
        assert checked_state(left, actor) == state
        history = History("never", first=state, requests=100)
        writing(series(1, range(2, 30), 5))(left, actor, history)
        again = opened(left.crash(), PATH, "never")
        assert state_of(left, again) == history.state
    assert len(ends) > 2, "the log was lost in part, too"


def test_recovery_interrupted_at_every_file_call() -> None:
    """A recovery that is interrupted itself leaves nothing worse than it found."""
    for durability in POLICIES:
        every = 9 if is_exhaustive() else 210
        for number, kills in enumerate(kills_of(_recorded(durability))):
            if number % every != POLICIES.index(durability) * every // 3:
                continue
            memory, history = _killed(durability, kills[-1])
            died = not number % 2
            left = memory.crash() if died else memory.power_loss(Sampled(number))
            for second in _recovery_kills(left, durability):
                again = left.crash()
                with pytest.raises(Crash):
                    opened(FaultyDisk(again, second), PATH, durability)
                seed = 1000 * number + second.at
                if died and second.at % 2:
                    check_after_death(again, history, Sampled(seed))
                else:
                    check_after_power_loss(again, history, Sampled(seed, kept=0.7))


def _recovery_kills(left: MemoryDisk, durability: Durability) -> Iterator[Kill]:
    recording = FaultyDisk(left.crash())
    opened(recording, PATH, durability)
    for number, kills in enumerate(kills_of(recording.calls)):
        yield from kills if is_exhaustive() else kills[-1:] * (number % 2)


def _filled(disk: FaultyDisk) -> tuple[WarmActor, State]:
    """A store with chunks, dead rows, and points in its log alone."""
    actor, history = opened(disk), History()
    for step in STEPS[:6]:
        actor = step(disk, actor, history)
    actor = working(FLUSH, series(1, range(3), 9))(disk, actor, history)
    return actor, history.state


def _without(disk: MemoryDisk) -> State | None:
    """What is in the store that is there already; None if there is none."""
    disk = disk.crash()
    try:
        actor = open_warm(disk, StoreSpec("w", "warm", PATH, create=False), tick)
    except StoreNotFound:
        return None
    return checked_state(disk, actor)


def test_dropped_as_a_whole_or_not_at_all() -> None:
    """Wherever removing a store is interrupted, all of it is there, or none and a new one opens."""
    disk = FaultyDisk(MemoryDisk("/data"))
    actor, state = _filled(disk)
    start = len(disk.calls)
    actor.remove()
    found = []
    for kills in kills_of(disk.calls[start:]):
        memory = MemoryDisk("/data")
        broken = FaultyDisk(memory, kills[0])
        actor, _ = _filled(broken)
        if kills[0].at < len(disk.calls):
            with pytest.raises(Crash):
                actor.remove()
        for left in (memory.crash(), *map(memory.power_loss, choices_of(kills[0].at))):
            held = _without(left)
            assert held in (None, state)
            found.append(held)
            if held is None:
                fresh = opened(left)
                assert checked_state(left, fresh) == {}
    assert None in found
    assert state in found
    assert disk.inner.list("/data") == []
