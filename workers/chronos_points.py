"""The points of the original's warm-tier directories, in the order a store wants them.

First comes where a series' points are, for all of its files; then they are sorted by time, and read
from the mapped files batch by batch.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.chronos_chunk import blocks, vectors_of
from holdfast.formats.errors import StoreCorrupt
from holdfast.formats.limits import MIB
from holdfast.formats.postcard import FLOAT_BYTES, UndecodablePoint, read_metadata
from holdfast.workers.chronos import Tick, mapped, refuse_damage
from holdfast.workers.chronos_report import ChronosFile, ChronosReport
from holdfast.workers.disk import Disk

BATCH_POINTS_MAX = 16_384
_BATCH_VECTOR_BYTES_MAX = 32 * MIB
# A batch of a series that was written in order of time is in few files. A map costs a descriptor.
_MAPS_HELD = 16
_PLACE = np.dtype(
    [
        ("timestamp", "i8"),
        ("vector_at", "i8"),
        ("metadata_at", "i8"),
        ("end", "i8"),
        ("file", "i8"),
    ]
)

Duplicates = Literal["first", "last"]


@dataclass(frozen=True, slots=True)
class ChronosBatch:
    """Points of one series in order of time, each timestamp once, none in another batch."""

    space: int
    entity: int
    timestamps: NDArray[np.int64]
    """(n,) Microseconds, ascending."""
    vectors: NDArray[np.float32]
    """(n, dimension)"""
    metadata: list[dict[str, str]] | None
    """One for each point; None when all are empty."""
    duplicates: int
    """How many other points with one of these timestamps were dropped."""


def points(
    disk: Disk,
    directory: str,
    report: ChronosReport,
    duplicates: Duplicates,
    salvage: bool,
    dimension: int,
    tick: Tick,
) -> Iterator[ChronosBatch]:
    """The points whose vectors have ``dimension`` floats, at least one, series by series.

    Series come by space and entity, and each in batches of at most ``BATCH_POINTS_MAX`` points. Of
    points with the same timestamp the first or the last written one counts: files in the order of
    their chunk numbers, and points of a file in its order. Points of another dimension neither
    count there nor come; the report has their number.

    Memory holds about 100 bytes for each point of one series, and one batch.

    Raises ``StoreCorrupt`` for the first damage, unless ``salvage`` leaves out what is no point of
    its directory's entity; also when a file is no longer what was surveyed. Raises ``StoreIOError``
    when a file cannot be read.
    """
    assert dimension >= 1, "the dimension of a store"
    if not salvage:
        refuse_damage(report, directory)
    return _points(_Source(disk, directory), report, duplicates, dimension, tick)


def _points(
    source: "_Source", report: ChronosReport, duplicates: Duplicates, dimension: int, tick: Tick
) -> Iterator[ChronosBatch]:
    for _, group in groupby(report.files, lambda file: (file.space, file.entity)):
        files = list(group)
        places = _find(source, files, dimension, tick)
        for chosen, dropped in _batches(places, duplicates, dimension):
            tick()
            yield _read(source, files, places[chosen], dimension, dropped)


class _Source:
    """The files of a survey, as long as they are what was surveyed."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._directory = directory
        self._map = lru_cache(_MAPS_HELD)(partial(mapped, disk))

    def view(self, file: ChronosFile) -> memoryview:
        """All of a file. Raises ``StoreCorrupt`` when its size is another by now."""
        data = self._map(self._path(file))
        if len(data) != file.size_bytes:
            raise self.changed(file)
        return data

    def changed(self, file: ChronosFile) -> StoreCorrupt:
        """The error for a file that is not what was surveyed."""
        path, reason = self._path(file), "it changed while it was being read"
        return StoreCorrupt(f"{path!r}: {reason}", path=path, reason=reason)

    def _path(self, file: ChronosFile) -> str:
        return os.path.join(self._directory, file.path)


def _find(
    source: _Source, files: list[ChronosFile], dimension: int, tick: Tick
) -> NDArray[np.void]:
    """Where a series' points of this dimension are, in the order they were written in."""
    parts = [np.empty(0, _PLACE)]
    for number, file in enumerate(files):
        frames = 0
        for block in blocks(source.view(file)):
            tick()
            frames += len(block.entities)
            taken = (block.entities == file.entity) & (block.dimensions == dimension)
            part = np.empty(int(taken.sum()), _PLACE)
            part["file"] = number
            part["timestamp"] = block.timestamps[taken]
            part["vector_at"] = block.vectors_at[taken]
            part["metadata_at"] = block.metadata_at[taken]
            part["end"] = block.ends[taken]
            parts.append(part)
        if frames != file.frames:
            raise source.changed(file)
    return np.concatenate(parts)


def _batches(
    places: NDArray[np.void], duplicates: Duplicates, dimension: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Which of the places make a batch, by time; and how many others had one of their times."""
    if not len(places):
        return
    order = np.argsort(places["timestamp"], kind="stable")
    times = places["timestamp"][order]
    bounds = np.flatnonzero(np.concatenate(([True], times[1:] != times[:-1], [True])))
    kept = order[bounds[:-1] if duplicates == "first" else bounds[1:] - 1]
    step = max(1, min(BATCH_POINTS_MAX, _BATCH_VECTOR_BYTES_MAX // (FLOAT_BYTES * dimension)))
    for start in range(0, len(kept), step):
        chosen = kept[start : start + step]
        met = bounds[start + len(chosen)] - bounds[start]
        yield chosen, int(met) - len(chosen)


def _read(
    source: _Source,
    files: list[ChronosFile],
    places: NDArray[np.void],
    dimension: int,
    dropped: int,
) -> ChronosBatch:
    vectors = np.empty((len(places), dimension), np.float32)
    metadata: list[dict[str, str]] = [{} for _ in range(len(places))]
    for number in np.unique(places["file"]).tolist():
        data = source.view(files[number])
        rows = np.flatnonzero(places["file"] == number)
        vectors[rows] = vectors_of(data, places["vector_at"][rows], dimension)
        described = rows[places["metadata_at"][rows] > 0]
        for row in described.tolist():
            at, end = int(places["metadata_at"][row]), int(places["end"][row])
            try:
                metadata[row], _ = read_metadata(data, at, end)
            except UndecodablePoint as error:
                raise source.changed(files[number]) from error
    return ChronosBatch(
        space=files[0].space,
        entity=files[0].entity,
        timestamps=places["timestamp"].copy(),
        vectors=vectors,
        metadata=metadata if places["metadata_at"].any() else None,
        duplicates=dropped,
    )
