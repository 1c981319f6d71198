"""Reading a vector store's file into memory as of one of its commits, with the parents it shows.

A branch shows its parent's rows as of the commit it was made from: they come first, in row order,
then those ids go that the branch hides, then come its own. Parents are read in the same way, so
branches may be nested. Every payload is checked against its hash before it is believed.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat, ParentChanged
from holdfast.formats.rvf import cow, meta, record, vec, witness
from holdfast.formats.rvf.addrot import addrot
from holdfast.formats.rvf.manifest import Entry, Identity, Manifest
from holdfast.formats.rvf.record import HiddenIds, Pin, StoreRecord
from holdfast.formats.rvf.scan import Located, find_manifest, walk
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    SegmentType,
    decode_header,
    is_intact,
    is_unverifiable,
    type_name,
)
from holdfast.formats.rvf.terms import Metric, Profile
from holdfast.formats.tables import ID, arrow_of, numbers_of
from holdfast.workers import sets
from holdfast.workers.columns import Columns
from holdfast.workers.disk import Disk
from holdfast.workers.id_map import IdMap
from holdfast.workers.row_table import RowTable
from holdfast.workers.vector_catalog import Catalog, VecSegment
from holdfast.workers.vector_segments import segments_in

T = TypeVar("T")

PARENT_HASH_BYTES = 65_536
_DEPTH_MAX = 64
# A segment of at least this size is searched where it lies; smaller ones are copied together,
# since a search costs some microseconds per block.
MAPPED_BYTES_MIN = 4 << 20
_METRICS: tuple[Metric, ...] = ("l2", "ip", "cosine")
_PROFILES: dict[str, Profile] = {
    ".rvdna": "dna", ".rvtext": "text", ".rvgraph": "graph", ".rvvis": "vision",
}  # fmt: skip


class DamagedSegment(Exception):
    """A segment that the manifest lists cannot be read; ``reason`` says why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A parent that is read: its path, its identity, and the commit that is shown."""

    path: str
    identity: Identity
    pin: Pin


@dataclass(slots=True)
class Loaded:
    """A store in memory. Rows below ``inherited_rows`` are the ancestors'."""

    catalog: Catalog
    table: RowTable
    columns: Columns
    inherited_rows: int = 0
    inherited_ids: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """Ids of the parent's rows as of the pin, ascending; hidden ones are among them."""
    hidden: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    ancestors: list[Ancestor] = field(default_factory=list)


def load(
    disk: Disk,
    path: str,
    view: memoryview,
    located: Located,
    tick: Callable[[], None],
    unsynced_from: int | None = None,
) -> Loaded:
    """The store in ``view`` as of the manifest ``located``.

    Raises ``DamagedSegment`` for damage in this file, ``ParentChanged`` for what is wrong with a
    parent. From ``unsynced_from`` on, a segment without a hash is damage, too: the hash was lost.
    """
    for entry in located.manifest.entries:
        if unsynced_from is not None and entry.offset >= unsynced_from:
            header = decode_header(view, entry.offset)
            if header is not None and is_unverifiable(header):
                raise DamagedSegment(entry.offset, "the hash is all zero")
    return _load(disk, path, view, located, tick, depth=0)


def _load(
    disk: Disk, path: str, view: memoryview, located: Located, tick: Callable[[], None], depth: int
) -> Loaded:
    manifest = located.manifest
    if not manifest.dimension:
        raise DamagedSegment(located.offset, "the manifest has a dimension of 0")
    for entry in manifest.entries:
        check_entry(view, entry)
        tick()
    catalog = catalog_of(path, view, located)
    shown = load_parent(disk, path, view, catalog, tick, depth)
    if shown is None:
        shown = Loaded(catalog, RowTable(manifest.dimension), Columns())
    else:
        inherit(shown, catalog, view)
    table, first_own = shown.table, shown.table.rows
    for entry in manifest.entries:
        if entry.type == SegmentType.VEC:
            add_segment(table, catalog, view, entry)
            tick()
    add_metadata(shown, catalog, view, first_own)
    deleted = np.array(sorted(catalog.deleted), np.uint64)
    table.kill(table.find_live(deleted))
    return shown


