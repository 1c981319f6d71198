"""When to start a dead worker again: now, later, or not at all. Pure: told what happened.

A death after useful work restarts at once, however often it comes. Deaths of workers that answered
nothing are counted in a row; the first restarts at once, the next ones back off, and the last
allowed one gives the store up.
"""

from dataclasses import dataclass

from holdfast.formats.limits import BACKOFF_FIRST_S, BACKOFF_MAX_S, FRUITLESS_DEATHS_MAX


@dataclass(slots=True)
class RestartBudget:
    """The deaths of one store's workers."""

    deaths_max: int = FRUITLESS_DEATHS_MAX
    fruitless: int = 0

    def after_death(self, *, fruitful: bool) -> float | None:
        """Seconds to wait before the next start, or None to give up."""
        if fruitful:
            self.fruitless = 0
            return 0.0
        self.fruitless += 1
        if self.fruitless >= self.deaths_max:
            return None
        if self.fruitless == 1:
            return 0.0
        return float(min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (self.fruitless - 2)))

    def forgive(self) -> None:
        """Start counting anew."""
        self.fruitless = 0
