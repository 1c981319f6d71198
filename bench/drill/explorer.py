"""Crash states and kill points: every state in which a sequence of operations may be cut short.

The power is taken away, or the process killed, before every call that changes the
disk; each state that differs from those before is opened with the real store and compared with what
was promised at that moment. All sequences of up to three operations, or longer ones by chance.
"""

import dataclasses
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from blake3 import blake3

from holdfast.bench.drill import losses
from holdfast.bench.drill.checking import Broken, check_death, check_power
from holdfast.bench.drill.findings import Shrinking, note
from holdfast.bench.drill.forks import Work, run_each
from holdfast.bench.drill.plan import Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.recording import Moment, Recorder, Wrap, data_of, torn, unwrapped
from holdfast.bench.drill.scenario import KillAt, PowerAt, Scenario
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import Subject
from holdfast.bench.drill.tally import Tally
from holdfast.bench.faults import WRITES, MemoryDisk
from holdfast.workers.message import Durability

NOT_ASKED = (
    "in memory: upkeep in the background, writes that come while files are rewritten, export, "
    "import, repair and drop, and a fold of more entries than its index cache needs",
    "clock jumps: other durabilities than the default",
)
"""What no sequence of operations has; the tests of each store have most of it."""
SEQUENCE_MAX = 3
SAMPLED_SEQUENCES = 100
"""So many long sequences for each store when no time is given."""
_LONG_MIN, _LONG_MAX = 4, 12
_SAMPLED_MOMENTS = 8
_SAMPLED_LOSSES = 12
_DEEP_EVERY = 8

Cut = KillAt | PowerAt


def sequences(subject: Subject, longest: int) -> Iterator[tuple[str, ...]]:
    """All sequences of up to so many operations, the shorter ones first."""
    for length in range(longest + 1):
        yield from itertools.product(subject.alphabet, repeat=length)


