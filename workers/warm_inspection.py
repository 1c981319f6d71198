"""Looking at a warm store's directory without an engine; see ``holdfast.workers.inspection``.

Every byte of every file is checked. The verdict is that of opening, made stricter: a chunk that is
damaged inside does not keep a store from being opened, and is damage all the same. What opening
mends, a torn tail of the log and files that no manifest lists, makes a store recoverable. Where
opening refuses, whatever is intact can be read (``warm_reading``).
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from holdfast.formats.fold_log import Ending
from holdfast.formats.points import Points, rows_of_metadata
from holdfast.formats.warm_manifest import Manifest, is_of_another_version
from holdfast.workers.disk import TEMPORARY_SUFFIX, Disk
from holdfast.workers.standing import STANDINGS, Flaw, Standing
from holdfast.workers.warm_files import (
    CHUNK_SUFFIX,
    DEAD_SUFFIX,
    LOG,
    MANIFEST,
    ZONE_SUFFIX,
    WarmFiles,
    is_numbered,
    number_of,
)
from holdfast.workers.warm_merge import Cursor, points_of, take_slice
from holdfast.workers.warm_parts import Part
from holdfast.workers.warm_queries import all_series
from holdfast.workers.warm_reading import (
    Reading,
    manifest_at,
    manifest_bytes,
    read_what_is_left,
)
from holdfast.workers.warm_recovery import has_records
from holdfast.workers.warm_runs import Run, live_points, live_rows
from holdfast.workers.warm_table import sorted_together

WARM = "warm"

_SLICE_ROWS = 8192
_SLICE_BYTES = 4 << 20
_TRIES = 5


class Verdict(NamedTuple):
    """As for a fold. ``offset`` is None: ``reason`` names the file and the place in it."""

    ending: Ending
    offset: int | None
    reason: str = ""


class WarmRow(NamedTuple):
    """A point; ``vector`` is float32, little-endian."""

    entity: int
    space: int
    timestamp: int
    vector: bytes
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class WarmReport:
    """What a directory holds that is a warm store, or is to be one."""

    path: str
    verdict: Verdict
    standing: Standing
    opens: bool
    problems: list[str] = field(default_factory=list)
    bytes: int = 0
    reading: Reading | None = field(default=None, repr=False)

    format: str = WARM

    @property
    def points(self) -> int:
        """How many points can be read."""
        return 0 if self.reading is None else self.reading.table.points

    def rows(self) -> Iterator[WarmRow]:
        """The points in order of key: those that are intact."""
        for points in () if self.reading is None else in_key_order(self.reading.table.runs()):
            vectors = points.vectors.astype("<f4", copy=False)
            columns = (points.entities, points.spaces, points.timestamps)
            for entity, space, time, vector, metadata in zip(
                *(column.tolist() for column in columns),
                vectors,
                rows_of_metadata(points.metadata, len(points)),
                strict=True,
            ):
                yield WarmRow(entity, space, time, vector.tobytes(), metadata)

    def fields(self) -> dict[str, object]:
        """The report as JSON has it, without rows; null where nothing legible tells."""
        reading = self.reading
        manifest = None if reading is None else reading.manifest
        series, first, last = self._extent()
        return {
            "format": self.format,
            "verdict": str(self.verdict.ending),
            "opens": self.opens,
            "dimension": None if reading is None else reading.dimension,
            "compression": None if manifest is None else manifest.compression,
            "points": self.points,
            "series": series,
            "first": first,
            "last": last,
            "generation": None if manifest is None else manifest.generation,
            "chunks": [] if reading is None else [_chunk_fields(part) for part in reading.parts],
            "log_records": 0 if reading is None else len(reading.log.records),
            "log_bytes": 0 if reading is None else reading.log.bytes,
            "bytes": self.bytes,
            "problems": self.problems,
            **self._flaw(),
        }

    def summary(self) -> dict[str, object]:
        """The same with counts in place of lists."""
        fields = self.fields()
        parts = [] if self.reading is None else self.reading.parts
        return {**fields, "chunks": len(parts), "problems": len(self.problems)}

    def figures(self) -> dict[str, object]:
        """What matters beside other stores."""
        return self.summary()

    def _extent(self) -> tuple[int, int | None, int | None]:
        """How many series there are, and the first and last time of all."""
        if not self.points:
            return 0, None, None
        assert self.reading is not None
        series = all_series(self.reading.table.runs())
        return len(series), int(series.first_times.min()), int(series.last_times.max())

    def _flaw(self) -> dict[str, object]:
        return {} if self.verdict.ending is Ending.CLEAN else {"reason": self.verdict.reason}


def _chunk_fields(part: Part) -> dict[str, object]:
    entry, zone = part.entry, part.zone
    return {
        "number": entry.number,
        "run": entry.run,
        "listed": part.listed,
        "rows": entry.rows,
        "live": 0 if part.run is None else live_points(part.run),
        "lost": part.lost,
        "bytes": entry.bytes,
        "series": None if zone is None else len(zone.series),
        "first": entry.min_time,
        "last": entry.max_time,
    }


# --- points in order ----------------------------------------------------------------------------


def in_key_order(runs: Sequence[Run]) -> Iterator[Points]:
    """The live points of runs in order of key, a slice at a time."""
    cursors = [Cursor(run) for run in runs if live_points(run)]
    while taken := take_slice(cursors, _SLICE_ROWS):
        parts = []
        for cursor, start, stop in taken:
            rows = live_rows(cursor.run, start, stop)
            if rows is None or len(rows):
                parts.append(points_of(cursor.run, start, stop, rows))
        if parts:
            yield from _bounded(sorted_together(parts))


def _bounded(points: Points) -> Iterator[Points]:
    step = max(1, _SLICE_BYTES // (4 * points.dimension))
    for start in range(0, len(points), step):
        yield points.slice(start, min(start + step, len(points)))


# --- judging ------------------------------------------------------------------------------------


def examine_warm(disk: Disk, path: str, tick: Callable[[], None]) -> WarmReport:
    """The warm store in the directory ``path``; raises plain ``OSError`` when it cannot be read."""
    for _ in range(_TRIES):
        before = manifest_at(disk, path)
        try:
            report = _examine(disk, path, before, tick)
        except FileNotFoundError:
            if manifest_at(disk, path) == before:
                raise
            continue
        # An owner at work may have replaced it, and removed what it listed, while it was read.
        if report.standing is Standing.CLEAN or manifest_at(disk, path) == before:
            break
    return report


def _examine(
    disk: Disk, path: str, manifest: Manifest | Flaw | None, tick: Callable[[], None]
) -> WarmReport:
    size = _bytes_in(disk, path)
    if isinstance(manifest, Flaw) and is_of_another_version(manifest_bytes(disk, path)):
        verdict = Verdict(Ending.INVALID, None, str(manifest))
        return WarmReport(path, verdict, Standing.NOT_OURS, False, [], size)
    if isinstance(manifest, Manifest) and manifest.dropped:
        reason = "the store was dropped; opening removes what is left of it"
        return _report(path, Ending.TORN, reason, opens=True, size=size)
    known = manifest if isinstance(manifest, Manifest) else None
    reading = read_what_is_left(disk, path, known, leftovers=False, tick=tick)
    if manifest is None and _holds_nothing(disk, path, tick):
        reason = "there is nothing in it yet; opening it with a dimension makes an empty store"
        return _report(path, Ending.TORN, reason, opens=True, size=size)
    flaws = [] if reading is None else list(reading.flaws)
    if isinstance(manifest, Flaw):
        flaws.insert(0, manifest)
    elif manifest is None:
        flaws.insert(0, Flaw(None, "it is missing, though there are chunks or a log", 0, MANIFEST))
    notes = [] if reading is None else reading.notes
    if flaws:
        problems = [*map(str, flaws), *notes]
        opens = reading is not None and reading.opens
        return _report(path, Ending.CORRUPT, problems[0], problems, opens, size, reading)
    assert reading is not None
    torn = _torn(reading) + _leftovers(disk, path, reading)
    if torn:
        return _report(path, Ending.TORN, torn[0], torn, True, size, reading)
    return _report(path, Ending.CLEAN, "", [], True, size, reading)


def _report(
    path: str,
    ending: Ending,
    reason: str,
    problems: list[str] | None = None,
    opens: bool = False,
    size: int = 0,
    reading: Reading | None = None,
) -> WarmReport:
    verdict = Verdict(ending, None, reason)
    return WarmReport(path, verdict, STANDINGS[ending], opens, problems or [], size, reading)


def _bytes_in(disk: Disk, path: str) -> int:
    """Bytes of the store's files, without what is kept beside the log."""
    files, total = WarmFiles(path), 0
    for name, kind in disk.list(path):
        if kind == "file" and (is_numbered(name) or name in (LOG, MANIFEST)):
            with contextlib.suppress(FileNotFoundError):  # an owner at work removed it
                file = disk.open(files.path(name))
                total += file.size()
                file.close()
    return total


