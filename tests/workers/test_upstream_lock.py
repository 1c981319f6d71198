"""The original's lock file: honoured while its owner may be alive, taken over when it is dead."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from holdfast.bench.faults import Call, Fail, FaultyDisk, MemoryDisk
from holdfast.formats.errors import StoreFull, StoreLocked
from holdfast.formats.rvf.lock_file import LOCK_BYTES, LockNote, decode_lock, encode_lock
from holdfast.workers import upstream_lock
from holdfast.workers.upstream_lock import REFRESH_S, UpstreamLock, host_name
from tests.workers.vector_model import (
    PATH,
    History,
    Ingest,
    opened,
    opened_read_only,
    row,
    state_of,
    without_waiting,
)

LOCK = f"{PATH}.lock"
THEIRS = b"0123456789abcdef"
FOREIGN = "some-other-host"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


@pytest.fixture(scope="module")
def dead() -> int:
    """The id of a process that is over; it may be used again, but hardly within this test."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def _locked(content: bytes) -> MemoryDisk:
    disk = MemoryDisk("/data")
    disk.place(LOCK, content)
    return disk


def _note(pid: int, host: str | None = None, writer_id: bytes = THEIRS, time_ns: int = 0) -> bytes:
    return encode_lock(LockNote(pid, host_name() if host is None else host, time_ns, writer_id))


def _held(disk: MemoryDisk) -> LockNote:
    content = disk.content(LOCK)
    assert content is not None
    assert len(content) == LOCK_BYTES
    note = decode_lock(content)
    assert note is not None
    return note


def test_taken_and_released() -> None:
    """While it is ours, the file says so as the original would; then it is gone."""
    disk = MemoryDisk("/data")
    lock = UpstreamLock.acquire(disk, PATH)
    note = _held(disk)
    assert (note.pid, note.host) == (os.getpid(), host_name())
    assert note.writer_id.startswith(b"holdfast")
    assert note.time_ns > 1 << 60
    lock.release()
    assert disk.list("/data") == []
    lock.release()  # again is no error


@pytest.mark.parametrize("time_ns", [0, 1 << 60], ids=["old", "new"])
def test_a_living_owner_is_honoured(time_ns: int) -> None:
    """However old its file is."""
    content = _note(os.getpid(), time_ns=time_ns)
    disk = _locked(content)
    with pytest.raises(StoreLocked, match=f"process {os.getpid()} on {host_name()}") as caught:
        UpstreamLock.acquire(disk, PATH)
    assert (caught.value.path, caught.value.pid) == (PATH, os.getpid())
    assert disk.content(LOCK) == content
    assert len(disk.list("/data")) == 1


@pytest.mark.parametrize("host", [None, ""], ids=["named", "empty HOSTNAME"])
def test_a_dead_owner_is_not(dead: int, host: str | None) -> None:
    """However new its file is: the original would have it block for 30 s."""
    disk = _locked(_note(dead, host, time_ns=1 << 62))
    lock = UpstreamLock.acquire(disk, PATH)
    assert _held(disk).pid == os.getpid()
    lock.release()
    assert disk.list("/data") == []


def test_an_empty_host_name_is_this_host() -> None:
    """An owner that gives none is alive if its process is."""
    with pytest.raises(StoreLocked, match="on this host"):
        UpstreamLock.acquire(_locked(_note(os.getpid(), "")), PATH)


