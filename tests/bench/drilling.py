"""Runs of drills that do what a test says."""

from typing import Any

from holdfast.bench.drill import run
from holdfast.bench.drill.plan import Clock, FaultKind, Plan, Progress
from holdfast.bench.drill.run import Outcome, Part
from holdfast.bench.drill.tally import Tally

COUNTS = {"crash_states", "kill_points", "bit_flips", "torn", "errors_injected"}


def nobody(what: str, done: int, of: int | None) -> None:
    """Who is told of the progress."""


class Staged:
    """A drill that does what a test says."""

    def __init__(self, fault: FaultKind, act: Any) -> None:
        self.fault: FaultKind = fault
        self._act = act

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None:
        self._act(tally, clock)


def staged(
    plan: Plan, *acts: Any, seconds: float | None = 1.0, fault: FaultKind = "kill"
) -> Outcome:
    """A run of drills that do what a test says."""
    parts = [Part(f"part {n}", Staged(fault, act), 1) for n, act in enumerate(acts)]
    return run.run(plan, seconds, nobody, parts)
