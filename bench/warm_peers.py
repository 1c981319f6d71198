"""What warm stores are measured against: what keeps and finds the same points in this process.

Each is used as its authors mean it to be, with its defaults where nothing is said. SQLite has the
points in a table that is its own index, in WAL mode; DuckDB in a table with an index, in a file;
Parquet as a dataset partitioned by entity and sorted by time. Mapped Arrow is no store but the
limit: one sorted file, and the places of the entities in it.
"""

import importlib
import os
import sqlite3
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from holdfast.bench.measure import version_of
from holdfast.bench.warm_data import DIMENSION, Columns, Sample, Window
from holdfast.formats.warm_chunk import vector_array
from holdfast.workers.raw_arrays import raw

_ROW_GROUP = 8192
_CACHE_KIB = 256 * 1024


class Written(Protocol):
    """Something that points can be added to."""

    def write(self, batch: Columns) -> None:
        """Add a batch, in a transaction of its own."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


class Read(Protocol):
    """Points of which those of an entity can be read by time."""

    def range(self, window: Window) -> int:
        """Read them, as columns; how many there were."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


class Sqlite:
    """SQLite through the standard library."""

    def __init__(self, directory: str, *, synced: bool) -> None:
        self._base = sqlite3.connect(os.path.join(directory, "points.db"), isolation_level=None)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute(f"PRAGMA synchronous={'FULL' if synced else 'OFF'}")
        self._base.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._base.execute(
            "CREATE TABLE points (entity INTEGER, time INTEGER, vector BLOB, "
            "PRIMARY KEY (entity, time)) WITHOUT ROWID"
        )

    @classmethod
    def filled(cls, directory: str, sample: Sample) -> "Sqlite":
        """One with these points."""
        peer = cls(directory, synced=False)
        peer.write(sample.points)
        return peer

    def write(self, batch: Columns) -> None:
        width = 4 * DIMENSION
        vectors = raw(batch.vectors)
        pieces = (vectors[at : at + width] for at in range(0, len(vectors), width))
        rows = zip(batch.entities.tolist(), batch.timestamps.tolist(), pieces, strict=True)
        self._base.execute("BEGIN")
        self._base.executemany("INSERT OR REPLACE INTO points VALUES (?, ?, ?)", rows)
        self._base.execute("COMMIT")

    def range(self, window: Window) -> int:
        query = "SELECT time, vector FROM points WHERE entity = ? AND time BETWEEN ? AND ?"
        found = self._base.execute(query, (window.entity, window.start, window.end)).fetchall()
        times = np.array([row[0] for row in found], np.int64)
        vectors = np.frombuffer(b"".join([row[1] for row in found]), np.float32)
        assert len(vectors) == len(times) * DIMENSION
        return len(times)

    def close(self) -> None:
        self._base.close()


class DuckDb:
    """DuckDB with its points in a file. It syncs every commit; there is no other way to have it."""

    def __init__(self, directory: str) -> None:
        duckdb: Any = importlib.import_module("duckdb")
        self._base = duckdb.connect(os.path.join(directory, "points.duckdb"))
        self._base.execute(
            f"CREATE TABLE points (entity UBIGINT, time BIGINT, vector FLOAT[{DIMENSION}])"
        )

    @classmethod
    def filled(cls, directory: str, sample: Sample) -> "DuckDb":
        """One with these points, sorted, and an index."""
        peer = cls(directory)
        peer.write(sample.points)
        peer._base.execute("CREATE INDEX by_key ON points (entity, time)")
        peer._base.execute("CHECKPOINT")
        return peer

    def write(self, batch: Columns) -> None:
        given = table(batch)
        self._base.register("given", given)
        self._base.execute("INSERT INTO points SELECT * FROM given")
        self._base.unregister("given")

    def range(self, window: Window) -> int:
        query = (
            "SELECT time, vector FROM points WHERE entity = ? AND time BETWEEN ? AND ? "
            "ORDER BY time"
        )
        asked = [window.entity, window.start, window.end]
        return int(self._base.sql(query, params=asked).to_arrow_table().num_rows)

    def close(self) -> None:
        self._base.close()


class Parquet:
    """A pyarrow dataset: one sorted file an entity, in row groups of 8,192."""

    def __init__(self, directory: str, sample: Sample) -> None:
        from pyarrow import dataset, parquet

        for entity in range(1, sample.entities + 1):
            folder = os.path.join(directory, f"entity={entity}")
            os.makedirs(folder)
            rows = table(sample.series(entity)).drop_columns(["entity"])
            parquet.write_table(
                rows, os.path.join(folder, "points.parquet"), row_group_size=_ROW_GROUP
            )
        self._field = dataset.field
        self._data = dataset.dataset(directory, partitioning="hive")

    def range(self, window: Window) -> int:
        field = self._field
        wanted = (
            (field("entity") == window.entity)
            & (field("time") >= window.start)
            & (field("time") <= window.end)
        )
        return int(self._data.to_table(columns=["time", "vector"], filter=wanted).num_rows)

    def close(self) -> None:
        pass


class MappedArrow:
    """One sorted Arrow file that stays mapped, unless it is to be mapped for each answer anew."""

    def __init__(self, directory: str, sample: Sample, *, kept: bool = True) -> None:
        self._path = os.path.join(directory, "points.arrow")
        whole = table(sample.points)
        with pa.OSFile(self._path, "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
            writer.write_table(whole)
        self._length = sample.length
        self._mapped: pa.RecordBatch | None = self._map() if kept else None

    def _map(self) -> pa.RecordBatch:
        return pa.ipc.open_file(pa.memory_map(self._path)).get_batch(0)

    def range(self, window: Window) -> int:
        batch = self._mapped or self._map()
        first = (window.entity - 1) * self._length
        times = batch.column("time").to_numpy()[first : first + self._length]
        start = int(times.searchsorted(window.start))
        stop = int(times.searchsorted(window.end, "right"))
        rows = batch.select(["time", "vector"]).slice(first + start, stop - start)
        return int(pa.Table.from_batches([rows]).num_rows)

    def close(self) -> None:
        self._mapped = None


def table(batch: Columns) -> pa.Table:
    """Points as an Arrow table, without a copy if they lie in order."""
    vectors = vector_array(np.ascontiguousarray(batch.vectors))
    return pa.table({"entity": batch.entities, "time": batch.timestamps, "vector": vectors})


READERS: dict[str, Callable[[str, Sample], Read]] = {
    "mapped Arrow": MappedArrow,
    "Parquet dataset": Parquet,
    "DuckDB": DuckDb.filled,
    "SQLite": Sqlite.filled,
}
"""How to make those that are read, with points in them, in an empty directory."""
_PACKAGES = {"DuckDB": "duckdb"}


def installed() -> list[str]:
    """The names of those that can be used."""
    return [name for name in READERS if name not in _PACKAGES or version_of(_PACKAGES[name])]


def missing() -> str:
    """A note about those that cannot be used; empty when all can."""
    absent = [name for name in READERS if name not in installed()]
    return f"not installed, so not compared: {', '.join(absent)}" if absent else ""
