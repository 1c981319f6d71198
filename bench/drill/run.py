"""A run of drills, one after the other: each with its share of the time, or each to its end.

Ctrl-C or SIGTERM ends a run in good order: what was covered so far is reported. What the
drill of an engine that is interrupted finds broken from that moment on does not count, since the
terminal interrupts its processes, too.
"""

import contextlib
import copy
import os
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType

from holdfast.bench.drill.live_stores import OPENERS
from holdfast.bench.drill.plan import STORES, Clock, Drill, Plan, Progress
from holdfast.bench.drill.serving import Stuck
from holdfast.bench.drill.sources import ORIGINAL, fingerprint
from holdfast.bench.drill.tally import Failure, Tally

FINISHES = "every drill runs to its end"
OVERDUE_S = 200.0
"""A drill that goes on for so long after its time is over waits for what never comes."""
_INTERRUPTED_TOO = ("soak", "processes", "time")
SOAK_EXHAUSTIVE_S = 60.0
"""A soak has no end of its own; this is its time when the others have as much as they need."""


@dataclass(frozen=True, slots=True)
class Part:
    """A drill, what it is called, and its share of a run's time."""

    name: str
    drill: Drill
    share: float


@dataclass(frozen=True, slots=True)
class Done:
    """A drill that was run: how long, and how many faults it tried."""

    name: str
    fault: str
    seconds: float
    tried: int


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    plan: Plan
    tally: Tally = field(default_factory=Tally)
    parts: list[Done] = field(default_factory=list)
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def ok(self) -> bool:
        """Whether every promise held; where nothing was tried, that is not known."""
        found = self.tally
        if not any(part.tried for part in self.parts):
            return False
        broken = found.lost_acknowledged or found.wrong_answers or found.leaked_processes
        return not (broken or found.failures)


def parts_of(plan: Plan) -> list[Part]:
    """The drills of a plan, in the order in which they are run."""
    if plan.source is not None:
        from holdfast.bench.drill.copies import parts_on_copies

        parts = list(parts_on_copies(plan.source))
    else:
        parts = _parts()
    return [part for part in parts if part.drill.fault in plan.faults]


def _parts() -> list[Part]:
    from holdfast.bench.drill import kernel, kernel_kills, limits, processes, wall_clock
    from holdfast.bench.drill.damage import DamageDrill
    from holdfast.bench.drill.erring import ErrorDrill
    from holdfast.bench.drill.explorer import CutDrill
    from holdfast.bench.drill.live import LiveDrill, Once
    from holdfast.bench.drill.soak import SoakDrill

    live = [
        ("killed at each call by strace", LiveDrill("kill", [kernel_kills.SCENARIO]), 4),
        ("file calls under strace", LiveDrill("kill", [kernel.SCENARIO]), 4),
        ("real limits", LiveDrill("errors", limits.SCENARIOS), 6),
        ("clock jumps", LiveDrill("time", [wall_clock.SCENARIO]), 4),
        ("processes", LiveDrill("processes", processes.SCENARIOS, again=True), 30),
    ]
    # Everything comes once, on one kind of store or another, before any of it takes up time again.
    return [
        Part("crash states", CutDrill("crash"), 9),
        Part("kill points", CutDrill("kill"), 6),
        Part("damage", DamageDrill(), 6),
        Part("errors", ErrorDrill(), 9),
        *(Part(name, Once(drill), share) for name, drill, share in live),
        Part("soak", SoakDrill(), 14),
        *(Part(f"{name}, other stores", drill, share) for name, drill, share in reversed(live)),
    ]


