"""Artifacts after failures and crashes: what is left, and who may go on from there."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.formats.artifact import (
    MANIFEST_NAME,
    PAYLOAD_PATH,
)
from holdfast.formats.errors import (
    ArtifactInvalid,
    StoreIOError,
)
from holdfast.formats.fold_log import HEADER
from holdfast.formats.values import Cursor
from holdfast.workers.artifacts import (
    already_exported_steps,
    already_imported,
    import_artifact,
    inspect_artifact,
)
from holdfast.workers.disk import Buffer, OsDisk, OsFile
from holdfast.workers.fold_messages import ArtifactFile
from holdfast.workers.stages import STAGE_SUFFIX
from tests.workers.artifact_files import (
    CURSOR,
    DISK,
    END,
    GOLDEN,
    GOOD_LOG,
    LOG,
    PUT_A,
    PUT_B,
    STATE,
    artifact_with,
    bring_in,
    descriptor_of,
    export,
    export_of,
    finish,
    golden_copy,
    log_of,
    tree,
)

# --- leftovers and rivals ----------------------------------------------------------------------


def left_file(stage: Path) -> None:
    stage.write_bytes(b"old")


def left_directory(stage: Path) -> None:
    (stage / "data" / "deep").mkdir(parents=True)
    (stage / PAYLOAD_PATH).write_bytes(b"old" * 1000)
    (stage / (MANIFEST_NAME + ".tmp")).write_bytes(b"old")


def left_bare_directory(stage: Path) -> None:
    stage.mkdir()


@pytest.mark.parametrize("leave", [left_file, left_directory, left_bare_directory])
def test_what_a_crash_left_is_cleared(leave: Callable[[Path], None], tmp_path: Path) -> None:
    """A stage of an earlier attempt, whatever is in it, is replaced by the next attempt's."""
    for name in ("out", "in.snap"):
        leave(tmp_path / f".{name}{STAGE_SUFFIX}")
    export(tmp_path / "out")
    bring_in(tmp_path / "out", tmp_path / "in.snap")
    assert sorted(os.listdir(tmp_path)) == ["in.snap", "out"]
    assert tree(tmp_path / "out").keys() == {"data", PAYLOAD_PATH, MANIFEST_NAME}
    assert (tmp_path / "in.snap").read_bytes() == LOG


def test_a_link_in_the_stage_s_place_is_not_followed(tmp_path: Path) -> None:
    """Clearing a stage removes a link, and nothing that it points to."""
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / PAYLOAD_PATH).write_bytes(b"mine")
    before = tree(tmp_path / "mine")
    for name in ("out", "in.snap"):
        (tmp_path / f".{name}{STAGE_SUFFIX}").symlink_to(tmp_path / "mine")
    export(tmp_path / "out")
    bring_in(tmp_path / "out", tmp_path / "in.snap")
    assert tree(tmp_path / "mine") == before


def test_a_second_export_to_the_same_place_is_refused(tmp_path: Path) -> None:
    """While an export is under way another to the same place fails, and disturbs it in no way."""
    first = export_of(tmp_path / "out", [HEADER, PUT_A, PUT_B + END])
    next(first)
    with pytest.raises(ArtifactInvalid, match="in use by another"):
        export(tmp_path / "out")
    finish(first)
    assert inspect_artifact(DISK, str(tmp_path / "out")).importable


def test_a_second_import_to_the_same_place_is_refused(tmp_path: Path) -> None:
    """While an import is under way another to the same place fails, and disturbs it in no way."""
    destination = tmp_path / "in.snap"
    refused: list[str] = []

    def rival() -> None:
        if not refused:
            with pytest.raises(ArtifactInvalid, match="in use by another") as caught:
                bring_in(GOLDEN / "good", destination)
            refused.append(caught.value.message)

    import_artifact(DISK, str(GOLDEN / "good"), str(destination), rival)
    assert refused
    assert destination.read_bytes() == GOOD_LOG


def test_a_stage_that_is_no_longer_ours_is_not_used(tmp_path: Path) -> None:
    """When somebody replaced the stage by another, it is neither put in place nor removed."""
    stage = tmp_path / f".out{STAGE_SUFFIX}"
    steps = export_of(tmp_path / "out", [HEADER, PUT_A, PUT_B + END])
    next(steps)
    shutil.move(stage, tmp_path / "moved")
    left_directory(stage)
    with pytest.raises(ArtifactInvalid, match="in use by another"):
        finish(steps)
    assert (stage / PAYLOAD_PATH).read_bytes() == b"old" * 1000
    assert not (tmp_path / "out").exists()


# --- sent again after a crash ------------------------------------------------------------------


