"""The stores that the fold is measured against: LMDB, RocksDB, SQLite and diskcache, at their best.

Durability is the same on both sides of every comparison. ``synced`` means that a write that has
returned survives a power loss: LMDB's default, RocksDB with ``sync`` and its log, SQLite in WAL
mode with ``synchronous=FULL``. Otherwise a write survives the death of the process alone: LMDB with
``sync=False``, RocksDB with its log but no sync, SQLite in WAL mode with ``synchronous=OFF``.
diskcache is SQLite underneath and takes the same two settings; its evictions are turned off.

Each may be used from many threads at once, as its authors mean it to be: LMDB and RocksDB order
their writers themselves, SQLite's one connection is taken in turn, which is faster than a
connection for each thread and their waiting for each other's locks.
"""

import importlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

from holdfast.bench.peers.kinds import Kind

Item = tuple[bytes, bytes]

_MAP_BYTES = 8 << 30
_CACHE_PAGES_KIB = 256 * 1024


class Peer(Protocol):
    """A store of keys and values."""

    def put(self, key: bytes, value: bytes) -> None:
        """Write one entry, in a transaction of its own."""
        ...

    def put_batch(self, items: Sequence[Item]) -> None:
        """Write these entries in one transaction."""
        ...

    def get(self, key: bytes) -> bytes | None:
        """The value under ``key``."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


@runtime_checkable
class Ordered(Peer, Protocol):
    """One that can also be read in order of key."""

    def range(self, prefix: bytes) -> list[Item]:
        """The entries under ``prefix``, in order."""
        ...


class Lmdb:
    """LMDB through py-lmdb."""

    def __init__(self, directory: str, *, synced: bool) -> None:
        lmdb: Any = importlib.import_module("lmdb")
        self._env = lmdb.open(
            directory, map_size=_MAP_BYTES, sync=synced, metasync=synced, max_spare_txns=64
        )

    def put(self, key: bytes, value: bytes) -> None:
        with self._env.begin(write=True) as txn:
            txn.put(key, value)

    def put_batch(self, items: Sequence[Item]) -> None:
        with self._env.begin(write=True) as txn:
            txn.cursor().putmulti(items)

    def get(self, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            found: bytes | None = txn.get(key)
            return found

    def range(self, prefix: bytes) -> list[Item]:
        with self._env.begin() as txn:
            return list(_under(txn.cursor(), prefix))

    def close(self) -> None:
        self._env.close()


def _under(cursor: Any, prefix: bytes) -> Iterator[Item]:
    if cursor.set_range(prefix):
        for key, value in cursor:
            if not key.startswith(prefix):
                return
            yield key, value


class RocksDb:
    """RocksDB through rocksdict, in its mode for plain bytes, with default options."""

    def __init__(self, directory: str, *, synced: bool) -> None:
        rocks: Any = importlib.import_module("rocksdict")
        self._rocks = rocks
        options = rocks.Options(raw_mode=True)
        options.create_if_missing(True)
        self._store = rocks.Rdict(directory, options)
        self._write = rocks.WriteOptions()
        self._write.sync = synced
        self._store.set_write_options(self._write)

    def put(self, key: bytes, value: bytes) -> None:
        self._store.put(key, value, self._write)

    def put_batch(self, items: Sequence[Item]) -> None:
        batch = self._rocks.WriteBatch(raw_mode=True)
        add = batch.put
        for key, value in items:
            add(key, value)
        self._store.write(batch, self._write)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._store.get(key)
        return found

    def range(self, prefix: bytes) -> list[Item]:
        found: list[Item] = []
        for key, value in self._store.items(from_key=prefix):
            if not key.startswith(prefix):
                break
            found.append((key, value))
        return found

    def close(self) -> None:
        self._store.close()


class Sqlite:
    """SQLite through the standard library, in WAL mode."""

    _PUT = "INSERT OR REPLACE INTO entries VALUES (?, ?)"

    def __init__(self, directory: str, *, synced: bool) -> None:
        self._lock = threading.Lock()
        self._base = sqlite3.connect(
            f"{directory}/peer.db", isolation_level=None, check_same_thread=False
        )
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute(f"PRAGMA synchronous={'FULL' if synced else 'OFF'}")
        self._base.execute(f"PRAGMA cache_size=-{_CACHE_PAGES_KIB}")
        self._base.execute("CREATE TABLE entries (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")

    def put(self, key: bytes, value: bytes) -> None:
        with self._lock:
            self._base.execute(self._PUT, (key, value))

    def put_batch(self, items: Sequence[Item]) -> None:
        with self._lock:
            self._base.execute("BEGIN")
            self._base.executemany(self._PUT, items)
            self._base.execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        found = self._base.execute("SELECT v FROM entries WHERE k = ?", (key,)).fetchone()
        return None if found is None else found[0]

    def range(self, prefix: bytes) -> list[Item]:
        end = prefix[:-1] + bytes([prefix[-1] + 1])
        query = "SELECT k, v FROM entries WHERE k >= ? AND k < ? ORDER BY k"
        return self._base.execute(query, (prefix, end)).fetchall()

    def close(self) -> None:
        self._base.close()


class DiskCache:
    """diskcache, which has no ranges."""

    def __init__(self, directory: str, *, synced: bool) -> None:
        diskcache: Any = importlib.import_module("diskcache")
        self._cache = diskcache.Cache(
            directory, eviction_policy="none", cull_limit=0, size_limit=_MAP_BYTES,
            sqlite_synchronous=2 if synced else 0, sqlite_cache_size=-_CACHE_PAGES_KIB,
        )  # fmt: skip

    def put(self, key: bytes, value: bytes) -> None:
        self._cache.set(key, value)

    def put_batch(self, items: Sequence[Item]) -> None:
        with self._cache.transact():
            for key, value in items:
                self._cache.set(key, value)

    def get(self, key: bytes) -> bytes | None:
        found: bytes | None = self._cache.get(key)
        return found

    def close(self) -> None:
        self._cache.close()


BESIDE: dict[str, Kind[Peer]] = {
    "LMDB": Kind(("lmdb",), Lmdb),
    "RocksDB": Kind(("rocksdict",), RocksDb),
    "SQLite": Kind((), Sqlite),
}
"""What the fold's budgets speak of; each makes a new store in an empty directory."""
PEERS: dict[str, Kind[Peer]] = BESIDE | {"diskcache": Kind(("diskcache",), DiskCache)}