def test_the_name_that_the_system_gives_this_host(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Owners with another HOSTNAME in their environment may have used that one."""
    monkeypatch.setenv("HOSTNAME", "a-name-of-its-own")
    disk = _locked(_note(dead, socket.gethostname()))
    UpstreamLock.acquire(disk, PATH)
    assert _held(disk).host == "a-name-of-its-own"


@pytest.mark.parametrize("time_ns", [0, 1 << 62], ids=["old", "new"])
def test_another_host_is_always_honoured(dead: int, time_ns: int) -> None:
    """Nobody can see from here whether its owner lives; the original steals it after 300 s."""
    content = _note(dead, FOREIGN, time_ns=time_ns)
    disk = _locked(content)
    with pytest.raises(StoreLocked, match=FOREIGN):
        UpstreamLock.acquire(disk, PATH)
    assert disk.content(LOCK) == content


@pytest.mark.parametrize("pid", [1, (1 << 32) - 1], ids=["another user's", "impossible"])
def test_processes_that_cannot_be_asked(pid: int) -> None:
    """Whose death is not certain counts as alive."""
    content = _note(pid)
    disk = _locked(content)
    with pytest.raises(StoreLocked):
        UpstreamLock.acquire(disk, PATH)
    assert disk.content(LOCK) == content


@pytest.mark.parametrize("host", [None, FOREIGN], ids=["here", "elsewhere"])
def test_one_of_ours_is_left_behind(host: str | None) -> None:
    """A worker of ours that lives has the other lock, which is asked for first."""
    disk = _locked(_note(os.getpid(), host, b"holdfast" + bytes(8)))
    UpstreamLock.acquire(disk, PATH)
    assert _held(disk).writer_id != b"holdfast" + bytes(8)


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "short": _note(1, FOREIGN)[:-1],
    "zeros": bytes(LOCK_BYTES),
    "another magic": b"LVFR" + _note(1, FOREIGN)[4:],
    "a flipped bit": bytes([*_note(1, FOREIGN)[:20], 7, *_note(1, FOREIGN)[21:]]),
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_what_is_no_lock_file(content: bytes) -> None:
    """A file that says of nobody that he is the owner keeps nobody out."""
    disk = _locked(content)
    UpstreamLock.acquire(disk, PATH)
    assert _held(disk).pid == os.getpid()
    assert disk.list("/data") == [("v.rvf.lock", "file")]


def _meanwhile(disk: MemoryDisk, name: str, count: int, action: Callable[[], None]) -> FaultyDisk:
    """A disk on which something happens just before the ``count``-th call of a name."""
    seen = 0

    def on_call(call: Call) -> None:
        nonlocal seen
        if call.name == name and call.path.startswith(LOCK):
            seen += 1
            if seen == count:
                action()

    return FaultyDisk(disk, on_call=on_call)


def test_a_file_that_is_being_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """The original creates it before it writes to it: that is waited for."""
    monkeypatch.setattr(upstream_lock, "_SETTLE_S", 60.0)
    monkeypatch.setattr(upstream_lock, "_POLL_S", 0.0)
    content = _note(os.getpid())
    disk = _locked(content[:40])
    with pytest.raises(StoreLocked):
        UpstreamLock.acquire(_meanwhile(disk, "open", 4, lambda: disk.place(LOCK, content)), PATH)
    assert disk.content(LOCK) == content


def test_a_file_that_goes_meanwhile() -> None:
    """The owner has let go between two looks."""
    for name in ("open", "rename"):
        disk = _locked(_note(4_000_000) if name == "rename" else _note(os.getpid()))
        watched = _meanwhile(disk, name, 1, lambda disk=disk: disk.remove(LOCK))  # type: ignore[misc]
        UpstreamLock.acquire(watched, PATH)
        assert _held(disk).pid == os.getpid()


def test_a_file_that_another_takes_over_first(dead: int) -> None:
    """Two see that the owner is dead; the second finds the first one's file in its hands."""
    disk, theirs = _locked(_note(dead)), _note(os.getpid())
    watched = _meanwhile(disk, "rename", 1, lambda: disk.place(LOCK, theirs))
    with pytest.raises(StoreLocked):
        UpstreamLock.acquire(watched, PATH)
    assert disk.content(LOCK) == theirs
    assert len(disk.list("/data")) == 1


def _moved_aside(disk: MemoryDisk, theirs: bytes, third: bytes, *, links: bool) -> FaultyDisk:
    """Another program's lock is moved aside in place of a dead one's, and a third takes its place.

    The moment the third comes is the last one at which it can: just before the other's goes back.
    """
    came = [False]

    def on_call(call: Call) -> None:
        if call.name == "rename" and call.path.startswith(f"{LOCK}."):
            disk.place(LOCK, theirs)
        going_back = call.name in ("link", "rename", "create") and call.path == LOCK
        if going_back and not came[0] and disk.content(LOCK) is None:
            came[0] = True
            if third:
                disk.place(LOCK, third)

    refused = [] if links else [Fail(0, errno.EPERM, lasting=True, calls=frozenset({"link"}))]
    return FaultyDisk(disk, *refused, on_call=on_call)


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
@pytest.mark.parametrize("third", [b"", _note(1, FOREIGN)], ids=["two", "three"])
def test_a_lock_that_was_moved_by_mistake(dead: int, third: bytes, links: bool) -> None:
    """It goes back to its place unless a third program has that, whose lock is left alone."""
    disk, theirs = _locked(_note(dead)), _note(os.getpid())
    with pytest.raises(StoreLocked):
        _remove_only(_moved_aside(disk, theirs, third, links=links))
    assert disk.content(LOCK) == (third or theirs)
    assert len(disk.list("/data")) == 1


def _remove_only(disk: FaultyDisk) -> None:
    upstream_lock._remove_stale(disk, PATH, LOCK)


def test_a_moved_lock_that_cannot_be_read(dead: int) -> None:
    """Nobody knows whose it is, so it goes back."""
    disk, content = _locked(_note(dead)), _note(dead)
    failing = FaultyDisk(disk)

    def on_call(call: Call) -> None:
        if call.name == "open" and call.path.startswith(f"{LOCK}."):
            raise OSError(errno.EIO, "Input/output error", call.path)

    failing._on_call = on_call
    with pytest.raises(OSError, match="Input/output"):
        _remove_only(failing)
    assert disk.content(LOCK) == content
    assert len(disk.list("/data")) == 1


def test_refreshed() -> None:
    """The time goes on, for the original takes a file of another host for stale."""
    disk = MemoryDisk("/data")
    lock = UpstreamLock.acquire(disk, PATH)
    assert 0 < lock.refresh_due_in() <= REFRESH_S
    before = _held(disk)
    lock.refresh()
    after = _held(disk)
    assert after.time_ns >= before.time_ns
    assert after._replace(time_ns=0) == before._replace(time_ns=0)
    lock.release()
    assert disk.list("/data") == []


def test_taken_from_us() -> None:
    """Whoever replaces the file has it: we stop writing, and leave theirs alone."""
    for theirs in (_note(os.getpid()), b"", _note(1, FOREIGN)):
        disk = MemoryDisk("/data")
        lock = UpstreamLock.acquire(disk, PATH)
        disk.place(LOCK, theirs)
        with pytest.raises(RuntimeError, match="replaced"):
            lock.refresh()
        lock.release()
        assert disk.content(LOCK) == theirs


def test_a_full_disk_leaves_no_file() -> None:
    """Half a lock file would have to be waited for."""
    probe = FaultyDisk(MemoryDisk("/data"))
    UpstreamLock.acquire(probe, PATH)
    for call in probe.calls:
        if call.name in ("append", "sync"):
            disk = MemoryDisk("/data")
            with pytest.raises(OSError, match="No space"):
                UpstreamLock.acquire(FaultyDisk(disk, Fail(call.number, 28, written=9)), PATH)
            assert disk.list("/data") == []
    disk = MemoryDisk("/data")
    with pytest.raises(StoreFull):
        opened(FaultyDisk(disk, Fail(0, 28, lasting=True, calls=frozenset({"create"}))))


# --- a whole store -------------------------------------------------------------------------------


def test_a_store_that_the_original_has_open() -> None:
    """It is locked for writers, and open to readers; later it is free."""
    disk = MemoryDisk("/data")
    history = History()
    actor = opened(disk)
    history.send(actor, Ingest({1: row(1, 1)}))
    actor.close()
    disk.place(LOCK, _note(1, FOREIGN))
    before = disk.content(PATH)
    with pytest.raises(StoreLocked):
        opened(disk)
    reader = opened_read_only(disk)
    assert state_of(disk, reader) == history.state
    reader.close()
    assert disk.content(PATH) == before
    assert [name for name, _ in disk.list("/data")] == ["v.rvf", "v.rvf.lock"]
    disk.remove(LOCK)
    opened(disk).close()
    assert disk.list("/data") == [("v.rvf", "file")]


def test_a_store_that_cannot_be_opened_is_unlocked() -> None:
    """No lock file stays behind of an attempt."""
    disk = MemoryDisk("/data")
    disk.place(PATH, b"no RVF")
    with pytest.raises(Exception, match="no intact manifest"):
        opened(disk)
    assert disk.list("/data") == [("v.rvf", "file")]


def test_a_killed_worker_s_successor() -> None:
    """It opens at once, and says in the file that it is the owner now."""
    disk = MemoryDisk("/data")
    opened(disk)
    first = _held(disk)
    left = disk.crash()
    actor = opened(left)
    assert _held(left).writer_id != first.writer_id
    actor.close()
    assert left.inode_at(LOCK) is None


def test_commit_refreshes_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """The serve loop is told when, and a commit does it."""
    disk = MemoryDisk("/data")
    actor = opened(disk)
    due = actor.sync_due_in()
    assert due is not None
    assert 0 < due <= REFRESH_S
    disk.place(LOCK, _note(os.getpid()))
    actor.commit()  # not yet
    monkeypatch.setattr(upstream_lock, "REFRESH_S", 0.0)
    with pytest.raises(RuntimeError, match="replaced"):
        actor.commit()
