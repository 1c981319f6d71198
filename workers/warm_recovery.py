"""Opening a warm store: lock, read the manifest, remove leftovers, judge and replay the log.

What can be wrong, and what is done about it:

===============================  ===============================================================
absent, or an empty directory    a new log, then a new manifest are put in place
a log without records, alone     as above: a crash came before the first manifest
chunks or records, no manifest   ``StoreCorrupt``; nothing is touched, ``repair`` finds the chunks
a directory of something else    ``InvalidFormat``; nothing is touched
files that no manifest lists     leftovers of a crash; removed
a listed file missing, too long  ``StoreCorrupt`` naming it; nothing is touched
damage inside a listed file      ``StoreCorrupt`` when it is first needed; the rest is served
torn tail of the log             the bytes are kept beside the log, then cut
damage in the log otherwise,     ``StoreCorrupt``; nothing is touched
or less log than was synced
a request logged only in part    cut as a whole: nobody was told that it happened
records that are in chunks       passed over
a log torn before their end      begun anew behind them: it was not synced when they were flushed
the last owner's sync failed     what can be read is written to a new file before it is trusted
===============================  ===============================================================
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from msgspec import structs

from holdfast.formats import warm_log, warm_manifest
from holdfast.formats.errors import (
    InvalidArgument,
    InvalidFormat,
    OptionsConflict,
    StoreCorrupt,
    StoreNotFound,
    corrupt,
    typed_errors,
)
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.limits import DIMENSION_MAX
from holdfast.formats.warm_log import LogHeader, LogScan, Record, RecordKind
from holdfast.formats.warm_manifest import Manifest
from holdfast.formats.warm_terms import COMPRESSIONS
from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Disk,
    File,
    directory_of,
    remove_if_there,
    replace,
)
from holdfast.workers.group_commit import GroupCommit
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.ledger import Ledger
from holdfast.workers.lock import Lock, owning
from holdfast.workers.log_file import UNSYNCED_SUFFIX, guard, is_marked_unsynced
from holdfast.workers.mending import drop_cut_bytes, refuse_damage, settled
from holdfast.workers.messages import DEFAULT_DURABILITY, StoreSpec
from holdfast.workers.warm_chunks import ChunkFiles, ChunkRun
from holdfast.workers.warm_files import (
    CHUNK_SUFFIX,
    DEAD_SUFFIX,
    LOG,
    ZONE_SUFFIX,
    WarmFiles,
    foreign,
    is_numbered,
    number_of,
)
from holdfast.workers.warm_messages import WarmOptions
from holdfast.workers.warm_store import WarmStore
from holdfast.workers.warm_table import WarmTable

_STORE_ID_BYTES = warm_log.STORE_ID_BYTES


class RecoveredWarm(NamedTuple):
    """A store, and how many bytes of its log were cut."""

    store: WarmStore
    torn_bytes: int


def recover(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> RecoveredWarm:
    """Open the warm store at ``spec.path``."""
    files = WarmFiles(spec.path)
    with typed_errors("open", spec.path):
        _ensure_directory(disk, spec)
        with owning(disk, files.owner, spec.path) as lock:
            return _recover_locked(disk, spec, files, lock, tick)


def _ensure_directory(disk: Disk, spec: StoreSpec) -> None:
    """Make the directory if it may be made; refuse one that is somebody else's."""
    if disk.inode_at(spec.path) is None:
        if not spec.create:
            raise StoreNotFound(f"there is no warm store at {spec.path!r}", path=spec.path)
        _options_for_new(spec)  # before anything is made
        disk.make_directory(spec.path)
        return
    if not disk.is_directory(spec.path):
        raise InvalidFormat(f"{spec.path!r} is not a directory", path=spec.path)
    problem = foreign([name for name, _ in disk.list(spec.path)])
    if problem is not None:
        raise InvalidFormat(f"{spec.path!r} {problem}", path=spec.path, reason=problem)


def _options_for_new(spec: StoreSpec) -> WarmOptions:
    options = spec.options if isinstance(spec.options, WarmOptions) else WarmOptions()
    if options.dimension is None:
        raise InvalidArgument(
            f"there is no warm store at {spec.path!r}, and to make one needs its dimension",
            path=spec.path,
        )
    if not 1 <= options.dimension <= DIMENSION_MAX:
        raise InvalidArgument(f"dimension {options.dimension} is not within 1 to {DIMENSION_MAX}")
    return options


def _recover_locked(
    disk: Disk, spec: StoreSpec, files: WarmFiles, lock: Lock, tick: Callable[[], None]
) -> RecoveredWarm:
    for leftover in (files.manifest, files.log):
        remove_if_there(disk, leftover + TEMPORARY_SUFFIX)
    if disk.inode_at(files.manifest) is not None:
        manifest = read_manifest(disk, files)
        if manifest.dropped:
            remove_dropped(disk, files)
    if disk.inode_at(files.manifest) is None:
        _create(disk, spec, files, tick)
        manifest = read_manifest(disk, files)
    check_options(spec, manifest)
    check_files(disk, files, manifest)
    file = disk.open(files.log, write=True)
    try:
        recovered = _recover_log(disk, spec, files, lock, manifest, file, tick)
    except BaseException:
        file.close()
        raise
    remove_leftovers(disk, files, manifest)
    return recovered


