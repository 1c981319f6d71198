"""A workload that goes through every operation of a fold, and what must be there after it broke."""

import contextlib
from collections.abc import Callable

from holdfast.bench.faults import Choice, Crash, MemoryDisk, Nothing
from holdfast.formats.errors import HoldfastError
from holdfast.formats.fold_log import Ending
from holdfast.formats.values import AnyUpdate, Cursor, Delete, Purge, Put, Version
from holdfast.workers import fold_messages, messages
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.fold import FoldActor
from holdfast.workers.fold_messages import FoldApply
from holdfast.workers.message import Durability
from tests.workers.fold_model import PATH, History, State, ask, opened, state_in, state_of

EXPORTED = "/data/out"
INTERLOPER = Caller(8, 1)

Step = Callable[[Disk, FoldActor, History], FoldActor]


def apply(*updates: AnyUpdate, cursor: int) -> FoldApply:
    """A batch."""
    return FoldApply(list(updates), Cursor.from_u64(cursor))


def writing(*requests: FoldApply) -> Step:
    """Send requests, then commit them together."""

    def step(disk: Disk, actor: FoldActor, history: History) -> FoldActor:
        for request in requests:
            history.send(actor, request)
        history.commit(actor)
        return actor

    return step


def reading(disk: Disk, actor: FoldActor, history: History) -> FoldActor:
    """Ask for everything in every way."""
    assert state_of(actor) == history.state
    page = ask(actor, fold_messages.FoldScan("k/"), fold_messages.Page)
    assert [entry.key for entry in page.entries] == sorted(
        key for key in history.state.rows if key.startswith("k/")
    )
    return actor


def compacting(disk: Disk, actor: FoldActor, history: History) -> FoldActor:
    """Compact, with a write in the midst of it."""
    steps = actor.handle(fold_messages.FoldCompact(), Caller(7, 1000))
    assert not isinstance(steps, messages.Reply)
    try:
        next(steps)
        next(steps)
        history.send(actor, apply(Put("k/while", b"compacting"), Delete("k/b"), cursor=30))
        history.commit(actor)
        for _ in steps:
            pass
    finally:
        with contextlib.suppress(Crash, HoldfastError):
            steps.close()
    history.synced()
    return actor


def exporting(disk: Disk, actor: FoldActor, history: History) -> FoldActor:
    """Export an artifact."""
    ask(actor, fold_messages.FoldExport(EXPORTED), fold_messages.Exported)
    return actor


def reopening(disk: Disk, actor: FoldActor, history: History) -> FoldActor:
    """Close and open again."""
    history.last = None  # whoever closes has every answer
    actor.close()
    history.synced()
    return opened(disk, PATH, history.durability)


WORKLOAD: tuple[Step, ...] = (
    writing(apply(Put("k/a", b"1", Version.from_u64(1)), Put("k/b", b"2" * 700), cursor=1)),
    writing(apply(Put("k/a", b"one"), Delete("k/b"), Put("", b""), cursor=2)),
    reading,
    writing(
        apply(Put("k/c", b"3" * 1200), cursor=3),
        apply(Put("k/a", b"shared commit"), Purge("k/c"), Put("k/b", b"again"), cursor=4),
    ),
    writing(apply(cursor=5)),
    compacting,
    writing(apply(Put("k/after", b"the compaction"), Put("k/a", b"A" * 600), cursor=31)),
    exporting,
    reopening,
    writing(apply(Delete("k/after"), Put("k/z", b"last"), cursor=32)),
    reading,
)


def run(disk: Disk, history: History, workload: tuple[Step, ...] = WORKLOAD) -> None:
    """Do all of it; whatever breaks it passes on."""
    actor = opened(disk, PATH, history.durability)
    for step in workload:
        actor = step(disk, actor, history)
    history.last = None
    actor.close()
    history.synced()


def check_after_death(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """A process died: nothing answered is lost, and what is sent again takes effect once.

    Then the power goes, too, leaving what ``choice`` says of the successor's work.
    """
    left = memory.crash()
    content = left.content(PATH)
    if content is not None and len(content) > 6:
        assert state_in(content)[1] in (Ending.CLEAN, Ending.TORN)
    actor = opened(left, PATH, history.durability)
    found = checked_state(left, actor)
    possible = history.after_death()
    assert found in possible, (found, possible)
    # The requests up to the state found took effect, and the rest did not.
    lost = history.pending[max(n for n, state in enumerate(possible) if state == found) :]
    done = history.pending[: len(history.pending) - len(lost)]
    rival = apply(*(Put(key, b"rival") for key in ("k/a", "k/b", "k/z")), cursor=77)
    ask(actor, rival, messages.Done, INTERLOPER)
    expected = found.after(rival)
    for caller, request in (*([history.last] if history.last else ()), *done):
        ask(actor, request, messages.Done, caller)
    actor.commit()
    assert state_of(actor) == expected, "a request took effect twice"
    for caller, request in (*lost, *lost):
        ask(actor, request, messages.Done, caller)
    for _, request in lost:
        expected = expected.after(request)
    actor.commit()
    assert checked_state(left, actor) == expected
    possible = [expected]
    if history.durability != "always":
        possible += [*history.after_power_loss(), *found.prefixes(rival)]
        for _, request in lost:
            possible += found.after(rival).prefixes(request)
    check_state(left.power_loss(choice), history.durability, possible)
    actor.close()
    check_state(left.power_loss(Nothing()), history.durability, [expected])


def check_after_power_loss(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """The power went: what was promised is there, in the order of the writes, nothing else."""
    left = memory.power_loss(choice)
    possible = history.after_power_loss()
    found = check_state(left, history.durability, possible)
    actor = opened(left.crash(), PATH, history.durability)
    for caller, request in history.pending:
        ask(actor, request, messages.Done, caller)
        found = found.after(request)
    actor.commit()
    assert state_of(actor) == found


def check_state(disk: MemoryDisk, durability: Durability, possible: list[State]) -> State:
    """Open the fold; it holds one of these states. The process dies again behind it."""
    disk = disk.crash()
    actor = opened(disk, PATH, durability)
    found = checked_state(disk, actor)
    assert found in possible, (found, possible)
    return found


def checked_state(disk: MemoryDisk, actor: FoldActor) -> State:
    """The state the actor tells, which is the state its log tells."""
    actor.check_invariants()
    content = disk.content(PATH)
    assert content is not None
    found = state_of(actor)
    assert state_in(content) == (found, Ending.CLEAN)
    return found
