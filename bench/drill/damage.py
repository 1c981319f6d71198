"""Files torn, flipped and exchanged: the right answer or a typed error, in bounded time and memory.

A store does a sequence and is closed, or its process dies; then one of its files is damaged:

    flip=100.7                bit 7 of byte 100
    cut=100                   cut to 100 bytes
    noise=512+512             something else in these bytes
    zero=512+512              zeros in these bytes
    swap=16+20:36+20          what one write wrote exchanged with what another did
    repeat=16+20              what a write wrote once more, at the end
    drop=16+20                without what a write wrote
    stale=17                  as it was before call 17
    foreign=drill.snap.lock   another file of the store in its place
    alien                     the file of that name of another store of the kind in its place
    gone                      removed

Under ``always`` the store says what is damaged, or answers with a state it had no earlier than when
the first byte that was hit was written: the end of a log that is cut at a record cannot be told
from one that was never longer. After a flipped bit that state is the last one, or that before its
last change, whose record may look torn. ``verify`` does not call clean what opening refuses, nor
what holds something else than before after bits or sectors were hit. What else a format cannot
tell, its subject says (``undetectable``).
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.bench.drill.bounds import BOUNDED, Spending
from holdfast.bench.drill.checking import INVENTED, LOST, TYPED, Broken, Harm, difference
from holdfast.bench.drill.explorer import SAMPLED_SEQUENCES, by_chance, check_operations
from holdfast.bench.drill.findings import Shrinking, note
from holdfast.bench.drill.forks import Work, run_each
from holdfast.bench.drill.plan import Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.recording import Moment, Recorder, data_of, latest_of, states_of
from holdfast.bench.drill.scenario import Damaged, Fault, Scenario
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import HOME, Contradiction, State, Subject
from holdfast.bench.drill.tally import Tally
from holdfast.bench.faults import WRITES, MemoryDisk
from holdfast.formats.errors import HoldfastError, InvalidFormat, ParentChanged
from holdfast.workers.standing import Standing

TOLD = "verify does not call clean what is damaged"
UNDETECTABLE: dict[StoreKind, tuple[str, ...]] = {
    "fold": (
        "fold: whole records left out, repeated or exchanged within a log, since its format does "
        "not chain them; each value is checked to be one that was written for its key",
        "fold: the end of a compacted log cut off, or damaged and cut, in front of the cursor, "
        "since a log does not tell where it ended, and opening does not hold against it how far "
        "the ledger says it was synced; it then has the first of its keys and no cursor, and is "
        "checked to hold nothing but what one earlier state had together",
    ),
    "index": (
        "index: the name of an index's type, which has no checksum: changed, it is that of another "
        "type, which verify cannot know of; opening refuses it",
    ),
    "vectors": (
        "vectors: the file of a branch taken away, or its parent's put in its place, since a file "
        "does not say under which name it belongs; the parent's rows are checked, and that what "
        "is in the branch's place shows rows of one state",
    ),
}
_SECTOR = 512
_RELATIONS = (InvalidFormat, ParentChanged)
"""A sound file may be none of what was expected, or have been changed since another was made."""
_SHORTENED = ("cut", "zero", "noise")
_OVERWRITTEN = ("flip", "noise")
_EXCHANGES_MAX = 40
_SAMPLED = 60


@dataclass
class Prepared:
    """A store that did a sequence and is closed, or dead."""

    scenario: Scenario
    files: dict[str, bytes]
    """Content by name below the drill's directory."""
    disk: MemoryDisk
    states: list[State]
    latest: list[State]
    """Those from before the last operation that changed anything."""
    spans: dict[str, list["Span"]] = field(default_factory=dict)
    """By name, what was written at once and lies there still."""
    moments: list[Moment] = field(default_factory=list)
    _alien: "Prepared | None" = None

    @property
    def alien(self) -> "Prepared":
        """Another store of the kind, which did the same the other way round."""
        if self._alien is None:
            operations = self.scenario.operations[::-1]
            self._alien = prepare(dataclasses.replace(self.scenario, operations=operations))
        return self._alien

    def since(self, name: str, start: int) -> list[State]:
        """The states since what lies in a file from a byte on was written, as far as is known."""
        size = len(self.files[name])
        behind = [span for span in self.spans.get(name, []) if span.offset + span.length > start]
        if start < size and not any(span.offset <= start for span in behind):
            return self.states
        return self.states[min((span.state for span in behind), default=-1) :]

    def is_new(self, name: str, start: int) -> bool:
        """Whether what lies in a file from a byte on was not written under that name."""
        return any(span.renamed for span in self.spans.get(name, [])
                   if span.offset + span.length > start)  # fmt: skip


class Span(NamedTuple):
    """Bytes of a file that were written at once."""

    offset: int
    length: int
    state: int
    """The place of the state before they were."""
    renamed: bool
    """The file has got its name since then."""


