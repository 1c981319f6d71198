"""When a client's calls are due.

In an open loop the moments are fixed beforehand, whatever became of the calls before, and latency
counts from them: a store that stands still for a second delays every call that was due in that
second, and each of them is counted (no coordinated omission). In a closed loop a call is due when
the one before has ended.

What is overdue from the warm-up when measuring begins is left out, so that measuring is not the
clearing of a backlog that belongs to no figure.
"""

import math


class Pace:
    """Moments in seconds on a clock, the first at ``begins``; ``between_s`` None: closed loop."""

    def __init__(self, begins: float, measures_from: float, between_s: float | None) -> None:
        self._due = begins
        self._measures_from = measures_from
        self._between_s = between_s

    def due(self, now: float) -> float:
        """When the next call is to start; ``taken`` goes on to the one after."""
        if self._between_s is None:
            return now
        overdue_s = self._measures_from - self._due
        if overdue_s > 0 and now >= self._measures_from:
            self._due += math.ceil(overdue_s / self._between_s) * self._between_s
        return self._due

    def taken(self) -> None:
        """The call that was due is being made."""
        if self._between_s is not None:
            self._due += self._between_s

    def waiting(self, now: float) -> int:
        """How many calls are overdue."""
        if self._between_s is None or now <= self._due:
            return 0
        return math.ceil((now - self._due) / self._between_s)

    def late_s(self, now: float) -> float:
        """By how much the next one is overdue."""
        return 0.0 if self._between_s is None else max(0.0, now - self._due)


def pace_of(
    begins: float, measures_from: float, client: int, clients: int, rate: float | None
) -> Pace:
    """The pace of one client of so many, which together make ``rate`` calls a second.

    Their first calls are spread evenly over one interval.
    """
    if rate is None:
        return Pace(begins, measures_from, None)
    return Pace(begins + client / rate, measures_from, clients / rate)
