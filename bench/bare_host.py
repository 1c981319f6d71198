"""The least a process can do for its children: fork one that answers, and another when it is dead.

Run by its path in a bare interpreter, by ``bare_processes``, so nothing of the package is loaded.
For each line on standard input there is one on standard output, in seconds:

    fork    from forking a process to its answer to one byte
    kill    from the SIGKILL of such a process, noticed by the end of its pipe, to its successor's
"""

import os
import signal
import sys
import time


class Child:
    """A forked process that sends back each byte."""

    def __init__(self) -> None:
        asks, self._request = os.pipe()
        self._answer, answers = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._request)
            while byte := os.read(asks, 1):
                os.write(answers, byte)
            os._exit(0)
        os.close(asks)
        os.close(answers)

    def ask(self) -> None:
        """Send a byte, and return when it has come back."""
        os.write(self._request, b"?")
        os.read(self._answer, 1)

    def kill(self) -> None:
        """End it, and return when its pipe has ended."""
        os.kill(self._pid, signal.SIGKILL)
        os.read(self._answer, 1)
        os.waitpid(self._pid, 0)
        os.close(self._request)
        os.close(self._answer)


def main() -> None:
    """Measure what each line asks for."""
    child = Child()
    child.ask()
    for line in sys.stdin:
        if line.strip() == "fork":
            child.kill()
            began = time.perf_counter()
        else:
            began = time.perf_counter()
            child.kill()
        child = Child()
        child.ask()
        print(time.perf_counter() - began, flush=True)
    child.kill()


if __name__ == "__main__":
    main()
