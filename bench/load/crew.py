"""The member processes of a run: started, given rounds, heard."""

import contextlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import msgspec

from holdfast.bench.load.member import STOP, Orders, Round, Told
from holdfast.formats.errors import InternalError

_PATIENCE_S = 5.0


class MemberFailed(InternalError):
    """A member process could not begin. The text has its last words."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A member that is not there any more, and had more to say."""

    name: str
    pid: int
    clients: int
    at: float
    """In seconds on the monotonic clock."""
    how: str
    said: str
    """What it wrote to standard error."""


_Heard = queue.Queue[tuple[int, Told | float]]
"""What each member says; at its end, when that was."""


class _Member:
    """One process, and a thread that listens to it."""

    def __init__(self, orders: Orders, number: int, heard: _Heard) -> None:
        self.number = number
        self._clients = len(orders.clients)
        # In a session of its own, so that Ctrl-C on a terminal is the parent's affair.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "holdfast.bench.load.member"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        self._heard = heard
        self._complaints: list[bytes] = []
        self._threads = [threading.Thread(target=target, daemon=True)
                         for target in (self._listen, self._hear_complaints)]  # fmt: skip
        self.tell(msgspec.json.encode(orders))
        for thread in self._threads:
            thread.start()

    def tell(self, line: bytes) -> None:
        """Send a line, if there are still orders; one that has ended is noticed by its silence."""
        with contextlib.suppress(BrokenPipeError, ValueError):
            _pipe(self.process.stdin).write(line + b"\n")
            _pipe(self.process.stdin).flush()

    def end_of_orders(self) -> None:
        """There are no more rounds."""
        with contextlib.suppress(BrokenPipeError):
            _pipe(self.process.stdin).close()

    def ended(self, at: float) -> Ended:
        """What became of it; to be asked when it has closed its output."""
        code = self.process.wait()
        self._threads[1].join(1)
        said = b"".join(self._complaints).decode(errors="replace").strip()
        name = f"clients {self.number + 1}"
        return Ended(name, self.process.pid, self._clients, at, _how(code), said)

    def end(self, patience_s: float) -> None:
        """Have it gone, by itself if it takes no longer than that."""
        self.end_of_orders()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience_s)
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        for pipe in (self.process.stdout, self.process.stderr):
            _pipe(pipe).close()

    def _listen(self) -> None:
        for line in _pipe(self.process.stdout):
            if line.endswith(b"\n"):  # it may be killed in the middle of a word
                self._heard.put((self.number, msgspec.json.decode(line, type=Told)))
        self._heard.put((self.number, time.monotonic()))

    def _hear_complaints(self) -> None:
        self._complaints += _pipe(self.process.stderr)


def _how(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name
    memory = " (as the system does when memory runs out)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{memory}"


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe


class Crew:
    """All members of a run."""

    def __init__(self, orders: Sequence[Orders]) -> None:
        self._heard: _Heard = queue.Queue()
        self._members = [_Member(order, n, self._heard) for n, order in enumerate(orders)]
        self.present = {member.number for member in self._members}
        """The numbers of those that are there."""
        self.ended: list[Ended] = []
        """The others. Whoever is left goes on."""

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [member.process.pid for member in self._members]

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        for member in self._members:
            member.end(_PATIENCE_S if kind is None else 0.0)

    def wait_ready(self) -> None:
        """Return when every member has opened its stores; raises ``MemberFailed``."""
        for _ in self._until_all_say("ready"):
            pass
        for one in self.ended:
            raise MemberFailed(f"process {one.pid} of {one.name} {one.how}: {one.said}")

    def round(self, round_: Round) -> Iterator[tuple[int, Told]]:
        """Have them work: what each says, and which one, until all that are there are done."""
        for member in self._members:
            member.tell(msgspec.json.encode(round_))
        yield from self._until_all_say("done")

    def stop(self) -> None:
        """Have the round under way end early."""
        for member in self._members:
            member.tell(STOP)

    def audit(self) -> Iterator[Told]:
        """Have them read back what they wrote, and end."""
        for member in self._members:
            member.end_of_orders()
        for _, told in self._until_all_say("audited"):
            yield told

    def _until_all_say(self, word: str) -> Iterator[tuple[int, Told]]:
        silent = set(self.present)
        while silent:
            number, told = self._heard.get()
            if isinstance(told, Told):
                yield number, told
                if told.what == word:
                    silent.discard(number)
            elif word != "audited" or number in silent:  # with that said they end
                silent.discard(number)
                self.present.discard(number)
                self.ended.append(self._members[number].ended(told))
