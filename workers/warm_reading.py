"""Reading as much of a warm store as there is, whatever state it is in, and saying what is missing.

Nothing is written. What opening would accept is read by the same rules. Where it would refuse:

- A chunk that is damaged gives the points whose blocks are intact (``warm_partial``); one whose
  zone map is damaged gives nothing, since the checksums of its bytes were there.
- Of a damaged log every intact record counts, also those behind the damage: each is a change that
  was promised, and later ones win as ever.
- Without a manifest the chunks are found by their zone maps, and their dead rows by what these
  files say of themselves. What a merge has left over is recognised key by key.

A key can then have rows in several chunks. It is decided by *runs*, which are numbered in the order
in which they were begun. All that is live in a run was so when its number was taken, whether the
run was a flush or a merge. So the newest run that has a row of a key knows of it best, also when
that row is dead. Only what died during a merge that was never finished is not known to its chunks.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from msgspec import structs

from holdfast.formats import dead_rows, warm_log, warm_manifest, zone_map
from holdfast.formats.checksum import file_checksum
from holdfast.formats.errors import InvalidFormat, StoreCorrupt
from holdfast.formats.warm_manifest import ChunkEntry, DeadFile, Manifest
from holdfast.formats.zone_map import Series, ZoneMap
from holdfast.workers.disk import Disk
from holdfast.workers.ledger import Ledger
from holdfast.workers.standing import Flaw
from holdfast.workers.warm_chunks import ChunkFiles, ChunkRun
from holdfast.workers.warm_files import (
    CHUNK_SUFFIX,
    DEAD_SUFFIX,
    LOG,
    MANIFEST,
    ZONE_SUFFIX,
    WarmFiles,
    number_of,
)
from holdfast.workers.warm_merge import key_at
from holdfast.workers.warm_partial import PartialChunk
from holdfast.workers.warm_queries import live_series
from holdfast.workers.warm_recovery import judge_log, replay, table_of
from holdfast.workers.warm_runs import (
    Mask,
    Run,
    Times,
    live_points,
    live_rows,
    live_rows_of,
    shared_series,
    span_of,
    within,
)
from holdfast.workers.warm_table import WarmTable

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


@dataclass(slots=True)
class LogFound:
    """What there is of a log: ``end`` is None where opening would refuse it."""

    bytes: int = 0
    records: list[warm_log.Record] = field(default_factory=list)
    end: int | None = None
    reason: str = ""
    """Why it ends before the file does."""


@dataclass(slots=True)
class Reading:
    """A warm store as far as it can be read."""

    files: WarmFiles
    manifest: Manifest | None
    dimension: int
    table: WarmTable
    parts: list[Part]
    log: LogFound
    flaws: list[Flaw]
    notes: list[str]
    opens: bool

    @property
    def leftover_points(self) -> int:
        """Points that can be read, and lie in chunks that no manifest lists."""
        return sum(live_points(part.run) for part in self.parts if part.run and not part.listed)


def read_what_is_left(
    disk: Disk,
    directory: str,
    manifest: Manifest | None,
    *,
    leftovers: bool,
    tick: Tick,
) -> Reading | None:
    """The store in ``directory`` by that manifest, or without any; None when there is no trace.

    With ``leftovers`` the chunks that the manifest does not list count as well, for keys that a
    damaged chunk or log can have had, and of which nothing else tells.
    """
    files = WarmFiles(directory)
    names = [name for name, _ in disk.list(directory)]
    flaws: list[Flaw] = []
    zones = {} if manifest and not leftovers else _zones(disk, files, names, manifest, flaws)
    dimension, store_id = _identity(disk, files, names, manifest, zones)
    if not dimension:
        return None
    common = ChunkFiles(disk, files, store_id, dimension, tick)
    reader = _Reader(disk, common, flaws)
    parts = [] if manifest is None else [reader.part(entry) for entry in manifest.chunks]
    listed = {part.entry.number for part in parts}
    masks = _masks(disk, files, names, store_id) if zones else {}
    for number, (zone, entry) in sorted(zones.items()):
        if number not in listed and (zone.store_id, zone.dimension) == (store_id, dimension):
            dead = masks.get((number, zone.rows))
            part = reader.part(structs.replace(entry, dead=dead), listed=False)
            parts.append(part)
        elif number not in listed:
            flaws.append(Flaw(None, "it is the zone map of another store", 0,
                              os.path.basename(files.zone(number))))  # fmt: skip
    log = _read_log(disk, files, names, manifest, dimension, store_id, flaws, tick)
    if manifest is not None and log.end is not None:
        _limit_leftovers(parts)
    _leave_out_what_overlaps(parts, flaws)
    notes = _settle(parts, tick)
    # What is left of a damaged chunk is read like one, and is never written.
    table = WarmTable(dimension, cast("list[ChunkRun]", [part.run for part in parts if part.run]))
    _replay(table, log, manifest, flaws, tick)
    opens = (
        manifest is not None
        and log.end is not None
        and not _missing(files, names, manifest)
        and (not flaws or _replays(disk, files, manifest, log.records, tick))
    )
    return Reading(files, manifest, dimension, table, parts, log, flaws, notes, opens)


def _missing(files: WarmFiles, names: Sequence[str], manifest: Manifest) -> bool:
    """Whether a file is not there without which opening refuses."""
    wanted = [LOG]
    for entry in manifest.chunks:
        paths = [files.chunk(entry.number), files.zone(entry.number)]
        if entry.dead is not None:
            paths.append(files.dead(entry.dead.number))
        wanted += map(os.path.basename, paths)
    return not set(wanted) <= set(names)


def _replay(
    table: WarmTable, log: LogFound, manifest: Manifest | None, flaws: list[Flaw], tick: Tick
) -> None:
    """Replay what can be: a record whose checksum holds may contradict itself all the same."""
    for record in log.records:
        try:
            replay(table, [record], manifest.flushed if manifest else 0, tick)
        except InvalidFormat as error:
            flaws.append(Flaw(record.offset, error.reason or str(error), record.rows, LOG))
            log.end = None


def _replays(
    disk: Disk,
    files: WarmFiles,
    manifest: Manifest,
    records: list[warm_log.Record],
    tick: Tick,
) -> bool:
    """Whether the log can be replayed, for which opening needs the chunks that it changes."""
    try:
        replay(table_of(disk, files, manifest, tick), records, manifest.flushed, tick)
    except StoreCorrupt:
        return False
    return True


# --- what there is ------------------------------------------------------------------------------


Zones = dict[int, tuple[ZoneMap, ChunkEntry]]


def _zones(
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
        data = _content(disk, files.path(name))
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


def _identity(
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
        header = warm_log.decode_header(_content(disk, files.log, warm_log.HEADER_BYTES))
        if not isinstance(header, str):
            return header.dimension, header.store_id
    said = Counter((zone.dimension, zone.store_id) for zone, _ in zones.values())
    return said.most_common(1)[0][0] if said else (0, b"")


def _masks(
    disk: Disk, files: WarmFiles, names: Sequence[str], store_id: bytes
) -> dict[tuple[int, int], DeadFile]:
    """The newest intact file of dead rows for each chunk, by its number and rows."""
    found: dict[tuple[int, int], DeadFile] = {}
    numbered = sorted((number_of(name, DEAD_SUFFIX) or -1, name) for name in names)
    for number, name in numbered:
        if number < 0:
            continue
        data = _content(disk, files.path(name))
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


def _content(disk: Disk, path: str, limit: int | None = None) -> bytes:
    file = disk.open(path)
    try:
        size = file.size()
        return file.read_at(0, size if limit is None else min(size, limit))
    finally:
        file.close()


# --- chunks -------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Reader:
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


# --- keys in several chunks ---------------------------------------------------------------------


def _leave_out_what_overlaps(parts: Sequence[Part], flaws: list[Flaw]) -> None:
    """Chunks of a run are in order of key: one that is not was not made with the others."""
    ends: dict[int, tuple[int, tuple[int, int, int]]] = {}
    for part in parts:
        if part.run is None:
            continue
        entry, last = part.entry, part.run.rows - 1
        before = ends.get(entry.run)
        if before is not None and key_at(part.run, 0) <= before[1]:
            live = live_points(part.run)
            reason = f"its keys are not behind those of chunk {before[0]}, which is of the same run"
            name = f"{entry.number:010d}{CHUNK_SUFFIX}"
            flaws.append(Flaw(None, f"{reason}; {live} points are lost", live, name))
            part.run, part.lost = None, part.lost + live
        else:
            ends[entry.run] = entry.number, key_at(part.run, last)


def _limit_leftovers(parts: Sequence[Part]) -> None:
    """Let die, in what is not listed, all that no listed chunk can have lost."""
    lossy = [part for part in parts if part.listed and part.lost]
    for part in parts:
        run = part.run
        if run is None or part.listed:
            continue
        wanted = np.zeros(run.rows, np.bool_)
        for other in lossy if live_points(run) else ():
            wanted |= _may_be_from(run, other)
        if run.dead is not None:
            wanted |= run.dead
        run.kill(np.flatnonzero(~wanted))


def _may_be_from(run: Run, other: Part) -> Mask:
    """Which rows of a run lie within series and times of a chunk, as far as these are known."""
    times = run.timestamps
    if other.zone is None:
        return (times >= other.entry.min_time) & (times <= other.entry.max_time)
    found = np.zeros(run.rows, np.bool_)
    mine, theirs = shared_series(run, other.zone.series)
    for place, wanted in zip(mine.tolist(), theirs.tolist(), strict=True):
        low, high = within(
            span_of(run, place),
            int(other.zone.series.first_times[wanted]),
            int(other.zone.series.last_times[wanted]),
        )
        found[low:high] = True
    return found


def _settle(parts: Sequence[Part], tick: Tick) -> list[str]:
    """Let die, where it is not known, what died or was merged: see this module's description."""
    trusted = [part for part in parts if part.run and part.listed and part.has_mask]
    doubtful = [part for part in parts if part.run and not (part.listed and part.has_mask)]
    doubtful.sort(key=lambda part: part.entry.run, reverse=True)
    notes = []
    for number, part in enumerate(doubtful):
        assert part.run is not None
        before = live_points(part.run)
        for other in [*trusted, *doubtful[:number]]:
            assert other.run is not None
            newer = other.entry.run > part.entry.run or not part.listed
            _kill_those_of(part.run, other.run, live_only=not newer)
            tick()
        note = _note_on(part, before - live_points(part.run))
        notes += [note] if note else []
    return notes


