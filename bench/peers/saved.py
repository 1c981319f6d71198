"""Vectors in a file that is written and synced as a whole: what libraries have instead of a log."""

import contextlib
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from holdfast.bench.peers.kinds import Kind
from holdfast.bench.peers.nearest import Found
from holdfast.bench.peers.own_vectors import SYNCED
from holdfast.bench.peers.vector_stores import Store
from holdfast.bench.vector_data import Floats, K


class Saved(Protocol):
    """Where rows are kept; nothing is opened until it is asked for."""

    def save(self, rows: Floats) -> None:
        """Keep these rows, with their numbers as ids: on the disk when this returns."""
        ...

    def first_answer(self, query: Floats) -> Found:
        """Open what was kept and search it."""
        ...

    def close(self) -> None:
        """Let go of what was opened."""
        ...


class OwnStore:
    """A store of the engine's: one durable call, and opened together with its engine."""

    def __init__(self, make: Callable[[str, int], Store], directory: str, dimension: int) -> None:
        self._make = partial(make, directory, dimension)
        self._opened = contextlib.ExitStack()

    def save(self, rows: Floats) -> None:
        with contextlib.closing(self._make()) as store:
            store.add(0, rows)

    def first_answer(self, query: Floats) -> Found:
        return self._opened.enter_context(contextlib.closing(self._make())).search(query)

    def close(self) -> None:
        self._opened.close()


class _Library(ABC):
    """An index in memory, and a file that it is written to as a whole."""

    def __init__(self, directory: str, dimension: int) -> None:
        self._path, self.dimension = os.path.join(directory, "index"), dimension

    def save(self, rows: Floats) -> None:
        self.write(rows, self._path)
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def first_answer(self, query: Floats) -> Found:
        return self.answer(self._path, query)

    @abstractmethod
    def write(self, rows: Floats, path: str) -> None:
        """Make an index of these rows, and write it to a file."""

    @abstractmethod
    def answer(self, path: str, query: Floats) -> Found:
        """Read that file, and look for the nearest row."""

    def close(self) -> None:  # noqa: B027 # nothing stays open
        pass


class FaissFlat(_Library):
    """faiss ``IndexFlatL2``."""

    def write(self, rows: Floats, path: str) -> None:
        faiss: Any = importlib.import_module("faiss")
        index = faiss.IndexFlatL2(self.dimension)
        index.add(rows)
        faiss.write_index(index, path)

    def answer(self, path: str, query: Floats) -> Found:
        faiss: Any = importlib.import_module("faiss")
        return np.asarray(faiss.read_index(path).search(query[None], K)[1][0])


class Hnswlib(_Library):
    """hnswlib's graph."""

    def write(self, rows: Floats, path: str) -> None:
        hnswlib: Any = importlib.import_module("hnswlib")
        index = hnswlib.Index("l2", self.dimension)
        index.init_index(len(rows), M=16, ef_construction=200)
        index.add_items(rows)
        index.save_index(path)

    def answer(self, path: str, query: Floats) -> Found:
        hnswlib: Any = importlib.import_module("hnswlib")
        index = hnswlib.Index("l2", self.dimension)
        index.load_index(path)
        return np.asarray(index.knn_query(query, K)[0][0])


class Usearch(_Library):
    """usearch's graph."""

    def write(self, rows: Floats, path: str) -> None:
        module: Any = importlib.import_module("usearch.index")
        index = module.Index(ndim=self.dimension, metric="l2sq")
        index.add(np.arange(len(rows), dtype=np.uint64), rows)
        index.save(path)

    def answer(self, path: str, query: Floats) -> Found:
        module: Any = importlib.import_module("usearch.index")
        return np.asarray(module.Index.restore(path).search(query, K).keys)


def _own(make: Callable[[str, int], Store]) -> Kind[Saved]:
    return Kind((), lambda directory, dimension: OwnStore(make, directory, dimension))


KINDS: dict[str, Kind[Saved]] = {
    **{name: _own(kind.make) for name, kind in SYNCED.items()},
    "faiss flat": Kind(("faiss-cpu",), FaissFlat),
    "hnswlib": Kind(("hnswlib",), Hnswlib),
    "usearch": Kind(("usearch",), Usearch),
}
"""Each is made with a directory and a dimension."""
