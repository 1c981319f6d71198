"""What clients saw, written down as it happened; the checker that says whether it may have been.

A client writes a line before each call and one after it, so that what a killed client had under way
is known as well. A *key* holds one value at a time; every write writes a value that no other write
does, to one key or several at once. The moments are of the monotonic clock, which all processes of
a machine share.

What is checked is that all of it could have happened one act after the other, each at some moment
between its call and its answer. As each value is written once this is decided exactly (P. B.
Gibbons and E. Korach, "Testing shared memories", 1997): a value was surely there from the first
answer that tells of it to the last call that found it. Two values cannot surely be there at once,
and nothing else can have happened wholly within that time.

Nothing in here knows a store or a model of one.
"""

import bisect
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

Value: TypeAlias = str | None
"""What a key holds; None when nothing is there."""

Outcome = Literal["acknowledged", "failed", "unknown"]
"""``failed`` says that it surely had no effect, ``unknown`` that it may have had one."""

Fault = Literal["lost", "twice", "half", "back", "nowhere"]
"""What a history can be wrong in:

``lost``     an acknowledged write is not there, and nothing came in its place
``twice``    a value is there again after it was seen replaced
``half``     a part of a write is there, the rest is not
``back``     a client saw a value and then an older one
``nowhere``  a value that nobody wrote, or whose write had failed or was yet to come
"""

NEVER = float("inf")


class Invoked(msgspec.Struct, frozen=True, tag="invoked"):
    """A call is about to be made."""

    client: str
    number: int
    at: float
    keys: tuple[str, ...]
    writes: tuple[Value, ...] | None
    """What is written to each of the keys, None deleting it; None for a read."""


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """A call ended."""

    client: str
    number: int
    at: float
    outcome: Outcome
    values: tuple[Value, ...] = ()
    """What was read of each key."""
    error: str = ""


_decode = msgspec.json.Decoder(Invoked | Ended).decode


