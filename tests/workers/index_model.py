"""How a test opens an index, talks to its actor, and reads its files in a second way."""

import struct
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.iqdb_values import Id, Value, encode_metadata
from holdfast.workers.actor import Caller
from holdfast.workers.core_index import CoreIndex, decoded
from holdfast.workers.disk import Disk
from holdfast.workers.index import IndexActor, open_index
from holdfast.workers.index_messages import IndexDelete, IndexInsert, IndexOptions
from holdfast.workers.message import Durability
from holdfast.workers.messages import Reply, Request, StoreSpec
from holdfast.workers.raw_arrays import raw
from tests.formats.iqdb_reader import Row, read_log, read_snapshot, replayed

R = TypeVar("R")
Rows = Mapping[Id, tuple[Sequence[float], Mapping[str, Value] | None]]
"""Id to the beginning of a vector, and metadata."""

PATH = "/data/i.iqdb"
WAL = PATH + ".wal"
DIMENSION = 4
READER = Caller(99, 0)
POLICIES: tuple[Durability, ...] = ("always", "interval", "never")


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def index_spec(
    path: str = PATH, durability: Durability = "always", options: IndexOptions | None = None
) -> StoreSpec:
    """How the tests open an index; an interval is never over within a test."""
    return StoreSpec(
        "i", "index", path, durability=durability, interval_s=3600.0,
        options=options or IndexOptions(dimension=DIMENSION, metric="euclidean"),
    )  # fmt: skip


def opened(
    disk: Disk,
    path: str = PATH,
    durability: Durability = "always",
    options: IndexOptions | None = None,
) -> IndexActor:
    """The index at ``path``, recovered and consistent."""
    actor = open_index(disk, index_spec(path, durability, options), tick)
    actor.check_invariants()
    return actor


def opened_file(
    disk: Disk, path: str = PATH, durability: Durability = "always", **options: object
) -> IndexActor:
    """The index that is at ``path``, whatever its dimension and metric."""
    return opened(disk, path, durability, IndexOptions(**options))  # type: ignore[arg-type]


def ask(actor: IndexActor, request: Request, kind: type[R], caller: Caller = READER) -> R:
    """The reply to ``request``, long work done to its end, of the kind expected."""
    outcome = actor.handle(request, caller)
    if not isinstance(outcome, Reply):
        while True:
            try:
                next(outcome)
            except StopIteration as finished:
                outcome = finished.value
                break
    assert isinstance(outcome, kind)
    return outcome


def vector_of(*numbers: float, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """A vector that begins with these numbers and has zeros behind them."""
    vector = np.zeros(dimension, np.float32)
    vector[: len(numbers)] = numbers
    return vector


def inserting(rows: Rows, *, replace: bool = False) -> IndexInsert:
    """The request that inserts these rows."""
    ids = list(rows)
    vectors = np.array([vector_of(*numbers) for numbers, _ in rows.values()], np.float32)
    entries = [None if m is None else encode_metadata(m) for _, m in rows.values()]
    numbers = [id_ for id_ in ids if isinstance(id_, int)]
    sent = raw(np.array(numbers, np.uint64)) if len(numbers) == len(ids) else ids
    return IndexInsert(sent, raw(vectors.reshape(len(ids), DIMENSION)), entries, replace)


def deleting(*ids: Id, missing_ok: bool = False) -> IndexDelete:
    """The request that deletes these rows."""
    return IndexDelete(list(ids), missing_ok)


def row(id_: Id, *numbers: float, **metadata: Value) -> Row:
    """A row as ``rows_of`` gives it: without metadata if none is named."""
    return (id_, vector_of(*numbers).tobytes(), plain(metadata) if metadata else None)


def plain(metadata: Mapping[str, Value] | None) -> tuple[tuple[str, object], ...] | None:
    """Metadata as the second reader gives it."""
    if metadata is None:
        return None
    items = sorted(metadata.items(), key=lambda item: item[0].encode())
    return tuple(
        (key, struct.pack("<d", value) if isinstance(value, float) else value)
        for key, value in items
    )


def rows_of(actor: IndexActor) -> list[Row]:
    """All rows in storage order, as the actor has them in memory."""
    index = actor.store.index
    assert isinstance(index, CoreIndex)
    found = index.take(list(index.table.ids))
    return [
        (item[0], item[1].astype("<f4").tobytes(), plain(decoded(item[2])))
        for item in found
        if item is not None
    ]


def rows_in(disk: MemoryDisk, path: str = PATH) -> list[Row]:
    """All rows in storage order, as the files say, read in the second way.

    Rows that a log repeats over a snapshot which has them may be in another order.
    """
    snapshot, log = disk.content(path), disk.content(path + ".wal")
    assert snapshot is not None
    records = [] if log is None else read_log(log)
    return replayed(read_snapshot(snapshot).rows, records)
