"""Trouble around the supervisor: it cannot start, cannot start others, dies, or does not answer."""

import asyncio
import contextlib
import errno
import os
import resource
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import holdfast
from holdfast.call import CallPolicy
from holdfast.workers import messages
from holdfast.workers.message import Durability
from tests.process.harness import (
    GONE_S,
    kill,
    none,
    put,
    run,
    script,
    send,
    supervisor_pid,
    until,
    value_of,
    wait_until_none,
    worker_pid,
)

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="sets the limits of another process")

INTERRUPTED = """
    import subprocess
    directory, where = sys.argv[1:]

    class Interrupted(subprocess.Popen):
        def __init__(self, *args, **kwargs):
            if where == "before":
                raise KeyboardInterrupt
            super().__init__(*args, **kwargs)
            if where == "starting":
                raise KeyboardInterrupt

        def wait(self, timeout=None):
            if where == "waiting":
                os.killpg(0, signal.SIGINT)
            return super().wait(timeout)

    whole, subprocess.Popen = subprocess.Popen, Interrupted
    try:
        holdfast.open(directory)
    except KeyboardInterrupt:
        print("interrupted")
    subprocess.Popen = whole
    with holdfast.open(directory, timeout=20) as engine:
        put(engine.fold("a"), "k")
        print("opened")
"""


@pytest.mark.parametrize("where", ["before", "starting", "waiting"])
def test_an_interrupted_open_leaves_the_directory_free(tmp_path: Path, where: str) -> None:
    """Ctrl-C while the supervisor starts, as a terminal sends it to all, locks nobody out."""
    source = script(INTERRUPTED)
    code = f"import os; os.setsid(); exec({source!r})"  # a group of its own gets the signal
    assert run(["-W", "ignore::ResourceWarning", "-c", code, str(tmp_path), where]) == (
        "interrupted\nopened\n"
    )
    wait_until_none(tmp_path, GONE_S)


@contextlib.contextmanager
def no_descriptor_for(pid: int) -> Iterator[None]:
    """Another process gets no new descriptor meanwhile."""
    assert sys.platform == "linux"
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


@on_linux
def test_a_worker_that_cannot_be_started_again_is_given_up_alone(tmp_path: Path) -> None:
    """For want of descriptors its store fails and says why; supervisor and other stores go on."""
    with holdfast.open(tmp_path) as engine:
        a, b = engine.fold("a"), engine.fold("b")
        put(a, "k")
        put(b, "k")
        supervisor, other = supervisor_pid(engine), worker_pid(engine, "b")
        with no_descriptor_for(supervisor):
            send(worker_pid(engine, "a"), signal.SIGKILL)
            with pytest.raises(holdfast.StoreFailed, match=r"not be started: OSError.*Too many"):
                a.get("k")
            assert value_of(b, "k") == b"value"
        engine.restart("a")
        assert value_of(a, "k") == b"value"
        assert (supervisor_pid(engine), worker_pid(engine, "b")) == (supervisor, other)


@on_linux
def test_a_worker_that_cannot_be_started_at_first_is_given_up_alone(tmp_path: Path) -> None:
    """Also where a host asks for a new store, which is not taken for that host's fault."""
    with holdfast.open(tmp_path) as engine:
        a = engine.fold("a")
        put(a, "k")
        before = engine.processes()
        with no_descriptor_for(before[0].pid):
            with pytest.raises(holdfast.StoreFailed, match="Too many open files"):
                engine.fold("b")
            assert value_of(a, "k") == b"value"
        assert engine.processes() == before
        engine.restart("b")
        put(engine.fold("b"), "k")


@on_linux
def test_a_session_that_cannot_be_made_is_a_typed_error(tmp_path: Path) -> None:
    """The call that needed it is told why, and the next one is served."""
    with holdfast.open(tmp_path) as engine, holdfast.open(tmp_path) as other:
        put(engine.fold("a"), "k")
        fold = other.fold("a")
        before = engine.processes()
        with no_descriptor_for(before[0].pid):
            with pytest.raises(holdfast.StoreIOError, match=r"session to .*a\.snap") as caught:
                fold.get("k")
            assert caught.value.errno == errno.EMFILE
        assert value_of(fold, "k") == b"value"
        assert other.processes() == before


