"""Fault layers: disks that record what is asked of them, and break at a chosen moment.

A ``FaultyDisk`` stands between a store and any ``Disk``. It numbers every call and can, at one of
them, end the process (``Kill``) or answer with an error (``Fail``). Over a ``MemoryDisk`` the rest
of the story can be told too: what the death of a process leaves, and what a power loss leaves::

    memory = MemoryDisk("/data")
    disk = FaultyDisk(memory, Kill(at=17, written=100))
    try:
        actor = open_fold(disk, spec, tick)     # ... work with the store ...
    except Crash:
        pass
    survivor = open_fold(memory.crash(), spec, tick)
    survivor = open_fold(memory.power_loss(Sampled(seed=1)), spec, tick)

A first run without a fault gives the list of calls (``disk.calls``); further runs break at each.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from holdfast.bench.memory_disk import MemoryDisk
from holdfast.bench.memory_file import MemoryFile
from holdfast.bench.power_loss import Choice, Everything, Nothing, Sampled, Zeros
from holdfast.workers.disk import Buffer, Disk, File

__all__ = [
    "Call",
    "Choice",
    "Crash",
    "Everything",
    "Fail",
    "Fault",
    "FaultyDisk",
    "FaultyFile",
    "Kill",
    "Lost",
    "MemoryDisk",
    "MemoryFile",
    "Nothing",
    "Sampled",
    "Zeros",
]

T = TypeVar("T")

WRITES = frozenset({"append", "write_at"})
# What tells a store that data was lost on the way to the disk.
SYNCS = frozenset({"sync", "begin_sync"})
# What a full disk or a spent quota can refuse.
GROWING = frozenset(
    {
        "open",
        "create",
        "append",
        "write_at",
        "truncate",
        "sync",
        "begin_sync",
        "write_behind",
        "make_directory",
        "link",
        "rename",
        "sync_directory",
    }
)
# What a failing medium can refuse: all but questions that never reach it.
REACHING = GROWING | {
    "read_at", "map", "inode_at", "list", "remove", "remove_directory", "copy_mode", "lock",
}  # fmt: skip


class Crash(BaseException):
    """The process died here. Nobody may catch it; from now on its disk does nothing at all."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call: its number from 0, what was called, on which path, and for how many bytes."""

    number: int
    name: str
    path: str
    offset: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class Kill:
    """The process dies at call ``at``: before it, ``after`` it, or with ``written`` bytes of it."""

    at: int
    after: bool = False
    written: int | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """What a failing sync does to the data it was to save: Linux counts the pages as clean.

    ``choice`` says what reached the disk; ``evict`` makes the cache forget the rest at once.
    """

    choice: Choice
    evict: bool = False


@dataclass(frozen=True, slots=True)
class Fail:
    """Call ``at`` fails with an errno; if ``lasting``, so does every later one named in ``calls``.

    A failing write leaves ``written`` bytes behind. A failing sync of a ``MemoryDisk``'s file does
    what ``lost`` says.
    """

    at: int
    code: int
    lasting: bool = False
    written: int = 0
    calls: frozenset[str] = REACHING
    lost: Lost | None = None


Fault = Kill | Fail


