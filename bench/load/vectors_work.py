"""Work on a vector store: rows whose metadata has the number of their write, and a tag."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

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
        ids = rows.ids.tolist()
        self.judge_rows(keys, known, ids, numbers, rows.vectors)
        tags = [] if rows.metadata is None else rows.metadata["tag"].to_pylist()
        if tags != [_tag(id_) for id_ in ids]:
            raise WrongRead(f"rows {ids} have the tags {tags}")

    def query(self) -> Steps:
        """The nearest rows."""
        vector, nearest, _ = self.near()
        known, found = yield from self.search_for(
            lambda vectors: vectors.query(vector, self.load.k)
        )
        self._judge(vector, found, known, nearest, slice(None))

    def filtered(self) -> Steps:
        """The nearest rows of one tag."""
        vector, nearest, key = self.near()
        tag = _tag(key)
        where = pc.field("tag") == tag
        known, found = yield from self.search_for(
            lambda vectors: vectors.query(vector, self.load.k, where=where)
        )
        if any(_tag(id_) != tag for id_ in found.ids.tolist()):
            raise WrongRead(f"asked for {tag!r}, rows {found.ids.tolist()} came")
        self._judge(vector, found, known, nearest, slice(key % _TAGS, None, _TAGS))

    def distance(self, squared: float) -> float:
        return squared

    def _judge(
        self,
        vector: NDArray[np.float32],
        found: QueryResult,
        known: NDArray[np.int64],
        nearest: int | None,
        among: slice,
    ) -> None:
        first = nearest if self._exact else None
        self.judge_hits(vector, found, self.load.k, known, first, among)


def _tag(key: int) -> str:
    return f"tag {key % _TAGS}"


def _ingest(handle: Any, load: VectorsLoad, write: Write) -> Any:
    rows = vectors_of(write.keys, write.numbers, load.dimension)
    metadata = {"tag": [_tag(key) for key in write.keys], "number": list(write.numbers)}
    return handle.ingest(list(write.keys), rows, metadata)
