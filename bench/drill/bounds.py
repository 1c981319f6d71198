"""What meeting a damaged file may cost: so much time of the processor, and so much memory."""

import contextlib
import resource
import sys
import time

BOUNDED = "a damaged file costs bounded time and memory"
_SECONDS_MAX = 1.0
_BYTES_MAX = 64 << 20


class Spending:
    """What this process spends from here on."""

    def __init__(self) -> None:
        # Linux counts the most memory from here on, instead of the most since the process began,
        # which would hide what does not exceed that.
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")
        self._memory = _peak()
        self._seconds = time.process_time()

    def excess(self) -> str | None:
        """What was spent, if that is more than it may be."""
        seconds, grown = time.process_time() - self._seconds, _peak() - self._memory
        if seconds <= _SECONDS_MAX and grown <= _BYTES_MAX:
            return None
        return f"{seconds:.1f} s of processor time and {grown >> 20} MiB"


def _peak() -> int:
    """The most memory this process had, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