def exported_before(
    destination: Path, log: bytes = LOG, cursor: Cursor = CURSOR
) -> list[ArtifactFile] | None:
    """Ask whether ``log`` was exported to ``destination``."""
    return finish(already_exported_steps(DISK, str(destination), [log], cursor, len(log)))


def test_an_export_that_was_done_is_recognised(tmp_path: Path) -> None:
    """An export sent again finds its own artifact, at whatever time that was made."""
    files = export(tmp_path / "out")
    before = tree(tmp_path)
    assert exported_before(tmp_path / "out") == files
    assert tree(tmp_path) == before


def test_another_export_is_not_taken_for_one_s_own(tmp_path: Path) -> None:
    """Absent, empty, other in state, or damaged since: none of these is the same export."""
    assert exported_before(tmp_path / "out") is None
    (tmp_path / "out").mkdir()
    assert exported_before(tmp_path / "out") is None
    export(tmp_path / "out")
    other = log_of({b"a": b"1", b"b": b"2 "})
    assert len(other) == len(LOG)
    assert exported_before(tmp_path / "out", other) is None
    assert exported_before(tmp_path / "out", log_of(STATE, Cursor.none()), Cursor.none()) is None
    payload = tmp_path / "out" / PAYLOAD_PATH
    payload.write_bytes(LOG[:-1] + b"\xff")
    assert exported_before(tmp_path / "out") is None
    payload.unlink()
    assert exported_before(tmp_path / "out") is None


def test_an_import_that_was_done_is_recognised(tmp_path: Path) -> None:
    """Only the very bytes that an import makes count as imported."""
    source, destination = golden_copy("good", tmp_path), tmp_path / "in.snap"

    def done() -> bool:
        return already_imported(DISK, str(source), str(destination))

    assert not done()
    destination.mkdir()
    assert not done()
    bring_in(source, destination)
    assert done()
    for other in (b"", HEADER, GOOD_LOG[:-1], GOOD_LOG[:-14], GOOD_LOG + b"\0", LOG):
        destination.write_bytes(other)
        assert not done()
    destination.write_bytes(GOOD_LOG)
    (source / MANIFEST_NAME).unlink()
    assert not done()


# --- failures and crashes at every step --------------------------------------------------------


class Crash(BaseException):
    """The process is gone: nothing after it is done."""


class FaultyDisk(OsDisk):
    """Fails at operation ``at``: once with ``error``, or from then on as if the process died."""

    def __init__(self, at: int, *, crash: bool) -> None:
        self.left = at
        self._crash = crash
        self.failed_at = ""

    def step(self, name: str) -> None:
        """Count an operation, and fail if it is its turn."""
        self.left -= 1
        if self.left == 0 or (self.left < 0 and self._crash):
            self.failed_at = self.failed_at or name
            raise Crash if self._crash else OSError(errno.EIO, "planned")

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        self.step("open")
        return FaultyFile(super().open(path, write=write, create=create), self)

    def list(self, path: str) -> list[tuple[str, str]]:
        self.step("list")
        return super().list(path)

    def make_directory(self, path: str) -> None:
        self.step("make_directory")
        super().make_directory(path)

    def remove_directory(self, path: str) -> None:
        self.step("remove_directory")
        super().remove_directory(path)

    def remove(self, path: str) -> None:
        if not os.path.lexists(path):
            raise FileNotFoundError(path)
        self.step("remove")
        super().remove(path)

    def rename(self, source: str, destination: str) -> None:
        self.step("rename")
        super().rename(source, destination)

    def sync_directory(self, path: str) -> None:
        self.step("sync_directory")


