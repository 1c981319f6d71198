"""An index made durable in the caller's own process: the same files as an engine's, no worker.

What an engine adds is that the index outlives its process, that many processes share it, and that a
call survives a death. What stays is everything about the files: see ``workers/index_store.py``.
"""

import os
import threading
import weakref
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Self, TypeVar

import pyarrow.compute as pc

from holdfast.forks import watch
from holdfast.formats.errors import (
    EngineClosed,
    HoldfastError,
    StoreExists,
    StoreIOError,
    from_os_error,
)
from holdfast.formats.iqdb_snapshot import (
    HEADER_BYTES_MAX,
    PREAMBLE_BYTES,
    SnapshotHeader,
    decode_header,
)
from holdfast.formats.iqdb_values import HnswParameters, Id, IndexFlaw, Metric
from holdfast.handles.fold import absolute
from holdfast.handles.index_parts import (
    AnyId,
    AnyMetadata,
    CheckedRows,
    Ids,
    IndexHits,
    IndexRow,
    as_index_id,
    as_index_ids,
    as_row,
    as_rows,
    as_search,
    decoded,
    hits_of,
    options,
)
from holdfast.options import store_spec
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import OsDisk
from holdfast.workers.foreign_index import ForeignIndex
from holdfast.workers.index import found_reply
from holdfast.workers.index_messages import (
    CompressionName,
    IndexInserted,
    IndexOptions,
    SnapshotInfo,
)
from holdfast.workers.index_snapshot import StoredIndex, flawed
from holdfast.workers.index_store import IndexStore, open_store
from holdfast.workers.log_file import Fatal
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.persistable import Persistable, check_class

T = TypeVar("T")


