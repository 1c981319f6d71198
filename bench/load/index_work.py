"""Work on an index: rows whose metadata says of which write they are."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from holdfast.bench.load.profile import IndexLoad
from holdfast.bench.load.truth import PRELOADED, Truth, Write
from holdfast.bench.load.work import NAME, Client, RowWork, Steps, vectors_of


class IndexWork(RowWork[IndexLoad]):
    """An index that looks at every row."""

    def __init__(
        self, load: IndexLoad, truth: Truth, client: Client, generator: np.random.Generator
    ) -> None:
        super().__init__(load, truth, client, generator)
        self.dimension = load.dimension

    @staticmethod
    def open(engine: Any, load: IndexLoad, durability: str) -> Any:
        return engine.index(
            NAME + "-index", dimension=load.dimension, metric="euclidean", durability=durability
        )

    @classmethod
    def preload(cls, handle: Any, load: IndexLoad, keys: Sequence[int]) -> None:
        _upsert(handle, load, Write(keys, [PRELOADED] * len(keys)))

    def operations(self) -> dict[str, Callable[[], Steps]]:
        return {
            "upsert": self.upsert,
            "delete": self.delete,
            "get": self.get,
            "search": self.search,
        }

    def upsert(self) -> Steps:
        """Write a batch of rows."""
        write = self.truth.begin(self.own_keys())
        yield lambda index: _upsert(index, self.load, write)
        self.truth.acknowledged(write)

    def delete(self) -> Steps:
        """Delete one row."""
        write = self.truth.begin([self.own_key()], delete=True)
        yield lambda index: index.delete(write.keys[0], missing_ok=True)
        self.truth.acknowledged(write)

    def get(self) -> Steps:
        """Read a batch of rows."""
        yield from self.read(self.any_keys())

    def read(self, keys: Sequence[int]) -> Steps:
        known, rows = yield from self.look(keys, lambda index: index.get(list(keys)))
        numbers = [(row.metadata or {}).get("number") for row in rows]
        self.judge_rows(keys, known, [row.id for row in rows], numbers, [r.vector for r in rows])

    def search(self) -> Steps:
        """The nearest rows."""
        vector, nearest, _ = self.near()
        known, found = yield from self.search_for(lambda index: index.search(vector, self.load.k))
        self.judge_hits(vector, found, self.load.k, known, nearest, slice(None))

    def distance(self, squared: float) -> float:
        return math.sqrt(squared)


def _upsert(handle: Any, load: IndexLoad, write: Write) -> Any:
    rows = vectors_of(write.keys, write.numbers, load.dimension)
    return handle.upsert_batch(list(write.keys), rows, [{"number": n} for n in write.numbers])
