"""The fault layers do what they say, or the tests that stand on them prove nothing."""

import errno

import pytest

from holdfast.bench.faults import (
    Call,
    Choice,
    Crash,
    Everything,
    Fail,
    FaultyDisk,
    Kill,
    Lost,
    MemoryDisk,
    MemoryFile,
    Nothing,
    Sampled,
    Zeros,
)
from holdfast.workers.disk import File

SECTOR = 512


def _file(disk: MemoryDisk, path: str = "/d/f") -> MemoryFile:
    return disk.open(path, write=True, create=True)


def _settled(content: bytes) -> tuple[MemoryDisk, MemoryFile]:
    """A disk with one durable file, open."""
    disk = MemoryDisk("/d")
    disk.place("/d/f", content)
    return disk, _file(disk)


class TestPowerLoss:
    """What a power loss leaves."""

    def test_unsynced_data_may_go(self) -> None:
        """Without a sync the file is as it was synced last; with luck it is as written."""
        disk, file = _settled(b"old")
        file.append(b" new")
        assert disk.power_loss(Nothing()).content("/d/f") == b"old"
        assert disk.power_loss(Everything()).content("/d/f") == b"old new"
        assert disk.power_loss(Zeros()).content("/d/f") == b"old\0\0\0\0"
        assert disk.crash().content("/d/f") == b"old new"
        file.sync()
        assert disk.power_loss(Nothing()).content("/d/f") == b"old new"

    def test_a_synced_file_without_a_synced_name_is_gone(self) -> None:
        """A name is durable when its directory is synced, not when its file is."""
        disk = MemoryDisk("/d")
        file = _file(disk)
        file.append(b"x")
        file.sync()
        assert disk.power_loss(Nothing()).content("/d/f") is None
        disk.sync_directory("/d")
        assert disk.power_loss(Nothing()).content("/d/f") == b"x"

    @pytest.mark.parametrize("change", ["rename", "remove"])
    def test_names_change_when_the_directory_is_synced(self, change: str) -> None:
        """An unsynced rename or removal may be undone as a whole."""
        disk, _ = _settled(b"old")
        disk.place("/d/g", b"new")
        if change == "rename":
            disk.rename("/d/g", "/d/f")
        else:
            disk.remove("/d/f")
        before = disk.power_loss(Nothing())
        assert (before.content("/d/f"), before.content("/d/g")) == (b"old", b"new")
        disk.sync_directory("/d")
        after = disk.power_loss(Nothing())
        expected = (b"new", None) if change == "rename" else (None, b"new")
        assert (after.content("/d/f"), after.content("/d/g")) == expected

    def test_sectors_arrive_in_any_order(self) -> None:
        """Each sector is as some moment since the last sync left it, whatever others are."""
        disk, file = _settled(b"a" * 4 * SECTOR)
        file.write_at(0, b"b" * 4 * SECTOR)
        file.write_at(0, b"c" * 4 * SECTOR)
        seen = set()
        for seed in range(200):
            content = disk.power_loss(Sampled(seed)).content("/d/f")
            assert content is not None
            sectors = [set(content[n : n + SECTOR]) for n in range(0, len(content), SECTOR)]
            assert all(len(sector) == 1 for sector in sectors), "a sector is torn"
            seen.add(bytes(sector.pop() for sector in sectors))
        assert {b"aaaa", b"cccc"} < seen
        assert any(len(set(found)) == 3 for found in seen)
        assert all(set(found) <= set(b"abc") for found in seen)

    def test_the_same_seed_gives_the_same_loss(self) -> None:
        """A failure can be gone through again."""
        disk, file = _settled(b"")
        for number in range(9):
            file.append(bytes([number]) * 700)
        assert (
            disk.power_loss(Sampled(5)).content("/d/f")
            == disk.power_loss(Sampled(5)).content("/d/f")
        )  # fmt: skip

    def test_the_machine_starts_anew(self) -> None:
        """The boot id changes with a power loss, not with a crash; locks go with either."""
        disk, file = _settled(b"")
        assert file.lock()
        for left in (disk.crash(), disk.power_loss(Everything())):
            assert _file(left).lock()
        assert disk.crash().boot_id() == disk.boot_id()
        assert disk.power_loss(Everything()).boot_id() != disk.boot_id()

    def test_copies_are_independent(self) -> None:
        """What happens on a copy does not happen on the original."""
        disk, file = _settled(b"one")
        left = disk.crash()
        _file(left).append(b" two")
        file.append(b" three")
        assert (disk.content("/d/f"), left.content("/d/f")) == (b"one three", b"one two")
        assert left.power_loss(Nothing()).content("/d/f") == b"one"

    @pytest.mark.parametrize("evict", [False, True])
    @pytest.mark.parametrize("choice", [Nothing(), Everything()])
    def test_after_a_failed_sync_the_next_saves_nothing(self, choice: Choice, evict: bool) -> None:
        """The system counts the pages as written; only writing them again helps."""
        disk, file = _settled(b"old")
        file.append(b"!")
        file.fail_sync(choice, evict=evict)
        file.sync()
        lost = isinstance(choice, Nothing)
        assert disk.power_loss(Everything()).content("/d/f") == (b"old" if lost else b"old!")
        assert disk.content("/d/f") == (b"old" if lost and evict else b"old!")
        file.write_at(3, b"!")
        file.sync()
        assert disk.power_loss(Nothing()).content("/d/f") == b"old!"


