"""The messages of the vector store; part of ``holdfast.workers.messages``.

Arrays travel as raw little-endian bytes in row-major order: ids as u64, vectors and distances as
f32; tables as Arrow IPC streams; ``where`` as ``formats.expression`` encodes it. A field of type
``memoryview`` is decoded without a copy and is valid only as long as the frame it came in.
"""

from typing import Annotated, Literal

import msgspec

from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.workers.message import Durability, Message

Count = Annotated[int, msgspec.Meta(ge=0)]
ImageKind = Literal["kernel", "ebpf", "wasm", "dashboard"]
IndexState = Literal["none", "building", "ready", "unavailable"]


class VectorOptions(Message, frozen=True, tag="vectors"):
    """What a vector store is made or opened with; None means: as it is, else the default."""

    dimension: int | None = None
    metric: Metric | None = None
    profile: Profile | None = None
    read_only: bool = False


class VectorsIngest(Message, frozen=True, tag=21):
    """Insert or replace rows; one durable unit."""

    ids: memoryview
    vectors: memoryview
    metadata: memoryview | None = None
    accept_non_finite: bool = False
    skip_invalid: bool = False


class VectorsQuery(Message, frozen=True, tag=22):
    """The ``k`` nearest rows of each query."""

    queries: memoryview
    count: Count
    k: Count
    where: bytes | None = None
    exact: bool | None = None
    breadth: int | None = None
    metadata: bool = False
    columns: list[str] | None = None
    vectors: bool = False


class VectorsGet(Message, frozen=True, tag=23):
    """Rows by id, in the order asked; absent ones are left out."""

    ids: memoryview
    metadata: bool = True
    vectors: bool = True


class VectorsDelete(Message, frozen=True, tag=24):
    """Delete rows by id."""

    ids: memoryview


class VectorsDeleteWhere(Message, frozen=True, tag=25):
    """Delete the rows for which an expression is true."""

    where: bytes


class VectorsScan(Message, frozen=True, tag=26):
    """A page of rows by ascending id, from behind ``after``."""

    after: Count | None = None
    limit: Count = 0
    where: bytes | None = None
    metadata: bool = True
    vectors: bool = True


class VectorsCount(Message, frozen=True, tag=27):
    """How many live rows there are, for which an expression is true."""

    where: bytes | None = None


class VectorsCompact(Message, frozen=True, tag=28):
    """Rewrite the file without what is dead."""


class VectorsSegments(Message, frozen=True, tag=29):
    """The directory of the file."""


class VectorsFreeze(Message, frozen=True, tag=30):
    """Refuse every write from now on."""


class VectorsBranch(Message, frozen=True, tag=31):
    """Make a branch at ``path``; with sets, it shows only (or all but) these ids."""

    path: str
    include: memoryview | None = None
    exclude: memoryview | None = None


class VectorsDerive(Message, frozen=True, tag=32):
    """Make an empty child at ``path`` that remembers where it comes from."""

    path: str
    derivation: str
    dimension: int | None = None


class VectorsLineage(Message, frozen=True, tag=33):
    """Identity, and the chain of parents, each checked."""


class VectorsCow(Message, frozen=True, tag=34):
    """What a branch has of its own and from its parents."""


class VectorsMembers(Message, frozen=True, tag=35):
    """Limit what a branch shows of its parent; without sets: say what it shows."""

    include: memoryview | None = None
    exclude: memoryview | None = None
    change: bool = False


class VectorsEmbed(Message, frozen=True, tag=36):
    """Store an image: the payload of its segment, as the format has it."""

    kind: ImageKind
    payload: memoryview


class VectorsExtract(Message, frozen=True, tag=37):
    """The newest image of a kind."""

    kind: ImageKind


class VectorsVerify(Message, frozen=True, tag=38):
    """Check every segment, the witness chain and the parents."""


class VectorsRefresh(Message, frozen=True, tag=39):
    """See what others have written since; for a store opened read-only."""


class VectorsIndex(Message, frozen=True, tag=40):
    """Build the index now, or stop building it; or measure its recall."""

    action: Literal["build", "cancel", "recall"]


class VectorsDigests(Message, frozen=True, tag=41):
    """A page of (id, digest of vector and metadata) by ascending id, from behind ``after``."""

    after: Count | None = None


VectorRequest = (
    VectorsIngest
    | VectorsQuery
    | VectorsGet
    | VectorsDelete
    | VectorsDeleteWhere
    | VectorsScan
    | VectorsCount
    | VectorsCompact
    | VectorsSegments
    | VectorsFreeze
    | VectorsBranch
    | VectorsDerive
    | VectorsLineage
    | VectorsCow
    | VectorsMembers
    | VectorsEmbed
    | VectorsExtract
    | VectorsVerify
    | VectorsRefresh
    | VectorsIndex
    | VectorsDigests
)

WRITES = (
    VectorsIngest,
    VectorsDelete,
    VectorsDeleteWhere,
    VectorsCompact,
    VectorsFreeze,
    VectorsBranch,
    VectorsDerive,
    VectorsMembers,
    VectorsEmbed,
)


