"""What a drill has to know about a kind of store: operations, a model, how to read all of it.

A state is everything a store holds, as a dictionary of plain values. An operation is a function of
the state before it, and of its place in the sequence, so that what it writes can be told from what
the same operation writes elsewhere.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, TypeVar

from holdfast.bench.drill.plan import StoreKind
from holdfast.workers import inspection
from holdfast.workers.actor import Actor, Caller, Steps
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply, Request
from holdfast.workers.standing import Standing

R = TypeVar("R")

HOME = "/data"
READER = Caller(99, 0)
INTERVAL_S = 3600.0
"""Of the durability ``interval``: never over within a drill."""

State = Mapping[str, Hashable]
EMPTY: State = MappingProxyType({})


class Write(NamedTuple):
    """A request that changes the store: one durable unit."""

    request: Request
    after: State
    parts: tuple[State, ...] = ()
    """What may be left of it besides all or nothing, if the power goes before it is answered."""


Ending = Literal["", "close", "die"]


class Turn(NamedTuple):
    """What one operation does: writes that share a commit, long work that changes no answer."""

    writes: tuple[Write, ...] = ()
    long: Request | None = None
    ending: Ending = ""
    """Whether the store is closed or its process dies; another opens it then."""


Operation = Callable[[int, State], Turn]


def reopen(number: int, state: State) -> Turn:
    """Close the store and open it again."""
    return Turn(ending="close")


def die(number: int, state: State) -> Turn:
    """The process dies, and a successor recovers the store."""
    return Turn(ending="die")


class Subject(Protocol):
    """One kind of store, as drills see it."""

    kind: StoreKind
    path: str
    alphabet: Mapping[str, Operation]

    def open(self, disk: Disk, durability: Durability) -> Actor:
        """The store at ``path``, recovered."""
        ...

    def read(self, disk: Disk, actor: Actor) -> State:
        """Everything it answers with. Raises ``Contradiction`` when two answers differ."""
        ...

    def rival(self, state: State) -> Write:
        """A write by somebody else, over what the alphabet writes."""
        ...

    def verify(self, disk: Disk) -> Standing:
        """The verdict on its files as they lie there, without opening them."""
        ...

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        """Whether the format cannot tell this, which never was, from what was.

        ``word`` is the sort of damage, ``found`` what the store holds after it. It is asked about
        files that are cut, or full of something else, if they were written anew as a whole.
        """
        ...


class Contradiction(Exception):
    """A store gave two answers that cannot both be right."""


def is_of_once_written(found: State, states: Sequence[State]) -> bool:
    """Whether every value was the value of its key at some time."""
    written = {item for state in states for item in state.items()}
    return all(item in written for item in found.items())


def agree(what: str, first: object, second: object) -> None:
    """Raise ``Contradiction`` unless two answers about the same are equal."""
    if first != second:
        raise Contradiction(f"{what}: {first!r}, and asked in another way {second!r}")


def finished(outcome: Reply | Steps) -> Reply:
    """The reply, long work done to its end."""
    if isinstance(outcome, Reply):
        return outcome
    while True:
        try:
            next(outcome)
        except StopIteration as end:
            reply: Reply = end.value
            return reply


def ask(actor: Actor, request: Request, kind: type[R]) -> R:
    """The reply to a question, of the kind expected."""
    reply = finished(actor.handle(request, READER))
    if not isinstance(reply, kind):
        raise Contradiction(f"{type(request).__name__} was answered with {reply!r}")
    return reply


def examined(disk: Disk, path: str) -> Standing:
    """The verdict of inspection on what lies at ``path``."""
    return inspection.examine(disk, path).standing


def tick() -> None:
    """Nobody watches whether a drill's store makes progress; the drill itself is watched."""