@on_linux
def test_a_host_that_cannot_be_taken_in_waits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a descriptor for its connection the supervisor lets it wait, and goes on."""
    opened: list[holdfast.Engine] = []
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "k")
        before = engine.processes()
        joining = threading.Thread(target=lambda: opened.append(holdfast.open(tmp_path)))
        with no_descriptor_for(before[0].pid):
            joining.start()
            until(lambda: "cannot take a host in" in caplog.text, "the supervisor has noticed")
            assert value_of(fold, "k") == b"value"
        joining.join(60)
        with opened[0]:
            assert opened[0].processes() == before


def break_pyarrow(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have supervisors that start from here on find a module that does not load."""
    (folder / "pyarrow").mkdir(parents=True)
    (folder / "pyarrow" / "__init__.py").write_text(body, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_kind_of_store_that_does_not_load_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken installation of what one kind needs is named, and the other kinds are served."""
    break_pyarrow(tmp_path / "bad", "raise ImportError('built for another')", monkeypatch)
    with holdfast.open(tmp_path / "data") as engine:
        fold = engine.fold("a")
        put(fold, "k")
        before = engine.processes()
        with pytest.raises(holdfast.StoreFailed, match="ImportError: built for another"):
            engine.vectors("v", dimension=2)
        assert value_of(fold, "k") == b"value"
        assert engine.processes() == before


def test_a_question_that_supervisors_die_of_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends one supervisor after the other raises; the next question is answered."""
    break_pyarrow(tmp_path / "bad", "import os; os._exit(7)", monkeypatch)
    with holdfast.open(tmp_path / "data", timeout=600) as engine:
        put(engine.fold("a"), "k")
        with pytest.raises(holdfast.EngineUnavailable, match="ended 5 times"):
            engine.vectors("v", dimension=2)
        assert value_of(engine.fold("a"), "k") == b"value"


def test_the_longest_times_are_times(tmp_path: Path) -> None:
    """Whatever is accepted as a number of seconds is waited for, by supervisor and worker."""
    with holdfast.open(tmp_path, timeout=9e8, hung_after=9e8) as engine:
        fold = engine.fold("a", durability="interval", interval=9e8)
        for number in range(3):
            put(fold, str(number))
            assert len(fold.range()) == number + 1
        assert [(store.state, store.restarts) for store in engine.health()] == [("running", 0)]


@on_linux
def test_an_engine_that_nobody_answers_is_given_up_in_time(tmp_path: Path) -> None:
    """Also when so many wait to be taken in that the system lets nobody else queue."""
    waiting: list[socket.socket] = []
    ended: list[BaseException] = []

    def join() -> None:
        try:
            holdfast.open(tmp_path, timeout=0.1)
        except BaseException as error:
            ended.append(error)

    with holdfast.open(tmp_path) as engine:
        supervisor = supervisor_pid(engine)
        send(supervisor, signal.SIGSTOP)
        try:
            with contextlib.suppress(BlockingIOError):
                while True:
                    waiting.append(socket.socket(socket.AF_UNIX))
                    waiting[-1].setblocking(False)
                    waiting[-1].connect(str(tmp_path / ".holdfast" / "control.sock"))
            joining = threading.Thread(target=join, daemon=True)
            joining.start()
            joining.join(30)
            assert [type(error) for error in ended] == [holdfast.StoreLocked]
        finally:
            for sock in waiting:
                sock.close()
            send(supervisor, signal.SIGCONT)


@pytest.fixture
def sending(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a request is about to leave."""
    event = threading.Event()
    whole = CallPolicy.sending

    def tell(policy: CallPolicy) -> None:
        whole(policy)
        event.set()

    monkeypatch.setattr(CallPolicy, "sending", tell)
    return event


def lose_both(supervisor: int, worker: int, sending: threading.Event) -> None:
    """Once a request leaves, its worker dies, and nobody is there to start another."""
    assert sending.wait(60)
    send(supervisor, signal.SIGSTOP)
    send(worker, signal.SIGKILL)


def test_a_write_that_went_down_with_its_worker_may_have_happened(
    tmp_path: Path, sending: threading.Event
) -> None:
    """Whoever waits in vain for the next worker is not told that nothing happened."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        put(fold, "k")
        supervisor, worker = supervisor_pid(engine), worker_pid(engine, "a")
        send(worker, signal.SIGSTOP)
        sending.clear()
        losing = threading.Thread(target=lose_both, args=(supervisor, worker, sending))
        losing.start()
        with pytest.raises(holdfast.CallTimeout) as caught:
            fold.apply([holdfast.Put("k2", b"v")], none, timeout=1.0)
        losing.join()
        send(supervisor, signal.SIGCONT)
        assert caught.value.may_have_happened


def test_a_write_of_asyncio_s_may_have_happened_too(
    tmp_path: Path, sending: threading.Event
) -> None:
    """Both faces say the same."""

    async def main() -> holdfast.CallTimeout:
        async with holdfast.aio.open(tmp_path) as engine:
            fold = await engine.fold("a")
            await fold.apply([holdfast.Put("k", b"v")], none)
            supervisor, worker = [process.pid for process in await engine.processes()]
            send(worker, signal.SIGSTOP)
            sending.clear()
            losing = threading.Thread(target=lose_both, args=(supervisor, worker, sending))
            losing.start()
            with pytest.raises(holdfast.CallTimeout) as caught:
                await fold.apply([holdfast.Put("k2", b"v")], none, timeout=1.0)
            losing.join()
            send(supervisor, signal.SIGCONT)
            return caught.value

    assert asyncio.run(main()).may_have_happened


def test_the_last_words_of_a_supervisor_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where they are and how they end, and later supervisors leave them there."""
    body = "import os, sys\nprint('Fatal:\\nno good', file=sys.stderr, flush=True)\nos._exit(7)"
    break_pyarrow(tmp_path / "bad", body, monkeypatch)
    data = tmp_path / "data"
    older = data / ".holdfast" / "supervisor.log.previous"
    with holdfast.open(data) as engine:
        put(engine.fold("a"), "k")
        with pytest.raises(holdfast.EngineUnavailable, match=r"supervisor\.log.*: no good") as lost:
            engine.vectors("v", dimension=2)
        assert str(data / ".holdfast") in str(lost.value)
        assert value_of(engine.fold("a"), "k") == b"value"
    for _ in range(2):
        with holdfast.open(data) as engine:
            assert value_of(engine.fold("a"), "k") == b"value"
    assert older.read_text(encoding="utf-8").endswith("Fatal:\nno good\n")


@on_linux
def test_a_worker_without_a_descriptor_for_a_session_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever needs one more session to it waits; those who have one are served."""
    found: list[bytes | None] = []
    with holdfast.open(tmp_path) as engine, holdfast.open(tmp_path) as other:
        fold, late = engine.fold("a"), other.fold("a")
        put(fold, "k")
        worker = worker_pid(engine, "a")
        calling = threading.Thread(target=lambda: found.append(value_of(late, "k")))
        with no_descriptor_for(worker):
            calling.start()
            until(lambda: "cannot take a session" in caplog.text, "the worker has noticed")
            assert value_of(fold, "k") == b"value"
        calling.join()
        assert found == [b"value"]
        assert worker_pid(engine, "a") == worker


@on_linux
def test_a_host_without_a_descriptor_for_a_session_is_told(tmp_path: Path) -> None:
    """Its call raises a typed error, and its engine serves it on."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("a")
        connection = engine._coordinator.control.connected()
        with no_descriptor_for(os.getpid()):
            with pytest.raises(holdfast.StoreIOError, match="take a session") as caught:
                fold.get("k")
            assert caught.value.errno == errno.EMFILE
        assert fold.get("k") is None
        assert engine._coordinator.control.connected() is connection


def test_questions_that_found_no_room_follow_by_themselves(tmp_path: Path) -> None:
    """Once a supervisor that was behind reads again, all of them are answered."""
    with holdfast.open(tmp_path) as engine:
        supervisor = supervisor_pid(engine)
        connection = engine._coordinator.control.connected()
        assert connection is not None
        send(supervisor, signal.SIGSTOP)
        until(lambda: psutil.Process(supervisor).status() == psutil.STATUS_STOPPED, "it stopped")
        futures = []
        while connection.channel.backlog < 100:
            futures.append(connection.ask(messages.AskHealth()))
        send(supervisor, signal.SIGCONT)
        for future in futures:
            assert future.result(60).answer == messages.Health([])


SLOW_SYNC = """
import os, time
HELD = {held!r}
sync = os.fdatasync

def hold(descriptor):
    if os.path.exists(HELD):
        while os.path.exists(HELD):
            time.sleep(0.005)
        sync(descriptor)
        open(HELD + ".synced", "w").close()
    else:
        sync(descriptor)

os.fdatasync = hold
"""


@on_linux
@pytest.mark.parametrize("durability", ["interval", "never"])
def test_closing_waits_for_a_slow_disk(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    durability: Durability,
) -> None:
    """What was acknowledged unsynced is synced when ``close`` returns, and nobody is killed."""
    held = tmp_path / "held"
    (tmp_path / "sitecustomize.py").write_text(SLOW_SYNC.format(held=str(held)), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    caplog.set_level("INFO", "holdfast")
    engine = holdfast.open(tmp_path / "data")
    interval = 1000.0 if durability == "interval" else None
    fold = engine.fold("a", durability=durability, interval=interval)
    put(fold, "k")
    held.touch()
    closing = threading.Thread(target=engine.close)
    closing.start()
    until(lambda: "store a is still being synced" in caplog.text, "it is told what is waited for")
    held.unlink()
    closing.join(60)
    assert (tmp_path / "held.synced").exists()
    assert "killed" not in caplog.text
    wait_until_none(tmp_path / "data", GONE_S)


def test_a_handle_never_answers_from_another_file(tmp_path: Path) -> None:
    """A name that the next supervisor serves from elsewhere is a conflict for its old handles."""
    with holdfast.open(tmp_path / "data") as engine:
        one = engine.fold("a", path=tmp_path / "one.snap")
        put(one, "k", b"one")
        kill(supervisor_pid(engine))
        put(engine.fold("a", path=tmp_path / "two.snap"), "k", b"two")
        with pytest.raises(holdfast.OptionsConflict, match=r"two\.snap"):
            one.get("k")


def test_a_handle_of_asyncio_s_never_answers_from_another_file(tmp_path: Path) -> None:
    """Both faces keep the sessions of a name's two files apart."""

    async def main() -> None:
        async with holdfast.aio.open(tmp_path / "data") as engine:
            one = await engine.fold("a", path=tmp_path / "one.snap")
            await one.apply([holdfast.Put("k", b"one")], none)
            kill((await engine.processes())[0].pid)
            two = await engine.fold("a", path=tmp_path / "two.snap")
            await two.apply([holdfast.Put("k", b"two")], none)
            with pytest.raises(holdfast.OptionsConflict, match=r"two\.snap"):
                await one.get("k")

    asyncio.run(main())
