"""The messages of the index store; part of ``holdfast.workers.messages``.

Arrays travel as raw little-endian bytes in row-major order: ids as u64, or as a list where some are
bytes; vectors and distances as f32. Metadata travels as the format has it (``iqdb_values``), None
for rows without; filters as ``formats.expression`` encodes them.
"""

from typing import Annotated, Literal

import msgspec

from holdfast.formats.iqdb_values import HnswParameters, Metric
from holdfast.workers.message import Durability, Message

Count = Annotated[int, msgspec.Meta(ge=0)]
Ids = memoryview | list[int | bytes]
Entries = list[bytes | None]
CompressionName = Literal["none", "zstd", "lz4"]


class IndexOptions(Message, frozen=True, tag="index"):
    """What an index is made or opened with; None means: as it is, else the default.

    ``kind`` is ``flat``, ``hnsw`` or ``package.module:Class``. The log is checkpointed by itself
    when it has ``checkpoint_bytes``, by default as many as the snapshot has, or 16 MiB.
    """

    kind: str | None = None
    dimension: int | None = None
    metric: Metric | None = None
    hnsw: HnswParameters | None = None
    compression: CompressionName = "none"
    level: int = 3
    checkpoint_bytes: int | None = None
    stamps: bool = True
    """Whether records and snapshots say which belong together."""
    salvage: bool = False
    """Whether to open a damaged log all the same, with what is intact of it."""
    ratio_guard: bool = True
    """Whether to refuse payloads more than 4096 times as long as they are stored."""
    search_path: tuple[str, ...] = ()
    """Where else to look for the module of a kind that is not built in."""


class IndexInsert(Message, frozen=True, tag=81):
    """Insert rows, or with ``replace`` also put them in place of others; one durable unit."""

    ids: Ids
    vectors: memoryview
    metadata: Entries | None = None
    replace: bool = False


class IndexDelete(Message, frozen=True, tag=82):
    """Delete rows; one durable unit."""

    ids: Ids
    missing_ok: bool = False


class IndexSearch(Message, frozen=True, tag=83):
    """The ``k`` nearest rows of each query."""

    queries: memoryview
    count: Count
    k: Count
    where: bytes | None = None
    exact: bool = False
    ef: int | None = None
    metadata: bool = False


class IndexGet(Message, frozen=True, tag=84):
    """Rows by id, in the order asked; absent ones are left out."""

    ids: Ids


class IndexCheckpoint(Message, frozen=True, tag=85):
    """Write a snapshot; with ``reset``, begin the log anew."""

    reset: bool = True


class IndexHeader(Message, frozen=True, tag=86):
    """What the snapshot says of itself."""


class IndexOptimize(Message, frozen=True, tag=87):
    """Bring every row into the graph, if there is one."""


class IndexScan(Message, frozen=True, tag=88):
    """A page of rows in order of id from behind ``after``: u64 first, then bytes; or of ids."""

    after: int | bytes | None = None
    rows: bool = True


class IndexHas(Message, frozen=True, tag=89):
    """Whether there is a row of this id."""

    id: int | bytes


class IndexVerify(Message, frozen=True, tag=90):
    """Check snapshot and log as they lie on disk."""


IndexRequest = (
    IndexInsert
    | IndexDelete
    | IndexSearch
    | IndexGet
    | IndexCheckpoint
    | IndexHeader
    | IndexOptimize
    | IndexScan
    | IndexHas
    | IndexVerify
)

WRITES = (IndexInsert, IndexDelete, IndexCheckpoint)


class IndexIs(Message, frozen=True, tag="index"):
    """The properties of an index that never change."""

    kind: str
    index_type: str
    dimension: int
    metric: Metric
    hnsw: HnswParameters | None
    """Of the graph, where there is one."""


class IndexInserted(Message, frozen=True, tag=81):
    """Counts of rows: taken; of these, in place of a row of the same id."""

    accepted: int
    replaced: int


class IndexDeleted(Message, frozen=True, tag=82):
    """How many rows were deleted."""

    deleted: int


class IndexHits(Message, frozen=True, tag=83):
    """``each`` rows per query, nearest first."""

    each: int
    ids: Ids
    distances: memoryview
    metadata: Entries | None
    approximate: bool


class IndexRows(Message, frozen=True, tag=84):
    """Rows, as many as there were; or ids alone, with neither vectors nor metadata.

    ``more`` says whether another page may follow.
    """

    ids: Ids
    vectors: memoryview
    metadata: Entries
    more: bool = False


class SnapshotInfo(Message, frozen=True, tag=85):
    """A snapshot's header, and the length of the file and of its log in bytes."""

    version: int
    index_type: str
    dimension: int
    metric: Metric
    count: int
    """Rows of the snapshot."""
    compression: str | None
    """``none``, ``zstd`` or ``lz4``; None where this release does not know it."""
    file_bytes: int
    log_bytes: int


class IndexOptimized(Message, frozen=True, tag=86):
    """How many rows are in the graph."""

    rows: int


class IndexStatus(Message, frozen=True, tag=87):
    """An index's figures. Sizes in bytes, ages in seconds."""

    kind: str
    path: str
    durability: Durability
    index: str
    """``flat``, ``hnsw``, ``ivf`` or ``custom``."""
    index_type: str
    dimension: int
    metric: Metric
    live_rows: int
    graph_rows: int
    file_bytes: int
    log_bytes: int
    checkpoints: int
    synced_age_s: float | None
    unsynced_bytes: int
    recovered_torn_bytes: int
    recovered_records: int
    pid: int


class IndexHasIt(Message, frozen=True, tag=88):
    """Whether the row is there."""

    there: bool


class IndexVerified(Message, frozen=True, tag=89):
    """The outcome of a check of an index's files. ``problems`` is empty when all is well."""

    file_bytes: int
    log_bytes: int
    log_records: int
    """Intact ones of the log, up to the first that is damaged."""
    problems: list[str]


IndexReply = (
    IndexInserted
    | IndexDeleted
    | IndexHits
    | IndexRows
    | SnapshotInfo
    | IndexOptimized
    | IndexStatus
    | IndexHasIt
    | IndexVerified
)
