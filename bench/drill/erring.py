"""File calls that fail: no space, a spent quota, a failing medium, an interruption, a failed sync.

A fault strikes one call, or all from one on, of a sequence of operations. The sequence is gone
through all the same, as a host would: what is refused with a typed error is asked for again when
the cause is gone, and when the worker ends a successor is opened. At the end all of it is read, and
the calls of that may fail as well. Nothing acknowledged may be lost on the way, nothing done twice,
no answer wrong, and service must resume.
"""

import contextlib
import dataclasses
import errno
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from holdfast.bench.drill.checking import (
    INVENTED,
    OPENS,
    SERVES,
    Broken,
    Harm,
    check_equal,
    check_possible,
    check_power,
    difference,
    telling,
)
from holdfast.bench.drill.explorer import (
    SAMPLED_SEQUENCES,
    by_chance,
    check_operations,
    sequences,
)
from holdfast.bench.drill.findings import Shrinking, note
from holdfast.bench.drill.forks import Work, run_each
from holdfast.bench.drill.plan import Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.recording import Doing, Sent, Wrap, unwrapped
from holdfast.bench.drill.scenario import FailAt, Fault, Scenario
from holdfast.bench.drill.subjects import subject_of
from holdfast.bench.drill.subjects.base import (
    HOME,
    Contradiction,
    State,
    Subject,
    Turn,
    Write,
    finished,
)
from holdfast.bench.drill.tally import Tally
from holdfast.bench.faults import (
    GROWING,
    REACHING,
    SYNCS,
    WRITES,
    Call,
    Crash,
    Fail,
    FaultyDisk,
    Lost,
    MemoryDisk,
    Nothing,
)
from holdfast.formats.errors import HoldfastError, StoreFull
from holdfast.workers.actor import Actor, Caller, Steps
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply

CODES = {
    errno.ENOSPC: GROWING,
    errno.EDQUOT: GROWING,
    errno.EIO: REACHING,
    errno.EINTR: REACHING,
}
"""What each errno can be the answer to."""
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ATTEMPTS = 8
_SAMPLED_FAULTS = 10

FULL = "a full disk is told as StoreFull"
UNCHANGED = "a request that was refused changed nothing"


class Died(Exception):
    """The worker would have ended here."""


