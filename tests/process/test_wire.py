"""Strangers on the wire: garbage, other users, other releases, other owners of a file."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

import holdfast
from holdfast.formats.frame import HEADER_BYTES, WIRE_VERSION, FrameKind
from holdfast.workers import messages
from holdfast.workers.channel import Channel, Frame, encode_frame
from holdfast.workers.fold_messages import FoldGet
from holdfast.workers.messages import Hello, OpenStore
from tests.process.harness import (
    GONE_S,
    hear,
    let_others_in,
    none,
    put,
    running,
    supervisor_pid,
    tell,
    until,
    value_of,
    wait_until_none,
    worker_pid,
)

HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


def frame(message: object, kind: FrameKind = FrameKind.REQUEST, request: int = 1) -> bytes:
    """One encoded frame."""
    return b"".join(encode_frame(kind, message, request))


GARBAGE: dict[str, bytes] = {
    "http": HTTP,
    "zeros": bytes(1000),
    "random": os.urandom(1000),
    "half a frame": frame(FoldGet("k"))[:-1],
    "half a header": frame(FoldGet("k"))[:5],
    "unknown tag": frame([99]),
    "no message": frame("text"),
    "wrong types": frame([1, "updates", "cursor"]),
    "no MessagePack": frame(b"")[:HEADER_BYTES] + b"\xc1\xc1",
    "a reply": frame(FoldGet("k"), FrameKind.REPLY),
    "a good one, then garbage": frame(FoldGet("k")) + bytes(100),
}


def stranger(directory: Path) -> socket.socket:
    """A connection to the supervisor that is not holdfast's."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(directory / ".holdfast" / "control.sock"))
    sock.settimeout(30)
    return sock


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[holdfast.Engine]:
    """An engine with one store."""
    with holdfast.open(tmp_path) as engine:
        put(engine.fold("a"), "k")
        yield engine


def answer(channel: Channel) -> Frame:
    """The next frame."""
    while (found := channel.next()) is None:
        assert channel.receive(), "hung up"
    return found


def session_of(directory: Path) -> socket.socket:
    """A session of one's own, got as any host gets one."""
    with stranger(directory) as sock:
        channel = Channel(sock)
        channel.send(FrameKind.REQUEST, Hello(WIRE_VERSION, os.getpid(), 4711, "stranger"), 1)
        answer(channel)
        spec = messages.StoreSpec("a", "fold", str(directory / "a.snap"))
        channel.send(FrameKind.REQUEST, OpenStore(spec, session=True), 2)
        answer(channel)
        session = channel.take_socket()
        session.settimeout(30)
        return session


