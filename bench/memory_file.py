"""Files of a ``MemoryDisk``: what processes see of them, and what a power loss would leave."""

import errno
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

from holdfast.bench.power_loss import Choice, Everything, Nothing

Buffer = bytes | bytearray | memoryview

SECTOR_BYTES = 512
_CAPACITY_BYTES_MIN = 4096
_serials = itertools.count()


class Change(NamedTuple):
    """A write of ``data`` at ``offset``, or a cut to ``size`` when ``data`` is None.

    ``size`` is the file's length afterwards; ``serial`` orders the changes of all files.
    """

    offset: int
    data: bytes | None
    size: int
    serial: int


class Node:
    """A file or directory."""

    def __init__(self, number: int, *, directory: bool, mode: int) -> None:
        self.number = number
        self.directory = directory
        self.mode = mode
        self.buffer = bytearray(0)  # longer than the file, so that maps of it see later writes
        self.size = 0
        self.durable = b""
        self.changes: list[Change] = []
        self.names: dict[str, Node] = {}
        self.durable_names: dict[str, Node] = {}
        self.locked_by: MemoryFile | None = None
        self.forgotten = False
        """Whether a failing sync left data in the cache that no later sync will write."""

    def live(self) -> bytes:
        """The content that processes see."""
        return bytes(memoryview(self.buffer)[: self.size])

    def set_live(self, content: bytes) -> None:
        """Replace the content; maps taken before keep the old one."""
        self.buffer, self.size = bytearray(content), len(content)

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        if end > len(self.buffer):
            grown = bytearray(max(end, 2 * len(self.buffer), _CAPACITY_BYTES_MIN))
            grown[: self.size] = memoryview(self.buffer)[: self.size]
            self.buffer = grown
        memoryview(self.buffer)[offset:end] = data
        self.size = max(self.size, end)
        self.changes.append(Change(offset, data, self.size, next(_serials)))

    def truncate(self, size: int) -> None:
        if size > self.size:
            self.write(size - 1, b"\0")
            return
        memoryview(self.buffer)[size : self.size] = bytes(self.size - size)
        self.size = size
        self.changes.append(Change(size, None, size, next(_serials)))

    def sync(self) -> None:
        self.durable, self.changes = self.surviving(Everything()), []

    def surviving(self, choice: Choice) -> bytes:
        """The content that a power loss leaves."""
        changes = self.changes
        if not changes or isinstance(choice, Nothing):
            return self.durable
        if isinstance(choice, Everything) and not self.forgotten:
            return self.live()
        kept = choice.version(len(changes))
        size = changes[kept - 1].size if kept else len(self.durable)
        content = bytearray(max(len(self.durable), *(change.size for change in changes)))
        content[: len(self.durable)] = self.durable
        versions: dict[int, int] = {}
        for number, change in enumerate(changes):
            end = len(content) if change.data is None else change.offset + len(change.data)
            for start, stop in _sectors(change.offset, end):
                sector = start // SECTOR_BYTES
                if sector not in versions:
                    versions[sector] = choice.version(len(changes))
                if number >= versions[sector]:
                    continue
                if change.data is None:
                    content[start:stop] = bytes(stop - start)
                else:
                    content[start:stop] = change.data[start - change.offset : stop - change.offset]
        return bytes(content[:size])


def _sectors(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The pieces of a range that lie in one sector each."""
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield start, stop
        start = stop


class MemoryFile:
    """An open file of a ``MemoryDisk``."""

    def __init__(self, path: str, node: Node, *, write: bool) -> None:
        self.path = path
        self._node = node
        self._write = write
        self._open = True

    def _checked(self, *, write: bool = False) -> Node:
        if not self._open or (write and not self._write):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self.path)
        return self._node

    def size(self) -> int:
        return self._checked().size

    def inode(self) -> int:
        return self._checked().number

    def read_at(self, offset: int, length: int) -> bytes:
        node = self._checked()
        return bytes(memoryview(node.buffer)[offset : min(offset + length, node.size)])

    def append(self, data: Buffer) -> None:
        self.write_at(self.size(), data)

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        node = self._checked(write=True)
        data = b"".join(pieces)
        if data:
            node.write(offset, data)

    def truncate(self, size: int) -> None:
        self._checked(write=True).truncate(size)

    def sync(self) -> None:
        self._checked().sync()

    def begin_sync(self, offset: int, length: int) -> None:
        self._checked()  # what is on its way to the disk may be lost as what is not

    def write_behind(self, offset: int, length: int) -> None:
        self._checked()

    def fail_sync(self, choice: Choice, *, evict: bool) -> None:
        """What a failing sync leaves: pages counted as written that may not be on the disk.

        With ``evict`` the cache forgets them too, so that readers see the loss at once.
        """
        node = self._checked()
        node.durable, node.changes = node.surviving(choice), []
        node.forgotten = not evict
        if evict:
            node.set_live(node.durable)

    def map(self) -> memoryview:
        node = self._checked()
        return memoryview(node.buffer)[: node.size].toreadonly()

    def lock(self) -> bool:
        node = self._checked()
        if node.locked_by not in (None, self):
            return False
        node.locked_by = self
        return True

    @property
    def in_use(self) -> int | None:
        """The inode while it is open."""
        return self._node.number if self._open else None

    def close(self) -> None:
        if self._open:
            self._open = False
            if self._node.locked_by is self:
                self._node.locked_by = None