def payload_at(view: memoryview, entry: Entry) -> memoryview:
    """A segment's payload."""
    start = entry.offset + HEADER_BYTES
    return view[start : start + entry.payload_bytes]


def check_entry(view: memoryview, entry: Entry) -> None:
    """Raise ``DamagedSegment`` unless the segment is there as the directory says, and intact."""
    header = decode_header(view, entry.offset)
    if header is None or header.type != entry.type or header.payload_bytes != entry.payload_bytes:
        name = type_name(entry.type)
        raise DamagedSegment(entry.offset, f"there is no {name} segment as the directory has it")
    if not is_intact(header, payload_at(view, entry)) and not is_unverifiable(header):
        raise DamagedSegment(
            entry.offset, f"the {type_name(entry.type)} segment does not match its hash"
        )


def catalog_of(path: str, view: memoryview, located: Located) -> Catalog:
    """The catalog that a manifest describes, without its VEC segments, which ``load`` adds."""
    manifest = located.manifest
    others = [entry for entry in manifest.entries if entry.type != SegmentType.VEC]
    identity = manifest.identity or Identity(bytes(16), bytes(16), bytes(32), 0)
    generation, found, own, kept = _store_record(path, view, manifest, others)
    extension = manifest.extension
    catalog = Catalog(
        manifest.dimension,
        identity,
        found,
        epoch=manifest.epoch,
        hardware=manifest.profile,
        generation=generation,
        manifest_at=located.offset,
        others=[entry for entry in kept if entry.type not in _REMADE],
        record_entry=own,
        deleted=set(manifest.deleted.tolist()),
    )
    if extension is not None:
        catalog.generation = max(generation, extension.generation)
        catalog.next_segment_id = extension.next_segment_id
    boundaries = [located.offset, *(entry.offset for entry in manifest.entries)]
    _walk_witnesses(catalog, view[: end_with_witnesses(view, located)], boundaries)
    return catalog


def end_with_witnesses(view: memoryview, located: Located) -> int:
    """Where a commit ends: the original adds witnesses behind the manifest and lists none."""
    end = located.end
    for offset, header in walk(view, located.end):
        payload = view[offset + HEADER_BYTES : offset + HEADER_BYTES + header.payload_bytes]
        if header.type != SegmentType.WITNESS or not is_intact(header, payload):
            break
        try:
            witness.decode_witness(payload)
        except InvalidFormat:  # such as a header of which only the beginning arrived
            break
        end = offset + HEADER_BYTES + header.payload_bytes
    return end


# Former manifests, journals and witnesses are found by walking the file; listing them, as the
# original does, makes every manifest longer than the one before.
_REMADE = {SegmentType.MANIFEST, SegmentType.JOURNAL, SegmentType.WITNESS}


def _store_record(
    path: str, view: memoryview, manifest: Manifest, others: list[Entry]
) -> tuple[int, StoreRecord, Entry | None, list[Entry]]:
    """Generation and record in force, where it is, and ``others`` without superseded records."""
    records: list[tuple[int, StoreRecord, Entry]] = []
    for entry in others:
        if entry.type == SegmentType.STORE:
            found = _decoded(entry, record.decode_store, view)
            if found is not None:
                records.append((*found, entry))
    if records:
        generation, newest, own = max(records, key=lambda item: item[0])
        void = {entry for _, _, entry in records if entry is not own}
        return generation, newest, own, [entry for entry in others if entry not in void]
    metric = _METRICS[manifest.metric] if manifest.metric < len(_METRICS) else "l2"
    profile = _PROFILES.get(os.path.splitext(path)[1], "generic")
    maps = [entry for entry in others if entry.type == SegmentType.COW_MAP]
    newest_map = max(maps, key=lambda entry: entry.offset, default=None)
    frozen = newest_map is not None and _decoded(newest_map, cow.decode_cow_map, view).frozen
    return 0, StoreRecord(metric, profile, frozen), None, others


