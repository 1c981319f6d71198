"""Scenarios on real engines: what befalls a store at work, and having many of them befall many.

They mostly wait, for processes to start and for faults to be noticed, so several are under way at
once, each in a process that is forked from a warm one. Every scenario comes once, on one kind of
store after the other, before any comes a second time on another kind.
"""

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from holdfast.bench.drill.forks import share
from holdfast.bench.drill.live_stores import OPENERS
from holdfast.bench.drill.plan import STORES, Clock, FaultKind, Plan, Progress, StoreKind
from holdfast.bench.drill.scene import Place, Scene, Setting, fresh, play
from holdfast.bench.drill.tally import Failure, Tally

_AT_ONCE = 2
"""So many scenarios for each process that explores in memory."""
_PATIENCE = 5.0  # a scene whose calls never come back notices it itself, and says more about it
ENDS = "a drill of a real engine comes to its end"


def _nothing() -> None:
    """Nothing keeps it from being tried here."""


@dataclass(frozen=True, slots=True)
class LiveScenario:
    """One thing that befalls a store at work."""

    setting: Setting
    act: Callable[[Scene], None]
    kinds: tuple[StoreKind, ...] = STORES
    why_not: str = ""
    """Why it cannot be tried on other kinds."""
    missing: Callable[[], str | None] = _nothing
    """What this system lacks for it, if it does."""
    place: Place = fresh
    """Where the engine is to be."""


def attempt(scenario: LiveScenario, plan: Plan, tally: Tally, kind: StoreKind) -> None:
    """Try one scenario on one kind of store, or say why it cannot be tried."""
    reason = scenario.missing()
    if reason is not None:
        tally.not_covered.append(f"{scenario.setting.fault}: {reason}")
        return
    try:
        with scenario.place(plan) as directory:
            setting = replace(scenario.setting, directory=directory)
            play(plan, tally, kind, setting, scenario.act)
    except PermissionError as error:
        tally.not_covered.append(f"{scenario.setting.fault} on {kind}: {error}")


class LiveDrill:
    """Scenarios on every kind of store, those that are not done yet. See ``plan.Drill``."""

    def __init__(
        self, fault: FaultKind, scenarios: Sequence[LiveScenario], *, again: bool = False
    ) -> None:
        """With ``again`` all come again and again as long as there is time."""
        self.fault: FaultKind = fault
        self._scenarios = scenarios
        self._again = again
        self._done: set[tuple[LiveScenario, StoreKind]] = set()

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """Each scenario on each kind of store, as far as there is time."""
        every = self._turns(plan)
        self._go_through([one for one in every if one not in self._done], plan, tally, clock,
                         progress)  # fmt: skip
        while self._again and clock.until is not None and every and not clock.is_over():
            plan = replace(plan, seed=plan.seed + 1)
            self._go_through(every, plan, tally, clock, progress)
        missed = [(*one, "no time") for one in every if one not in self._done]
        missed += [(scenario, kind, scenario.why_not) for scenario in self._scenarios
                   for kind in plan.stores if kind not in scenario.kinds]  # fmt: skip
        tally.not_covered += [
            f"{scenario.setting.fault} on {kind}: {why}" for scenario, kind, why in missed
        ]

    def run_once(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """Each scenario on one kind of store, as far as there is time."""
        first = self._turns(plan)[: len(self._scenarios)]
        self._go_through(first, plan, tally, clock, progress)

    def _turns(self, plan: Plan) -> "list[tuple[LiveScenario, StoreKind]]":
        kinds = [kind for kind in STORES if kind in plan.stores and kind in OPENERS]
        return in_turns(self._scenarios, kinds)

    def _go_through(
        self, tries: Sequence[tuple[LiveScenario, StoreKind]], plan: Plan, tally: Tally,
        clock: Clock, progress: Progress,
    ) -> None:  # fmt: skip
        done = mmap.mmap(-1, len(tries) + 1)  # shared with the children

        def work(number: int, counted: Tally, about: Callable[[str], None]) -> bool:
            if number >= len(tries):
                return False
            scenario, kind = tries[number]
            about(f"{scenario.setting.fault} on {kind}")
            attempt(scenario, plan, counted, kind)
            done[number] = 1
            return True

        def told(count: int) -> None:
            progress(self.fault, sum(done[:]), len(tries))

        casualties = share(
            work, _AT_ONCE * plan.processes, tally, clock, told, patience=_PATIENCE
        )  # fmt: skip
        tally.failures += [
            Failure(ENDS, "", self.fault, text, plan.seed, [], None, "") for text in casualties
        ]
        self._done.update(one for one, over in zip(tries, done[:], strict=False) if over)


@dataclass(frozen=True, slots=True)
class Once:
    """The first round of a drill on its own: each scenario on one kind of store."""

    drill: LiveDrill

    @property
    def fault(self) -> FaultKind:
        """That of the drill."""
        return self.drill.fault

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """See ``plan.Drill``."""
        self.drill.run_once(plan, tally, clock, progress)


def in_turns(
    scenarios: Sequence[LiveScenario], kinds: Sequence[StoreKind]
) -> list[tuple[LiveScenario, StoreKind]]:
    """Each scenario on each of the kinds it fits; all scenarios once before any for a second time.

    Each round tries a scenario on the kind after that of the round before.
    """
    tries = []
    for turn in range(len(kinds)):
        for number, scenario in enumerate(scenarios):
            fitting = [kind for kind in kinds if kind in scenario.kinds]
            if turn < len(fitting):
                tries.append((scenario, fitting[(number + turn) % len(fitting)]))
    return tries
