"""Reading as much of a damaged RVF file as there is, and saying what is missing.

Opening refuses a file of which anything is damaged that the manifest lists. Here what is damaged is
left out, and the rest is read by the same rules. What comes out may be older than what the file
held: where the newest copy of a row is lost, the one before it shows.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from holdfast.formats.errors import HoldfastError, InvalidFormat
from holdfast.formats.rvf import cow, meta, record, vec
from holdfast.formats.rvf.manifest import Entry
from holdfast.formats.rvf.scan import Located
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentType
from holdfast.workers.columns import Columns
from holdfast.workers.disk import Disk
from holdfast.workers.row_table import RowTable
from holdfast.workers.standing import Flaw
from holdfast.workers.vector_loading import (
    DamagedSegment,
    Loaded,
    add_metadata,
    add_segment,
    catalog_of,
    check_entry,
    inherit,
    load_parent,
    payload_at,
)

# Of these a file may have many, and only the newest counts.
_NEWEST_COUNTS = (SegmentType.COW_MAP, SegmentType.MEMBERSHIP)


@dataclass(slots=True)
class Reading:
    """A store as far as it can be read; ``sound`` are the segments that were."""

    loaded: Loaded
    sound: list[Entry]
    flaws: list[Flaw] = field(default_factory=list)


def read_what_is_left(
    disk: Disk, path: str, view: memoryview, located: Located, tick: Callable[[], None]
) -> Reading:
    """The store in ``view`` as of a manifest, without what is damaged.

    A branch whose parent cannot be read has its own rows only.
    """
    manifest = located.manifest
    sound, flaws = _sort_out(view, manifest.entries, manifest.dimension, tick)
    located = located._replace(manifest=replace(manifest, entries=tuple(sound)))
    catalog = catalog_of(path, view, located)
    shown = Loaded(catalog, RowTable(manifest.dimension), Columns())
    try:
        parent = load_parent(disk, path, view, catalog, tick, 0)
    except (HoldfastError, OSError) as error:
        flaws.append(Flaw(None, f"the rows of the parent are not shown: {error}"))
    else:
        if parent is not None:
            shown = parent
            inherit(shown, catalog, view)
    first_own = shown.table.rows
    for entry in sound:
        if entry.type == SegmentType.VEC:
            add_segment(shown.table, catalog, view, entry)
            tick()
    try:
        add_metadata(shown, catalog, view, first_own)
    except DamagedSegment as damage:  # columns that do not go together
        flaws.append(Flaw(damage.offset, damage.reason))
        shown.columns.append(None, shown.table.rows - first_own)
    shown.table.kill(shown.table.find_live(manifest.deleted))
    return Reading(shown, sound, flaws)


def _sort_out(
    view: memoryview, entries: Iterable[Entry], dimension: int, tick: Callable[[], None]
) -> tuple[list[Entry], list[Flaw]]:
    """The entries whose segments can be read, in their order, and what is wrong with the others."""
    sound: list[Entry] = []
    flaws: list[Flaw] = []
    late: dict[int, list[Entry]] = {kind: [] for kind in _NEWEST_COUNTS}
    seen: set[int] = set()
    room = len(view)  # for all segments together: none is to be read twice
    for entry in entries:
        tick()
        room -= HEADER_BYTES + entry.payload_bytes
        if entry.offset in seen or room < 0:
            reason = "the directory lists more than the file has room for"
            flaws.append(Flaw(entry.offset, reason))
            continue
        seen.add(entry.offset)
        flaw = _flaw(view, entry, dimension)
        if flaw is not None:
            flaws.append(flaw)
        elif entry.type in late:
            late[entry.type].append(entry)
        else:
            sound.append(entry)
    for candidates in late.values():
        for entry in sorted(candidates, key=lambda entry: entry.offset, reverse=True):
            flaw = _flaw_in_branch(view, entry)
            if flaw is None:
                sound.append(entry)
                break
            flaws.append(flaw)
    return sound, flaws


def _flaw(view: memoryview, entry: Entry, dimension: int) -> Flaw | None:
    """What keeps a segment from being read, if anything."""
    rows = row_count(entry, dimension)
    try:
        check_entry(view, entry)
        payload = payload_at(view, entry)
        if entry.type == SegmentType.VEC:
            found, count = vec.check_vec(payload)
            if count and found != dimension:
                reason = f"rows of dimension {found} in a store of dimension {dimension}"
                return Flaw(entry.offset, reason, count)
        elif entry.type == SegmentType.META:
            meta.decode_meta(payload)
        elif entry.type == SegmentType.STORE:
            record.decode_store(payload)
        elif entry.type == SegmentType.HIDDEN:
            record.decode_hidden(payload)
    except DamagedSegment as damage:
        return Flaw(damage.offset, damage.reason, rows)
    except InvalidFormat as error:
        return Flaw(entry.offset, error.message, rows)
    return None


def row_count(entry: Entry, dimension: int) -> int:
    """How many rows a VEC segment has, by its length; 0 for any other."""
    if entry.type != SegmentType.VEC:
        return 0
    empty = vec.vec_payload_bytes(0, dimension)
    return max(0, entry.payload_bytes - empty) // (vec.vec_payload_bytes(1, dimension) - empty)


def _flaw_in_branch(view: memoryview, entry: Entry) -> Flaw | None:
    decode = cow.decode_cow_map if entry.type == SegmentType.COW_MAP else cow.decode_membership
    try:
        decode(payload_at(view, entry))
    except InvalidFormat as error:
        return Flaw(entry.offset, error.message)
    return None
