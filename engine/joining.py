"""Join or start: find the supervisor of a directory, or become the one who starts it.

The directory's lock decides who starts; it is taken by a host, handed to the supervisor it starts
together with a socket that already listens, and so is never free in between. Everybody else just
connects, and waits in that socket's queue while the supervisor warms up.
"""

import contextlib
import errno
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from holdfast.formats.errors import (
    EngineUnavailable,
    HoldfastError,
    StoreLocked,
    UnsafeFileSystem,
    from_os_error,
)
from holdfast.last_words import begin_log, tail
from holdfast.workers.disk import OsDisk, OsFile
from holdfast.workers.lock import Lock, describe_self, locked_by
from holdfast.workers.places import Places
from holdfast.workers.platform import file_system_of

# What statfs calls file systems on which locks or syncs cannot be relied on.
_NETWORK_FILE_SYSTEMS = frozenset(
    {
        "9p", "afpfs", "afs", "beegfs", "ceph", "cifs", "davfs", "fuse.davfs2", "fuse.gcsfuse",
        "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "fuse.vmhgfs-fuse",
        "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "prl_fs", "smb", "smb2", "smb3", "smbfs",
        "sshfs", "vboxsf", "webdav",
    }
)  # fmt: skip
_ADDRESS_BYTES_MAX = 100  # a Unix socket address holds 104 to 108 bytes, by system
_RETRY_FIRST_S = 0.001
_RETRY_MAX_S = 0.02
_LAUNCHES_MAX = 10  # one that is killed while it starts is no reason to give up


def prepare(directory: str, *, allow_network_fs: bool) -> Places:
    """Make the directory and its private folder, if need be; raises a typed error if it cannot."""
    places = Places(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        os.makedirs(places.private, mode=0o700, exist_ok=True)
    except OSError as error:
        if isinstance(error, FileExistsError):
            error = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        raise from_os_error(error, "open", directory) from error
    owner = os.stat(places.private).st_uid
    if owner != os.getuid() and os.getuid() != 0:
        raise EngineUnavailable(
            f"{directory!r} is used by user {owner}; only the same user may open it",
            path=directory,
        )
    if not allow_network_fs:
        _refuse_network(directory)
    return places


def _refuse_network(directory: str) -> None:
    kind = file_system_of(os.path.realpath(directory))
    if kind.lower() in _NETWORK_FILE_SYSTEMS:
        raise UnsafeFileSystem(
            f"{directory!r} is on a network file system ({kind}), whose locks and syncs cannot be "
            "relied on; pass allow_network_fs=True to accept the risk",
            path=directory,
        )


class Launches:
    """How many supervisors a host has started in a row without being greeted by one."""

    count = 0


def join_or_start(places: Places, deadline: float, launches: Launches) -> socket.socket:
    """A connection to the directory's supervisor, starting one if there is none."""
    pause = _RETRY_FIRST_S
    while True:
        sock = _connect(places)
        if sock is not None:
            return sock
        try:
            lock = Lock.try_acquire(OsDisk(), places.lock, describe_self(os.getpid()))
        except OSError as error:
            raise from_os_error(error, "lock", places.directory) from error
        if lock is not None:
            if launches.count == _LAUNCHES_MAX:
                lock.release()
                raise EngineUnavailable(
                    f"the supervisor of {places.directory!r} ended {launches.count} times while "
                    f"starting: {tail(places.log) or 'it said nothing'}",
                    path=places.directory,
                )
            launches.count += 1
            _launch(places, lock)
            continue
        if time.monotonic() >= deadline:
            raise _unreachable(places)
        time.sleep(pause * (0.5 + random.random()))
        pause = min(_RETRY_MAX_S, 2 * pause)


def _connect(places: Places) -> socket.socket | None:
    """A connection to whoever listens, or None when nobody does."""
    try:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)  # not for a place in the queue: that knows no deadline
            with _address_of(places.socket) as address:
                sock.connect(address)
            sock.setblocking(True)
        except BaseException:
            sock.close()
            raise
    except (FileNotFoundError, ConnectionError, BlockingIOError):
        return None
    except OSError as error:
        raise from_os_error(error, "connect to", places.socket) from error
    return sock


@contextlib.contextmanager
def _address_of(path: str) -> Iterator[str]:
    """An address for the socket at ``path``, also where the path is too long to be one."""
    if len(os.fsencode(path)) <= _ADDRESS_BYTES_MAX:
        yield path
        return
    usual = tempfile.gettempdir()
    shortcut = tempfile.mkdtemp(
        prefix="holdfast-",
        dir=usual if len(os.fsencode(usual)) < _ADDRESS_BYTES_MAX // 2 else "/tmp",
    )
    try:
        link = os.path.join(shortcut, "d")
        os.symlink(os.path.dirname(path), link)
        yield os.path.join(link, os.path.basename(path))
    finally:
        shutil.rmtree(shortcut, ignore_errors=True)


def _launch(places: Places, lock: Lock) -> None:
    """Start a supervisor that inherits the lock and a listening socket."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            _start(places, lock, listener)
    except OSError as error:
        lock.release()
        if isinstance(error, EngineUnavailable):
            raise
        raise from_os_error(error, "start the supervisor of", places.directory) from error
    finally:
        # Our copy: the supervisor, if one was started, holds the lock. So an interrupted launch
        # does not remove the lock file, which may be in use by now.
        lock.file.close()


def _start(places: Places, lock: Lock, listener: socket.socket) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(places.socket)
    with _address_of(places.socket) as address:
        listener.bind(address)
    listener.listen(128)
    assert isinstance(lock.file, OsFile)
    descriptors = (lock.file.fileno(), listener.fileno())
    log = begin_log(places)
    try:
        starter = subprocess.Popen(
            # -P: a module of the user's must not be taken for one of the standard library's.
            [sys.executable, "-P", "-m", "holdfast.workers.supervisor", places.directory,
             *map(str, descriptors), host_command()],
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            env=_environment(),
            start_new_session=True,  # Ctrl-C is the host's affair
        )  # fmt: skip
    except OSError as error:
        raise EngineUnavailable(
            f"cannot start the supervisor of {places.directory!r} with {sys.executable!r}: "
            f"{error.strerror or error}",
            path=places.directory,
        ) from error
    finally:
        os.close(log)
    starter.wait()  # it forks at once and leaves the supervisor on its own


def host_command() -> str:
    """This process as its user knows it; named by those who find its stores locked."""
    return (" ".join(sys.argv) or sys.executable)[:512]


def _environment() -> dict[str, str]:
    """The environment, with this very package findable from any current directory."""
    environment = dict(os.environ)
    package = os.path.dirname(os.path.abspath(__file__))
    if os.path.basename(package) == "holdfast":
        paths = [os.path.dirname(package), *environment.get("PYTHONPATH", "").split(os.pathsep)]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _unreachable(places: Places) -> HoldfastError:
    """Why nobody answers although the lock is held."""
    held: StoreLocked = locked_by(OsDisk(), places.lock)
    return StoreLocked(
        f"{places.directory!r} is held by process {held.pid} ({held.command}) since {held.since}, "
        "which does not answer",
        path=places.directory,
        pid=held.pid,
        command=held.command,
        since=held.since,
    )
