"""An index made durable in the caller's own process: the same files as an engine's, no worker.

What an engine adds is that the index outlives its process, that many processes share it, and that a
call survives a death. What stays is everything about the files: see ``workers/index_store.py``.
"""

import os
from collections.abc import Iterator
from typing import Self, cast

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from holdfast.formats.errors import StoreExists
from holdfast.formats.iqdb_values import HnswParameters, Id, Metric
from holdfast.handles.base import Sized
from holdfast.handles.checks import check_flag
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
    hits_of,
    id_of_row,
    ids_of,
    itself,
    listed,
    options,
    page_of,
    rows_of,
)
from holdfast.options import store_spec
from holdfast.owned_index import OwnedIndex, finish
from holdfast.workers.core_index import CoreIndex
from holdfast.workers.disk import OsDisk
from holdfast.workers.foreign_index import ForeignIndex
from holdfast.workers.index_answers import found_reply, page_reply, rows_reply, status_of
from holdfast.workers.index_check import verify_steps
from holdfast.workers.index_header import told_by
from holdfast.workers.index_messages import (
    CompressionName,
    IndexInserted,
    IndexOptions,
    IndexRows,
    IndexStatus,
    IndexVerified,
    SnapshotInfo,
)
from holdfast.workers.index_snapshot import StoredIndex
from holdfast.workers.index_store import open_store
from holdfast.workers.message import Durability
from holdfast.workers.messages import Compacted, StoreSpec
from holdfast.workers.persistable import Persistable, check_class


class PersistedIndex(OwnedIndex, Sized):
    """An index with its snapshot and log. Thread-safe; close it, or use it as a context manager.

    Obtained from ``open``, ``load`` or ``open_with``. Operations, arguments and errors are those of
    ``holdfast.Index``. One process at a time: a second gets ``StoreLocked``. After a failed sync,
    or when Ctrl-C or want of memory breaks off a call that changes something, the files are let go
    of as if the process had died, and every call raises ``StoreIOError``: open it again.

    A forked child lets go of the files at once, and has to wait for its parent to open them itself.
    An index that is dropped without ``close`` is closed all the same, at exit at the latest.
    """

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
    def read_header(path: str | os.PathLike[str]) -> SnapshotInfo:
        """What the snapshot at ``path`` says of itself; neither loaded nor checked beyond that.

        Raises ``InvalidFormat`` or ``StoreCorrupt`` for what is no header, ``StoreIOError``.
        """
        return told_by(OsDisk(), absolute(path))

    # --- what it is ------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """``flat``, ``hnsw``, ``ivf`` or ``custom``."""
        return self._store.index.kind

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

    def __contains__(self, id: object) -> bool:
        return self.contains(cast("AnyId", id))

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
        return self._deleted([as_index_id(id)], missing_ok) > 0

    def delete_batch(self, ids: Ids, *, missing_ok: bool = False) -> int:
        """Delete rows: one durable unit; returns how many there were."""
        return self._deleted(as_index_ids(ids), missing_ok)

    def _deleted(self, ids: "NDArray[np.uint64] | list[Id]", missing_ok: bool) -> int:
        check_flag("missing_ok", missing_ok)
        return self._write(lambda: self._store.delete(ids, missing_ok=missing_ok))

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
        check_flag("exact", exact)
        check_flag("metadata", metadata)
        found = self._read(
            lambda: self._store.index.find(
                queries, count, where=condition, exact=exact, ef=breadth, tick=_no_tick
            )
        )
        return hits_of(found_reply(found, metadata), len(queries), single)

    def get(self, ids: Ids) -> list[IndexRow]:
        """The rows of these ids, in that order; ids that are not there are left out."""
        checked = as_index_ids(ids)
        reply = self._read(lambda: rows_reply(self._store.index, checked))
        return rows_of(reply, self.dimension)

    def contains(self, id: AnyId) -> bool:
        """Whether there is a row of this id; so does ``in``."""
        checked = as_index_id(id)
        return self._read(lambda: checked in self._store.index)

    def count(self) -> int:
        """How many rows there are; so does ``len``."""
        return self._read(lambda: len(self._store.index))

    def ids(self) -> Iterator[Id]:
        """All ids in order: u64 ascending, then bytes. See ``Index.scan``."""
        return listed(lambda after: ids_of(self._page(after, rows=False)), itself)

    def scan(self) -> Iterator[IndexRow]:
        """All rows in order of id. See ``Index.scan``."""
        dimension = self.dimension
        return listed(lambda after: page_of(self._page(after, rows=True), dimension), id_of_row)

    def _page(self, after: Id | None, *, rows: bool) -> IndexRows:
        return self._read(lambda: page_reply(self._store.index, after, rows=rows))

    # --- the files -------------------------------------------------------------------------

    def checkpoint(self) -> Compacted:
        """Write a snapshot and begin the log anew. It happens by itself when the log is long."""
        return self._change(lambda: finish(self._store.checkpoint()))

    def save(self) -> Compacted:
        """Write a snapshot and leave the log as it is."""
        return self._change(lambda: finish(self._store.checkpoint(reset=False)))

    def verify(self) -> IndexVerified:
        """Check the files as they lie on disk. See ``Index.verify``."""
        return self._read(lambda: finish(verify_steps(self._store)))

    def status(self) -> IndexStatus:
        """Figures of the index. See ``Index.status``."""
        return self._read(lambda: status_of(self._store))

    def sync(self) -> None:
        """Return once everything written is on stable storage, whatever the policy."""
        self._change(self._store.group.sync)

    def header(self) -> SnapshotInfo:
        """What the snapshot says of itself, which is from before what is in the log."""
        return self._read(self._store.snapshot_info)

    def optimize(self) -> int:
        """Bring every row into the graph; returns how many are in it. See ``Index.optimize``."""
        index = self._store.index
        while self._change(index.optimize_step):
            pass
        return index.graph_rows


def _no_tick() -> None:
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
