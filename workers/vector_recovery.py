"""Opening a vector store: locks, the newest manifest that can be believed, a torn tail, sync.

What can be wrong, and what is done about it:

===============================  ===============================================================
absent, or empty                 a new file is put in place (temporary file, sync, rename)
no manifest at all               ``InvalidFormat``; nothing is touched
newest manifest damaged          the one before counts, unless a sync is known to have saved more
unsynced, and parts are lost     the last commit counts in front of which nothing is missing,
                                 although a later one may be whole
bytes behind the last manifest   witnesses stay; the rest is kept beside the file, then cut
a listed segment is damaged      ``StoreCorrupt``, unless it was never synced and power was lost
the last owner's sync failed     what can be read is written to a new file before it is trusted
parent missing or changed        ``ParentChanged``; nothing is touched
===============================  ===============================================================
"""

import contextlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.formats.errors import (
    HoldfastError,
    InvalidArgument,
    InvalidFormat,
    LimitExceeded,
    StoreNotFound,
    corrupt,
    from_os_error,
)
from holdfast.formats.limits import DIMENSION_MAX
from holdfast.formats.rvf.manifest import Identity
from holdfast.formats.rvf.record import StoreRecord
from holdfast.formats.rvf.scan import Located, find_manifest, first_doubt
from holdfast.formats.rvf.vec import PADDING_MAX
from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Disk,
    File,
    directory_of,
    remove_if_there,
    replace,
)
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import (
    UNSYNCED_SUFFIX,
    LogFile,
    guard,
    is_marked_unsynced,
)
from holdfast.workers.mending import drop_cut_bytes, settled
from holdfast.workers.messages import StoreSpec
from holdfast.workers.vector_catalog import Catalog, Commit
from holdfast.workers.vector_loading import DamagedSegment, Loaded, end_with_witnesses, load
from holdfast.workers.vector_messages import VectorOptions

log = logging.getLogger("holdfast.vectors")

INDEX_SUFFIX = ".ann"
OWNER_SUFFIX = ".owner"


@dataclass(slots=True)
class RecoveredVectors:
    """A vector store's state, as its file says."""

    log: LogFile
    ledger: Ledger | None
    """None for a store opened read-only."""
    loaded: Loaded
    torn_bytes: int


class Evidence(NamedTuple):
    """What a ledger tells of a file. Without one, all of it is taken for synced."""

    unsynced_from: int | None = None
    """From here on damage is a torn commit."""
    synced: int = 0
    """Below this nothing is missing; if it is, that is corruption."""
    is_torn: Callable[[int], bool] = lambda end: False
    """Whether only a part of a request lies before ``end``."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What of a file counts: the store as of its last good commit, and where the good part ends."""

    loaded: Loaded
    end: int
    reason: str
    """Why the file does not end there, if it does not."""
    is_ours: bool
    """Whether that commit was made here, and not by a program of the original."""


def recover(
    disk: Disk, spec: StoreSpec, *, sync: bool, tick: Callable[[], None]
) -> RecoveredVectors:
    """Recover the vector store at ``spec.path``, whose locks the caller holds."""
    path = spec.path
    try:
        for leftover in (path, path + INDEX_SUFFIX):  # of a crash in the middle of writing
            remove_if_there(disk, leftover + TEMPORARY_SUFFIX)
        _ensure_exists(disk, spec)
        file = disk.open(path, write=True)
    except HoldfastError:
        raise  # some are an OSError, too
    except OSError as error:
        raise from_os_error(error, "open", path) from error
    try:
        held = guard(disk, path)
        try:
            return _recover_guarded(disk, file, held, sync=sync, tick=tick)
        except BaseException:
            held.close()
            raise
    except HoldfastError:
        file.close()
        raise  # some are an OSError, too
    except OSError as error:
        file.close()
        raise from_os_error(error, "recover", path) from error
    except BaseException:
        file.close()
        raise


def _ensure_exists(disk: Disk, spec: StoreSpec) -> None:
    path = spec.path
    if disk.inode_at(path) is not None:
        file = disk.open(path)
        try:
            if file.size():  # the original makes the file before it takes the lock
                return
        finally:
            file.close()
    elif not spec.create:
        raise StoreNotFound(f"there is no vector store at {path!r}", store=spec.name, path=path)
    options = spec.options if isinstance(spec.options, VectorOptions) else VectorOptions()
    if options.dimension is None:
        raise InvalidArgument(
            f"{path!r} does not exist or is empty, and a new vector store needs a dimension",
            path=path,
        )
    record = StoreRecord(options.metric or "l2", options.profile or "generic")
    identity = Identity(secrets.token_bytes(16), bytes(16), bytes(32), 0)
    replace(disk, path, [first_commit(Catalog(options.dimension, identity, record))])


def first_commit(catalog: Catalog) -> bytes:
    """The content of a new file: a store record and a manifest, at epoch 0."""
    if not 1 <= catalog.dimension <= DIMENSION_MAX:
        raise LimitExceeded(f"dimension {catalog.dimension} is not within 1 to {DIMENSION_MAX}")
    commit = Commit(catalog, 0)
    commit.store_record(catalog.record)
    return commit.finish(0)