class FaultyDisk:
    """A disk that records every call in ``calls`` and breaks as ``faults`` say."""

    def __init__(
        self,
        inner: Disk,
        *faults: Fault,
        on_call: Callable[[Call], None] | None = None,
    ) -> None:
        self.inner = inner
        self.calls: list[Call] = []
        self.struck = 0
        """How many calls a fault has hit."""
        self._faults: Sequence[Fault] = faults
        self._on_call = on_call
        self._dead = False
        self._files: list[File] = []

    def arm(self, *faults: Fault) -> Sequence[Fault]:
        """Break as these say from now on, and no longer as those that are returned.

        With none, the cause of the trouble is gone.
        """
        before, self._faults = self._faults, faults
        return before

    def abandon(self) -> None:
        """Die here and now: files are let go of as the system does for a dead process."""
        self._dead = True
        for file in self._files:
            file.close()

    def do(
        self,
        call: tuple[str, str],
        action: Callable[[], T],
        *,
        offset: int = 0,
        size: int = 0,
        partly: Callable[[int], None] | None = None,
        file: File | None = None,
    ) -> T:
        """Record a call, then do it unless a fault says otherwise."""
        if self._dead:
            if call[0] == "close":
                return action()  # the system does it for the dead
            raise Crash
        here = Call(len(self.calls), *call, offset, size)
        self.calls.append(here)
        if self._on_call is not None:
            self._on_call(here)
        for fault in self._faults:
            if _hits(fault, here):
                break
        else:
            return action()
        self.struck += 1
        if isinstance(fault, Kill):
            if fault.after:
                action()
            elif fault.written and partly is not None:
                partly(fault.written)
            self._dead = True
            raise Crash
        if fault.written and partly is not None:
            partly(fault.written)
        if here.name in SYNCS and fault.lost is not None and isinstance(file, MemoryFile):
            file.fail_sync(fault.lost.choice, evict=fault.lost.evict)
        raise OSError(fault.code, os.strerror(fault.code), here.path)

    def open(self, path: str, *, write: bool = False, create: bool = False) -> "FaultyFile":
        inner = self.do(("open", path), lambda: self.inner.open(path, write=write, create=create))
        self._files.append(inner)
        return FaultyFile(self, inner)

    def create(self, path: str) -> "FaultyFile":
        inner = self.do(("create", path), lambda: self.inner.create(path))
        self._files.append(inner)
        return FaultyFile(self, inner)

    def inode_at(self, path: str) -> int | None:
        return self.do(("inode_at", path), lambda: self.inner.inode_at(path))

    def is_directory(self, path: str) -> bool:
        return self.do(("is_directory", path), lambda: self.inner.is_directory(path))

    def list(self, path: str) -> list[tuple[str, str]]:
        return self.do(("list", path), lambda: self.inner.list(path))

    def make_directory(self, path: str) -> None:
        self.do(("make_directory", path), lambda: self.inner.make_directory(path))

    def remove_directory(self, path: str) -> None:
        self.do(("remove_directory", path), lambda: self.inner.remove_directory(path))

    def remove(self, path: str) -> None:
        self.do(("remove", path), lambda: self.inner.remove(path))

    def rename(self, source: str, destination: str) -> None:
        self.do(("rename", destination), lambda: self.inner.rename(source, destination))

    def link(self, source: str, destination: str) -> None:
        self.do(("link", destination), lambda: self.inner.link(source, destination))

    def copy_mode(self, source: str, destination: str) -> None:
        self.do(("copy_mode", destination), lambda: self.inner.copy_mode(source, destination))

    def sync_directory(self, path: str) -> None:
        self.do(("sync_directory", path), lambda: self.inner.sync_directory(path))

    def boot_id(self) -> bytes:
        return self.do(("boot_id", ""), lambda: self.inner.boot_id())


def _hits(fault: Fault, call: Call) -> bool:
    if isinstance(fault, Fail) and call.name not in fault.calls:
        return False
    if fault.at == call.number:
        return True
    return isinstance(fault, Fail) and fault.lasting and call.number > fault.at


class FaultyFile:
    """A file of a ``FaultyDisk``."""

    def __init__(self, disk: FaultyDisk, inner: File) -> None:
        self.inner = inner
        self._disk = disk
        self._path = inner.path

    @property
    def path(self) -> str:
        """Where it was opened, or has been moved since."""
        return self._path

    @path.setter
    def path(self, path: str) -> None:
        self._path = self.inner.path = path

    def size(self) -> int:
        return self._disk.do(("size", self._path), self.inner.size)

    def inode(self) -> int:
        return self._disk.do(("inode", self._path), self.inner.inode)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._disk.do(
            ("read_at", self._path),
            lambda: self.inner.read_at(offset, length),
            offset=offset,
            size=length,
        )

    def append(self, data: Buffer) -> None:
        self._disk.do(
            ("append", self._path),
            lambda: self.inner.append(data),
            size=len(data),
            partly=lambda written: self.inner.append(data[:written]),
        )

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._disk.do(
            ("write_at", self._path),
            lambda: self.inner.write_at(offset, data),
            offset=offset,
            size=len(data),
            partly=lambda written: self.inner.write_at(offset, data[:written]),
        )

    def truncate(self, size: int) -> None:
        self._disk.do(("truncate", self._path), lambda: self.inner.truncate(size), size=size)

    def sync(self) -> None:
        self._disk.do(("sync", self._path), self.inner.sync, file=self.inner)

    def begin_sync(self, offset: int, length: int) -> None:
        self._disk.do(
            ("begin_sync", self._path),
            lambda: self.inner.begin_sync(offset, length),
            offset=offset,
            size=length,
            file=self.inner,
        )

    def write_behind(self, offset: int, length: int) -> None:
        self._disk.do(("write_behind", self._path), lambda: self.inner.write_behind(offset, length))

    def map(self) -> memoryview:
        return self._disk.do(("map", self._path), self.inner.map)

    def lock(self) -> bool:
        return self._disk.do(("lock", self._path), self.inner.lock)

    def close(self) -> None:
        self._disk.do(("close", self._path), self.inner.close)
