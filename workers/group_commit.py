"""When a store's log is synced: the durability policy, the same for every kind of store."""

import time
from typing import Protocol

from holdfast.workers.ledger import Ledger
from holdfast.workers.messages import DEFAULT_DURABILITY, DEFAULT_INTERVAL_S, StoreSpec


class Syncable(Protocol):
    """A log, or a file that is written anew each time."""

    end: int

    @property
    def unsynced_bytes(self) -> int:
        """Bytes written since the last sync."""
        ...

    def sync(self) -> None:
        """Sync them; ``Fatal`` when that fails."""
        ...


class GroupCommit:
    """Syncs a log once for everything that was appended to it since."""

    def __init__(self, spec: StoreSpec, log: Syncable, ledger: Ledger) -> None:
        self.policy = spec.durability or DEFAULT_DURABILITY
        self._interval_s = spec.interval_s or DEFAULT_INTERVAL_S
        self._log = log
        self._ledger = ledger
        self._last = time.monotonic()

    def commit(self) -> None:
        """Sync if the policy asks for it now."""
        if not self._log.unsynced_bytes or self.policy == "never":
            return
        if self.policy == "interval" and (self.due_in() or 0.0) > 0.0:
            return
        self.sync()

    def sync(self) -> None:
        """Sync now."""
        self._log.sync()
        self._last = time.monotonic()
        self._ledger.synced(self._log.end)

    def due_in(self) -> float | None:
        """Seconds until ``commit`` has to be called again although nobody asks; None if never."""
        if self.policy != "interval" or not self._log.unsynced_bytes:
            return None
        return max(0.0, self._last + self._interval_s - time.monotonic())
