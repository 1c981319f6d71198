"""A process made by a plain fork: what a worker needs of ``multiprocessing``, and no more.

That module keeps the descriptors of a fork that failed, which makes matters worse where descriptors
or processes are what is wanting.
"""

import os
import signal
import traceback
from collections.abc import Callable
from typing import NoReturn


class ForkedProcess:
    """A child that runs ``target`` and is gone when that returns."""

    def __init__(self, target: Callable[[], None]) -> None:
        """Raises ``OSError`` when there is no process or descriptor to be had."""
        reading, writing = os.pipe()  # the child alone holds the one end: the other tells its end
        try:
            pid = os.fork()
        except BaseException:
            os.close(reading)
            os.close(writing)
            raise
        if not pid:
            _run(target)
        os.close(writing)
        self.pid = pid
        self.sentinel = reading
        self.exitcode: int | None = None
        """How it ended, negative for a signal; None until ``join``."""

    def kill(self) -> None:
        """Kill it; nothing happens where it is dead already."""
        if self.exitcode is None:  # until it is reaped, its number is nobody else's
            os.kill(self.pid, signal.SIGKILL)

    def join(self) -> None:
        """Wait for its end, and reap it."""
        _, status = os.waitpid(self.pid, 0)
        self.exitcode = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Let go of the sentinel."""
        os.close(self.sentinel)


def _run(target: Callable[[], None]) -> NoReturn:
    try:
        target()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)  # whatever happens, a child never goes on with what its parent was doing
