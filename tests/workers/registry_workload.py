"""A workload that goes through every operation of a registry, and what must be there after it."""

from collections.abc import Callable

from holdfast.bench.faults import Choice, MemoryDisk, Nothing
from holdfast.workers import registry_messages as rm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.registry import RegistryActor
from tests.workers.registry_model import (
    PATH,
    History,
    State,
    Write,
    after,
    content_of,
    deleting,
    opened,
    saving,
    state_in,
    state_of,
    write,
)

INTERLOPER = Caller(8, 1)

Step = Callable[[Disk, RegistryActor, History], RegistryActor]


def writing(*requests: Write) -> Step:
    """Send requests in one turn."""

    def step(disk: Disk, actor: RegistryActor, history: History) -> RegistryActor:
        history.send(actor, *requests)
        return actor

    return step


def reading(disk: Disk, actor: RegistryActor, history: History) -> RegistryActor:
    """Ask for everything."""
    assert state_of(actor) == history.state
    return actor


def reopening(disk: Disk, actor: RegistryActor, history: History) -> RegistryActor:
    """Close and open again."""
    history.last = []  # whoever closes has every answer
    actor.close()
    history.synced()
    return opened(disk, PATH, history.durability)


WORKLOAD: tuple[Step, ...] = (
    writing(saving(("a", 1))),
    writing(saving(("b", 1), ("c", 1))),
    reading,
    writing(saving(("a", 2)), saving(("d", 1)), deleting("b"), saving(("a", 3))),
    writing(deleting("c")),
    reopening,
    writing(saving(("c", 2))),
    writing(deleting("a"), saving(("e", 1))),
    reopening,
    writing(saving(("a", 4))),
    reading,
)


def run(disk: Disk, history: History) -> None:
    """Do all of it; whatever breaks it passes on."""
    actor = opened(disk, PATH, history.durability)
    for step in WORKLOAD:
        actor = step(disk, actor, history)
    history.last = []
    actor.close()
    history.synced()


def check_after_death(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """A process died: nothing answered is lost, and what is sent again takes effect once.

    Then the power goes, too, leaving what ``choice`` says of the successor's work.
    """
    left = memory.crash()
    actor = opened(left, PATH, history.durability)
    found = checked_state(left, actor)
    assert found in history.after_death()
    done, lost = history.pending, history.pending
    if found == history.complete():
        lost = []
    else:
        done = []
    rival = saving(*((name, 77) for name in "abcde"))
    write(actor, rival, INTERLOPER)
    expected = after(found, rival)
    for caller, request in (*history.last, *done):
        reply = write(actor, request, caller)
        if isinstance(request, rm.RegistryDelete):
            assert reply == rm.RegistryDeleted(deleted=True), "the answer is as the first time"
    assert state_of(actor) == expected, "a request took effect twice"
    states = [found, expected]
    for caller, request in (*lost, *lost):
        write(actor, request, caller)
    for _, request in lost:
        states.append(after(states[-1], request))
    assert checked_state(left, actor) == states[-1]
    possible = states if history.durability != "always" else states[-1:]
    check_state(left.power_loss(choice), history.durability, possible)
    actor.close()
    check_state(left.power_loss(Nothing()), history.durability, states[-1:])


def check_after_power_loss(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """The power went: what was promised is there, one whole generation and nothing else."""
    left = memory.power_loss(choice)
    found = check_state(left, history.durability, history.after_power_loss())
    left = left.crash()
    actor = opened(left, PATH, history.durability)
    for caller, request in history.pending:
        write(actor, request, caller)
        found = after(found, request)
    assert checked_state(left, actor) == found


def check_state(disk: MemoryDisk, durability: Durability, possible: list[State]) -> State:
    """Open the registry; it holds one of these states. The process dies again behind it."""
    disk = disk.crash()
    actor = opened(disk, PATH, durability)
    found = checked_state(disk, actor)
    assert found in possible
    suffixes = {name.removeprefix("m.zsm").rstrip("12345678") for name, _ in disk.list("/data")}
    assert suffixes <= {"", ".lock", ".ledger", ".previous", ".cut"}, "nothing is left over"
    return found


def checked_state(disk: MemoryDisk, actor: RegistryActor) -> State:
    """The state the actor tells, which is the state its file tells."""
    actor.check_invariants()
    found = state_of(actor)
    assert state_in(content_of(disk)) == found
    return found