class PersistedIndex:
    """An index with its snapshot and log. Thread-safe; close it, or use it as a context manager.

    Obtained from ``open``, ``load`` or ``open_with``. Operations, arguments and errors are those of
    ``holdfast.Index``. One process at a time: a second gets ``StoreLocked``. After a failed sync
    every call raises ``StoreIOError``, since nothing more can be vouched for: open it again.

    A forked child lets go of the files at once, and has to wait for its parent to open them itself.
    An index that is dropped without ``close`` is closed all the same, at exit at the latest.
    """

    def __init__(self, store: IndexStore) -> None:
        self._store = store
        self._lock = threading.RLock()
        self._pid = os.getpid()
        self._closed = False
        self._failure: str | None = None
        self._timer: threading.Timer | None = None
        self._finalizer = weakref.finalize(self, _close_forgotten, store, self._pid)
        watch(self)

    # --- opening ---------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        kind: str | None = None,
        dimension: int | None = None,
        metric: Metric | None = None,
        hnsw: HnswParameters | None = None,
        compression: CompressionName = "none",
        level: int = 3,
        checkpoint_bytes: int | None = None,
        stamps: bool = True,
        salvage: bool = False,
        ratio_guard: bool = True,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
    ) -> Self:
        """Open the index at ``path``, making it if ``create`` and it is absent.

        Arguments and errors are those of ``Engine.index``.
        """
        asked = options(
            kind, dimension, metric, hnsw, compression, level, checkpoint_bytes, stamps, salvage,
            ratio_guard,
        )  # fmt: skip
        spec = _spec(path, asked, durability, interval, create=create)
        return cls(open_store(OsDisk(), spec, _no_tick, lock_wait_s=0.0))

    @classmethod
    def open_with(
        cls,
        index: Persistable,
        path: str | os.PathLike[str],
        *,
        compression: CompressionName = "none",
        level: int = 3,
        checkpoint_bytes: int | None = None,
        stamps: bool = True,
        durability: Durability | None = None,
        interval: float | None = None,
    ) -> Self:
        """Make an index of your own durable at ``path``. ``StoreExists`` if a file is there.

        From here on it belongs to what this returns: change it only through that.
        """
        check_class(type(index), type(index).__name__)
        asked = _options(compression, level, checkpoint_bytes, stamps)
        spec = _spec(path, asked, durability, interval, create=True)
        if os.path.exists(spec.path):
            raise StoreExists(f"{spec.path!r} exists", path=spec.path)
        first: StoredIndex
        first = index if isinstance(index, CoreIndex) else ForeignIndex(index)
        own = None if isinstance(index, CoreIndex) else type(index)
        return cls(open_store(OsDisk(), spec, _no_tick, cls=own, first=first, lock_wait_s=0.0))

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        index_class: type[Persistable] | None = None,
        *,
        compression: CompressionName = "none",
        level: int = 3,
        checkpoint_bytes: int | None = None,
        stamps: bool = True,
        salvage: bool = False,
        ratio_guard: bool = True,
        durability: Durability | None = None,
        interval: float | None = None,
    ) -> Self:
        """Open the index at ``path``, which holds one of ``index_class``, or a built-in one.

        Raises ``StoreNotFound``, ``StoreCorrupt``, ``InvalidFormat``, ``StoreLocked``.
        """
        own = None
        if index_class is not None:
            check_class(index_class, getattr(index_class, "__name__", repr(index_class)))
            own = None if issubclass(index_class, CoreIndex) else index_class
        asked = _options(compression, level, checkpoint_bytes, stamps, salvage, ratio_guard)
        spec = _spec(path, asked, durability, interval, create=False)
        return cls(open_store(OsDisk(), spec, _no_tick, cls=own, lock_wait_s=0.0))

    @staticmethod
    def read_header(path: str | os.PathLike[str]) -> SnapshotHeader:
        """What the snapshot at ``path`` says of itself; neither loaded nor checked beyond that.

        Raises ``InvalidFormat`` or ``StoreCorrupt`` for what is no header, ``StoreIOError``.
        """
        where = absolute(path)
        try:
            file = OsDisk().open(where)
            try:
                return decode_header(file.read_at(0, HEADER_BYTES_MAX + PREAMBLE_BYTES))
            finally:
                file.close()
        except IndexFlaw as flaw:
            raise flawed(where, flaw) from flaw
        except OSError as error:
            raise from_os_error(error, "read", where) from error

    # --- what it is ------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Path of the snapshot; the log is beside it, with ``.wal`` at the end."""
        return self._store.path

    @property
    def dimension(self) -> int:
        """Of every vector."""
        return self._store.index.dimension

    @property
    def metric(self) -> Metric:
        """``cosine``, ``dot``, ``euclidean``, ``manhattan`` or ``hamming``."""
        return self._store.index.metric

    @property
    def index(self) -> object:
        """The index itself; changes made to it directly are in no log.

        It is another object once a class of your own has refused a batch in the midst of it.
        """
        inner = self._store.index
        return inner.inner if isinstance(inner, ForeignIndex) else inner

    def __repr__(self) -> str:
        return f"<PersistedIndex of {len(self._store.index)} rows at {self.path!r}>"

    def __len__(self) -> int:
        return self._do(lambda: len(self._store.index))

    def __contains__(self, id: object) -> bool:
        return self._do(lambda: id in self._store.index)

    # --- writing ---------------------------------------------------------------------------

    def insert(self, id: AnyId, vector: object, metadata: AnyMetadata | None = None) -> None:
        """Add a row. See ``Index.insert``."""
        self._insert(as_row(id, vector, metadata, self.dimension), replace=False)

    def upsert(self, id: AnyId, vector: object, metadata: AnyMetadata | None = None) -> None:
        """Add or replace a row. See ``Index.upsert``."""
        self._insert(as_row(id, vector, metadata, self.dimension), replace=True)

    def insert_batch(self, ids: Ids, vectors: object, metadata: object = None) -> IndexInserted:
        """Add rows: one durable unit. See ``Index.insert_batch``."""
        return self._insert(as_rows(ids, vectors, metadata, self.dimension), replace=False)

    def upsert_batch(self, ids: Ids, vectors: object, metadata: object = None) -> IndexInserted:
        """Add or replace rows: one durable unit. See ``Index.upsert_batch``."""
        return self._insert(as_rows(ids, vectors, metadata, self.dimension), replace=True)

    def _insert(self, rows: CheckedRows, *, replace: bool) -> IndexInserted:
        return IndexInserted(*self._write(lambda: self._store.insert(*rows, replace=replace)))

    def delete(self, id: AnyId, *, missing_ok: bool = False) -> bool:
        """Delete a row; returns whether it was there. ``NotFound``, unless ``missing_ok``."""
        checked = [as_index_id(id)]
        return self._write(lambda: self._store.delete(checked, missing_ok=missing_ok)) > 0

    def delete_batch(self, ids: Ids, *, missing_ok: bool = False) -> int:
        """Delete rows: one durable unit; returns how many there were."""
        checked = as_index_ids(ids)
        return self._write(lambda: self._store.delete(checked, missing_ok=missing_ok))

    # --- reading ---------------------------------------------------------------------------

    def search(
        self,
        vectors: object,
        k: int = 10,
        *,
        where: pc.Expression | None = None,
        exact: bool = False,
        ef: int | None = None,
        metadata: bool = False,
    ) -> IndexHits:
        """The ``k`` nearest rows. See ``Index.search``."""
        queries, single, count, condition, breadth = as_search(
            vectors, k, where, ef, self.dimension
        )
        found = self._do(
            lambda: self._store.index.find(
                queries, count, where=condition, exact=exact, ef=breadth, tick=_no_tick
            )
        )
        return hits_of(found_reply(found, metadata), len(queries), single)

    def get(self, ids: Ids) -> list[IndexRow]:
        """The rows of these ids, in that order; ids that are not there are left out."""
        checked = as_index_ids(ids)
        listed: list[Id] = checked if isinstance(checked, list) else checked.tolist()
        return self._do(
            lambda: [
                IndexRow(row[0], row[1].copy(), decoded(row[2]))
                for row in self._store.index.take(listed)
                if row is not None
            ]
        )

    # --- the files -------------------------------------------------------------------------

    def checkpoint(self) -> None:
        """Write a snapshot and begin the log anew. It happens by itself when the log is long."""
        self._do(lambda: _finish(self._store.checkpoint()))

    def save(self) -> None:
        """Write a snapshot and leave the log as it is."""
        self._do(lambda: _finish(self._store.checkpoint(reset=False)))

    def sync(self) -> None:
        """Return once everything written is on stable storage, whatever the policy."""
        self._do(self._store.group.sync)

    def header(self) -> SnapshotInfo:
        """What the snapshot says of itself, which is from before what is in the log."""
        return self._do(self._store.snapshot_info)

    def optimize(self) -> int:
        """Bring every row into the graph of an ``hnsw`` index; returns how many are in it."""
        index = self._store.index
        while self._do(index.optimize_step):
            pass
        return index.graph_rows

    def close(self) -> None:
        """Sync and let go of the files. A second call does nothing."""
        with self._lock:
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._finalizer.detach()
            if self._failure is None:
                self._guarded(self._store.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- how -------------------------------------------------------------------------------

    def _write(self, change: Callable[[], T]) -> T:
        """Make a change, make it as durable as the policy says, and checkpoint if it is time."""
        with self._lock:
            result = self._do(change)
            self._guarded(self._store.group.commit)
            if self._store.needs_checkpoint():
                try:
                    self._guarded(lambda: _finish(self._store.checkpoint()))
                except HoldfastError as error:
                    if self._failure is not None:
                        raise
                    self._store.put_off(error)
            self._set_timer()
            return result

    def _do(self, action: Callable[[], T]) -> T:
        with self._lock:
            if os.getpid() != self._pid:
                raise EngineClosed(f"{self.path!r} was opened in another process: open it here")
            if self._closed:
                raise EngineClosed(f"{self.path!r} was closed")
            if self._failure is not None:
                raise StoreIOError(f"{self._failure}; open it again", path=self.path)
            return self._guarded(action)

    def _guarded(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except Fatal as fatal:
            self._failure = str(fatal)
            self._finalizer.detach()
            self._store.abandon()
            raise StoreIOError(f"{fatal}; open it again", path=self.path) from fatal

    def _leave_to_parent(self) -> None:
        """In a forked child: let go of the files, whose locks are the parent's."""
        self._lock = threading.RLock()  # another thread may have had it, which is not here
        self._timer = None
        if self._finalizer.detach() is not None:  # it was neither closed nor failed
            self._store.abandon()

    def _set_timer(self) -> None:
        due = self._store.group.due_in()
        if due is None or self._timer is not None:
            return
        self._timer = threading.Timer(due, self._sync_due)
        self._timer.daemon = True
        self._timer.start()

    def _sync_due(self) -> None:
        with self._lock:
            self._timer = None
            if self._closed or self._failure is not None:
                return
            try:
                self._guarded(self._store.group.commit)
            except StoreIOError:
                return  # the next call says so
            self._set_timer()


def _close_forgotten(store: IndexStore, pid: int) -> None:
    """Close an index that nobody has any more."""
    if os.getpid() != pid:
        return
    try:
        store.close()
    except (Fatal, HoldfastError, OSError):
        store.abandon()  # nobody is left to be told, and a successor recovers what there is


def _no_tick() -> None:
    pass


def _finish(steps: Generator[object, None, None]) -> None:
    for _ in steps:
        pass


def _options(
    compression: CompressionName,
    level: int,
    checkpoint_bytes: int | None,
    stamps: bool,
    salvage: bool = False,
    ratio_guard: bool = True,
) -> IndexOptions:
    return options(
        None, None, None, None, compression, level, checkpoint_bytes, stamps, salvage, ratio_guard
    )


def _spec(
    path: str | os.PathLike[str],
    asked: IndexOptions,
    durability: Durability | None,
    interval: float | None,
    *,
    create: bool,
) -> StoreSpec:
    where = os.path.realpath(absolute(path))
    name = os.path.basename(where)
    return store_spec("index", name, where, durability, interval, create=create, options=asked)
