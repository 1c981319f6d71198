"""What a drill is asked to do."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from holdfast.bench.drill.tally import Tally

StoreKind = Literal["fold", "vectors", "warm", "index", "registry"]
STORES: tuple[StoreKind, ...] = get_args(StoreKind)

FaultKind = Literal["crash", "kill", "damage", "errors", "processes", "time", "soak"]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)
"""What is broken:

``crash``      states that a crash or power loss may leave
``kill``       the process dies at a file call
``damage``     bytes torn, flipped, exchanged
``errors``     file calls that fail
``processes``  those of the engine are killed, stopped, raced
``time``       the wall clock jumps
``soak``       clients at a steady load while faults arrive at random
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Settings of one run. The same seed does the same, apart from what the machine's load does."""

    seed: int
    work: str
    """A scratch directory that belongs to the run; failing states are kept in it."""
    stores: tuple[StoreKind, ...] = STORES
    faults: frozenset[str] = frozenset(FAULTS)
    exhaustive: bool = False
    source: str | None = None
    """An engine's directory of the user's: drills work on copies of its files, never on it."""
    processes: int = 2
    """How many processes explore at once."""


@dataclass(slots=True)
class Clock:
    """How long a drill may go on."""

    until: float | None = None
    """On the monotonic clock; None: until it has done everything."""
    stopped: bool = field(default=False)

    def is_over(self) -> bool:
        """Whether it is time to end."""
        return self.stopped or (self.until is not None and time.monotonic() >= self.until)


Progress = Callable[[str, int, int | None], None]
"""Told now and then: what is being done, how much of it is done, and of how much, if known."""


class Drill(Protocol):
    """One sort of fault, for some stores.

    ``run`` counts and finds into ``tally`` and ends early when the clock is over. What it finds
    broken is a ``Failure`` there, never an exception: one of those is a defect of the drill.
    """

    @property
    def fault(self) -> FaultKind: ...

    def run(self, plan: Plan, tally: Tally, clock: Clock, progress: Progress) -> None: ...