def _create(disk: Disk, spec: StoreSpec, files: WarmFiles, tick: Callable[[], None]) -> None:
    """Make a log and a manifest where there is nothing yet but perhaps a log without records."""
    names = [name for name, _ in disk.list(files.directory)]
    if any(map(is_numbered, names)) or (LOG in names and has_records(disk, files, tick)):
        raise StoreCorrupt(
            f"{files.manifest!r} is missing, though there are chunks or a log; repair finds out "
            "what they hold",
            path=files.manifest,
            reason="the manifest is missing",
        )
    if not spec.create:
        raise StoreNotFound(f"there is no warm store at {spec.path!r}", path=spec.path)
    options = _options_for_new(spec)
    assert options.dimension is not None
    # Whoever made the directory may have been killed before its name was synced.
    disk.sync_directory(directory_of(files.directory))
    store_id = os.urandom(_STORE_ID_BYTES)
    replace(disk, files.log, [warm_log.encode_header(options.dimension, store_id, 1)])
    manifest = Manifest(
        store_id.hex(), options.dimension, 1, 0, 0, 1, options.compression or "none", []
    )
    replace(disk, files.manifest, [warm_manifest.encode(manifest)])


def has_records(disk: Disk, files: WarmFiles, tick: Callable[[], None]) -> bool:
    """Whether a log without a manifest holds anything; damage counts as something."""
    file = disk.open(files.log)
    try:
        view = file.map()
    finally:
        file.close()
    if len(view) <= warm_log.HEADER_BYTES:
        return False
    header = warm_log.decode_header(view)
    return isinstance(header, str) or bool(warm_log.scan(view, header, tick=tick).records)


def read_manifest(disk: Disk, files: WarmFiles) -> Manifest:
    """The manifest. Raises ``InvalidFormat`` with path and offset."""
    file = disk.open(files.manifest)
    try:
        data = bytes(file.map())
    finally:
        file.close()
    try:
        return warm_manifest.decode(data)
    except InvalidFormat as error:
        raise corrupt(files.manifest, error.offset, error.reason or str(error)) from error


def check_options(spec: StoreSpec, manifest: Manifest) -> None:
    """Refuse to open a store as what it is not."""
    asked = spec.options if isinstance(spec.options, WarmOptions) else WarmOptions()
    for option in ("dimension", "compression"):
        wanted, found = getattr(asked, option), getattr(manifest, option)
        if wanted is not None and wanted != found:
            raise OptionsConflict(
                f"store {spec.name!r} has {option}={found!r}, not {wanted!r}", store=spec.name
            )
    assert manifest.compression in COMPRESSIONS


def check_files(disk: Disk, files: WarmFiles, manifest: Manifest) -> None:
    """Raise ``StoreCorrupt`` for the first file that the manifest lists and is not there."""
    there = {name for name, kind in disk.list(files.directory) if kind == "file"}
    for chunk in manifest.chunks:
        wanted = [files.chunk(chunk.number), files.zone(chunk.number)]
        if chunk.dead is not None:
            wanted.append(files.dead(chunk.dead.number))
        for path in wanted:
            if os.path.basename(path) not in there:
                raise StoreCorrupt(
                    f"{path!r} is missing, and the manifest lists it",
                    path=path,
                    reason="the file is missing",
                )
    if LOG not in there:
        raise StoreCorrupt(f"{files.log!r} is missing", path=files.log, reason="the log is missing")


def remove_leftovers(disk: Disk, files: WarmFiles, manifest: Manifest) -> None:
    """Remove what a crash left in the middle of writing or removing."""
    listed = {chunk.number for chunk in manifest.chunks}
    dead = {chunk.dead.number for chunk in manifest.chunks if chunk.dead is not None}
    for name, kind in disk.list(files.directory):
        if kind == "directory" or not is_numbered(name):
            continue
        keep = (
            number_of(name, CHUNK_SUFFIX) in listed
            or number_of(name, ZONE_SUFFIX) in listed
            or number_of(name, DEAD_SUFFIX) in dead
        )
        if not keep:
            remove_if_there(disk, files.path(name))


# --- the log ------------------------------------------------------------------------------------


def read_header(view: memoryview, path: str, manifest: Manifest) -> LogHeader:
    """The log's header, if it is of this store."""
    header = warm_log.decode_header(view)
    if isinstance(header, str):
        problem = header
    elif header.store_id.hex() != manifest.store_id:
        problem = "it is the log of another store"
    elif header.dimension != manifest.dimension:
        problem = f"dimension {header.dimension}, the manifest has {manifest.dimension}"
    elif header.first_sequence > manifest.flushed + 1:
        problem = f"it begins with record {header.first_sequence}, after {manifest.flushed}"
    else:
        return header
    raise corrupt(path, 0, problem)


