"""The file layer: one contract for the system's disk and for the one in memory."""

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench.faults import FaultyDisk, MemoryDisk
from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Buffer,
    Disk,
    OsDisk,
    directory_of,
    put_in_place,
    remove_if_there,
    remove_tree,
    replace,
    write_beside,
)

Place = tuple[Disk, str]

DISKS: dict[str, Callable[[Path], Place]] = {
    "system": lambda path: (OsDisk(), str(path)),
    "memory": lambda path: (MemoryDisk("/home"), "/home"),
    "recorded system": lambda path: (FaultyDisk(OsDisk()), str(path)),
    "recorded memory": lambda path: (FaultyDisk(MemoryDisk("/home")), "/home"),
}


@pytest.fixture(params=DISKS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A disk and an empty directory on it."""
    return DISKS[request.param](tmp_path)


def _put(disk: Disk, path: str, data: bytes) -> None:
    file = disk.open(path, write=True, create=True)
    file.truncate(0)
    file.append(data)
    file.close()


def _get(disk: Disk, path: str) -> bytes:
    file = disk.open(path)
    try:
        return file.read_at(0, file.size())
    finally:
        file.close()


class TestFile:
    """What every disk's files do."""

    def test_it_writes_pieces_one_behind_the_other(self, tmp_path: Path) -> None:
        """However many pieces there are, more than one call takes too, all of them are written."""
        pieces: list[Buffer] = [
            b"",
            *(b"%d," % number for number in range(3000)),
            b"",
            memoryview(b"end"),
        ]
        file = OsDisk().open(str(tmp_path / "f"), write=True, create=True)
        file.write_at(3, *pieces)
        file.write_at(0, b"abc")
        file.write_at(7)
        file.write_at(7, b"")
        assert file.read_at(0, file.size()) == b"abc" + b"".join(pieces)
        file.close()

    def test_reads_and_writes_at_offsets(self, place: Place) -> None:
        """Writes land where they are told, reads stop at the end."""
        disk, home = place
        file = disk.open(f"{home}/f", write=True, create=True)
        file.append(b"hello")
        file.append(b" world")
        file.write_at(0, memoryview(b"J"))
        assert file.size() == 11
        assert file.read_at(0, 100) == b"Jello world"
        assert file.read_at(6, 3) == b"wor"
        assert file.read_at(11, 3) == file.read_at(50, 3) == b""
        file.sync()
        file.close()
        assert _get(disk, f"{home}/f") == b"Jello world"

    def test_writing_behind_changes_nothing(self, place: Place) -> None:
        """It is for the disk only, also at the beginning, over nothing, and behind the end."""
        disk, home = place
        file = disk.open(f"{home}/f", write=True, create=True)
        file.append(b"abcdef" * 5000)
        for offset, length in ((0, 0), (0, 9), (5, 4096), (4096, 0), (100_000, 3)):
            file.begin_sync(offset, length)
            file.write_behind(offset, length)
        assert file.read_at(0, file.size()) == b"abcdef" * 5000
        file.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            file.write_behind(0, 1)

    def test_gaps_are_zeros(self, place: Place) -> None:
        """Writing behind the end, or extending, fills with zeros, also where data had been."""
        disk, home = place
        file = disk.open(f"{home}/f", write=True, create=True)
        file.append(b"abcdef")
        file.truncate(2)
        file.write_at(4, b"z")
        file.truncate(7)
        assert file.read_at(0, 10) == b"ab\0\0z\0\0"
        file.close()

    def test_maps_see_later_writes_and_outlive_the_name(self, place: Place) -> None:
        """A map is as long as the file was, and shows what is written within it later."""
        disk, home = place
        file = disk.open(f"{home}/f", write=True, create=True)
        assert bytes(file.map()) == b""
        file.append(b"abc")
        view = file.map()
        file.append(b"d")
        file.write_at(0, b"A")
        assert bytes(view) == b"Abc"
        assert view.readonly
        disk.remove(f"{home}/f")
        file.close()
        assert bytes(view) == b"Abc"

    def test_lock_excludes_other_openings(self, place: Place) -> None:
        """The lock belongs to one opening and goes with it."""
        disk, home = place
        one = disk.open(f"{home}/f", write=True, create=True)
        other = disk.open(f"{home}/f", write=True)
        assert one.lock()
        assert one.lock()
        assert not other.lock()
        one.close()
        assert other.lock()
        other.close()

    def test_only_for_reading(self, place: Place) -> None:
        """A file opened for reading cannot be written."""
        disk, home = place
        _put(disk, f"{home}/f", b"abc")
        file = disk.open(f"{home}/f")
        with pytest.raises(OSError, match="descriptor"):
            file.append(b"d")
        file.close()
        file.close()


class TestNames:
    """What every disk's directories do."""

    def test_absent(self, place: Place) -> None:
        """What is not there is told apart from what cannot be reached."""
        disk, home = place
        with pytest.raises(FileNotFoundError):
            disk.open(f"{home}/f")
        with pytest.raises(FileNotFoundError):
            disk.open(f"{home}/no/f", write=True, create=True)
        with pytest.raises(FileNotFoundError):
            disk.remove(f"{home}/f")
        with pytest.raises(FileNotFoundError):
            disk.rename(f"{home}/f", f"{home}/g")
        with pytest.raises(FileNotFoundError):
            disk.list(f"{home}/no")
        assert disk.inode_at(f"{home}/f") is None
        assert not disk.is_directory(f"{home}/f")
        _put(disk, f"{home}/f", b"")
        assert disk.inode_at(f"{home}/f/g") is None

    def test_listing_is_sorted_and_typed(self, place: Place) -> None:
        """Names come sorted, each with what it is."""
        disk, home = place
        _put(disk, f"{home}/b", b"")
        disk.make_directory(f"{home}/c")
        _put(disk, f"{home}/a", b"")
        assert disk.list(home) == [("a", "file"), ("b", "file"), ("c", "directory")]
        assert disk.is_directory(f"{home}/c")
        assert not disk.is_directory(f"{home}/a")

    def test_rename_replaces(self, place: Place) -> None:
        """The file under the new name is the renamed one, whoever has the old one open keeps it."""
        disk, home = place
        _put(disk, f"{home}/old", b"old")
        _put(disk, f"{home}/new", b"new")
        kept = disk.open(f"{home}/old")
        inode = disk.inode_at(f"{home}/new")
        disk.rename(f"{home}/new", f"{home}/old")
        assert disk.inode_at(f"{home}/new") is None
        assert disk.inode_at(f"{home}/old") == inode
        assert _get(disk, f"{home}/old") == b"new"
        assert kept.read_at(0, 9) == b"old"
        assert kept.inode() != inode
        kept.close()

    def test_a_second_name(self, place: Place) -> None:
        """Both names are the same file, until one of them gets another; a taken name is refused."""
        disk, home = place
        _put(disk, f"{home}/f", b"x")
        disk.link(f"{home}/f", f"{home}/g")
        assert disk.inode_at(f"{home}/g") == disk.inode_at(f"{home}/f")
        disk.open(f"{home}/f", write=True).append(b"y")
        assert _get(disk, f"{home}/g") == b"xy"
        with pytest.raises(FileExistsError):
            disk.link(f"{home}/f", f"{home}/g")
        with pytest.raises(FileNotFoundError):
            disk.link(f"{home}/absent", f"{home}/h")
        disk.make_directory(f"{home}/d")
        with pytest.raises(PermissionError):
            disk.link(f"{home}/d", f"{home}/h")
        disk.remove(f"{home}/f")
        assert _get(disk, f"{home}/g") == b"xy"

    def test_directories(self, place: Place) -> None:
        """A directory moves with what is in it and is removed when empty only."""
        disk, home = place
        disk.make_directory(f"{home}/d")
        with pytest.raises(FileExistsError):
            disk.make_directory(f"{home}/d")
        _put(disk, f"{home}/d/f", b"x")
        with pytest.raises(OSError, match="not empty"):
            disk.remove_directory(f"{home}/d")
        disk.make_directory(f"{home}/empty")
        disk.rename(f"{home}/d", f"{home}/empty")
        assert _get(disk, f"{home}/empty/f") == b"x"
        _put(disk, f"{home}/f", b"")
        with pytest.raises(NotADirectoryError):
            disk.rename(f"{home}/empty", f"{home}/f")
        with pytest.raises(IsADirectoryError):
            disk.open(f"{home}/empty", write=True)
        disk.sync_directory(f"{home}/empty")
        remove_tree(disk, f"{home}/empty")
        assert disk.list(home) == [("f", "file")]

    def test_boot_id(self, place: Place) -> None:
        """16 bytes, the same as long as the machine is up."""
        disk, _ = place
        assert len(disk.boot_id()) == 16
        assert disk.boot_id() == disk.boot_id()


class TestReplacing:
    """The helpers above the contract."""

    def test_replace(self, place: Place) -> None:
        """The new content is there, the temporary file is not."""
        disk, home = place
        replace(disk, f"{home}/f", [b"one"])
        replace(disk, f"{home}/f", [b"t", b"wo"])
        assert _get(disk, f"{home}/f") == b"two"
        assert disk.list(home) == [("f", "file")]

    def test_leftover_is_no_part_of_the_next(self, place: Place) -> None:
        """A temporary file that a crash left is removed, not continued."""
        disk, home = place
        _put(disk, f"{home}/f{TEMPORARY_SUFFIX}", b"left over, and longer")
        write_beside(disk, f"{home}/f", [b"new"]).close()
        put_in_place(disk, f"{home}/f")
        assert _get(disk, f"{home}/f") == b"new"
        remove_if_there(disk, f"{home}/f")
        remove_if_there(disk, f"{home}/f")

    def test_mode_is_kept(self, tmp_path: Path) -> None:
        """A replaced file keeps its permissions."""
        path = tmp_path / "f"
        path.write_bytes(b"old")
        path.chmod(0o640)
        replace(OsDisk(), str(path), [b"new"])
        assert path.stat().st_mode & 0o777 == 0o640

    def test_links_are_listed_as_other(self, tmp_path: Path) -> None:
        """A symbolic link is neither file nor directory, and removing a tree does not follow it."""
        (tmp_path / "real").mkdir()
        (tmp_path / "real" / "f").write_bytes(b"x")
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "link").symlink_to(tmp_path / "real")
        assert OsDisk().list(str(tmp_path / "tree")) == [("link", "other")]
        remove_tree(OsDisk(), str(tmp_path / "tree"))
        assert (tmp_path / "real" / "f").read_bytes() == b"x"

    def test_directory_of(self) -> None:
        """A bare name lies in the current directory."""
        assert directory_of("f") == "."
        assert directory_of(f"a{os.sep}f") == "a"


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Opening one would wait until somebody opens its other end, which may be never."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    for write in (False, True):
        with pytest.raises(OSError, match="pipe") as refused:
            OsDisk().open(str(path), write=write)
        assert refused.value.errno == errno.EINVAL


