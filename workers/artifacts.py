"""Artifacts of a fold on disk: writing one, importing one, looking into one.

Nothing appears at a destination before all of it is on stable storage and was read back. Until then
it is a stage (``workers/stages.py``). After a crash behind the rename all is done, which
``already_exported_steps`` and ``already_imported`` find out.
"""

import contextlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from holdfast.formats import fold_log
from holdfast.formats.artifact import (
    DATA_NAME,
    MANIFEST_BYTES_MAX,
    MANIFEST_NAME,
    PAYLOAD_PATH,
    Manifest,
    check_payload,
    decode_manifest,
    encode_manifest,
    scan_payload,
)
from holdfast.formats.errors import ArtifactInvalid, typed_errors
from holdfast.formats.fold_log import DELETED, HEADER_BYTES, Ending, Scan
from holdfast.formats.limits import MIB
from holdfast.formats.values import Cursor
from holdfast.workers.disk import (
    Buffer,
    Disk,
    File,
    replace,
)
from holdfast.workers.fold_messages import ArtifactFile
from holdfast.workers.messages import Progress
from holdfast.workers.stages import publish, require_free, stage_beside, staged

_PIECE_BYTES = MIB
_SLICE_BYTES = 4 * MIB
_SYNC_EVERY_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class ArtifactReport:
    """What ``inspect_artifact`` found.

    ``verdict`` is the payload log's, or ``invalid`` for an artifact that is bad otherwise;
    ``reason`` says why when it is not clean. ``entries`` is None when the log was not reached.
    """

    directory: str
    manifest: Manifest | None
    verdict: Ending
    reason: str
    importable: bool
    entries: int | None


def _no_tick() -> None:
    pass


# --- exporting ---------------------------------------------------------------------------------


def export_steps(
    disk: Disk,
    destination: str,
    chunks: Iterable[Buffer],
    cursor: Cursor,
    entries: int,
    total: int,
    created_at_unix: int,
) -> Generator[Progress, None, list[ArtifactFile]]:
    """Write a fold's artifact to ``destination``, an absent or empty directory; ``StoreExists``.

    ``chunks`` is the compacted log in pieces of about 1 MiB, best cut between records; ``total`` is
    its length, ``cursor`` and ``entries`` what it has to hold when read back. An error that
    ``chunks`` raises passes through.
    """
    with typed_errors("export to", destination):
        stage = stage_beside(destination)
        require_free(disk, destination)
        with staged(disk, stage, os.path.join(stage, PAYLOAD_PATH)) as payload:
            ends = yield from _write(payload, chunks, total)
            digest = yield from _read_back(payload, ends, cursor, entries, total)
            manifest = Manifest(cursor, created_at_unix, payload.size(), digest)
            disk.sync_directory(os.path.join(stage, DATA_NAME))
            replace(disk, os.path.join(stage, MANIFEST_NAME), [encode_manifest(manifest)])
            publish(disk, payload, stage, destination)
    return [_listed(manifest)]


def _listed(manifest: Manifest) -> ArtifactFile:
    return ArtifactFile(PAYLOAD_PATH, manifest.payload_bytes, manifest.payload_blake3)


def _write(
    file: File, chunks: Iterable[Buffer], total: int
) -> Generator[Progress, None, list[int]]:
    """Write and sync ``chunks``; returns the offsets to read back up to, about 1 MiB apart."""
    size = unsynced = 0
    ends = [0]
    for chunk in chunks:
        view = memoryview(chunk)
        for start in range(0, len(view), _SLICE_BYTES):
            piece = view[start : start + _SLICE_BYTES]
            file.write_at(size, piece)
            size += len(piece)
            unsynced += len(piece)
            if unsynced >= _SYNC_EVERY_BYTES:  # so that no single sync keeps callers waiting
                file.sync()
                unsynced = 0
            yield Progress("export", size, total)
        if size - ends[-1] >= _PIECE_BYTES:
            ends.append(size)
    file.sync()
    return ends[1:] if ends[-1] == size else [*ends[1:], size]


class _CompactKeys(dict[bytes, int]):
    """Stands in for a scan's table: counts entries, and keeps only the last key to compare with."""

    def __init__(self) -> None:
        self.count = 0
        self.compact = True
        self._last: bytes | None = None

    def __setitem__(self, key: bytes, span: int) -> None:
        if span == DELETED or (self._last is not None and key <= self._last):
            self.compact = False
        self._last = key
        self.count += 1


