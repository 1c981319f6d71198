"""Making a file or directory at a place of somebody else's choice: as a whole, or not at all.

Until it is done it is a stage, a hidden name beside the destination:

===============================  ===============================================================
crash before the rename          the stage is left; the next attempt at that destination clears it
any error                        the stage is cleared, the destination is as it was
two attempts at a time           the second is refused: a stage is locked while it is in use
===============================  ===============================================================
"""

import contextlib
import os
from collections.abc import Iterator

from blake3 import blake3

from holdfast.formats.errors import ArtifactInvalid, StoreExists
from holdfast.workers.disk import Disk, File, directory_of, remove_if_there, remove_tree

STAGE_SUFFIX = ".holdfast-stage"
_STAGED_NAME_BYTES_MAX = 200  # a longer name would leave no room for what the stage adds


def stage_beside(destination: str) -> str:
    """Where the stage of ``destination`` is: always the same, so that a leftover is found."""
    parent, name = os.path.split(destination.rstrip("/"))
    if not parent or name in ("", ".", ".."):
        raise ArtifactInvalid(f"{destination!r} has no parent directory", path=destination)
    if len(os.fsencode(name)) > _STAGED_NAME_BYTES_MAX:
        name = blake3(os.fsencode(name)).hexdigest()
    return os.path.join(parent, f".{name}{STAGE_SUFFIX}")


def require_free(disk: Disk, destination: str) -> None:
    """Raise ``StoreExists`` unless ``destination`` is absent or an empty directory."""
    if disk.inode_at(destination) is None:
        return
    if not disk.is_directory(destination):
        raise StoreExists(f"{destination!r} exists", path=destination)
    if disk.list(destination):
        raise StoreExists(f"directory {destination!r} is not empty", path=destination)


@contextlib.contextmanager
def staged(disk: Disk, stage: str, path: str) -> Iterator[File]:
    """The new file ``path``, which is the stage or inside it; on an error the stage is cleared."""
    file = begin(disk, stage, path)
    try:
        yield file
    except BaseException:
        give_up(disk, stage, file)
        raise
    finally:
        file.close()


def begin(disk: Disk, stage: str, path: str) -> File:
    """Make a stage that is the new file ``path``, or a directory with it; it is locked by that.

    Raises ``ArtifactInvalid`` when another attempt is under way, and plain ``OSError``.
    """
    _clear_leftover(disk, stage, path)
    if path != stage:
        disk.make_directory(stage)
    file: File | None = None
    try:
        if directory_of(path) not in (stage, directory_of(stage)):
            disk.make_directory(directory_of(path))
        file = disk.open(path, write=True, create=True)
        if not file.lock() or not _is_ours(disk, file):
            raise _in_use(stage)
    except BaseException:
        with contextlib.suppress(OSError):
            if file is None or _is_ours(disk, file):  # or else by now it is somebody else's
                clear(disk, stage)
        if file is not None:
            file.close()
        raise
    return file


def give_up(disk: Disk, stage: str, file: File) -> None:
    """Clear a stage that was begun, unless by now it is somebody else's."""
    with contextlib.suppress(OSError):
        if _is_ours(disk, file):
            clear(disk, stage)
    file.close()


def _clear_leftover(disk: Disk, stage: str, path: str) -> None:
    try:
        leftover = disk.open(path)
    except (FileNotFoundError, NotADirectoryError):
        clear(disk, stage)
        return
    with contextlib.closing(leftover):
        if not leftover.lock():
            raise _in_use(stage)
        clear(disk, stage)


def _in_use(stage: str) -> ArtifactInvalid:
    return ArtifactInvalid(f"{stage!r} is in use by another export or import", path=stage)


def _is_ours(disk: Disk, file: File) -> bool:
    return disk.inode_at(file.path) == file.inode()


def clear(disk: Disk, stage: str) -> None:
    """Remove a stage, be it a file, a directory or a link, or absent."""
    try:
        remove_if_there(disk, stage)
    except (IsADirectoryError, PermissionError):  # systems differ in what they say of a directory
        parent, name = os.path.split(stage)
        if dict(disk.list(parent)).get(name) != "directory":
            raise
        remove_tree(disk, stage)


def publish(disk: Disk, file: File, source: str, destination: str) -> None:
    """Rename what was staged and synced to the destination, durably or not at all.

    ``source`` is the stage or inside it, and ``file`` what locks it.
    """
    destination = destination.rstrip("/")  # else its directory would be itself
    require_free(disk, destination)
    if not _is_ours(disk, file):
        raise _in_use(source)
    if disk.is_directory(destination):
        disk.remove_directory(destination)
    disk.rename(source, destination)
    try:
        disk.sync_directory(directory_of(destination))
    except OSError:
        with contextlib.suppress(OSError):
            disk.rename(destination, source)
        raise
