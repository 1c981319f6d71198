"""Reading as much of a warm store as there is, whatever state it is in, and saying what is missing.

Nothing is written. What opening would accept is read by the same rules. Where it would refuse:

- A chunk that is damaged gives the points whose blocks are intact (``warm_partial``); one whose
  zone map is damaged gives nothing, since the checksums of its bytes were there.
- Of a damaged log every intact record counts, also those behind the damage: each is a change that
  was promised, and later ones win as ever.
- Without a manifest the chunks are found by their zone maps, and their dead rows by what these
  files say of themselves. What a merge has left over is recognised key by key (``warm_settling``).
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

from msgspec import structs

from holdfast.formats import warm_log, warm_manifest
from holdfast.formats.errors import InvalidFormat, StoreCorrupt
from holdfast.formats.warm_manifest import Manifest
from holdfast.workers.disk import Disk
from holdfast.workers.ledger import Ledger
from holdfast.workers.standing import Flaw
from holdfast.workers.warm_chunks import ChunkFiles, ChunkRun
from holdfast.workers.warm_files import LOG, MANIFEST, WarmFiles
from holdfast.workers.warm_parts import (
    Part,
    Reader,
    Tick,
    content_of,
    identity_of,
    masks_in,
    zones_in,
)
from holdfast.workers.warm_recovery import judge_log, replay, table_of
from holdfast.workers.warm_runs import live_points
from holdfast.workers.warm_settling import leave_out_what_overlaps, limit_leftovers, settle
from holdfast.workers.warm_table import WarmTable


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
    zones = {} if manifest and not leftovers else zones_in(disk, files, names, manifest, flaws)
    dimension, store_id = identity_of(disk, files, names, manifest, zones)
    if not dimension:
        return None
    common = ChunkFiles(disk, files, store_id, dimension, tick)
    reader = Reader(disk, common, flaws)
    parts = [] if manifest is None else [reader.part(entry) for entry in manifest.chunks]
    listed = {part.entry.number for part in parts}
    masks = masks_in(disk, files, names, store_id) if zones else {}
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
        limit_leftovers(parts)
    leave_out_what_overlaps(parts, flaws)
    notes = settle(parts, tick)
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
    return content_of(disk, WarmFiles(directory).manifest)
