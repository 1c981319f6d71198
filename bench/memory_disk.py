"""A file system in memory that knows what a power loss would leave of it.

Every file and directory has two images: the *live* one, which processes see and which outlives
them, and the *durable* one, which outlives the machine. Data and length of a file become durable
when the file is synced, names when their directory is. In between a disk may write what it likes in
any order, so a power loss leaves, for every 512-byte sector and for the length, the state after any
number of the changes made since the last sync; a ``Choice`` says which.

``crash`` and ``power_loss`` return a new disk and leave this one as it is, so that one moment can
be continued in many ways.
"""

import errno
import os
from collections.abc import Callable, Sequence

from holdfast.bench.memory_file import MemoryFile, Node
from holdfast.bench.power_loss import Choice, Zeros

_NameChange = list[tuple[Node, str, Node | None]]


class MemoryDisk:
    """A file system that starts with the directory ``home``, durably there."""

    def __init__(self, home: str = "/") -> None:
        self._root = Node(1, directory=True, mode=0o755)
        self._renamings: list[_NameChange] = []
        self._boots = 1
        self._files: list[MemoryFile] = []
        here = ""
        for name in home.strip("/").split("/"):
            if name:
                here += "/" + name
                self.make_directory(here)
                self.sync_directory(os.path.dirname(here))

    # --- the Disk protocol -----------------------------------------------------------------

    def open(self, path: str, *, write: bool = False, create: bool = False) -> MemoryFile:
        parent, name = self._parent(path)
        node = parent.names.get(name)
        if node is None:
            if not create:
                raise _error(errno.ENOENT, path)
            node = Node(self._free_number(), directory=False, mode=0o644)
            self._rename([(parent, name, node)])
        elif node.directory:
            raise _error(errno.EISDIR, path)
        file = MemoryFile(path, node, write=write)
        self._files = [other for other in self._files if other.in_use is not None] + [file]
        return file

    def create(self, path: str) -> MemoryFile:
        parent, name = self._parent(path)
        if name in parent.names:
            raise _error(errno.EEXIST, path)
        return self.open(path, write=True, create=True)

    def inode_at(self, path: str) -> int | None:
        try:
            node = self._find(path)
        except NotADirectoryError:
            return None
        return None if node is None else node.number

    def is_directory(self, path: str) -> bool:
        try:
            node = self._find(path)
        except NotADirectoryError:
            return False
        return node is not None and node.directory

    def list(self, path: str) -> list[tuple[str, str]]:
        names = self._directory(path).names
        return sorted((name, "directory" if n.directory else "file") for name, n in names.items())

    def make_directory(self, path: str) -> None:
        parent, name = self._parent(path)
        if name in parent.names:
            raise _error(errno.EEXIST, path)
        node = Node(self._free_number(), directory=True, mode=0o755)
        self._rename([(parent, name, node)])

    def remove_directory(self, path: str) -> None:
        if self._directory(path).names:
            raise _error(errno.ENOTEMPTY, path)
        parent, name = self._parent(path)
        self._rename([(parent, name, None)])

    def remove(self, path: str) -> None:
        parent, name = self._parent(path)
        node = parent.names.get(name)
        if node is None:
            raise _error(errno.ENOENT, path)
        if node.directory:
            raise _error(errno.EISDIR, path)
        self._rename([(parent, name, None)])

    def rename(self, source: str, destination: str) -> None:
        from_parent, from_name = self._parent(source)
        to_parent, to_name = self._parent(destination)
        node, old = from_parent.names.get(from_name), to_parent.names.get(to_name)
        if node is None:
            raise _error(errno.ENOENT, source)
        if old is node:
            return
        if old is not None:
            if old.directory and not node.directory:
                raise _error(errno.EISDIR, destination)
            if node.directory and not old.directory:
                raise _error(errno.ENOTDIR, destination)
            if old.names:
                raise _error(errno.ENOTEMPTY, destination)
        self._rename([(from_parent, from_name, None), (to_parent, to_name, node)])

    def link(self, source: str, destination: str) -> None:
        node = self._find(source)
        parent, name = self._parent(destination)
        if node is None:
            raise _error(errno.ENOENT, source)
        if node.directory:
            raise _error(errno.EPERM, source)
        if name in parent.names:
            raise _error(errno.EEXIST, destination)
        self._rename([(parent, name, node)])

    def copy_mode(self, source: str, destination: str) -> None:
        found, given = self._find(source), self._find(destination)
        if found is None or given is None:
            raise _error(errno.ENOENT, source if found is None else destination)
        given.mode = found.mode

    def sync_directory(self, path: str) -> None:
        directory = self._directory(path)
        waiting = []
        for change in self._renamings:
            gaining = [parent for parent, _, node in change if node is not None]
            if any(parent is directory for parent in gaining or [change[0][0]]):
                _apply(change, durable=True)
            else:
                waiting.append(change)
        self._renamings = waiting

    def boot_id(self) -> bytes:
        return self._boots.to_bytes(16, "big")

    # --- what is left ----------------------------------------------------------------------

    def crash(self) -> "MemoryDisk":
        """The disk as the death of every process leaves it: nothing is lost but the locks."""
        copies: dict[int, Node] = {}
        left = MemoryDisk()
        left._root = _copy(self._root, copies)
        left._boots = self._boots
        left._renamings = [
            [(_copy(parent, copies), name, node and _copy(node, copies))
             for parent, name, node in change]
            for change in self._renamings
        ]  # fmt: skip
        return left

    def power_loss(self, choice: Choice) -> "MemoryDisk":
        """The disk as a power loss leaves it, after the machine came up again."""
        names = choice.names(len(self._renamings))
        zeros = isinstance(choice, Zeros)
        return self.lose(names, lambda node: node.surviving(Zeros() if zeros else choice))

    def lose(self, names: Sequence[bool], content: Callable[[Node], bytes]) -> "MemoryDisk":
        """As ``power_loss``: which unsynced changes of names arrived, and what each file holds."""
        left = self.crash()
        left._boots += 1
        for change, kept in zip(left._renamings, names, strict=True):
            if kept:
                _apply(change, durable=True)
        left._renamings = []
        _lose(left._root, content)
        return left

    def unsynced(self) -> tuple[int, Sequence[Node]]:
        """How many changes of names are unsynced, and the files with unsynced data, by number."""
        nodes = _reachable(self._root, {})
        seen = {id(node) for node in nodes}
        for change in self._renamings:
            for _, _, node in change:
                if node is not None and id(node) not in seen:
                    seen.add(id(node))
                    nodes.append(node)
        nodes = [node for node in nodes if node.changes]
        return len(self._renamings), sorted(nodes, key=lambda node: node.number)

    def files(self) -> dict[str, tuple[int, bytes | None]]:
        """Every path with its number and content; a directory's content is None."""
        found: dict[str, tuple[int, bytes | None]] = {}
        waiting = [("", self._root)]
        while waiting:
            path, node = waiting.pop()
            if path:
                found[path] = (node.number, None if node.directory else node.live())
            waiting += [(f"{path}/{name}", inner) for name, inner in node.names.items()]
        return found

    def content(self, path: str) -> bytes | None:
        """What the file at ``path`` holds, or None."""
        node = self._find(path)
        return None if node is None else node.live()

    def place(self, path: str, content: bytes) -> None:
        """Put a file there, durably, as if it had always been there."""
        file = self.open(path, write=True, create=True)
        file.truncate(0)
        file.append(content)
        file.sync()
        file.close()
        self.sync_directory(os.path.dirname(path))

    # --- helpers ---------------------------------------------------------------------------

    def _rename(self, change: _NameChange) -> None:
        _apply(change, durable=False)
        self._renamings.append(change)

    def _find(self, path: str) -> Node | None:
        node: Node | None = self._root
        for name in path.split("/"):
            if name in ("", "."):
                continue
            if node is None:
                return None
            if not node.directory:
                raise _error(errno.ENOTDIR, path)
            node = node.names.get(name)
        return node

    def _directory(self, path: str) -> Node:
        node = self._find(path)
        if node is None:
            raise _error(errno.ENOENT, path)
        if not node.directory:
            raise _error(errno.ENOTDIR, path)
        return node

    def _parent(self, path: str) -> tuple[Node, str]:
        directory, _, name = path.rpartition("/")
        return self._directory(directory), name

    def _free_number(self) -> int:
        """The least number that nothing uses: real file systems give freed ones out again, too."""
        used = {node.number for node in _reachable(self._root, {})}
        used |= {file.in_use or 0 for file in self._files}
        used |= {
            node.number for change in self._renamings for _, _, node in change if node is not None
        }
        return next(number for number in range(1, len(used) + 2) if number not in used)