def _kill_those_of(run: Run, other: Run, *, live_only: bool) -> None:
    """Let die in a run the rows whose keys the other one has."""
    if not live_points(other) and live_only:
        return
    keys, times = _live_keys(other) if live_only else (other.series, other.timestamps)
    rows = np.unique(live_rows_of(run, keys, times))
    if len(rows):
        run.kill(rows)


def _live_keys(run: Run) -> tuple[Series, Times]:
    rows = live_rows(run, 0, run.rows)
    return live_series(run), run.timestamps if rows is None else run.timestamps[rows]


def _note_on(part: Part, superseded: int) -> str | None:
    """What the user has to know about how a chunk was settled."""
    assert part.run is not None
    number = part.entry.number
    if part.listed:
        assert part.entry.dead is not None
        unknown = max(0, part.entry.dead.rows - superseded - part.lost)
        if not unknown:
            return None
        return f"up to {unknown} deleted points of chunk {number} are back"
    if superseded and not live_points(part.run):
        return f"chunk {number} is superseded: newer runs have all that was live in it"
    if superseded:
        return f"chunk {number}: newer runs decide on {superseded} of its points"
    return None


# --- the log ------------------------------------------------------------------------------------


def _read_log(
    disk: Disk,
    files: WarmFiles,
    names: Sequence[str],
    manifest: Manifest | None,
    dimension: int,
    store_id: bytes,
    flaws: list[Flaw],
    tick: Tick,
) -> LogFound:
    """The log's records that count, or every intact one where opening would refuse it."""
    if LOG not in names:
        flaws.append(Flaw(None, "it is missing, with all that was written since the last flush",
                          0, LOG))  # fmt: skip
        return LogFound()
    file = disk.open(files.log)
    try:
        ledger = Ledger(disk, files.log)  # ahead of the map: it never tells of more than is mapped
        view, inode = file.map(), file.inode()
    finally:
        file.close()
    header = warm_log.decode_header(view)
    if not isinstance(header, str) and (header.store_id, header.dimension) != (store_id, dimension):
        flaws.append(Flaw(0, "it is the log of another store; nothing of it counts", 0, LOG))
        return LogFound(len(view))
    stated = manifest
    if manifest is None and not isinstance(header, str):  # nothing is known to be in chunks
        before = header.first_sequence - 1
        stated = Manifest(store_id.hex(), dimension, 1, before, before, 1, "none", [])
    if stated is not None:
        try:
            good = judge_log(disk, files, stated, view, inode, ledger, tick)
            return LogFound(len(view), good.records, good.end, good.reason)
        except StoreCorrupt as error:
            refused = error
    else:
        assert isinstance(header, str)
        refused = StoreCorrupt(header, offset=0, reason=header)
    records, gaps = warm_log.intact_records(view, dimension, tick)
    flaws += _log_flaws(refused, records, gaps, manifest)
    return LogFound(len(view), records)


