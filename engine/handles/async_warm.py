"""The warm store's handle for asyncio; every operation is defined in ``handles.warm``."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.async_coordinator import AsyncCoordinator
from holdfast.call import awaitable
from holdfast.formats.warm_chunk import ENTITY, SPACE
from holdfast.handles.base import AsyncHandle
from holdfast.handles.checks import check_count
from holdfast.handles.fold import absolute
from holdfast.handles.warm import Warm
from holdfast.handles.warm_calls import (
    ALL_COLUMNS,
    NonFinite,
    WarmCalls,
    check_columns,
    cut,
    last_series,
)
from holdfast.handles.warm_transfer import FileFormat, PartitionWriter, WarmExported, batches_of
from holdfast.workers import warm_messages as wm
from holdfast.workers.messages import StoreSpec

if TYPE_CHECKING:
    import pyarrow.dataset


class AsyncWarm(WarmCalls, AsyncHandle):
    """``Warm`` for asyncio: the same operations, awaitable; ``scan`` is an async iterator."""

    def __init__(
        self, coordinator: AsyncCoordinator, spec: StoreSpec, properties: wm.WarmIs
    ) -> None:
        AsyncHandle.__init__(self, coordinator, spec)
        WarmCalls.__init__(self, spec, properties)

    write = awaitable(Warm.write)
    write_batch = awaitable(Warm.write_batch)
    put = awaitable(Warm.put)
    delete = awaitable(Warm.delete)
    delete_range = awaitable(Warm.delete_range)
    retain = awaitable(Warm.retain)
    get = awaitable(Warm.get)
    contains = awaitable(Warm.contains)
    latest = awaitable(Warm.latest)
    count = awaitable(Warm.count)
    range = awaitable(Warm.range)
    range_many = awaitable(Warm.range_many)
    nearest = awaitable(Warm.nearest)
    flush = awaitable(Warm.flush)
    compact = awaitable(Warm.compact)
    verify = awaitable(Warm.verify)
    status = awaitable(Warm.status)
    import_chronos = awaitable(Warm.import_chronos)
    _page = awaitable(Warm._page)
    _series_page = awaitable(Warm._series_page)

    def scan(
        self,
        *,
        columns: Iterable[str] = ALL_COLUMNS,
        batch_rows: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[pa.Table]:
        """See ``Warm.scan``."""
        wanted = check_columns(columns, ALL_COLUMNS)
        limit = 0 if batch_rows is None else check_count("batch_rows", batch_rows)
        return self._scan(wanted, limit, timeout)

    async def _scan(
        self, wanted: tuple[str, ...], limit: int, timeout: float | None
    ) -> AsyncIterator[pa.Table]:
        after = None
        while True:
            table, after = await self._page(after, wanted, limit, timeout=timeout)
            for part in cut(table, limit):
                yield part
            if after is None:
                return

    async def to_table(
        self, *, columns: Iterable[str] = ALL_COLUMNS, timeout: float | None = None
    ) -> pa.Table:
        """See ``Warm.to_table``."""
        wanted = check_columns(columns, ALL_COLUMNS)
        tables = [table async for table in self._scan(wanted, 0, timeout)]
        return pa.concat_tables(tables) if tables else self._empty(wanted)

    async def dataset(self, *, timeout: float | None = None) -> "pyarrow.dataset.Dataset":
        """See ``Warm.dataset``."""
        import pyarrow.dataset

        table = await self.to_table(timeout=timeout)
        return await asyncio.to_thread(pyarrow.dataset.dataset, table)

    async def import_file(
        self,
        source: str | os.PathLike[str],
        *,
        space: int | None = None,
        format: FileFormat | None = None,
        non_finite: NonFinite = "refuse",
        timeout: float | None = None,
    ) -> int:
        """See ``Warm.import_file``."""
        written = 0
        batches = batches_of(absolute(source), space, format)
        while (batch := await asyncio.to_thread(next, batches, None)) is not None:
            done = await self.write_batch(*batch, non_finite=non_finite, timeout=timeout)
            written += done.points
        return written

    async def export(
        self,
        directory: str | os.PathLike[str],
        *,
        format: FileFormat = "parquet",
        timeout: float | None = None,
    ) -> WarmExported:
        """See ``Warm.export``."""
        writer = await asyncio.to_thread(PartitionWriter, absolute(directory), format)
        try:
            async for table in self._scan(ALL_COLUMNS, 0, timeout):
                await asyncio.to_thread(writer.write, table)
            return await asyncio.to_thread(writer.finish)
        except BaseException:
            await asyncio.to_thread(writer.discard)
            raise

    async def series(self, space: int | None = None, *, timeout: float | None = None) -> pa.Table:
        """See ``Warm.series``."""
        pages = []
        after, more = None, True
        while more:
            page, more = await self._series_page(space, after, timeout=timeout)
            pages.append(page)
            after = last_series(page) if more else None
        return pa.concat_tables(pages)

    async def entities(
        self, space: int | None = None, *, timeout: float | None = None
    ) -> NDArray[np.uint64]:
        """See ``Warm.entities``."""
        return np.unique((await self.series(space, timeout=timeout))[ENTITY].to_numpy())

    async def spaces(self, *, timeout: float | None = None) -> NDArray[np.uint32]:
        """See ``Warm.spaces``."""
        return np.unique((await self.series(timeout=timeout))[SPACE].to_numpy())
