"""The lock: one owner at a time, gone with its owner, whatever the file says."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.bench.faults import Fail, FaultyDisk, MemoryDisk
from holdfast.formats.errors import StoreLocked
from holdfast.workers.disk import Disk, OsDisk
from holdfast.workers.fold import open_fold
from holdfast.workers.lock import Lock, Owner, describe_self, locked_by, read_owner
from tests.workers.fold_model import fold_spec, opened, tick

ME = Owner(4711, "python app.py", "2026-01-01T00:00:00+00:00")
OTHER = Owner(4712, "python other.py", "2026-01-02T00:00:00+00:00")

DISKS: dict[str, Callable[[Path], tuple[Disk, str]]] = {
    "system": lambda path: (OsDisk(), str(path / "f.lock")),
    "memory": lambda path: (MemoryDisk("/home"), "/home/f.lock"),
}


@pytest.fixture(params=DISKS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Disk, str]:
    """A disk and the path of a lock on it."""
    return DISKS[request.param](tmp_path)


def test_one_owner_at_a_time(place: tuple[Disk, str]) -> None:
    """The second is told who the first is, and gets its turn when that one is done."""
    disk, path = place
    lock = Lock.acquire(disk, path, ME)
    assert lock.is_held()
    assert Lock.try_acquire(disk, path, OTHER) is None
    with pytest.raises(StoreLocked) as caught:
        Lock.acquire(disk, path, OTHER)
    error = caught.value
    assert (error.pid, error.command, error.since) == (ME.pid, ME.command, ME.since)
    assert error.path == path.removesuffix(".lock")
    lock.release()
    assert disk.inode_at(path) is None
    second = Lock.acquire(disk, path, OTHER)
    assert read_owner(disk, path) == OTHER
    second.release()


def test_waits_for_its_turn(place: tuple[Disk, str]) -> None:
    """An owner that leaves in time is waited for."""
    disk, path = place
    lock = Lock.acquire(disk, path, ME)
    leaving = threading.Timer(0.02, lock.release)
    leaving.start()
    Lock.acquire(disk, path, OTHER, wait_s=60).release()
    leaving.join()


def test_a_stale_file_does_no_harm(place: tuple[Disk, str]) -> None:
    """What a dead owner left, or anyone wrote there, does not lock anything."""
    disk, path = place
    for content in (b"", b"{", b"\xff" * 9000, b'{"pid": "x"}', b'{"pid":1,"command":"c"}'):
        file = disk.open(path, write=True, create=True)
        file.truncate(0)
        file.append(content)
        file.close()
        assert read_owner(disk, path) is None
        error = locked_by(disk, path)
        assert (error.pid, error.command) == (None, None)
        assert "another process" in str(error)
        lock = Lock.acquire(disk, path, ME)
        assert read_owner(disk, path) == ME
        lock.release()


def test_notices_that_its_file_is_gone(place: tuple[Disk, str]) -> None:
    """Once somebody removed or replaced the file a second owner may exist."""
    disk, path = place
    lock = Lock.acquire(disk, path, ME)
    disk.remove(path)
    assert not lock.is_held()
    second = Lock.acquire(disk, path, OTHER)
    assert not lock.is_held()
    lock.release()
    assert second.is_held()
    second.release()


def test_describes_itself() -> None:
    """The note says who this is."""
    owner = describe_self(os.getpid())
    assert owner.pid == os.getpid()
    assert owner.command
    assert "T" in owner.since


def test_goes_with_its_process() -> None:
    """A crash frees the lock and leaves the file."""
    disk = MemoryDisk("/home")
    Lock.acquire(disk, "/home/f.lock", ME)
    left = disk.crash()
    assert read_owner(left, "/home/f.lock") == ME
    Lock.acquire(left, "/home/f.lock", OTHER).release()


def _failing(call: str) -> tuple[MemoryDisk, FaultyDisk]:
    memory = MemoryDisk("/home")
    fault = Fail(0, errno.ENOSPC, lasting=True, calls=frozenset({call}))
    return memory, FaultyDisk(memory, fault)


@pytest.mark.parametrize("call", ["open", "lock", "inode_at", "inode"])
def test_trouble_leaves_nothing_locked(call: str) -> None:
    """An error while locking does not keep the next from trying."""
    memory, disk = _failing(call)
    with pytest.raises(OSError, match="No space"):
        Lock.try_acquire(disk, "/home/f.lock", ME)
    Lock.acquire(memory, "/home/f.lock", OTHER).release()


@pytest.mark.parametrize("call", ["truncate", "append"])
def test_locks_without_a_note(call: str) -> None:
    """A disk too full for the note is no reason not to hold the lock."""
    memory, disk = _failing(call)
    lock = Lock.acquire(disk, "/home/f.lock", ME)
    assert lock.is_held()
    assert Lock.try_acquire(memory, "/home/f.lock", OTHER) is None
    lock.release()
    Lock.acquire(memory, "/home/f.lock", OTHER).release()


def test_release_closes_in_any_case() -> None:
    """A directory that refuses the removal does not keep the lock alive."""
    memory = MemoryDisk("/home")
    disk = FaultyDisk(memory)
    lock = Lock.acquire(disk, "/home/f.lock", ME)
    disk.arm(Fail(0, errno.EACCES, lasting=True, calls=frozenset({"inode_at", "remove"})))
    lock.release()
    Lock.acquire(memory, "/home/f.lock", OTHER).release()


def test_a_second_worker_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening a fold that is open says who has it, and leaves both as they were."""
    monkeypatch.setattr("holdfast.workers.lock.OWNER_WAIT_S", 0.0)
    disk = MemoryDisk("/data")
    actor = opened(disk)
    names = disk.list("/data")
    with pytest.raises(StoreLocked) as caught:
        open_fold(disk, fold_spec(), tick)
    assert caught.value.pid == os.getpid()
    assert disk.list("/data") == names
    actor.check_invariants()
    actor.close()
    opened(disk).close()