def _read_back(
    file: File, ends: list[int], cursor: Cursor, entries: int, total: int
) -> Generator[Progress, None, str]:
    """Check that the file holds what was to be exported; returns its digest."""
    view, hasher, keys = file.map(), blake3(), _CompactKeys()
    if view[:HEADER_BYTES] != fold_log.HEADER:
        raise _unlike(file, "it does not begin with a log's header")
    hashed, good, found = 0, HEADER_BYTES, Cursor.none()
    for end in ends:
        scan = fold_log.scan(view[:end], good, keys)
        # A piece may end inside a record, which the next one then completes.
        cut = scan.verdict.ending is Ending.TORN and end - scan.end < fold_log.RECORD_BYTES_MAX
        if scan.verdict.ending is not Ending.CLEAN and (end == len(view) or not cut):
            raise _unlike(file, f"at offset {scan.verdict.offset}: {scan.verdict.reason}")
        good = scan.end
        found = found if scan.cursor is None else scan.cursor
        hasher.update(view[hashed:end])
        hashed = end
        yield Progress("verify", end, total)
    if hashed != len(view):
        raise _unlike(file, f"its length is {len(view)}, not {hashed}")
    if not keys.compact:
        raise _unlike(file, "its records are not one for each key, in key order")
    if (found, keys.count) != (cursor, entries):
        raise _unlike(
            file, f"it has {keys.count} entries and {found!r}, not {entries} and {cursor!r}"
        )
    return hasher.hexdigest()


def _unlike(file: File, reason: str) -> ArtifactInvalid:
    message = f"{file.path!r} reads back unlike what was exported: {reason}"
    return ArtifactInvalid(message, path=file.path)


def already_exported_steps(
    disk: Disk, destination: str, chunks: Iterable[Buffer], cursor: Cursor, total: int
) -> Generator[Progress, None, list[ArtifactFile] | None]:
    """The files of the artifact at ``destination`` if it is exactly this export; else None.

    For an export that is sent again after a crash. Exactly means: a manifest that differs from the
    one to be written in ``created_at_unix`` at most, and a payload that matches it.
    """
    with typed_errors("compare", destination):
        try:
            found = _read_manifest(disk, destination)
            path = _payload_path(disk, destination)
        except ArtifactInvalid:
            return None
        if found.cursor != cursor:
            return None
        wanted = yield from _hash_steps(chunks, total)
        if wanted != (found.payload_bytes, found.payload_blake3):
            return None
        with _opened(disk, path) as payload:
            there = yield from _hash_steps(_pieces(payload, payload.size()), total)
    return [_listed(found)] if there == wanted else None


def _hash_steps(pieces: Iterable[Buffer], total: int) -> Generator[Progress, None, tuple[int, str]]:
    size, hasher = 0, blake3()
    for piece in pieces:
        hasher.update(piece)
        size += len(piece)
        yield Progress("compare", size, total)
    return size, hasher.hexdigest()


# --- importing and inspecting ------------------------------------------------------------------


def import_artifact(disk: Disk, directory: str, destination: str, tick: Callable[[], None]) -> None:
    """Make the log at ``destination`` from the artifact in ``directory``, checked in full.

    ``destination`` is absent or an empty directory, else ``StoreExists``; ``ArtifactInvalid`` for
    anything that is wrong with the artifact. The copy is the payload as it is, less a torn tail.
    """
    with typed_errors(f"import {directory!r} to", destination):
        manifest = _read_manifest(disk, directory)
        stage = stage_beside(destination)
        require_free(disk, destination)
        path = _payload_path(disk, directory)
        with _opened(disk, path) as source, staged(disk, stage, stage) as file:
            _check_digest(source, manifest, tick, file)
            file.sync()
            scan = scan_payload(file.map(), _CompactKeys(), tick)
            check_payload(scan, manifest, path)
            if scan.verdict.ending is Ending.TORN:
                file.truncate(scan.end)
                file.sync()
            publish(disk, file, stage, destination)


def already_imported(
    disk: Disk, directory: str, destination: str, tick: Callable[[], None] = _no_tick
) -> bool:
    """Whether ``destination`` is, byte for byte, the log that importing ``directory`` makes.

    For an import that is tried again after a crash. A bad artifact is no error here.
    """
    with typed_errors(f"compare {directory!r} with", destination):
        if disk.inode_at(destination) is None or disk.is_directory(destination):
            return False
        try:
            manifest = _read_manifest(disk, directory)
            path = _payload_path(disk, directory)
            with _opened(disk, destination) as file, _opened(disk, path) as payload:
                size = file.size()
                if _digest(file, size, tick) != _digest(payload, size, tick):
                    return False
                _check_digest(payload, manifest, tick)
                scan = scan_payload(payload.map(), _CompactKeys(), tick)
            check_payload(scan, manifest, path)
        except ArtifactInvalid:
            return False
        return size == scan.end


