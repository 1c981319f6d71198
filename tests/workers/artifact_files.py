"""Artifacts made, exported and imported beside a store, for tests."""

import json
import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, TypeVar

from blake3 import blake3

from holdfast.formats import fold_log
from holdfast.formats.artifact import (
    MANIFEST_NAME,
    PAYLOAD_PATH,
    Manifest,
    encode_manifest,
)
from holdfast.formats.fold_log import HEADER, Ending
from holdfast.formats.values import Cursor, KvEntry
from holdfast.workers.artifacts import (
    export_steps,
    import_artifact,
)
from holdfast.workers.disk import OsDisk, OsFile
from holdfast.workers.fold_messages import ArtifactFile
from holdfast.workers.messages import Progress

DATA = Path(__file__).resolve().parent.parent / "data" / "fold"
GOLDEN = DATA / "artifacts"
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "expected.json").read_text())["artifacts"]
GOOD_LOG = (GOLDEN / "good" / PAYLOAD_PATH).read_bytes()
GOOD_CREATED = 1_765_400_000

Result = TypeVar("Result")
CURSOR = Cursor.from_u64(7)
STATE = {b"a": b"1", b"b": b"22"}


def log_of(state: dict[bytes, bytes], cursor: Cursor = CURSOR) -> bytes:
    """The compacted log of a state."""
    records = [fold_log.encode_put(key, value, b"v") for key, value in sorted(state.items())]
    if not cursor.is_none:
        records.append(fold_log.encode_cursor(cursor.token))
    return HEADER + b"".join(records)


LOG = log_of(STATE)
PUT_A, PUT_B = (fold_log.encode_put(key, STATE[key], b"v") for key in (b"a", b"b"))
END = fold_log.encode_cursor(CURSOR.token)


def entries_of(path: Path) -> tuple[list[KvEntry], Cursor]:
    """What a clean log holds, in key order."""
    log = path.read_bytes()
    spans: dict[bytes, int] = {}
    scan = fold_log.scan(log, fold_log.HEADER_BYTES, spans)
    assert scan.verdict.ending is Ending.CLEAN
    live = [spans[key] for key in sorted(spans) if spans[key]]
    return fold_log.decode_puts(memoryview(log), live), scan.cursor or Cursor.none()


def tree(directory: Path) -> dict[str, bytes | str | None]:
    """All that is in a directory: files' bytes, links' targets, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = path.read_bytes() if path.is_file() else None
    return found


def descriptor_of(file: OsFile) -> int:
    """The file's descriptor, for another object to own."""
    descriptor = os.dup(file.fileno())
    file.close()
    return descriptor


class QuickFile(OsFile):
    """A file whose syncs do nothing."""

    def sync(self) -> None:
        pass


class QuickDisk(OsDisk):
    """A disk whose syncs do nothing, for tests of many cases."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        return QuickFile(path, descriptor_of(super().open(path, write=write, create=create)))

    def sync_directory(self, path: str) -> None:
        pass


DISK = QuickDisk()


def export(
    destination: Path,
    log: bytes = LOG,
    *,
    cursor: Cursor = CURSOR,
    entries: int = len(STATE),
    disk: OsDisk = DISK,
    piece: int = 1 << 20,
) -> list[ArtifactFile]:
    """Run an export to its end."""
    chunks = [log[at : at + piece] for at in range(0, len(log), piece)]
    return finish(export_of(destination, chunks, cursor, entries, disk))


def export_of(
    destination: Path,
    chunks: Iterable[bytes],
    cursor: Cursor = CURSOR,
    entries: int = len(STATE),
    disk: OsDisk = DISK,
) -> Generator[Progress, None, list[ArtifactFile]]:
    """An export that has not begun."""
    return export_steps(
        disk, str(destination), chunks, cursor, entries, len(LOG), created_at_unix=GOOD_CREATED
    )


def finish(steps: Generator[object, None, Result]) -> Result:
    """Run steps to their end; returns their result."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            result: Result = stop.value
            return result


def bring_in(directory: Path, destination: Path, disk: OsDisk = DISK) -> None:
    """Import an artifact."""
    import_artifact(disk, str(directory), str(destination), lambda: None)


def golden_copy(name: str, into: Path) -> Path:
    """A golden artifact as it was made: git does not keep the empty directory of one of them."""
    shutil.copytree(GOLDEN / name, into / name)
    if name == "missing-payload":
        (into / name / "data").mkdir()
    return into / name


def artifact_with(directory: Path, log: bytes, cursor: Cursor = CURSOR) -> Path:
    """An artifact around any payload, its size and digest right."""
    (directory / "data").mkdir(parents=True)
    (directory / PAYLOAD_PATH).write_bytes(log)
    manifest = Manifest(cursor, GOOD_CREATED, len(log), blake3(log).hexdigest())
    (directory / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return directory
