"""A host that goes on whatever its worker's files do, for tests of faults in any kind of store."""

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from holdfast.bench.faults import (
    GROWING,
    REACHING,
    Choice,
    Crash,
    Everything,
    Fail,
    FaultyDisk,
    MemoryDisk,
    Nothing,
    Sampled,
)
from holdfast.formats.errors import HoldfastError, StoreFull, StoreIOError
from holdfast.workers.disk import Disk

A = TypeVar("A")
H = TypeVar("H")
R = TypeVar("R")

CODES = {errno.ENOSPC: GROWING, errno.EDQUOT: GROWING, errno.EIO: REACHING}
"""What calls fail with, and which calls do."""
# A write of nothing but the log: the ledger has its space from the beginning.
APPENDING = frozenset({"append", "write_at"})
CHOICES: dict[str, Callable[[int], Choice]] = {
    "nothing": lambda seed: Nothing(),
    "everything": lambda seed: Everything(),
    "sampled": lambda seed: Sampled(seed),
}
"""What a failed sync may have brought to the disk, by name."""


class Died(Exception):
    """The worker would have ended here, by a crash or by an exception no rule foresees."""


def fatally(action: Callable[[], R]) -> R:
    """Run ``action``; what would end a worker becomes ``Died``, other errors pass.

    So do failed assertions: of those a test has to hear.
    """
    try:
        return action()
    except (HoldfastError, AssertionError):
        raise
    except (Crash, Exception) as error:
        raise Died from error


class Host(ABC, Generic[A, H]):
    """Does a workload however often it is refused or its worker ends, as a coordinator would.

    ``reopening`` is the workload's step that closes and opens the store.
    """

    def __init__(
        self,
        memory: MemoryDisk,
        fault: Fail,
        history: H,
        reopening: Callable[[Disk, A, H], A],
    ) -> None:
        self.memory = memory
        self.fault = fault
        self.history = history
        self.disk = FaultyDisk(memory, fault)
        self.actor: A | None = None
        self.deaths = self.refusals = 0
        self._reopening = reopening

    @abstractmethod
    def opened(self) -> A:
        """A new worker: what it found is one of what may be there, what was pending is answered."""

    @abstractmethod
    def close(self, actor: A) -> None:
        """Close a worker, as the workload's step does."""

    @abstractmethod
    def serve_on(self, actor: A) -> None:
        """Answer what is pending, after a refusal that changed nothing."""

    def let_go(self, actor: A) -> None:  # most kinds have nothing under way
        """End what a worker that died had under way."""

    def do(self, step: Callable[[Disk, A, H], A]) -> None:
        """Do one step to its end."""
        for _ in range(8):
            try:
                if step is self._reopening:
                    self._close()
                    self.open()
                else:
                    self.work(step)
            except HoldfastError as error:
                self._refused(error)
            except Died:
                self._died()
            else:
                return
        raise AssertionError("the service does not resume")

    def reopen(self) -> None:
        """Close and open; twice, as the first may end the worker before it has synced."""
        self.do(self._reopening)
        self.do(self._reopening)

    def work(self, step: Callable[[Disk, A, H], A]) -> None:
        """Try a step."""
        actor = self.actor or self.open()
        fatally(lambda: step(self.disk, actor, self.history))

    def open(self) -> A:
        """Have a worker anew."""
        self.actor = None
        self.actor = self.opened()
        return self.actor

    def _close(self) -> None:
        actor, self.actor = self.actor, None
        if actor is None:
            return
        try:
            fatally(lambda: self.close(actor))
        except HoldfastError as error:
            raise Died from error

    def _refused(self, error: HoldfastError) -> None:
        """A typed error: once the cause is gone the same actor serves on, and nothing changed."""
        self.refusals += 1
        assert isinstance(error, StoreIOError), error
        if self.fault.code in (errno.ENOSPC, errno.EDQUOT):
            assert isinstance(error, StoreFull), error
        self.disk.arm()
        if self.actor is None:  # a worker that cannot open ends
            self.disk.inner = self.memory = self.memory.crash()
            return
        self.serve_on(self.actor)

    def _died(self) -> None:
        """The worker ended; its first successor meets the same trouble if that lasts."""
        self.deaths += 1
        if self.actor is not None:
            self.let_go(self.actor)
        self.disk.inner = self.memory = self.memory.crash()
        self.actor = None
        if self.deaths > 1:
            self.disk.arm()
