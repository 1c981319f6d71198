"""Looking again for a few microseconds before going to sleep.

To wake a sleeping process costs more than a small request takes, so two processes that answer each
other at once do better to look again for a moment. Whether it pays is learnt from what happened:
after a look in vain the next ones are skipped, ever more of them.
"""

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_SPIN_S = 150e-6  # enough for the other side to wake up and answer
_SKIP_MAX = 16


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Spinner:
    """Decides whether to look again, and does."""

    __slots__ = ("_penalty", "_skip")

    def __init__(self) -> None:
        # On a single processor looking again only keeps the other side from running.
        self._skip = 0 if processors() > 1 else 1 << 60
        self._penalty = 1

    def look(self, ready: Callable[[int], list[T]]) -> list[T]:
        """Call ``ready(0)`` until it finds something or the moment is over."""
        if self._skip:
            self._skip -= 1
            return []
        give_up = time.perf_counter() + _SPIN_S
        while not (found := ready(0)):
            if time.perf_counter() >= give_up:
                self._skip = self._penalty
                self._penalty = min(2 * self._penalty, _SKIP_MAX)
                return found
        self._penalty = 1
        return found