def _decoded(entry: Entry, decode: Callable[[memoryview], T], view: memoryview) -> T:
    """A segment of ours, decoded; damage becomes ``DamagedSegment``."""
    try:
        return decode(payload_at(view, entry))
    except InvalidFormat as error:
        raise DamagedSegment(entry.offset, error.message) from error


def _walk_witnesses(catalog: Catalog, view: memoryview, boundaries: list[int]) -> None:
    """Find the end of the witness chain, the ids in use, and what the directory does not list."""
    newest = 0
    for offset, header in segments_in(view, boundaries):
        if header.segment_id < 1 << 63:  # or there would be none left to give
            newest = max(newest, header.segment_id)
        if header.type == SegmentType.WITNESS:
            payload = view[offset + HEADER_BYTES : offset + HEADER_BYTES + header.payload_bytes]
            if is_intact(header, payload):
                catalog.witness_hash = witness.entry_hash(payload)
                catalog.witnesses += 1
                catalog.unlisted_bytes += HEADER_BYTES + header.payload_bytes
    catalog.next_segment_id = max(catalog.next_segment_id, newest + 1)


# --- rows and metadata of one file -------------------------------------------------------------


def add_segment(table: RowTable, catalog: Catalog, view: memoryview, entry: Entry) -> None:
    """Append the rows of a VEC segment; older rows of their ids die."""
    payload = payload_at(view, entry)
    try:
        dimension, rows = vec.check_vec(payload)
        if rows and dimension != table.dimension:
            raise InvalidFormat(
                f"rows of dimension {dimension} in a store of dimension {table.dimension}"
            )
    except InvalidFormat as error:
        raise DamagedSegment(entry.offset, error.message) from error
    first = table.rows
    if rows:
        mapped = entry.payload_bytes >= MAPPED_BYTES_MIN
        ids, vectors = vec.view_rows(payload)
        table.add(ids, vectors, lasting=mapped)
    catalog.vecs.append(VecSegment(entry, first, rows))


def metadata_tables(catalog: Catalog, view: memoryview) -> Iterator[tuple[Entry, meta.MetaRows]]:
    """The metadata segments in force, in the order in which later rows win."""
    found = []
    for entry in catalog.of_type(SegmentType.META):
        rows = _decoded(entry, meta.decode_meta, view)
        if rows is not None:
            found.append((entry, rows))
    found.sort(key=lambda item: item[1].generation)
    base = max((n for n, (_, rows) in enumerate(found) if rows.snapshot), default=0)
    yield from found[base:]


def add_metadata(shown: Loaded, catalog: Catalog, view: memoryview, first_own: int) -> None:
    """Append the metadata of the rows from ``first_own`` on."""
    table, columns = shown.table, shown.columns
    count = table.rows - first_own
    segments = list(metadata_tables(catalog, view))
    in_force = {entry for entry, _ in segments}
    catalog.others = [
        entry
        for entry in catalog.others
        if entry.type != SegmentType.META or entry in in_force
        or _decoded(entry, meta.decode_meta, view) is None
    ]  # fmt: skip
    if not segments:
        columns.append(None, count)
        return
    places = IdMap()
    position = 0
    tables = []
    for _, rows in segments:
        ids = numbers_of(rows.table.column(ID), np.uint64)
        places.add(ids, position)
        position += len(ids)
        tables.append(rows.table)
    whole = pa.concat_tables(tables, promote_options="default")
    wanted = places.find(table.ids[first_own:])
    indices = arrow_of(wanted, wanted < 0)
    # Not before: a table without columns has no rows.
    found = whole.take(indices).drop_columns([ID])
    try:
        columns.append(columns.check(found, count), count)
    except ValueError as error:
        raise DamagedSegment(segments[0][0].offset, f"metadata: {error}") from error


# --- parents -----------------------------------------------------------------------------------


