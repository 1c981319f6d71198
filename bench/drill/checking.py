"""Deciding whether a store, opened after a fault, holds what was promised and nothing else."""

import contextlib
import enum
from collections.abc import Iterator, Sequence

from holdfast.bench.drill.recording import Promise, Sent
from holdfast.bench.drill.subjects.base import (
    Contradiction,
    State,
    Subject,
    Write,
    finished,
)
from holdfast.bench.faults import MemoryDisk, Nothing
from holdfast.formats.errors import HoldfastError
from holdfast.workers.actor import Actor, Caller
from holdfast.workers.disk import Disk
from holdfast.workers.message import Durability
from holdfast.workers.standing import Standing

INTERLOPER = Caller(8, 1)
_WHOLE = (Standing.CLEAN, Standing.RECOVERABLE)
_SHOWN_MAX = 600


class Harm(enum.Enum):
    """What a broken promise costs."""

    LOST = "lost"
    WRONG = "wrong"
    REFUSED = "refused"


class Broken(Exception):
    """A promise did not hold: which, what it costs, what was expected and found."""

    def __init__(self, promise: str, harm: Harm, detail: str) -> None:
        super().__init__(f"{promise}: {detail}")
        self.promise = promise
        self.harm = harm
        self.detail = detail


LOST = "an acknowledged write is there after the fault"
INVENTED = "a store holds nothing that was not written to it, and each write whole or not at all"
OPENS = "a store opens again after the fault"
VERIFIES = "the files of a store verify as clean or torn"
ONCE = "a request that is sent again takes effect once"
SERVES = "a store that was opened after a fault serves on, durably"
TYPED = "every error is one of holdfast's own"


def check_death(
    subject: Subject, left: MemoryDisk, durability: Durability, promise: Promise, *, deep: bool
) -> None:
    """Raise ``Broken`` unless a dead process left what was promised. The disk is used up.

    With ``deep``, what was unanswered is sent again, then once more after somebody else's write.
    """
    actor, found = opened(subject, left, durability)
    check_possible(found, promise.after_death(), promise)
    if not deep:
        return
    expected = promise.after_death()[-1]
    _resend(actor, promise.pending)
    check_equal(subject, left, actor, expected, ONCE)
    rival = subject.rival(expected)
    write(actor, rival, INTERLOPER)
    again = [*([promise.last] if promise.last else []), *promise.pending]
    _resend(actor, [sent for sent in again if sent.leaves_trace])
    check_equal(subject, left, actor, rival.after, ONCE)
    if durability == "always":
        _check_written(subject, left, durability, rival, expected)


def check_power(
    subject: Subject,
    left: MemoryDisk,
    durability: Durability,
    possible: Sequence[State],
    promise: Promise,
    *,
    deep: bool = False,
) -> None:
    """Raise ``Broken`` unless a power loss left one of these states. The disk is used up.

    With ``deep``, a write more is answered and survives the next power loss.
    """
    actor, found = opened(subject, left, durability)
    check_possible(found, possible, promise)
    if deep:
        rival = subject.rival(found)
        write(actor, rival, INTERLOPER)
        check_equal(subject, left, actor, rival.after, SERVES)
        if durability == "always":
            _check_written(subject, left, durability, rival, found)


def _check_written(
    subject: Subject, left: MemoryDisk, durability: Durability, answered: Write, before: State
) -> None:
    """Raise ``Broken`` unless a write that was answered is there after one more power loss."""
    durable = (answered.after,)
    promise = Promise(answered.after, durable, (), None, (before,))
    check_power(subject, left.power_loss(Nothing()), durability, durable, promise)


def opened(subject: Subject, left: MemoryDisk, durability: Durability) -> tuple[Actor, State]:
    """The store that was left, and what it holds; ``Broken`` if it cannot be opened or read."""
    with telling(OPENS):
        if left.inode_at(subject.path) is not None:
            check_standing(subject, left, "before it is opened")
        actor = subject.open(left, durability)
        found = subject.read(left, actor)
        actor.check_invariants()
        check_standing(subject, left, "after it was opened")
    return actor, found


@contextlib.contextmanager
def telling(promise: str) -> Iterator[None]:
    """Turn whatever a store raises into ``Broken``: this promise, if the error is a typed one."""
    try:
        yield
    except Broken:
        raise
    except HoldfastError as error:
        raise Broken(promise, Harm.REFUSED, f"{type(error).__name__}: {error}") from error
    except (Contradiction, AssertionError) as error:
        raise Broken(INVENTED, Harm.WRONG, f"it contradicts itself: {error}") from error
    except Exception as error:
        raise Broken(TYPED, Harm.REFUSED, f"{type(error).__name__}: {error}") from error


def check_standing(subject: Subject, left: Disk, when: str) -> None:
    """Raise ``Broken`` unless the files verify."""
    standing = subject.verify(left)
    if standing not in _WHOLE:
        raise Broken(VERIFIES, Harm.REFUSED, f"{when} they are {standing.name}")


def check_equal(subject: Subject, left: Disk, actor: Actor, expected: State, promise: str) -> None:
    """Raise ``Broken`` unless the store holds exactly this."""
    with telling(promise):
        found = subject.read(left, actor)
    if found != expected:
        raise Broken(promise, Harm.WRONG, difference(found, [expected]))


def check_possible(found: State, possible: Sequence[State], promise: Promise) -> None:
    """Raise ``Broken`` unless what was found is among what may be."""
    if found in possible:
        return
    if _is_of_answered(found, promise):
        raise Broken(LOST, Harm.LOST, difference(found, possible))
    raise Broken(INVENTED, Harm.WRONG, difference(found, possible))


def _is_of_answered(found: State, promise: Promise) -> bool:
    """Whether it lacks something of what was answered, rather than having something foreign."""
    if found in promise.earlier:
        return True
    return all(promise.answered.get(key) == value for key, value in found.items())


def write(actor: Actor, wanted: Write, caller: Caller) -> None:
    """Have a write done and committed."""
    with telling(SERVES):
        outcome = actor.handle(wanted.request, caller)
        actor.commit()
        finished(outcome)
        actor.commit()


def _resend(actor: Actor, sent: Sequence[Sent]) -> None:
    for one in sent:
        write(actor, one.write, one.caller)


def difference(found: State, possible: Sequence[State]) -> str:
    """What was found against what it is nearest to."""

    def distance(state: State) -> int:
        keys = found.keys() | state.keys()
        return sum(found.get(key) != state.get(key) for key in keys)

    nearest = min(possible, key=distance)
    parts = []
    for key in sorted(found.keys() | nearest.keys()):
        if found.get(key) != nearest.get(key):
            here, there = found.get(key, "nothing"), nearest.get(key, "nothing")
            parts.append(f"{key} is {_short(here)}, not {_short(there)}")
    return f"of {len(possible)} states that may be, the nearest differs: " + "; ".join(parts)


def _short(value: object) -> str:
    text = value if value == "nothing" else repr(value)
    text = str(text)
    return text if len(text) <= _SHOWN_MAX // 6 else text[: _SHOWN_MAX // 6] + "..."
