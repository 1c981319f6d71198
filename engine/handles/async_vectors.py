"""The vector store's handle for asyncio; every operation is defined in ``handles.vectors``."""

from collections.abc import AsyncIterator, Iterable
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from holdfast.async_coordinator import AsyncCoordinator
from holdfast.call import awaitable
from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.handles.checks import check_count
from holdfast.handles.images import AsyncImageOperations
from holdfast.handles.vector_parts import (
    Difference,
    Digests,
    Include,
    check_derivation,
    condition,
    included,
)
from holdfast.handles.vectors import Ids, Vectors
from holdfast.workers import vector_messages as vm
from holdfast.workers.messages import StoreSpec


class AsyncFamily(Protocol):
    """``Family`` for asyncio."""

    def path_of(self, name: str) -> str: ...

    async def open(self, name: str) -> "AsyncVectors": ...


class AsyncVectors(AsyncImageOperations):
    """``Vectors`` for asyncio: the same operations, awaitable; ``scan`` is an async iterator."""

    def __init__(
        self,
        coordinator: AsyncCoordinator,
        spec: StoreSpec,
        properties: vm.VectorsAre,
        family: AsyncFamily,
    ) -> None:
        super().__init__(coordinator, spec)
        self._properties = properties
        self._family = family

    @property
    def dimension(self) -> int:
        """See ``Vectors.dimension``."""
        return self._properties.dimension

    @property
    def metric(self) -> Metric:
        """See ``Vectors.metric``."""
        return self._properties.metric

    @property
    def profile(self) -> Profile:
        """See ``Vectors.profile``."""
        return self._properties.profile

    ingest = awaitable(Vectors.ingest)
    query = awaitable(Vectors.query)
    get = awaitable(Vectors.get)
    delete = awaitable(Vectors.delete)
    delete_where = awaitable(Vectors.delete_where)
    count = awaitable(Vectors.count)
    _page = awaitable(Vectors._page)
    compact = awaitable(Vectors.compact)
    segments = awaitable(Vectors.segments)
    status = awaitable(Vectors.status)
    verify = awaitable(Vectors.verify)
    refresh = awaitable(Vectors.refresh)
    freeze = awaitable(Vectors.freeze)
    build_index = awaitable(Vectors.build_index)
    cancel_index = awaitable(Vectors.cancel_index)
    measure_recall = awaitable(Vectors.measure_recall)
    identity = awaitable(Vectors.identity)
    lineage = awaitable(Vectors.lineage)
    cow_stats = awaitable(Vectors.cow_stats)
    membership = awaitable(Vectors.membership)
    limit = awaitable(Vectors.limit)
    _branch = awaitable(Vectors._branch)
    _derive = awaitable(Vectors._derive)
    _digests = awaitable(Vectors._digests)

    def scan(
        self,
        *,
        where: pc.Expression | None = None,
        include: Iterable[Include] = ("metadata", "vectors"),
        batch_rows: int | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[pa.Table]:
        """See ``Vectors.scan``."""
        if batch_rows is not None:
            batch_rows = check_count("batch_rows", batch_rows)
        return self._scan(condition(where), included(include), batch_rows or 0, timeout)

    async def _scan(
        self, where: bytes | None, wanted: frozenset[str], limit: int, timeout: float | None
    ) -> AsyncIterator[pa.Table]:
        after = None
        while True:
            rows, more = await self._page(after, where, wanted, limit, timeout=timeout)
            if len(rows):
                yield rows.to_arrow()
                after = int(rows.ids[-1])
            if not more:
                return

    async def branch(
        self,
        name: str,
        *,
        include: Ids | None = None,
        exclude: Ids | None = None,
        timeout: float | None = None,
    ) -> "AsyncVectors":
        """See ``Vectors.branch``."""
        child = self._family.path_of(name)
        await self._branch(child, include, exclude, timeout=timeout)
        return await self._family.open(name)

    async def derive(
        self, name: str, kind: str, *, dimension: int | None = None, timeout: float | None = None
    ) -> "AsyncVectors":
        """See ``Vectors.derive``."""
        dimension = check_derivation(kind, dimension)
        child = self._family.path_of(name)
        await self._derive(child, kind, dimension, timeout=timeout)
        return await self._family.open(name)

    async def _all_digests(self, timeout: float | None) -> Digests:
        found = Digests()
        while not found.complete:
            found.add(*await self._digests(found.last, timeout=timeout))
        return found

    async def diff(self, other: "AsyncVectors", *, timeout: float | None = None) -> Difference:
        """See ``Vectors.diff``."""
        mine = await self._all_digests(timeout)
        return mine.compared(await other._all_digests(timeout))
