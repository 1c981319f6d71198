"""The processes that serve a directory, as the system sees them; and what can be done to them."""

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil

PATIENCE_S = 60.0
GONE_S = 2.0
"""Nothing may be left this long after the last host."""
_PAUSE_S = 0.005
LIMITS_OTHERS = hasattr(resource, "prlimit")
"""Whether the system can limit another process: Linux can."""


class Stuck(Exception):
    """What had to happen did not, however long it was waited for."""


def until(
    condition: Callable[[], object],
    what: str,
    seconds: float = PATIENCE_S,
    *,
    pause_s: float = _PAUSE_S,
) -> None:
    """Wait until the condition holds; ``Stuck``, naming ``what``, when it does not in time."""
    give_up = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= give_up:
            raise Stuck(f"waited {seconds:g} s in vain until {what}")
        time.sleep(pause_s)


def serving(directory: str | Path) -> list[psutil.Process]:
    """The supervisor and the workers of a directory that are alive now."""
    wanted = os.path.realpath(directory)
    found = []
    for process in psutil.process_iter():
        title = title_of(process)
        ours = title.startswith("holdfast: ") or "holdfast.workers.supervisor" in title
        if ours and wanted in title and is_alive(process.pid):
            found.append(process)
    return found


def title_of(process: psutil.Process) -> str:
    """What a process calls itself; empty once it is gone."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.Error:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def left_after(directory: str | Path, seconds: float = GONE_S) -> list[str]:
    """The titles of the processes that still serve a directory when this time has passed."""
    give_up = time.monotonic() + seconds
    while (left := serving(directory)) and time.monotonic() < give_up:
        time.sleep(_PAUSE_S)
    return [f"{process.pid}: {title_of(process)}" for process in left]


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill(pid: int) -> None:
    """``SIGKILL`` a process, and wait until it is gone."""
    send(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), f"process {pid} is gone")


def limit(pid: int, what: int, most: int | None) -> None:
    """Set a limit of a process, and of what it forks from now on; None lifts it again."""
    value = resource.RLIM_INFINITY if most is None else most
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(pid, what, (value, resource.RLIM_INFINITY))


def address_space(pid: int) -> int:
    """A process's address space in bytes."""
    return int(psutil.Process(pid).memory_info().vms)


def bytes_below(directory: str | Path) -> int:
    """Bytes of all files below a directory; files that go while it is counted count as nothing."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