class TestFullSync:
    """Syncs on macOS, where fsync leaves what was written in the drive's cache."""

    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What is called; a name after ``refuse`` is an error of the full sync."""
        calls: list[str] = []

        def full(descriptor: int, command: int) -> int:
            assert command == 51
            calls.append("full")
            for call in calls:
                if call.isdigit():
                    raise OSError(int(call), os.strerror(int(call)))
            return 0

        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", full)
        monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
        return calls

    def _sync(self, tmp_path: Path) -> None:
        file = OsDisk().open(str(tmp_path / "f"), write=True, create=True)
        try:
            file.sync()
        finally:
            file.close()

    def test_files_and_names_reach_the_drive(self, tmp_path: Path, calls: list[str]) -> None:
        """Both are synced in full: a rename is as durable as what it puts in place."""
        self._sync(tmp_path)
        OsDisk().sync_directory(str(tmp_path))
        assert calls == ["full", "full"]

    @pytest.mark.parametrize("code", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
    def test_a_file_system_without_it(self, tmp_path: Path, calls: list[str], code: int) -> None:
        """What cannot be synced in full is synced as far as it goes."""
        calls.append(str(code))
        self._sync(tmp_path)
        OsDisk().sync_directory(str(tmp_path))
        assert calls == [str(code), "full", "fsync", "full", "fsync"]

    def test_a_full_sync_that_fails(self, tmp_path: Path, calls: list[str]) -> None:
        """It is not tried again by other means: the data may be gone, and the next one succeed."""
        calls.append(str(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            self._sync(tmp_path)
        with pytest.raises(OSError, match="Input/output"):
            OsDisk().sync_directory(str(tmp_path))
        assert calls == [str(errno.EIO), "full", "full"]
