"""Looking through the original's warm-tier directories: what is there, and how whole.

Nothing is written, and nothing of the directory is believed but its chunk files: the original reads
ranges of time through ``manifest.json``, which a crash leaves behind the chunks, so that it is only
compared with them. What the original deletes it never takes from the files, so all of it is here.

What counts as damage, in ``refuse_damage``'s eyes:

* a frame that is no point;
* bytes behind a point within its frame, where the original writes none: a changed length can hide
  whole points there;
* a point about another entity than its directory is for;
* bytes behind the last whole frame: a torn write, or a length that was changed;
* a file of no bytes, as only an interrupted rewrite of a chunk leaves;
* fewer frames than ``manifest.json`` says were written to the file, which it writes after the file.

No damage, because every point is there: a manifest that is missing, illegible, or behind the files.
Nor is a file that only the manifest knows of, since removing files is the only way to delete with
the original. Changed bytes within a vector or a timestamp cannot be told from good ones: the format
has no checksum.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from holdfast.formats.chronos_chunk import Block, blocks, vectors_of
from holdfast.formats.chronos_names import (
    MANIFEST_NAME,
    ChunkFacts,
    ZoneMap,
    differences,
    listed_points,
    parse_chunk,
    parse_entity,
    parse_manifest,
)
from holdfast.formats.errors import InvalidFormat, StoreCorrupt, from_os_error
from holdfast.formats.limits import GIB
from holdfast.workers.chronos_report import ChronosFile, ChronosFlaw, ChronosReport
from holdfast.workers.disk import Disk

_MANIFEST_BYTES_MAX = GIB
_FLAWS_LISTED_MAX = 16
_LINES_LISTED_MAX = 1000

Tick = Callable[[], None]


def survey(disk: Disk, directory: str, tick: Tick) -> ChronosReport:
    """Every chunk file of ``directory``, read whole, and where the manifest differs from them.

    Raises ``StoreIOError`` when something cannot be read, ``InvalidFormat`` when there is neither a
    manifest nor a chunk file.
    """
    ignored = _Lines()
    has_manifest = False
    chunks: list[_Chunk] = []
    for name, kind in _names(disk, directory):
        tick()
        entity = parse_entity(name)
        path = os.path.join(directory, name)
        if name == MANIFEST_NAME:
            has_manifest = True
        elif entity is None or not _is_directory(disk, path, kind):
            ignored.add(name)
        else:
            chunks += _chunks_of(disk, directory, name, entity, ignored)
    if not chunks and not has_manifest:
        raise InvalidFormat(
            f"{directory!r} holds neither {MANIFEST_NAME} nor a chunk file of a warm tier",
            path=directory,
            reason="no warm-tier directory",
        )
    files = [_survey_file(disk, directory, chunk, tick) for chunk in sorted(chunks)]
    notes = _Lines()
    zones = _zone_map(disk, directory, notes) if has_manifest else None
    if zones is not None:
        files = _with_lost_points(files, listed_points(zones))
        notes.extend(differences(zones, map(_facts, files)))
    elif not has_manifest:
        notes.add(f"there is no {MANIFEST_NAME}")
    return ChronosReport(files, notes.first, notes.left_out, ignored.first, ignored.left_out)


class _Chunk(NamedTuple):
    """A chunk file by its name, in the order in which files are read."""

    space: int
    entity: int
    chunk: int
    path: str


@dataclass(slots=True)
class _Lines:
    """The first of many lines, and how many more there were."""

    first: list[str] = field(default_factory=list)
    left_out: int = 0

    def add(self, line: str) -> None:
        if len(self.first) < _LINES_LISTED_MAX:
            # Names are whatever bytes they are, but a report has to be Unicode.
            self.first.append(os.fsencode(line).decode(errors="backslashreplace"))
        else:
            self.left_out += 1

    def extend(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.add(line)


def _names(disk: Disk, path: str) -> list[tuple[str, str]]:
    try:
        return disk.list(path)
    except OSError as error:
        raise from_os_error(error, "list", path) from error


def _is_directory(disk: Disk, path: str, kind: str) -> bool:
    """Also through a symbolic link, which the original follows."""
    return kind == "directory" or (kind == "other" and disk.is_directory(path))


def _chunks_of(
    disk: Disk, directory: str, name: str, entity: int, ignored: _Lines
) -> Iterator[_Chunk]:
    for inner, kind in _names(disk, os.path.join(directory, name)):
        path = f"{name}/{inner}"
        numbers = parse_chunk(inner)
        if numbers is None or _is_directory(disk, os.path.join(directory, path), kind):
            ignored.add(path)
        else:
            yield _Chunk(numbers[0], entity, numbers[1], path)


def mapped(disk: Disk, path: str) -> memoryview:
    """A file as it is now. Raises ``StoreIOError``."""
    try:
        file = disk.open(path)
        try:
            return file.map()
        finally:
            file.close()
    except OSError as error:
        raise from_os_error(error, "read", path) from error


def _survey_file(disk: Disk, directory: str, chunk: _Chunk, tick: Tick) -> ChronosFile:
    data = mapped(disk, os.path.join(directory, chunk.path))
    tally = _Tally(chunk.entity)
    stop = 0
    for block in blocks(data):
        tick()
        tally.add(data, block)
        stop = block.stop
    if stop < len(data):
        tally.flaw(stop, f"{len(data) - stop} bytes that are no whole frame")
    if not len(data):
        tally.flaw(0, "it is empty, as only an interrupted rewrite leaves a chunk")
    return ChronosFile(
        path=chunk.path,
        entity=chunk.entity,
        space=chunk.space,
        chunk=chunk.chunk,
        size_bytes=len(data),
        frames=tally.frames,
        undecodable=tally.undecodable,
        foreign=tally.foreign,
        trailing=tally.trailing,
        tail_bytes=len(data) - stop,
        first=tally.first,
        last=tally.last,
        dimensions=dict(sorted(tally.dimensions.items())),
        non_finite=tally.non_finite,
        flaws=tally.flaws,
    )


@dataclass(slots=True)
class _Tally:
    """Counts what the blocks of one file hold."""

    entity: int
    frames: int = 0
    undecodable: int = 0
    foreign: int = 0
    trailing: int = 0
    first: int | None = None
    last: int | None = None
    dimensions: dict[int, int] = field(default_factory=dict)
    non_finite: int = 0
    flaws: list[ChronosFlaw] = field(default_factory=list)

    def add(self, data: memoryview, block: Block) -> None:
        foreign = block.entities != self.entity
        self.frames += len(foreign)
        self.undecodable += sum(stretch.frames for stretch in block.undecodable)
        self.foreign += int(foreign.sum())
        self.trailing += int((block.trailing > 0).sum())
        for offset, reason in _flaws_of(block, foreign, self.entity):
            self.flaw(offset, reason)
        own = ~foreign
        if not own.any():
            return
        first, last = int(block.timestamps[own].min()), int(block.timestamps[own].max())
        self.first = first if self.first is None else min(first, self.first)
        self.last = last if self.last is None else max(last, self.last)
        for dimension, count in zip(
            *(array.tolist() for array in np.unique(block.dimensions[own], return_counts=True)),
            strict=True,
        ):
            self.dimensions[dimension] = self.dimensions.get(dimension, 0) + count
            of_these = own & (block.dimensions == dimension)
            vectors = vectors_of(data, block.vectors_at[of_these], dimension)
            self.non_finite += count - int(np.isfinite(vectors).all(axis=1).sum())

    def flaw(self, offset: int, reason: str) -> None:
        if len(self.flaws) < _FLAWS_LISTED_MAX:
            self.flaws.append(ChronosFlaw(offset, reason))


def _flaws_of(block: Block, foreign: NDArray[np.bool_], entity: int) -> list[tuple[int, str]]:
    """The first flaws of a block, by offset."""
    found = [(stretch.offset, stretch.reason) for stretch in block.undecodable[:_FLAWS_LISTED_MAX]]
    for row in np.flatnonzero(foreign)[:_FLAWS_LISTED_MAX].tolist():
        reason = f"a point about entity {block.entities[row]} in the directory of entity {entity}"
        found.append((int(block.frames_at[row]), reason))
    for row in np.flatnonzero(block.trailing)[:_FLAWS_LISTED_MAX].tolist():
        reason = f"{block.trailing[row]} bytes behind the point within its frame"
        found.append((int(block.frames_at[row]), reason))
    return sorted(found)[:_FLAWS_LISTED_MAX]


# --- what the manifest says --------------------------------------------------------------------


def _zone_map(disk: Disk, directory: str, notes: _Lines) -> ZoneMap | None:
    """The manifest, or a note on why it cannot be compared: no point depends on it."""
    try:
        file = disk.open(os.path.join(directory, MANIFEST_NAME))
        try:
            size = file.size()
            if size > _MANIFEST_BYTES_MAX:
                notes.add(f"{MANIFEST_NAME} has {size} bytes, too many to compare it")
                return None
            return parse_manifest(file.read_at(0, size))
        finally:
            file.close()
    except InvalidFormat as error:
        notes.add(f"{MANIFEST_NAME} cannot be compared: {error}")
    except OSError as error:
        notes.add(f"{MANIFEST_NAME} cannot be read: {error.strerror or error}")
    return None


def _with_lost_points(files: list[ChronosFile], listed: dict[str, int]) -> list[ChronosFile]:
    """Files that end between two frames, earlier than the manifest has it, are damaged as well."""
    found = []
    for file in files:
        said = listed.get(file.path, 0)
        if not file.flaws and file.frames < said:
            reason = f"{MANIFEST_NAME} lists {said} points, and it ends after {file.frames}"
            file = msgspec.structs.replace(file, flaws=[ChronosFlaw(file.size_bytes, reason)])
        found.append(file)
    return found


def _facts(file: ChronosFile) -> ChunkFacts:
    return ChunkFacts(file.path, file.space, file.points, file.first, file.last)


# --- what is damaged ---------------------------------------------------------------------------


def refuse_damage(report: ChronosReport, directory: str) -> None:
    """Raise ``StoreCorrupt`` for the first damage, with file, offset and reason.

    The module says what counts as damage.
    """
    for file in report.files:
        if file.flaws:
            flaw = file.flaws[0]
            path = os.path.join(directory, file.path)
            raise StoreCorrupt(
                f"{path!r} is damaged at offset {flaw.offset}: {flaw.reason}",
                path=path,
                offset=flaw.offset,
                reason=flaw.reason,
            )