def _recover_guarded(
    disk: Disk, file: File, held: File, *, sync: bool, tick: Callable[[], None]
) -> RecoveredVectors:
    path, inode = file.path, file.inode()
    view = file.map()
    ledger = Ledger(disk, path)
    sync_failed = is_marked_unsynced(disk, path)
    judged = judge(disk, path, view, evidence(ledger, view, inode, sync_failed), tick)
    # The original builds on torn tails, and unsynced, one costs what is written behind it here.
    opened = settled(
        disk, file, held, ledger, view, judged.end, judged.reason,
        sync=sync or not judged.is_ours, sync_failed=sync_failed,
    )  # fmt: skip
    torn_bytes = len(view) - judged.end
    return RecoveredVectors(opened, ledger, judged.loaded, torn_bytes)


def open_read_only(disk: Disk, path: str, tick: Callable[[], None]) -> RecoveredVectors:
    """The store at ``path`` as it is now, without a lock and without changing anything.

    A commit that its writer is about to append does not count yet.
    """
    try:
        file = disk.open(path)
    except FileNotFoundError as error:
        raise StoreNotFound(f"there is no vector store at {path!r}", path=path) from error
    except OSError as error:
        raise from_os_error(error, "open", path) from error
    try:
        told = _evidence_for_reader(disk, file)  # first, or it may tell of more than is mapped
        judged = judge(disk, path, file.map(), told, tick)
        return RecoveredVectors(
            LogFile(disk, file, judged.end, disk.open(path)), None, judged.loaded, 0
        )
    except HoldfastError:
        file.close()
        raise  # some are an OSError, too
    except OSError as error:
        file.close()
        raise from_os_error(error, "read", path) from error


def _evidence_for_reader(disk: Disk, file: File) -> Evidence:
    """What there is to know without a lock: the file's owner may be gone, and power with it."""
    try:
        ledger = Ledger(disk, file.path)
        return evidence(ledger, file.map(), file.inode(), is_marked_unsynced(disk, file.path))
    except OSError:
        return Evidence()


def evidence(ledger: Ledger, view: memoryview, inode: int, sync_failed: bool) -> Evidence:
    """What a ledger tells of the file with this inode, of which ``view`` is the content."""
    same = ledger.found is not None and ledger.found.inode == inode
    return Evidence(
        ledger.unsynced_from(view, inode, sync_failed=sync_failed),
        ledger.found.synced if ledger.found is not None and same else 0,
        lambda end: ledger.cut(view, inode, end) < end,
    )


def judge(
    disk: Disk,
    path: str,
    view: memoryview,
    told: Evidence,
    tick: Callable[[], None],
) -> Judgement:
    """Find the newest commit that can be believed, and load it.

    Raises ``InvalidFormat``, ``StoreCorrupt`` or ``ParentChanged``.
    """
    unsynced_from = told.unsynced_from
    search_end = len(view)
    reason = "no commit ends there"
    while True:
        located = find_manifest(view[:search_end], tick)
        if located is None:
            raise InvalidFormat(
                f"{path!r} is not an RVF file: it holds no intact manifest",
                path=path,
                offset=0,
                reason="no intact manifest",
            )
        refused = located.refused
        if refused is not None and (unsynced_from is None or refused < unsynced_from):
            raise corrupt(path, refused, "a manifest lists segments that are not there")
        lost = None if unsynced_from is None else _first_lost(view, located, unsynced_from, tick)
        if lost is not None:
            reason = "what was written there was lost before it was synced"
            search_end = lost
            continue
        try:
            end = end_with_witnesses(view, located)
            if told.is_torn(end):  # those witnesses tell of what never was
                end = located.end
            if unsynced_from is not None:  # nor do those behind a commit that was lost
                end = max(located.end, min(end, unsynced_from))
            if end < told.synced:
                raise corrupt(path, end, "a commit that was synced is no longer there")
            loaded = load(disk, path, view[:end], located, tick, unsynced_from)
            return Judgement(loaded, end, reason, _is_ours(located))
        except DamagedSegment as damage:
            if unsynced_from is None or damage.offset < unsynced_from:
                raise corrupt(path, damage.offset, damage.reason) from damage
            reason = f"{damage.reason}, and was never synced"
            search_end = located.offset


def _is_ours(located: Located) -> bool:
    return located.manifest.extension is not None


def _first_lost(
    view: memoryview, located: Located, unsynced_from: int, tick: Callable[[], None]
) -> int | None:
    """Where in front of a commit something is missing that was written since the last sync.

    A later commit may reach the disk without the witnesses and manifests of earlier ones, which it
    does not list. Not for a program of the original, which leaves torn tails and builds on them.
    ``unsynced_from`` may be within a request that is cut short; then all from there on is lost.
    """
    if not _is_ours(located) or located.end <= unsynced_from:
        return None
    return first_doubt(view[: located.end], unsynced_from, tick, PADDING_MAX)


def drop_files(disk: Disk, path: str) -> None:
    """Remove a vector store's file and everything beside it that is holdfast's."""
    for suffix in (LEDGER_SUFFIX, INDEX_SUFFIX, TEMPORARY_SUFFIX, UNSYNCED_SUFFIX):
        remove_if_there(disk, path + suffix)
    drop_cut_bytes(disk, path)
    with contextlib.suppress(FileNotFoundError):
        disk.remove(path)
    disk.sync_directory(directory_of(path))
