"""A store doing a sequence of operations, recorded: the disk before every call that changes it.

At each of those calls the process or the machine may stop. What must be there afterwards is the
``Promise`` of that moment: what was answered, and what was asked and not answered yet.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.bench.drill.subjects.base import EMPTY, HOME, State, Subject, Turn, Write, finished
from holdfast.bench.faults import WRITES, Call, FaultyDisk, MemoryDisk
from holdfast.workers.actor import Actor, Caller
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply

CHANGING = frozenset(
    {
        "open", "create", "append", "write_at", "truncate", "sync", "make_directory",
        "remove_directory", "remove", "rename", "copy_mode", "sync_directory",
    }
)  # fmt: skip
"""The calls that may leave another disk behind; ``open`` because it may create."""

Wrap = Callable[[Disk], Disk]
"""Puts a layer between the store and the recorded disk; tests plant defects with one."""


def unwrapped(disk: Disk) -> Disk:
    """No layer between."""
    return disk


class Sent(NamedTuple):
    """A write that was handed to the store."""

    caller: Caller
    write: Write
    before: State

    @property
    def leaves_trace(self) -> bool:
        """Whether it changed anything; what did not may be done anew when it is sent again."""
        return self.write.after != self.before


class Promise(NamedTuple):
    """What may be there if everything stops at some moment."""

    answered: State
    durable: tuple[State, ...]
    """From the last state a power loss must not undo to the last one answered, with parts."""
    pending: tuple[Sent, ...]
    last: Sent | None
    """The write answered last, if its answer may have been lost with the process."""
    earlier: tuple[State, ...] = ()
    """The states before those, which nothing may fall back to."""

    def after_death(self) -> list[State]:
        """If the process dies: what was answered, and pending writes as wholes, in order."""
        return [self.answered, *(sent.write.after for sent in self.pending)]

    def after_power_loss(self) -> list[State]:
        """If the power goes: also parts, where the format has it so."""
        possible = list(self.durable)
        for sent in self.pending:
            possible += [*sent.write.parts, sent.write.after]
        return possible


class Moment(NamedTuple):
    """The disk before a call, and what was promised then."""

    operation: int
    """The place of the operation under way; -1 while the store is opened first."""
    number: int
    """The number of the call among those that change the disk."""
    call: Call | None
    """None at the end, when all was done."""
    disk: MemoryDisk
    promise: Promise


@dataclass
class Doing:
    """A store in the midst of a sequence, and what was promised so far."""

    subject: Subject
    durability: Durability
    disk: Disk
    actor: Actor | None = None
    states: list[State] = field(default_factory=lambda: [dict(EMPTY)])
    """From the last durable one to the last one answered, with the parts between."""
    answered: State = field(default_factory=dict)
    pending: list[Sent] = field(default_factory=list)
    last: Sent | None = None
    earlier: list[State] = field(default_factory=list)
    requests: int = 0
    replies: list[Reply] = field(default_factory=list)

    def promise(self) -> Promise:
        """What is promised now."""
        return Promise(
            self.answered, tuple(self.states), tuple(self.pending), self.last, tuple(self.earlier)
        )

    def open(self) -> Actor:
        """Open the store."""
        self.actor = self.subject.open(self.disk, self.durability)
        return self.actor

    def send(self, writes: Sequence[Write]) -> None:
        """Have writes handled in one turn and answered, as the serve loop does."""
        for write in writes:
            self.requests += 1
            before = self.pending[-1].write.after if self.pending else self.answered
            self.pending.append(Sent(Caller(7, self.requests), write, before))
        self.finish()

    def finish(self) -> None:
        """Hand what is pending to the store, and have it answered."""
        actor = self.actor or self.open()
        outcomes = [actor.handle(sent.write.request, sent.caller) for sent in self.pending]
        actor.commit()
        self.replies = [finished(outcome) for outcome in outcomes]
        actor.commit()
        self.answer()

    def answer(self) -> None:
        """Everything pending took effect, for all that its callers know."""
        for sent in self.pending:
            self.states += [*sent.write.parts, sent.write.after]
            self.answered, self.last = sent.write.after, sent
        self.pending = []
        if self.durability == "always":
            self.synced()

    def synced(self) -> None:
        """All that was answered is on stable storage."""
        self.earlier += [state for state in self.states if state != self.answered]
        self.states = [self.answered]

    def work(self, turn: Turn) -> None:
        """Do long work to its end."""
        actor = self.actor or self.open()
        if turn.long is not None:
            self.requests += 1
            finished(actor.handle(turn.long, Caller(7, self.requests)))
            actor.commit()

    def perform(self, turn: Turn) -> None:
        """Do what an operation does, up to closing the store."""
        if turn.writes:
            self.send(turn.writes)
        self.work(turn)
        if turn.ending == "close":
            self.close()

    def close(self) -> None:
        """Close the store; whoever does has every answer."""
        self.last = None
        actor = self.actor or self.open()
        actor.close()
        self.actor = None
        self.synced()


@dataclass
class Recorder:
    """Does a sequence on a disk in memory and keeps the moments."""

    subject: Subject
    durability: Durability = "always"
    wrap: Wrap = unwrapped
    since: int = -1
    """Moments of earlier operations are not kept."""
    moments: list[Moment] = field(default_factory=list)
    _calls: int = 0
    _operation: int = -1

    def record(self, operations: Sequence[str]) -> list[Moment]:
        """The moments of the sequence, the last one after its end."""
        self._memory = MemoryDisk(HOME)
        self._doing = Doing(self.subject, self.durability, self._disk())
        self._doing.open()
        for number, name in enumerate(operations):
            self._operation = number
            self._perform(self.subject.alphabet[name](number + 1, self._doing.answered))
        self._keep(None)
        return self.moments

    def closed(self) -> MemoryDisk:
        """The disk once the store that did the sequence was closed."""
        self._doing.close()
        return self._memory.crash()

    def _disk(self) -> Disk:
        return self.wrap(FaultyDisk(self._memory, on_call=self._keep))

    def _perform(self, turn: Turn) -> None:
        doing = self._doing
        doing.perform(turn)
        if turn.ending == "die":
            self._memory = self._memory.crash()
            doing.disk = self._disk()
            doing.actor = None
        if turn.ending:
            doing.open()

    def _keep(self, call: Call | None) -> None:
        if call is not None and call.name not in CHANGING:
            return
        if self._operation >= self.since:
            self.moments.append(
                Moment(
                    self._operation, self._calls, call, self._memory.crash(), self._doing.promise()
                )
            )
        self._calls += 1


def states_of(subject: Subject, operations: Sequence[str]) -> list[State]:
    """The states that a sequence goes through, parts included, by the model alone."""
    states: list[State] = [EMPTY]
    answered: State = EMPTY
    for number, name in enumerate(operations):
        for write in subject.alphabet[name](number + 1, answered).writes:
            states += [*write.parts, write.after]
            answered = write.after
    return states


def latest_of(subject: Subject, operations: Sequence[str]) -> list[State]:
    """The states from before the last operation that changed anything, parts included."""
    latest: list[State] = [EMPTY]
    for number, name in enumerate(operations):
        states: list[State] = [latest[-1]]
        for write in subject.alphabet[name](number + 1, states[-1]).writes:
            states += [*write.parts, write.after]
        if states[-1] != states[0]:
            latest = states
    return latest


def torn(moment: Moment, behind: Moment, written: int) -> MemoryDisk:
    """The disk if the process died when so many bytes of the moment's write were written."""
    call = moment.call
    assert call is not None
    data, offset = data_of(moment, behind)
    left = moment.disk.crash()
    file = left.open(call.path, write=True)
    file.write_at(offset, data[:written])
    file.close()
    return left


def data_of(moment: Moment, behind: Moment) -> tuple[bytes, int]:
    """What the moment's write wrote, and where: the disk at the next moment tells."""
    call = moment.call
    assert call is not None
    assert call.name in WRITES
    number = moment.disk.inode_at(call.path)
    _, nodes = behind.disk.unsynced()
    change = next(node for node in nodes if node.number == number).changes[-1]
    assert change.data is not None
    return change.data, change.offset