def _log_flaws(
    refused: StoreCorrupt,
    records: Sequence[warm_log.Record],
    gaps: Sequence[warm_log.Gap],
    manifest: Manifest | None,
) -> Iterator[Flaw]:
    """What is lost of a log that opening refuses for this error."""
    told = {gap.start for gap in gaps}
    if refused.offset not in told:
        yield Flaw(refused.offset, refused.reason or str(refused), 0, LOG)
    for gap in gaps:
        length = gap.stop - gap.start
        yield Flaw(gap.start, f"{length} bytes hold no intact record: {gap.reason}", gap.rows, LOG)
    due = manifest.flushed + 1 if manifest else None
    for record in records:
        if due is not None and record.sequence > due:
            yield Flaw(record.offset, f"{_absent(due, record.sequence - 1)} before this", 0, LOG)
        due = max(due or 0, record.sequence + 1)
    if manifest and due is not None and manifest.logged >= due:
        yield Flaw(None, _absent(due, manifest.logged), 0, LOG)


def _absent(first: int, last: int) -> str:
    which = f"record {first} is" if first == last else f"records {first} to {last} are"
    return f"{which} not there"


def manifest_at(disk: Disk, directory: str) -> Manifest | Flaw | None:
    """The manifest, what is wrong with it, or None where there is none."""
    if disk.inode_at(WarmFiles(directory).manifest) is None:
        return None
    try:
        return warm_manifest.decode(manifest_bytes(disk, directory))
    except InvalidFormat as error:
        return Flaw(error.offset, error.reason or str(error), 0, MANIFEST)


def manifest_bytes(disk: Disk, directory: str) -> bytes:
    """The manifest's file as it is."""
    return _content(disk, WarmFiles(directory).manifest)