class FaultyFile(OsFile):
    """A file of a ``FaultyDisk``; a write that fails leaves half of itself."""

    def __init__(self, file: OsFile, disk: FaultyDisk) -> None:
        super().__init__(file.path, descriptor_of(file))
        self._disk = disk

    def read_at(self, offset: int, length: int) -> bytes:
        self._disk.step("read_at")
        return super().read_at(offset, length)

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        try:
            self._disk.step("write_at")
        except BaseException:
            data = b"".join(pieces)
            super().write_at(offset, data[: len(data) // 2])
            raise
        super().write_at(offset, *pieces)

    def sync(self) -> None:
        self._disk.step("sync")


def at_every_step(work: Callable[[FaultyDisk], object], *, crash: bool) -> Iterator[FaultyDisk]:
    """Run ``work`` failing at its first operation, then its second, until none is left to fail."""
    for at in range(1, 200):
        disk = FaultyDisk(at, crash=crash)
        try:
            work(disk)
        except (StoreIOError, Crash):
            yield disk
        else:
            assert disk.left >= 0
            assert at > 10, "the work has more operations than that"
            return


def test_an_export_fails_without_a_trace(tmp_path: Path) -> None:
    """Whichever operation of an export fails, nothing is left and the next export succeeds."""
    destination = tmp_path / "out"
    steps = []
    for disk in at_every_step(lambda disk: export(destination, disk=disk), crash=False):
        steps.append(disk.failed_at)
        assert tree(tmp_path) == {}, disk.failed_at
        export(destination)
        shutil.rmtree(destination)
    assert {"open", "make_directory", "write_at", "sync", "rename", "sync_directory"} <= {*steps}


def test_an_import_fails_without_a_trace(tmp_path: Path) -> None:
    """Whichever operation of an import fails, nothing is left and the next import succeeds."""
    destination = tmp_path / "in.snap"
    steps = []
    work = at_every_step(lambda disk: bring_in(GOLDEN / "good", destination, disk), crash=False)
    for disk in work:
        steps.append(disk.failed_at)
        assert tree(tmp_path) == {}, disk.failed_at
        bring_in(GOLDEN / "good", destination)
        destination.unlink()
    assert {"open", "read_at", "write_at", "sync", "rename", "sync_directory"} <= {*steps}


def test_an_export_survives_a_crash_anywhere(tmp_path: Path) -> None:
    """After a crash the destination is absent or complete, and sending it again makes it right."""
    destination = tmp_path / "out"
    outcomes = set()
    for _ in at_every_step(lambda disk: export(destination, disk=disk), crash=True):
        done = exported_before(destination) is not None
        assert destination.exists() == done
        outcomes.add(done)
        if not done:
            export(destination)
        assert list(tmp_path.iterdir()) == [destination]
        assert inspect_artifact(DISK, str(destination)).importable
        shutil.rmtree(destination)
    assert outcomes == {False, True}


def test_an_import_survives_a_crash_anywhere(tmp_path: Path) -> None:
    """After a crash the destination is absent or complete, and trying again makes it right."""
    source, destination = GOLDEN / "good", tmp_path / "in.snap"
    outcomes = set()
    for _ in at_every_step(lambda disk: bring_in(source, destination, disk), crash=True):
        done = already_imported(DISK, str(source), str(destination))
        assert destination.exists() == done
        outcomes.add(done)
        if not done:
            bring_in(source, destination)
        assert list(tmp_path.iterdir()) == [destination]
        assert destination.read_bytes() == GOOD_LOG
        destination.unlink()
    assert outcomes == {False, True}


class DurabilityDisk(OsDisk):
    """Knows what is not on stable storage yet: written files, and directories with new names."""

    def __init__(self) -> None:
        self.unsynced: set[str] = set()
        self.renames: list[tuple[str, set[str]]] = []

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        if create and self.inode_at(path) is None:
            self.unsynced |= {path, os.path.dirname(path)}
        return DurabilityFile(super().open(path, write=write, create=create), self)

    def make_directory(self, path: str) -> None:
        super().make_directory(path)
        self.unsynced |= {path, os.path.dirname(path)}

    def rename(self, source: str, destination: str) -> None:
        within = {path for path in self.unsynced if path == source or path.startswith(f"{source}/")}
        self.renames.append((os.path.basename(destination), within))
        super().rename(source, destination)
        self.unsynced |= {os.path.dirname(source), os.path.dirname(destination)}

    def sync_directory(self, path: str) -> None:
        self.unsynced.discard(path)


class DurabilityFile(OsFile):
    """A file of a ``DurabilityDisk``."""

    def __init__(self, file: OsFile, disk: DurabilityDisk) -> None:
        super().__init__(file.path, descriptor_of(file))
        self._disk = disk

    def write_at(self, offset: int, *pieces: Buffer) -> None:
        self._disk.unsynced.add(self.path)
        super().write_at(offset, *pieces)

    def truncate(self, size: int) -> None:
        self._disk.unsynced.add(self.path)
        super().truncate(size)

    def sync(self) -> None:
        self._disk.unsynced.discard(self.path)


@pytest.mark.parametrize("log", [LOG, LOG + b"\0\0"], ids=["clean", "torn"])
def test_nothing_is_renamed_before_it_is_synced(log: bytes, tmp_path: Path) -> None:
    """Every file and directory is on stable storage before its rename, and the rename after it."""
    disk = DurabilityDisk()
    export(tmp_path / "out", disk=disk)
    bring_in(artifact_with(tmp_path / "a", log), tmp_path / "in.snap", disk)
    assert disk.renames == [(MANIFEST_NAME, set()), ("out", set()), ("in.snap", set())]
    assert disk.unsynced == set()
