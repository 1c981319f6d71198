"""Small directories of the original's warm tier, made on a disk in memory, and read back."""

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from holdfast.bench.faults import MemoryDisk
from holdfast.formats.chronos_chunk import encode_frame
from holdfast.formats.chronos_names import chunk_file, entity_directory
from holdfast.formats.postcard import encode_point
from holdfast.workers.chronos import survey
from holdfast.workers.chronos_points import Duplicates, points
from holdfast.workers.chronos_report import ChronosReport
from holdfast.workers.disk import Disk

ROOT = "/original"


class Row(NamedTuple):
    """A point of a series with its vector as bytes, which compare bit for bit."""

    timestamp: int
    vector: bytes
    metadata: dict[str, str]


Series = tuple[int, int]
"""Space and entity."""


def tick() -> None:
    """Nobody watches whether a test makes progress."""


def path_of(entity: int = 1, space: int = 0, chunk: int = 0) -> str:
    """A chunk file's path in its directory."""
    return f"{entity_directory(entity)}/{chunk_file(space, chunk)}"


def frame(
    timestamp: int,
    *floats: float,
    entity: int = 1,
    metadata: Mapping[str, str] | None = None,
    more: bytes = b"",
) -> bytes:
    """A frame of one point, with ``more`` bytes behind it."""
    return encode_frame(encode_point(entity, timestamp, floats, metadata) + more)


def made(files: Mapping[str, bytes]) -> MemoryDisk:
    """A disk with these files in ``ROOT``."""
    disk = MemoryDisk(ROOT)
    for path, content in files.items():
        whole = os.path.join(ROOT, path)
        if not disk.is_directory(os.path.dirname(whole)):
            disk.make_directory(os.path.dirname(whole))
        disk.place(whole, content)
    return disk


def surveyed(files: Mapping[str, bytes]) -> tuple[MemoryDisk, ChronosReport]:
    """The same, looked through."""
    disk = made(files)
    return disk, survey(disk, ROOT, tick)


def read(
    disk: Disk,
    report: ChronosReport,
    dimension: int = 1,
    *,
    duplicates: Duplicates = "last",
    salvage: bool = False,
    directory: str = ROOT,
) -> tuple[dict[Series, list[Row]], int]:
    """All points of a dimension, and how many others were dropped as duplicates.

    Whatever the directory, batches are in order and of one shape, which is checked here.
    """
    found: dict[Series, list[Row]] = {}
    dropped = 0
    for batch in points(disk, directory, report, duplicates, salvage, dimension, tick):
        count = len(batch.timestamps)
        assert count
        assert batch.vectors.shape == (count, dimension)
        assert batch.timestamps.dtype == np.int64
        assert batch.vectors.dtype == np.float32
        metadata = [{}] * count if batch.metadata is None else batch.metadata
        assert any(metadata) is (batch.metadata is not None)
        rows = found.setdefault((batch.space, batch.entity), [])
        given = (batch.timestamps.tolist(), map(bytes, batch.vectors), metadata)
        rows += [Row(*row) for row in zip(*given, strict=True)]
        dropped += batch.duplicates
    for rows in found.values():
        times = [row.timestamp for row in rows]
        assert times == sorted(set(times))
    assert list(found) == sorted(found)
    return found, dropped


def times(rows: Iterable[Row]) -> list[int]:
    """The timestamps of a series."""
    return [row.timestamp for row in rows]
