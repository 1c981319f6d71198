"""Doing again what once failed, from its one line of text; ``scenario.py`` has the form."""

from typing import NamedTuple

from holdfast.bench.drill import damage, erring, explorer
from holdfast.bench.drill.checking import Broken
from holdfast.bench.drill.findings import command, keep
from holdfast.bench.drill.scenario import Damaged, FailAt, Scenario, parse
from holdfast.bench.drill.tally import Failure
from holdfast.bench.faults import MemoryDisk


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
