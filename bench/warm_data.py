"""The points that warm stores are measured with: the same every time, with or without a pattern.

Every entity has as many points as every other, one a second, with some microseconds of chance.
Vectors are Gaussian noise, which no compression helps with, or walks in small steps with few
significant bits, as sensors give them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.chronos_names import chunk_file, entity_directory
from holdfast.formats.postcard import encode_point
from holdfast.handles.warm_input import TemporalPoint
from holdfast.workers.raw_arrays import raw

Pattern = Literal["noise", "walk"]
Order = Literal["time", "entity", "shuffled"]

DIMENSION = 32
SPACE = 7
STEP_US = 1_000_000
POINT_BYTES = 16 + 4 * DIMENSION
"""Entity, time and vector."""

_BEGIN_US = 1_700_000_000_000_000
_GRID = 256.0  # steps of a walk to the unit


class Columns(NamedTuple):
    """Points: entities (n,), timestamps (n,) and vectors (n, d)."""

    entities: NDArray[np.uint64]
    timestamps: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def pieces(self) -> list[memoryview]:
        """Their bytes."""
        return [raw(self.entities), raw(self.timestamps), raw(self.vectors)]

    def rows(self, chosen: "slice | NDArray[np.int64]") -> "Columns":
        """Some of the points."""
        return Columns(self.entities[chosen], self.timestamps[chosen], self.vectors[chosen])

    def named(self) -> dict[str, NDArray[np.generic]]:
        """The columns as ``write_batch`` takes them."""
        return {"entity": self.entities, "timestamp": self.timestamps, "vector": self.vectors}


@dataclass(frozen=True, eq=False)
class Sample:
    """Points in order of (entity, time), ``length`` of each of the entities 1 to ``entities``."""

    entities: int
    length: int
    points: Columns

    def __str__(self) -> str:
        of = "1 entity" if self.entities == 1 else f"{self.entities} entities"
        return f"{len(self.points):,} points x {DIMENSION} of {of}"

    def batches(self, rows: int, order: Order) -> Iterator[Columns]:
        """All points, ``rows`` at a time: second by second, entity by entity, or in no order."""
        count = len(self.points)
        if order == "entity":
            whole = self.points
        elif order == "time":
            places = np.arange(count).reshape(self.entities, self.length).T
            whole = self.points.rows(np.ascontiguousarray(places).reshape(-1))
        else:
            whole = self.points.rows(np.random.default_rng(2).permutation(count))
        for start in range(0, count, rows):
            yield whole.rows(slice(start, start + rows))

    def series(self, entity: int) -> Columns:
        """The points of one entity."""
        return self.points.rows(slice((entity - 1) * self.length, entity * self.length))

    def windows(self, count: int, rows: int) -> list["Window"]:
        """So many windows of ``rows`` points each of some entity."""
        rng = np.random.default_rng(3)
        found = []
        for _ in range(count):
            entity = int(rng.integers(1, self.entities + 1))
            first = int(rng.integers(0, self.length - rows + 1))
            times = self.series(entity).timestamps
            found.append(Window(entity, int(times[first]), int(times[first + rows - 1]), rows))
        return found

    def point(self, row: int) -> TemporalPoint:
        """One of the points."""
        entity, time, vector = (array[row] for array in self.points)
        return TemporalPoint(int(entity), int(time), vector)


class Window(NamedTuple):
    """A range of time of an entity, both ends included, and how many points there are in it."""

    entity: int
    start: int
    end: int
    rows: int


def sample(rows: int, entities: int, pattern: Pattern = "noise") -> Sample:
    """About ``rows`` points of so many entities."""
    length = rows // entities
    rng = np.random.default_rng([rows, entities])
    count = length * entities
    times = _BEGIN_US + STEP_US * np.tile(np.arange(length, dtype=np.int64), entities)
    times += rng.integers(0, 1000, count)
    ids = np.repeat(np.arange(1, entities + 1, dtype=np.uint64), length)
    vectors = rng.standard_normal((count, DIMENSION), np.float32)
    if pattern == "walk":
        steps = np.rint(vectors).reshape(entities, length, DIMENSION)
        vectors = np.cumsum(steps, axis=1, dtype=np.float32).reshape(count, DIMENSION)
        vectors /= np.float32(_GRID)
    return Sample(entities, length, Columns(ids, times, vectors))


def write_original(directory: str, given: Sample, chunk_rows: int = 10_000) -> None:
    """A directory of the original's warm tier with these points, of at most 127 entities."""
    columns = given.points
    frames = np.zeros(len(columns), _frame_type())
    frames["length"] = frames.dtype.itemsize - 4
    frames["entity"] = columns.entities
    zigzag = columns.timestamps.astype(np.uint64) << np.uint64(1)
    for place in range(8):
        more = 0x80 if place < 7 else 0
        frames["time"][:, place] = zigzag >> np.uint64(7 * place) & np.uint64(0x7F) | np.uint64(
            more
        )
    frames["dimension"] = DIMENSION
    frames["vector"] = columns.vectors
    first = encode_point(int(columns.entities[0]), int(columns.timestamps[0]), columns.vectors[0])
    assert frames[0].tobytes()[4:] == first, "these are not the original's bytes"
    for entity in range(1, given.entities + 1):
        folder = os.path.join(directory, entity_directory(entity))
        os.makedirs(folder)
        own = frames[(entity - 1) * given.length : entity * given.length]
        for number, start in enumerate(range(0, given.length, chunk_rows)):
            own[start : start + chunk_rows].tofile(os.path.join(folder, chunk_file(SPACE, number)))


def _frame_type() -> np.dtype[np.void]:
    """A frame whose varints have the lengths that these points have."""
    return np.dtype(
        [
            ("length", "<u4"),
            ("entity", "u1"),
            ("time", "u1", 8),
            ("dimension", "u1"),
            ("vector", "<f4", DIMENSION),
            ("pairs", "u1"),
        ]
    )