def _holds_nothing(disk: Disk, path: str, tick: Callable[[], None]) -> bool:
    """Whether opening takes a directory without a manifest for one in which no store is yet."""
    names = [name for name, _ in disk.list(path)]
    if any(map(is_numbered, names)):
        return False
    return LOG not in names or not has_records(disk, WarmFiles(path), tick)


def _torn(reading: Reading) -> list[str]:
    log = reading.log
    if log.end is None or log.end == log.bytes:
        return []
    reason = log.reason or "a request was logged only in part"
    return [str(Flaw(log.end, f"{log.bytes - log.end} bytes: {reason}", 0, LOG))]


def _leftovers(disk: Disk, path: str, reading: Reading) -> list[str]:
    """Files that opening removes, unless an owner at work has use for them."""
    manifest = reading.manifest
    assert manifest is not None
    chunks = {chunk.number for chunk in manifest.chunks}
    dead = {chunk.dead.number for chunk in manifest.chunks if chunk.dead is not None}
    found = []
    for name, _ in disk.list(path):
        listed = (
            number_of(name, CHUNK_SUFFIX) in chunks
            or number_of(name, ZONE_SUFFIX) in chunks
            or number_of(name, DEAD_SUFFIX) in dead
        )
        temporary = name in (MANIFEST + TEMPORARY_SUFFIX, LOG + TEMPORARY_SUFFIX)
        if temporary or (is_numbered(name) and not listed):
            found.append(f"{name}: a leftover of an interrupted write")
    return [] if not found or _has_owner(disk, path) else found


def _has_owner(disk: Disk, path: str) -> bool:
    """Whether somebody has the store open; asking leaves nothing behind."""
    try:
        file = disk.open(WarmFiles(path).owner)
    except FileNotFoundError:
        return False
    with contextlib.closing(file):
        return not file.lock()
