"""What is known of every key, and so what a read of it may give.

A key's writes are numbered, by the one client that writes it: even numbers put a value, which says
its number, odd ones delete. A read may give any state from the newest one known to be there when it
was begun, up to the newest one that was begun when it ended.

    known      the newest number that is certainly there: acknowledged, or seen by a read
    begun      the newest number that was sent

    deleted    the newest delete that was sent

Of a key that another process writes, only what was seen is known; whatever is newer may be there.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ABSENT = -1
PRELOADED = 2
"""The number of the write that is there before the load begins."""
_ANY = np.iinfo(np.int64).max


class WrongRead(Exception):
    """A read gave what cannot have been there. The text says what, and what it might have been."""


@dataclass(frozen=True, slots=True)
class Write:
    """Numbered writes of keys that are under way together."""

    keys: Sequence[int]
    numbers: Sequence[int]


class Truth:
    """What one process knows of the keys of a store. Safe for many threads."""

    def __init__(
        self, keys: int, written_here: Iterable[int], clients: int, *, deletes: bool
    ) -> None:
        self._known = np.full(keys, PRELOADED, np.int64)
        self._begun = np.full(keys, _ANY, np.int64)
        self._deleted = np.full(keys, _ANY if deletes else 0, np.int64)
        for client in written_here:
            self._begun[client::clients] = PRELOADED
            self._deleted[client::clients] = 0
        self._lock = threading.Lock()

    def begin(self, keys: Sequence[int], *, delete: bool = False) -> Write:
        """Number a write of these keys, which are the caller's own, each named once."""
        places = np.asarray(keys)
        with self._lock:
            numbers = self._begun[places] // 2 * 2 + (3 if delete else 2)
            self._begun[places] = numbers
            if delete:
                self._deleted[places] = numbers
        return Write(keys, numbers.tolist())

    def acknowledged(self, write: Write) -> None:
        """The write is there."""
        places = np.asarray(write.keys)
        with self._lock:
            self._known[places] = np.maximum(self._known[places], write.numbers)

    def known(self, keys: Sequence[int]) -> list[int]:
        """To be asked before a read is begun."""
        with self._lock:
            found: list[int] = self._known[np.asarray(keys)].tolist()
        return found

    def all_known(self) -> NDArray[np.int64]:
        """The same of every key: to be asked before a search is begun."""
        with self._lock:
            return self._known.copy()

    def present(self, known: NDArray[np.int64], keys: slice) -> int:
        """How many of these keys were there throughout since ``known`` was asked."""
        with self._lock:
            return int(np.count_nonzero(self._deleted[keys] < known[keys]))

    def candidates(self, key: int, known: int) -> range | None:
        """The writes a search may have seen of a key; None if another process knows of more."""
        with self._lock:
            begun = int(self._begun[key])
        return None if begun == _ANY else range(known + known % 2, begun + 1, 2)

    def current(self, key: int) -> int | None:
        """The number of what a key holds now, if that is certain and a value: for its writer."""
        with self._lock:
            known, begun = int(self._known[key]), int(self._begun[key])
        return known if known == begun and known % 2 == 0 else None

    def saw(self, keys: Sequence[int], known: Sequence[int], numbers: Sequence[int]) -> None:
        """Judge what a read gave for keys: the number of each value, or ``ABSENT``.

        ``known`` is what ``known`` said before. Raises ``WrongRead``.
        """
        with self._lock:
            places = np.asarray(keys)
            begun, deleted = self._begun[places].tolist(), self._deleted[places].tolist()
            for key, low, high, gone, number in zip(
                keys, known, begun, deleted, numbers, strict=True
            ):
                if number == ABSENT:
                    if gone < low:
                        raise WrongRead(f"key {key} is not there, and write {low} of it is")
                elif number % 2 or not low <= number <= high:
                    newest = "any" if high == _ANY else high
                    raise WrongRead(
                        f"key {key} holds write {number}, and not one of {low} to {newest}"
                    )
                elif number > self._known[key]:
                    self._known[key] = number
