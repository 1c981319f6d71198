"""Checking an RVF file: every segment, the witness chain, the manifest, the chain of parents.

Nothing is believed because something else says so, and nothing intact is hidden by what is damaged.
"""

import os
from collections.abc import Generator
from typing import Literal

from holdfast.formats.errors import HoldfastError, InvalidFormat
from holdfast.formats.rvf import cow, witness
from holdfast.formats.rvf.manifest import Identity
from holdfast.formats.rvf.record import Pin
from holdfast.formats.rvf.scan import Located, find_intact, find_manifest, walk
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    SegmentHeader,
    SegmentType,
    is_intact,
    is_unverifiable,
    type_name,
)
from holdfast.workers import vector_messages as messages
from holdfast.workers.disk import Disk, directory_of
from holdfast.workers.messages import Progress
from holdfast.workers.vector_catalog import Catalog
from holdfast.workers.vector_loading import (
    DamagedSegment,
    catalog_of,
    check_entry,
    find_pinned,
    map_file,
    payload_at,
)

_ANCESTORS_MAX = 64
_SIBLINGS_MAX = 1000
_NO_ID = bytes(16)


def _no_tick() -> None:
    pass


# --- one file ----------------------------------------------------------------------------------


def verify_steps(
    disk: Disk, path: str, view: memoryview
) -> Generator[Progress | None, None, messages.Verified]:
    """Check a file in slices."""
    reports: list[messages.SegmentReport] = []
    problems: list[str] = []
    chain = _Chain()
    located = _find(view, problems)
    dimension = 0 if located is None else located.manifest.dimension
    boundaries = _boundaries(view)
    start: int | None = 0
    while start is not None:
        steps = walk(view, start)
        for offset, header in steps:
            payload = view[offset + HEADER_BYTES : offset + HEADER_BYTES + header.payload_bytes]
            report = _report(offset, header, payload, dimension)
            reports.append(report)
            if report.state == "damaged":
                problems.append(f"offset {offset}: {report.reason}")
            elif header.type == SegmentType.WITNESS:
                chain.link(offset, payload)
            yield Progress("verify", offset, len(view))
        start = None
        if steps.broken_at is not None:
            problems.append(f"offset {steps.broken_at}: {steps.reason}")
            start = next((offset for offset in boundaries if offset > steps.broken_at), None)
    problems += chain.problems
    ancestors: list[messages.Ancestor] = []
    if located is not None:
        problems += _directory_problems(view, located)
        try:
            catalog = catalog_of(path, view, located)
        except DamagedSegment as damage:
            problems.append(f"offset {damage.offset}: {damage.reason}")
        else:
            ancestors = lineage(disk, path, view, catalog).ancestors
            problems += [
                f"parent {a.path or a.file_id}: {a.problem}" for a in ancestors if a.problem
            ]
    return messages.Verified(
        reports, chain.links, chain.breaks, chain.restarts, ancestors, _unique(problems)
    )


def _find(view: memoryview, problems: list[str]) -> Located | None:
    try:
        located = find_manifest(view)
    except InvalidFormat as error:
        problems.append(error.message)
        return None
    if located is None:
        problems.append("there is no intact manifest")
    elif located.refused is not None:
        problems.append(
            f"offset {located.refused}: a newer manifest lists segments that are not there"
        )
    return located


def _boundaries(view: memoryview) -> list[int]:
    """Where segments begin, as the newest manifest says, though what it lists may not be there."""
    try:
        located = find_intact(view)
    except InvalidFormat:
        return []
    if located is None:
        return []
    return sorted({located.offset, *(entry.offset for entry in located.manifest.entries)})


def _report(
    offset: int, header: SegmentHeader, payload: memoryview, dimension: int
) -> messages.SegmentReport:
    state: Literal["intact", "damaged", "unverifiable"] = "intact"
    reason = ""
    if is_unverifiable(header):
        state, reason = "unverifiable", "the hash is all zero"
    elif not is_intact(header, payload):
        state, reason = "damaged", f"the {type_name(header.type)} segment does not match its hash"
        if header.type == SegmentType.VEC and dimension:
            rows = max(0, header.payload_bytes - 6) // (8 + 4 * dimension)
            reason += f"; it has {rows} rows"
    return messages.SegmentReport(
        header.segment_id, offset, header.payload_bytes, type_name(header.type), state, reason
    )


def _directory_problems(view: memoryview, located: Located) -> list[str]:
    """What the directory lists and is not there; the walk finds what is there and is damaged."""
    problems = []
    for entry in located.manifest.entries:
        try:
            check_entry(view, entry)
        except DamagedSegment as damage:
            problems.append(f"offset {damage.offset}: {damage.reason}")
    return problems


