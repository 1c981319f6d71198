"""What vector stores are measured against: libraries in this process, and other stores.

``numpy`` and faiss are what the budgets speak of. The others stand beside in the table, each as its
authors mean it to be used, with its defaults; ``peers`` brings those with few dependencies, and the
rest are measured where they are installed. Vectors are unit length where the metric is cosine, so
that every peer may rank by the squared distance, ``l2``. Their ids are the rows' numbers.
"""

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from holdfast.bench.measure import version_of
from holdfast.bench.vector_data import Floats, K
from holdfast.workers.ann import AnnIndex
from holdfast.workers.search import Rows, squared_norms

Found = Sequence[int] | NDArray[np.integer]
_INSERTED_AT_ONCE = 5000


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

    def search_many(self, queries: Floats) -> NDArray[np.int64]:
        """The same for a batch (q, d): (q, K)."""
        self._faiss.omp_set_num_threads(os.cpu_count() or 1)
        found: NDArray[np.int64] = self._index.search(queries, K)[1]
        return found


class SqliteVec:
    """sqlite-vec's exact search, in memory; by apsw, as many a sqlite3 takes no extensions."""

    def __init__(self, directory: str, rows: Floats) -> None:
        apsw: Any = importlib.import_module("apsw")
        extension: Any = importlib.import_module("sqlite_vec")
        self._base = apsw.Connection(":memory:")
        self._base.enable_load_extension(True)
        self._base.load_extension(extension.loadable_path())
        self._base.execute(f"CREATE VIRTUAL TABLE rows USING vec0(v float[{rows.shape[1]}])")
        with self._base:
            self._base.executemany(
                "INSERT INTO rows(rowid, v) VALUES (?, ?)",
                ((number, row.tobytes()) for number, row in enumerate(rows)),
            )

    def search(self, query: Floats) -> Found:
        sql = "SELECT rowid FROM rows WHERE v MATCH ? AND k = ? ORDER BY distance"
        return [row[0] for row in self._base.execute(sql, (query.tobytes(), K))]


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


def lists_for(rows: int) -> int:
    """How many lists there are for so many rows: as many as the engine's index has."""
    return max(1, int(1.5 * rows**0.5))


class DuckDb:
    """DuckDB's exact search, in memory."""

    def __init__(self, directory: str, rows: Floats) -> None:
        duckdb: Any = importlib.import_module("duckdb")
        self._base = duckdb.connect()
        self._base.register("given", _as_arrow(rows))
        self._base.execute("CREATE TABLE rows AS SELECT * FROM given")
        self._sql = (
            f"SELECT id FROM rows ORDER BY array_distance(vector, ?::FLOAT[{rows.shape[1]}]) "
            f"LIMIT {K}"
        )

    def search(self, query: Floats) -> Found:
        found = self._base.execute(self._sql, [query.tolist()]).fetchnumpy()["id"]
        return np.asarray(found)


class LanceDb:
    """LanceDB's exact search."""

    def __init__(self, directory: str, rows: Floats) -> None:
        lancedb: Any = importlib.import_module("lancedb")
        self._table = lancedb.connect(directory).create_table("rows", _as_arrow(rows))

    def search(self, query: Floats) -> Found:
        found = self._table.search(query).limit(K).select(["id", "_distance"]).to_arrow()
        return np.asarray(found["id"])


class LanceDbLists(LanceDb):
    """LanceDB's IVF-Flat index, with its defaults."""

    def __init__(self, directory: str, rows: Floats) -> None:
        super().__init__(directory, rows)
        index: Any = importlib.import_module("lancedb.index")
        self._table.create_index("vector", config=index.IvfFlat(distance_type="l2"))


class Chroma:
    """Chroma's HNSW graph."""

    def __init__(self, directory: str, rows: Floats) -> None:
        chromadb: Any = importlib.import_module("chromadb")
        config: Any = importlib.import_module("chromadb.config")
        client = chromadb.PersistentClient(
            directory, settings=config.Settings(anonymized_telemetry=False)
        )
        self._rows = client.create_collection(
            "rows", embedding_function=None, configuration={"hnsw": {"space": "l2"}}
        )
        for start in range(0, len(rows), _INSERTED_AT_ONCE):
            part = rows[start : start + _INSERTED_AT_ONCE]
            self._rows.add([str(start + n) for n in range(len(part))], part)

    def search(self, query: Floats) -> Found:
        found = self._rows.query(query_embeddings=query[None], n_results=K, include=[])
        return [int(name) for name in found["ids"][0]]


def _as_arrow(rows: Floats) -> Any:
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])
    return pa.table({"id": pa.array(np.arange(len(rows), dtype=np.uint64)), "vector": vectors})


@dataclass(frozen=True, slots=True)
class Kind:
    """A peer: what it needs, and how to make one of rows, in an empty directory."""

    packages: tuple[str, ...]
    make: Callable[[str, Floats], Peer]


LIMITS = {
    "numpy": Kind((), Numpy),
    "faiss": Kind(("faiss-cpu",), FaissFlat),
}
"""What exact search is a multiple of."""
EXACT = {
    "usearch": Kind(("usearch",), UsearchExact),
    "sqlite-vec": Kind(("sqlite-vec", "apsw"), SqliteVec),
    "DuckDB": Kind(("duckdb",), DuckDb),
    "LanceDB": Kind(("lancedb",), LanceDb),
}
LIBRARY = {"faiss IVF-PQ": Kind(("faiss-cpu",), Library)}
"""What approximate search is a multiple of."""
APPROXIMATE = {
    "faiss HNSW": Kind(("faiss-cpu",), FaissGraph),
    "faiss IVF-Flat": Kind(("faiss-cpu",), FaissLists),
    "usearch HNSW": Kind(("usearch",), UsearchGraph),
    "LanceDB IVF-Flat": Kind(("lancedb",), LanceDbLists),
    "Chroma HNSW": Kind(("chromadb",), Chroma),
}


def has_faiss() -> bool:
    """Whether faiss is there, without which nothing here is approximate."""
    return version_of("faiss-cpu") is not None


def installed(kinds: Mapping[str, Kind]) -> list[str]:
    """The names of those that can be used."""
    return [name for name, kind in kinds.items() if all(map(version_of, kind.packages))]


def missing(kinds: Mapping[str, Kind]) -> str:
    """A note about those that cannot be used; empty when all can."""
    absent = [name for name in kinds if name not in installed(kinds)]
    return f"not installed, so not compared: {', '.join(absent)}" if absent else ""
