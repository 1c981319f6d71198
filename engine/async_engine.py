"""The engine for asyncio; every operation is defined in ``holdfast.engine``."""

import asyncio
import os
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from holdfast.async_coordinator import AsyncCoordinator
from holdfast.call import Call, awaitable
from holdfast.formats.errors import ParentChanged, StoreCorrupt, StoreFailed, StoreNotFound
from holdfast.formats.iqdb_values import HnswParameters
from holdfast.formats.iqdb_values import Metric as IndexMetric
from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.handles.any_store import AnyStatus, AsyncAnyStore
from holdfast.handles.checks import check_flag
from holdfast.handles.fold import AsyncFold, absolute
from holdfast.options import EngineOptions
from holdfast.workers import messages
from holdfast.workers.index_messages import CompressionName
from holdfast.workers.message import Durability
from holdfast.workers.messages import StoreSpec
from holdfast.workers.places import Places, check_name

if TYPE_CHECKING:  # numpy and pyarrow are loaded when a store needs them
    from holdfast.formats.warm_terms import Compression
    from holdfast.handles.async_vectors import AsyncVectors
    from holdfast.handles.async_warm import AsyncWarm
    from holdfast.handles.index import AsyncIndex
    from holdfast.handles.registry import AsyncRegistry

from holdfast.engine import Engine
from holdfast.engine_base import EngineBase, dropped_unread

T = TypeVar("T")


class AsyncEngine(EngineBase):
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
        from holdfast.handles.async_vectors import AsyncVectors
        from holdfast.handles.vector_parts import agreed, options

        asked = options(dimension, metric, profile, read_only)
        create = check_flag("create", create) and not read_only
        spec = self._spec("vectors", name, path, durability, interval, create=create, options=asked)
        opened = await self._open(spec, timeout=timeout)
        return AsyncVectors(self._async, opened, agreed(opened, asked), _AsyncFamily(self))

    async def warm(
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
    ) -> "AsyncWarm":
        """See ``Engine.warm``."""
        from holdfast.handles.async_warm import AsyncWarm
        from holdfast.handles.warm_calls import agreed, options

        asked = options(dimension, compression)
        spec = self._spec("warm", name, path, durability, interval, create=create, options=asked)
        opened = await self._open(spec, timeout=timeout)
        return AsyncWarm(self._async, opened, agreed(opened, asked))

    async def index(
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
    ) -> "AsyncIndex":
        """See ``Engine.index``."""
        from holdfast.handles.index import AsyncIndex, agreed
        from holdfast.handles.index_parts import options

        asked = options(
            kind, dimension, metric, hnsw, compression, level, checkpoint_bytes, stamps, salvage,
            ratio_guard,
        )  # fmt: skip
        spec = self._spec("index", name, path, durability, interval, create=create, options=asked)
        opened = await self._open(spec, timeout=timeout)
        return AsyncIndex(self._async, opened, agreed(opened, asked))

    async def registry(
        self,
        name: str,
        *,
        path: str | os.PathLike[str] | None = None,
        durability: Durability | None = None,
        interval: float | None = None,
        create: bool = True,
        timeout: float | None = None,
    ) -> "AsyncRegistry":
        """See ``Engine.registry``."""
        from holdfast.handles.registry import AsyncRegistry

        spec = self._spec("registry", name, path, durability, interval, create=create)
        return AsyncRegistry(self._async, await self._open(spec, timeout=timeout))

    async def stores(self, *, timeout: float | None = None) -> dict[str, str]:
        """See ``Engine.stores``."""
        return await asyncio.to_thread(self._stores, await self.health(timeout=timeout))

    _open = awaitable(Engine._open)
    processes = awaitable(Engine.processes)
    health = awaitable(Engine.health)
    _restart = awaitable(Engine._restart)
    _drop = awaitable(Engine._drop)

    async def restart(self, name: str, *, timeout: float | None = None) -> None:
        """See ``Engine.restart``."""
        check_name(name)
        try:
            await self._restart(name, timeout=timeout)
        except StoreNotFound:
            await asyncio.to_thread(self._spec_of, name)

    async def _named(self, name: str, timeout: float | None) -> StoreSpec:
        return self._spec_of(name, await self.health(timeout=timeout))

    async def drop(self, name: str, *, timeout: float | None = None) -> None:
        """See ``Engine.drop``."""
        spec = await self._named(name, timeout)
        try:
            opened = await self._open(spec, timeout=timeout)
        except (StoreCorrupt, ParentChanged):
            if not await asyncio.to_thread(dropped_unread, spec):
                raise
            return
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
        store = AsyncAnyStore(self._async, await self._named(name, timeout))
        return await store.status(timeout=timeout)

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


class _AsyncFamily:
    """``_Family`` for asyncio."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    def path_of(self, name: str) -> str:
        return self._engine._path_of(name)

    async def open(self, name: str) -> "AsyncVectors":
        return await self._engine.vectors(name, create=False)
