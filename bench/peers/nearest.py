"""What searching vectors is measured against: libraries that have them in this process's memory.

``numpy`` and faiss are what the budgets speak of. The others stand beside in the table, each as its
authors mean it to be used, with its defaults. Vectors are unit length where the metric is cosine,
so that every peer may rank by the squared distance, ``l2``. Their ids are the rows' numbers, and
filters look at the *part* a row belongs to, which is its number modulo 100.
"""

import importlib
import os
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from holdfast.bench.vector_data import Floats, K
from holdfast.workers.ann import AnnIndex
from holdfast.workers.search import Rows, squared_norms

Found = Sequence[int] | NDArray[np.integer]
PARTS = 100


class Peer(Protocol):
    """Rows that can be searched."""

    def search(self, query: Floats) -> Found:
        """The ids of the rows nearest to one query (d,), nearest first."""
        ...


@runtime_checkable
class Tunable(Peer, Protocol):
    """An index that can be told how much of it to look at."""

    def look_at(self, breadth: int) -> None:
        """The more, the slower and the nearer to exact."""
        ...


@runtime_checkable
class Filtering(Peer, Protocol):
    """Rows that can be searched with a condition."""

    def search_below(self, query: Floats, below: int) -> Found:
        """The nearest of the rows whose part is below this."""
        ...


class Numpy:
    """The matrix-vector product of BLAS, and ``argpartition``."""

    def __init__(self, directory: str, rows: Floats) -> None:
        self._rows = rows
        self._norms = np.einsum("ij,ij->i", rows, rows)

    def search(self, query: Floats) -> Found:
        scores = self._norms - 2 * (self._rows @ query)
        best = np.argpartition(scores, K - 1)[:K]
        return best[np.argsort(scores[best])]


class FaissFlat:
    """faiss ``IndexFlatL2``: one thread for one query, which is faster than several; all for more.

    Creating it sets the number of threads that faiss uses in this process.
    """

    def __init__(self, directory: str, rows: Floats) -> None:
        self._faiss: Any = importlib.import_module("faiss")
        self._index = self._faiss.IndexFlatL2(rows.shape[1])
        self._index.add(rows)

    def search(self, query: Floats) -> Found:
        self._faiss.omp_set_num_threads(1)
        found: NDArray[np.int64] = self._index.search(query[None], K)[1][0]
        return found

    def search_below(self, query: Floats, below: int) -> Found:
        """The nearest of the rows whose part is below this."""
        self._faiss.omp_set_num_threads(1)
        numbers = np.arange(self._index.ntotal)
        chosen = self._faiss.IDSelectorBatch(numbers[numbers % PARTS < below])
        parameters = self._faiss.SearchParameters(sel=chosen)
        found: NDArray[np.int64] = self._index.search(query[None], K, params=parameters)[1][0]
        return found

    def search_many(self, queries: Floats) -> NDArray[np.int64]:
        """The same for a batch (q, d): (q, K)."""
        self._faiss.omp_set_num_threads(os.cpu_count() or 1)
        found: NDArray[np.int64] = self._index.search(queries, K)[1]
        return found


class UsearchExact:
    """usearch's exact search over an array."""

    def __init__(self, directory: str, rows: Floats) -> None:
        module: Any = importlib.import_module("usearch.index")
        self._search, self._metric = module.search, module.MetricKind.L2sq
        self._rows = rows

    def search(self, query: Floats) -> Found:
        matches = self._search(self._rows, query, K, self._metric, exact=True)
        found: NDArray[np.uint64] = matches.keys
        return found


class UsearchGraph:
    """usearch's HNSW graph."""

    def __init__(self, directory: str, rows: Floats) -> None:
        module: Any = importlib.import_module("usearch.index")
        self._index = module.Index(ndim=rows.shape[1], metric="l2sq")
        self._index.add(np.arange(len(rows), dtype=np.uint64), rows)

    def look_at(self, breadth: int) -> None:
        self._index.expansion_search = breadth

    def search(self, query: Floats) -> Found:
        found: NDArray[np.uint64] = self._index.search(query, K).keys
        return found


class _FaissIndex:
    """An index of faiss, made by ``index_factory``."""

    def __init__(self, description: str, rows: Floats) -> None:
        self._faiss: Any = importlib.import_module("faiss")
        self._faiss.omp_set_num_threads(os.cpu_count() or 1)
        self.index = self._faiss.index_factory(rows.shape[1], description)
        self.index.train(rows)
        self.index.add(rows)
        self._faiss.omp_set_num_threads(1)

    def search(self, query: Floats) -> Found:
        found: NDArray[np.int64] = self.index.search(query[None], K)[1][0]
        return found


class FaissGraph(_FaissIndex):
    """faiss's HNSW graph, with 32 links a row."""

    def __init__(self, directory: str, rows: Floats) -> None:
        super().__init__("HNSW32,Flat", rows)

    def look_at(self, breadth: int) -> None:
        self.index.hnsw.efSearch = breadth


class FaissLists(_FaissIndex):
    """faiss's inverted lists of whole vectors."""

    def __init__(self, directory: str, rows: Floats) -> None:
        super().__init__(f"IVF{lists_for(len(rows))},Flat", rows)

    def look_at(self, breadth: int) -> None:
        self.index.nprobe = breadth


class Library(_FaissIndex):
    """The engine's kind of index with the parameters that the engine finds, by faiss alone.

    Rotated vectors in lists of product codes, of which the best are measured.
    """

    def __init__(self, directory: str, rows: Floats) -> None:
        norms, live = squared_norms(rows), np.ones(len(rows), np.bool_)
        blocks = [Rows(0, np.arange(len(rows), dtype=np.uint64), rows, norms)]
        own = AnnIndex.build(blocks, live, "l2", progress=lambda *_: None, cancelled=lambda: False)
        assert own is not None
        found = own.to_cache(bytes(16), bytes(32))
        codes = f"PQ{len(found.codebook)}x4fs{'r' if found.residual else ''}"
        super().__init__(f"RR{rows.shape[1]},IVF{own.lists},{codes},RFlat", rows)
        self._lists = self._faiss.extract_index_ivf(self.index)
        self._breadth, self._depth = found.breadths[0], found.depths[0]

    def look_at(self, breadth: int) -> None:
        """So many candidates, at least as many as the engine takes, and lists in proportion."""
        depth = max(breadth, self._depth)
        self.index.k_factor = depth / K
        self._lists.nprobe = self._breadth * depth // self._depth


class HnswlibGraph:
    """hnswlib's graph, with 32 links a row."""

    def __init__(self, directory: str, rows: Floats) -> None:
        hnswlib: Any = importlib.import_module("hnswlib")
        self.index = hnswlib.Index("l2", rows.shape[1])
        self.index.init_index(len(rows), M=16, ef_construction=200)
        self.index.add_items(rows)
        self.index.set_num_threads(1)

    def look_at(self, breadth: int) -> None:
        self.index.set_ef(max(K, breadth))

    def search(self, query: Floats) -> Found:
        found: NDArray[np.uint64] = self.index.knn_query(query, K)[0][0]
        return found

    def search_below(self, query: Floats, below: int) -> Found:
        found: NDArray[np.uint64] = self.index.knn_query(
            query, K, filter=lambda number: number % PARTS < below
        )[0][0]
        return found


def lists_for(rows: int) -> int:
    """How many lists there are for so many rows: as many as the engine's index has."""
    return max(1, int(1.5 * rows**0.5))
