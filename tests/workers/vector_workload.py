"""Workloads that go through every operation of a vector store, and what must be there after."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from holdfast.bench.faults import Choice, Crash, FaultyDisk, MemoryDisk, Nothing
from holdfast.formats.errors import HoldfastError, StoreFrozen
from holdfast.formats.rvf.terms import Metric
from holdfast.workers import messages
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.vectors import VectorsActor
from tests.workers.columns_model import Leaf
from tests.workers.vector_model import (
    PATH,
    Branch,
    Delete,
    DeleteWhere,
    Derive,
    Embed,
    Freeze,
    History,
    Ingest,
    Limit,
    Op,
    State,
    ask,
    check_query,
    do,
    opened,
    opened_read_only,
    row,
    state_of,
)

CHILD = "/data/child.rvf"
GRANDCHILD = "/data/grandchild.rvf"
DERIVED = "/data/derived.rvf"
FAMILY = (PATH, CHILD, GRANDCHILD, DERIVED)
INTERLOPER = Caller(8, 1)
RIVAL = Ingest({1: row(9, 9, s="rival"), 3: row(8, 8), 70: row(7, 7, i=7)})

Step = Callable[[Disk, VectorsActor, History], VectorsActor]


def writing(*ops: Op) -> Step:
    """Send writes, then commit them together."""

    def step(disk: Disk, actor: VectorsActor, history: History) -> VectorsActor:
        for op in ops:
            is_made = isinstance(op, Branch | Derive) and op.path in history.state.children
            if not is_made:  # by an attempt at this step before, which broke
                history.send(actor, op)
        history.commit(actor)
        return actor

    return step


def reading(disk: Disk, actor: VectorsActor, history: History) -> VectorsActor:
    """Ask for everything in every way."""
    check_query(actor, history.state, [(0, 0), (1, -1)], 5, "l2")
    check_query(actor, history.state, [(2, 1)], 3, "l2", Leaf("ge", "i", (2,)))
    problems = ask(actor, vm.VectorsVerify(), vm.Verified).problems
    assert problems == [] or (isinstance(disk, FaultyDisk) and disk.struck)
    assert len(ask(actor, vm.VectorsDigests(), vm.Digests).digests) >= 16
    return actor


def compacting(disk: Disk, actor: VectorsActor, history: History) -> VectorsActor:
    """Compact, with writes in the midst of it."""
    steps = actor.handle(vm.VectorsCompact(), Caller(7, 1000))
    assert not isinstance(steps, messages.Reply)
    try:
        next(steps)
        next(steps)
        history.send(actor, Ingest({2: row(2, 2, s="while"), 20: row(0, 2, i=20)}))
        history.send(actor, Delete((1, 20)))
        history.send(actor, Embed(b"kernel meanwhile"))
        history.commit(actor)
        for _ in steps:
            pass
    finally:
        with contextlib.suppress(Crash, HoldfastError):
            steps.close()
    history.synced()
    return actor


def reopening(disk: Disk, actor: VectorsActor, history: History) -> VectorsActor:
    """Close and open again."""
    path = actor._spec.path
    history.commit(actor)
    history.close(actor)
    return opened(disk, path, history.durability)


ROOT: tuple[Step, ...] = (
    writing(Ingest({1: row(1, 0, i=1, s="one"), 2: row(0, 1, i=2), 3: row(-1, 1)})),
    writing(Ingest({2: row(0, 2, s="two"), 4: row(2, 2, i=4, b=True)})),
    writing(Delete((2, 3, 99))),
    reading,
    writing(Ingest({2: row(1, 1, i=2), 5: row(3, 3, i=5)}), DeleteWhere(Leaf("ge", "i", (4,)))),
    writing(Embed(b"kernel" * 100)),
    writing(Derive(DERIVED)),
    writing(Ingest({n: row(n, 1, i=n, s="x" * n) for n in range(6, 12)})),
    compacting,
    writing(Ingest({12: row(12, 0), 6: row(6, 6, i=6)})),
    reopening,
    writing(Branch(CHILD, exclude=(7, 8))),
    writing(Ingest({8: row(8, 8, i=8), 13: row(1, 3)}), Delete((9,))),
    writing(Delete((10, 12))),
    writing(Freeze()),
    reading,
)
# Of a branch, whose parent holds the ids 1 to 9.
INHERITED = {number: row(number, -number, i=number, s="old") for number in range(1, 10)}
BRANCH: tuple[Step, ...] = (
    writing(Ingest({2: row(0, 0, s="new"), 3: row(0, 3, i=30), 10: row(1, 1)})),
    writing(Delete((1, 3, 4))),
    writing(Limit(exclude=(5, 2))),
    reading,
    writing(Ingest({4: row(4, 4, i=4), 11: row(2, 1)}), Delete((11, 6))),
    compacting,
    writing(DeleteWhere(Leaf("ge", "i", (9,)))),
    reopening,
    writing(Branch(GRANDCHILD, include=(2, 4, 7, 10))),
    writing(Delete((2,)), Ingest({7: row(7, 7), 9: row(9, 9, i=9)})),
    reading,
)


@dataclass(frozen=True)
class Workload:
    """Steps for the store at ``path`` on a disk where ``prepared`` lies already."""

    path: str
    steps: tuple[Step, ...]
    first: State = field(default_factory=State)
    prepared: MemoryDisk = field(default_factory=lambda: MemoryDisk("/data"))
    metric: Metric = "l2"

    def begin(self, durability: Durability) -> tuple[MemoryDisk, History]:
        """A fresh disk, and what is on it."""
        return self.prepared.crash(), History(durability, self.first)

    def run(self, disk: Disk, history: History) -> None:
        """Do all of it; whatever breaks it passes on."""
        actor = opened(disk, self.path, history.durability)
        for step in self.steps:
            actor = step(disk, actor, history)
        history.close(actor)


def root_workload() -> Workload:
    """Everything a store that is no branch can do."""
    return Workload(PATH, ROOT)


def branch_workload() -> Workload:
    """What is different about a branch."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    history = History()
    history.send(actor, Ingest(INHERITED))
    history.send(actor, Branch(CHILD, exclude=(8,)))
    actor.close()
    return Workload(CHILD, BRANCH, history.state.children[CHILD], disk)