class TestFaults:
    """Breaking at a chosen call."""

    def _write(self, disk: FaultyDisk) -> File:
        file = disk.open("/d/f", write=True, create=True)
        file.append(b"abcdef")
        file.sync()
        return file

    def test_records_every_call(self) -> None:
        """Number, name, path and size of each call are kept."""
        seen: list[Call] = []
        disk = FaultyDisk(MemoryDisk("/d"), on_call=seen.append)
        self._write(disk)
        assert seen == disk.calls
        assert [(call.name, call.path, call.size) for call in seen] == [
            ("open", "/d/f", 0),
            ("append", "/d/f", 6),
            ("sync", "/d/f", 0),
        ]

    @pytest.mark.parametrize(
        ("kill", "left"),
        [
            (Kill(0), None),
            (Kill(0, after=True), b""),
            (Kill(1), b""),
            (Kill(1, written=2), b"ab"),
            (Kill(1, after=True), b"abcdef"),
        ],
    )
    def test_kill(self, kill: Kill, left: bytes | None) -> None:
        """The process dies before, in the midst of, or after the call; then nothing happens."""
        memory = MemoryDisk("/d")
        disk = FaultyDisk(memory, kill)
        with pytest.raises(Crash):
            self._write(disk)
        assert memory.content("/d/f") == left
        with pytest.raises(Crash):
            disk.remove("/d/f")
        assert disk.struck == 1

    def test_fail_once_and_for_good(self) -> None:
        """An error comes once, or until the fault is taken away, and may leave a part behind."""
        memory = MemoryDisk("/d")
        disk = FaultyDisk(memory, Fail(1, errno.EIO, written=3))
        with pytest.raises(OSError, match="Input/output") as caught:
            self._write(disk)
        assert caught.value.errno == errno.EIO
        assert memory.content("/d/f") == b"abc"
        disk.open("/d/f").close()
        disk.arm(Fail(0, errno.ENOSPC, lasting=True, calls=frozenset({"append"})))
        for _ in range(2):
            with pytest.raises(OSError, match="No space"):
                self._write(disk)
        disk.arm()
        self._write(disk)
        assert memory.content("/d/f") == b"abcabcdef"

    def test_failing_sync_loses_data(self) -> None:
        """A failing sync does to the data what the fault says."""
        memory = MemoryDisk("/d")
        disk = FaultyDisk(memory, Fail(2, errno.EIO, lost=Lost(Nothing(), evict=True)))
        with pytest.raises(OSError, match="Input/output"):
            self._write(disk)
        assert memory.content("/d/f") == b""

    def test_abandoned_files_are_let_go_of(self) -> None:
        """As the system does for the dead, locks are freed."""
        memory = MemoryDisk("/d")
        disk = FaultyDisk(memory)
        file = self._write(disk)
        assert file.lock()
        disk.abandon()
        assert _file(memory).lock()
