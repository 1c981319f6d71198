"""Opening a registry: lock, read, judge, go back to what was synced if need be, sync.

What can be wrong, and what is done about it:

===================================  ===========================================================
absent                               an empty registry is put in place, unless a previous
                                     generation is there: somebody took the file away, and
                                     ``StoreCorrupt`` says so
foreign, or another version          ``InvalidFormat``; nothing is touched
damaged, and was synced              ``StoreCorrupt``; nothing is touched
damaged, and marked as not synced    the generation synced last takes its place; what is damaged is
                                     kept beside it
intact, and marked as not synced     written again, over itself, and synced before it is shown
without checksums                    the original wrote it: it holds what it says
left over from an interrupted write  removed
===================================  ===========================================================

A file that cannot be looked at, for want of permission say, is an error, never an empty registry.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from holdfast.formats import zsm
from holdfast.formats.errors import (
    HoldfastError,
    InvalidFormat,
    StoreCorrupt,
    StoreNotFound,
    from_os_error,
)
from holdfast.formats.zsm import Content, Flaw
from holdfast.workers.disk import Disk, File, directory_of, give_second_name, remove_if_there
from holdfast.workers.ledger import SUFFIX as LEDGER_SUFFIX
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import UNSYNCED_SUFFIX, Fatal, guard
from holdfast.workers.mending import drop_cut_bytes, keep_cut_bytes, write_again
from holdfast.workers.messages import StoreSpec
from holdfast.workers.registry_file import (
    NEW_SUFFIX,
    PREVIOUS_SUFFIX,
    RegistryFile,
)
from holdfast.workers.registry_table import Stored

log = logging.getLogger("holdfast.registry")


@dataclass(slots=True)
class RecoveredRegistry:
    """A registry's state, as its file says."""

    file: RegistryFile
    ledger: Ledger
    table: dict[bytes, Stored]
    checked: bool
    fell_back: bool


def recover(disk: Disk, spec: StoreSpec, tick: Callable[[], None]) -> RecoveredRegistry:
    """Recover the registry at ``spec.path``, whose lock the caller holds."""
    path = spec.path
    try:
        remove_if_there(disk, path + NEW_SUFFIX)
        remove_if_there(disk, path + PREVIOUS_SUFFIX + NEW_SUFFIX)
        _ensure_exists(disk, spec)
        return _recover_guarded(disk, path, tick)
    except HoldfastError:
        raise  # some are an OSError, too
    except OSError as error:
        raise from_os_error(error, "open", path) from error


def _ensure_exists(disk: Disk, spec: StoreSpec) -> None:
    path = spec.path
    if disk.inode_at(path) is not None:
        return
    if disk.inode_at(path + PREVIOUS_SUFFIX) is not None:
        raise StoreCorrupt(
            f"there is no {path!r}, but {path + PREVIOUS_SUFFIX!r} is there: rename it to go on "
            "from it, or remove it, too",
            path=path,
            reason="the file is missing and its previous generation is not",
        )
    if not spec.create:
        raise StoreNotFound(f"there is no registry at {path!r}", store=spec.name, path=path)
    new = disk.create(path + NEW_SUFFIX)
    try:
        new.write_at(0, b"".join(zsm.encode([])))
        new.sync()
    finally:
        new.close()
    disk.rename(path + NEW_SUFFIX, path)
    disk.sync_directory(directory_of(path))


def _recover_guarded(disk: Disk, path: str, tick: Callable[[], None]) -> RecoveredRegistry:
    file, held = _opened(disk, path)
    try:
        view = file.map()
        ledger = Ledger(disk, path)
        marked = disk.inode_at(path + UNSYNCED_SUFFIX) is not None
        content, flaw = judge(view, tick)
        if flaw is None and marked:
            flaw = unsynced_flaw(disk, path, content, file.inode())
        if flaw is not None:
            if not marked:
                raise refusal(path, view, flaw)
            _go_back(disk, path, view, flaw, tick)
            held.close()
            file.close()
            file, held = _opened(disk, path)
            view = file.map()
            content, _ = judge(view, tick)
        table = stored_in(view, content)
        whole = 0 if flaw is not None else len(view)  # no request of the lost file took effect
        ledger.begin(view, file.inode(), whole, len(view))
        opened = RegistryFile(disk, file, held, ledger, tick, synced=not marked)
        if marked:
            write_again(file, view, 0, len(view))
        opened.sync()
    except BaseException as error:
        held.close()
        file.close()
        if isinstance(error, Fatal) and isinstance(error.__cause__, OSError):
            raise error.__cause__ from None  # nobody was answered yet: this is no more than refused
        raise
    return RecoveredRegistry(opened, ledger, table, content.checked, flaw is not None)


