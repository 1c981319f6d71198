"""Removing a store that no worker can open: a damaged one, or an index of a class not named.

Its files go by their names, and only if what they hold says that it is a store of that kind.
"""

from holdfast.formats.errors import StoreCorrupt, typed_errors
from holdfast.workers import fold_recovery
from holdfast.workers.disk import Disk, directory_of
from holdfast.workers.inspection import examine, is_warm_directory, store_kind_of
from holdfast.workers.messages import Kind
from holdfast.workers.standing import Standing
from holdfast.workers.store_locks import all_locks
from holdfast.workers.warm_files import WarmFiles


def remove_unread(disk: Disk, kind: Kind, path: str) -> bool:
    """Remove the store at ``path`` for good; False, with nothing done, if it is none of this kind.

    Raises ``StoreLocked``, ``HasBranches`` or ``StoreIOError``.
    """
    with typed_errors("remove", path):
        if not _is_ours(disk, kind, path):
            return False
        with all_locks(disk, path, kind):
            _remove(disk, kind, path)
        if kind == "warm" and not disk.list(path):  # its lock was in there until now
            disk.remove_directory(path)
            disk.sync_directory(directory_of(path))
    return True


def _is_ours(disk: Disk, kind: Kind, path: str) -> bool:
    """Whether what lies there is, or was before it was damaged, a store of this kind."""
    if kind == "warm":
        names = [name for name, _ in disk.list(path)]
        if not is_warm_directory(path, names):
            return False
    elif store_kind_of(disk, path) != kind:
        return False
    return examine(disk, path).standing is not Standing.NOT_OURS


def _remove(disk: Disk, kind: Kind, path: str) -> None:
    match kind:
        case "fold":
            fold_recovery.drop_files(disk, path)
        case "vectors":
            from holdfast.workers import vector_branches, vector_recovery

            vector_branches.check_no_branches_unread(disk, path, "drop")
            vector_recovery.drop_files(disk, path)
        case "warm":
            _remove_warm(disk, WarmFiles(path))
        case "index":
            from holdfast.workers import index_recovery

            index_recovery.drop_files(disk, path)
        case "registry":
            from holdfast.workers import registry_recovery

            registry_recovery.drop_files(disk, path)


def _remove_warm(disk: Disk, files: WarmFiles) -> None:
    from holdfast.workers import warm_recovery

    try:
        manifest = warm_recovery.read_manifest(disk, files)
    except (StoreCorrupt, FileNotFoundError):
        pass  # without one nothing opens what is left, should this end halfway
    else:
        warm_recovery.mark_dropped(disk, files, manifest)
    warm_recovery.remove_dropped(disk, files)
