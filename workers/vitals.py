"""What a worker is doing, in memory it shares with its supervisor.

A worker that is killed cannot say what it was working on, and one that hangs cannot say that it
does; both can be read off this page afterwards. Writing it costs no system call.
"""

from ctypes import Array, c_uint64
from multiprocessing.context import BaseContext
from typing import NamedTuple

from holdfast.workers.messages import Phase

_PROGRESS, _PHASE, _CLIENT, _REQUEST, _ANSWERED, _SAVING, _SLOTS = range(7)
_HANDLING = int(Phase.HANDLING)  # a plain int: this is written for every request


class Working(NamedTuple):
    """A reading of the page."""

    phase: Phase
    client: int
    request: int
    answered: int
    progress: int
    saving: bool
    """It is making what was written durable; that can take long, and nothing else shows it."""


class Vitals:
    """One worker's page."""

    def __init__(self, context: BaseContext) -> None:
        self._shared = context.RawArray("Q", _SLOTS)
        self._page = memoryview(self._shared).cast("B").cast("Q")  # at half the array's price

    def __getstate__(self) -> object:
        return self._shared

    def __setstate__(self, shared: Array[c_uint64]) -> None:
        self._shared = shared
        self._page = memoryview(shared).cast("B").cast("Q")

    def tick(self) -> None:
        """Show that work goes on."""
        self._page[_PROGRESS] += 1

    def begin(self, client: int, request: int) -> None:
        """This request is being handled from now on."""
        page = self._page
        page[_CLIENT] = client
        page[_REQUEST] = request
        page[_PHASE] = _HANDLING

    def enter(self, phase: Phase) -> None:
        """Nobody's request in particular is being worked on."""
        self._page[_PHASE] = phase

    def answered(self, count: int) -> None:
        """Requests were answered: the worker is of use."""
        self._page[_ANSWERED] += count

    def saves(self, *, now: bool) -> None:
        """It begins to make what was written durable, or has done so."""
        self._page[_SAVING] = now

    def read(self) -> Working:
        """What the page says now."""
        page = self._page
        return Working(
            Phase(page[_PHASE]),
            page[_CLIENT],
            page[_REQUEST],
            page[_ANSWERED],
            page[_PROGRESS],
            bool(page[_SAVING]),
        )
