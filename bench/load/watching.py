"""Processes, memory, descriptors and disk of an engine under load, looked at once a second."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import psutil

import holdfast
from holdfast.bench.load.outcome import Disk, Process
from holdfast.formats.errors import HoldfastError
from holdfast.workers.messages import StoreHealth

_LIVE_EVERY = 5
"""Looks between two that ask the stores how much of their files counts."""


class Watcher:
    """Looks at one engine and the processes of its clients."""

    def __init__(self, engine: holdfast.Engine, members: Sequence[int]) -> None:
        self._engine = engine
        self._members = members
        self._known: dict[int, psutil.Process] = {}
        self._looks = 0
        self._live: dict[str, int | None] = {}
        self._last: dict[str, StoreHealth] = {}
        self.restarts = 0
        """Of workers, since the first look."""

    def look(self) -> tuple[list[Process], list[Disk], int]:
        """Processes, disks, and how many restarts of workers there were so far."""
        stores = self._engine.health()
        self._count_restarts(stores)
        found = [self._process(name, pid) for name, pid in self._pids(stores)]
        if self._looks % _LIVE_EVERY == 0:
            self._live = {store.name: self._live_bytes(store.name) for store in stores}
        self._looks += 1
        disks = [
            Disk(store.kind, bytes_of(store.path), self._live.get(store.name)) for store in stores
        ]
        processes = [process for process in found if process is not None]
        return processes, disks, self.restarts

    def _count_restarts(self, stores: Sequence[StoreHealth]) -> None:
        """A new supervisor counts from nothing, and all workers are new ones then."""
        for now in stores:
            before = self._last.get(now.name)
            if before is not None and now.pid is not None:
                counted = now.restarts - before.restarts
                other = int(before.pid not in (None, now.pid))
                self.restarts += max(counted if counted >= 0 else now.restarts + 1, other)
            if now.pid is not None:
                self._last[now.name] = now

    def _pids(self, stores: Sequence[StoreHealth]) -> Iterator[tuple[str, int]]:
        for process in self._engine.processes():
            if process.role == "supervisor":
                yield "supervisor", process.pid
        for store in stores:
            if store.pid is not None:
                yield store.kind, store.pid
        for number, pid in enumerate(self._members):
            yield f"clients {number + 1}", pid
        yield "load test", os.getpid()

    def _process(self, name: str, pid: int) -> Process | None:
        """None for one that has ended meanwhile."""
        with contextlib.suppress(psutil.Error):
            process = self._known.get(pid)
            if process is None:
                process = self._known[pid] = psutil.Process(pid)
            with process.oneshot():
                memory = process.memory_info()
                if not memory.rss:  # it was killed, and nobody has taken note yet
                    return None
                shared = getattr(memory, "shared", 0)  # macOS does not say
                share = process.cpu_percent() / 100
                return Process(name, pid, share, memory.rss - shared, memory.rss, process.num_fds())
        return None

    def _live_bytes(self, name: str) -> int | None:
        with contextlib.suppress(HoldfastError):
            status: Any = self._engine.status(name)
            # Of an index and a registry, the whole snapshot counts.
            whole: str = "live_bytes" if hasattr(status, "live_bytes") else "file_bytes"
            return int(getattr(status, whole))
        return self._live.get(name)


def bytes_of(path: str) -> int:
    """What a store's files take on disk: the file with its companions, or the folder."""
    if os.path.isdir(path):
        return sum(_blocks(entry) for entry in os.scandir(path))
    directory, name = os.path.split(path)
    return sum(_blocks(e) for e in os.scandir(directory) if e.name.startswith(name))


def _blocks(entry: os.DirEntry[str]) -> int:
    try:
        return 512 * entry.stat(follow_symlinks=False).st_blocks
    except FileNotFoundError:
        return 0
