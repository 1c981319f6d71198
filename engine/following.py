"""Following a directory into a fold: key = relative path, value = content, version = time.

The demonstration's main job, and an example of what a fold is for. The directory is only read.
"""

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from holdfast.formats.limits import MIB, VALUE_BYTES_MAX
from holdfast.formats.values import Cursor, Delete, Put, Version
from holdfast.handles.fold import Fold

_BATCH_FILES = 256
_BATCH_BYTES = 4 * MIB
_COMPARE_FILES = 60  # even of the largest size, so many still fit into one answer


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to follow, as it was listed."""

    key: str
    path: str
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Listing:
    """The files of a directory, oldest first, and how many could not be followed."""

    listed_ns: int
    files: list[SourceFile] = field(default_factory=list)
    too_large: int = 0
    unreadable: int = 0
    not_text: int = 0


def list_files(
    directory: str, leave_out: str, *, suffix: str = "", skip: frozenset[str] = frozenset()
) -> Listing:
    """The regular files below ``directory``; links are not followed, ``leave_out`` not entered."""
    listing = Listing(time.time_ns())
    directory = os.path.realpath(directory)

    def count_unreadable(_: OSError) -> None:
        listing.unreadable += 1

    for parent, folders, names in os.walk(directory, onerror=count_unreadable):
        folders[:] = [
            name for name in folders if name not in skip and os.path.join(parent, name) != leave_out
        ]
        for name in names:
            if name.endswith(suffix):
                _list_file(listing, directory, os.path.join(parent, name))
    listing.files.sort(key=lambda file: (file.mtime_ns, file.key))
    return listing


def _list_file(listing: Listing, directory: str, path: str) -> None:
    key = os.path.relpath(path, directory).replace(os.sep, "/")
    try:
        key.encode()
        found = os.lstat(path)
    except UnicodeEncodeError:
        listing.not_text += 1
        return
    except OSError:
        listing.unreadable += 1
        return
    if not stat.S_ISREG(found.st_mode):
        return
    if found.st_size > VALUE_BYTES_MAX:
        listing.too_large += 1
        return
    listing.files.append(SourceFile(key, path, found.st_size, max(0, found.st_mtime_ns)))


class Follower:
    """Keeps a fold equal to a directory; remembers digests to check the fold against."""

    def __init__(self) -> None:
        self.digests: dict[str, bytes] = {}
        self.bytes = 0

    def follow(self, fold: Fold, listing: Listing, tick: Callable[[int], None]) -> set[str]:
        """Apply what changed since the fold's cursor; returns the keys put or deleted.

        Files go in the order of their times and each batch moves the cursor, so that a run cut
        short resumes where it was.
        """
        gone = fold.stale_keys(file.key for file in listing.files)
        if gone:
            fold.apply([Delete(key) for key in gone], fold.cursor())
        applied = set(gone)
        for key in gone:
            self.digests.pop(key, None)
        cursor = fold.cursor()
        for batch in _batches(_changed(fold, listing, cursor), _BATCH_FILES):
            updates = [update for file in batch if (update := self._read(listing, file))]
            # A time in the future would hide all changes until then, so the cursor stays behind.
            position = max(cursor.u64 or 0, min(batch[-1].mtime_ns, listing.listed_ns))
            cursor = Cursor.from_u64(position)
            fold.apply(updates, cursor)
            applied.update(update.key for update in updates)
            tick(len(batch))
        return applied

    def _read(self, listing: Listing, file: SourceFile) -> Put | None:
        try:
            with open(file.path, "rb") as source:
                content = source.read(VALUE_BYTES_MAX + 1)
        except OSError:
            listing.unreadable += 1
            return None
        if len(content) > VALUE_BYTES_MAX:  # it grew since it was listed
            listing.too_large += 1
            return None
        self.digests[file.key] = _digest(content)
        self.bytes += len(content)
        return Put(file.key, content, Version.from_u64(file.mtime_ns))

    def agrees_with(self, fold: Fold) -> bool:
        """Whether the fold holds exactly what was read."""
        held = {entry.key: _digest(entry.value) for entry in fold.scan()}
        return held == self.digests


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()


def _changed(fold: Fold, listing: Listing, cursor: Cursor) -> list[SourceFile]:
    """The files whose version is not the one the fold holds."""
    if cursor.is_none:
        return listing.files
    after = cursor.u64 or 0
    # Not only what is newer: files of the cursor's own time may have come or changed since.
    recent = [file for file in listing.files if file.mtime_ns >= after]
    changed, missing = _compare(fold, recent)
    if fold.status().entries + missing < len(listing.files):
        # A file that was moved here keeps its old time; the number of entries gives it away.
        older = [file for file in listing.files if file.mtime_ns < after]
        changed = _compare(fold, older)[0] + changed
    return changed


def _compare(fold: Fold, files: list[SourceFile]) -> tuple[list[SourceFile], int]:
    """The files that the fold holds in another version or not at all; how many not at all."""
    changed, missing = [], 0
    for batch in _batches(files, _COMPARE_FILES):
        held = fold.get_many([file.key for file in batch])
        for file, entry in zip(batch, held, strict=True):
            if entry is None or entry.version.u64 != file.mtime_ns:
                changed.append(file)
                missing += entry is None
    return changed, missing


def _batches(files: Iterable[SourceFile], files_max: int) -> Iterator[list[SourceFile]]:
    batch: list[SourceFile] = []
    size = 0
    for file in files:
        if batch and (len(batch) == files_max or size + file.size > _BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(file)
        size += file.size
    if batch:
        yield batch
