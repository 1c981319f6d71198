"""The engine: a directory of stores, as one host process sees it."""

import asyncio
import os
import threading
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from holdfast.async_coordinator import AsyncCoordinator
from holdfast.call import Call, awaitable, operation
from holdfast.control import Control
from holdfast.coordinator import Coordinator
from holdfast.formats.errors import (
    InvalidArgument,
    InvalidName,
    StoreExists,
    StoreFailed,
    StoreNotFound,
    WrongKind,
    from_os_error,
)
from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.handles.any_store import AnyStatus, AnyStore, AsyncAnyStore
from holdfast.handles.base import expecting
from holdfast.handles.fold import AsyncFold, Fold, absolute
from holdfast.joining import prepare
from holdfast.options import EngineOptions, check_seconds
from holdfast.workers import messages
from holdfast.workers.disk import OsDisk
from holdfast.workers.message import Durability
from holdfast.workers.messages import (
    Kind,
    OpenStore,
    ProcessInfo,
    StoreHealth,
    StoreSpec,
)
from holdfast.workers.places import Places, check_name, split_store
from holdfast.workers.vector_messages import VectorOptions

if TYPE_CHECKING:  # numpy and pyarrow are loaded when a store needs them
    from holdfast.handles.async_vectors import AsyncVectors
    from holdfast.handles.vectors import Vectors

T = TypeVar("T")

_DURABILITIES = ("always", "interval", "never")
_SERVED: dict[str, Kind] = {"fold": "fold", "vectors": "vectors"}
"""The kinds of store that this release serves."""
_engines: "weakref.WeakSet[_EngineBase]" = weakref.WeakSet()
_fork_hook = threading.Lock()
_fork_hook_set = False


class _EngineBase:
    """What both faces of the engine share."""

    def __init__(self, places: Places, options: EngineOptions) -> None:
        self._places = places
        self._coordinator = Coordinator(Control(places, options), options)
        # An engine that is dropped without close, with its handles, leaves all the same, at exit
        # at the latest.
        control = self._coordinator.control
        self._finalizer = weakref.finalize(self._coordinator, control.close)
        _watch_forks()
        _engines.add(self)

    @property
    def directory(self) -> str:
        """The directory, as an absolute path."""
        return self._places.directory

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.directory!r}>"

    def _stores(self) -> dict[str, str]:
        found = (split_store(name) for name in self._files())
        return dict(sorted(store for store in found if store is not None))

    def _files(self) -> list[str]:
        """The names in the directory."""
        self._coordinator.control.check_open()
        try:
            return [name for name, _ in OsDisk().list(self.directory)]
        except OSError as error:
            raise from_os_error(error, "list", self.directory) from error

    def _spec(
        self,
        kind: Kind,
        name: str,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        *,
        import_from: str | None = None,
        create: bool = True,
        vectors: VectorOptions | None = None,
    ) -> StoreSpec:
        """A checked description of a store."""
        check_name(name)
        if not isinstance(create, bool):
            raise InvalidArgument(f"create is a bool, not {type(create).__name__}")
        if durability is not None and durability not in _DURABILITIES:
            raise InvalidArgument(f"durability={durability!r} is none of {_DURABILITIES}")
        if interval is not None:
            check_seconds("interval", interval)
        if path is None:
            self._check_free(name, kind)
        where = self._places.store(name, kind) if path is None else absolute(path)
        if os.path.exists(where) and not os.path.isfile(where):
            raise InvalidArgument(f"{where!r} is not a regular file", store=name, path=where)
        return StoreSpec(
            name, kind, os.path.realpath(where), durability, interval, import_from, create, vectors
        )

    def _path_of(self, name: str) -> str:
        """Where a new vector store of this name would lie. Raises ``StoreExists`` if one does."""
        path = self._spec("vectors", name).path
        if os.path.exists(path):
            raise StoreExists(f"store {name!r} exists", store=name, path=path)
        return path

    def _check_free(self, name: str, kind: Kind) -> None:
        """Refuse a name that another kind of store has, or one that differs in case alone."""
        for file_name in self._files():
            store = split_store(file_name)
            if store is None or store == (name, kind):
                continue
            held, held_kind = store
            if held == name:
                raise WrongKind(f"store {name!r} is a {held_kind}, not a {kind}", store=name)
            if held.casefold() == name.casefold():
                raise InvalidName(
                    f"{name!r} differs from the store {held!r} in case alone, which some file "
                    "systems cannot tell apart",
                    store=name,
                )

    def _spec_of(self, name: str) -> StoreSpec:
        """The description of a store that exists in the directory."""
        check_name(name)
        for file_name in self._files():
            store = split_store(file_name)
            if store is not None and store[0] == name and store[1] in _SERVED:
                return self._spec(_SERVED[store[1]], name, create=False)
        raise StoreNotFound(f"there is no store {name!r} in {self.directory!r}", store=name)

    def _leave_to_parent(self) -> None:
        self._coordinator.leave_to_parent()


