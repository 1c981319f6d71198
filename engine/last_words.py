"""The supervisor's log: what it, or a library in one of its workers, wrote before it ended.

Each supervisor begins a log of its own. One older log that says something is kept, so that the next
supervisor, which the next call starts, does not take the reason for the last one's end along.
"""

import contextlib
import os

from holdfast.workers.places import Places

_TAIL_BYTES = 2000
_SLACK_S = 1.0  # clocks of file systems lag behind


def begin_log(places: Places) -> int:
    """A descriptor of a new log, which begins with the process that starts the supervisor."""
    if tail(places.log):
        os.replace(places.log, places.older_log)
    log = os.open(places.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        # On a full disk this fails, and not the supervisor, with no space left to say why.
        os.write(log, f"started by process {os.getpid()}\n".encode())
    except BaseException:
        os.close(log)
        raise
    return log


def tail(path: str) -> str:
    """The end of a log, without the line it begins with; empty if there is no more, or no log."""
    with contextlib.suppress(OSError), open(path, "rb") as log:
        size = os.fstat(log.fileno()).st_size
        begin = len(log.readline(_TAIL_BYTES))
        if begin < size:
            log.seek(max(begin, size - _TAIL_BYTES))
            return log.read(_TAIL_BYTES).decode("utf-8", errors="replace").strip()
    return ""


def last_line(places: Places, since: float) -> str:
    """Where the supervisors that ended since ``since``, in seconds of the epoch, left a word.

    And the last line there.
    """
    for path in (places.log, places.older_log):
        with contextlib.suppress(OSError):
            if os.stat(path).st_mtime >= since - _SLACK_S and (said := tail(path)):
                return f"{path!r} ends: {said.splitlines()[-1]}"
    return f"nothing was said in {places.log!r}"
