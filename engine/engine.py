"""The engine: a directory of stores, as one host process sees it."""

import os
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from holdfast.call import Call, operation
from holdfast.formats.errors import ParentChanged, StoreCorrupt, StoreFailed, StoreNotFound
from holdfast.formats.iqdb_values import HnswParameters
from holdfast.formats.iqdb_values import Metric as IndexMetric
from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.handles.any_store import AnyStatus, AnyStore
from holdfast.handles.base import expecting
from holdfast.handles.checks import check_flag
from holdfast.handles.fold import Fold, absolute
from holdfast.joining import prepare
from holdfast.options import EngineOptions
from holdfast.workers import messages
from holdfast.workers.index_messages import CompressionName
from holdfast.workers.message import Durability
from holdfast.workers.messages import (
    OpenStore,
    ProcessInfo,
    StoreHealth,
    StoreSpec,
)

if TYPE_CHECKING:  # numpy and pyarrow are loaded when a store needs them
    from holdfast.formats.warm_terms import Compression
    from holdfast.handles.index import Index
    from holdfast.handles.registry import Registry
    from holdfast.handles.vectors import Vectors
    from holdfast.handles.warm import Warm

from holdfast.engine_base import EngineBase, dropped_unread
from holdfast.workers.places import check_name

T = TypeVar("T")


