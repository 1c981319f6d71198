"""Work on a fold: groups of keys under one prefix, values that say of which write they are."""

from collections.abc import Callable, Sequence
from typing import Any

import holdfast
from holdfast.bench.load.profile import FoldLoad
from holdfast.bench.load.truth import ABSENT, PRELOADED, WrongRead
from holdfast.bench.load.work import NAME, KeyWork, Steps, filled, number_in


class FoldWork(KeyWork[FoldLoad]):
    """``batch`` neighbouring keys share a prefix."""

    @staticmethod
    def open(engine: Any, load: FoldLoad, durability: str) -> Any:
        return engine.fold(NAME + "-fold", durability=durability)

    @classmethod
    def preload(cls, handle: Any, load: FoldLoad, keys: Sequence[int]) -> None:
        numbers = [PRELOADED] * len(keys)
        handle.apply(_puts(load, keys, numbers), holdfast.Cursor.from_u64(keys[-1]))

    def operations(self) -> dict[str, Callable[[], Steps]]:
        return {
            "apply": self.apply,
            "delete": self.delete,
            "get": self.get,
            "get_many": self.get_many,
            "prefix": self.prefix,
        }

    def apply(self) -> Steps:
        """Put a batch of keys."""
        write = self.truth.begin(self.own_keys())
        puts = _puts(self.load, write.keys, write.numbers)
        cursor = holdfast.Cursor.from_u64(write.numbers[0])
        yield lambda fold: fold.apply(puts, cursor)
        self.truth.acknowledged(write)

    def delete(self) -> Steps:
        """Delete one key."""
        write = self.truth.begin([self.own_key()], delete=True)
        update = [holdfast.Delete(_name(self.load, write.keys[0]))]
        cursor = holdfast.Cursor.from_u64(write.numbers[0])
        yield lambda fold: fold.apply(update, cursor)
        self.truth.acknowledged(write)

    def get(self) -> Steps:
        """Read one key."""
        key = self.any_key()
        name = _name(self.load, key)
        known, entry = yield from self.look([key], lambda fold: fold.get(name))
        self.truth.saw([key], known, [self._number(key, entry)])

    def get_many(self) -> Steps:
        """Read a batch of keys."""
        yield from self.read(self.any_keys())

    def read(self, keys: Sequence[int]) -> Steps:
        names = [_name(self.load, key) for key in keys]
        known, entries = yield from self.look(keys, lambda fold: fold.get_many(names))
        numbers = [self._number(key, entry) for key, entry in zip(keys, entries, strict=True)]
        self.truth.saw(keys, known, numbers)

    def prefix(self) -> Steps:
        """Read all keys of a group."""
        first = self.any_key() // self.load.batch * self.load.batch
        keys = range(first, min(first + self.load.batch, self.load.keys))
        prefix = _name(self.load, first).partition("/")[0] + "/"
        known, entries = yield from self.look(keys, lambda fold: fold.range(prefix))
        by_name: dict[str, holdfast.KvEntry] = {entry.key: entry for entry in entries}
        if list(by_name) != sorted(by_name) or len(by_name) < len(entries):
            raise WrongRead(f"below {prefix!r} keys came in the order {[e.key for e in entries]}")
        numbers = [self._number(key, by_name.pop(_name(self.load, key), None)) for key in keys]
        if by_name:
            raise WrongRead(f"below {prefix!r} there are {sorted(by_name)}")
        self.truth.saw(keys, known, numbers)

    def _number(self, key: int, entry: holdfast.KvEntry | None) -> int:
        if entry is None:
            return ABSENT
        if entry.key != _name(self.load, key) or len(entry.value) != self.load.value_bytes:
            raise WrongRead(f"key {key} is {entry.key!r} of {len(entry.value)} bytes")
        return number_in(key, entry.value)


def _puts(load: FoldLoad, keys: Sequence[int], numbers: Sequence[int]) -> list[holdfast.Put]:
    return [
        holdfast.Put(_name(load, key), filled(key, number, load.value_bytes))
        for key, number in zip(keys, numbers, strict=True)
    ]


def _name(load: FoldLoad, key: int) -> str:
    return f"group{key // load.batch:07d}/key{key:08d}"
