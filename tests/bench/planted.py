"""Defects planted between a store and its disk, and a store so small that states can be counted."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects.base import HOME, Operation, State, Turn, Write
from holdfast.bench.faults import WRITES, FaultyDisk
from holdfast.formats.values import Cursor
from holdfast.workers.actor import Caller, Steps
from holdfast.workers.disk import Disk, File
from holdfast.workers.fold_messages import FoldApply
from holdfast.workers.message import Durability
from holdfast.workers.messages import Done, Reply, Request
from holdfast.workers.standing import Standing

T = TypeVar("T")


class Without(FaultyDisk):
    """Says that it did calls of some names, and does not do them."""

    names: frozenset[str]

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
        if call[0] in self.names:
            return None  # type: ignore[return-value]  # as all of these do
        return action()


class WithoutSync(Without):
    """Data are never synced."""

    names = frozenset({"sync"})


class WithoutDirectorySync(Without):
    """Names are never synced."""

    names = frozenset({"sync_directory"})


class LateSync(Without):
    """A file's data are synced only when more is written to it: after the answer."""

    names = frozenset()

    def __init__(self, inner: Disk) -> None:
        super().__init__(inner)
        self._late: dict[str, Callable[[], object]] = {}

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
        name, path = call
        if name == "sync":
            self._late[path] = action
            return None  # type: ignore[return-value]  # as a sync does
        if name in WRITES and path in self._late:
            with contextlib.suppress(OSError):  # it may be closed by now, and is never synced then
                self._late.pop(path)()
        return action()


class RetriedSync(Without):
    """A sync that fails is tried again, and its second answer believed."""

    names = frozenset()

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
        try:
            return action()
        except OSError:
            if call[0] != "sync":
                raise
            return action()


class SwallowedErrors(Without):
    """Writes that fail are taken for done."""

    names = frozenset()

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
        try:
            return action()
        except OSError:
            if call[0] not in WRITES:
                raise
            return None  # type: ignore[return-value]  # as writes do


class TinyActor:
    """A file that each request makes three bytes longer, up to the length it names."""

    def __init__(self, disk: Disk) -> None:
        self._file = disk.open(f"{HOME}/tiny", write=True, create=True)
        self._unsynced = False
        disk.sync_directory(HOME)

    def content(self) -> bytes:
        """Whole requests only."""
        size = self._file.size() // 3 * 3
        return self._file.read_at(0, size)

    def properties(self) -> None:
        return None

    def handle(self, request: Request, caller: Caller) -> Reply | Steps:
        assert isinstance(request, FoldApply)
        whole = len(self.content())
        assert request.cursor is not None
        if whole < 3 * (request.cursor.u64 or 0):
            self._file.write_at(whole, b"abc")
            self._unsynced = True
        return Done()

    def commit(self) -> None:
        if self._unsynced:
            self._file.sync()
            self._unsynced = False

    def hold(self, caller: Caller) -> None: ...
    def release(self, caller: Caller) -> None: ...
    def settle(self) -> None: ...
    def sync_due_in(self) -> float | None: ...
    def step(self, *, idle: bool) -> bool:
        return False

    def pressed(self) -> bool:
        return False

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None: ...
    def check_invariants(self) -> None: ...


def _add(number: int, state: State) -> Turn:
    content = str(state.get("bytes", "")) + "abc"
    request = FoldApply([], Cursor.from_u64(len(content) // 3))
    return Turn((Write(request, {"bytes": content}),))


class TinySubject:
    """One operation, two calls."""

    kind: StoreKind = "fold"
    path = f"{HOME}/tiny"
    alphabet: Mapping[str, Operation] = {"add": _add}

    def open(self, disk: Disk, durability: Durability) -> TinyActor:
        return TinyActor(disk)

    def read(self, disk: Disk, actor: object) -> State:
        assert isinstance(actor, TinyActor)
        content = actor.content().decode("latin-1")
        return {"bytes": content} if content else {}

    def rival(self, state: State) -> Write:
        return _add(0, state).writes[0]

    def verify(self, disk: Disk) -> Standing:
        return Standing.CLEAN

    def undetectable(self, word: str, found: State, states: Sequence[State]) -> bool:
        return False
