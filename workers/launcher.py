"""Where a worker's process comes from: nobody else knows.

A fork of the warm supervisor on Linux, about 3 ms; a fresh interpreter on macOS, whose system
libraries do not survive a fork.
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess

from holdfast.workers.channel import Channel
from holdfast.workers.forked import ForkedProcess
from holdfast.workers.messages import Exit, Failure, Phase, StoreSpec
from holdfast.workers.platform import oom_kills
from holdfast.workers.vitals import Vitals
from holdfast.workers.worker import opener, worker_main

_SETTLED_S = 2.0
# Libraries that start threads when they are loaded: those would not survive a fork, and one core is
# what a store gets.
_WITHOUT_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
_FORKS = sys.platform == "linux"


class WorkerProcess:
    """One worker process, as the supervisor holds it."""

    def __init__(self, spec: StoreSpec, generation: int, leave: Callable[[], None]) -> None:
        """Raises ``OSError`` for want of processes, descriptors or memory, or whatever a module of
        the store's kind raises when it is loaded; nothing is left then.
        """
        context: ForkContext | SpawnContext = ForkContext() if _FORKS else SpawnContext()
        self.generation = generation
        self.vitals = Vitals(context)
        self.last_words: Failure | None = None
        self.killed_for: str | None = None
        self._oom_kills = oom_kills()
        self._started_at = time.monotonic()
        for name, value in _WITHOUT_THREADS.items():
            os.environ.setdefault(name, value)
        if _FORKS:
            opener(spec.kind)  # so that the worker need not load its modules
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _start(spec, theirs, self.vitals, ours, leave)
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self.control = Channel(ours)

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A descriptor that becomes readable when the process is gone."""
        return int(self._process.sentinel)

    def kill(self, cause: str) -> None:
        """Kill the process; ``cause`` is what its callers will read."""
        self.killed_for = cause
        self._process.kill()

    def collect(self) -> Exit:
        """Reap the process, which is gone, and say how it ended."""
        self._process.join()
        code = self._process.exitcode or 0
        working = self.vitals.read()
        handling = working.phase is Phase.HANDLING
        self.control.close()
        self._process.close()
        return Exit(
            self.generation,
            self._cause(code),
            working.client if handling else 0,
            working.request if handling else 0,
            fruitful=working.answered > 0 or self._was_idle(working.phase),
            clean=code == 0,
        )

    def _was_idle(self, phase: Phase) -> bool:
        """Whether it had been waiting for work, well, for a while: nothing to hold against it."""
        return phase is Phase.IDLE and time.monotonic() - self._started_at >= _SETTLED_S

    def _cause(self, code: int) -> str:
        if self.killed_for is not None:
            return self.killed_for
        if self.last_words is not None:
            if self.last_words.message.startswith("MemoryError"):
                return "out of memory: " + self.last_words.traceback
            return self.last_words.traceback or self.last_words.message
        if code >= 0:
            return f"exited with code {code}"
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL and oom_kills() > self._oom_kills:
            return f"killed by {name}: out of memory"
        return f"killed by {name}"


def _start(
    spec: StoreSpec,
    theirs: socket.socket,
    vitals: Vitals,
    ours: socket.socket,
    leave: Callable[[], None],
) -> ForkedProcess | BaseProcess:
    parent = os.getpid()
    if not _FORKS:  # a spawned process inherits nothing that it would have to leave
        process = SpawnContext().Process(target=worker_main, args=(spec, theirs, vitals, parent))
        process.start()
        return process

    def work() -> None:
        leave()
        ours.close()
        worker_main(spec, theirs, vitals, parent)

    return ForkedProcess(work)
