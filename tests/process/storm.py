"""Writers under a hail of ``SIGKILL``: what is acknowledged stays, and no call fails.

    python tests/process/storm.py --seconds 20

Threads and processes put ever larger numbers under keys of their own, with ``always``, and read
them back, while workers and supervisors are killed. Afterwards every number that was acknowledged
has to be there, and no process may be left.
"""

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # run as a script
    sys.path.insert(0, str(ROOT))

import holdfast  # noqa: E402
from tests.process import harness  # noqa: E402

THREADS = 8
PROCESSES = 2
THREADS_PER_PROCESS = 2
KEYS_PER_WRITER = 4
STORES = ("a", "b")


@dataclass
class Writer:
    """One writer's account of itself."""

    name: str
    store: str
    calls: int = 0
    acknowledgements: int = 0
    slowest_s: float = 0.0
    acknowledged: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)


@dataclass
class Figures:
    """What the storm did, and what it broke."""

    seconds: float
    calls: int = 0
    failed: int = 0
    kills_of_workers: int = 0
    kills_of_supervisors: int = 0
    writes_acknowledged: int = 0
    writes_lost: int = 0
    slowest_call_ms: float = 0.0
    processes_left: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def kept_every_promise(self) -> bool:
        """No call failed, nothing was lost, nobody is left."""
        return not (self.failed or self.writes_lost or self.processes_left)


def write(engine: holdfast.Engine, writer: Writer, until: float) -> None:
    """Put the next number and read it back, over and over."""
    store = writer.store
    fold = engine.fold(store)
    number = 0
    while time.monotonic() < until:
        number += 1
        key = f"{store}/{writer.name}/{number % KEYS_PER_WRITER}"
        began = time.monotonic()
        try:
            fold.apply([holdfast.Put(key, str(number).encode())], harness.at(number))
            writer.acknowledged[key] = number
            writer.acknowledgements += 1
            entry = fold.get(key)
            if entry is None or int(entry.value) != number:
                writer.failures.append(f"{key} is {entry} after {number} was acknowledged")
        except Exception as error:
            writer.failures.append(f"{type(error).__name__}: {error}")
        writer.calls += 2
        writer.slowest_s = max(writer.slowest_s, time.monotonic() - began)


def write_in_threads(
    engine: holdfast.Engine, prefix: str, count: int, until: float
) -> list[Writer]:
    """As many writers as threads, to their end."""
    writers = [Writer(f"{prefix}{n}", STORES[n % len(STORES)]) for n in range(count)]
    threads = [threading.Thread(target=write, args=(engine, writer, until)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return writers


def host(directory: str, prefix: str, until: float, report: Connection) -> None:
    """Another host process with writers of its own."""
    with holdfast.open(directory) as engine:
        writers = write_in_threads(engine, prefix, THREADS_PER_PROCESS, until)
    report.send([asdict(writer) for writer in writers])


class Killer(threading.Thread):
    """Kills about three times a second: mostly a worker, every third time the supervisor."""

    def __init__(self, directory: str, until: float, kills_per_s: float, seed: int) -> None:
        super().__init__(name="killer")
        self.workers = self.supervisors = 0
        self._directory = directory
        self._until = until
        self._pause_s = 1 / kills_per_s
        self._random = random.Random(seed)

    def run(self) -> None:
        due = time.monotonic()
        while due < self._until:
            due += self._pause_s * self._random.uniform(0.5, 1.5)
            time.sleep(max(0.0, due - time.monotonic()))
            supervisor = self._random.random() < 1 / 3
            while not (found := self._of_role(supervisor)) and time.monotonic() < self._until:
                time.sleep(0.01)
            for pid in self._random.sample(found, min(1, len(found))):
                harness.send(pid, signal.SIGKILL)
                self.supervisors += supervisor
                self.workers += not supervisor

    def _of_role(self, supervisor: bool) -> list[int]:
        """The supervisor, or the workers, that are there now."""
        return [
            process.pid
            for process in harness.serving(self._directory)
            if (" worker of " in harness.title_of(process)) != supervisor
        ]


def storm(directory: str, seconds: float, *, kills_per_s: float = 3.0, seed: int = 0) -> Figures:
    """Let it rage, then count."""
    context = multiprocessing.get_context("spawn")
    figures = Figures(seconds)
    until = time.monotonic() + seconds  # the monotonic clock is the same in every process
    reports = []
    hosts = []
    for number in range(PROCESSES):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=host, args=(directory, f"p{number}", until, theirs))
        process.start()
        theirs.close()
        reports.append(ours)
        hosts.append(process)
    killer = Killer(directory, until, kills_per_s, seed)
    with holdfast.open(directory) as engine:
        killer.start()
        writers = write_in_threads(engine, "t", THREADS, until)
        killer.join()
    for ours, process in zip(reports, hosts, strict=True):
        writers += [Writer(**writer) for writer in ours.recv()]
        ours.close()
        process.join()
    figures.processes_left = left_after(directory, harness.GONE_S)
    figures.kills_of_workers, figures.kills_of_supervisors = killer.workers, killer.supervisors
    count(figures, writers, directory)
    return figures


def left_after(directory: str, seconds: float) -> int:
    """How many processes are left when this time has passed."""
    give_up = time.monotonic() + seconds
    while (left := len(harness.serving(directory))) and time.monotonic() < give_up:
        time.sleep(0.01)
    return left


def count(figures: Figures, writers: list[Writer], directory: str) -> None:
    """Compare what was acknowledged with what a new engine finds."""
    found: dict[str, int] = {}
    with holdfast.open(directory) as engine:
        for store in STORES:
            for entry in engine.fold(store).scan():
                found[entry.key] = int(entry.value)
    for writer in writers:
        figures.calls += writer.calls
        figures.failures += writer.failures
        figures.writes_acknowledged += writer.acknowledgements
        figures.slowest_call_ms = max(figures.slowest_call_ms, round(writer.slowest_s * 1000, 1))
        for key, number in writer.acknowledged.items():
            if found.get(key, 0) < number:
                figures.writes_lost += 1
                figures.failures.append(f"{key} is {found.get(key)}, acknowledged was {number}")
    figures.failed = len(figures.failures)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--kills-per-second", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=os.getpid())
    parser.add_argument("--directory", help="default: a temporary one, removed at the end")
    options = parser.parse_args()
    directory = options.directory or tempfile.mkdtemp(prefix="holdfast-storm-")
    try:
        figures = storm(
            directory, options.seconds, kills_per_s=options.kills_per_second, seed=options.seed
        )
    finally:
        if options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
    print(json.dumps(asdict(figures), indent=2))
    return 0 if figures.kept_every_promise else 1


if __name__ == "__main__":
    sys.exit(main())