def run(
    plan: Plan, seconds: float | None, progress: Progress, parts: Sequence[Part] | None = None
) -> Outcome:
    """Do what the plan says within about so many seconds; None: until each drill is done."""
    outcome = Outcome(plan)
    known = tuple(kind for kind in plan.stores if kind in OPENERS)
    outcome.tally.not_covered += [f"{kind}: there are no drills for this kind of store"
                                  for kind in plan.stores if kind not in known]  # fmt: skip
    outcome.tally.not_covered += [f"{kind}: not asked for"
                                  for kind in STORES if kind not in plan.stores]  # fmt: skip
    chosen = parts_of(plan) if parts is None else list(parts)
    before = None if plan.source is None else fingerprint(plan.source)
    began = time.monotonic()
    ends = None if seconds is None else began + seconds
    with _interruptible(outcome) as interruption:
        for number, part in enumerate(chosen):
            if interruption.clock.stopped:
                outcome.tally.not_covered.append(f"{part.name}: interrupted before it began")
                continue
            interruption.clock.until = _until(part, chosen[number:], ends)
            _run_part(part, plan, outcome, interruption, progress)
    if plan.source is not None and fingerprint(plan.source) != before:
        outcome.tally.failures.append(
            Failure(ORIGINAL, "", "copying", "its files are not those from before",
                    plan.seed, [], plan.source, "")
        )  # fmt: skip
    outcome.seconds = round(time.monotonic() - began, 3)
    return outcome


def _until(part: Part, left: Sequence[Part], ends: float | None) -> float | None:
    """When a part is to end: what others left of their time is shared by those behind them."""
    now = time.monotonic()
    if ends is None:
        return now + SOAK_EXHAUSTIVE_S if part.drill.fault == "soak" else None
    shares = sum(other.share for other in left)
    return now + max(0.0, ends - now) * part.share / shares


@dataclass(slots=True)
class _Interruption:
    """Ctrl-C or SIGTERM: the clock that it stops, and what the drill under way had found then."""

    clock: Clock
    current: Tally = field(default_factory=Tally)
    before: Tally | None = None


@contextlib.contextmanager
def _interruptible(outcome: Outcome) -> Iterator[_Interruption]:
    """Have the first signal stop the clock; the second one is an exception."""
    interruption = _Interruption(Clock())

    def stop(number: int, frame: FrameType | None) -> None:
        if interruption.clock.stopped:
            raise KeyboardInterrupt
        interruption.clock.stopped = outcome.interrupted = True
        interruption.before = copy.deepcopy(interruption.current)

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interruption
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _run_part(
    part: Part, plan: Plan, outcome: Outcome, interruption: _Interruption, progress: Progress
) -> None:
    began = time.monotonic()
    tally = interruption.current = Tally()
    try:
        with _watched(interruption.clock):
            part.drill.run(plan, tally, interruption.clock, progress)
    except Exception as error:  # a drill that is broken itself has to be told, not to end the run
        detail = "".join(traceback.format_exception(error))
        replay = f"holdfast drill --faults {part.drill.fault} --seed {plan.seed}"
        tally.failures.append(Failure(FINISHES, "", part.name, detail, plan.seed, [], None, replay))
    if interruption.before is not None:
        if part.drill.fault in _INTERRUPTED_TOO:
            _take_back(tally, interruption.before)
        tally.not_covered.append(f"{part.name}: interrupted, so not all of it")
    seconds = round(time.monotonic() - began, 3)
    outcome.parts.append(Done(part.name, part.drill.fault, seconds, sum(tally.faults.values())))
    outcome.tally.add(tally)


@contextlib.contextmanager
def _watched(clock: Clock) -> Iterator[None]:
    """Have ``Stuck`` raised in a drill that is overdue: what it waits for is a call without end."""
    if clock.until is None:
        yield
        return

    def overdue(number: int, frame: FrameType | None) -> None:
        raise Stuck("a call had not returned long after its time was over")

    former = signal.signal(signal.SIGALRM, overdue)
    left = max(0.0, clock.until - time.monotonic())
    signal.setitimer(signal.ITIMER_REAL, left + OVERDUE_S, OVERDUE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


def _take_back(tally: Tally, before: Tally) -> None:
    """Forget what was found broken since the interruption."""
    tally.failures[:] = tally.failures[: len(before.failures)]
    tally.repeated = before.repeated
    tally.lost_acknowledged = before.lost_acknowledged
    tally.wrong_answers = before.wrong_answers
    tally.leaked_processes = before.leaked_processes


def scratch() -> str:
    """A new directory for a run, where temporary files go."""
    return os.path.realpath(tempfile.mkdtemp(prefix="holdfast-drill-"))
