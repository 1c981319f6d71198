"""The same work done by several in turn, with a limit beside them; who fails is left out.

Every figure is the time of one operation, so less is always better. A row's limit is the least that
its work costs on this machine, by the plainest means; it is measured in turn with the others, and a
figure's share of it is the limit's time as a part of its own.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from holdfast.bench.measure import Measurement, in_turn, median
from holdfast.bench.peers.kinds import Kind, absent, installed
from holdfast.bench.run import Run

T = TypeVar("T")

OURS = "holdfast"
"""What the names of the engine's own stores begin with."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a row is of. ``per`` is what the time is counted by: a put, a row, a query.

    ``durability`` says what a write that has returned survives, the same for all in the row.
    """

    name: str
    what: str
    per: str
    durability: str
    limit: str


@dataclass(frozen=True, slots=True)
class Figure:
    """Seconds of one operation, one for each repetition; the share of the nearest that was found,
    where the answer is approximate."""

    seconds: Sequence[float]
    recall: float | None = None

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """The range of all of them, as a share of the median."""
        return (max(self.seconds) - min(self.seconds)) / self.median

    def as_json(self) -> dict[str, object]:
        """The figure as plain values, with what follows from them."""
        recall = {} if self.recall is None else {"recall": self.recall}
        return {
            "seconds": list(self.seconds),
            "median_s": self.median,
            "spread": self.spread,
            **recall,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One row: a work, its limit, and what it took everyone who took part."""

    work: Work
    limit: Figure
    figures: Mapping[str, Figure]
    note: str = ""

    def share(self, name: str) -> float:
        """The limit's time as a part of this one's: 1 is as fast as the limit."""
        return self.limit.median / self.figures[name].median

    def ours(self) -> str | None:
        """The fastest of the engine's own stores."""
        own = [name for name in self.figures if name.startswith(OURS)]
        return min(own, key=lambda name: self.figures[name].median, default=None)

    def ahead(self) -> list[str]:
        """The peers that are faster than the fastest of the engine's own, fastest first."""
        own = self.ours()
        if own is None:
            return []
        bound = self.figures[own].median
        faster = [
            name
            for name, figure in self.figures.items()
            if not name.startswith(OURS) and figure.median < bound
        ]
        return sorted(faster, key=lambda name: self.figures[name].median)

    def as_json(self) -> dict[str, object]:
        """The row as plain values, with what follows from them."""
        work = self.work
        return {
            "name": work.name,
            "what": work.what,
            "per": work.per,
            "durability": work.durability,
            "limit": {"what": work.limit} | self.limit.as_json(),
            "figures": {
                name: figure.as_json() | {"share_of_limit": self.share(name)}
                for name, figure in self.figures.items()
            },
            "ahead": self.ahead(),
            "note": self.note,
        }


@dataclass(slots=True)
class Contest:
    """The rows of one area, and who was left out of them, and why."""

    run: Run
    rows: list[Comparison] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    def enter(
        self, kinds: Mapping[str, Kind[T]], make: Callable[[str, Kind[T]], T]
    ) -> dict[str, T]:
        """Those that are installed and can be made, by name."""
        made: dict[str, T] = {}
        for name in self.entrants(kinds):
            with self.excusing(name):
                made[name] = make(name, kinds[name])
        return made

    def entrants(self, kinds: Mapping[str, Kind[Any]]) -> list[str]:
        """The names of those that are installed and have not failed."""
        for name in absent(kinds):
            self._leave_out(name, "not installed")
        return [name for name in installed(kinds) if name not in self.left_out]

    @contextlib.contextmanager
    def excusing(self, name: str) -> Iterator[None]:
        """Leave ``name`` out if the block fails."""
        try:
            yield
        except Exception as error:
            first_line = (str(error) or "no message").splitlines()[0]
            self._leave_out(name, f"failed with {type(error).__name__}: {first_line}"[:200])

    def compare(
        self,
        work: Work,
        measurements: Mapping[str, Measurement],
        limit: Measurement,
        repetitions: int,
        *,
        recalls: Mapping[str, float] | None = None,
        note: str = "",
    ) -> None:
        """Add a row. Each measurement gives the seconds of one operation; the first is not kept."""
        self.run.say(f"  {work.name}")
        taking_part = {
            name: self._excused(name, measure)
            for name, measure in measurements.items()
            if name not in self.left_out
        }
        everyone = taking_part | {"": limit}
        in_turn(everyone, 1)
        samples = in_turn(everyone, repetitions)
        found = recalls or {}
        figures = {
            name: Figure(samples[name], found.get(name))
            for name in taking_part
            if name not in self.left_out
        }
        self.rows.append(Comparison(work, Figure(samples[""]), figures, note))

    def _excused(self, name: str, measure: Measurement) -> Measurement:
        def once() -> float:
            if name not in self.left_out:
                with self.excusing(name):
                    return measure()
            return math.nan

        return once

    def _leave_out(self, name: str, why: str) -> None:
        if name not in self.left_out:
            self.left_out[name] = why
            self.run.say(f"  {name}: {why}")