def _opened(disk: Disk, path: str) -> tuple[File, File]:
    """The file, and the guard on it."""
    file = disk.open(path, write=True)
    try:
        return file, guard(disk, path)
    except BaseException:
        file.close()
        raise


def unsynced_flaw(disk: Disk, path: str, content: Content, inode: int) -> Flaw | None:
    """What is wrong with a file that looks whole and is marked as not synced.

    Written here, it has checksums, or they were lost with other parts of it. The original's files
    have none, but one that it put in place since the mark was left is as it wrote it.
    """
    found = Ledger(disk, path).found
    ours = found is not None and found.inode == inode
    if not content.checked and (ours or _power_was_lost(disk, path)):
        return Flaw(0, "it was not synced, and its checksums are missing")
    return None


def _power_was_lost(disk: Disk, path: str) -> bool:
    """Whether the machine was started anew since the mark was left."""
    mark = disk.open(path + UNSYNCED_SUFFIX)
    try:
        boot_id = disk.boot_id()
        return mark.read_at(0, len(boot_id)) != boot_id
    finally:
        mark.close()


def judge(view: memoryview, tick: Callable[[], None]) -> tuple[Content, Flaw | None]:
    """What a file holds, and the first thing that is wrong with it."""
    problem = zsm.header_problem(view)
    if problem is not None:
        return Content([], 0, checked=False), Flaw(0, problem)
    content = zsm.read(view, tick)
    return content, content.flaws[0] if content.flaws else None


def refusal(path: str, view: memoryview, flaw: Flaw) -> StoreCorrupt:
    """The error for a file that is refused because of ``flaw``."""
    foreign = zsm.header_problem(view) is not None
    return (InvalidFormat if foreign else StoreCorrupt)(
        f"{path!r} is no registry: {flaw.reason}"
        if foreign
        else f"{path!r} is damaged at offset {flaw.offset}: {flaw.reason}",
        path=path,
        offset=flaw.offset,
        reason=flaw.reason,
    )


def _go_back(
    disk: Disk, path: str, view: memoryview, damage: Flaw, tick: Callable[[], None]
) -> None:
    """Put the generation synced last in place; raises when it is gone or damaged as well."""
    previous = path + PREVIOUS_SUFFIX
    if disk.inode_at(previous) is None:
        raise refusal(path, view, damage)
    file = disk.open(previous)
    try:
        kept = file.map()
    finally:
        file.close()
    _, flaw = judge(kept, tick)
    if flaw is not None:
        raise refusal(previous, kept, flaw)
    log.warning("%s: it was lost before it was synced; going back to the last synced", path)
    keep_cut_bytes(disk, path, view, 0, damage.reason)
    give_second_name(disk, previous, path + NEW_SUFFIX)
    disk.rename(path + NEW_SUFFIX, path)
    disk.sync_directory(directory_of(path))


def stored_in(view: memoryview, content: Content) -> dict[bytes, Stored]:
    """The artifacts that count, by key."""
    table = {}
    for key, entry in content.by_key().items():
        artifact = bytes(entry.artifact(view))
        outline = entry.outline
        table[key] = Stored(
            key, artifact, zsm.checksum_of(key, artifact), outline.fingerprint, outline.misfit
        )
    return table


def encode(table: dict[bytes, Stored]) -> Iterator[bytes]:
    """The file of these artifacts."""
    return zsm.encode([(key, table[key].artifact, table[key].checksum) for key in sorted(table)])


def drop_files(disk: Disk, path: str) -> None:
    """Remove a registry's file and everything beside it that is holdfast's.

    The previous generation goes first and for good: without the file it would be taken for one
    whose file was lost.
    """
    for suffix in (PREVIOUS_SUFFIX + NEW_SUFFIX, PREVIOUS_SUFFIX, NEW_SUFFIX):
        remove_if_there(disk, path + suffix)
    disk.sync_directory(directory_of(path))
    for suffix in (LEDGER_SUFFIX, UNSYNCED_SUFFIX, ""):
        remove_if_there(disk, path + suffix)
    drop_cut_bytes(disk, path)
    disk.sync_directory(directory_of(path))
