"""The few things that differ between operating systems."""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
import sys

from holdfast.workers.disk import read_system_file

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent goes, where the kernel can (Linux).

    Elsewhere the end of the control channel does it, a little later.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it went before we asked
        os._exit(1)


def allow_descriptors() -> None:
    """Let this process have as many as the system grants: every file that is mapped takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS says "unlimited" and does not mean it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def give_memory_back() -> None:
    """Return what was freed to the system: allocators keep it, scattered among what is in use.

    For the end of work that takes much for a while, such as a compaction. Takes 2 ms for 20 MiB.
    Only glibc has to be told.
    """
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def peer_user(sock: socket.socket) -> int:
    """User id of the process at the other end of a Unix socket."""
    if sys.platform == "linux":
        data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return int(struct.unpack("3i", data)[1])
    else:
        local_peercred = 1  # LOCAL_PEERCRED; struct xucred starts with version and uid
        data = sock.getsockopt(0, local_peercred, 76)
        return int(struct.unpack_from("II", data)[1])


def oom_kills() -> int:
    """How often the kernel has killed a process for want of memory since it started."""
    for line in read_system_file("/proc/vmstat").splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0


def file_system_of(directory: str) -> str:
    """Type of the file system that holds ``directory``, such as ``ext4``; empty if unknown."""
    import psutil

    best, kind = "", ""
    for partition in psutil.disk_partitions(all=True):
        mount = partition.mountpoint
        inside = directory == mount or directory.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, partition.fstype
    return kind
