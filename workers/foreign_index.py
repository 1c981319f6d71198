"""A user's own class behind the interface that the index store works with."""

import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import HoldfastError, InvalidArgument
from holdfast.formats.iqdb_values import METRICS, Buffer, Flaw, Id, IndexFlaw, Metric, check_id
from holdfast.formats.limits import INDEX_DIMENSION_MAX
from holdfast.workers.core_index import Found, decoded
from holdfast.workers.persistable import Persistable

Floats = NDArray[np.float32]
T = TypeVar("T")

RAISED = (Exception, SystemExit)
"""What a class's own code may raise without ending the process that called it."""


class HalfDone(Exception):
    """The index refused a row after it had taken others of the same request."""


class ForeignIndex:
    """An index of a class that this package did not write."""

    kind = "custom"
    graph_rows = 0

    def __init__(self, inner: Persistable) -> None:
        self.inner = inner
        missing = [name for name in ("dimension", "metric") if not hasattr(inner, name)]
        if missing:
            raise InvalidArgument(f"{type(inner).__name__} object has no {', '.join(missing)}")
        self.index_type = inner.INDEX_TYPE
        dimension, metric = inner.dimension, inner.metric
        if not isinstance(dimension, int) or not 0 < dimension <= INDEX_DIMENSION_MAX:
            raise InvalidArgument(
                f"{type(inner).__name__}.dimension is {dimension!r}, not 1 to {INDEX_DIMENSION_MAX}"
            )
        if metric not in METRICS:
            raise InvalidArgument(f"{type(inner).__name__}.metric is {metric!r}, none of {METRICS}")
        self.dimension: int = dimension
        self.metric: Metric = metric

    def __len__(self) -> int:
        return int(self._asked("__len__", lambda: len(self.inner)))

    def __contains__(self, id_: object) -> bool:
        return bool(self._asked("__contains__", lambda: id_ in self.inner))

    def _asked(self, method: str, ask: Callable[[], T]) -> T:
        """What the class's own code answers. Raises ``InvalidArgument`` where it fails."""
        try:
            return ask()
        except HoldfastError:
            raise
        except RAISED as error:
            raise InvalidArgument(f"{type(self.inner).__name__}.{method}: {error!r}") from error

    def put(
        self, ids: Sequence[Id], vectors: Floats, metadata: Sequence[bytes | None] | None
    ) -> int:
        """Insert or replace rows one by one; returns how many were replaced.

        Raises ``InvalidArgument`` when the class refuses the first, ``HalfDone`` when a later one.
        """
        replaced = 0
        done = False
        for place, id_ in enumerate(ids):
            try:
                if id_ in self.inner:
                    replaced += 1
                    self.inner.delete(id_)
                    done = True
                entries = None if metadata is None else decoded(metadata[place])
                self.inner.insert(id_, np.array(vectors[place], np.float32), entries)
            except RAISED as error:
                raise _refusal(id_, error, done) from error
            done = True
        return replaced

    def remove(self, ids: Sequence[Id]) -> int:
        """Remove the rows that are there; returns how many."""
        removed = 0
        for id_ in ids:
            try:
                if id_ in self.inner:
                    self.inner.delete(id_)
                    removed += 1
            except RAISED as error:
                raise _refusal(id_, error, removed > 0) from error
        return removed

    def take(self, ids: Sequence[Id]) -> list[tuple[Id, Floats, bytes | None] | None]:
        """Not asked of such a class."""
        raise InvalidArgument(f"{type(self.inner).__name__} does not give rows back by id")

    def find(
        self,
        queries: Floats,
        k: int,
        *,
        where: bytes | None = None,
        exact: bool = False,
        ef: int | None = None,
        tick: Callable[[], None],
    ) -> Found:
        """What the class finds; it knows neither filters nor metadata of results.

        Raises ``InvalidArgument`` where it finds more for one query than for another.
        """
        if where is not None or ef is not None:
            raise InvalidArgument(f"{type(self.inner).__name__} knows neither where nor ef")
        found = []
        for query in queries:
            found.append(self._hits(query, k)[:k])
            tick()
        each = len(found[0]) if found else 0
        for number, hits in enumerate(found):
            if len(hits) != each:
                raise InvalidArgument(
                    f"{type(self.inner).__name__}.search finds {each} rows for query 0 and "
                    f"{len(hits)} for query {number}: ask for one vector at a time"
                )
        distances = [[distance for _, distance in hits] for hits in found]
        return Found(
            [[id_ for id_, _ in hits] for hits in found],
            np.array(distances, np.float32).reshape(len(found), each),
            None,
            not exact,
        )

    def _hits(self, query: Floats, k: int) -> list[tuple[Id, float]]:
        return self._asked(
            "search",
            lambda: [
                (check_id(id_), float(distance)) for id_, distance in self.inner.search(query, k)
            ],
        )

    def optimize_step(self) -> bool:
        """Nothing is known to be done."""
        return False

    def payload(self) -> Iterator[Buffer]:
        """What the class writes, as it writes it; it may not change meanwhile.

        Raises ``InvalidArgument`` when the class fails to.
        """
        sink = io.BytesIO()
        try:
            self.inner.save_to(sink)
            view = sink.getbuffer()
        except RAISED as error:
            raise InvalidArgument(f"{type(self.inner).__name__}.save_to: {error!r}") from error
        for start in range(0, len(view), 1 << 20):
            yield bytes(view[start : start + (1 << 20)])

    def check_invariants(self) -> None:
        """Only the class itself could tell."""


def load_foreign(cls: type[Persistable], payload: memoryview) -> ForeignIndex:
    """The index in a payload. Raises ``IndexFlaw``."""
    try:
        return ForeignIndex(cls.load_from(io.BytesIO(payload)))
    except RAISED as error:
        reason = f"{cls.__name__}.load_from: {error!r}"
        raise IndexFlaw(Flaw.PAYLOAD, reason) from error


def make_foreign(cls: type[Persistable], dimension: int, metric: Metric) -> ForeignIndex:
    """An empty index of a class. Raises ``InvalidArgument``."""
    make: Any = cls
    try:
        return ForeignIndex(make(dimension, metric))
    except HoldfastError:
        raise
    except RAISED as error:
        raise InvalidArgument(f"{cls.__name__}({dimension}, {metric!r}): {error!r}") from error


def _refusal(id_: Id, error: BaseException, done: bool) -> Exception:
    reason = f"the index refuses id {id_!r}: {error!r}"
    return HalfDone(reason) if done else InvalidArgument(reason)
