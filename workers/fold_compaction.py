"""Rewriting a fold's log without what is dead, while it goes on serving.

In slices: live records are copied in key order to a temporary file, then the cursor, then whatever
was appended to the log meanwhile, then the new file takes the old one's place. A crash before the
rename leaves the old log, a crash after it the new one; both say the same. With no writes in
between the result is the canonical form: the same state always gives the same bytes.
"""

from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass

from holdfast.formats.fold_index import FENCE_EVERY
from holdfast.formats.fold_log import (
    CURSOR_RECORD_BYTES_MIN,
    DELETED,
    HEADER_BYTES,
    pack_span,
    unpack_span,
)
from holdfast.formats.values import Cursor
from holdfast.workers.disk import Buffer, Disk, File, remove_if_there
from holdfast.workers.fold_cache import INDEX_SUFFIX
from holdfast.workers.fold_table import Base, FoldTable
from holdfast.workers.ledger import Ledger
from holdfast.workers.log_file import LogFile
from holdfast.workers.messages import Progress
from holdfast.workers.new_log import new_log, take_over

_CHUNK_BYTES = 1 << 20
_WRITE_EVERY_BYTES = 16 << 20
_CATCH_UP_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at one moment: spans in key order over a view of the log, and the cursor."""

    view: memoryview
    spans: memoryview
    cursor: Cursor
    log_end: int
    live_bytes: int

    def total_bytes(self) -> int:
        """Length of the canonical log."""
        cursor = 0 if self.cursor.is_none else CURSOR_RECORD_BYTES_MIN + len(self.cursor.token)
        return HEADER_BYTES + self.live_bytes + cursor


def take_snapshot(
    table: FoldTable, log: LogFile, cursor: Cursor
) -> Generator[None, None, Snapshot]:
    """Fix the state as it is when this starts; later writes do not show in it."""
    view, end, live_bytes = log.remap(), log.end, table.live_bytes
    spans = yield from table.merged_spans()
    return Snapshot(view, spans, cursor, end, live_bytes)


def canonical_chunks(
    snapshot: Snapshot, placed: "array[int] | None" = None
) -> Generator[Buffer, None, None]:
    """The canonical log of a snapshot; see ``formats.fold_canonical``."""
    from holdfast.formats.fold_canonical import canonical_log  # and numpy: see fold_merge

    return canonical_log(snapshot.view, snapshot.spans, snapshot.cursor, placed)


class Compaction:
    """One compaction of a log and its table. ``steps`` runs it."""

    def __init__(self, disk: Disk, log: LogFile, ledger: Ledger, table: FoldTable) -> None:
        self._disk = disk
        self._log = log
        self._ledger = ledger
        self._table = table
        self._changes: dict[bytes, int] = {}
        self.replaced: memoryview | None = None
        """The old log. Letting go of it frees its space, which takes a while when it is large."""

    def steps(self, cursor: Cursor, last_record: Callable[[], int]) -> Generator[
        Progress | None, None, int
    ]:  # fmt: skip
        """Compact in slices; returns where the last record lies in the new log.

        On an error the log stays as it is and the error passes on. ``last_record`` tells where the
        old log's last record lies.
        """
        self._table.record_changes(self._changes)
        try:
            with new_log(self._disk, self._log, self._ledger) as new:
                snapshot = yield from take_snapshot(self._table, self._log, cursor)
                spans = array("Q")
                fences: list[bytes] = []
                size = yield from self._copy(snapshot, new.file, spans, fences)
                view = new.file.map()
                copied_to = yield from self._catch_up(snapshot.log_end, new.file)
                new.file.append(self._log.read(copied_to, self._log.end - copied_to))
                # An inode may be given out again, so a cache must not outlive its log.
                remove_if_there(self._disk, self._log.path + INDEX_SUFFIX)
        finally:
            self._table.record_changes(None)
        shift = snapshot.log_end - size
        self.replaced = self._log.view
        take_over(self._disk, self._log, self._ledger, new, self._log.end - shift)
        self._adopt(Base(view, memoryview(spans), fences), shift)
        if last_record() >= snapshot.log_end:
            return last_record() - shift
        return _last_record(snapshot, spans, size)

    def _copy(
        self, snapshot: Snapshot, file: File, placed: "array[int]", fences: list[bytes]
    ) -> Generator[Progress, None, int]:
        """Write the canonical log; says where its records lie, their fences, and its length."""
        from holdfast.formats.fold_spans import put_keys

        size = begun = 0
        total = snapshot.total_bytes()
        for chunk in canonical_chunks(snapshot, placed):
            file.append(chunk)
            fenced = placed[len(fences) * FENCE_EVERY :: FENCE_EVERY]
            fences += put_keys(chunk, fenced, size)
            size += len(chunk)
            if size - begun >= _WRITE_EVERY_BYTES:  # so that no single sync keeps callers waiting
                file.write_behind(begun, size - begun)
                begun = size
            yield Progress("compact", size, total)
        file.sync()
        return size

    def _catch_up(self, copied_to: int, file: File) -> Generator[None, None, int]:
        """Append what the log gained meanwhile, until little is left."""
        while self._log.end - copied_to > _CATCH_UP_BYTES:
            length = min(self._log.end - copied_to, _CHUNK_BYTES)
            file.append(self._log.read(copied_to, length))
            copied_to += length
            yield
        return copied_to

    def _adopt(self, base: Base, shift: int) -> None:
        """Go on with the new log, where what was appended meanwhile lies ``shift`` bytes lower."""
        lower = pack_span(shift, 0)
        overlay = {key: span - lower if span else DELETED for key, span in self._changes.items()}
        self._table.replace(base, overlay)


def _last_record(snapshot: Snapshot, spans: "array[int]", size: int) -> int:
    """Offset of the last record of a snapshot's canonical log."""
    if not snapshot.cursor.is_none:
        return size - CURSOR_RECORD_BYTES_MIN - len(snapshot.cursor.token)
    return unpack_span(spans[-1])[0] if spans else HEADER_BYTES
