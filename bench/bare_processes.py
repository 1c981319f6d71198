"""The least that processes cost here: starting, forking, killing, connecting, being idle."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection, Listener

from holdfast.bench import bare_host
from holdfast.bench.callers import spawning
from holdfast.bench.measure import Measurement, seconds, unique_memory

_BARE = [sys.executable, "-I", "-S"]
_END = b"."


@contextlib.contextmanager
def forking() -> Iterator[Callable[[str], float]]:
    """What gives the seconds of a ``fork`` or a ``kill``, see ``bare_host``."""
    with subprocess.Popen(
        [*_BARE, bare_host.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def measure(what: str) -> float:
            orders.write(f"{what}\n")
            orders.flush()
            return float(answers.readline())

        yield measure


def started() -> float:
    """Seconds from starting a Python that has nothing to do to its end."""
    # Not bare: a supervisor loads what the interpreter always loads.
    return seconds(lambda: subprocess.run([sys.executable, "-P", "-c", ""], check=True))


def idle_bytes() -> int:
    """Unique memory of a Python that only waits."""
    with subprocess.Popen(
        [*_BARE, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        used = unique_memory(process.pid)
        process.stdin.write("\n")
        return used


@contextlib.contextmanager
def connecting() -> Iterator[Measurement]:
    """Seconds to connect to another process by a Unix socket, and to get one byte back."""
    ours, theirs = spawning.Pipe()
    child = spawning.Process(target=_accept, args=(theirs,))
    child.start()
    theirs.close()
    address = ours.recv()

    def ask(byte: bytes) -> None:
        with Client(address, "AF_UNIX") as connection:
            connection.send_bytes(byte)
            connection.recv_bytes()

    try:
        yield lambda: seconds(lambda: ask(b"?"))
    finally:
        ask(_END)
        child.join()
        ours.close()


def _accept(pipe: Connection) -> None:
    """Body of the process that answers: a byte for each connection."""
    with Listener(family="AF_UNIX") as listener:
        pipe.send(listener.address)
        byte = b""
        while byte != _END:
            with listener.accept() as connection:
                byte = connection.recv_bytes()
                connection.send_bytes(byte)
