"""Finding the chunks of a warm store without its manifest, and reading what is left of each."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import structs

from holdfast.formats import dead_rows, warm_log, zone_map
from holdfast.formats.checksum import file_checksum
from holdfast.formats.errors import InvalidFormat, StoreCorrupt
from holdfast.formats.warm_manifest import ChunkEntry, DeadFile, Manifest
from holdfast.formats.zone_map import ZoneMap
from holdfast.workers.disk import Disk
from holdfast.workers.standing import Flaw
from holdfast.workers.warm_chunks import ChunkFiles, ChunkRun
from holdfast.workers.warm_files import (
    CHUNK_SUFFIX,
    DEAD_SUFFIX,
    LOG,
    ZONE_SUFFIX,
    WarmFiles,
    number_of,
)
from holdfast.workers.warm_partial import PartialChunk
from holdfast.workers.warm_runs import (
    Mask,
)

Tick = Callable[[], None]


@dataclass(slots=True)
class Part:
    """A chunk, and what can be read of it: nothing if ``run`` is None.

    ``has_mask`` says whether its dead rows are known.
    """

    entry: ChunkEntry
    listed: bool
    zone: ZoneMap | None = None
    run: ChunkRun | PartialChunk | None = None
    has_mask: bool = True
    lost: int = 0
    """How many of its points cannot be read."""


Zones = dict[int, tuple[ZoneMap, ChunkEntry]]


def zones_in(
    disk: Disk,
    files: WarmFiles,
    names: Sequence[str],
    manifest: Manifest | None,
    flaws: list[Flaw],
) -> Zones:
    """Every zone map by its chunk's number, and the chunk as a manifest would list it.

    Flaws are told of chunks that the manifest, if there is one, does not list.
    """
    listed = set() if manifest is None else {chunk.number for chunk in manifest.chunks}
    found: Zones = {}
    for name in names:
        number = number_of(name, ZONE_SUFFIX)
        if number is None or number in listed:
            continue
        data = content_of(disk, files.path(name))
        try:
            zone = zone_map.decode(data)
        except InvalidFormat as error:
            flaws.append(Flaw(error.offset, error.reason or str(error), 0, name))
            continue
        if zone.chunk != number:
            flaws.append(Flaw(32, f"it is the zone map of chunk {zone.chunk}", 0, name))
            continue
        series = zone.series
        found[number] = zone, ChunkEntry(
            number, zone.run, zone.rows, zone.chunk_bytes, len(data), file_checksum(data),
            int(series.first_times.min()), int(series.last_times.max()),
        )  # fmt: skip
    for name in names:
        number = number_of(name, CHUNK_SUFFIX)
        if number is not None and number not in found and number not in listed:
            reason = "a chunk without an intact zone map, which has the checksums of its bytes"
            flaws.append(Flaw(None, reason, 0, name))
    return found


def identity_of(
    disk: Disk,
    files: WarmFiles,
    names: Sequence[str],
    manifest: Manifest | None,
    zones: Zones,
) -> tuple[int, bytes]:
    """Dimension and id of the store: by manifest, by log, else as most zone maps have it."""
    if manifest is not None:
        return manifest.dimension, bytes.fromhex(manifest.store_id)
    if LOG in names:
        header = warm_log.decode_header(content_of(disk, files.log, warm_log.HEADER_BYTES))
        if not isinstance(header, str):
            return header.dimension, header.store_id
    said = Counter((zone.dimension, zone.store_id) for zone, _ in zones.values())
    return said.most_common(1)[0][0] if said else (0, b"")


def masks_in(
    disk: Disk, files: WarmFiles, names: Sequence[str], store_id: bytes
) -> dict[tuple[int, int], DeadFile]:
    """The newest intact file of dead rows for each chunk, by its number and rows."""
    found: dict[tuple[int, int], DeadFile] = {}
    numbered = sorted((number_of(name, DEAD_SUFFIX) or -1, name) for name in names)
    for number, name in numbered:
        if number < 0:
            continue
        data = content_of(disk, files.path(name))
        owner = dead_rows.owner_of(data)
        if owner is None or owner.store_id != store_id:
            continue
        try:
            mask = dead_rows.decode(data, store_id, owner.chunk, owner.rows)
        except InvalidFormat:
            continue
        if mask.any():
            found[owner.chunk, owner.rows] = DeadFile(
                number, int(np.count_nonzero(mask)), len(data), file_checksum(data)
            )
    return found


def content_of(disk: Disk, path: str, limit: int | None = None) -> bytes:
    file = disk.open(path)
    try:
        size = file.size()
        return file.read_at(0, size if limit is None else min(size, limit))
    finally:
        file.close()


# --- chunks -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Reader:
    """Reads chunks, and notes what is wrong with them."""

    disk: Disk
    common: ChunkFiles
    flaws: list[Flaw]

    def part(self, entry: ChunkEntry, *, listed: bool = True) -> Part:
        """What can be read of a chunk, every byte of which is checked."""
        self.common.tick()
        part = Part(entry, listed)
        chunk = ChunkRun(self.common, entry)
        live = entry.rows - (entry.dead.rows if entry.dead else 0)
        try:
            part.zone = chunk.zone
        except StoreCorrupt as error:
            part.lost = live
            reason = f"{error.reason}; without it nothing of its chunk can be checked"
            times = f"from {entry.min_time} to {entry.max_time}"
            self._flaw(chunk, error, f"{reason}; {live} points {times} are lost", live)
            return part
        try:
            mask = chunk.dead
        except StoreCorrupt as error:
            part.has_mask, mask = False, None
            assert entry.dead is not None
            reason = f"{error.reason}; which {entry.dead.rows} points of chunk {entry.number} "
            self._flaw(chunk, error, f"{reason}were deleted or written again is not known", 0)
            chunk = ChunkRun(self.common, structs.replace(entry, dead=None))
        try:
            chunk.check_rows()
        except StoreCorrupt as error:
            part.run = self._partial(chunk, part, mask, error)
        else:
            part.run = chunk
        return part

    def _partial(
        self, chunk: ChunkRun, part: Part, mask: Mask | None, error: StoreCorrupt
    ) -> PartialChunk | None:
        """The rows of a damaged chunk that are intact, if there are any."""
        zone, rows = chunk.zone, chunk.entry.rows
        dead = np.zeros(rows, np.bool_) if mask is None else mask
        live = rows - int(np.count_nonzero(dead))
        try:
            run = PartialChunk(zone, self._map(chunk.path))
        except (InvalidFormat, FileNotFoundError) as problem:
            part.lost = live
            why = f"; {problem}" if isinstance(problem, InvalidFormat) else ""
            self._flaw(chunk, error, f"{error.reason}{why}; {_told(zone, ~dead)}", live)
            return None
        lost = run.lost & ~dead
        run.kill(np.flatnonzero(dead & ~run.lost))
        part.lost = int(np.count_nonzero(lost))
        told = _told(zone, lost)
        if run.lacks_metadata:
            told += f"; the {live - part.lost} others have lost their metadata"
        self._flaw(chunk, error, f"{error.reason}; {told}", part.lost)
        return run

    def _map(self, path: str) -> memoryview:
        file = self.disk.open(path)
        try:
            return file.map()
        finally:
            file.close()

    def _flaw(self, chunk: ChunkRun, error: StoreCorrupt, reason: str, rows: int) -> None:
        name = os.path.basename(error.path or chunk.path)
        self.flaws.append(Flaw(error.offset, reason, rows, name))


def _told(zone: ZoneMap, lost: Mask) -> str:
    """Which points are lost: how many, of which series and times, as far as the zone map tells."""
    series, count = zone.series, int(np.count_nonzero(lost))
    if not count:
        return "no point is lost"
    before = np.concatenate(([0], np.cumsum(lost)))
    places = np.flatnonzero(before[series.starts[1:]] > before[series.starts[:-1]])
    first, last = series.first_times[places].min(), series.last_times[places].max()
    what = f"{count} of {zone.rows} points are lost"
    if len(places) == 1:
        place = places[0]
        where = f"of space {series.spaces[place]} and entity {series.entities[place]}"
    else:
        where = f"in {len(places)} of {len(series)} series"
    return f"{what}, {where}, between the times {first} and {last}"