def ends(sock: socket.socket) -> bool:
    """Whether the peer hangs up, whatever it says before."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass  # it hung up on unread bytes
    return True


class TestGarbage:
    @pytest.mark.parametrize("what", GARBAGE)
    def test_on_a_session_it_disturbs_nobody(
        self, tmp_path: Path, engine: holdfast.Engine, what: str
    ) -> None:
        """The worker goes on, and so do the sessions of everybody else."""
        worker = worker_pid(engine, "a")
        fold = engine.fold("a")
        with session_of(tmp_path) as session:
            session.sendall(GARBAGE[what])
            assert value_of(fold, "k") == b"value"
            session.shutdown(socket.SHUT_WR)
            assert ends(session)
        put(fold, "k2")
        assert worker_pid(engine, "a") == worker
        assert engine.health()[0].restarts == 0

    @pytest.mark.parametrize("what", ["http", "zeros", "no MessagePack", "a reply"])
    def test_on_a_session_it_closes_the_session(
        self, tmp_path: Path, engine: holdfast.Engine, what: str
    ) -> None:
        """Bytes that are no frame, or a frame that is no request, end it."""
        with session_of(tmp_path) as session:
            session.sendall(GARBAGE[what])
            assert ends(session)
        assert value_of(engine.fold("a"), "k") == b"value"

    @pytest.mark.parametrize("what", ["unknown tag", "no message", "wrong types"])
    def test_a_malformed_request_is_answered_with_an_error(
        self, tmp_path: Path, engine: holdfast.Engine, what: str
    ) -> None:
        """The frame is in order, so the session goes on."""
        with session_of(tmp_path) as session:
            channel = Channel(session)
            for _ in range(2):
                session.sendall(GARBAGE[what])
                found = answer(channel)
                assert found.header.kind is FrameKind.ERROR
                failure = msgspec.msgpack.decode(found.body, type=messages.Failure)
                assert isinstance(failure.error(), holdfast.InvalidArgument)
            session.sendall(frame(FoldGet("k"), request=7))
            assert answer(channel).header.request == 7
        assert engine.health()[0].restarts == 0

    @pytest.mark.parametrize("what", GARBAGE)
    def test_on_the_control_socket_it_disturbs_nobody(
        self, tmp_path: Path, engine: holdfast.Engine, what: str
    ) -> None:
        """The supervisor hangs up on the stranger and serves everybody else."""
        before = engine.processes()
        with stranger(tmp_path) as sock:
            sock.sendall(GARBAGE[what])
            sock.shutdown(socket.SHUT_WR)
            assert ends(sock)
        assert engine.processes() == before
        put(engine.fold("b"), "k")

    def test_a_stranger_who_says_nothing_disturbs_nobody(
        self, tmp_path: Path, engine: holdfast.Engine
    ) -> None:
        """Many connections that never speak take nothing from those who do."""
        silent = [stranger(tmp_path) for _ in range(50)]
        put(engine.fold("b"), "k")
        assert len(engine.processes()) == 3
        for sock in silent:
            sock.close()

    def test_a_host_that_never_reads_disturbs_nobody(
        self, tmp_path: Path, engine: holdfast.Engine
    ) -> None:
        """Answers for it are kept; nobody else waits for it."""
        with session_of(tmp_path) as session:
            fold = engine.fold("a")
            put(fold, "big", bytes(1 << 20))
            for number in range(20):
                session.sendall(frame(FoldGet("big"), request=number + 1))
            for number in range(50):
                put(fold, str(number))
            assert value_of(fold, "49") == b"value"
        put(fold, "after")
        assert engine.health()[0].restarts == 0


def test_what_a_host_asks_after_it_left_keeps_nothing_alive(tmp_path: Path) -> None:
    """A request right behind the farewell has nobody who waits for it."""
    with holdfast.open(tmp_path) as engine:
        engine.processes()
        sock = stranger(tmp_path)
        channel = Channel(sock)
        channel.send(FrameKind.REQUEST, Hello(WIRE_VERSION, os.getpid(), 4711, "stranger"), 1)
        answer(channel)
    spec = messages.StoreSpec("a", "fold", str(tmp_path / "a.snap"))
    sock.sendall(frame(messages.Leave()) + frame(OpenStore(spec, session=True)))
    wait_until_none(tmp_path, GONE_S)
    sock.close()


class TestOtherReleases:
    def test_another_wire_version_gets_a_clear_error(
        self, tmp_path: Path, engine: holdfast.Engine
    ) -> None:
        """A host of another release is told that, and by whom the directory is served."""
        with stranger(tmp_path) as sock:
            channel = Channel(sock)
            hello = Hello(WIRE_VERSION + 1, os.getpid(), 4711, "from the future")
            channel.send(FrameKind.REQUEST, hello, 1)
            found = answer(channel)
            assert found.header.kind is FrameKind.ERROR
            error = msgspec.msgpack.decode(found.body, type=messages.Failure).error()
            assert isinstance(error, holdfast.EngineUnavailable)
            assert "another release" in str(error)
            assert str(WIRE_VERSION + 1) in str(error)
        put(engine.fold("a"), "k2")

    def test_the_host_s_side_raises_it(
        self, tmp_path: Path, engine: holdfast.Engine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``open`` raises what the supervisor says, and leaves no connection behind."""
        monkeypatch.setattr("holdfast.control.WIRE_VERSION", WIRE_VERSION + 1)
        with pytest.raises(holdfast.EngineUnavailable, match="another release"):
            holdfast.open(tmp_path)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def as_nobody(source: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run a script as another user, who need not be able to start this Python."""
    become = "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
    return subprocess.run(
        [sys.executable, "-c", become + source, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class TestOtherUsers:
    @needs_root
    def test_a_foreign_user_cannot_connect(self, tmp_path: Path, engine: holdfast.Engine) -> None:
        """The private folder keeps other users out."""
        let_others_in(tmp_path)
        source = "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        done = as_nobody(source, str(tmp_path / ".holdfast" / "control.sock"))
        assert "PermissionError" in done.stderr
        put(engine.fold("a"), "k2")

    @needs_root
    def test_a_foreign_user_who_gets_in_is_refused(
        self, tmp_path: Path, engine: holdfast.Engine
    ) -> None:
        """Even with the folder thrown open, the supervisor looks at who is there."""
        let_others_in(tmp_path)
        (tmp_path / ".holdfast").chmod(0o777)
        (tmp_path / ".holdfast" / "control.sock").chmod(0o777)
        source = """
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
try:
    sock.sendall(bytes.fromhex(sys.argv[2]))
    print(sock.recv(1000))
except OSError as error:
    print(b"")
"""
        hello = frame(Hello(WIRE_VERSION, 1, 4711, "nobody"))
        done = as_nobody(source, str(tmp_path / ".holdfast" / "control.sock"), hello.hex())
        assert (done.stdout, done.stderr) == ("b''\n", "")
        put(engine.fold("a"), "k2")


class TestLocked:
    def lock_elsewhere(self, path: Path, note: str = "") -> "Callable[[], None]":
        """Hold a lock file as another process would; returns how to let go."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, note.encode())
        return lambda: os.close(descriptor)

    def test_a_store_held_by_another_process_names_it(self, tmp_path: Path) -> None:
        """The error says who: pid, command and since when; and nothing was touched."""
        note = '{"pid":4711,"command":"other program","since":"2024-01-01T00:00:00+00:00"}'
        release = self.lock_elsewhere(tmp_path / "a.snap.lock", note)
        with holdfast.open(tmp_path) as engine:
            with pytest.raises(holdfast.StoreLocked) as caught:
                engine.fold("a")
            error = caught.value
            assert (error.pid, error.command) == (4711, "other program")
            assert error.since == "2024-01-01T00:00:00+00:00"
            assert error.path == str(tmp_path / "a.snap")
            for part in ("4711", "other program", "2024-01-01"):
                assert part in str(error)
            assert not (tmp_path / "a.snap").exists()
            put(engine.fold("b"), "k")
            release()
            put(engine.fold("a"), "k")

    def test_a_store_held_by_who_knows_is_locked_all_the_same(self, tmp_path: Path) -> None:
        """The lock decides, whatever its file says."""
        release = self.lock_elsewhere(tmp_path / "a.snap.lock", "no note at all")
        with holdfast.open(tmp_path) as engine:
            with pytest.raises(holdfast.StoreLocked) as caught:
                engine.fold("a")
            assert caught.value.pid is None
            release()
            put(engine.fold("a"), "k")

    def test_a_stale_lock_file_is_no_lock(self, tmp_path: Path) -> None:
        """A file whose owner is gone hinders nobody, though its pid may live again."""
        for name in ("a.snap.lock",):
            (tmp_path / name).write_text(f'{{"pid":{os.getpid()},"command":"x","since":"y"}}')
        (tmp_path / ".holdfast").mkdir(mode=0o700)
        (tmp_path / ".holdfast" / "supervisor.lock").write_text("stale")
        (tmp_path / ".holdfast" / "control.sock").write_text("no socket")
        with holdfast.open(tmp_path) as engine:
            put(engine.fold("a"), "k")

    def test_two_engines_cannot_own_one_file(self, tmp_path: Path) -> None:
        """A path opened by another directory's engine names that engine's worker."""
        with holdfast.open(tmp_path / "one") as one, holdfast.open(tmp_path / "two") as two:
            put(one.fold("a"), "k")
            path = tmp_path / "one" / "a.snap"
            with pytest.raises(holdfast.StoreLocked) as caught:
                two.fold("b", path=path)
            assert caught.value.pid == worker_pid(one, "a")
            put(one.fold("a"), "k2")
            one.close()
            fold = two.fold("b", path=path)
            assert len(fold.range()) == 2

    def test_two_names_for_one_file_in_one_engine(self, tmp_path: Path) -> None:
        """Nor can two stores of the same engine own it, whatever links lead there."""
        with holdfast.open(tmp_path) as engine:
            put(engine.fold("a"), "k")
            (tmp_path / "link").symlink_to("a.snap")
            for path in (tmp_path / "a.snap", tmp_path / "link"):
                with pytest.raises(holdfast.StoreLocked):
                    engine.fold("b", path=path)
            assert value_of(engine.fold("a", path=tmp_path / "link"), "k") == b"value"

    def test_a_directory_whose_supervisor_does_not_answer_names_it(self, tmp_path: Path) -> None:
        """Somebody holds the directory's lock and listens to nobody."""
        (tmp_path / ".holdfast").mkdir(mode=0o700)
        note = '{"pid":4711,"command":"stuck","since":"2024-01-01T00:00:00+00:00"}'
        release = self.lock_elsewhere(tmp_path / ".holdfast" / "supervisor.lock", note)
        with pytest.raises(holdfast.StoreLocked, match="4711") as caught:
            holdfast.open(tmp_path, timeout=0.3)
        assert (caught.value.pid, caught.value.command) == (4711, "stuck")
        assert caught.value.path == str(tmp_path)
        release()
        with holdfast.open(tmp_path) as engine:
            put(engine.fold("a"), "k")

    def test_a_lock_is_taken_over_from_a_host_that_died_while_starting(
        self, tmp_path: Path
    ) -> None:
        """Whoever comes next starts the supervisor, as soon as the lock is free."""
        body = """
            import fcntl
            os.makedirs(sys.argv[1] + "/.holdfast")
            descriptor = os.open(sys.argv[1] + "/.holdfast/supervisor.lock", os.O_RDWR | os.O_CREAT)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            print("locked", flush=True)
            sys.stdin.readline()
        """
        directory = tmp_path / "data"
        with running(body, str(directory)) as host:
            assert hear(host) == "locked"
            tell(host)
            with holdfast.open(directory) as engine:
                put(engine.fold("a"), "k")


def test_the_private_folder_is_private(tmp_path: Path, engine: holdfast.Engine) -> None:
    """Nobody else may look into it, and it holds the socket."""
    private = tmp_path / ".holdfast"
    assert private.stat().st_mode & 0o777 == 0o700
    assert (private / "control.sock").is_socket()


def test_children_of_a_host_inherit_no_pipe(tmp_path: Path) -> None:
    """A program that a host starts holds none of its descriptors."""
    with holdfast.open(tmp_path) as engine:
        put(engine.fold("a"), "k")
        inherited = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], close_fds=False, capture_output=True, text=True,
            check=True,
        ).stdout  # fmt: skip
        assert inherited.count("socket:") == 0, inherited


def test_a_session_survives_the_supervisor_s_restart_of_another(
    tmp_path: Path, engine: holdfast.Engine
) -> None:
    """Restarting one store leaves the sessions of the others alone."""
    other = engine.fold("b")
    put(other, "k")
    supervisor, worker = supervisor_pid(engine), worker_pid(engine, "b")
    engine.restart("a")
    until(lambda: worker_pid(engine, "a"), "it is back")
    other.apply([], none)
    assert (supervisor_pid(engine), worker_pid(engine, "b")) == (supervisor, worker)