def prepare(scenario: Scenario) -> Prepared:
    """Do the scenario's sequence."""
    fault = scenario.fault
    assert isinstance(fault, Damaged)
    subject = subject_of(scenario.store)
    check_operations(subject, scenario)
    recorder = Recorder(subject, scenario.durability)
    recorder.record(scenario.operations)
    disk = recorder.moments[-1].disk if fault.dead else recorder.closed()
    moments = recorder.moments
    files = {
        path.removeprefix(HOME + "/"): content
        for path, (_, content) in disk.files().items()
        if content is not None
    }
    prepared = Prepared(
        scenario, files, disk, states_of(subject, scenario.operations),
        latest_of(subject, scenario.operations),
    )  # fmt: skip
    prepared.moments = moments
    numbers = {number: path.removeprefix(HOME + "/") for path, (number, _) in disk.files().items()}
    before = _states_before(subject, scenario.operations)
    for moment, behind in itertools.pairwise(moments):
        if moment.call is None or moment.call.name not in WRITES or not moment.call.size:
            continue
        name = numbers.get(moment.disk.inode_at(moment.call.path) or -1, "")
        data, offset = data_of(moment, behind)
        if files.get(name, b"")[offset : offset + len(data)] == data:
            renamed = moment.call.path != f"{HOME}/{name}"
            span = Span(offset, len(data), before[moment.operation + 1], renamed)
            prepared.spans.setdefault(name, []).append(span)
    return prepared


def _states_before(subject: Subject, operations: Sequence[str]) -> list[int]:
    """The place in ``states_of`` of the state before opening, and before each operation."""
    lengths = (len(states_of(subject, operations[:count])) for count in range(len(operations)))
    return [0, *(length - 1 for length in lengths)]


def damaged(prepared: Prepared, name: str, how: str) -> MemoryDisk:
    """The disk with that file damaged so. ``ValueError`` for words that do not fit the file."""
    left = prepared.disk.crash()
    path = f"{HOME}/{name}"
    if name not in prepared.files:
        raise ValueError(f"there is no file {name!r}")
    if how == "alien":
        if name not in prepared.alien.files:
            raise ValueError(f"another store has no file {name!r}")
        left.place(path, prepared.alien.files[name])
        return left
    if how == "gone":
        left.remove(path)
        left.sync_directory(path.rpartition("/")[0])
        return left

    def former(number: int) -> bytes | None:
        if not 0 <= number < len(prepared.moments):
            raise ValueError(f"there is no call {number} among {len(prepared.moments)}")
        return prepared.moments[number].disk.content(path)

    left.place(path, changed(prepared.files[name], how, prepared.files, former))
    return left


def changed(
    content: bytes, how: str, files: Mapping[str, bytes], former: Callable[[int], bytes | None]
) -> bytes:
    """A file's content damaged so; ``former`` gives what it was before a call.

    Raises ``ValueError`` if the file has no such place.
    """
    word, _, value = how.partition("=")
    if word == "flip":
        offset, _, bit = value.partition(".")
        start, mask = _within(content, int(offset), 1)[0], 1 << int(bit)
        return content[:start] + bytes([content[start] ^ mask]) + content[start + 1 :]
    if word == "cut":
        return content[: _within(content, int(value), 1)[0]]
    if word == "stale":
        return former(int(value)) or b""
    if word == "foreign":
        if value not in files:
            raise ValueError(f"there is no file {value!r}")
        return files[value]
    spans = [_within(content, *_span(part)) for part in value.split(":")]
    start, stop = spans[0]
    if word == "zero":
        return content[:start] + bytes(stop - start) + content[stop:]
    if word == "noise":
        noise = random.Random(start).randbytes(stop - start)
        return content[:start] + noise + content[stop:]
    if word == "repeat":
        return content + content[start:stop]
    if word == "drop":
        return content[:start] + content[stop:]
    if word == "swap" and len(spans) == 2:
        (a, b), (c, d) = sorted(spans)
        return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]
    raise ValueError(f"{how!r} is no damage")


def _span(text: str) -> tuple[int, int]:
    offset, _, length = text.partition("+")
    return int(offset), int(length)


def _within(content: bytes, offset: int, length: int) -> tuple[int, int]:
    """Where so many bytes of a file begin and end."""
    if not 0 <= offset < offset + length <= len(content):
        raise ValueError(f"{length} bytes from {offset} on are not within {len(content)}")
    return offset, offset + length


