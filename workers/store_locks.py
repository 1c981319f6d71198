"""All locks that a store's worker would hold, to replace or remove its files without one."""

import contextlib
import os
from collections.abc import Iterator

from holdfast.workers.disk import Disk
from holdfast.workers.lock import SUFFIX as LOCK_SUFFIX
from holdfast.workers.lock import Lock, describe_self
from holdfast.workers.log_file import guard
from holdfast.workers.messages import Kind
from holdfast.workers.upstream_lock import UpstreamLock
from holdfast.workers.warm_files import WarmFiles


@contextlib.contextmanager
def all_locks(disk: Disk, path: str, kind: Kind) -> Iterator[None]:
    """Hold the locks that an owner of the store would hold. Raises ``StoreLocked``."""
    with contextlib.ExitStack() as held:
        owner, guarded = path + LOCK_SUFFIX, [path]
        if kind == "warm":
            files = WarmFiles(path)
            owner, guarded = files.owner, [files.log]
        elif kind == "vectors":
            from holdfast.workers.vector_recovery import OWNER_SUFFIX

            owner = path + OWNER_SUFFIX
        elif kind == "index":
            from holdfast.workers.index_recovery import WAL_SUFFIX

            guarded = [path, path + WAL_SUFFIX]
        held.callback(Lock.acquire(disk, owner, describe_self(os.getpid())).release)
        if kind == "vectors":
            held.callback(UpstreamLock.acquire(disk, path).release)
        for each in guarded:
            if disk.inode_at(each) is not None:
                held.callback(guard(disk, each).close)
        yield
