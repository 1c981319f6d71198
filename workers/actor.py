"""What the serve loop asks of a store: the seam every kind of store plugs into.

An actor is state plus ``handle``, ``commit``, ``step`` and ``close``. It knows its file and its
rules; it does not know sockets, sessions or other stores, nor where it runs.
"""

from collections.abc import Callable, Generator
from typing import NamedTuple, Protocol

from holdfast.workers.disk import Disk
from holdfast.workers.messages import Progress, Properties, Reply, Request, StoreSpec

Steps = Generator[Progress | None, None, Reply]
"""Long work in slices: yields where it stands, ends with the reply. Others are served between."""


class Caller(NamedTuple):
    """Who asks: the same pair again means that the request is sent again after a crash."""

    client: int
    request: int


class Actor(Protocol):
    """One store, recovered and ready."""

    def properties(self) -> Properties | None:
        """What never changes about the store, if there is anything."""
        ...

    def handle(self, request: Request, caller: Caller) -> Reply | Steps:
        """Do what is asked, or begin to. A write must be in the log before this returns.

        Raises an error of the tree when the request cannot be done; nothing was changed then.
        Any other exception ends the worker, and the store is recovered from its file. The same
        holds for each slice of long work.
        """
        ...

    def hold(self, caller: Caller) -> None:
        """The caller was answered but does not read: remember its request until ``release``."""
        ...

    def release(self, caller: Caller) -> None:
        """The caller has its answer, or is gone."""
        ...

    def commit(self) -> None:
        """Make everything handled so far as durable as the store's policy says."""
        ...

    def settle(self) -> None:
        """Do what was put off until the answers had left, as they have when this is called.

        Whoever asks next does not notice: ``handle`` and ``step`` see to it by themselves.
        """
        ...

    def sync_due_in(self) -> float | None:
        """Seconds until ``commit`` has to be called again although nobody asks; None if never."""
        ...

    def step(self, *, idle: bool) -> bool:
        """Do one slice of the store's own upkeep; False when there is none to do.

        Without ``idle`` callers are waiting: only what cannot be put off is done then. What
        becomes of upkeep that fails is the same in every store: see ``workers/upkeep.py``.
        """
        ...

    def pressed(self) -> bool:
        """Whether upkeep falls behind, so that each turn of the loop should do a slice of it."""
        ...

    def close(self) -> None:
        """Sync and let go of everything."""
        ...

    def remove(self) -> None:
        """Remove the store's files for good, then let go of everything."""
        ...

    def check_invariants(self) -> None:
        """Assert that the state is consistent; for tests."""
        ...


class Opener(Protocol):
    """Recovers a store from its file: the only way to get an actor."""

    def __call__(self, disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> Actor: ...