def _error(code: int, path: str) -> OSError:
    return OSError(code, os.strerror(code), path)


def _apply(change: _NameChange, *, durable: bool) -> None:
    for parent, name, node in change:
        names = parent.durable_names if durable else parent.names
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


def _reachable(node: Node, seen: dict[int, Node]) -> list[Node]:
    if id(node) not in seen:
        seen[id(node)] = node
        for inner in (*node.names.values(), *node.durable_names.values()):
            _reachable(inner, seen)
    return list(seen.values())


def _copy(node: Node, copies: dict[int, Node]) -> Node:
    """A copy of a node and all below it; a node met twice is copied once."""
    known = copies.get(id(node))
    if known is not None:
        return known
    copy = copies[id(node)] = Node(node.number, directory=node.directory, mode=node.mode)
    copy.buffer, copy.size = bytearray(memoryview(node.buffer)[: node.size]), node.size
    copy.durable, copy.changes = node.durable, list(node.changes)
    copy.forgotten = node.forgotten
    copy.names = {name: _copy(inner, copies) for name, inner in node.names.items()}
    copy.durable_names = {name: _copy(inner, copies) for name, inner in node.durable_names.items()}
    return copy


def _lose(node: Node, content: Callable[[Node], bytes]) -> None:
    """Reduce a node and all below it to what is durable now."""
    if node.directory:
        node.names = dict(node.durable_names)
        for inner in node.names.values():
            _lose(inner, content)
    else:
        node.durable = content(node)
        node.changes = []
        node.set_live(node.durable)
        node.forgotten = False
