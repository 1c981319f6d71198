"""What the tests with real processes share: scripts, leftovers, kills, and patient waiting."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

import holdfast

LONG = os.environ.get("HOLDFAST_LONG") == "1"
PATIENCE_S = 60.0
GONE_S = 2.0  # what the design promises: nothing is left this long after the last host
_PAUSE_S = 0.005

none = holdfast.Cursor.none()


def at(number: int) -> holdfast.Cursor:
    """The cursor of a stream's position."""
    return holdfast.Cursor.from_u64(number)


def put(fold: holdfast.Fold, key: str, value: bytes = b"value") -> None:
    """One durable put."""
    fold.apply([holdfast.Put(key, value)], none)


def value_of(fold: holdfast.Fold, key: str) -> bytes | None:
    """The value under a key."""
    entry = fold.get(key)
    return None if entry is None else entry.value


def until(condition: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Wait until the condition holds; fails, naming ``what``, when it does not in time."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, f"waited {seconds:g} s in vain until {what}"
        time.sleep(_PAUSE_S)


# --- processes ---------------------------------------------------------------------------------


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


def wait_until_none(directory: str | Path, seconds: float = PATIENCE_S) -> None:
    """Wait until nothing serves the directory any more."""
    until(lambda: not serving(directory), f"nobody serves {directory}", seconds)


def titles(directory: str | Path) -> list[str]:
    """Titles of the processes that serve a directory, sorted."""
    return sorted(title_of(process) for process in serving(directory))


def supervisor_pid(engine: holdfast.Engine) -> int:
    """The supervisor's process id."""
    return engine.processes()[0].pid


def worker_pid(engine: holdfast.Engine, name: str) -> int:
    """Process id of a store's worker, waiting for one if it is just being restarted."""
    found: list[int] = []

    def look() -> bool:
        found[:] = [process.pid for process in engine.processes() if process.store == name]
        return bool(found)

    until(look, f"{name} has a worker")
    return found[0]


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def kill(pid: int) -> None:
    """``SIGKILL`` a process, and wait until it is gone."""
    send(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid), f"process {pid} is gone")


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def let_others_in(path: Path) -> None:
    """Let other users look into a directory of a test's, through all of its parents."""
    shared = Path(tempfile.gettempdir()).resolve()
    for folder in (path, *path.parents):
        if folder == shared:
            return
        folder.chmod(0o755)


# --- scripts -----------------------------------------------------------------------------------

HEADER = """
import holdfast, os, signal, sys, threading, time
from holdfast import Put, Cursor
none = Cursor.none()
def put(fold, key, value=b"value"):
    fold.apply([Put(key, value)], none)
"""


def script(body: str) -> str:
    """A script's source: the usual imports, then ``body``."""
    return HEADER + textwrap.dedent(body)


def run(
    arguments: list[str],
    *,
    cwd: str | Path | None = None,
    stdin: str | None = None,
    seconds: float = PATIENCE_S,
) -> str:
    """Run Python with these arguments to its successful end; what it wrote to stdout.

    Anything on stderr is a failure: no test here expects a warning.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), (done.returncode, done.stdout, done.stderr)
    return done.stdout


@contextlib.contextmanager
def running(body: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A script under way, its pipes open; killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", script(body), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def hear(process: "subprocess.Popen[str]") -> str:
    """The next line that a script prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        assert process.stderr is not None
        process.wait()
        raise AssertionError(f"the script ended with {process.returncode}: {process.stderr.read()}")
    return line.strip()


def tell(process: "subprocess.Popen[str]", line: str = "") -> None:
    """Send a script a line, on which it waits."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