class Host:
    """Goes through a sequence despite a fault, as the hosts of an engine would."""

    def __init__(
        self, subject: Subject, durability: Durability, fault: Fail, wrap: Wrap = unwrapped
    ) -> None:
        self.subject = subject
        self.fault = fault
        self.memory = MemoryDisk(HOME)
        self.disk = FaultyDisk(self.memory, fault)
        self.doing = Doing(subject, durability, wrap(self.disk))
        self.refusals = self.deaths = 0
        self.looking: set[int] = set()
        """The calls made to look at what the store holds, which no fault strikes."""

    def go(self, operations: Sequence[str]) -> None:
        """Do all of it, and close; ``Broken`` if a promise did not hold."""
        self._persist(self._open)
        for number, name in enumerate(operations):
            turn = functools.partial(self.subject.alphabet[name], number + 1)
            self._persist(functools.partial(self._perform, turn))
        self._persist(self._look)
        self._check_power_now()
        for _ in range(2):  # the first may have ended the worker before it had synced
            self._persist(lambda: self._perform(lambda state: Turn(ending="close")))
        left = self.memory.power_loss(Nothing())
        promise = self.doing.promise()
        check_power(self.subject, left, self.doing.durability, [self.doing.answered], promise)

    def _persist(self, step: Callable[[], object]) -> None:
        for _ in range(_ATTEMPTS):
            try:
                step()
            except Broken:
                raise
            except HoldfastError as error:
                self._refused(error)
            except (Crash, Exception):
                self._died()
            else:
                return
        raise Broken(SERVES, Harm.REFUSED, f"not after {_ATTEMPTS} attempts")

    def _perform(self, turn_of: Callable[[State], Turn]) -> None:
        doing = self.doing
        if doing.actor is None:
            self._open()  # which may do what was asked for before
        turn = turn_of(doing.answered)
        self._send(turn.writes)
        doing.work(turn)
        if turn.ending == "die":
            self._die()
        if turn.ending == "close":
            self._close()
        if turn.ending:
            self._open()

    def _check_power_now(self) -> None:
        """Were the power gone now, what was answered is there: nothing has synced it since."""
        promise = self.doing.promise()
        left = self.memory.crash().power_loss(Nothing())
        check_power(self.subject, left, self.doing.durability, promise.after_power_loss(), promise)

    def _look(self) -> None:
        """Ask for all of it while calls fail: it is answered rightly or refused."""
        actor = self.doing.actor or self._open()
        try:
            found = self.subject.read(self.memory, actor)
        except Contradiction as error:
            raise Broken(INVENTED, Harm.WRONG, f"it contradicts itself: {error}") from error
        if found != self.doing.answered:
            raise Broken(INVENTED, Harm.WRONG, difference(found, [self.doing.answered]))

    def _send(self, writes: Sequence[Write]) -> None:
        """Have writes handled until one is refused, and those before it answered."""
        doing = self.doing
        outcomes: list[Reply | Steps] = []
        refused: HoldfastError | None = None
        for write in writes:
            doing.requests += 1
            before = doing.pending[-1].write.after if doing.pending else doing.answered
            doing.pending.append(Sent(Caller(7, doing.requests), write, before))
            try:
                assert doing.actor is not None
                outcomes.append(doing.actor.handle(write.request, doing.pending[-1].caller))
            except HoldfastError as error:
                doing.pending.pop()
                refused = error
                break
        refused = self._finish(outcomes) or refused
        if refused is not None:
            raise refused

    def _finish(self, outcomes: Sequence[Reply | Steps]) -> HoldfastError | None:
        doing = self.doing
        assert doing.actor is not None
        doing.actor.commit()
        refused: HoldfastError | None = None
        for sent, outcome in zip(list(doing.pending), outcomes, strict=True):
            try:
                finished(outcome)
            except HoldfastError as error:
                refused = error
                doing.pending.remove(sent)
        doing.actor.commit()
        doing.answer()
        return refused

    def _close(self) -> None:
        actor, self.doing.actor = self.doing.actor, None
        self.doing.last = None
        assert actor is not None
        try:
            actor.close()
        except HoldfastError as error:
            raise Died from error
        self.doing.synced()

    def _open(self) -> Actor:
        """Open the store, look at what is there, and send again what is unanswered."""
        doing = self.doing
        actor = self.subject.open(doing.disk, doing.durability)
        promise = doing.promise()
        possible = promise.after_power_loss() if self.fault.lost else promise.after_death()
        with self._calm(), telling(OPENS):
            found = self.subject.read(self.memory, actor)
        check_possible(found, possible, promise)
        for sent in doing.pending:
            finished(actor.handle(sent.write.request, sent.caller))
            actor.commit()
        if self.fault.lost and not doing.pending and found != doing.answered:
            # Only under a durability that promises less can something answered be gone.
            doing.answered, doing.states = found, [found]
        doing.actor = actor
        doing.answer()
        with self._calm():
            check_equal(self.subject, self.memory, actor, doing.answered, SERVES)
        return actor

    @contextlib.contextmanager
    def _calm(self) -> Iterator[None]:
        """Nothing fails meanwhile."""
        begun = len(self.disk.calls)
        armed = self.disk.arm()
        try:
            yield
        finally:
            self.disk.arm(*armed)
            self.looking.update(range(begun, len(self.disk.calls)))

    def _refused(self, error: HoldfastError) -> None:
        """A typed error: once the cause is gone the same worker serves on, and nothing changed."""
        self.refusals += 1
        if self.fault.code in _FULL and self.disk.struck and not isinstance(error, StoreFull):
            raise Broken(FULL, Harm.REFUSED, f"{type(error).__name__}: {error}")
        self.disk.arm()
        actor = self.doing.actor
        if actor is None:  # a worker that cannot open ends
            self._crash()
            return
        actor.commit()
        self.doing.answer()
        with self._calm():
            check_equal(self.subject, self.memory, actor, self.doing.answered, UNCHANGED)

    def _died(self) -> None:
        """The worker ended; its first successor meets the same trouble if that lasts."""
        self.deaths += 1
        self._die()
        if self.deaths > 1:
            self.disk.arm()

    def _die(self) -> None:
        self._crash()
        self.doing.actor = None

    def _crash(self) -> None:
        self.disk.inner = self.memory = self.memory.crash()


def fail_of(fault: FailAt) -> Fail:
    """The fault as the file layer takes it."""
    lost = None
    if fault.lost:
        lost = Lost(Nothing(), evict=fault.lost == "evicted")
    calls = SYNCS if fault.lost else CODES[fault.code]
    return Fail(fault.number, fault.code, fault.lasting, fault.written, calls, lost)


