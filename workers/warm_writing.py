"""Writing the files of a warm store that never change once they are there: chunks, dead rows."""

from collections.abc import Generator, Sequence

from holdfast.formats import warm_chunk, zone_map
from holdfast.formats.checksum import file_checksum
from holdfast.formats.points import Points
from holdfast.formats.warm_manifest import ChunkEntry
from holdfast.formats.warm_terms import Compression
from holdfast.workers.disk import Disk, remove_if_there
from holdfast.workers.warm_files import WarmFiles

_WRITE_BYTES = 4 << 20
_SYNC_EVERY_BYTES = 16 << 20


def write_chunk(
    disk: Disk,
    files: WarmFiles,
    points: Points,
    store_id: bytes,
    number: int,
    run_number: int,
    compression: Compression,
) -> Generator[None, None, ChunkEntry]:
    """Write points, in order of key, as a chunk with its zone map, both synced. In slices.

    Nothing lists them yet. If it comes to nothing, what is there of the files stays.
    """
    pieces = warm_chunk.encode(points, compression, warm_chunk.identity(store_id, number))
    yield None
    size = sum(map(len, pieces))
    series = zone_map.series_of(points.spaces, points.entities, points.timestamps)
    zone = zone_map.encode(
        zone_map.ZoneMap(
            points.dimension, store_id, number, run_number, size,
            points.metadata is not None, compression != "none", series,
            zone_map.block_checksums(pieces),
        )
    )  # fmt: skip
    yield from write_new(disk, files.chunk(number), pieces)
    yield from write_new(disk, files.zone(number), [memoryview(zone)])
    return ChunkEntry(
        number, run_number, len(points), size, len(zone), file_checksum(zone),
        int(series.first_times.min()), int(series.last_times.max()),
    )  # fmt: skip


def write_new(disk: Disk, path: str, pieces: Sequence[memoryview]) -> Generator[None, None, None]:
    """Write and sync a new file, a part at a time."""
    remove_if_there(disk, path)
    file = disk.create(path)
    try:
        unsynced = offset = 0
        for piece in pieces:
            for start in range(0, len(piece), _WRITE_BYTES):
                part = piece[start : start + _WRITE_BYTES]
                file.write_at(offset, part)
                offset += len(part)
                unsynced += len(part)
                if len(part) == _WRITE_BYTES:
                    yield None
                if unsynced >= _SYNC_EVERY_BYTES:  # so that no single sync is a long one
                    file.sync()
                    unsynced = 0
                    yield None
        file.sync()
    finally:
        file.close()