def cuts(size: int, path: str, offset: int) -> list[int]:
    """After how many bytes of a write a kill may come.

    The ledger's slots lie within pages, and a write is cut by a kill between pages only.
    """
    if size < 2:
        return []
    if path.endswith(".ledger"):
        page = 4096 - offset % 4096
        return [page] if page < size else []
    sectors = range(512, size, 512)
    return sorted({1, size // 3, size // 2, size - 1, *sectors[:2], *sectors[-1:]})


@dataclass
class Explorer:
    """Explores sequences of one store. States that were seen under the same promise are skipped."""

    subject: Subject
    wrap: Wrap = unwrapped
    seen: set[bytes] = field(default_factory=set)
    opened: int = 0
    skipped: int = 0

    def kills(self, moments: Sequence[Moment]) -> Iterator[tuple[KillAt, Moment, MemoryDisk]]:
        """Every way in which the process may die."""
        for moment, behind in itertools.zip_longest(moments, moments[1:]):
            yield KillAt(moment.number), moment, moment.disk.crash()
            call = moment.call
            if behind is None or call is None or call.name not in WRITES or not call.size:
                continue
            data, offset = data_of(moment, behind)
            for written in cuts(len(data), call.path, offset):
                yield KillAt(moment.number, written), moment, torn(moment, behind, written)

    def losses(self, moments: Sequence[Moment]) -> Iterator[tuple[PowerAt, Moment, MemoryDisk]]:
        """Everything that a power loss may take, within the bounds."""
        for moment in moments:
            for loss in losses.losses(moment.disk):
                yield PowerAt(moment.number, loss), moment, losses.after(moment.disk, loss)

    def sampled(
        self, moments: Sequence[Moment], chance: random.Random
    ) -> Iterator[tuple[PowerAt, Moment, MemoryDisk]]:
        """Some of what a power loss may take at some moments."""
        for moment in chance.sample(moments, min(_SAMPLED_MOMENTS, len(moments))):
            for _ in range(_SAMPLED_LOSSES):
                loss = losses.sampled(moment.disk, chance)
                yield PowerAt(moment.number, loss), moment, losses.after(moment.disk, loss)

    def check(
        self, cut: Cut, moment: Moment, left: MemoryDisk, durability: Durability
    ) -> Broken | None:
        """Open a state, unless one like it was seen; what is broken about it."""
        digest = _digest(left, moment, durability, power=isinstance(cut, PowerAt))
        if digest in self.seen:
            self.skipped += 1
            return None
        self.seen.add(digest)
        self.opened += 1
        return verdict(
            self.subject, cut, moment, left, durability, deep=digest[0] % _DEEP_EVERY == 0
        )


def verdict(
    subject: Subject,
    cut: Cut,
    moment: Moment,
    left: MemoryDisk,
    durability: Durability,
    *,
    deep: bool = True,
) -> Broken | None:
    """What is broken about a state, if anything is."""
    promise = moment.promise
    try:
        if isinstance(cut, KillAt):
            check_death(subject, left, durability, promise, deep=deep)
        else:
            possible = promise.after_power_loss()
            check_power(subject, left, durability, possible, promise, deep=deep)
    except Broken as broken:
        return broken
    return None


def _digest(left: MemoryDisk, moment: Moment, durability: str, *, power: bool) -> bytes:
    """What tells a state, and what is promised about it, from others."""
    hasher = blake3()
    for path, (number, content) in sorted(left.files().items()):
        hasher.update(
            b"%s\0%d\0%d\0" % (path.encode(), number, -1 if content is None else len(content))
        )
        hasher.update(content or b"")
    hasher.update(left.boot_id() + durability.encode())
    promise = moment.promise
    possible = promise.after_power_loss() if power else promise.after_death()
    hasher.update(repr((power, [sorted(state.items()) for state in possible])).encode())
    return hasher.digest(16)


def attempt(scenario: Scenario, wrap: Wrap = unwrapped) -> tuple[Broken | None, MemoryDisk]:
    """Cut a sequence short as the scenario says; what is broken, and the state that was left.

    Raises ``ValueError`` when there is no such call in the sequence, or nothing to lose like that.
    """
    cut = scenario.fault
    assert isinstance(cut, Cut)
    subject = subject_of(scenario.store)
    check_operations(subject, scenario)
    moments = Recorder(subject, scenario.durability, wrap).record(scenario.operations)
    if not 0 <= cut.number < len(moments):
        raise ValueError(f"there is no call {cut.number} among {len(moments)}")
    moment = moments[cut.number]
    if isinstance(cut, PowerAt):
        left = losses.after(moment.disk, cut.loss)
    elif cut.written is None:
        left = moment.disk.crash()
    elif moment.call is None or moment.call.name not in WRITES:
        raise ValueError(f"call {cut.number} writes nothing")
    elif not 0 < cut.written < moment.call.size:
        raise ValueError(f"call {cut.number} writes {moment.call.size} bytes")
    else:
        left = torn(moment, moments[cut.number + 1], cut.written)
    kept = left.crash()
    return verdict(subject, cut, moment, left, scenario.durability), kept


def check_operations(subject: Subject, scenario: Scenario) -> None:
    """Raise ``ValueError`` unless the store knows all of the scenario's operations."""
    for name in scenario.operations:
        if name not in subject.alphabet:
            known = ", ".join(subject.alphabet)
            raise ValueError(f"{name!r} is no operation of {subject.kind}; there are {known}")


def failing(scenario: Scenario, wrap: Wrap = unwrapped) -> Iterator[tuple[Scenario, Broken]]:
    """Every failing state of the scenario's sequence that the same sort of fault leaves."""
    explorer = Explorer(subject_of(scenario.store), wrap)
    recorder = Recorder(explorer.subject, scenario.durability, wrap)
    moments = recorder.record(scenario.operations)
    power = isinstance(scenario.fault, PowerAt)
    for cut, moment, left in explorer.losses(moments) if power else explorer.kills(moments):
        broken = explorer.check(cut, moment, left, scenario.durability)
        if broken is not None:
            yield dataclasses.replace(scenario, fault=cut), broken


def simpler(fault: PowerAt | KillAt) -> Iterator[PowerAt | KillAt]:
    """The same with less taken."""
    if isinstance(fault, KillAt):
        return
    loss = fault.loss
    candidates = [replace(loss, torn=None), replace(loss, lengths=False)]
    for name in ("names", "kept"):
        digits = getattr(loss, name)
        candidates += [
            replace(loss, **{name: digits[:place] + "1" + digits[place + 1 :]})
            for place in range(len(digits))
        ]
    for candidate in candidates:
        if candidate != loss:
            yield PowerAt(fault.number, candidate)


@dataclass(frozen=True)
class CutDrill:
    """Power lost, or processes dead, before every call. See ``plan.Drill``."""

    fault: FaultKind
    """``crash`` or ``kill``."""
    wrap: Wrap = unwrapped

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """All short sequences, then long ones by chance unless the plan is exhaustive."""
        tally.not_covered += [text for text in NOT_ASKED if text not in tally.not_covered]
        run_each(self.fault, self._work, plan, tally, clock, progress)

    def _work(self, store: StoreKind, plan: Plan, bounded: bool) -> Work:
        explorer = Explorer(subject_of(store), self.wrap)
        short = list(sequences(explorer.subject, SEQUENCE_MAX if plan.exhaustive else 1))
        count = len(short) + (0 if plan.exhaustive else SAMPLED_SEQUENCES)

        def work(number: int, tally: Tally, about: Callable[[str], None]) -> bool:
            if number >= count and (plan.exhaustive or bounded):
                return False
            chance = random.Random(f"{plan.seed} {store} {number}")
            scenario = Scenario(store, "always", (), KillAt(0))
            if number < len(short):
                scenario = dataclasses.replace(scenario, operations=short[number])
            else:
                scenario = by_chance(scenario, explorer.subject, chance)
            about(str(scenario))
            every = number < len(short)
            # What stops within an earlier operation is what stops in a shorter sequence.
            since = len(scenario.operations) - 1 if every else -1
            recorder = Recorder(explorer.subject, scenario.durability, self.wrap, since)
            moments = recorder.record(scenario.operations)
            tally.of(store).operations += len(scenario.operations)
            states = self._states(explorer, moments, None if every else chance)
            for cut, moment, left in states:
                cut_short = dataclasses.replace(scenario, fault=cut)
                about(str(cut_short))
                before = explorer.opened
                broken = explorer.check(cut, moment, left, scenario.durability)
                if explorer.opened > before:
                    _count(tally, store, cut)
                if broken is not None:
                    note(cut_short, broken, plan, tally, shrinking(self.wrap))
            return True

        return work

    def _states(
        self, explorer: Explorer, moments: Sequence[Moment], chance: random.Random | None
    ) -> Iterator[tuple[Cut, Moment, MemoryDisk]]:
        if self.fault == "kill":
            return explorer.kills(moments)
        if chance is None:
            return explorer.losses(moments)
        return explorer.sampled(moments, chance)


def shrinking(wrap: Wrap = unwrapped) -> Shrinking:
    """How scenarios of these drills are tried again and made smaller."""
    return Shrinking(
        attempt=lambda scenario: attempt(scenario, wrap),
        failing=lambda scenario: failing(scenario, wrap),
        simpler=lambda fault: simpler(fault) if isinstance(fault, Cut) else iter(()),
    )


def by_chance(scenario: Scenario, subject: Subject, chance: random.Random) -> Scenario:
    """A longer sequence, under any durability."""
    length = chance.randint(_LONG_MIN, _LONG_MAX)
    operations = chance.choices(list(subject.alphabet), k=length)
    durability = chance.choice(get_args(Durability))
    return dataclasses.replace(scenario, durability=durability, operations=tuple(operations))


def _count(tally: Tally, store: str, cut: Cut) -> None:
    if isinstance(cut, KillAt):
        tally.of(store).kill_points += 1
        tally.fault(
            "process dead before a call" if cut.written is None else "process dead in a write"
        )
        return
    tally.of(store).crash_states += 1
    loss = cut.loss
    if loss.torn is not None:
        tally.fault("power lost: torn write")
    elif loss.lengths:
        tally.fault("power lost: length without data")
    elif "0" in loss.names:
        tally.fault("power lost: names lost")
    elif "0" in loss.kept:
        tally.fault("power lost: writes lost or reordered")
    else:
        tally.fault("power lost: everything arrived")
