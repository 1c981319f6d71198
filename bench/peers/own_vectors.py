"""The engine's vector store and index, in the shape that they are compared in."""

import os

import numpy as np
import pyarrow.compute as pc

import holdfast
from holdfast.bench.peers.contest import OURS
from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.nearest import Found
from holdfast.bench.peers.vector_stores import Store, parts
from holdfast.bench.vector_data import Floats, K
from holdfast.bench.vectors import wait_for_index
from holdfast.workers.message import Durability


class Vectors:
    """The engine's vector store; exact, or by its index once that is made."""

    def __init__(self, directory: str, dimension: int, durability: Durability) -> None:
        self._engine = holdfast.open(directory)
        self._store = self._engine.vectors("rows", dimension=dimension, durability=durability)
        self._store.cancel_index()
        self._exact, self._breadth = True, K

    def add(self, first: int, rows: Floats) -> None:
        metadata = {"part": np.array(parts(first, len(rows)))}
        self._store.ingest(range(first, first + len(rows)), rows, metadata)

    def search(self, query: Floats) -> Found:
        if self._exact:
            return self._store.query(query, K, exact=True).ids
        return self._store.query(query, K, ef=self._breadth).ids

    def search_below(self, query: Floats, below: int) -> Found:
        return self._store.query(query, K, where=pc.field("part") < below, exact=True).ids

    def has(self, number: int) -> bool:
        """Whether a row is there, which is read."""
        return len(self._store.get([number]).ids) == 1

    def look_at(self, breadth: int) -> None:
        if self._exact:
            self._store.build_index()
            wait_for_index(self._store)
            self._exact = False
        self._breadth = max(K, breadth)

    def close(self) -> None:
        self._engine.close()


class Index:
    """The engine's index: a flat one, or a graph."""

    def __init__(self, directory: str, dimension: int, kind: str, durability: Durability) -> None:
        self._engine = holdfast.open(directory)
        self._index: holdfast.Index | holdfast.PersistedIndex = self._engine.index(
            "rows", kind=kind, dimension=dimension, metric="euclidean", durability=durability
        )
        self._breadth: int | None = None

    def add(self, first: int, rows: Floats) -> None:
        metadata = [{"part": part} for part in parts(first, len(rows))]
        self._index.insert_batch(range(first, first + len(rows)), rows, metadata)

    def search(self, query: Floats) -> Found:
        return _numbers(self._index.search(query, K, ef=self._breadth).ids)

    def search_below(self, query: Floats, below: int) -> Found:
        return _numbers(self._index.search(query, K, where=pc.field("part") < below).ids)

    def look_at(self, breadth: int) -> None:
        if self._breadth is None:
            self._index.optimize()
        self._breadth = max(K, breadth)

    def close(self) -> None:
        self._index.checkpoint()
        self._engine.close()


class InProcess(Index):
    """The same index without an engine, in this process."""

    def __init__(self, directory: str, dimension: int, durability: Durability) -> None:
        path = os.path.join(directory, "rows.iqdb")
        self._index = self._opened = holdfast.PersistedIndex.open(
            path, kind="flat", dimension=dimension, metric="euclidean", durability=durability
        )
        self._breadth = None

    def close(self) -> None:
        self._opened.checkpoint()
        self._opened.close()


def _numbers(ids: object) -> Found:
    return np.asarray(ids).astype(np.uint64)


UNSYNCED: dict[str, Kind[Store]] = {
    f"{OURS} vectors": Kind((), lambda path, d: Vectors(path, d, "never")),
    f"{OURS} index": Kind((), lambda path, d: Index(path, d, "flat", "never")),
    f"{OURS} PersistedIndex": Kind((), lambda path, d: InProcess(path, d, "never")),
}
GRAPH: dict[str, Kind[Store]] = {
    f"{OURS} index, hnsw": Kind(("faiss-cpu",), lambda path, d: Index(path, d, "hnsw", "never")),
}
SYNCED: dict[str, Kind[Store]] = {
    f"{OURS} vectors": Kind((), lambda path, d: Vectors(path, d, "always")),
    f"{OURS} index": Kind((), lambda path, d: Index(path, d, "flat", "always")),
    f"{OURS} PersistedIndex": Kind((), lambda path, d: InProcess(path, d, "always")),
}
