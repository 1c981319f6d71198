"""The messages of the fold; part of ``holdfast.workers.messages``."""

import msgspec

from holdfast.formats.values import AnyUpdate, Cursor, KvEntry
from holdfast.workers.message import Durability, Message


class FoldApply(Message, frozen=True, tag=1):
    """Apply updates in order, then move the cursor, or with None leave it; one durable unit."""

    updates: list[AnyUpdate]
    cursor: Cursor | None = None
    refuse_stale: bool = False


class FoldGet(Message, frozen=True, tag=2):
    """One entry."""

    key: str


class FoldGetMany(Message, frozen=True, tag=3):
    """Several entries, in the order asked."""

    keys: list[str]


class FoldRange(Message, frozen=True, tag=4):
    """All entries under a prefix, in key order."""

    prefix: str
    limit: int | None = None


class FoldScan(Message, frozen=True, tag=5):
    """One page of entries under a prefix, from behind ``after``."""

    prefix: str
    after: str | None = None


class FoldCursor(Message, frozen=True, tag=6):
    """The cursor."""


class FoldStaleKeys(Message, frozen=True, tag=7):
    """The keys held that are not among these."""

    keys: list[str]


class FoldCompact(Message, frozen=True, tag=8):
    """Rewrite the log without what is dead."""


class FoldExport(Message, frozen=True, tag=9):
    """Write an export artifact to a directory that is absent or empty."""

    directory: str


FoldRequest = (
    FoldApply
    | FoldGet
    | FoldGetMany
    | FoldRange
    | FoldScan
    | FoldCursor
    | FoldStaleKeys
    | FoldCompact
    | FoldExport
)

WRITES = (FoldApply, FoldCompact, FoldExport)


class Entry(Message, frozen=True, tag=2):
    """An entry, or none."""

    entry: KvEntry | None


class Entries(Message, frozen=True, tag=3):
    """Entries in key order."""

    entries: list[KvEntry]


class MaybeEntries(Message, frozen=True, tag=4):
    """Entries in the order asked, None where there is none."""

    entries: list[KvEntry | None]


class Page(Message, frozen=True, tag=5):
    """Part of a scan; ``more`` says whether another page may follow."""

    entries: list[KvEntry]
    more: bool


class CursorIs(Message, frozen=True, tag=6):
    """The cursor."""

    cursor: Cursor


class Keys(Message, frozen=True, tag=7):
    """Keys, sorted."""

    keys: list[str]


class ArtifactFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One payload file of an artifact, as its manifest lists it."""

    path: str
    size: int
    blake3: str


class Exported(Message, frozen=True, tag=9):
    """An artifact was written."""

    directory: str
    entries: int
    cursor: Cursor
    files: list[ArtifactFile]


class Status(Message, frozen=True, tag=10):
    """A store's figures. Sizes in bytes, ages in seconds."""

    kind: str
    path: str
    durability: Durability
    entries: int
    log_bytes: int
    live_bytes: int
    dead_bytes: int
    cursor: Cursor
    synced_age_s: float | None
    unsynced_bytes: int
    compactions: int
    recovered_torn_bytes: int
    indexed_bytes: int
    pid: int


FoldReply = Entry | Entries | MaybeEntries | Page | CursorIs | Keys | Exported | Status
