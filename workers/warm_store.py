"""A warm store's files at work: logging changes, writing chunks, replacing the manifest.

What must hold at any moment, whatever a crash leaves:

- The manifest lists only chunks and dead rows that were synced, with their names, before it was.
- It is replaced only when the log is synced, if a row is dead there by a record that is not in
  chunks: or the row would be lost with its successor.
- The log holds every change that is not in what the manifest lists: records up to ``flushed`` are,
  and are passed over when the log is replayed. Later ones change nothing when they are done again.
- Files that the manifest does not list are leftovers, and are removed when the store is opened.
"""

from collections.abc import Callable, Generator, Sequence

from holdfast.formats import dead_rows, warm_log, warm_manifest
from holdfast.formats.checksum import file_checksum
from holdfast.formats.errors import HoldfastError
from holdfast.formats.points import Points
from holdfast.formats.warm_manifest import ChunkEntry, DeadFile, Manifest
from holdfast.workers.actor import Caller
from holdfast.workers.disk import (
    TEMPORARY_SUFFIX,
    Buffer,
    Disk,
    put_in_place,
    remove_if_there,
    write_beside,
)
from holdfast.workers.group_commit import GroupCommit
from holdfast.workers.ledger import Ledger
from holdfast.workers.lock import Lock
from holdfast.workers.log_file import Fatal, LogFile
from holdfast.workers.messages import Progress
from holdfast.workers.new_log import new_log, take_over
from holdfast.workers.warm_chunks import ChunkFiles, ChunkRun
from holdfast.workers.warm_files import WarmFiles
from holdfast.workers.warm_merge import Merge
from holdfast.workers.warm_runs import Run
from holdfast.workers.warm_table import Plan, WarmTable
from holdfast.workers.warm_writing import write_chunk, write_new

_COPY_BYTES = 4 << 20

Steps = Generator[Progress | None, None, None]