def load_parent(
    disk: Disk,
    path: str,
    view: memoryview,
    catalog: Catalog,
    tick: Callable[[], None],
    depth: int,
) -> Loaded | None:
    """What the parent of a branch holds as of the branch point; None for what is no branch."""
    maps = catalog.of_type(SegmentType.COW_MAP)
    pin = catalog.record.parent
    if catalog.record.origin != "branch" and (pin is not None or not maps):
        return None
    if depth >= _DEPTH_MAX:
        raise ParentChanged(f"{path!r} has more than {_DEPTH_MAX} ancestors", path=path)
    if pin is not None:
        where = os.path.join(os.path.dirname(path), pin.name)
    else:
        newest = max(maps, key=lambda entry: entry.offset)
        where = os.path.join(
            os.path.dirname(path), _decoded(newest, cow.decode_cow_map, view).parent_name
        )
    parent_view = map_file(disk, where, f"the parent of {path!r}")
    located = find_pinned(parent_view, catalog.identity, pin, where, tick)
    try:
        shown = _load(disk, where, parent_view, located, tick, depth + 1)
    except DamagedSegment as damage:
        raise ParentChanged(
            f"the parent {where!r} is damaged at offset {damage.offset}: {damage.reason}",
            path=where,
            offset=damage.offset,
        ) from damage
    if shown.catalog.dimension != catalog.dimension:
        raise ParentChanged(
            f"{path!r} has {catalog.dimension} dimensions, its parent {where!r} "
            f"{shown.catalog.dimension}",
            path=where,
        )
    shown.ancestors.insert(
        0, Ancestor(where, shown.catalog.identity, Pin(where, located.offset, located.end))
    )
    return shown


def map_file(disk: Disk, path: str, what: str) -> memoryview:
    """A view of a file that is only read."""
    try:
        file = disk.open(path)
    except FileNotFoundError as error:
        raise ParentChanged(f"{what}, {path!r}, is missing", path=path) from error
    try:
        return file.map()
    finally:
        file.close()


def parent_hash(view: memoryview, end: int) -> bytes:
    """The hash by which a child remembers a file that ended at ``end``; RVF 5.13."""
    return addrot(view[max(0, end - PARENT_HASH_BYTES) : end])


def find_pinned(
    view: memoryview, child: Identity, pin: Pin | None, path: str, tick: Callable[[], None]
) -> Located:
    """The commit of a parent that ``child`` was made from; ``ParentChanged`` if it is gone.

    The original compares the parent's end as it is now, so that any write to the parent breaks its
    children. Here the commits are searched for the one that matches.
    """
    end = len(view) if pin is None else pin.end
    while 0 < end <= len(view):
        located = find_manifest(view[:end], tick)
        if located is None:
            break
        identity = located.manifest.identity
        if identity is None or identity.file_id != child.parent_id:
            break
        for tried in {located.end, end}:
            if parent_hash(view, tried) == child.parent_hash:
                return located
        if pin is not None:
            break
        end = located.offset
    raise ParentChanged(
        f"{path!r} no longer holds the commit that its child was made from", path=path
    )


def inherit(shown: Loaded, catalog: Catalog, view: memoryview) -> None:
    """Make ``shown``, which holds a parent, the beginning of its child."""
    table = shown.table
    shown.catalog = catalog
    shown.inherited_rows = table.rows
    shown.inherited_ids = table.ids[table.live_in_id_order()]
    shown.hidden = _hidden_ids(catalog, view, shown.inherited_ids)
    table.kill(table.find_live(shown.hidden))


def _hidden_ids(
    catalog: Catalog, view: memoryview, inherited: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    lists: list[HiddenIds] = []
    for entry in catalog.of_type(SegmentType.HIDDEN):
        found = _decoded(entry, record.decode_hidden, view)
        if found is not None:
            lists.append(found)
    lists.sort(key=lambda found: found.generation)
    base = max((n for n, found in enumerate(lists) if found.snapshot), default=0)
    hidden = [found.ids for found in lists[base:]]
    # The bitmap says the same, and more once a program of the original has deleted something.
    members = catalog.of_type(SegmentType.MEMBERSHIP)
    if members:
        newest = max(members, key=lambda entry: entry.offset)
        visible = _decoded(newest, cow.decode_membership, view)
        hidden.append(inherited[~visible.shows(inherited)])
    return sets.unique(np.concatenate(hidden)) if hidden else np.empty(0, np.uint64)
