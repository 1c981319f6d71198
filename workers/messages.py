"""Every message between holdfast's processes, typed; there is no other.

They travel as MessagePack arrays with an integer tag (``msgspec``), so a message is checked while
it is decoded and nothing on the wire can run code. Tags are never reused.

Host to worker, over a session: ``Request``, answered by ``Reply`` or ``Failure``, with ``Progress``
in between for long work. Host to supervisor, over the host's control channel: ``Ask``, answered by
``Answer`` or ``Failure``. Supervisor to worker, over the worker's control channel: ``Order``; and
back: ``Report``.
"""

import enum
from typing import Literal

from holdfast.formats.errors import Detail, HoldfastError, InternalError, from_wire
from holdfast.workers import fold_messages as fold
from holdfast.workers import index_messages as index
from holdfast.workers import registry_messages as registry
from holdfast.workers import vector_messages as vectors
from holdfast.workers import warm_messages as warm
from holdfast.workers.index_messages import IndexIs, IndexOptions
from holdfast.workers.message import Durability, Message
from holdfast.workers.vector_messages import VectorOptions, VectorsAre
from holdfast.workers.warm_messages import WarmIs, WarmOptions

Kind = Literal["fold", "vectors", "warm", "index", "registry"]


class Progress(Message, frozen=True):
    """How far long work has come: ``done`` of ``total`` bytes in the stage named."""

    stage: str
    done: int
    total: int


class Failure(Message, frozen=True):
    """An error of the tree in ``formats.errors``, in transit."""

    name: str
    message: str
    details: dict[str, Detail]
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException, traceback: str = "") -> "Failure":
        """The wire form of an error; anything outside the tree becomes ``InternalError``."""
        if not isinstance(error, HoldfastError):
            error = InternalError(f"{type(error).__name__}: {error}")
        return cls(type(error).__name__, error.message, error.wire_details(), traceback)

    def error(self) -> HoldfastError:
        """The error, rebuilt."""
        return from_wire(self.name, self.message, self.details, self.traceback)


# --- host to worker ----------------------------------------------------------------------------


class StoreStatus(Message, frozen=True, tag=10):
    """What the worker knows about its store."""


class StoreMayDrop(Message, frozen=True, tag=11):
    """Whether the store may be removed; the error that says why not."""


Request = (
    StoreStatus
    | StoreMayDrop
    | fold.FoldRequest
    | vectors.VectorRequest
    | warm.WarmRequest
    | index.IndexRequest
    | registry.RegistryRequest
)


class Done(Message, frozen=True, tag=1):
    """The request took effect, durably under the store's policy."""


class Compacted(Message, frozen=True, tag=8):
    """File length in bytes before and after a compaction."""

    bytes_before: int
    bytes_after: int


Reply = (
    Done
    | Compacted
    | fold.FoldReply
    | vectors.VectorReply
    | warm.WarmReply
    | index.IndexReply
    | registry.RegistryReply
)


# --- what a store is opened with ---------------------------------------------------------------


Options = VectorOptions | WarmOptions | IndexOptions
"""What a kind of store is made or opened with besides."""

Properties = VectorsAre | WarmIs | IndexIs
"""What never changes about a store, for the kinds of which anything is to be said."""


class StoreSpec(Message, frozen=True, cache_hash=True):
    """Name, kind, file and options of a store; None means: as it is, else the default.

    ``by_name`` says that the store may as well lie elsewhere, if it is open. ``properties`` are
    what whoever asks knows of it: a store made anew with others is another.
    """

    name: str
    kind: Kind
    path: str
    durability: Durability | None = None
    interval_s: float | None = None
    import_from: str | None = None
    create: bool = True
    options: Options | None = None
    by_name: bool = False
    properties: Properties | None = None


DEFAULT_DURABILITY: Durability = "always"
DEFAULT_INTERVAL_S = 1.0
DEFAULT_HUNG_AFTER_S = 30.0


# --- host to supervisor ------------------------------------------------------------------------


class Hello(Message, frozen=True, tag=1):
    """The first message of a host. ``client`` is unique to this engine in this process."""

    wire_version: int
    pid: int
    client: int
    command: str


