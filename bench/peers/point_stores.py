"""What warm stores are measured against: what keeps and finds the same points in this process.

Each is used as its authors mean it to be, with its defaults where nothing is said. SQLite has the
points in a table that is its own index, in WAL mode; DuckDB in a table with an index, in a file;
Parquet as a dataset partitioned by entity and sorted by time. Mapped Arrow is no store but the
limit: one sorted file, and the places of the entities in it.
"""

import importlib
import os
import sqlite3
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from holdfast.bench.peers.kinds import Kind
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

    def scan(self) -> int:
        """Read all points, as columns in order of entity and time; how many there were."""
        ...

    def get(self, entity: int, time: int) -> int:
        """Read the vector of one point; how many numbers it has, 0 if it is not there."""
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
        return _columns(found)

    def scan(self) -> int:
        query = "SELECT time, vector, entity FROM points ORDER BY entity, time"
        return _columns(self._base.execute(query).fetchall())

    def get(self, entity: int, time: int) -> int:
        query = "SELECT vector FROM points WHERE entity = ? AND time = ?"
        found = self._base.execute(query, (entity, time)).fetchone()
        return 0 if found is None else len(np.frombuffer(found[0], np.float32))

    def close(self) -> None:
        self._base.close()


def _columns(found: list[Any]) -> int:
    """Rows of time, vector and what else, as numpy arrays; how many there are."""
    times, vectors, *others = zip(*found, strict=True) if found else ((), ())
    for column in (times, *others):
        np.array(column, np.int64)
    assert len(np.frombuffer(b"".join(vectors), np.float32)) == len(times) * DIMENSION
    return len(times)


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

    def scan(self) -> int:
        query = "SELECT entity, time, vector FROM points ORDER BY entity, time"
        return int(self._base.sql(query).to_arrow_table().num_rows)

    def get(self, entity: int, time: int) -> int:
        query = "SELECT vector FROM points WHERE entity = ? AND time = ?"
        found = self._base.execute(query, [entity, time]).fetchall()
        return len(found[0][0]) if found else 0

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

    def scan(self) -> int:
        return int(self._data.to_table(columns=["entity", "time", "vector"]).num_rows)

    def get(self, entity: int, time: int) -> int:
        wanted = (self._field("entity") == entity) & (self._field("time") == time)
        found = self._data.to_table(columns=["vector"], filter=wanted)
        return len(found["vector"][0]) if len(found) else 0

    def close(self) -> None:
        pass


class ParquetFiles:
    """A new Parquet file for every batch, sorted, written without a sync."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._count = 0

    def write(self, batch: Columns) -> None:
        from pyarrow import parquet

        rows = table(batch).sort_by([("entity", "ascending"), ("time", "ascending")])
        path = os.path.join(self._directory, f"{self._count}.parquet")
        parquet.write_table(rows, path, row_group_size=_ROW_GROUP)
        self._count += 1

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

    def scan(self) -> int:
        return int(pa.Table.from_batches([self._mapped or self._map()]).num_rows)

    def get(self, entity: int, time: int) -> int:
        batch = self._mapped or self._map()
        first = (entity - 1) * self._length
        times = batch.column("time").to_numpy()[first : first + self._length]
        place = int(times.searchsorted(time))
        there = place < len(times) and times[place] == time
        return len(batch.column("vector")[first + place]) if there else 0

    def close(self) -> None:
        self._mapped = None


def table(batch: Columns) -> pa.Table:
    """Points as an Arrow table, without a copy if they lie in order."""
    vectors = vector_array(np.ascontiguousarray(batch.vectors))
    return pa.table({"entity": batch.entities, "time": batch.timestamps, "vector": vectors})


READERS: dict[str, Kind[Read]] = {
    "mapped Arrow": Kind((), MappedArrow),
    "Parquet dataset": Kind((), Parquet),
    "DuckDB": Kind(("duckdb",), DuckDb.filled),
    "SQLite": Kind((), Sqlite.filled),
}
"""How to make those that are read, with points in them, in an empty directory."""
SYNCED: dict[str, Kind[Written]] = {
    "DuckDB": Kind(("duckdb",), DuckDb),
    "SQLite": Kind((), partial(Sqlite, synced=True)),
}
"""How to make those that are written to, empty, in an empty directory, synced at every commit."""
UNSYNCED: dict[str, Kind[Written]] = {
    "Parquet, a file a batch": Kind((), ParquetFiles),
    "SQLite": Kind((), partial(Sqlite, synced=False)),
}
"""The same, never synced by order."""
