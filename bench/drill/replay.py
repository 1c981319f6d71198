"""Doing again what once failed, from its one line of text.

``scenario.py`` has the form of those in memory. Those on real engines are ``live``, the store, the
fault in one word, and the seed. What befalls real processes is a matter of moments, so they are
tried up to ten times.
"""

from typing import NamedTuple

from holdfast.bench.drill import (
    damage,
    erring,
    explorer,
    kernel,
    kernel_kills,
    limits,
    processes,
    wall_clock,
)
from holdfast.bench.drill.checking import Broken
from holdfast.bench.drill.findings import command, keep
from holdfast.bench.drill.live import attempt as attempt_live
from holdfast.bench.drill.plan import Plan
from holdfast.bench.drill.scenario import Damaged, FailAt, Scenario, parse
from holdfast.bench.drill.tally import Failure, Tally
from holdfast.bench.faults import MemoryDisk

_LIVE_TIMES = 10
LIVE = {
    scenario.setting.slug: scenario
    for scenario in (
        *processes.SCENARIOS, *limits.SCENARIOS, wall_clock.SCENARIO, kernel.SCENARIO,
        kernel_kills.SCENARIO,
    )
}  # fmt: skip
"""What befalls real engines, by its name in one word."""


class Replayed(NamedTuple):
    """What came of a scenario: what is broken, if anything, and the files the fault left."""

    scenario: Scenario
    broken: Broken | None
    left: MemoryDisk


def attempt(text: str) -> Replayed:
    """Do the scenario that is written so; ``ValueError`` if it is not one, or does not fit."""
    scenario = parse(text)
    fault = scenario.fault
    if isinstance(fault, FailAt):
        return Replayed(scenario, *erring.attempt(scenario))
    if isinstance(fault, Damaged):
        return Replayed(scenario, *damage.attempt(scenario))
    return Replayed(scenario, *explorer.attempt(scenario))


def replay(text: str, work: str) -> Failure | None:
    """Do a scenario again: the failure, its files kept below ``work``; None if all is well.

    Raises ``ValueError`` for text that is no scenario, or one that cannot be tried.
    """
    if text.startswith("live "):
        return _replay_live(text, work)
    scenario, broken, left = attempt(text)
    if broken is None:
        return None
    return Failure(
        promise=broken.promise,
        store=scenario.store,
        fault=str(scenario.fault),
        detail=broken.detail,
        seed=0,  # chance has no part in a scenario
        operations=list(scenario.operations),
        state=keep(left, work, text),
        replay=command(scenario),
    )


def _replay_live(text: str, work: str) -> Failure | None:
    words = text.split()
    if len(words) != 4 or not words[3].isdigit():
        raise ValueError(f"{text!r} is not of the form live STORE FAULT SEED")
    scenario = LIVE.get(words[2])
    if scenario is None:
        raise ValueError(f"{words[2]!r} is no fault; there are {', '.join(LIVE)}")
    kind = next((kind for kind in scenario.kinds if kind == words[1]), None)
    if kind is None:
        raise ValueError(f"{words[1]!r} is none of {', '.join(scenario.kinds)}")
    plan = Plan(int(words[3]), work, (kind,))
    for _ in range(_LIVE_TIMES):
        tally = Tally()
        attempt_live(scenario, plan, tally, kind)
        if tally.not_covered:
            raise ValueError(tally.not_covered[0])
        if tally.failures:
            return tally.failures[0]
    return None