class Engine(EngineBase):
    """A directory of stores. Thread-safe; use it as a context manager, or call ``close``.

    After ``os.fork`` the child reconnects by itself at its first call.
    """

    def _run(self, call: Call[T]) -> T:
        self._coordinator.control.check_open()
        deadline = self._coordinator.deadline(call.timeout)
        assert isinstance(call.message, messages.Ask)
        return call.unwrap(self._coordinator.control.ask(call.message, deadline).answer)

    def fold(
        self,
        name: str,
        *,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> Fold:
        """Open the fold ``name``, making it if ``create`` and it is absent.

        ``path`` opens a log that lies elsewhere; while that is open, its name is enough, here as
        for ``status``, ``restart`` and ``drop``, unless a store in the directory has the name, too.
        ``durability`` is ``"always"`` (the default: an acknowledged write is synced),
        ``"interval"`` (synced within ``interval`` seconds, 1 by default) or ``"never"`` (survives
        any process's death, but not power loss). Without it, a store that is open already is
        joined as it is.

        Raises ``StoreLocked``, ``StoreCorrupt``, ``InvalidFormat``, ``WrongKind``, ``InvalidName``,
        ``StoreNotFound`` or ``OptionsConflict``; the file was not touched then.
        """
        spec = self._spec("fold", name, path, durability, interval, create=create)
        return Fold(self._coordinator, self._open(spec, timeout=timeout))

    def import_fold(
        self,
        name: str,
        directory: str | os.PathLike[str],
        *,
        durability: Durability | None = None,
        interval: float | None = None,
        timeout: float | None = None,
    ) -> Fold:
        """Make the fold ``name`` from an artifact that ``Fold.export`` wrote.

        Every digest, size and record is checked first. Raises ``ArtifactInvalid``; the store does
        not exist then. Raises ``StoreExists`` when there is one of that name, unless it is closed
        and what this very import would make.
        """
        spec = self._spec(
            "fold", name, None, durability, interval, import_from=absolute(directory), create=False
        )
        return Fold(self._coordinator, self._open(spec, timeout=timeout))

    def vectors(
        self,
        name: str,
        *,
        dimension: int | None = None,
        metric: Metric | None = None,
        profile: Profile | None = None,
        path: str | os.PathLike[str] | None = None,
        read_only: bool = False,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> "Vectors":
        """Open the vector store ``name``, making it if ``create`` and it is absent.

        A new store needs its ``dimension``, 1 to 65,535; ``metric`` is ``"l2"`` (the default:
        squared Euclidean distance), ``"ip"`` or ``"cosine"``, and ``profile`` says what the vectors
        are about. All three are kept in the file, and opening with others raises
        ``OptionsConflict``. ``read_only`` takes no lock, so it also opens a file that another
        program is writing; ``refresh`` shows what was committed since.

        ``path``, ``durability`` and ``interval`` are as for ``fold``, and so are the errors.
        """
        from holdfast.handles.vector_parts import agreed, options
        from holdfast.handles.vectors import Vectors

        asked = options(dimension, metric, profile, read_only)
        create = check_flag("create", create) and not read_only
        spec = self._spec("vectors", name, path, durability, interval, create=create, options=asked)
        opened = self._open(spec, timeout=timeout)
        return Vectors(self._coordinator, opened, agreed(opened, asked), _Family(self))

    def warm(
        self,
        name: str,
        *,
        dimension: int | None = None,
        compression: "Compression | None" = None,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> "Warm":
        """Open the warm store ``name``, making it if ``create`` and it is absent.

        A new store needs its ``dimension``, 1 to 65,535; ``compression`` of its chunks is
        ``"none"`` (the default: large results are mapped and not copied), ``"lz4"`` or ``"zstd"``.
        Both are kept, and opening with others raises ``OptionsConflict``.

        ``path``, ``durability`` and ``interval`` are as for ``fold``, and so are the errors.
        """
        from holdfast.handles.warm import Warm
        from holdfast.handles.warm_calls import agreed, options

        asked = options(dimension, compression)
        spec = self._spec("warm", name, path, durability, interval, create=create, options=asked)
        opened = self._open(spec, timeout=timeout)
        return Warm(self._coordinator, opened, agreed(opened, asked))

    def index(
        self,
        name: str,
        *,
        kind: str | None = None,
        dimension: int | None = None,
        metric: IndexMetric | None = None,
        hnsw: HnswParameters | None = None,
        compression: CompressionName = "none",
        level: int = 3,
        checkpoint_bytes: int | None = None,
        stamps: bool = True,
        salvage: bool = False,
        ratio_guard: bool = True,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> "Index":
        """Open the index ``name``, making it if ``create`` and it is absent.

        A new index needs its ``dimension``, 1 to 1,048,576; ``kind`` is ``"flat"`` (the default:
        exact), ``"hnsw"`` (a graph, with the parameters ``hnsw``) or ``"package.module:Class"``: a
        class of your own (see ``Persistable``), of which a new index is ``Class(dimension,
        metric)``, and which has to be named at each opening. ``metric`` is ``"cosine"`` (the
        default), ``"dot"``, ``"euclidean"``, ``"manhattan"`` or ``"hamming"``. Opening with another
        kind, dimension, metric or ``hnsw`` than the index was made with raises ``OptionsConflict``.

        Snapshots are written with ``compression`` (``"none"``, ``"zstd"`` with ``level``, 1 to 22,
        or ``"lz4"``) once the log has ``checkpoint_bytes`` (by default as many as the snapshot has,
        or 16 MiB). ``stamps=False`` leaves out what ties log and snapshot together, for files equal
        to the original's to the byte. ``salvage`` opens a damaged log with what is intact of it,
        and without the requests that a class of your own refuses, or ends its process with, twice;
        ``ratio_guard=False`` accepts payloads more than 4096 times as long as they are stored.
        These apply when the store's worker starts, so not where the store is open already.

        ``path``, ``durability`` and ``interval`` are as for ``fold``, and so are the errors.
        """
        from holdfast.handles.index import Index, agreed
        from holdfast.handles.index_parts import options

        asked = options(
            kind, dimension, metric, hnsw, compression, level, checkpoint_bytes, stamps, salvage,
            ratio_guard,
        )  # fmt: skip
        spec = self._spec("index", name, path, durability, interval, create=create, options=asked)
        opened = self._open(spec, timeout=timeout)
        return Index(self._coordinator, opened, agreed(opened, asked))

    def registry(
        self,
        name: str,
        *,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> "Registry":
        """Open the model registry ``name``, making it if ``create`` and it is absent.

        Parameters and errors are as for ``fold``. Every write replaces the whole file; without a
        sync (``"interval"``, ``"never"``) a power loss goes back to what was synced last.
        """
        from holdfast.handles.registry import Registry

        spec = self._spec("registry", name, path, durability, interval, create=create)
        return Registry(self._coordinator, self._open(spec, timeout=timeout))

    def stores(self, *, timeout: float | None = None) -> dict[str, str]:
        """The stores by name, with their kind: in the directory, or open and elsewhere."""
        return self._stores(self.health(timeout=timeout))

    @operation
    def _open(self, spec: StoreSpec, *, timeout: float | None = None) -> Call[StoreSpec]:
        hung_after_s = self._coordinator.options.hung_after_s
        ask = OpenStore(spec, hung_after_s=hung_after_s)
        return Call(ask, expecting(messages.Opened, lambda answer: answer.spec), timeout)

    @operation
    def processes(self, *, timeout: float | None = None) -> Call[list[ProcessInfo]]:
        """The processes that serve this directory: the supervisor first, then the workers."""
        return Call(
            messages.AskProcesses(),
            expecting(messages.Processes, lambda answer: answer.processes),
            timeout,
        )

    @operation
    def health(self, *, timeout: float | None = None) -> Call[list[StoreHealth]]:
        """State, process, restarts and last cause of death of every open store."""
        return Call(
            messages.AskHealth(), expecting(messages.Health, lambda answer: answer.stores), timeout
        )

    @operation
    def _restart(self, name: str, *, timeout: float | None = None) -> Call[None]:
        hung_after_s = self._coordinator.options.hung_after_s
        return Call(messages.RestartStore(name, hung_after_s), lambda _: None, timeout)

    def restart(self, name: str, *, timeout: float | None = None) -> None:
        """Start a store's worker anew, also one that was given up after ``StoreFailed``.

        A store that is not open has none, and nothing happens. Raises ``StoreNotFound``.
        """
        check_name(name)
        try:
            self._restart(name, timeout=timeout)
        except StoreNotFound:
            self._spec_of(name)  # one in the directory need not be open

    def _named(self, name: str, timeout: float | None) -> StoreSpec:
        """The description of the store of this name. ``StoreNotFound``."""
        return self._spec_of(name, self.health(timeout=timeout))

    @operation
    def _drop(self, name: str, *, timeout: float | None = None) -> Call[None]:
        hung_after_s = self._coordinator.options.hung_after_s
        return Call(messages.DropStore(name, hung_after_s), lambda _: None, timeout)

    def drop(self, name: str, *, timeout: float | None = None) -> None:
        """Remove a store and its files for good, also one so damaged that it does not open.

        Raises ``StoreNotFound``, ``StoreLocked``, ``HasBranches``, and ``InvalidFormat`` when the
        file does not begin as this kind of store does: it may be somebody else's, and stays.
        """
        spec = self._named(name, timeout)
        try:
            opened = self._open(spec, timeout=timeout)
        except (StoreCorrupt, ParentChanged):
            if not dropped_unread(spec):
                raise
            return
        AnyStore(self._coordinator, opened).check_may_drop(timeout=timeout)
        try:
            self._drop(name, timeout=timeout)
        except StoreFailed:
            if not os.path.exists(opened.path):
                return  # done, by a supervisor that died before it could say so
            self._open(opened, timeout=timeout)  # a new supervisor does not know the store
            self._drop(name, timeout=timeout)
        finally:
            self._coordinator.dropped(name)

    def status(self, name: str, *, timeout: float | None = None) -> AnyStatus:
        """Figures of a store; opens it if it is in the directory and not open. ``StoreNotFound``.

        An index of a class of your own, not open yet, raises ``InvalidFormat``: ``index`` opens it.
        """
        return AnyStore(self._coordinator, self._named(name, timeout)).status(timeout=timeout)

    def close(self) -> None:
        """Leave. The last host to leave waits until every store is synced, whatever its policy.

        That may take as long as the disk does, up to half a minute. A worker that is not syncing
        and does not stop within 1.5 s is killed: then what it acknowledged is the system's to sync.
        """
        self._finalizer.detach()
        self._coordinator.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Family:
    """Where the children of an engine's vector stores go. Holds the engine as long as a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def path_of(self, name: str) -> str:
        return self._engine._path_of(name)

    def open(self, name: str) -> "Vectors":
        return self._engine.vectors(name, create=False)


def open_engine(
    directory: str | os.PathLike[str],
    *,
    timeout: float = 60.0,
    hung_after: float = 30.0,
    allow_network_fs: bool = False,
) -> Engine:
    """Open a directory of stores, joining its supervisor or starting one.

    ``timeout`` is every call's default deadline and ``hung_after`` how long a worker may go without
    progress while a call waits, both in seconds. ``allow_network_fs`` accepts a file system whose
    locks and syncs cannot be relied on.

    Raises ``StoreIOError`` (or ``StoreReadOnly``) when the directory cannot be made or written,
    ``UnsafeFileSystem``, ``EngineUnavailable`` when no supervisor can be started or the one there
    does not answer, and ``StoreLocked`` when a process that listens to nobody has its lock.
    """
    options = EngineOptions(timeout, hung_after, allow_network_fs)
    places = prepare(absolute(directory), allow_network_fs=allow_network_fs)
    engine = Engine(places, options)
    engine._coordinator.control.connection(engine._coordinator.deadline(None))
    return engine
