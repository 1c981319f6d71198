"""Workers killed at intervals, each store's in its turn, and how long their successors took."""

import os
import random
import signal
import threading
import time

import holdfast
from holdfast.bench.load.outcome import Kill
from holdfast.formats.errors import HoldfastError

_POLL_S = 0.002


class Killer:
    """A thread that kills a worker every so many seconds."""

    def __init__(self, engine: holdfast.Engine, every_s: float, seed: int) -> None:
        self._engine = engine
        self._every_s = every_s
        self._random = random.Random(seed)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer")
        self._began = 0.0
        self._lock = threading.Lock()
        self._kills: list[Kill] = []
        self._taken = 0

    def start(self, began: float) -> None:
        """Count from ``began``, on the monotonic clock; the first kill is an interval later."""
        self._began = began
        self._thread.start()

    def stop(self) -> list[Kill]:
        """All kills."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        return self._kills

    def taken(self) -> list[str]:
        """The stores that were struck since this was asked last."""
        with self._lock:
            new = [kill.store for kill in self._kills[self._taken :]]
            self._taken += len(new)
        return new

    def _run(self) -> None:
        order: list[str] = []
        due = self._began + self._every_s
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += self._every_s
            if not order:
                order = [store.name for store in self._engine.health()]
                self._random.shuffle(order)
            self._kill(order.pop())

    def _kill(self, name: str) -> None:
        (store,) = [store for store in self._engine.health() if store.name == name]
        if store.pid is None:
            return
        struck = time.monotonic()
        os.kill(store.pid, signal.SIGKILL)
        while not self._serves_again(name, store.pid):
            if self._over.is_set():
                return
        ended = time.monotonic()
        kill = Kill(round(struck - self._began, 3), store.kind, round(1e3 * (ended - struck), 3))
        with self._lock:
            self._kills.append(kill)

    def _serves_again(self, name: str, killed: int) -> bool:
        """Whether another process than the one that was killed answers a call."""
        try:
            return self._engine.status(name).pid != killed
        except HoldfastError:
            time.sleep(_POLL_S)
            return False