class Engine(_EngineBase):
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

        ``path`` opens a log that lies elsewhere. ``durability`` is ``"always"`` (the default: an
        acknowledged write is synced), ``"interval"`` (synced within ``interval`` seconds, 1 by
        default) or ``"never"`` (survives any process's death, but not power loss). Without it, a
        store that is open already is joined as it is.

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
        not exist then. Raises ``StoreExists`` when it is open already.
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
        from holdfast.handles.vectors import VectorInfo, Vectors

        asked = options(dimension, metric, profile, read_only)
        spec = self._spec(
            "vectors", name, path, durability, interval, create=create and not read_only,
            vectors=asked,
        )  # fmt: skip
        opened = self._open(spec, timeout=timeout)
        found = VectorInfo(self._coordinator, opened).ask(timeout=timeout)
        return Vectors(self._coordinator, opened, agreed(found, asked, name), _Family(self))

    def stores(self) -> dict[str, str]:
        """The stores in the directory: name to kind, in order of name."""
        return self._stores()

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
    def restart(self, name: str, *, timeout: float | None = None) -> Call[None]:
        """Start a store's worker anew, also one that was given up after ``StoreFailed``."""
        hung_after_s = self._coordinator.options.hung_after_s
        ask = messages.RestartStore(check_name(name), hung_after_s)
        return Call(ask, lambda _: None, timeout)

    @operation
    def _drop(self, name: str, *, timeout: float | None = None) -> Call[None]:
        hung_after_s = self._coordinator.options.hung_after_s
        return Call(messages.DropStore(name, hung_after_s), lambda _: None, timeout)

    def drop(self, name: str, *, timeout: float | None = None) -> None:
        """Remove a store and its files for good. Raises ``StoreNotFound`` or ``HasBranches``."""
        opened = self._open(self._spec_of(name), timeout=timeout)
        AnyStore(self._coordinator, opened).check_may_drop(timeout=timeout)
        try:
            self._drop(name, timeout=timeout)
        except StoreFailed:
            if not os.path.exists(opened.path):
                return  # done, by a supervisor that died before it could say so
            self._open(opened, timeout=timeout)  # a new supervisor does not know the store
            self._drop(name, timeout=timeout)

    def status(self, name: str, *, timeout: float | None = None) -> AnyStatus:
        """Figures of a store in the directory; opens it if it is not open. ``StoreNotFound``."""
        return AnyStore(self._coordinator, self._spec_of(name)).status(timeout=timeout)

    def close(self) -> None:
        """Leave. The last host to leave waits until every store is synced and closed."""
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


class AsyncEngine(_EngineBase):
    """``Engine`` for asyncio: the same operations, awaitable, in one event loop."""

    def __init__(self, places: Places, options: EngineOptions) -> None:
        super().__init__(places, options)
        self._async = AsyncCoordinator(self._coordinator)

    async def _run(self, call: Call[T]) -> T:
        self._coordinator.control.check_open()
        deadline = self._coordinator.deadline(call.timeout)
        assert isinstance(call.message, messages.Ask)
        return call.unwrap((await self._async.ask(call.message, deadline)).answer)

    async def connect(self) -> None:
        """Join or start the supervisor; ``holdfast.aio.open`` has done so already."""
        control = self._coordinator.control
        await asyncio.to_thread(control.connection, self._coordinator.deadline(None))

    async def fold(
        self,
        name: str,
        *,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> AsyncFold:
        """See ``Engine.fold``."""
        spec = self._spec("fold", name, path, durability, interval, create=create)
        return AsyncFold(self._async, await self._open(spec, timeout=timeout))

    async def import_fold(
        self,
        name: str,
        directory: str | os.PathLike[str],
        *,
        durability: Durability | None = None,
        interval: float | None = None,
        timeout: float | None = None,
    ) -> AsyncFold:
        """See ``Engine.import_fold``."""
        spec = self._spec(
            "fold", name, None, durability, interval, import_from=absolute(directory), create=False
        )
        return AsyncFold(self._async, await self._open(spec, timeout=timeout))

    async def vectors(
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
    ) -> "AsyncVectors":
        """See ``Engine.vectors``."""
        from holdfast.handles.async_vectors import AsyncVectorInfo, AsyncVectors
        from holdfast.handles.vector_parts import agreed, options

        asked = options(dimension, metric, profile, read_only)
        spec = self._spec(
            "vectors", name, path, durability, interval, create=create and not read_only,
            vectors=asked,
        )  # fmt: skip
        opened = await self._open(spec, timeout=timeout)
        found = await AsyncVectorInfo(self._async, opened).ask(timeout=timeout)
        return AsyncVectors(self._async, opened, agreed(found, asked, name), _AsyncFamily(self))

    async def stores(self) -> dict[str, str]:
        """See ``Engine.stores``."""
        return await asyncio.to_thread(self._stores)

    _open = awaitable(Engine._open)
    processes = awaitable(Engine.processes)
    health = awaitable(Engine.health)
    restart = awaitable(Engine.restart)
    _drop = awaitable(Engine._drop)

    async def drop(self, name: str, *, timeout: float | None = None) -> None:
        """See ``Engine.drop``."""
        opened = await self._open(self._spec_of(name), timeout=timeout)
        await AsyncAnyStore(self._async, opened).check_may_drop(timeout=timeout)
        try:
            await self._drop(name, timeout=timeout)
        except StoreFailed:
            if not os.path.exists(opened.path):
                return
            await self._open(opened, timeout=timeout)
            await self._drop(name, timeout=timeout)

    async def status(self, name: str, *, timeout: float | None = None) -> AnyStatus:
        """See ``Engine.status``."""
        return await AsyncAnyStore(self._async, self._spec_of(name)).status(timeout=timeout)

    async def close(self) -> None:
        """See ``Engine.close``."""
        self._finalizer.detach()
        await self._async.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class _Family:
    """Where the children of an engine's vector stores go. Holds the engine as long as a store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def path_of(self, name: str) -> str:
        return self._engine._path_of(name)

    def open(self, name: str) -> "Vectors":
        return self._engine.vectors(name, create=False)


class _AsyncFamily:
    """``_Family`` for asyncio."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def path_of(self, name: str) -> str:
        return self._engine._path_of(name)

    async def open(self, name: str) -> "AsyncVectors":
        return await self._engine.vectors(name, create=False)


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
    ``UnsafeFileSystem``, ``StoreLocked`` when its supervisor does not answer, and
    ``EngineUnavailable`` when none can be started.
    """
    options = EngineOptions(timeout, hung_after, allow_network_fs)
    places = prepare(absolute(directory), allow_network_fs=allow_network_fs)
    engine = Engine(places, options)
    engine._coordinator.control.connection(engine._coordinator.deadline(None))
    return engine


def _watch_forks() -> None:
    """Have forked children let go of their parent's pipes. Set up by the first engine."""
    global _fork_hook_set
    with _fork_hook:
        if not _fork_hook_set:
            os.register_at_fork(after_in_child=_after_fork)
            _fork_hook_set = True


def _after_fork() -> None:
    for engine in list(_engines):
        engine._leave_to_parent()