def inspect_artifact(
    disk: Disk, directory: str, tick: Callable[[], None] = _no_tick
) -> ArtifactReport:
    """Check the artifact in ``directory`` as an import would, without writing anything."""
    manifest: Manifest | None = None
    scan: Scan | None = None
    reason, importable = "", True
    table: dict[bytes, int] = {}
    with typed_errors("inspect", directory):
        try:
            manifest = _read_manifest(disk, directory)
            path = _payload_path(disk, directory)
            with _opened(disk, path) as payload:
                _check_digest(payload, manifest, tick)
                scan = scan_payload(payload.map(), table, tick)
            check_payload(scan, manifest, path)
            reason = scan.verdict.reason
        except ArtifactInvalid as error:
            reason, importable = error.message, False
    verdict = scan.verdict.ending if scan else Ending.INVALID
    if verdict is Ending.CLEAN and not importable:
        verdict = Ending.INVALID
    entries = sum(span != DELETED for span in table.values()) if scan else None
    return ArtifactReport(directory, manifest, verdict, reason, importable, entries)


# --- the checks, in the order in which an import makes them ------------------------------------


def _read_manifest(disk: Disk, directory: str) -> Manifest:
    path = os.path.join(directory, MANIFEST_NAME)
    try:
        kind = dict(disk.list(directory)).get(MANIFEST_NAME)
    except FileNotFoundError:
        kind = None
    if kind is None:
        raise ArtifactInvalid(f"there is no {MANIFEST_NAME} in {directory!r}", path=path)
    if kind != "file":  # to open a pipe would wait forever
        raise ArtifactInvalid(f"{path!r} is not a regular file", path=path)
    with _opened(disk, path) as file:
        return decode_manifest(file.read_at(0, MANIFEST_BYTES_MAX + 1), path)


def _payload_path(disk: Disk, directory: str) -> str:
    """Path of the payload, which is there, with nothing else under ``data/`` but directories."""
    payload = os.path.join(directory, PAYLOAD_PATH)
    present = False
    rest = [os.path.join(directory, DATA_NAME)]
    while rest:
        parent = rest.pop()
        try:
            listed = disk.list(parent)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ArtifactInvalid(f"{parent!r} is not a directory", path=parent) from error
        for name, kind in listed:
            path = os.path.join(parent, name)
            if kind == "directory":
                rest.append(path)
            elif kind != "file":
                raise ArtifactInvalid(
                    f"{path!r} is neither a regular file nor a directory", path=path
                )
            elif path == payload:
                present = True
            else:
                raise ArtifactInvalid(f"{path!r} is not in the manifest", path=path)
    if not present:
        raise ArtifactInvalid(f"the payload file {payload!r} is missing", path=payload)
    return payload


def _check_digest(
    source: File, manifest: Manifest, tick: Callable[[], None], copy_to: File | None = None
) -> None:
    """Check size and digest of the payload, copying it on the way."""
    path, size = source.path, source.size()
    if size != manifest.payload_bytes:
        raise ArtifactInvalid(
            f"{path!r} is {size} bytes, the manifest says {manifest.payload_bytes}", path=path
        )
    digest = _digest(source, size, tick, copy_to)
    if digest != manifest.payload_blake3:
        raise ArtifactInvalid(
            f"{path!r} has the digest {digest}, the manifest says {manifest.payload_blake3[:80]!r}",
            path=path,
        )


def _digest(source: File, size: int, tick: Callable[[], None], copy_to: File | None = None) -> str:
    """BLAKE3 of the first ``size`` bytes, copying them on the way."""
    hasher, copied, unsynced = blake3(), 0, 0
    for piece in _pieces(source, size):
        hasher.update(piece)
        if copy_to is not None:
            copy_to.write_at(copied, piece)
            copied += len(piece)
            unsynced += len(piece)
            if unsynced >= _SYNC_EVERY_BYTES:  # so that the last sync is a short one
                copy_to.sync()
                unsynced = 0
        tick()
    return hasher.hexdigest()


def _pieces(file: File, size: int) -> Iterator[bytes]:
    for offset in range(0, size, _PIECE_BYTES):
        yield file.read_at(offset, min(_PIECE_BYTES, size - offset))


def _opened(disk: Disk, path: str) -> contextlib.closing[File]:
    return contextlib.closing(disk.open(path))
