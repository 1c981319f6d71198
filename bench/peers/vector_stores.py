"""What vector stores are measured against: stores that keep vectors in files.

Every batch is a transaction. ``synced`` means that a batch that was added survives a power loss:
SQLite in WAL mode with ``synchronous=FULL``, DuckDB and Chroma as they come. LanceDB never syncs
what it writes, so it takes part only where nobody does.
"""

import importlib
import os
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from holdfast.bench.peers.nearest import PARTS, Filtering, Found
from holdfast.bench.vector_data import Floats, K

_INSERTED_AT_ONCE = 5000


class Store(Filtering, Protocol):
    """A store that rows can be added to. Made in a directory: anew, or of what is there."""

    def add(self, first: int, rows: Floats) -> None:
        """Add rows with the ids ``first`` and up, in one transaction."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


def parts(first: int, count: int) -> list[int]:
    """The parts of these rows."""
    return [number % PARTS for number in range(first, first + count)]


class SqliteVec:
    """sqlite-vec's exact search, in a file; by apsw, as many a sqlite3 takes no extensions."""

    def __init__(self, directory: str, dimension: int, *, synced: bool) -> None:
        apsw: Any = importlib.import_module("apsw")
        extension: Any = importlib.import_module("sqlite_vec")
        self._base = apsw.Connection(os.path.join(directory, "rows.db"))
        self._base.enable_load_extension(True)
        self._base.load_extension(extension.loadable_path())
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute(f"PRAGMA synchronous={'FULL' if synced else 'OFF'}")
        self._base.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS rows "
            f"USING vec0(v float[{dimension}], part integer)"
        )

    def add(self, first: int, rows: Floats) -> None:
        with self._base:
            self._base.executemany(
                "INSERT INTO rows(rowid, v, part) VALUES (?, ?, ?)",
                ((n, row.tobytes(), n % PARTS) for n, row in enumerate(rows, first)),
            )

    def search(self, query: Floats) -> Found:
        sql = "SELECT rowid FROM rows WHERE v MATCH ? AND k = ? ORDER BY distance"
        return [row[0] for row in self._base.execute(sql, (query.tobytes(), K))]

    def search_below(self, query: Floats, below: int) -> Found:
        sql = "SELECT rowid FROM rows WHERE v MATCH ? AND k = ? AND part < ? ORDER BY distance"
        return [row[0] for row in self._base.execute(sql, (query.tobytes(), K, below))]

    def close(self) -> None:
        self._base.close()


class DuckDb:
    """DuckDB's exact search, in a file. It syncs every commit."""

    def __init__(self, directory: str, dimension: int) -> None:
        duckdb: Any = importlib.import_module("duckdb")
        self._base = duckdb.connect(os.path.join(directory, "rows.duckdb"))
        self._base.execute(
            f"CREATE TABLE IF NOT EXISTS rows (id UBIGINT, vector FLOAT[{dimension}], part INTEGER)"
        )
        self._order = f"ORDER BY array_distance(vector, ?::FLOAT[{dimension}]) LIMIT {K}"

    def add(self, first: int, rows: Floats) -> None:
        self._base.register("given", _as_arrow(first, rows))
        self._base.execute("INSERT INTO rows SELECT * FROM given")
        self._base.unregister("given")

    def search(self, query: Floats) -> Found:
        sql = f"SELECT id FROM rows {self._order}"
        return np.asarray(self._base.execute(sql, [query.tolist()]).fetchnumpy()["id"])

    def search_below(self, query: Floats, below: int) -> Found:
        sql = f"SELECT id FROM rows WHERE part < ? {self._order}"
        return np.asarray(self._base.execute(sql, [below, query.tolist()]).fetchnumpy()["id"])

    def close(self) -> None:
        self._base.close()


class LanceDb:
    """LanceDB's exact search; filters before it searches."""

    def __init__(self, directory: str, dimension: int) -> None:
        lancedb: Any = importlib.import_module("lancedb")
        # The processes that are forked after it has been loaded do not use it.
        warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
        schema = _as_arrow(0, np.zeros((0, dimension), np.float32)).schema
        self._table = lancedb.connect(directory).create_table("rows", schema=schema, exist_ok=True)

    def add(self, first: int, rows: Floats) -> None:
        self._table.add(_as_arrow(first, rows))

    def search(self, query: Floats) -> Found:
        found = self._table.search(query).limit(K).select(["id", "_distance"]).to_arrow()
        return np.asarray(found["id"])

    def search_below(self, query: Floats, below: int) -> Found:
        searched = self._table.search(query).where(f"part < {below}", prefilter=True)
        return np.asarray(searched.limit(K).select(["id", "_distance"]).to_arrow()["id"])

    def close(self) -> None:
        pass


class LanceDbLists(LanceDb):
    """LanceDB's IVF-Flat index, with its defaults."""

    def index(self) -> None:
        """Make the index of the rows that are there."""
        module: Any = importlib.import_module("lancedb.index")
        self._table.create_index("vector", config=module.IvfFlat(distance_type="l2"))


class Chroma:
    """Chroma's HNSW graph. It syncs every batch."""

    def __init__(self, directory: str, dimension: int) -> None:
        chromadb: Any = importlib.import_module("chromadb")
        config: Any = importlib.import_module("chromadb.config")
        self._client = chromadb.PersistentClient(
            directory, settings=config.Settings(anonymized_telemetry=False)
        )
        self._rows = self._client.get_or_create_collection(
            "rows", embedding_function=None, configuration={"hnsw": {"space": "l2"}}
        )

    def add(self, first: int, rows: Floats) -> None:
        names = [str(first + n) for n in range(len(rows))]
        self._rows.add(names, rows, metadatas=[{"part": p} for p in parts(first, len(rows))])

    def search(self, query: Floats) -> Found:
        return _numbers(self._rows.query(query_embeddings=query[None], n_results=K, include=[]))

    def search_below(self, query: Floats, below: int) -> Found:
        return _numbers(
            self._rows.query(
                query_embeddings=query[None], n_results=K, include=[],
                where={"part": {"$lt": below}},
            )
        )  # fmt: skip

    def close(self) -> None:
        # What a client has open is shared by all clients of a directory, so that it has to go too.
        self._client.close()


def _numbers(found: Any) -> list[int]:
    return [int(name) for name in found["ids"][0]]


def _as_arrow(first: int, rows: Floats) -> pa.Table:
    flat = pa.array(np.ascontiguousarray(rows).reshape(-1))
    return pa.table(
        {
            "id": pa.array(np.arange(first, first + len(rows), dtype=np.uint64)),
            "vector": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1]),
            "part": pa.array(parts(first, len(rows)), pa.int32()),
        }
    )


def filled(make: Callable[[str, int], Store]) -> Callable[[str, Floats], Store]:
    """How to make a store of rows, in an empty directory."""

    def made(directory: str, rows: Floats) -> Store:
        store = make(directory, rows.shape[1])
        fill(store, rows)
        if isinstance(store, LanceDbLists):
            store.index()
        return store

    return made


def fill(store: Store, rows: Floats, at_once: int = _INSERTED_AT_ONCE) -> None:
    """Add all rows, with their numbers as ids."""
    for start in range(0, len(rows), at_once):
        store.add(start, rows[start : start + at_once])
