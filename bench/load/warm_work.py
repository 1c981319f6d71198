"""Work on a warm store: series that grow at one end and expire at the other.

The points of a series are numbered from 0 on; a point's time and vector follow from its number. So
what is there of a series is an interval of numbers, without a hole. After a write whose outcome is
unknown its points are written again before any later ones, so that it stays so.
"""

import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

import numpy as np

from holdfast.bench.load.profile import WarmLoad
from holdfast.bench.load.truth import WrongRead
from holdfast.bench.load.work import NAME, Steps, Work, vectors_of

_SPACE = 1
_STEP_US = 1_000
Span: TypeAlias = tuple[int, int]
"""From a first number to one behind the last."""


class Series:
    """What one process knows of all series: what is certainly there, and what may be."""

    def __init__(self, load: WarmLoad, written_here: Sequence[int], clients: int) -> None:
        unknown = np.iinfo(np.int64).max
        self._lock = threading.Lock()
        self._expiring = np.full(load.keys, unknown, np.int64)
        self._expired = np.zeros(load.keys, np.int64)
        self._written = np.full(load.keys, load.batch, np.int64)
        self._writing = np.full(load.keys, unknown, np.int64)
        for client in written_here:
            self._expiring[client::clients] = 0
            self._writing[client::clients] = load.batch

    def next(self, series: int, count: int) -> Span:
        """The points to be written next, which are under way from now on."""
        with self._lock:
            first = int(self._written[series])
            self._writing[series] = max(self._writing[series], first + count)
        return first, first + count

    def written(self, series: int, end: int) -> None:
        """All points before this one are or were there."""
        with self._lock:
            self._written[series] = max(self._written[series], end)

    def expire(self, own: slice, keep: int) -> tuple[int, int]:
        """The fullest of some series, and the first of its points to keep; it is being cut now."""
        with self._lock:
            excess = self._written[own] - self._expiring[own] - keep
            place = int(np.argmax(excess))
            series = range(len(self._written))[own][place]
            self._expiring[series] += max(0, int(excess[place]))
            return series, int(self._expiring[series])

    def expired(self, series: int, first: int) -> None:
        """Nothing before this point is there."""
        with self._lock:
            self._expired[series] = max(self._expired[series], first)

    def known(self, series: int) -> Span:
        """To be asked before a read: where a series may begin, and must end, at the earliest."""
        with self._lock:
            return int(self._expired[series]), int(self._written[series])

    def present(self, series: int) -> Span | None:
        """Points that are there unless they expire meanwhile; None where that is not known."""
        with self._lock:
            first, end = int(self._expiring[series]), int(self._written[series])
        return (first, end) if first < end else None

    def saw(self, series: int, known: Span, wanted: int, found: Span | None) -> None:
        """Judge an answer that has all points from ``wanted`` on. Raises ``WrongRead``."""
        with self._lock:
            low, end = max(known[0], wanted), known[1]
            high, most = max(int(self._expiring[series]), wanted), int(self._writing[series])
            if found is None:
                if high < end:
                    raise WrongRead(f"series {series} has points {high} to {end}, and none came")
            elif not (low <= found[0] <= high and end <= found[1] <= most):
                raise WrongRead(
                    f"series {series}: points {found[0]} to {found[1]} came, and it begins at "
                    f"{low} to {high} and ends at {end} to {most}"
                )
            else:
                self._written[series] = max(self._written[series], found[1])


