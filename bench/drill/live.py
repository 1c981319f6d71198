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
_PATIENCE = 2.5  # a scene whose calls never come back notices it itself, and says more about it
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

    @property
    def slug(self) -> str:
        """Its name in one word."""
        return self.setting.fault.strip("/").replace(" ", "-").replace("/", "-")


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


@dataclass(frozen=True)
class LiveDrill:
    """Scenarios on every kind of store. See ``plan.Drill``."""

    fault: FaultKind
    scenarios: Sequence[LiveScenario]
    again: bool = False
    """Whether they come again and again as long as there is time."""

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        """Each scenario on each kind of store, as far as there is time."""
        kinds = [kind for kind in STORES if kind in plan.stores and kind in OPENERS]
        tries = in_turns(self.scenarios, kinds)
        done = mmap.mmap(-1, len(tries) or 1)  # shared with the children
        endless = self.again and clock.until is not None

        def work(number: int, counted: Tally, about: Callable[[str], None]) -> bool:
            if number >= len(tries) and not endless:
                return False
            scenario, kind = tries[number % len(tries)]
            about(f"{scenario.setting.fault} on {kind}")
            turn = replace(plan, seed=plan.seed + number // len(tries))
            attempt(scenario, turn, counted, kind)
            done[number % len(tries)] = 1
            return True

        def told(count: int) -> None:
            progress(self.fault, sum(done[:]), len(tries))

        if tries:
            casualties = share(
                work, _AT_ONCE * plan.processes, tally, clock, told, patience=_PATIENCE
            )  # fmt: skip
            tally.failures += [
                Failure(ENDS, "", self.fault, text, plan.seed, [], None, "") for text in casualties
            ]
        tally.not_covered += _missed(self.scenarios, kinds, tries, done)


def _missed(
    scenarios: Sequence[LiveScenario],
    kinds: Sequence[StoreKind],
    tries: Sequence[tuple[LiveScenario, StoreKind]],
    done: mmap.mmap,
) -> list[str]:
    """What was not tried, and why."""
    missed = [(*tried, "no time") for tried, over in zip(tries, done[:], strict=False) if not over]
    missed += [(scenario, kind, scenario.why_not) for scenario in scenarios
               for kind in kinds if kind not in scenario.kinds]  # fmt: skip
    return [f"{scenario.setting.fault} on {kind}: {why}" for scenario, kind, why in missed]


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
