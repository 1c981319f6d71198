"""The messages of the warm store; part of ``holdfast.workers.messages``.

Arrays travel as raw little-endian bytes in row-major order: timestamps as i64, entities as u64,
spaces as u32, vectors and distances as f32; metadata as the Arrow IPC stream that
``formats.points.metadata_to_ipc`` gives, empty when no row has any. A field of type ``memoryview``
is decoded without a copy and is valid only as long as the frame it came in.
"""

from typing import Annotated, Literal

import msgspec

from holdfast.formats.rvf.terms import Metric
from holdfast.formats.warm_terms import Compression
from holdfast.workers.chronos_report import ChronosReport
from holdfast.workers.message import Durability, Message

U64 = Annotated[int, msgspec.Meta(ge=0)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
I64 = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
EMPTY = memoryview(b"")


class WarmOptions(Message, frozen=True, tag="warm"):
    """What a warm store is made with; None means: as it is, else the default."""

    dimension: int | None = None
    compression: Compression | None = None


class WarmWrite(Message, frozen=True, tag=51):
    """Add points of one space, in place of those with the same keys; one durable unit.

    ``entities`` has one id for each point, or one for all.
    """

    space: U32
    entities: memoryview
    timestamps: memoryview
    vectors: memoryview
    metadata: memoryview = EMPTY
    accept_non_finite: bool = False


class WarmGet(Message, frozen=True, tag=52):
    """One point."""

    space: U32
    entity: U64
    timestamp: I64


class WarmLatest(Message, frozen=True, tag=53):
    """The newest point of a series, not newer than ``at``."""

    space: U32
    entity: U64
    at: I64


class WarmRange(Message, frozen=True, tag=54):
    """The points of some series from ``start`` to ``end``, both included.

    In the order of ``entities``, then of time; at most ``limit`` of each series, the first, or with
    ``reverse`` the last ones.
    """

    space: U32
    entities: memoryview
    start: I64
    end: I64
    limit: Count | None = None
    reverse: bool = False
    vectors: bool = True
    metadata: bool = True
    mapped: bool = True


class WarmDelete(Message, frozen=True, tag=55):
    """Delete points by key; ``entities`` as in ``WarmWrite``."""

    space: U32
    entities: memoryview
    timestamps: memoryview


class WarmDeleteRange(Message, frozen=True, tag=56):
    """Delete the points from ``start`` to ``end``, both included; None means every one."""

    space: U32 | None
    entity: U64 | None
    start: I64
    end: I64


class WarmScan(Message, frozen=True, tag=57):
    """A page of all points in order of key, from behind ``after``."""

    after: tuple[U32, U64, I64] | None = None
    limit: Count = 0
    vectors: bool = True
    metadata: bool = True
    mapped: bool = True


class WarmSeries(Message, frozen=True, tag=58):
    """A page of the series that have points, by space and entity, from behind ``after``."""

    space: U32 | None = None
    after: tuple[U32, U64] | None = None


class WarmNearest(Message, frozen=True, tag=59):
    """The ``k`` points nearest to a vector, of those from ``start`` to ``end``."""

    query: memoryview
    k: Count
    metric: Metric
    start: I64
    end: I64
    space: U32 | None = None
    entities: memoryview | None = None


class WarmCount(Message, frozen=True, tag=60):
    """How many points there are."""


class WarmCompact(Message, frozen=True, tag=61):
    """Write everything to as few chunks as there can be, without what is dead."""


class WarmFlush(Message, frozen=True, tag=62):
    """Write to chunks what is only in memory and log."""


class WarmVerify(Message, frozen=True, tag=63):
    """Check every byte of every file."""


class WarmImport(Message, frozen=True, tag=64):
    """Read a directory of the original's."""

    directory: str
    duplicates: Literal["first", "last"]
    salvage: bool
    other_dimensions: Literal["refuse", "skip"]
    accept_non_finite: bool


WarmRequest = (
    WarmWrite
    | WarmGet
    | WarmLatest
    | WarmRange
    | WarmDelete
    | WarmDeleteRange
    | WarmScan
    | WarmSeries
    | WarmNearest
    | WarmCount
    | WarmCompact
    | WarmFlush
    | WarmVerify
    | WarmImport
)

WRITES = (WarmWrite, WarmDelete, WarmDeleteRange, WarmCompact, WarmFlush, WarmImport)


class WarmIs(Message, frozen=True, tag="warm"):
    """The properties of a store that never change."""

    dimension: int
    compression: Compression


class WarmWritten(Message, frozen=True, tag=51):
    """How many points were written, and how many keys of them were there before."""

    points: int
    replaced: int


class WarmPoint(Message, frozen=True, tag=52):
    """A point, or none: ``vector`` is None then."""

    timestamp: int
    vector: memoryview | None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)