class Recorder:
    """Writes one client's history to a file that outlives the client."""

    def __init__(self, path: str, client: str) -> None:
        self.client = client
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
        self._number = 0

    def invoked(self, keys: Sequence[str], writes: Sequence[Value] | None = None) -> int:
        """Note a call, of a write or a read; returns its number."""
        self._number += 1
        values = None if writes is None else tuple(writes)
        self._note(Invoked(self.client, self._number, time.monotonic(), tuple(keys), values))
        return self._number

    def ended(
        self, number: int, outcome: Outcome, values: Sequence[Value] = (), error: str = ""
    ) -> None:
        """Note how it ended."""
        at = time.monotonic()
        self._note(Ended(self.client, number, at, outcome, tuple(values), error))

    def _note(self, line: Invoked | Ended) -> None:
        os.write(self._descriptor, msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Act:
    """One call, from its invocation to its answer."""

    client: str
    number: int
    keys: tuple[str, ...]
    writes: bool
    start: float
    end: float
    """``NEVER`` when it has not been answered, or not in a way that says what happened."""
    outcome: Outcome
    values: tuple[Value, ...] = ()
    """What was written to each key, or read of it."""
    error: str = ""

    def value(self, key: str) -> Value:
        """What it wrote to a key, or read of it."""
        return self.values[self.keys.index(key)]

    def __str__(self) -> str:
        what = "write" if self.writes else "read"
        pairs = ", ".join(f"{k}={v!r}" for k, v in zip(self.keys, self.values, strict=False))
        span = f"[{self.start:.6f}, {self.end:.6f}]"
        return f"{self.client}#{self.number} {what} {pairs} {span} {self.outcome}"


@dataclass(frozen=True, slots=True)
class Wrong:
    """Something that cannot have happened, had every promise held."""

    fault: Fault
    key: str
    detail: str


def read_histories(paths: Iterable[str | Path]) -> list[Act]:
    """The acts of some clients. A line that was cut short by its client's death is none."""
    acts: list[Act] = []
    for path in paths:
        lines = Path(path).read_bytes().split(b"\n")
        acts += join(_decode(line) for line in lines[:-1])
    return acts


def join(lines: Iterable[Invoked | Ended]) -> list[Act]:
    """Acts from what was noted before and after each call."""
    under_way: dict[tuple[str, int], Invoked] = {}
    acts = []
    for line in lines:
        if isinstance(line, Invoked):
            under_way[line.client, line.number] = line
            continue
        call = under_way.pop((line.client, line.number))
        acts.append(_act(call, line))
    return acts + [_act(call, None) for call in under_way.values()]


def _act(call: Invoked, end: Ended | None) -> Act:
    known = end is not None and end.outcome != "unknown"
    return Act(
        call.client,
        call.number,
        call.keys,
        call.writes is not None,
        call.at,
        end.at if end is not None and known else NEVER,
        "unknown" if end is None else end.outcome,
        (() if end is None else end.values) if call.writes is None else call.writes,
        "" if end is None else end.error,
    )


# --- the checker -------------------------------------------------------------------------------


def check(acts: Sequence[Act], *, prefixes: bool = False) -> list[Wrong]:
    """Everything that is wrong with a history; nothing, if it may have been.

    ``prefixes`` allows of a write that was not acknowledged a prefix to be there, in the order of
    its keys.
    """
    keys: dict[str, _Key] = defaultdict(_Key)
    for act in acts:
        if act.writes:
            for key, value in zip(act.keys, act.values, strict=True):
                keys[key].add_write(act, value)
    reads = [act for act in acts if not act.writes and act.outcome == "acknowledged"]
    for act in reads:
        for key, value in zip(act.keys, act.values, strict=True):
            keys[key].sightings[value].append(act)
    wrongs = [wrong for name, key in keys.items() for wrong in key.check(name)]
    for act in reads:
        wrongs += _torn(act, keys, prefixes=prefixes)
    return wrongs


@dataclass(slots=True)
class _Stay:
    """How long a value was surely there: from ``known``, the first answer that tells of it, to
    ``seen``, the start of the last call that found it."""

    value: Value
    write: Act
    sightings: list[Act]
    known: float
    seen: float

    @property
    def lasts(self) -> bool:
        return self.known < self.seen

    def last(self) -> Act:
        """The latest sighting."""
        return max(self.sightings, key=lambda act: act.start)


@dataclass(slots=True)
class _Key:
    """What happened to one key."""

    writes: dict[str, Act] = field(default_factory=dict)
    deletes: list[Act] = field(default_factory=list)
    sightings: dict[Value, list[Act]] = field(default_factory=lambda: defaultdict(list))

    def add_write(self, act: Act, value: Value) -> None:
        if value is not None:
            assert value not in self.writes, f"{act} writes what was written before"
            self.writes[value] = act
        elif act.outcome != "failed":
            self.deletes.append(act)

    def sources(self, value: Value) -> list[Act]:
        """What can have left this value."""
        if value is None:
            return self.deletes
        return [self.writes[value]] if value in self.writes else []

    def check(self, name: str) -> Iterator[Wrong]:
        stays = []
        for value, write in self.writes.items():
            sightings = self.sightings.get(value, [])
            wrong = self._sourceless(name, write, sightings)
            if wrong is not None:
                yield wrong
            elif sightings or write.outcome == "acknowledged":
                known = min([write.end, *(act.end for act in sightings)])
                seen = max([write.start, *(act.start for act in sightings)])
                stays.append(_Stay(value, write, sightings, known, seen))
        for found, acts in self.sightings.items():
            if found is not None and found not in self.writes:
                yield Wrong("nowhere", name, f"{found!r} was never written; {acts[0]}")
        yield from self._contradictions(name, stays)
        yield from self._absences(name, stays)

    def _sourceless(self, name: str, write: Act, sightings: list[Act]) -> Wrong | None:
        for act in sightings:
            if write.outcome == "failed":
                return Wrong("nowhere", name, f"{act} found the value of what failed: {write}")
            if act.end < write.start:
                return Wrong("nowhere", name, f"{act} found a value before {write} was called")
        return None

    def _contradictions(self, name: str, stays: list[_Stay]) -> Iterator[Wrong]:
        """Values that surely were there while something else was, or was being, there."""
        lasting = sorted((stay for stay in stays if stay.lasts), key=lambda stay: stay.known)
        disjoint: list[_Stay] = []
        for stay in lasting:
            if disjoint and stay.known < disjoint[-1].seen:
                earlier = disjoint[-1]
                # Whichever was written later, the other was found after it was known.
                if stay.write.end < earlier.write.start:
                    yield _replaced(name, stay, earlier.write, earlier.sightings)
                else:
                    yield _replaced(name, earlier, stay.write, stay.sightings)
                if stay.seen <= earlier.seen:
                    continue
                disjoint.pop()
            disjoint.append(stay)
        moments = [(stay.seen, stay.known, stay.write, stay.sightings) for stay in stays
                   if not stay.lasts]  # fmt: skip
        moments += [(act.start, act.end, act, []) for act in self.deletes]
        moments += [(act.start, act.end, act, [act]) for act in self.sightings.get(None, [])]
        starts = [stay.known for stay in disjoint]
        for start, end, act, sightings in moments:
            place = bisect.bisect_left(starts, start) - 1
            if place >= 0 and end < disjoint[place].seen:
                yield _replaced(name, disjoint[place], act, sightings)

    def _absences(self, name: str, stays: list[_Stay]) -> Iterator[Wrong]:
        """Nothing was found, although a write had taken effect and no delete can have come since.

        A delete that was not acknowledged may come at any time after its call.
        """
        by_known = sorted(stays, key=lambda stay: stay.known)
        known = [stay.known for stay in by_known]
        latest: list[_Stay] = []  # of the first n, that whose write was called last
        for stay in by_known:
            best = latest[-1] if latest else stay
            latest.append(stay if stay.write.start >= best.write.start else best)
        deletes = sorted(self.deletes, key=lambda act: act.start)
        called = [act.start for act in deletes]
        longest: list[float] = []  # of the first n deletes, the latest end
        for act in deletes:
            longest.append(max(act.end, longest[-1] if longest else act.end))
        for act in self.sightings.get(None, []):
            there = bisect.bisect_left(known, act.start) - 1
            if there < 0:
                continue  # nothing had been written for sure
            gone = bisect.bisect_right(called, act.end) - 1
            stay = latest[there]
            if gone < 0 or longest[gone] < stay.write.start:
                fault: Fault = "back" if _saw(act.client, stay.sightings, act) else "lost"
                yield Wrong(fault, name, f"{act} found nothing, after {stay.write}")


def _replaced(name: str, stay: _Stay, by: Act, sightings: Sequence[Act]) -> Wrong:
    """``stay``'s value was found although something else had come in its place."""
    last = stay.last()
    seen = [act for act in sightings if act.end < last.start]
    fault: Fault = "lost"
    if seen:
        fault = "back" if _saw(last.client, seen, last) else "twice"
    return Wrong(fault, name, f"{last} found {stay.value!r} of {stay.write}, replaced by {by}")


def _saw(client: str, sightings: Iterable[Act], before: Act) -> bool:
    return any(act.client == client and act.end < before.start for act in sightings)


def _torn(read: Act, keys: Mapping[str, _Key], *, prefixes: bool) -> Iterator[Wrong]:
    """A read of several keys that shows a part of a write."""
    found = dict(zip(read.keys, read.values, strict=True))
    seen = {}
    for key, value in found.items():
        write = keys[key].writes.get(value) if value is not None else None
        if write is not None:
            seen[write.client, write.number] = write
    for write in seen.values():
        wrote = list(zip(write.keys, write.values, strict=True))
        there = [place for place, (key, value) in enumerate(wrote)
                 if value is not None and found.get(key) == value]  # fmt: skip
        for place, (key, value) in enumerate(wrote):
            if key not in found or found[key] == value:
                continue
            if prefixes and write.outcome == "unknown" and place > max(there):
                continue
            shown = {write.keys[n] for n in there}
            if not any(_explains(act, write, shown, prefixes=prefixes)
                       for act in keys[key].sources(found[key])):  # fmt: skip
                yield Wrong("half", key, f"{read} found {found[key]!r}, but elsewhere {write}")
                break


def _explains(act: Act, write: Act, shown: set[str], *, prefixes: bool) -> bool:
    """Whether ``act`` can have come after ``write`` and left the keys that show it alone."""
    if act.outcome == "failed" or act.end < write.start:
        return False
    untouched = shown.isdisjoint(act.keys)
    return untouched or (prefixes and act.outcome == "unknown")