def _unique(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(texts))


class _Chain:
    """The witness chain as it is walked. The original starts anew whenever it opens a file."""

    def __init__(self) -> None:
        self.links = self.breaks = self.restarts = 0
        self.problems: list[str] = []
        self._expected = bytes(32)

    def link(self, offset: int, payload: memoryview) -> None:
        """The next witness."""
        self.links += 1
        try:
            previous = witness.decode_witness(payload).previous_hash
        except InvalidFormat as error:
            self.problems.append(f"offset {offset}: {error.message}")
            return
        if previous != self._expected:
            if previous == bytes(32):
                self.restarts += 1
            else:
                self.breaks += 1
                self.problems.append(f"offset {offset}: the witness does not follow the one before")
        self._expected = witness.entry_hash(payload)


# --- parents -----------------------------------------------------------------------------------


def identity_of(catalog: Catalog) -> messages.Identity:
    """The identity as users see it."""
    identity = catalog.identity
    origin = catalog.record.origin
    if origin == "root" and identity.parent_id != _NO_ID:
        origin = "branch" if catalog.of_type(SegmentType.COW_MAP) else "derived"
    return messages.Identity(
        identity.file_id.hex(),
        identity.parent_id.hex(),
        identity.parent_hash.hex(),
        identity.depth,
        origin,
        catalog.record.derivation,
    )


def lineage(disk: Disk, path: str, view: memoryview, catalog: Catalog) -> messages.Lineage:
    """Who a file is, and its parents from the nearest on, each looked for and checked."""
    own = identity_of(catalog)
    ancestors: list[messages.Ancestor] = []
    seen = {catalog.identity.file_id}
    here, here_view, here_catalog = path, view, catalog
    while here_catalog.identity.parent_id != _NO_ID:
        identity = here_catalog.identity
        where = _parent_path(disk, here, here_view, here_catalog)
        problem = None
        located = None
        if where is None:
            problem = "no file with this id lies beside its child"
        elif identity.parent_id in seen:
            problem = "the chain of parents leads in a circle"
        elif len(ancestors) >= _ANCESTORS_MAX:
            problem = f"there are more than {_ANCESTORS_MAX} ancestors"
        else:
            try:
                here_view = map_file(disk, where, "the parent")
                located = _pinned(here_view, identity, here_catalog.record.parent, where)
            except (HoldfastError, OSError) as error:
                problem = str(error)
        ancestors.append(
            messages.Ancestor(where, identity.parent_id.hex(), max(0, identity.depth - 1), problem)
        )
        if problem is not None or where is None or located is None:
            break
        seen.add(identity.parent_id)
        here = where
        try:
            here_catalog = catalog_of(here, here_view, located)
        except DamagedSegment as damage:
            ancestors[-1] = messages.Ancestor(
                where, identity.parent_id.hex(), max(0, identity.depth - 1), str(damage)
            )
            break
    return messages.Lineage(own, ancestors)


def _pinned(view: memoryview, child: Identity, pin: Pin | None, path: str) -> Located:
    return find_pinned(view, child, pin, path, _no_tick)


def _parent_path(disk: Disk, path: str, view: memoryview, catalog: Catalog) -> str | None:
    """Where the parent should be: as the child remembers, else whichever sibling has the id."""
    directory = directory_of(path)
    if catalog.record.parent is not None:
        return os.path.normpath(os.path.join(directory, catalog.record.parent.name))
    maps = catalog.of_type(SegmentType.COW_MAP)
    if maps:
        newest = max(maps, key=lambda entry: entry.offset)
        try:
            return os.path.join(directory, cow.decode_cow_map(payload_at(view, newest)).parent_name)
        except InvalidFormat:
            return None
    return _sibling(disk, directory, catalog.identity.parent_id)


def _sibling(disk: Disk, directory: str, file_id: bytes) -> str | None:
    try:
        names = [name for name, kind in disk.list(directory) if kind == "file"]
    except OSError:  # a file may be legible where its directory is not
        return None
    for name in [n for n in names if os.path.splitext(n)[1].startswith(".rv")][:_SIBLINGS_MAX]:
        where = os.path.join(directory, name)
        try:
            located = find_manifest(map_file(disk, where, "a sibling"))
        except (HoldfastError, OSError):
            continue
        if located is None or located.manifest.identity is None:
            continue
        if located.manifest.identity.file_id == file_id:
            return where
    return None