class RowsHere(Message, frozen=True, tag="here"):
    """Points in the message itself. Spaces and entities only where an answer has several."""

    timestamps: memoryview
    vectors: memoryview
    metadata: memoryview
    entities: memoryview = EMPTY
    spaces: memoryview = EMPTY


class RowsInChunk(Message, frozen=True, tag="chunk"):
    """Points in a chunk's file, which the reader maps; all of them are live."""

    chunk: int
    start: int
    stop: int


Segment = RowsHere | RowsInChunk


class WarmRows(Message, frozen=True, tag=53):
    """Points, segment by segment, of a store of this id.

    ``generation`` is that of the manifest. ``more`` says whether another page may follow, ``last``
    from behind which key.
    """

    segments: list[Segment]
    store_id: bytes
    generation: int
    more: bool = False
    last: tuple[int, int, int] | None = None


class WarmDeleted(Message, frozen=True, tag=54):
    """How many points were deleted."""

    deleted: int


class WarmSeriesAre(Message, frozen=True, tag=55):
    """Series with the number of their points and the first and last time."""

    spaces: memoryview
    entities: memoryview
    counts: memoryview
    first_times: memoryview
    last_times: memoryview
    more: bool


class WarmHits(Message, frozen=True, tag=56):
    """The nearest points, nearest first."""

    spaces: memoryview
    entities: memoryview
    timestamps: memoryview
    distances: memoryview
    vectors: memoryview
    metadata: memoryview


class WarmCounted(Message, frozen=True, tag=57):
    """A number of points."""

    points: int


class WarmFlaw(Message, frozen=True):
    """Something wrong with a file."""

    path: str
    offset: int | None
    reason: str


class WarmVerified(Message, frozen=True, tag=58):
    """What was checked, and what is wrong; nothing if ``flaws`` is empty."""

    files: int
    bytes: int
    points: int
    flaws: list[WarmFlaw]


class WarmStatus(Message, frozen=True, tag=59):
    """Figures of a warm store. Sizes in bytes, ages in seconds.

    ``dead_bytes`` are those of rows in chunks that no longer count. ``write_amplification`` is how
    many bytes were written to files, over the store's life, for each byte of points given to it.
    """

    kind: str
    path: str
    durability: Durability
    dimension: int
    compression: Compression
    points: int
    series: int
    chunks: int
    live_bytes: int
    dead_bytes: int
    log_bytes: int
    memory_points: int
    write_amplification: float
    generation: int
    synced_age_s: float | None
    unsynced_bytes: int
    flushes: int
    compactions: int
    recovered_torn_bytes: int
    pid: int


class WarmImported(Message, frozen=True, tag=60):
    """What an import did: points written, and of these, in place of others that were there.

    ``duplicates`` were dropped because another point of the directory has their key; ``skipped``
    have another dimension. ``report`` has what was found, file by file.
    """

    points: int
    replaced: int
    duplicates: int
    skipped: int
    report: ChronosReport


WarmReply = (
    WarmImported
    | WarmWritten
    | WarmPoint
    | WarmRows
    | WarmDeleted
    | WarmSeriesAre
    | WarmHits
    | WarmCounted
    | WarmVerified
    | WarmStatus
)