def exchanges(prepared: Prepared, name: str) -> Iterator[str]:
    """Parts of a file exchanged, repeated and left out; the whole of it replaced and removed."""
    content = prepared.files[name]
    spans = sorted({(span.offset, span.length) for span in prepared.spans.get(name, [])})
    texts = [f"{offset}+{length}" for offset, length in spans]
    yield "gone"
    if prepared.alien.files.get(name, content) != content:
        yield "alien"
    for other, foreign in prepared.files.items():
        if other != name and foreign != content:
            yield f"foreign={other}"
    for place, (offset, length) in enumerate(spans):
        yield f"repeat={texts[place]}"
        yield f"drop={texts[place]}"
        for behind in range(place + 1, len(spans)):
            if spans[behind][0] >= offset + length:
                yield f"swap={texts[place]}:{texts[behind]}"
    seen = {content}
    for moment in prepared.moments:
        stale = moment.disk.content(f"{HOME}/{name}")
        if stale is not None and stale not in seen:
            seen.add(stale)
            yield f"stale={moment.number}"


def tears(content: bytes) -> Iterator[str]:
    """The file cut at every byte, and each of its sectors full of something else."""
    end = len(content.rstrip(b"\0"))
    yield from (f"cut={size}" for size in range(min(end + 1, len(content))))
    for offset in range(0, min(end + 1, len(content)), _SECTOR):
        length = min(_SECTOR, len(content) - offset)
        yield f"zero={offset}+{length}"
        yield f"noise={offset}+{length}"


def flips(content: bytes) -> Iterator[str]:
    """Every bit; of long runs of zeros, only those near something else."""
    for offset in range(len(content)):
        if offset % 64 == 0 or any(content[max(0, offset - 64) : offset + 64]):
            yield from (f"flip={offset}.{bit}" for bit in range(8))


def check(prepared: Prepared, subject: Subject, name: str, how: str) -> Broken | None:
    """Damage the file so and open the store; what is broken, if anything is."""
    left = damaged(prepared, name, how)
    spending = Spending()
    broken: Broken | None = None
    standing: Standing | None = None
    try:
        if left.inode_at(subject.path) is not None:
            standing = subject.verify(left)
        actor = subject.open(left, prepared.scenario.durability)
        found = subject.read(left, actor)
        broken = _judged(prepared, subject, Damaged(name, how), found, standing)
    except HoldfastError as error:  # which is what a damaged file is to be met with
        if standing is Standing.CLEAN and not isinstance(error, _RELATIONS):
            detail = f"and opening it raises {type(error).__name__}: {error}"
            broken = Broken(TOLD, Harm.REFUSED, f"verify calls {name} clean, {detail}")
    except Contradiction as error:
        broken = Broken(INVENTED, Harm.WRONG, f"it contradicts itself: {error}")
    except Exception as error:
        broken = Broken(TYPED, Harm.REFUSED, f"{type(error).__name__}: {error}")
    excess = spending.excess()
    if broken is None and excess is not None:
        broken = Broken(BOUNDED, Harm.REFUSED, excess)
    return broken


def _judged(
    prepared: Prepared, subject: Subject, fault: Damaged, found: State, standing: Standing | None
) -> Broken | None:
    """What is broken about the answers of a store that was damaged so, if anything is."""
    word = fault.how.partition("=")[0]
    possible = _possible(prepared, fault.name, fault.how)
    known = possible if word == "flip" else prepared.states
    forgiven = (
        word not in _SHORTENED or prepared.is_new(fault.name, _start(fault.how, 0))
    ) and subject.undetectable(word, found, known)
    if found not in possible and not forgiven:
        was = word != "alien" and found in prepared.states
        return Broken(
            LOST if was else INVENTED, Harm.LOST if was else Harm.WRONG,
            difference(found, possible),
        )  # fmt: skip
    if standing is Standing.CLEAN and word in _OVERWRITTEN and found != prepared.states[-1]:
        detail = difference(found, prepared.states[-1:])
        return Broken(TOLD, Harm.REFUSED, f"verify calls {fault.name} clean: {detail}")
    return None


def _possible(prepared: Prepared, name: str, how: str) -> list[State]:
    """What a store may hold whose file was damaged so, if it does not say that it is."""
    word, _, value = how.partition("=")
    if word == "alien":  # where all of a store is in that file, it is the other one now
        return [*prepared.states, *prepared.alien.states]
    if prepared.scenario.durability != "always" or word in ("gone", "foreign"):
        return prepared.states
    if word == "flip":
        return prepared.latest
    if word == "stale":
        operations = prepared.scenario.operations[: max(0, prepared.moments[int(value)].operation)]
        subject = subject_of(prepared.scenario.store)
        return prepared.states[len(states_of(subject, operations)) - 1 :]
    return prepared.since(name, _start(how, len(prepared.files[name])))


def _start(how: str, size: int) -> int:
    """The first byte of a file that is not as it was."""
    word, _, value = how.partition("=")
    if word == "repeat":
        return size
    return int(value) if word == "cut" else min(_span(part)[0] for part in value.split(":"))


