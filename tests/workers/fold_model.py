"""What a fold must hold, as a plain dictionary, and how a test talks to an actor."""

from dataclasses import dataclass, field
from typing import TypeVar

from holdfast.formats import fold_log
from holdfast.formats.errors import HoldfastError
from holdfast.formats.fold_log import DELETED, HEADER_BYTES, Ending
from holdfast.formats.values import Cursor, Put
from holdfast.workers import fold_messages, messages
from holdfast.workers.actor import Caller
from holdfast.workers.disk import Disk
from holdfast.workers.fold import FoldActor, open_fold
from holdfast.workers.fold_messages import FoldApply
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply, Request, StoreSpec

R = TypeVar("R")

PATH = "/data/f.snap"
READER = Caller(99, 0)
POLICIES: tuple[Durability, ...] = ("always", "interval", "never")


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def fold_spec(path: str = PATH, durability: Durability = "always") -> StoreSpec:
    """How the tests open a fold; an interval is never over within a test."""
    return StoreSpec("f", "fold", path, durability=durability, interval_s=3600.0)


def opened(disk: Disk, path: str = PATH, durability: Durability = "always") -> FoldActor:
    """The fold at ``path``, recovered and consistent."""
    return open_fold(disk, fold_spec(path, durability), tick)


@dataclass(frozen=True)
class State:
    """All that a fold holds: key to value and version token, and the cursor's token."""

    rows: dict[str, tuple[bytes, bytes]] = field(default_factory=dict)
    cursor: bytes = b""

    def after(self, request: FoldApply, updates: int | None = None) -> "State":
        """The state once ``request`` took effect, or only its first updates, cursor not moved."""
        rows = dict(self.rows)
        for update in request.updates[:updates]:
            if isinstance(update, Put):
                rows[update.key] = (update.value, update.version.token)
            else:
                rows.pop(update.key, None)
        if updates is not None or request.cursor is None:
            return State(rows, self.cursor)
        return State(rows, request.cursor.token)

    def prefixes(self, request: FoldApply) -> list["State"]:
        """What a power loss in the midst of ``request`` may leave, this state excepted."""
        parts = [self.after(request, count) for count in range(1, len(request.updates) + 1)]
        return [*parts, self.after(request)]


def ask(actor: FoldActor, request: Request, kind: type[R], caller: Caller = READER) -> R:
    """The reply to ``request``, long work done to its end, of the kind expected."""
    outcome = actor.handle(request, caller)
    if not isinstance(outcome, Reply):
        while True:
            try:
                next(outcome)
            except StopIteration as finished:
                outcome = finished.value
                break
    assert isinstance(outcome, kind)
    return outcome


def state_of(actor: FoldActor) -> State:
    """All that the actor answers with, each entry asked for in two ways."""
    entries = ask(actor, fold_messages.FoldRange(""), fold_messages.Entries).entries
    keys = [entry.key.encode() for entry in entries]
    assert keys == sorted(set(keys))
    for entry in entries:
        assert ask(actor, fold_messages.FoldGet(entry.key), fold_messages.Entry).entry == entry
    cursor = ask(actor, fold_messages.FoldCursor(), fold_messages.CursorIs).cursor
    return State({e.key: (e.value, e.version.token) for e in entries}, cursor.token)


def state_in(content: bytes) -> tuple[State, Ending]:
    """What the records of a log say, read without an actor, and how the log ends."""
    table: dict[bytes, int] = {}
    scan = fold_log.scan(content, HEADER_BYTES, table)
    rows = {}
    for span in table.values():
        if span != DELETED:
            record = fold_log.read_record(memoryview(content), fold_log.unpack_span(span)[0])
            assert isinstance(record, fold_log.Record)
            rows[record.key.decode()] = (bytes(record.value), record.token)
    return State(rows, (scan.cursor or Cursor.none()).token), scan.verdict.ending


@dataclass
class History:
    """What was sent and answered: the states gone through, and what is still unanswered."""

    durability: Durability = "always"
    states: list[State] = field(default_factory=lambda: [State()])
    durable: int = 0
    """Index of the last state that a power loss must not undo."""
    answered: list[FoldApply] = field(default_factory=list)
    """The requests between those states."""
    pending: list[tuple[Caller, FoldApply]] = field(default_factory=list)
    last: tuple[Caller, FoldApply] | None = None
    """The request answered last, unless the fold was closed since: its answer may be lost."""
    _requests: int = 0

    @property
    def state(self) -> State:
        """Everything answered took effect, and nothing else."""
        return self.states[-1]

    def send(self, actor: FoldActor, request: FoldApply) -> None:
        """Hand a request to the actor; it is unanswered until ``commit``."""
        self._requests += 1
        caller = Caller(7, self._requests)
        before = self.after_death()[-1]
        self.pending.append((caller, request))
        try:
            ask(actor, request, messages.Done, caller)
        except HoldfastError:
            self.pending.pop()
            raise
        if not request.updates and request.cursor in (None, Cursor.from_bytes(before.cursor)):
            # It changed nothing, so sent again it counts as having come later, not as coming twice.
            self.pending.pop()

    def commit(self, actor: FoldActor) -> None:
        """Commit, which answers everything sent."""
        actor.commit()
        self.answer()

    def answer(self) -> None:
        """Every request sent took effect, for all that its caller knows."""
        for sent in self.pending:
            self.states.append(self.state.after(sent[1]))
            self.answered.append(sent[1])
            self.last = sent
        self.pending = []
        if self.durability == "always":
            self.synced()

    def synced(self) -> None:
        """What was answered is on stable storage, whatever the policy."""
        self.durable = len(self.states) - 1

    def after_death(self) -> list[State]:
        """What may be there after the death of the process: unanswered requests as wholes."""
        possible = [self.state]
        for _, request in self.pending:
            possible.append(possible[-1].after(request))
        return possible

    def after_power_loss(self) -> list[State]:
        """What may be there after a power loss: unsynced batches may be cut in their midst."""
        possible = [self.states[self.durable]]
        for request in (*self.answered[self.durable :], *(sent[1] for sent in self.pending)):
            possible += possible[-1].prefixes(request)
        return possible
