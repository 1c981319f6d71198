"""Work on a vector store: rows whose metadata has the number of their write, and a tag."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc

from holdfast.bench.load.profile import VectorsLoad
from holdfast.bench.load.truth import PRELOADED, Truth, Write, WrongRead
from holdfast.bench.load.work import NAME, Client, RowWork, Steps, vectors_of
from holdfast.handles.results import QueryResult

_TAGS = 20
_EXACT_FLOATS_MAX = 1_000_000
"""Well below the size from which a store searches by an approximate index, which may miss a row."""


class VectorsWork(RowWork[VectorsLoad]):
    """A row's tag follows from its id."""

    def __init__(
        self, load: VectorsLoad, truth: Truth, client: Client, generator: np.random.Generator
    ) -> None:
        super().__init__(load, truth, client, generator)
        self.dimension = load.dimension
        self._exact = load.keys * load.dimension <= _EXACT_FLOATS_MAX

    @staticmethod
    def open(engine: Any, load: VectorsLoad, durability: str) -> Any:
        return engine.vectors(NAME + "-vectors", dimension=load.dimension, durability=durability)

    @classmethod
    def preload(cls, handle: Any, load: VectorsLoad, keys: Sequence[int]) -> None:
        _ingest(handle, load, Write(keys, [PRELOADED] * len(keys)))

    def operations(self) -> dict[str, Callable[[], Steps]]:
        return {
            "upsert": self.upsert,
            "delete": self.delete,
            "get": self.get,
            "query": self.query,
            "filtered": self.filtered,
        }

    def upsert(self) -> Steps:
        """Write a batch of rows."""
        write = self.truth.begin(self.own_keys())
        yield lambda vectors: _ingest(vectors, self.load, write)
        self.truth.acknowledged(write)

    def delete(self) -> Steps:
        """Delete one row."""
        write = self.truth.begin([self.own_key()], delete=True)
        yield lambda vectors: vectors.delete(write.keys)
        self.truth.acknowledged(write)

    def get(self) -> Steps:
        """Read a batch of rows."""
        yield from self.read(self.any_keys())

    def read(self, keys: Sequence[int]) -> Steps:
        known, rows = yield from self.look(keys, lambda vectors: vectors.get(list(keys)))
        numbers = [] if rows.metadata is None else rows.metadata["number"].to_pylist()
        self.judge_rows(keys, known, rows.ids.tolist(), numbers, rows.vectors)

    def query(self) -> Steps:
        """The nearest rows."""
        vector, nearest, _ = self.near()
        found = yield lambda vectors: vectors.query(vector, self.load.k)
        self._judge(found, nearest, self.load.keys)

    def filtered(self) -> Steps:
        """The nearest rows of one tag."""
        vector, nearest, key = self.near()
        tag = _tag(key)
        where = pc.field("tag") == tag
        found = yield lambda vectors: vectors.query(vector, self.load.k, where=where)
        if any(_tag(id_) != tag for id_ in found.ids.tolist()):
            raise WrongRead(f"asked for {tag!r}, rows {found.ids.tolist()} came")
        self._judge(found, nearest, len(range(key % _TAGS, self.load.keys, _TAGS)))

    def _judge(self, found: QueryResult, nearest: int | None, among: int) -> None:
        first = nearest if self._exact else None
        self.judge_hits(found.ids, found.distances, self.load.k, first, among)


def _tag(key: int) -> str:
    return f"tag {key % _TAGS}"


def _ingest(handle: Any, load: VectorsLoad, write: Write) -> Any:
    rows = vectors_of(write.keys, write.numbers, load.dimension)
    metadata = {"tag": [_tag(key) for key in write.keys], "number": list(write.numbers)}
    return handle.ingest(list(write.keys), rows, metadata)
