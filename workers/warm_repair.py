"""Writing a damaged warm store anew, from what is intact of it: see ``warm_reading``.

The new store has the same points in the same order, without what is dead, in as few chunks as there
can be, an id of its own and an empty log. What the manifest does not list was left over by
something that a crash interrupted, and as a rule holds nothing that is not elsewhere. To *salvage*
is to take from there what was lost elsewhere: points of keys that nothing listed says anything of.
"""

import secrets
from collections.abc import Callable, Iterator

from holdfast.formats import warm_log, warm_manifest
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.points import Points
from holdfast.formats.warm_manifest import ChunkEntry, Manifest, is_of_another_version
from holdfast.formats.warm_terms import Compression
from holdfast.workers.disk import TEMPORARY_SUFFIX, Disk, replace
from holdfast.workers.standing import Flaw, Rewriting
from holdfast.workers.warm_files import WarmFiles
from holdfast.workers.warm_inspection import in_key_order
from holdfast.workers.warm_merge import chunk_rows_max, split
from holdfast.workers.warm_reading import Reading, manifest_at, manifest_bytes, read_what_is_left
from holdfast.workers.warm_writing import write_chunk

_FIRST_NUMBER = 1


def repair_warm(disk: Disk, path: str, *, salvage: bool, tick: Callable[[], None]) -> Rewriting:
    """Find out what is intact, and how to write it. Raises ``InvalidFormat`` when nothing is."""
    found = manifest_at(disk, path)
    if isinstance(found, Flaw) and is_of_another_version(manifest_bytes(disk, path)):
        raise _nothing(path, str(found))
    if isinstance(found, Manifest) and found.dropped:
        raise _nothing(path, "the store was dropped")
    manifest = found if isinstance(found, Manifest) else None
    reading = read_what_is_left(disk, path, manifest, leftovers=salvage, tick=tick)
    if reading is None:
        raise _nothing(path, "neither manifest, log nor zone map tells of what it is")
    lost = list(reading.flaws)
    notes = list(reading.notes)
    if isinstance(found, Flaw):
        lost.insert(0, found)
    if manifest is None:
        notes.insert(0, "there was no manifest: the chunks were found by their zone maps")
    compression = manifest.compression if manifest else _compression(reading, notes)
    return Rewriting(
        lambda output: _write(disk, output, reading, compression, tick),
        rows=reading.table.points,
        salvaged_rows=reading.leftover_points if manifest else 0,
        lost=lost,
        notes=notes,
    )


def _nothing(path: str, reason: str) -> InvalidFormat:
    return InvalidFormat(f"{path!r} has nothing to be repaired: {reason}", path=path, reason=reason)


def _compression(reading: Reading, notes: list[str]) -> Compression:
    if not any(part.zone is not None and part.zone.compressed for part in reading.parts):
        return "none"
    notes.append("nothing says which compression the store was made with: zstd is assumed")
    return "zstd"


# --- the new store ------------------------------------------------------------------------------


def _write(
    disk: Disk,
    output: str,
    reading: Reading,
    compression: Compression,
    tick: Callable[[], None],
) -> None:
    """Write the new store under the temporary name of ``output``, synced."""
    files = WarmFiles(output + TEMPORARY_SUFFIX)
    disk.make_directory(files.directory)
    store_id = secrets.token_bytes(warm_log.STORE_ID_BYTES)
    chunks: list[ChunkEntry] = []
    for points in _chunks(reading, compression):
        writing = write_chunk(
            disk, files, points, store_id, _FIRST_NUMBER + len(chunks), _FIRST_NUMBER, compression
        )
        while True:
            try:
                next(writing)
            except StopIteration as end:
                chunks.append(end.value)
                break
            tick()
    size = sum(chunk.bytes + chunk.zone_bytes for chunk in chunks)
    manifest = Manifest(
        store_id.hex(), reading.dimension, 1, 0, 0, _FIRST_NUMBER + len(chunks), compression,
        chunks, size, size,
    )  # fmt: skip
    replace(disk, files.log, [warm_log.encode_header(reading.dimension, store_id, 1)])
    replace(disk, files.manifest, [warm_manifest.encode(manifest)])


def _chunks(reading: Reading, compression: Compression) -> Iterator[Points]:
    """The points in order of key, as many at once as fit into a chunk."""
    limit = chunk_rows_max(reading.dimension, compression)
    parts: list[Points] = []
    waiting = 0
    for points in in_key_order(reading.table.runs()):
        parts.append(points)
        waiting += len(points)
        while waiting >= limit:
            whole, parts = split(parts, limit)
            waiting -= limit
            yield whole
    if waiting:
        yield split(parts, waiting)[0]
