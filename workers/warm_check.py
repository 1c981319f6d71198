"""Checking every file of a warm store: of one that is served, and of one that is only looked at."""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

from msgspec import structs

from holdfast.formats import warm_log
from holdfast.formats.errors import StoreCorrupt
from holdfast.formats.fold_log import Ending
from holdfast.formats.warm_manifest import Manifest
from holdfast.workers.disk import Disk
from holdfast.workers.warm_chunks import ChunkRun
from holdfast.workers.warm_files import WarmFiles
from holdfast.workers.warm_messages import WarmFlaw, WarmVerified
from holdfast.workers.warm_recovery import read_header, read_manifest, table_of
from holdfast.workers.warm_store import WarmStore


class Checked(NamedTuple):
    """A chunk that was checked, and what is wrong with it."""

    chunk: ChunkRun
    flaw: WarmFlaw | None


def check_chunks(chunks: Iterable[ChunkRun]) -> Iterator[Checked]:
    """Check every byte and value of chunks, each of them opened anew."""
    for chunk in chunks:
        try:
            chunk.check_whole()
        except StoreCorrupt as error:
            reason = error.reason or str(error)
            yield Checked(chunk, WarmFlaw(error.path or chunk.path, error.offset, reason))
        else:
            yield Checked(chunk, None)


def verify_steps(store: WarmStore, tick: Callable[[], None]) -> Generator[None, None, WarmVerified]:
    """Check every file of a store that is served, a chunk at a time."""
    manifest, points = store.manifest, store.table.points
    files, size = 2, store.log.end
    log = store.log.remap()[: store.log.end]
    found = (_manifest_flaw(store.disk, store.files), _log_flaw(log, store.files, manifest))
    flaws = [flaw for flaw in found if flaw is not None]
    yield None
    for number in [chunk.number for chunk in manifest.chunks]:
        # As it is listed now: it may have been merged away, or have other dead rows, meanwhile.
        listed = [chunk for chunk in store.manifest.chunks if chunk.number == number]
        now = structs.replace(store.manifest, chunks=listed)
        for checked in check_chunks(table_of(store.disk, store.files, now, tick).chunks):
            entry = checked.chunk.entry
            if checked.flaw is not None:
                flaws.append(checked.flaw)
                _distrust(store, number)
            files += 2 + (entry.dead is not None)
            size += entry.bytes + entry.zone_bytes + (entry.dead.bytes if entry.dead else 0)
        yield None
    return WarmVerified(files, size, points, flaws)


def _distrust(store: WarmStore, number: int) -> None:
    """Have readers see for themselves what is wrong with a chunk that was intact before."""
    for run in store.table.chunks:
        if run.entry.number == number:
            run.check_again()


def _manifest_flaw(disk: Disk, files: WarmFiles) -> WarmFlaw | None:
    try:
        read_manifest(disk, files)
    except StoreCorrupt as error:
        return WarmFlaw(files.manifest, error.offset, error.reason or str(error))
    return None


def _log_flaw(log: memoryview, files: WarmFiles, manifest: Manifest) -> WarmFlaw | None:
    try:
        header = read_header(log, files.log, manifest)
    except StoreCorrupt as error:
        return WarmFlaw(files.log, error.offset, error.reason or str(error))
    verdict = warm_log.scan(log, header).verdict
    if verdict.ending is Ending.CLEAN:
        return None
    return WarmFlaw(files.log, verdict.offset, verdict.reason)