def attempt(scenario: Scenario, wrap: Wrap = unwrapped) -> tuple[Broken | None, MemoryDisk]:
    """Go through a sequence despite the scenario's fault; what is broken, and the files then.

    Raises ``ValueError`` when the sequence has no call that the fault strikes.
    """
    assert isinstance(scenario.fault, FailAt)
    subject = subject_of(scenario.store)
    check_operations(subject, scenario)
    host = Host(subject, scenario.durability, fail_of(scenario.fault), wrap)
    broken: Broken | None = None
    try:
        host.go(scenario.operations)
    except Broken as found:
        broken = found
    if not host.disk.struck:
        raise ValueError(f"none of the {len(host.disk.calls)} calls fails so")
    return broken, host.memory


def calls_of(scenario: Scenario, wrap: Wrap = unwrapped) -> list[Call]:
    """The calls of the sequence undisturbed."""
    host = Host(subject_of(scenario.store), scenario.durability, Fail(-1, 0), wrap)
    host.go(scenario.operations)
    return [call for call in host.disk.calls if call.number not in host.looking]


def faults(calls: Sequence[Call]) -> Iterator[FailAt]:
    """Every way in which one of these calls may fail."""
    for call in calls:
        for code, reached in CODES.items():
            if call.name not in reached:
                continue
            for lasting in (False, True):
                yield FailAt(call.number, code, lasting)
            if call.name in WRITES and call.size > 1:
                yield FailAt(call.number, code, written=call.size // 2)
        if call.name in SYNCS:
            yield FailAt(call.number, errno.EIO, lost="none")
            yield FailAt(call.number, errno.EIO, lost="evicted")


def failing(scenario: Scenario, wrap: Wrap = unwrapped) -> Iterator[tuple[Scenario, Broken]]:
    """Everything that fails of the sequence with the scenario's errno."""
    assert isinstance(scenario.fault, FailAt)
    for fault in faults(calls_of(scenario, wrap)):
        if fault.code == scenario.fault.code:
            candidate = dataclasses.replace(scenario, fault=fault)
            broken, _ = attempt(candidate, wrap)
            if broken is not None:
                yield candidate, broken


def simpler(fault: Fault) -> Iterator[Fault]:
    """The same once instead of for good, and without a part written."""
    if isinstance(fault, FailAt):
        candidates = (
            dataclasses.replace(fault, lasting=False),
            dataclasses.replace(fault, written=0),
            dataclasses.replace(fault, lost=""),
        )
        yield from (candidate for candidate in candidates if candidate != fault)


@dataclass(frozen=True)
class ErrorDrill:
    """File calls that fail. See ``plan.Drill``."""

    fault: FaultKind = "errors"
    wrap: Wrap = unwrapped

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """All short sequences with every fault, then long ones by chance."""
        run_each(self.fault, self._work, plan, tally, clock, progress)

    def _work(self, store: StoreKind, plan: Plan, bounded: bool) -> Work:
        subject = subject_of(store)
        short = list(sequences(subject, 2 if plan.exhaustive else 1))
        count = len(short) + (0 if plan.exhaustive else SAMPLED_SEQUENCES)
        shrinking = Shrinking(
            lambda scenario: attempt(scenario, self.wrap),
            lambda scenario: failing(scenario, self.wrap),
            simpler,
        )

        def work(number: int, tally: Tally, about: Callable[[str], None]) -> bool:
            if number >= count and (plan.exhaustive or bounded):
                return False
            chance = random.Random(f"{plan.seed} {store} {number}")
            scenario = Scenario(store, "always", (), FailAt(0, errno.EIO))
            if number < len(short):
                scenario = dataclasses.replace(scenario, operations=short[number])
            else:
                scenario = by_chance(scenario, subject, chance)
            about(str(scenario))
            ways = list(faults(calls_of(scenario, self.wrap)))
            if number >= len(short):
                ways = chance.sample(ways, min(_SAMPLED_FAULTS, len(ways)))
            for fault in ways:
                candidate = dataclasses.replace(scenario, fault=fault)
                about(str(candidate))
                broken, _ = attempt(candidate, self.wrap)
                tally.of(store).errors_injected += 1
                tally.of(store).operations += len(scenario.operations)
                tally.fault(_name(fault))
                if broken is not None:
                    note(candidate, broken, plan, tally, shrinking)
            return True

        return work


def _name(fault: FailAt) -> str:
    name = errno.errorcode[fault.code]
    if fault.lost:
        return f"{name} at a sync, data dropped"
    if fault.written:
        return f"{name} after a short write"
    return f"{name} {'for good' if fault.lasting else 'once'}"