class WarmStore:
    """Files and table of a store that was recovered."""

    def __init__(
        self,
        disk: Disk,
        files: WarmFiles,
        lock: Lock,
        manifest: Manifest,
        log: LogFile,
        ledger: Ledger,
        group: GroupCommit,
        table: WarmTable,
        sequence: int,
        tick: Callable[[], None],
    ) -> None:
        self.disk = disk
        self.files = files
        self.lock = lock
        self.manifest = manifest
        self.log = log
        self.ledger = ledger
        self.group = group
        self.table = table
        self.sequence = sequence
        """Of the last record in the log."""
        self._killed_at = sequence
        """Of the last record that killed a row in some run."""
        self.store_id = bytes.fromhex(manifest.store_id)
        self.flushes = 0
        self.compactions = 0
        self._common = ChunkFiles(disk, files, self.store_id, manifest.dimension, tick)
        self._next_number = manifest.next_number
        self._written_bytes = manifest.written_bytes
        self._ingested_bytes = manifest.ingested_bytes
        self._obsolete: list[str] = []
        """Files to be removed once a manifest is in place that does not list them."""
        self._superseded: list[str] = []
        """Files of dead rows that the next manifest does not list."""

    # --- changes ---------------------------------------------------------------------------

    def log_change(self, record: list[Buffer], plan: Plan, caller: Caller | None) -> None:
        """Log a change that was planned, and then make it.

        Without a caller it is a part of long work, which is done again as a whole if need be.
        """
        if not self.lock.is_held():
            raise RuntimeError(f"the lock file of {self.files.directory} was removed or replaced")
        if not self.log.is_in_place():
            raise RuntimeError(f"{self.log.path} was removed or replaced")
        size = sum(map(len, record))
        start = self.log.end
        counted = (len(plan.points) if plan.points is not None else 0, plan.replaced)
        first_crc = int.from_bytes(record[0][:4], "little")
        if caller is not None:
            try:
                self.ledger.note(*caller, start, start + size, first_crc, counted)
            except OSError as error:
                raise self.log.error(error, "note a write to") from error
        try:
            self.log.append(*record)
        except HoldfastError:
            if caller is not None:
                self.ledger.void()
            raise
        if caller is not None:
            self.ledger.logged(*caller, counted)
        self.sequence += 1
        if plan.kills:
            self._killed_at = self.sequence
        self._ingested_bytes += size
        self._written_bytes += size
        self.table.apply(plan)

    @property
    def write_amplification(self) -> float:
        """Bytes written for each byte of points, over the store's life."""
        return self._written_bytes / self._ingested_bytes if self._ingested_bytes else 0.0

    # --- flushing and compacting -----------------------------------------------------------

    def flush(self) -> Steps:
        """Write to chunks what is in memory, and shorten the log. In slices."""
        frozen = self.table.freeze()
        sequence, offset = self.sequence, self.log.end
        try:
            yield from self._merge(frozen, "flush", sequence)
        except BaseException:
            self.table.thaw()
            raise
        self.flushes += 1
        self._shorten_log(sequence, offset)

    def compact(self, runs: Sequence[ChunkRun]) -> Steps:
        """Write the live rows of some chunks to new ones. In slices."""
        yield from self._merge(runs, "compact")
        self.compactions += 1

    def _merge(self, runs: Sequence[Run], stage: str, flushed: int | None = None) -> Steps:
        """Write the live rows of runs to chunks that take their place.

        Records up to ``flushed`` are in chunks then; None means: as many as are by then, since
        chunks may have been flushed while others were merged.
        """
        merge = Merge(runs, self.table.dimension, self.manifest.compression, stage)
        made: list[ChunkRun] = []
        try:
            for step in merge.chunks():
                if isinstance(step, Progress):
                    yield step
                else:
                    first = made[0].entry.run if made else None
                    made.append((yield from self._write_chunk(step, first)))
            merge.pass_on(made)
            gone = {id(run) for run in runs}
            kept = [chunk for chunk in self.table.chunks if id(chunk) not in gone]
            self.replace_manifest(
                [*kept, *made], self.manifest.flushed if flushed is None else flushed
            )
        except Fatal:
            raise
        except BaseException:
            for chunk in made:
                self._discard(self._files_of(chunk.entry))
            raise
        finally:
            merge.close()
        self.table.exchange(runs, made)
        for run in runs:
            if isinstance(run, ChunkRun):
                self._obsolete += self._files_of(run.entry)
        self._remove_obsolete()

    def _write_chunk(
        self, points: Points, run: int | None
    ) -> Generator[Progress | None, None, ChunkRun]:
        """Write a chunk and its zone map, both synced; nothing lists them yet.

        ``run`` is the number of the first of the chunks made together, None for that one itself:
        another merge may be under way and take numbers, too.
        """
        number = self._take_number()
        run = number if run is None else run
        files = [self.files.chunk(number), self.files.zone(number)]
        try:
            entry = yield from write_chunk(
                self.disk, self.files, points, self.store_id, number, run,
                self.manifest.compression,
            )  # fmt: skip
        except BaseException:
            self._discard(files)
            raise
        self._written_bytes += entry.bytes + entry.zone_bytes
        return ChunkRun(self._common, entry)

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

    def _discard(self, paths: Sequence[str]) -> None:
        """Remove files that no manifest came to list."""
        for path in paths:
            try:
                remove_if_there(self.disk, path)
            except OSError:
                self._obsolete.append(path)

    def _files_of(self, entry: ChunkEntry) -> list[str]:
        dead = [] if entry.dead is None else [self.files.dead(entry.dead.number)]
        return [self.files.chunk(entry.number), self.files.zone(entry.number), *dead]

    def _remove_obsolete(self) -> None:
        """Remove what no manifest lists any more; what cannot be removed now is tried again."""
        left = []
        for path in self._obsolete:
            try:
                remove_if_there(self.disk, path)
            except OSError:
                left.append(path)
        self._obsolete = left

    # --- the manifest ----------------------------------------------------------------------

    def replace_manifest(self, chunks: Sequence[ChunkRun], flushed: int) -> None:
        """Have a new manifest list these chunks, with their dead rows as they are now."""
        self._write_dead_rows(chunks)
        if self._killed_at > flushed and self.log.unsynced_bytes:
            self.group.sync()
        try:
            self.disk.sync_directory(self.files.directory)
        except OSError as error:  # a second sync may succeed though the names were lost
            raise Fatal(f"cannot sync {self.files.directory!r}: {error}") from error
        old = self.manifest
        logged = old.logged if self.log.unsynced_bytes else self.sequence
        manifest = Manifest(
            old.store_id, old.dimension, old.generation + 1, flushed, logged,
            self._next_number, old.compression, [chunk.entry for chunk in chunks],
            self._ingested_bytes, self._written_bytes,
        )  # fmt: skip
        try:
            write_beside(self.disk, self.files.manifest, [warm_manifest.encode(manifest)]).close()
        except OSError:
            remove_if_there(self.disk, self.files.manifest + TEMPORARY_SUFFIX)
            raise
        try:
            put_in_place(self.disk, self.files.manifest)
        except OSError as error:
            raise Fatal(f"cannot put {self.files.manifest!r} in place: {error}") from error
        self.manifest = manifest
        self._obsolete += self._superseded
        self._superseded = []
        self._remove_obsolete()

    def _write_dead_rows(self, chunks: Sequence[ChunkRun]) -> None:
        """Write the dead rows of the chunks where they changed."""
        for chunk in chunks:
            if not chunk.dead_changed:
                continue
            assert chunk.dead is not None
            data = dead_rows.encode(self.store_id, chunk.entry.number, chunk.dead)
            number = self._take_number()
            try:
                for _ in write_new(self.disk, self.files.dead(number), [memoryview(data)]):
                    pass
            except BaseException:
                self._discard([self.files.dead(number)])
                raise
            self._written_bytes += len(data)
            if chunk.entry.dead is not None:
                self._superseded.append(self.files.dead(chunk.entry.dead.number))
            chunk.written(DeadFile(number, chunk.dead_rows, len(data), file_checksum(data)))

    # --- the log ---------------------------------------------------------------------------

    def begin_log_behind_chunks(self) -> None:
        """Go on with a log that has no record: those it had are in chunks, and others were lost.

        A power loss does that to a log that was not synced when its records were flushed.
        """
        self.sequence = self._killed_at = self.manifest.flushed
        self._shorten_log(self.sequence, self.log.end)

    def _shorten_log(self, sequence: int, offset: int) -> None:
        """Rewrite the log without the records up to ``sequence``, which end at ``offset``.

        They are in chunks. Without this the log is only longer than it has to be.
        """
        header = warm_log.encode_header(self.table.dimension, self.store_id, sequence + 1)
        end = len(header) + self.log.end - offset
        with new_log(self.disk, self.log, self.ledger) as new:
            for part in self._log_from(header, offset):
                new.file.append(part)
        take_over(self.disk, self.log, self.ledger, new, end)

    def _log_from(self, header: bytes, offset: int) -> Generator[Buffer, None, None]:
        yield header
        while offset < self.log.end:
            part = self.log.read(offset, min(_COPY_BYTES, self.log.end - offset))
            offset += len(part)
            yield part

    # --- the end ---------------------------------------------------------------------------

    def abandon(self) -> None:
        """Let go of everything as a crash would: nothing is synced, nothing tidied up."""
        self.log.close()
        self.ledger.close()
        self.lock.file.close()
