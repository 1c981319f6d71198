"""A curve: what one operation costs over what grows, whether it is to be flat, and whether it is.

Its slope is that of the line of least squares through the medians, both axes logarithmic: 0 where
the cost does not grow, 1 where it grows in proportion.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

import holdfast
from holdfast.bench.measure import Measurement, in_turn, seconds, seconds_per_call
from holdfast.bench.peers.contest import Figure
from holdfast.bench.peers.sizes import Sizes
from holdfast.bench.run import Run

FLAT_SLOPE = 0.15
"""What a curve that is said to be flat may have: half as much again for each factor of 15."""

PATIENCE_S = 600.0
"""How long a call may take that is not measured, or that opens a large store."""

FILE_SIZE = "bytes of its file"
"""What the time of a worker that starts anew is drawn over."""

_ROW_BYTES = {"fold": 260, "warm": 200, "vectors": 270, "index": 360}
"""What an entry, point or row takes in memory, here and in the worker, files apart.

Measured at 10,000,000, at the highest: while a fold replays its log, points are held here to be
written, an approximate index is made of vectors, and an index is opened.
"""
_MEMORY_SHARE = 0.5

Ladder = Mapping[int, Measurement]
"""What is on the horizontal axis, to the seconds of one operation there."""


@dataclass(frozen=True, slots=True)
class Curve:
    """The seconds of one operation over what grows."""

    name: str
    what: str
    over: str
    flat: bool
    points: Mapping[int, Figure]

    @property
    def slope(self) -> float:
        """Of the medians, both axes logarithmic; 0 of a single point."""
        if len(self.points) < 2:
            return 0.0
        heights = [figure.median for figure in self.points.values()]
        return float(np.polyfit(np.log(list(self.points)), np.log(heights), 1)[0])

    @property
    def holds(self) -> bool | None:
        """Whether a curve that is to be flat is; None where the design lets it grow."""
        return self.slope <= FLAT_SLOPE if self.flat else None

    def as_json(self) -> dict[str, object]:
        """The curve as plain values, with what follows from them."""
        return {
            "name": self.name,
            "what": self.what,
            "over": self.over,
            "flat_by_design": self.flat,
            "slope": self.slope,
            "holds": self.holds,
            "points": {str(at): figure.as_json() for at, figure in self.points.items()},
        }


@dataclass(slots=True)
class Drawing:
    """Curves as they are measured, and what was left out of them."""

    run: Run
    sizes: Sizes
    curves: list[Curve] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def draw(self, name: str, what: str, over: str, ladder: Ladder, *, flat: bool) -> None:
        """Measure all points of a curve in turn."""
        self.run.say(f"  {name}")
        steps = {str(at): measure for at, measure in ladder.items()}
        in_turn(steps, 1)
        samples = in_turn(steps, self.sizes.long_repetitions)
        points = {at: Figure(samples[str(at)]) for at in ladder}
        self.curves.append(Curve(name, what, over, flat, points))

    def fitting(self, kind: str, counts: Sequence[int]) -> list[int]:
        """Those of the counts, ascending, that fit into this machine's free memory together."""
        room = _MEMORY_SHARE * psutil.virtual_memory().available
        fit: list[int] = []
        for count in counts:
            if (sum(fit) + count) * _ROW_BYTES[kind] <= room:
                fit.append(count)
            else:
                self.leave_out(f"{kind}: {count:,} rows, for want of memory")
        return fit

    def leave_out(self, what: str) -> None:
        """Say what is not measured, and why."""
        self.left_out.append(what)
        self.run.say(f"  left out: {what}")


def repeated(work: Callable[[], object], calls: int) -> Measurement:
    """The mean of so many calls."""
    return lambda: seconds_per_call(work, calls)


def reopening(engine: holdfast.Engine, name: str, get: Callable[[], object]) -> Measurement:
    """A store's worker is ended and started anew, until it answers."""

    def reopen() -> None:
        engine.restart(name, timeout=PATIENCE_S)
        get()

    return lambda: seconds(reopen)


def file_bytes(path: str) -> int:
    """How large a store is: its file, or all files of its directory."""
    if os.path.isfile(path):
        return os.path.getsize(path)
    return sum(entry.stat().st_size for entry in os.scandir(path))