# --- what must be there ------------------------------------------------------------------------


def checked_state(disk: MemoryDisk, actor: VectorsActor, *, whole: bool = True) -> State:
    """The state the actor tells, which is the state its file tells.

    Unless the file is ``whole``, it may have a hole where a power loss took a witness, or a former
    manifest, of commits that were never synced; later ones that arrived count.
    """
    actor.check_invariants()
    path = actor._spec.path
    reader = opened_read_only(disk, path)
    found = state_of(disk, reader)
    reader.close()
    verified = ask(actor, vm.VectorsVerify(), vm.Verified)
    told = (verified.problems, verified.witness_breaks)
    assert told == ([], 0) or not whole, told
    told_too = state_of(disk, actor, [name for name in FAMILY[1:] if name != path])
    assert replace(told_too, children={}) == found
    return told_too


def check_after_death(
    memory: MemoryDisk, workload: Workload, history: History, choice: Choice
) -> None:
    """A process died: nothing handled is lost, and what is sent again takes effect once.

    Then the power goes, too, leaving what ``choice`` says of the successor's work.
    """
    path, durability = workload.path, history.durability
    left = memory.crash()
    actor = opened(left, path, durability)
    found = checked_state(left, actor)
    possible = history.after_death()
    assert found in possible, (found, possible)
    applied = len(history.states()) - len(possible) + possible.index(found)
    expected = found
    if found.frozen:
        _refuse_rival(actor)
    else:
        do(actor, RIVAL, INTERLOPER, found)
        expected = RIVAL.after(found)
    first = len(history.sent) - len(history.to_resend())
    for sent in history.sent[first:applied]:
        reply = ask(actor, sent.op.request(), object, sent.caller)
        if not isinstance(sent.op, Limit):  # tells of what there is now
            assert reply == sent.reply or sent.reply is None
            sent.op.check(reply, sent.before)
    actor.commit()
    assert checked_state(left, actor) == expected, "a request took effect twice"
    later = [expected]
    for sent in history.sent[applied:]:
        reply = do(actor, sent.op, sent.caller, expected)
        assert ask(actor, sent.op.request(), object, sent.caller) == reply
        expected = sent.op.after(expected)
        later.append(expected)
    actor.commit()
    assert checked_state(left, actor) == expected
    possible = [expected]
    if durability != "always":
        possible += [*history.after_power_loss(), *later]
    check_state(left.power_loss(choice), path, durability, possible)
    actor.close()
    check_state(left.power_loss(Nothing()), path, durability, [expected])


def _refuse_rival(actor: VectorsActor) -> None:
    try:
        actor.handle(RIVAL.request(), INTERLOPER)
    except StoreFrozen:
        return
    raise AssertionError("a frozen store was written to")


def check_after_power_loss(
    memory: MemoryDisk, workload: Workload, history: History, choice: Choice
) -> None:
    """The power went: what was promised is there, commit by commit, and the store serves on."""
    left = memory.power_loss(choice)
    possible = history.after_power_loss()
    found = check_state(left, workload.path, history.durability, possible)
    if found.frozen:
        return
    left = left.crash()
    actor = opened(left, workload.path, history.durability)
    do(actor, RIVAL, INTERLOPER, found)
    actor.commit()
    assert checked_state(left, actor, whole=False) == RIVAL.after(found)


def check_state(
    disk: MemoryDisk, path: str, durability: Durability, possible: list[State]
) -> State:
    """Open the store after a power loss; it holds one of these states. Then it dies again.

    Whoever opens it first only to read sees the same.
    """
    disk = disk.crash()
    seen = None
    if disk.inode_at(path) is not None:
        reader = opened_read_only(disk, path)
        seen = state_of(disk, reader)
        reader.close()
    actor = opened(disk, path, durability)
    found = checked_state(disk, actor, whole=False)
    assert seen is None or seen == replace(found, children={})
    assert found in possible, (found, possible)
    return found
