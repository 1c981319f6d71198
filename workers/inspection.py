"""Looking at what lies at a path, without an engine: what it is, how whole, and what it holds.

Nothing is written, locked or repaired, so this works on files that opening refuses, on read-only
media and beside a running engine. A file that is being written meanwhile is seen as it was when it
was mapped, which may be in the middle of an append and is reported as torn then.

This module finds out which format it is; the ``..._inspection`` module of each does the rest.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from holdfast.formats import fold_log
from holdfast.formats.artifact import MANIFEST_NAME
from holdfast.formats.errors import HoldfastError, InvalidArgument, from_os_error
from holdfast.workers.disk import TEMPORARY_SUFFIX, Disk, directory_of
from holdfast.workers.fold_inspection import (
    ArtifactView,
    LogReport,
    examine_artifact,
    examine_log,
    not_ours,
)
from holdfast.workers.messages import Kind
from holdfast.workers.places import SUFFIXES
from holdfast.workers.warm_files import CHRONOS, LOG, MANIFEST, foreign, is_chronos, is_numbered

if TYPE_CHECKING:
    from holdfast.workers.index_inspection import IndexReport
    from holdfast.workers.registry_inspection import RegistryReport
    from holdfast.workers.vector_inspection import VectorReport
    from holdfast.workers.warm_inspection import WarmReport

Report: TypeAlias = (
    "LogReport | ArtifactView | VectorReport | IndexReport | WarmReport | RegistryReport"
)

# What the original calls files of vectors, by what the vectors are about.
_VECTOR_SUFFIXES = (".rvf", ".rvdna", ".rvtext", ".rvgraph", ".rvvis")
_VECTOR_MAGIC = b"SFVR"
_MAGICS: dict[bytes, Kind] = {
    fold_log.MAGIC: "fold",
    b"IQDBPRST": "index",
    b"ZSM": "registry",  # and a byte for the version
}
_INDEX_LOG_MAGIC = b"IQDBWAL\0"
_INDEX_LOG_SUFFIX = ".iqdb.wal"
_HEAD_BYTES = 4096


def _no_tick() -> None:
    pass


def examine(disk: Disk, path: str, tick: Callable[[], None] = _no_tick) -> Report:
    """What lies at ``path``, which is free of symbolic links: a ledger is beside the real file.

    Raises ``StoreIOError`` when it cannot be read; anything legible gets a report.
    """
    try:
        kind = kind_of(disk, path)
        if kind == "directory":
            return _examine_directory(disk, path, tick)
        if kind == "other":  # opening a pipe would wait forever
            return not_ours(path, "neither a regular file nor a directory")
        _refuse_part_of_warm(disk, path)
        # What these need is not loaded before: it takes longer than most folds take to read.
        match store_kind_of(disk, path):
            case "vectors":
                from holdfast.workers.vector_inspection import examine_vectors

                return examine_vectors(disk, path, tick)
            case "index":
                from holdfast.workers.index_inspection import examine_index

                return examine_index(disk, path, tick)
            case "registry":
                from holdfast.workers.registry_inspection import examine_registry

                return examine_registry(disk, path, tick)
        return examine_log(disk, path, tick)
    except HoldfastError:
        raise  # some are an OSError, too
    except OSError as error:
        raise from_os_error(error, "inspect", path) from error


def _refuse_part_of_warm(disk: Disk, path: str) -> None:
    """Raise ``InvalidArgument`` for a file of a warm store, which is looked at as a whole."""
    directory, name = os.path.split(path)
    if name.removesuffix(TEMPORARY_SUFFIX) not in (MANIFEST, LOG) and not is_numbered(name):
        return
    with contextlib.suppress(PermissionError):
        if is_warm_directory(directory, [name for name, _ in disk.list(directory)]):
            raise InvalidArgument(
                f"{path!r} is a file of a warm store, which is looked at as a whole: that is "
                f"{directory!r}",
                path=path,
            )


def _examine_directory(disk: Disk, path: str, tick: Callable[[], None]) -> Report:
    names = [name for name, _ in disk.list(path)]
    if is_warm_directory(path, names):
        from holdfast.workers.warm_inspection import examine_warm

        return examine_warm(disk, path, tick)
    if MANIFEST_NAME in names:
        return examine_artifact(disk, path, tick)
    if is_chronos(names):
        return not_ours(path, CHRONOS)
    return not_ours(path, f"a directory without {MANIFEST_NAME} is no artifact")


def is_warm_directory(path: str, names: Sequence[str]) -> bool:
    """Whether a directory holds a warm store, or is to: what is in it says so, else its name."""
    if any(name in (MANIFEST, LOG) or is_numbered(name) for name in names):
        return True
    return path.endswith(SUFFIXES["warm"]) and foreign(names) is None


def store_kind_of(disk: Disk, path: str) -> Kind:
    """Which kind of store a regular file is, or is to be: its beginning says so, else its name.

    What nothing says anything about counts as a fold. Raises ``InvalidArgument`` for an index's
    log, which is looked at together with its snapshot, and plain ``OSError``.
    """
    file = disk.open(path)
    try:
        head = file.read_at(0, _HEAD_BYTES)
    finally:
        file.close()
    if head.startswith(_INDEX_LOG_MAGIC) or path.endswith(_INDEX_LOG_SUFFIX):
        snapshot = path.removesuffix(".wal")
        reason = "is the log of an index, which is looked at with its snapshot"
        hint = f": that is {snapshot!r}" if snapshot != path else ""
        raise InvalidArgument(f"{path!r} {reason}{hint}", path=path)
    if head.lstrip(b"\0").startswith(_VECTOR_MAGIC):  # zeros align what follows
        return "vectors"
    for magic, kind in _MAGICS.items():
        if head.startswith(magic):
            return kind
    if path.endswith(_VECTOR_SUFFIXES):
        return "vectors"
    named: tuple[Kind, ...] = ("index", "registry")
    return next((kind for kind in named if path.endswith(SUFFIXES[kind])), "fold")


def kind_of(disk: Disk, path: str) -> str:
    """``file``, ``directory``, or ``other`` for what is neither; ``file`` if nobody can tell."""
    if disk.is_directory(path):
        return "directory"
    with contextlib.suppress(PermissionError):  # a file may be legible where its directory is not
        return dict(disk.list(directory_of(path))).get(os.path.basename(path), "file")
    return "file"
