"""A run of the comparison with peers on tiny data, and a curve that is not measured."""

import dataclasses
from pathlib import Path

from holdfast.bench.peers.contest import Figure
from holdfast.bench.peers.curves import Curve
from holdfast.bench.peers.sizes import QUICK
from holdfast.bench.run import QUICK as RUN_QUICK
from holdfast.bench.run import Run

TINY = dataclasses.replace(
    QUICK, entries=2000, puts=3, batches=1, calls=3, points=400, entities=4, windows=2,
    clients=(1, 2), stores=(1, 2), grown=(100, 200), searched=(300, 400), models=(2, 4),
    fields=(2, 4), histories=(1, 2), puts_at_once=1, shared_calls=4, shared_puts=4,
    repetitions=1, long_repetitions=1,
)  # fmt: skip
CURVE = Curve(
    "get", "get of any", "rows", True,
    {10: Figure([1e-6, 2e-6, 3e-6]), 1000: Figure([2e-4, 1e-4, 3e-4])},
)  # fmt: skip


class Said(Run):
    """A run that remembers what it says."""

    def __init__(self, directory: Path) -> None:
        super().__init__(str(directory), RUN_QUICK)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)