class OpenStore(Message, frozen=True, tag=2):
    """Make sure a store is served; with ``session``, hand over a pipe to its worker.

    ``lost`` is the generation whose session broke, if one did. A worker that recovers without
    progress for ``hung_after_s`` is killed.
    """

    spec: StoreSpec
    session: bool = False
    lost: int = 0
    hung_after_s: float = DEFAULT_HUNG_AFTER_S


class Suspect(Message, frozen=True, tag=3):
    """A call has waited long: see whether this worker still makes progress."""

    name: str
    generation: int
    hung_after_s: float


class AskProcesses(Message, frozen=True, tag=4):
    """Which processes serve this directory."""


class AskHealth(Message, frozen=True, tag=5):
    """State of every open store."""


class RestartStore(Message, frozen=True, tag=6):
    """Start a store's worker anew, also one that was given up."""

    name: str
    hung_after_s: float = DEFAULT_HUNG_AFTER_S


class DropStore(Message, frozen=True, tag=7):
    """Remove a running store with its files."""

    name: str
    hung_after_s: float = DEFAULT_HUNG_AFTER_S


class Leave(Message, frozen=True, tag=8):
    """The host leaves; the connection ends when the engine is stopped or goes on for others."""


Ask = Hello | OpenStore | Suspect | AskProcesses | AskHealth | RestartStore | DropStore | Leave


class Welcome(Message, frozen=True, tag=1):
    """The host has joined."""

    pid: int


class Exit(Message, frozen=True):
    """How a worker ended. ``client`` and ``request`` name what it was working on, or are zero.

    ``fruitful`` says that it had answered somebody, ``clean`` that it finished what it had to do.
    """

    generation: int
    cause: str
    client: int = 0
    request: int = 0
    fruitful: bool = False
    clean: bool = False


class Opened(Message, frozen=True, tag=2):
    """The store is served. With a session, its descriptor travels with this message.

    ``spec`` has the options in force and the store's properties; asking with it again, also after a
    supervisor's death, gives a store with these properties or an error, and never makes a new one.
    """

    generation: int
    pid: int
    exits: list[Exit]
    session: bool
    spec: StoreSpec


class ProcessInfo(Message, frozen=True):
    """One process of the engine."""

    role: Literal["supervisor", "worker"]
    store: str | None
    pid: int


class Processes(Message, frozen=True, tag=3):
    """The engine's processes, supervisor first."""

    processes: list[ProcessInfo]


class StoreHealth(Message, frozen=True):
    """One store as the supervisor sees it."""

    name: str
    kind: Kind
    path: str
    state: Literal["starting", "running", "waiting", "failed"]
    pid: int | None
    restarts: int
    last_exit: str | None


class Health(Message, frozen=True, tag=4):
    """Every open store."""

    stores: list[StoreHealth]


class Accepted(Message, frozen=True, tag=5):
    """It was done."""


class LogLine(Message, frozen=True, tag=6):
    """A log record of a worker or the supervisor, for the host's loggers."""

    logger: str
    level: int
    text: str
    created: float
    pid: int


Answer = Welcome | Opened | Processes | Health | Accepted | LogLine


# --- supervisor to worker, and back ------------------------------------------------------------


class Serve(Message, frozen=True, tag=1):
    """Serve the session whose descriptor travels with this message."""

    client: int


class Stop(Message, frozen=True, tag=2):
    """Sync, close and exit; with ``remove``, take the store's files along."""

    remove: bool = False


class Ping(Message, frozen=True, tag=3):
    """Wake up, so that progress can be seen."""


Order = Serve | Stop | Ping


class Ready(Message, frozen=True, tag=1):
    """Recovered and serving a store with these properties."""

    properties: Properties | None = None


class Refused(Message, frozen=True, tag=2):
    """The store cannot be opened, for a reason that a restart does not change."""

    failure: Failure


class Dying(Message, frozen=True, tag=3):
    """The worker is about to exit because of this error."""

    failure: Failure


Report = Ready | Refused | Dying | LogLine


class Phase(enum.IntEnum):
    """What a worker is doing, kept where its supervisor can see it after a kill."""

    IDLE = 0
    RECOVERING = 1
    HANDLING = 2


# A write that dies with its worker may have happened; a read cannot have.
WRITES = (*fold.WRITES, *vectors.WRITES, *warm.WRITES, *index.WRITES, *registry.WRITES)