def attempt(scenario: Scenario) -> tuple[Broken | None, MemoryDisk]:
    """Damage what the scenario says; what is broken, and the damaged files."""
    fault = scenario.fault
    assert isinstance(fault, Damaged)
    prepared = prepare(scenario)
    kept = damaged(prepared, fault.name, fault.how)
    return check(prepared, subject_of(scenario.store), fault.name, fault.how), kept


def failing(scenario: Scenario) -> Iterator[tuple[Scenario, Broken]]:
    """All damage to the same file, of the same sort, that is not met rightly."""
    fault = scenario.fault
    assert isinstance(fault, Damaged)
    prepared, subject = prepare(scenario), subject_of(scenario.store)
    if fault.name not in prepared.files:
        return
    for how in all_damage(prepared, fault.name):
        if how.partition("=")[0] == fault.how.partition("=")[0]:
            broken = check(prepared, subject, fault.name, how)
            if broken is not None:
                yield (
                    dataclasses.replace(scenario, fault=dataclasses.replace(fault, how=how)),
                    broken,
                )


def all_damage(prepared: Prepared, name: str) -> Iterator[str]:
    """Everything that is done to a file."""
    yield from exchanges(prepared, name)
    yield from tears(prepared.files[name])
    yield from flips(prepared.files[name])


def some_damage(prepared: Prepared, name: str, chance: random.Random) -> list[str]:
    """Some of it, of every sort."""
    content = prepared.files[name]
    ways = list(exchanges(prepared, name))
    some = chance.sample(ways, min(_EXCHANGES_MAX, len(ways)))
    for sort in (list(tears(content)), list(flips(content))):
        some += chance.sample(sort, min(_SAMPLED, len(sort)))
    return some


@dataclass(frozen=True)
class DamageDrill:
    """Files torn, flipped and exchanged. See ``plan.Drill``."""

    fault: FaultKind = "damage"

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """A sequence with every operation, closed and dead; then others by chance.

        If the plan is exhaustive, every byte and bit of every file of that first sequence.
        """
        for kind in plan.stores:
            tally.not_covered += UNDETECTABLE.get(kind, ())
        run_each(self.fault, self._work, plan, tally, clock, progress)

    def _work(self, store: StoreKind, plan: Plan, bounded: bool) -> Work:
        subject = subject_of(store)
        usual = tuple(subject.alphabet)
        shrinking = Shrinking(attempt, failing, _nothing_simpler)

        def work(number: int, tally: Tally, about: Callable[[str], None]) -> bool:
            chance = random.Random(f"{plan.seed} {store} {number}")
            # Whether it is dead alternates for each process, not between them.
            dead = number // max(1, plan.processes) % 2 == 1
            scenario = Scenario(store, "always", usual, Damaged("", "", dead))
            first = number < 2 * plan.processes
            if not first:
                if plan.exhaustive or (bounded and number >= SAMPLED_SEQUENCES):
                    return False
                scenario = by_chance(scenario, subject, chance)
            about(str(scenario))
            prepared = prepare(scenario)
            for name, how in _damage(prepared, chance, number, plan, everything=plan.exhaustive):
                fault = Damaged(name, how, dead)
                candidate = dataclasses.replace(scenario, fault=fault)
                about(str(candidate))
                broken = check(prepared, subject, name, how)
                tally.fault(count(tally, store, how))
                if broken is not None:
                    note(candidate, broken, plan, tally, shrinking)
            tally.of(store).operations += len(scenario.operations)
            return True

        return work


def _damage(
    prepared: Prepared, chance: random.Random, number: int, plan: Plan, *, everything: bool
) -> Iterator[tuple[str, str]]:
    """Which files are damaged how; of everything, each process does its share."""
    for name in sorted(prepared.files):
        if not everything:
            yield from ((name, how) for how in some_damage(prepared, name, chance))
            continue
        for place, how in enumerate(all_damage(prepared, name)):
            if place % plan.processes == number % plan.processes:
                yield name, how


def _nothing_simpler(fault: Fault) -> Iterator[Fault]:
    """One bit, one cut: there is nothing simpler."""
    return iter(())


def count(tally: Tally, store: str, how: str) -> str:
    """Count damage; returns what it is called."""
    word = how.partition("=")[0]
    counts = tally.of(store)
    if word == "flip":
        counts.bit_flips += 1
        return "bit flipped"
    if word in ("cut", "zero", "noise"):
        counts.torn += 1
        return "file cut short" if word == "cut" else "sector with something else"
    counts.exchanged += 1
    return _EXCHANGED[word]


_EXCHANGED = {
    "swap": "records exchanged",
    "repeat": "record repeated",
    "drop": "record left out",
    "stale": "stale copy in place",
    "foreign": "foreign file in place",
    "alien": "another store's file in place",
    "gone": "file removed",
}