def judged(scan: LogScan, header: LogHeader, manifest: Manifest) -> Verdict:
    """How the log ends, also in view of what the manifest knows to have been in it."""
    last = scan.records[-1].sequence if scan.records else header.first_sequence - 1
    if scan.verdict.ending is not Ending.CORRUPT and last < manifest.logged:
        reason = f"record {manifest.logged} was synced and is not there"
        if scan.verdict.reason:
            reason = f"{scan.verdict.reason}; {reason}"
        return Verdict(Ending.CORRUPT, scan.end, reason)
    return scan.verdict


class GoodLog(NamedTuple):
    """What counts of a log: the records up to ``end``; ``reason`` says why it ends there."""

    header: LogHeader
    records: list[Record]
    end: int
    reason: str


def judge_log(
    disk: Disk,
    files: WarmFiles,
    manifest: Manifest,
    view: memoryview,
    inode: int,
    ledger: Ledger,
    tick: Callable[[], None],
) -> GoodLog:
    """Find out what counts of the log in ``view``. Raises ``StoreCorrupt`` where none may tell."""
    header = read_header(view, files.log, manifest)
    sync_failed = is_marked_unsynced(disk, files.log)
    scan = warm_log.scan(
        view,
        header,
        unsynced_from=ledger.unsynced_from(view, inode, sync_failed=sync_failed),
        synced_to=ledger.found.synced if ledger.found and ledger.found.inode == inode else 0,
        tick=tick,
    )
    verdict = judged(scan, header, manifest)
    refuse_damage(files.log, verdict)
    end = ledger.cut(view, inode, scan.end)
    records = [record for record in scan.records if record.end <= end]
    return GoodLog(header, records, end, verdict.reason)


def _recover_log(
    disk: Disk,
    spec: StoreSpec,
    files: WarmFiles,
    lock: Lock,
    manifest: Manifest,
    file: File,
    tick: Callable[[], None],
) -> RecoveredWarm:
    held = guard(disk, files.log)
    try:
        view, inode = file.map(), file.inode()
        ledger = Ledger(disk, files.log)
        found = judge_log(disk, files, manifest, view, inode, ledger, tick)
        table = table_of(disk, files, manifest, tick)
        last = replay(table, found.records, manifest.flushed, tick)
        torn_bytes = len(view) - found.end
        policy = spec.durability or DEFAULT_DURABILITY
        log = settled(
            disk, file, held, ledger, view, found.end, found.reason,
            sync=policy != "never", sync_failed=is_marked_unsynced(disk, files.log),
        )  # fmt: skip
    except InvalidFormat as error:  # of a record whose checksum holds
        held.close()
        raise corrupt(files.log, error.offset, error.reason or str(error)) from error
    except BaseException:
        held.close()
        raise
    sequence = max(last, found.header.first_sequence - 1)
    group = GroupCommit(spec, log, ledger)
    store = WarmStore(disk, files, lock, manifest, log, ledger, group, table, sequence, tick)
    if sequence < manifest.flushed:
        try:
            store.begin_log_behind_chunks()
        except BaseException:
            log.close()
            ledger.close()
            raise
    return RecoveredWarm(store, torn_bytes)


def table_of(
    disk: Disk, files: WarmFiles, manifest: Manifest, tick: Callable[[], None]
) -> WarmTable:
    """The chunks that a manifest lists, none of them opened yet."""
    store_id = bytes.fromhex(manifest.store_id)
    common = ChunkFiles(disk, files, store_id, manifest.dimension, tick)
    return WarmTable(manifest.dimension, [ChunkRun(common, entry) for entry in manifest.chunks])


def replay(table: WarmTable, records: list[Record], flushed: int, tick: Callable[[], None]) -> int:
    """Do again what the records behind ``flushed`` did; returns the last record's sequence."""
    last = 0
    for record in records:
        last = record.sequence
        if last <= flushed:
            continue
        match record.kind:
            case RecordKind.WRITE:
                plan = table.plan_write(warm_log.write_of(record, table.dimension))
            case RecordKind.DELETE:
                plan = table.plan_delete(record.space, *warm_log.keys_of(record))
            case RecordKind.DELETE_RANGE:
                plan = table.plan_delete_range(*warm_log.range_of(record))
        table.apply(plan)
        tick()
    return last


def mark_dropped(disk: Disk, files: WarmFiles, manifest: Manifest) -> None:
    """Have the manifest say that there is no store any more: from here on there is none."""
    dropped = structs.replace(manifest, chunks=[], dropped=True)
    replace(disk, files.manifest, [warm_manifest.encode(dropped)])


def remove_dropped(disk: Disk, files: WarmFiles) -> None:
    """Remove the files of a store that is marked as dropped, the manifest last."""
    for suffix in (LEDGER_SUFFIX, TEMPORARY_SUFFIX, UNSYNCED_SUFFIX, ""):
        remove_if_there(disk, files.log + suffix)
    drop_cut_bytes(disk, files.log)
    for name, _ in disk.list(files.directory):
        if is_numbered(name):
            remove_if_there(disk, files.path(name))
    disk.sync_directory(files.directory)
    remove_if_there(disk, files.manifest)
    disk.sync_directory(files.directory)