class VectorsAre(Message, frozen=True, tag="vectors"):
    """The properties of a store that never change."""

    dimension: int
    metric: Metric
    profile: Profile
    read_only: bool


class RejectedRow(Message, frozen=True):
    """A row of a batch that was not taken: its place in the batch, its id, and why."""

    row: int
    id: int
    reason: str


class Ingested(Message, frozen=True, tag=21):
    """Counts of rows: taken; of these, in place of a live row of the same id; not taken.

    ``epoch`` is the commit's number.
    """

    accepted: int
    replaced: int
    rejected: list[RejectedRow]
    epoch: int


class Hits(Message, frozen=True, tag=22):
    """``each`` rows per query, nearest first."""

    each: int
    ids: memoryview
    distances: memoryview
    metadata: memoryview | None
    vectors: memoryview | None
    approximate: bool


class VectorRows(Message, frozen=True, tag=23):
    """Rows; ``more`` says whether another page may follow."""

    ids: memoryview
    metadata: memoryview | None
    vectors: memoryview | None
    more: bool = False


class Deleted(Message, frozen=True, tag=24):
    """How many live rows were deleted, and the commit's number."""

    deleted: int
    epoch: int


class Counted(Message, frozen=True, tag=25):
    """A number of rows."""

    rows: int


class Segment(Message, frozen=True):
    """One segment of a file: its id, where its header lies, payload length in bytes, type."""

    id: int
    offset: int
    length: int
    type: int
    name: str


class Segments(Message, frozen=True, tag=26):
    """Segments, in the order of the directory."""

    segments: list[Segment]


class Identity(Message, frozen=True):
    """Who a file is and where it comes from; ids and hashes in hexadecimal. RVF 5.13."""

    file_id: str
    parent_id: str
    parent_hash: str
    lineage_depth: int
    origin: Literal["root", "branch", "derived"]
    derivation: str | None


class Ancestor(Message, frozen=True):
    """One file of a lineage; ``problem`` says why it could not be verified, if so."""

    path: str | None
    file_id: str
    lineage_depth: int
    problem: str | None


class Lineage(Message, frozen=True, tag=27):
    """Identity, and the parents from the nearest on."""

    identity: Identity
    ancestors: list[Ancestor]


class CowStats(Message, frozen=True, tag=28):
    """What a branch shows, in rows and bytes of vectors.

    ``inherited`` rows come from the parents, ``local`` ones are its own, ``overridden`` are rows of
    the parents with a local one in their place, ``hidden`` those deleted here or not shown.
    """

    is_cow_child: bool
    parent_path: str | None
    inherited_rows: int
    inherited_bytes: int
    local_rows: int
    local_bytes: int
    overridden_rows: int
    overridden_bytes: int
    hidden_rows: int
    hidden_bytes: int


class Membership(Message, frozen=True, tag=29):
    """What a branch shows of its parent: ids of the parent in all, shown, and hidden ones."""

    parent_rows: int
    visible_rows: int
    hidden: memoryview


class Image(Message, frozen=True, tag=30):
    """The payload of an image's segment, or None, and the manifest it may be bound to."""

    payload: memoryview | None
    manifest_hash: bytes = b""


class SegmentReport(Message, frozen=True):
    """What is known of one segment; ``state`` is ``unverifiable`` for an all-zero hash."""

    id: int
    offset: int
    length: int
    type: str
    state: Literal["intact", "damaged", "unverifiable"]
    reason: str


class Verified(Message, frozen=True, tag=31):
    """The outcome of a check. ``problems`` is empty when all is well.

    ``witness_breaks`` are links that do not follow the one before; ``witness_restarts`` those that
    follow nothing, as the original makes them whenever it opens a file.
    """

    segments: list[SegmentReport]
    witnesses: int
    witness_breaks: int
    witness_restarts: int
    ancestors: list[Ancestor]
    problems: list[str]


class VectorStatus(Message, frozen=True, tag=32):
    """A vector store's figures. Sizes in bytes, ages in seconds, recall of 10 as a share."""

    kind: str
    path: str
    durability: Durability
    dimension: int
    metric: Metric
    profile: Profile
    rows: int
    live_rows: int
    deleted_ids: int
    file_bytes: int
    live_bytes: int
    dead_bytes: int
    segments: int
    epoch: int
    frozen: bool
    read_only: bool
    index: IndexState
    index_rows: int
    index_recall: float | None
    index_progress: float | None
    synced_age_s: float | None
    unsynced_bytes: int
    compactions: int
    recovered_torn_bytes: int
    pid: int


class Measured(Message, frozen=True, tag=33):
    """Recall of the index on a sample of queries, as a share; None without an index."""

    recall: float | None


class Digests(Message, frozen=True, tag=34):
    """Ids, and 16 bytes for each; ``more`` says whether another page may follow."""

    ids: memoryview
    digests: memoryview
    more: bool


VectorReply = (
    Ingested
    | Hits
    | VectorRows
    | Deleted
    | Counted
    | Segments
    | Lineage
    | CowStats
    | Membership
    | Image
    | Verified
    | VectorStatus
    | Measured
    | Digests
)
