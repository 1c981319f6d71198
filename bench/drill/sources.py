"""A user's directory as the source of copies: what is in it, and whether it stays as it is.

What a store holds is told from its files, as ``holdfast inspect`` does, so nothing has to be known
about it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from blake3 import blake3

import holdfast
from holdfast.bench.drill.live_stores import OPENERS
from holdfast.bench.drill.plan import StoreKind
from holdfast.bench.drill.subjects.base import HOME
from holdfast.bench.memory_disk import MemoryDisk
from holdfast.formats.errors import HoldfastError, InvalidArgument, StoreNotFound
from holdfast.handles.any_store import AnyStore
from holdfast.overview import is_served
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.inspection import Report, examine
from holdfast.workers.places import Places, split_store
from holdfast.workers.standing import Standing

ORIGINAL = "the directory that was copied is not written to"
KEEPS = "a copy of a user's store holds after a fault what it held before"


@dataclass(frozen=True, slots=True)
class UserStore:
    """A store in a user's directory."""

    name: str
    kind: StoreKind
    file: str

    def below(self, directory: str) -> str:
        """Its path in a copy."""
        return os.path.join(directory, self.file)


def check_source(directory: str) -> None:
    """Raise ``StoreNotFound`` or ``InvalidArgument`` unless a directory can be copied."""
    if not os.path.isdir(directory):
        raise StoreNotFound(f"{directory!r} is not a directory", path=directory)
    if is_served(Places(directory)):
        raise InvalidArgument(
            f"an engine is running in {directory!r}: what is copied meanwhile would not be whole",
            path=directory,
        )
    if not stores_in(directory):
        raise StoreNotFound(f"there is no store in {directory!r}", path=directory)


def stores_in(directory: str) -> list[UserStore]:
    """The stores in a directory, by name."""
    found = []
    for file in sorted(os.listdir(directory)):
        store = split_store(file)
        if store is not None and store[1] in OPENERS:
            found.append(UserStore(store[0], store[1], file))
    return found


def copy_stores(source: str, target: str, stores: Sequence[UserStore]) -> None:
    """Copy the files of some stores of a directory. What is no file is left out."""
    beginnings = tuple(store.file for store in stores)
    for path in files_below(source):
        name = os.path.relpath(path, source)
        if name.startswith(beginnings):
            copied = os.path.join(target, name)
            os.makedirs(os.path.dirname(copied), exist_ok=True)
            shutil.copyfile(path, copied)


def handle(engine: holdfast.Engine, store: UserStore) -> AnyStore:
    """The store as a handle of no kind, which opens it as it is."""
    return AnyStore(engine._coordinator, engine._spec_of(store.name))


class Neighbours:
    """A user's stores of one kind, copied to where an engine is to work with another store."""

    def __init__(self, source: str, directory: str, kind: StoreKind) -> None:
        """Copy them, and open each once; those that do not open are of no use here."""
        self._directory = directory
        stores = [store for store in stores_in(source) if store.kind == kind]
        copy_stores(source, directory, stores)
        opened = []
        with holdfast.open(directory) as engine:
            for store in stores:
                with contextlib.suppress(HoldfastError):
                    handle(engine, store).status()
                    opened.append(store)
        self._held = {store: self._holds(store) for store in opened}

    def open(self, engine: holdfast.Engine) -> None:
        """Have a worker serve each."""
        for store in self._held:
            handle(engine, store).status()

    def changed(self) -> list[str]:
        """The files of those that hold something else than at first; no engine may run."""
        return [store.file for store, held in self._held.items() if self._holds(store) != held]

    def _holds(self, store: UserStore) -> bytes:
        return holdings(OsDisk(), store.below(self._directory)).digest


def files_below(directory: str) -> Iterator[str]:
    """Every file below a directory, but those of an engine's processes."""
    for folder, folders, names in os.walk(directory):
        folders[:] = [name for name in folders if name != ".holdfast"]
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                yield path


def fingerprint(directory: str) -> dict[str, tuple[int, ...]]:
    """Of every file what changes when it is written or replaced, which nobody can set back."""
    return {
        path: (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        for path in files_below(directory)
        for found in [os.stat(path)]
    }


class Holdings(NamedTuple):
    """The verdict on a store's files, digests of its rows, and one of all that it holds."""

    standing: Standing
    rows: frozenset[bytes]
    digest: bytes


def holdings(disk: Disk, path: str) -> Holdings:
    """What a store holds, by its files."""
    report: Report = examine(disk, path)
    applied = getattr(report, "applied", None)  # of an index, the rows with its log
    report = report if applied is None else applied()
    rows = sorted(blake3(repr(row).encode(errors="surrogatepass")).digest(16)
                  for row in report.rows())  # fmt: skip
    hasher = blake3(b"".join(rows))
    hasher.update(repr(report.figures().get("cursor")).encode())
    return Holdings(report.standing, frozenset(rows), hasher.digest(16))


def in_memory(source: str) -> MemoryDisk:
    """A copy of a directory's files, in memory, all of them synced."""
    disk = MemoryDisk(HOME)
    for path in files_below(source):
        place = os.path.join(HOME, os.path.relpath(path, source))
        folder = os.path.dirname(place)
        if not disk.is_directory(folder):
            disk.make_directory(folder)
            disk.sync_directory(os.path.dirname(folder))
        with open(path, "rb") as file:
            disk.place(place, file.read())
    return disk
