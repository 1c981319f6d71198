"""The five kinds of store as registers: groups of keys, to which texts are written together.

A text is written in every form that a kind of store has room for (value, vector, metadata), and
what is read back is taken for that text only if all of them agree.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import cast

import holdfast
from holdfast.bench.drill.history import Value
from holdfast.bench.drill.plan import StoreKind

PARTS = 3
"""Keys of a group."""
_REPEATED = 20
_HEAVY_KEY = "heavy"  # none of those that clients use
_MIB = 1 << 20


def keys_of(group: int) -> tuple[str, ...]:
    """The names of a group's keys."""
    return tuple(f"{group}/{part}" for part in range(PARTS))


class LiveStore(ABC):
    """A store of an engine, as clients of drills use it. Raises what its handle raises."""

    kind: StoreKind
    deletes_together = True
    """Whether the keys of a group can be deleted in one call."""
    prefixes = False
    """Whether the format lets a prefix of an unacknowledged write stay."""
    stream: str | None = None
    """A key that every write and delete writes as well."""

    @abstractmethod
    def write(self, group: int, text: str) -> None:
        """Write the text to all keys of a group, and then to the stream."""

    @abstractmethod
    def delete(self, keys: Sequence[str], text: str) -> None:
        """Delete keys: those of a group, or one; then write the text to the stream."""

    @abstractmethod
    def find(self, group: int) -> dict[str, str]:
        """What the keys of a group hold, at one moment."""

    @abstractmethod
    def everything(self) -> dict[str, str]:
        """What all keys hold, when nobody writes."""

    @abstractmethod
    def heavy(self, text: str) -> None:
        """A legal write that takes a worker more than 40 MiB of memory; then one to the stream.

        What it writes is not among what ``everything`` gives.
        """

    @abstractmethod
    def tidy(self) -> None:
        """Have the store write its files anew, if its kind does not do so at every write."""

    def position(self) -> Value:
        """What the stream holds."""
        return None


class LiveFold(LiveStore):
    """Texts as values, repeated; the cursor is the stream."""

    kind = "fold"
    prefixes = True
    stream = "cursor"

    def __init__(self, engine: holdfast.Engine, name: str) -> None:
        self._fold = engine.fold(name)

    def write(self, group: int, text: str) -> None:
        value = (f"{text} " * _REPEATED).encode()
        self._fold.apply([holdfast.Put(key, value) for key in keys_of(group)], _cursor(text))

    def delete(self, keys: Sequence[str], text: str) -> None:
        self._fold.apply([holdfast.Delete(key) for key in keys], _cursor(text))

    def find(self, group: int) -> dict[str, str]:
        return _texts(entry for entry in self._fold.get_many(keys_of(group)) if entry is not None)

    def everything(self) -> dict[str, str]:
        return _texts(entry for entry in self._fold.scan() if entry.key != _HEAVY_KEY)

    def position(self) -> Value:
        return self._fold.cursor().token.decode(errors="replace") or None

    def tidy(self) -> None:
        self._fold.compact()

    def heavy(self, text: str) -> None:
        self._fold.apply([holdfast.Put(_HEAVY_KEY, bytes(8 * _MIB))] * 8, _cursor(text))


def _cursor(text: str) -> holdfast.Cursor:
    return holdfast.Cursor.from_bytes(text.encode())


def _texts(entries: Iterable[holdfast.KvEntry]) -> dict[str, str]:
    found = {}
    for entry in entries:
        value = entry.value.decode(errors="replace")
        text = value.partition(" ")[0]
        found[entry.key] = text if value == f"{text} " * _REPEATED else f"garbled: {value!r}"
    return found


OPENERS: dict[StoreKind, str] = {
    "fold": "holdfast.bench.drill.live_stores:LiveFold",
    "vectors": "holdfast.bench.drill.live_rows:LiveVectors",
    "warm": "holdfast.bench.drill.live_rows:LiveWarm",
    "index": "holdfast.bench.drill.live_rows:LiveIndex",
    "registry": "holdfast.bench.drill.live_models:LiveRegistry",
}
"""The class for each kind of store; its module is loaded when it is needed."""


def open_store(kind: StoreKind, engine: holdfast.Engine, name: str) -> LiveStore:
    """Open a store of an engine. Raises what its handle raises."""
    module, _, cls = OPENERS[kind].partition(":")
    make = getattr(importlib.import_module(module), cls)
    return cast(LiveStore, make(engine, name))
