"""Host programs, as drills start, tell and end them."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from holdfast.bench.drill.host import Part
from holdfast.bench.drill.scene import NAME, Scene
from holdfast.bench.drill.serving import PATIENCE_S, Stuck

# Takes the terminal that is its stdin, then becomes the program that its arguments say.
_ON_ITS_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Host:
    """A host program under way; killed at the end if it is still there."""

    def __init__(
        self,
        scene: Scene,
        way: str,
        *,
        environment: Mapping[str, str] | None = None,
        before: tuple[str, ...] = (),
    ) -> None:
        client = scene.new_client()
        self._part = Part(
            scene.directory, scene.kind, NAME, way, scene.history_of(client), client,
            scene.own_group(), scene.random.getrandbits(32),
        )  # fmt: skip
        self.process = subprocess.Popen(
            [*before, *self._part.arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def hear(self, wanted: str = "ready") -> Self:
        """Wait until it says something; ``Stuck`` when it ends instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if line != wanted:
            raise Stuck(f"a host said {line!r} and not {wanted!r}: {self._complaint()}")
        return self

    def tell(self) -> None:
        """Have it go on."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> int:
        """Wait for its end; returns its exit code. ``Stuck`` if it does not end."""
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise Stuck("a host does not end") from None

    def _complaint(self) -> str:
        self.process.kill()
        assert self.process.stderr is not None
        return self.process.stderr.read()[-2000:]

    def complaints(self) -> str:
        """What it wrote to stderr; it has ended."""
        assert self.process.stderr is not None
        return self.process.stderr.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.__exit__(kind, error, trace)


class Terminal:
    """A host program on a terminal of its own."""

    def __init__(self, scene: Scene) -> None:
        client = scene.new_client()
        part = Part(
            scene.directory, scene.kind, NAME, "main", scene.history_of(client), client,
            scene.own_group(), scene.random.getrandbits(32),
        )  # fmt: skip
        self.shown = ""
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _ON_ITS_TERMINAL, *part.arguments()],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)

    def read_until(self, text: str) -> None:
        """Read what it shows until ``text`` comes; ``Stuck`` if it does not."""
        give_up = time.monotonic() + PATIENCE_S
        while text not in self.shown:
            if time.monotonic() > give_up or not self._read():
                raise Stuck(f"no {text!r} on the terminal: {self.shown!r}")

    def _read(self) -> bool:
        readable, _, _ = select.select([self._ours], [], [], 0.1)
        if not readable:
            return True
        try:
            data = os.read(self._ours, 4096)
        except OSError:  # its last user has gone
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def press_ctrl_c(self) -> int:
        """Press it, and wait for the end of the program; returns its exit code."""
        os.write(self._ours, b"\x03")
        give_up = time.monotonic() + PATIENCE_S
        while self._read():
            if time.monotonic() > give_up:
                self._process.kill()
                raise Stuck(f"Ctrl-C does not end it: {self.shown!r}")
        return self._process.wait()

    def close(self) -> None:
        """Let go of the terminal, and of the program."""
        self._process.kill()
        self._process.wait()
        os.close(self._ours)
