"""The asyncio face: ``async with holdfast.aio.open("data") as engine``."""

import asyncio
import os
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING

import holdfast
from holdfast.async_engine import AsyncEngine
from holdfast.handles.fold import AsyncFold, absolute
from holdfast.joining import prepare
from holdfast.options import DEFAULT_TIMEOUT_S, EngineOptions
from holdfast.workers.messages import DEFAULT_HUNG_AFTER_S

if TYPE_CHECKING:
    from holdfast.handles.async_vectors import AsyncVectors
    from holdfast.handles.async_warm import AsyncWarm
    from holdfast.handles.index import AsyncIndex
    from holdfast.handles.registry import AsyncRegistry

__all__ = [
    "AsyncEngine",
    "AsyncFold",
    "AsyncIndex",
    "AsyncRegistry",
    "AsyncVectors",
    "AsyncWarm",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(holdfast, name)  # where they are loaded on first use


class Opening:
    """An engine being opened: ``await`` it, or enter it with ``async with``."""

    def __init__(self, directory: str | os.PathLike[str], options: EngineOptions) -> None:
        self._directory = absolute(directory)
        self._options = options
        self._engine: AsyncEngine | None = None

    def __await__(self) -> Generator[object, None, AsyncEngine]:
        return self._open().__await__()

    async def _open(self) -> AsyncEngine:
        places = await asyncio.to_thread(
            prepare, self._directory, allow_network_fs=self._options.allow_network_fs
        )
        self._engine = AsyncEngine(places, self._options)
        await self._engine.connect()
        return self._engine

    async def __aenter__(self) -> AsyncEngine:
        return await self._open()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._engine is not None
        await self._engine.close()


def open(
    directory: str | os.PathLike[str],
    *,
    timeout: float = DEFAULT_TIMEOUT_S,
    hung_after: float = DEFAULT_HUNG_AFTER_S,
    allow_network_fs: bool = False,
) -> Opening:
    """Open a directory of stores for asyncio; parameters and errors as ``holdfast.open``."""
    return Opening(directory, EngineOptions(timeout, hung_after, allow_network_fs))
