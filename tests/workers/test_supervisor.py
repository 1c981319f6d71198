"""What the supervisor does with descriptors; what it decides is in ``test_supervision``."""

import os
import socket
from collections.abc import Iterator
from multiprocessing.context import SpawnContext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from holdfast.formats.frame import FrameKind
from holdfast.workers import messages
from holdfast.workers.channel import Channel
from holdfast.workers.disk import OsDisk
from holdfast.workers.launcher import WorkerProcess
from holdfast.workers.lock import Lock, describe_self
from holdfast.workers.messages import Serve
from holdfast.workers.places import Places
from holdfast.workers.supervisor import Host, Supervisor
from holdfast.workers.vitals import Vitals


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor that serves nobody yet."""
    lock = Lock.acquire(OsDisk(), str(tmp_path / "lock"), describe_self(os.getpid()))
    with socket.socket(socket.AF_UNIX) as listener:
        supervisor = Supervisor(Places(str(tmp_path)), lock, listener)
        yield supervisor
        supervisor._selector.close()
    lock.release()


def is_open(descriptor: int) -> bool:
    """Whether a descriptor is in use."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_a_session_that_a_dying_worker_does_not_take_is_closed_once(supervisor: Supervisor) -> None:
    """It goes with the channel, and takes no descriptor with it that was opened meanwhile."""
    ours, theirs = socket.socketpair()
    theirs.close()  # the worker has just died, and is not buried yet
    worker = SimpleNamespace(control=Channel(ours))
    supervisor._workers["a"] = cast(WorkerProcess, worker)
    mine, session = socket.socketpair()
    descriptor = session.detach()
    supervisor._order("a", Serve(1), (descriptor,))
    meanwhile = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
    worker.control.close()
    assert all(map(is_open, meanwhile))
    assert not is_open(descriptor)
    assert mine.recv(1) == b"", "the host that was to have it is told by its end"
    for number in meanwhile:
        os.close(number)
    mine.close()


def test_a_session_to_a_worker_that_is_gone_is_closed(supervisor: Supervisor) -> None:
    """There is no channel that could take it."""
    mine, session = socket.socketpair()
    supervisor._order("a", Serve(1), (session.detach(),))
    assert mine.recv(1) == b""
    mine.close()


def test_a_question_that_a_supervisor_dies_of_is_answered(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception no rule foresaw ends it; whoever asked is told, and will not ask the next."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(supervisor._table, "restart_asked", fail)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    host = supervisor._hosts[1] = Host(1, Channel(ours))
    asking = Channel(theirs)
    asking.send(FrameKind.REQUEST, messages.RestartStore("a"), 5)
    with pytest.raises(ZeroDivisionError):
        supervisor._hear_host(host)
    asking.receive()
    answer = asking.next()
    assert answer is not None
    assert (answer.header.kind, answer.header.request) == (FrameKind.ERROR, 5)
    failure = msgspec.msgpack.decode(answer.body, type=messages.Failure)
    assert (failure.name, failure.message) == ("InternalError", "ZeroDivisionError: a defect")
    host.channel.close()
    asking.close()


def test_a_worker_at_its_last_sync_has_more_time_and_not_for_ever(supervisor: Supervisor) -> None:
    """One that just does not stop is killed after a moment, one that syncs after half a minute."""
    killed: list[str] = []

    def worker(name: str, *, saving: bool) -> WorkerProcess:
        vitals = Vitals(SpawnContext())
        vitals.saves(now=saving)
        fake = SimpleNamespace(
            vitals=vitals, kill=lambda _: killed.append(name), control=SimpleNamespace(backlog=0)
        )
        return cast(WorkerProcess, fake)

    supervisor._workers = {
        "hung": worker("hung", saving=False),
        "syncing": worker("syncing", saving=True),
    }
    left = supervisor._leave_at
    assert not supervisor._wind_down(left + 1.4)
    assert not killed
    assert not supervisor._wind_down(left + 1.5)
    assert killed == ["hung"]
    del supervisor._workers["hung"]
    assert not supervisor._wind_down(left + 29.9)
    assert killed == ["hung"]
    assert supervisor._patience(left + 29.9) == pytest.approx(1.5)
    assert not supervisor._wind_down(left + 31.4)
    assert killed == ["hung", "syncing"]
    supervisor._workers.clear()
