"""What of the unsynced changes a power loss leaves: the luck of the disk, as values."""

import random
from typing import Protocol


class Choice(Protocol):
    """What of the unsynced changes reached the disk before the power went."""

    def version(self, changes: int) -> int:
        """How many of a sector's or length's changes, 0 to ``changes``; asked for each anew."""
        ...

    def names(self, changes: int) -> list[bool]:
        """Which of the changes of names, in the order they were made."""
        ...


class Nothing:
    """Only what was synced."""

    def version(self, changes: int) -> int:
        return 0

    def names(self, changes: int) -> list[bool]:
        return [False] * changes


class Everything:
    """All of it, by luck."""

    def version(self, changes: int) -> int:
        return changes

    def names(self, changes: int) -> list[bool]:
        return [True] * changes


class Sampled:
    """Each sector, length and name by chance: reordered, torn, or a length without its data.

    ``kept`` is the share that arrives in full; ``ordered`` keeps names in the order they were made,
    as a journal does.
    """

    def __init__(self, seed: int, *, kept: float = 0.5, ordered: bool = False) -> None:
        self._random = random.Random(seed)
        self._kept = kept
        self._ordered = ordered

    def version(self, changes: int) -> int:
        drawn = self._random.random()
        if drawn < self._kept:
            return changes
        if drawn < self._kept + (1 - self._kept) / 2:
            return 0
        return self._random.randint(0, changes)

    def names(self, changes: int) -> list[bool]:
        if self._ordered:
            kept = self._random.randint(0, changes)
            return [number < kept for number in range(changes)]
        return [self._random.random() < self._kept for _ in range(changes)]


class Zeros:
    """Names and lengths arrived, the data did not: files end in zeros."""

    def __init__(self) -> None:
        self._length = True

    def version(self, changes: int) -> int:
        length, self._length = self._length, False  # a file's length is asked for first
        return changes if length else 0

    def names(self, changes: int) -> list[bool]:
        self._length = True
        return [True] * changes
