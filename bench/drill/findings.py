"""What becomes of a broken promise: counted, made smaller, its files and its command kept."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.bench.drill.checking import Broken, Harm
from holdfast.bench.drill.plan import Plan
from holdfast.bench.drill.scenario import Fault, Scenario
from holdfast.bench.drill.tally import REPLAY, Failure, Tally
from holdfast.bench.faults import MemoryDisk

_KEPT_MAX = 3
"""So many failures of one promise are kept by each process; the others are only counted."""
_SHRINKING_S = 15.0
"""For so long a failure is made smaller; the process must not be taken for hung meanwhile."""
_kept: dict[tuple[str, str], int] = {}


@dataclass(frozen=True, slots=True)
class Shrinking:
    """How scenarios with one sort of fault are tried, and which ones are simpler."""

    attempt: Callable[[Scenario], tuple[Broken | None, MemoryDisk]]
    """What is broken, and the files it is broken with. ``ValueError``: it cannot be tried."""
    failing: Callable[[Scenario], Iterator[tuple[Scenario, Broken]]]
    """All that fails of the scenario's sequence with this sort of fault."""
    simpler: Callable[[Fault], Iterator[Fault]]


def note(
    scenario: Scenario, broken: Broken, plan: Plan, tally: Tally, shrinking: Shrinking
) -> None:
    """Count a broken promise, and if it is among the first, shrink it and keep its files."""
    harmed(tally, broken)
    if is_enough(scenario.store, broken.promise):
        tally.again(broken.promise)
        return
    smallest, what = shrunk(scenario, broken, shrinking)
    text = str(smallest)
    tally.found(
        Failure(
            promise=what.promise,
            store=smallest.store,
            fault=str(smallest.fault),
            detail=what.detail,
            seed=plan.seed,
            operations=list(smallest.operations),
            state=keep(shrinking.attempt(smallest)[1], plan.work, text),
            replay=command(smallest),
        )
    )


def is_enough(store: str, promise: str) -> bool:
    """Count a broken promise; whether enough of its failures are kept already."""
    kind = store, promise
    _kept[kind] = _kept.get(kind, 0) + 1
    return _kept[kind] > _KEPT_MAX


def harmed(tally: Tally, broken: Broken) -> None:
    """Count what a broken promise costs."""
    tally.lost_acknowledged += broken.harm is Harm.LOST
    tally.wrong_answers += broken.harm is Harm.WRONG


def command(scenario: Scenario) -> str:
    """The command that does it again."""
    return f"{REPLAY} '{scenario}'"


def shrunk(scenario: Scenario, broken: Broken, shrinking: Shrinking) -> tuple[Scenario, Broken]:
    """A scenario that breaks the same promise with fewer operations and a simpler fault."""
    until = time.monotonic() + _SHRINKING_S
    for way in (_with_fewer_operations, _with_simpler_fault):
        smaller: tuple[Scenario, Broken] | None = (scenario, broken)
        while smaller is not None:
            scenario, broken = smaller
            if time.monotonic() >= until:
                break
            smaller = way(scenario, broken, shrinking, until)
    return scenario, broken


def _with_fewer_operations(
    scenario: Scenario, broken: Broken, shrinking: Shrinking, until: float
) -> tuple[Scenario, Broken] | None:
    names = scenario.operations
    for place in range(len(names)):
        if time.monotonic() >= until:
            break
        fewer = dataclasses.replace(scenario, operations=names[:place] + names[place + 1 :])
        for found, what in shrinking.failing(fewer):
            if what.promise == broken.promise:
                return found, what
    return None


def _with_simpler_fault(
    scenario: Scenario, broken: Broken, shrinking: Shrinking, until: float
) -> tuple[Scenario, Broken] | None:
    for fault in shrinking.simpler(scenario.fault):
        if time.monotonic() >= until:
            break
        candidate = dataclasses.replace(scenario, fault=fault)
        try:
            found, _ = shrinking.attempt(candidate)
        except ValueError:
            continue
        if found is not None and found.promise == broken.promise:
            return candidate, found
    return None


def keep(left: MemoryDisk, work: str, text: str) -> str:
    """Write a state's files below ``work``; returns the directory, which also says the scenario."""
    name = "".join(letter if letter.isalnum() else "-" for letter in text)[:80]
    number = 0
    while True:
        directory = os.path.join(work, "failures", f"{name}.{os.getpid()}.{number}")
        try:
            os.makedirs(directory)
            break
        except FileExistsError:
            number += 1
    with open(os.path.join(directory, "scenario.txt"), "w", encoding="utf-8") as file:
        file.write(text + "\n")
    for path, (_, content) in sorted(left.files().items()):
        place = os.path.join(directory, path.lstrip("/"))
        if content is None:
            os.makedirs(place, exist_ok=True)
        else:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            with open(place, "wb") as kept:
                kept.write(content)
    return directory
