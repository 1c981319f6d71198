"""What befalls the programs that use an engine: their ends, forks, races; and what befalls the
files by which they find each other."""

import contextlib
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from holdfast.bench.drill.hosts import Host, Terminal
from holdfast.bench.drill.scene import ANSWERED, NAME, RIGHT, TYPED, Scene
from holdfast.bench.drill.serving import kill, send, serving

_RACERS = 3
_PRIVATE = ".holdfast"


# --- how a host ends ---------------------------------------------------------------------------


def host_killed(scene: Scene) -> None:
    """The only host dies at work: nothing is left, and its history holds."""
    scene.leave()
    with Host(scene, "close") as host:
        host.hear()
        kill(host.pid)
        scene.check_left()


def host_killed_with_everything(scene: Scene) -> None:
    """Host, supervisor and worker die at once: the directory is as good as before."""
    scene.leave()
    with Host(scene, "close") as host:
        host.hear()
        for pid in [host.pid, *(process.pid for process in serving(scene.directory))]:
            send(pid, signal.SIGKILL)
        scene.check_left()


def host_terminated(scene: Scene) -> None:
    """``SIGTERM`` ends a host at once and quietly; nothing is left."""
    scene.leave()
    with Host(scene, "close") as host:
        host.hear()
        send(host.pid, signal.SIGTERM)
        code = host.end()
        scene.check_left()
        said = host.complaints()
        scene.expect((code, said) == (-signal.SIGTERM, ""), TYPED, f"it ended with {code}: {said}")


def interpreter_exit(scene: Scene) -> None:
    """A program ends in the middle of a call of another thread: quietly, and leaving nothing."""
    scene.leave()
    with Host(scene, "exit") as host:
        host.hear().tell()
        code = host.end()
        scene.check_left()
        said = host.complaints()
        scene.expect((code, said) == (0, ""), TYPED, f"it ended with {code}: {said}")


def ctrl_c(scene: Scene) -> None:
    """Ctrl-C on a terminal is the host's affair: one traceback, its own, and nothing left."""
    scene.leave()
    terminal = Terminal(scene)
    try:
        terminal.read_until("ready")
        code = terminal.press_ctrl_c()
        scene.check_left()
        shown = terminal.shown
        scene.expect(code == -signal.SIGINT, TYPED, f"it ended with {code}: {shown}")
        quiet = shown.count("Traceback") == 1 and shown.rstrip().endswith("KeyboardInterrupt")
        scene.expect(quiet, TYPED, f"it showed {shown}")
    finally:
        terminal.close()


def _way(way: str, says: tuple[str, ...]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        """A host forks or becomes another program at work; this one is not disturbed."""
        before = scene.supervisor()
        with Host(scene, way) as host:
            host.hear().tell()
            for line in says:
                host.hear(line)
                if line == "ready":
                    host.tell()
            code = host.end()
            said = host.complaints()
            scene.expect((code, said) == (0, ""), TYPED, f"it ended with {code}: {said}")
        scene.crowd.got_on()
        scene.expect(scene.supervisor() == before, ANSWERED, "another supervisor took over")

    return act


forked = _way("fork", ("done",))
became_another = _way("exec", ("ready", "done"))


def race(scene: Scene) -> None:
    """Several programs open a directory that nobody serves: all meet at one supervisor."""
    scene.leave()
    with contextlib.ExitStack() as stack:
        hosts = [stack.enter_context(Host(scene, "close")) for _ in range(_RACERS)]
        for host in hosts:
            host.hear()
        titles = [" ".join(process.cmdline()) for process in serving(scene.directory)]
        supervisors = [title for title in titles if "worker of" not in title]
        scene.expect(len(supervisors) == 1, RIGHT, f"they are served by {titles}")
        scene.expect(len(titles) == 2, RIGHT, f"they are served by {titles}")
        for lock in (Path(scene.directory, _PRIVATE, "supervisor.lock"), _lock_of(scene)):
            scene.expect(
                not _can_lock(lock), RIGHT, f"{lock.name} can be locked by another as well"
            )
        for host in hosts:
            host.tell()
            host.hear("done")
    scene.check_left()


def _can_lock(path: Path) -> bool:
    """Whether another process than its owner gets a file's lock."""
    with open(path, "rb+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


# --- the files by which they find each other ----------------------------------------------------


def _lock_of(scene: Scene) -> Path:
    """The file whose lock says who owns the store."""
    directory = Path(scene.directory)
    for pattern in (f"{NAME}*.lock", f"{NAME}*.owner", f"{NAME}*/OWNER"):
        for path in sorted(directory.glob(pattern)):
            with contextlib.suppress(ValueError):
                if "since" in json.loads(path.read_bytes()):
                    return path
    raise FileNotFoundError(f"no lock of a store in {sorted(os.listdir(directory))}")


def _stolen(theft: Callable[[Path], None]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        """A store's lock file is tampered with: never two owners, no call fails."""
        scene.crowd.got_on()
        worker = scene.worker()
        theft(_lock_of(scene))
        scene.crowd.got_on(10)
        owners = [p for p in serving(scene.directory) if "worker of" in " ".join(p.cmdline())]
        scene.expect(len(owners) == 1, RIGHT, f"there are {len(owners)} owners")
        if scene.worker() != worker:
            told = scene.last_exit()
            scene.expect("lock" in told, TYPED, f"the worker went without saying why: {told!r}")

    return act


def _replace(path: Path) -> None:
    other = path.with_name(path.name + ".new")
    other.write_bytes(b'{"pid": 1, "command": "another", "since": "long ago"}')
    other.replace(path)


def _truncate(path: Path) -> None:
    os.truncate(path, 0)


lock_deleted = _stolen(Path.unlink)
lock_replaced = _stolen(_replace)
lock_truncated = _stolen(_truncate)


def _directory_lock(theft: Callable[[Path], None]) -> Callable[[Scene], None]:
    def act(scene: Scene) -> None:
        """The directory's lock file is tampered with while a second host comes and goes."""
        scene.crowd.got_on()
        theft(Path(scene.directory, _PRIVATE, "supervisor.lock"))
        with Host(scene, "close") as host:
            host.hear().tell()
            host.hear("done")
        scene.crowd.got_on()
        kill(scene.supervisor())
        scene.crowd.got_on()

    return act


directory_lock_deleted = _directory_lock(Path.unlink)
directory_lock_truncated = _directory_lock(_truncate)


def stale_socket(scene: Scene) -> None:
    """What a killed supervisor leaves, and what others put in its place, stops nobody."""
    scene.leave()
    private = Path(scene.directory, _PRIVATE)
    for leave in (_leave_socket, _leave_text):
        leave(private)
        _leave_old_lock(private)
        with Host(scene, "close") as host:
            host.hear()
            for process in serving(scene.directory):
                send(process.pid, signal.SIGKILL)
            host.tell()
            host.hear("done")
        scene.check_left()


def _leave_socket(private: Path) -> None:
    path = private / "control.sock"
    path.unlink(missing_ok=True)
    here = os.getcwd()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.chdir(private)  # the whole path may be too long for an address
        listener.bind(path.name)
    finally:
        os.chdir(here)
        listener.close()


def _leave_text(private: Path) -> None:
    path = private / "control.sock"
    path.unlink(missing_ok=True)
    path.write_text("no socket")


def _leave_old_lock(private: Path) -> None:
    note = {"pid": os.getpid(), "command": "a reused pid", "since": "2001-01-01T00:00:00+00:00"}
    (private / "supervisor.lock").write_text(json.dumps(note))
