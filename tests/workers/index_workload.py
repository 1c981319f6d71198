"""A workload that goes through every operation of an index, and what must be there afterwards."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from holdfast.bench.faults import Choice, Crash, MemoryDisk, Nothing
from holdfast.formats.errors import HoldfastError
from holdfast.formats.iqdb_values import decode_metadata
from holdfast.workers import index_messages as im
from holdfast.workers import messages
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.index import IndexActor
from holdfast.workers.index_messages import IndexDelete, IndexInsert, IndexOptions
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply
from tests.formats.iqdb_reader import Row
from tests.workers.index_model import (
    DIMENSION,
    PATH,
    Rows,
    ask,
    deleting,
    inserting,
    opened,
    plain,
    rows_in,
    rows_of,
)

Write = IndexInsert | IndexDelete
State = tuple[Row, ...]
"""All rows in storage order."""
Step = Callable[[Disk, IndexActor, "History"], IndexActor]
INTERLOPER = Caller(8, 1)


def ids_in(request: Write) -> list[int | bytes]:
    """The ids of a request."""
    if isinstance(request.ids, memoryview):
        return [int(number) for number in np.frombuffer(request.ids, "<u8")]
    return request.ids


def after(state: State, request: Write) -> State:
    """The state once a request took effect; deletes of what is not there change nothing."""
    rows = list(state)
    places = {row[0]: place for place, row in enumerate(rows)}
    vectors = b"" if isinstance(request, IndexDelete) else bytes(request.vectors)
    for number, id_ in enumerate(ids_in(request)):
        place = places.get(id_)
        if isinstance(request, IndexInsert):
            width = 4 * DIMENSION
            encoded = None if request.metadata is None else request.metadata[number]
            metadata = None if encoded is None else plain(decode_metadata(encoded)[0])
            row: Row = (id_, vectors[number * width : (number + 1) * width], metadata)
            if place is None:
                places[id_] = len(rows)
                rows.append(row)
            else:
                rows[place] = row
        elif place is not None:
            del places[id_]
            last = rows.pop()
            if place < len(rows):
                rows[place] = last
                places[last[0]] = place
    return tuple(rows)


@dataclass
class History:
    """What was sent and answered: the states gone through, and what is still unanswered."""

    durability: Durability = "always"
    options: IndexOptions | None = None
    states: list[State] = field(default_factory=lambda: [()])
    durable: int = 0
    """Index of the last state that a power loss must not undo."""
    answered: list[Write] = field(default_factory=list)
    pending: list[tuple[Caller, Write, Reply]] = field(default_factory=list)
    last: tuple[Caller, Write, Reply] | None = None
    """The request answered last, unless the index was closed since: its answer may be lost."""
    _requests: int = 0

    @property
    def state(self) -> State:
        """Everything answered took effect, and nothing else."""
        return self.states[-1]

    def send(self, actor: IndexActor, request: Write) -> None:
        """Hand a request to the actor; it is unanswered until ``commit``."""
        self._requests += 1
        caller = Caller(7, self._requests)
        before = self.after_death()[-1]
        self.pending.append((caller, request, messages.Done()))
        try:
            reply = actor.handle(request, caller)
        except HoldfastError:
            self.pending.pop()
            raise
        assert isinstance(reply, Reply)
        self.pending[-1] = (caller, request, reply)
        if after(before, request) == before and isinstance(request, IndexDelete):
            self.pending.pop()  # it changed nothing, so sent again it may count as come later

    def commit(self, actor: IndexActor) -> None:
        """Commit, which answers everything sent."""
        actor.commit()
        self.answer()

    def answer(self) -> None:
        """Every request sent took effect, for all that its caller knows."""
        for sent in self.pending:
            self.states.append(after(self.state, sent[1]))
            self.answered.append(sent[1])
            self.last = sent
        self.pending = []
        if self.durability == "always":
            self.synced()

    def synced(self) -> None:
        """What was answered is on stable storage, whatever the policy."""
        self.durable = len(self.states) - 1

    def after_death(self) -> list[State]:
        """What may be there after the death of the process: requests as wholes."""
        possible = [self.state]
        for _, request, _ in self.pending:
            possible.append(after(possible[-1], request))
        return possible

    def after_power_loss(self) -> list[State]:
        """What may be there after a power loss: as wholes, too, since records are stamped."""
        possible = [self.states[self.durable]]
        for request in (*self.answered[self.durable :], *(sent[1] for sent in self.pending)):
            possible.append(after(possible[-1], request))
        return possible


def writing(*requests: Write) -> Step:
    """Send requests, then commit them together."""

    def step(disk: Disk, actor: IndexActor, history: History) -> IndexActor:
        for request in requests:
            history.send(actor, request)
        history.commit(actor)
        return actor

    return step


def reading(disk: Disk, actor: IndexActor, history: History) -> IndexActor:
    """Ask for every row in two ways."""
    assert tuple(rows_of(actor)) == history.state
    ids = [row[0] for row in history.state]
    found = ask(actor, im.IndexGet(ids), im.IndexRows)
    assert bytes(found.vectors) == b"".join(row[1] for row in history.state)
    return actor


def checkpointing(*, reset: bool) -> Step:
    """Write a snapshot, with writes in the midst of it that touch what it has and has not."""

    def step(disk: Disk, actor: IndexActor, history: History) -> IndexActor:
        steps = actor.handle(im.IndexCheckpoint(reset), Caller(7, 1000))
        assert not isinstance(steps, Reply)
        try:
            next(steps)
            change = inserting({60: ([6.0 + reset], None), 1: ([1.5 + reset], None)}, replace=True)
            history.send(actor, change)
            history.send(actor, deleting(2, missing_ok=True))
            history.commit(actor)
            for _ in steps:
                pass
        finally:
            with contextlib.suppress(Crash, HoldfastError):
                steps.close()
        if reset:
            history.synced()
        return actor

    return step


def reopening(disk: Disk, actor: IndexActor, history: History) -> IndexActor:
    """Close and open again."""
    history.last = None  # whoever closes has every answer
    actor.close()
    history.synced()
    return opened(disk, PATH, history.durability, history.options)


def workload(*, strict: bool) -> tuple[Step, ...]:
    """All operations. Without ``strict`` each may be sent again as a request of its own."""

    def insert(rows: Rows) -> IndexInsert:
        return inserting(rows, replace=not strict)

    def delete(*ids: int | bytes) -> IndexDelete:
        return deleting(*ids, missing_ok=not strict)

    return (
        writing(insert({1: ([1.0], {"a": 1}), 2: ([2.0], None), b"k": ([3.0], {})})),
        writing(insert({n: ([n], None) for n in range(10, 40)})),
        reading,
        writing(
            delete(1),
            inserting({1: ([9.0], None), 2: ([8.0], {"b": "text"})}, replace=True),
            delete(10, 39, b"k"),
        ),
        writing(deleting(404, missing_ok=True)),
        checkpointing(reset=False),
        writing(insert({61: ([6.1], None)})),
        checkpointing(reset=True),
        writing(insert({b"after": ([7.0], {"n": None})}), delete(60)),
        reopening,
        writing(inserting({1: ([10.0], {"x": True}), 99: ([99.0], None)}, replace=True)),
        reading,
    )


WORKLOAD = workload(strict=True)


def run(disk: Disk, history: History) -> None:
    """Do all of it; whatever breaks it passes on."""
    actor = opened(disk, PATH, history.durability, history.options)
    for step in WORKLOAD:
        actor = step(disk, actor, history)
    history.last = None
    actor.close()
    history.synced()


def check_after_death(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """A process died: nothing answered is lost, and what is sent again takes effect once.

    Then the power goes, too, leaving what ``choice`` says of the successor's work.
    """
    left = memory.crash()
    actor = opened(left, PATH, history.durability, history.options)
    found = checked_state(left, actor)
    possible = history.after_death()
    assert found in possible, (found, possible)
    # The requests up to the state found took effect, and the rest did not.
    lost = history.pending[max(n for n, state in enumerate(possible) if state == found) :]
    done = history.pending[: len(history.pending) - len(lost)]
    rival = inserting({n: ([-1.0], {"rival": n}) for n in (1, 2, 61)}, replace=True)
    ask(actor, rival, im.IndexInserted, INTERLOPER)
    expected = after(found, rival)
    for caller, request, reply in (*([history.last] if history.last else ()), *done):
        assert actor.handle(request, caller) == reply or reply == messages.Done()
    actor.commit()
    assert tuple(rows_of(actor)) == expected, "a request took effect twice"
    sent = []
    for caller, request, _ in lost:
        if _may_be_sent(request, expected):
            sent.append((caller, request, actor.handle(request, caller)))
            expected = after(expected, request)
    for caller, request, reply in sent:
        if after(expected, request) != expected or isinstance(request, IndexInsert):
            assert actor.handle(request, caller) == reply
    actor.commit()
    assert checked_state(left, actor) == expected
    if history.durability == "always":
        check_state(left.power_loss(choice), history, [expected])
    actor.close()
    check_state(left.power_loss(choice), history, [expected])
    check_state(left.power_loss(Nothing()), history, [expected])


def _may_be_sent(request: Write, state: State) -> bool:
    """Whether a strict request is not refused now, after what a rival wrote."""
    there = {row[0] for row in state}
    if isinstance(request, IndexDelete):
        return request.missing_ok or there.issuperset(ids_in(request))
    return request.replace or there.isdisjoint(ids_in(request))


def check_after_power_loss(memory: MemoryDisk, history: History, choice: Choice) -> None:
    """The power went: what was promised is there, in the order of the writes, nothing else."""
    left = memory.power_loss(choice)
    check_state(left, history, history.after_power_loss())


def check_state(disk: MemoryDisk, history: History, possible: list[State]) -> State:
    """Open the index; it holds one of these states. The process dies again behind it."""
    disk = disk.crash()
    actor = opened(disk, PATH, history.durability, history.options)
    found = checked_state(disk, actor)
    assert found in possible, (found, possible)
    return found


def checked_state(disk: MemoryDisk, actor: IndexActor) -> State:
    """The state the actor tells, which is the state its files tell."""
    actor.check_invariants()
    found = rows_of(actor)
    assert sorted(rows_in(disk), key=repr) == sorted(found, key=repr)
    return tuple(found)