class WarmWork(Work[WarmLoad, Series]):
    """A key is a series, of the entity of that number."""

    read_at_once = 1

    @staticmethod
    def open(engine: Any, load: WarmLoad, durability: str) -> Any:
        return engine.warm(NAME + "-warm", dimension=load.dimension, durability=durability)

    @classmethod
    def preload(cls, handle: Any, load: WarmLoad, keys: Sequence[int]) -> None:
        entities = np.repeat(np.asarray(keys, np.uint64), load.batch)
        numbers = np.tile(np.arange(load.batch, dtype=np.int64), len(keys))
        rows = vectors_of(entities.tolist(), numbers.tolist(), load.dimension)
        handle.write_batch(
            _SPACE, {"entity": entities, "timestamp": numbers * _STEP_US, "vector": rows}
        )

    @staticmethod
    def knowledge(load: WarmLoad, written_here: Sequence[int], clients: int) -> Series:
        return Series(load, written_here, clients)

    def operations(self) -> dict[str, Callable[[], Steps]]:
        return {
            "append": self.append,
            "expire": self.expire,
            "latest": self.latest,
            "point": self.point,
            "range": self.range,
        }

    def append(self) -> Steps:
        """Write a series' next points."""
        entity = self.own_key()
        first, end = self.truth.next(entity, self.load.batch)
        numbers = range(first, end)
        times = [number * _STEP_US for number in numbers]
        rows = vectors_of([entity] * len(numbers), numbers, self.load.dimension)
        yield lambda warm: warm.write(entity, _SPACE, times, rows)
        self.truth.written(entity, end)

    def expire(self) -> Steps:
        """Delete the oldest points of the fullest of this client's series."""
        own = slice(self.client.number, None, self.client.of)
        entity, first = self.truth.expire(own, self.load.kept)
        yield lambda warm: warm.delete_range(entity, _SPACE, 0, first * _STEP_US - 1)
        self.truth.expired(entity, first)

    def latest(self) -> Steps:
        """A series' newest point."""
        entity = self.any_key()
        known, point = yield from self._look(entity, lambda warm: warm.latest(entity, _SPACE))
        if point is None:
            raise WrongRead(f"series {entity} is empty, and points up to {known[1]} were written")
        number = self._number(entity, point.timestamp, point.vector)
        self.truth.saw(entity, known, number, (number, number + 1))

    def point(self) -> Steps:
        """One point of a series that this process writes."""
        entity = self.own_key()
        span = self.truth.present(entity)
        number = 0 if span is None else int(self.generator.integers(*span))
        point = yield lambda warm: warm.get(entity, _SPACE, number * _STEP_US)
        if point is not None:
            self._number(entity, point.timestamp, point.vector)
        elif span is not None and number >= (self.truth.present(entity) or span)[0]:
            raise WrongRead(f"point {number} of series {entity} is not there")

    def range(self) -> Steps:
        """The points of the last while of a series."""
        entity = self.any_key()
        _, end = self.truth.known(entity)
        yield from self._range(entity, max(0, end - 2 * self.load.batch))

    def read(self, keys: Sequence[int]) -> Steps:
        yield from self._range(keys[0], 0)

    def _range(self, entity: int, wanted: int) -> Steps:
        known, table = yield from self._look(
            entity, lambda warm: warm.range(entity, _SPACE, wanted * _STEP_US)
        )
        times = table["timestamp"].to_numpy()
        if not len(times):
            self.truth.saw(entity, known, wanted, None)
            return
        numbers = times // _STEP_US
        if np.any(np.diff(times) != _STEP_US) or times[0] % _STEP_US:
            raise WrongRead(f"series {entity} has holes: {times.tolist()}")
        vectors = table["vector"].combine_chunks().flatten().to_numpy()
        right = vectors_of([entity] * len(times), numbers.tolist(), self.load.dimension)
        if not np.array_equal(vectors.reshape(right.shape), right):
            raise WrongRead(f"series {entity} has other vectors than were written")
        self.truth.saw(entity, known, wanted, (int(numbers[0]), int(numbers[-1]) + 1))

    def _look(
        self, entity: int, call: Callable[[Any], Any]
    ) -> Generator[Callable[[Any], Any], Any, tuple[Span, Any]]:
        """Make a call that reads a series: what was known of it when it began, and its answer."""
        known: list[Span] = []

        def begun(handle: Any) -> Any:
            known.append(self.truth.known(entity))
            return call(handle)

        answer = yield begun
        return known[0], answer

    def _number(self, entity: int, time_us: int, vector: Any) -> int:
        number, rest = divmod(time_us, _STEP_US)
        right = vectors_of([entity], [number], self.load.dimension)[0]
        if rest or not np.array_equal(vector, right):
            raise WrongRead(f"series {entity} has at {time_us} what nobody wrote")
        return number
