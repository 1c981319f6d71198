"""The approximate index of a vector store: built beside the service, kept up to date, cached.

It holds row numbers, so it needs no change when a row dies: what is dead or filtered out is masked
in the search itself. Its answers are candidates, whose distances are measured again. A thread
builds it while queries are answered exactly; a compaction numbers the rows anew and ends it.
"""

import logging
import threading
import time

import blake3
import numpy as np
from numpy.typing import NDArray

from holdfast.formats import ann_cache
from holdfast.formats.errors import HoldfastError, InvalidArgument, InvalidFormat
from holdfast.workers import search
from holdfast.workers.ann import ROWS_MIN, AnnIndex, available
from holdfast.workers.disk import TEMPORARY_SUFFIX, remove_if_there
from holdfast.workers.vector_messages import Counted, IndexState, Measured, VectorReply
from holdfast.workers.vector_recovery import INDEX_SUFFIX
from holdfast.workers.vector_store import VectorStore

log = logging.getLogger("holdfast.vectors")

# Below this many numbers an exact search takes well under a millisecond.
_FLOATS_MIN = 4_000_000
# An index that found less of its own sample is used only when asked for.
_RECALL_MIN = 0.95
# A partition made for a quarter of the rows, or of which half are dead, is made anew.
_GROWTH_MAX = 4.0
_DEAD_SHARE_MAX = 0.5
# Taking in a row costs more than writing it, so the newest ones wait, searched exactly, for a quiet
# moment.
_WAITING_MAX = 8192
_POLL_S = 0.05
_UNSAVED_SHARE = 0.1


class VectorIndex:
    """The index of one store, or the lack of one."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._ann: AnnIndex | None = None
        self._building: _Building | None = None
        self._wanted = True
        self._asked = False  # for an index whatever the size
        self._built_rows = 0
        self._saved_rows = 0
        self._packed: tuple[int, bytes | None, NDArray[np.uint8], int] | None = None
        self.recall: float | None = None
        self._load()

    # --- state -----------------------------------------------------------------------------

    @property
    def state(self) -> IndexState:
        """Whether there is one."""
        if self._ann is not None:
            return "ready"
        if self._building is not None:
            return "building"
        return "none" if available() else "unavailable"

    @property
    def rows(self) -> int:
        """Rows that it covers."""
        return 0 if self._ann is None else self._ann.rows

    @property
    def progress(self) -> float | None:
        """How far building has come, from 0 to 1."""
        return None if self._building is None else self._building.progress

    def due_in(self) -> float | None:
        """Seconds until ``poll`` has to be called."""
        return None if self._building is None else _POLL_S

    # --- answering -------------------------------------------------------------------------

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        mask: NDArray[np.bool_],
        where: bytes | None,
        breadth: int | None,
        *,
        anyhow: bool,
    ) -> search.Hits | None:
        """The ``k`` nearest of the rows in ``mask``, which are at least as many.

        None without an index, or, unless it is wanted ``anyhow``, with one that finds too little.
        """
        if self._ann is None or not (anyhow or (self.recall or 0.0) >= _RECALL_MIN):
            return None
        table, metric = self._store.table, self._store.catalog.record.metric
        packed, count = self._pack(mask, where)
        found = self._ann.search(queries, k, allowed=packed, allowed_count=count, breadth=breadth)
        waiting = np.flatnonzero(mask[self._ann.rows :]) + self._ann.rows
        if len(waiting):
            newest = search.nearest_among(table.blocks(), waiting, queries, k, metric)
            found = np.hstack([found, newest.rows])
        rows = np.empty((len(queries), k), np.int64)
        distances = np.empty((len(queries), k), np.float32)
        for number, candidates in enumerate(found):
            candidates = np.sort(candidates[candidates >= 0])
            if len(candidates) < k:  # a filter left too little in the lists that were looked at
                exact = search.nearest(
                    table.blocks(), queries[number : number + 1], k, metric, mask,
                    tick=self._store.tick,
                )  # fmt: skip
                rows[number], distances[number] = exact.rows[0], exact.distances[0]
                continue
            measured = search.distances(table.vectors_at(candidates), queries[number], metric)
            best = np.lexsort((table.ids[candidates], measured))[:k]
            rows[number], distances[number] = candidates[best], measured[best]
        return search.Hits(table.ids[rows], distances, rows)

    def _pack(self, mask: NDArray[np.bool_], where: bytes | None) -> tuple[NDArray[np.uint8], int]:
        changes = self._store.table.changes
        if self._packed is None or self._packed[:2] != (changes, where):
            packed = np.packbits(mask, bitorder="little")
            self._packed = (changes, where, packed, len(mask))
        return self._packed[2], self._packed[3]

    # --- keeping up ------------------------------------------------------------------------

    def grown(self) -> None:
        """Rows were added."""
        if self._ann is not None and self._store.table.rows - self._ann.rows > _WAITING_MAX:
            self.catch_up()

    def catch_up(self) -> None:
        """Take in the rows that were added since."""
        if self._ann is None:
            return
        for block in self._store.table.blocks():
            stop = block.first_row + len(block.ids)
            if stop > self._ann.rows:
                start = self._ann.rows - block.first_row
                self._ann.add(self._ann.rows, block.vectors[start:])

    def reset(self) -> None:
        """The rows have other numbers now."""
        self._asked = self._asked or self._ann is not None
        self._cancel()
        self._ann = None
        self._packed = None
        self.recall = None
        self._built_rows = self._saved_rows = 0
        self._wanted = True

    def act(self, action: str) -> VectorReply:
        """Do what a caller asks: build, cancel, or measure the recall."""
        if action == "build":
            if not available():
                raise InvalidArgument("approximate search needs the extra holdfast[ann]")
            self._wanted = self._asked = True
            if self._store.table.live_rows < ROWS_MIN:
                raise InvalidArgument(
                    f"{self._store.table.live_rows} rows are too few to index: it takes {ROWS_MIN}"
                )
            if self._ann is None and self._building is None:
                self._start()
        elif action == "cancel":
            self._wanted = self._asked = False
            self._cancel()
        elif self._ann is not None:
            self.recall = self._ann.recall(self._store.table.blocks(), self._store.table.live)
        return Measured(self.recall) if action == "recall" else Counted(self.rows)

    def poll(self) -> None:
        """Take over an index that is ready."""
        building = self._building
        if building is None or building.thread.is_alive():
            return
        self._building = None
        if building.error is not None:
            self._wanted = False
            log.error("%s: building the index failed: %s", self._store.path, building.error)
        elif building.result is not None:
            self._ann = building.result
            self._built_rows = self._ann.rows
            self.recall = self._ann.measured_recall
            self._saved_rows = 0
            self.catch_up()

    def step(self, *, idle: bool) -> bool:
        """Start building, or write the cache, if that is due; False when there is nothing to do."""
        if self._is_outgrown():
            self._start()
        elif idle and self._ann is not None:
            self.catch_up()
            if not self._saved_rows and self._may_save():
                self._save()
        return False

    def _is_outgrown(self) -> bool:
        table = self._store.table
        if not self._wanted or self._building is not None:
            return False
        large = self._asked or table.live_rows * table.dimension >= _FLOATS_MIN
        if table.live_rows < ROWS_MIN or not large:
            return False
        if not available():
            return False
        if self._ann is None:
            return True
        dead = 1 - table.live_rows / table.rows
        return table.rows > _GROWTH_MAX * self._built_rows or dead > _DEAD_SHARE_MAX

    def _start(self) -> None:
        self._building = _Building(self._store)

    def _cancel(self) -> None:
        if self._building is not None:
            self._building.cancel()
            self._building = None

    def close(self, *, save: bool) -> None:
        """Stop building, and write the cache if much is missing in it."""
        self._cancel()
        if save and self._ann is not None and self._may_save():
            self.catch_up()
            unsaved = self._ann.rows - self._saved_rows
            if unsaved > _UNSAVED_SHARE * self._ann.rows:
                self._save()

    # --- the cache -------------------------------------------------------------------------

    def _may_save(self) -> bool:
        return self._store.ledger is not None

    def _fingerprint(self, rows: int) -> bytes | None:
        """What the first ``rows`` rows are; None if they do not end with a segment."""
        store = self._store
        state = blake3.blake3(store.catalog.record.metric.encode())
        for ancestor in store.ancestors:
            state.update(ancestor.identity.file_id + ancestor.pin.end.to_bytes(8, "little"))
        covered = store.inherited_rows
        for segment in store.catalog.vecs:
            if covered >= rows:
                break
            if segment.first_row != covered:
                return None
            header = store.log.remap()[segment.entry.offset : segment.entry.offset + 64]
            state.update(header)
            state.update(segment.entry.offset.to_bytes(8, "little"))
            covered += segment.rows
        return state.digest() if covered == rows else None

    def _save(self) -> None:
        """Write the cache, unsynced: its checksum tells whether all of it got there."""
        assert self._ann is not None
        fingerprint = self._fingerprint(self._ann.rows)
        self._saved_rows = self._ann.rows  # also when it cannot be: not again
        if fingerprint is None:
            return
        disk, path = self._store.disk, self._store.path + INDEX_SUFFIX
        cache = self._ann.to_cache(self._store.catalog.identity.file_id, fingerprint)
        temporary = path + TEMPORARY_SUFFIX
        try:
            remove_if_there(disk, temporary)
            file = disk.open(temporary, write=True, create=True)
            try:
                file.append(ann_cache.encode(cache))
            finally:
                file.close()
            disk.rename(temporary, path)
        except OSError as error:
            log.warning("%s: the index cannot be saved: %s", path, error)

    def _load(self) -> None:
        """Take the index from the cache, if there is one that fits."""
        store = self._store
        path = store.path + INDEX_SUFFIX
        if not available() or store.disk.inode_at(path) is None:
            return
        self._asked = True
        try:
            file = store.disk.open(path)
            try:
                cache = ann_cache.decode(file.read_at(0, file.size()))
            finally:
                file.close()
            fits = (
                cache.file_id == store.catalog.identity.file_id
                and cache.rows <= store.table.rows
                and cache.fingerprint == self._fingerprint(cache.rows)
            )
            if fits:
                self._ann = AnnIndex.from_cache(cache, store.table.blocks())
                self._built_rows = self._saved_rows = self._ann.rows
                self.recall = self._ann.measured_recall
                self.catch_up()
        except (OSError, InvalidFormat, HoldfastError) as error:
            log.warning("%s: the index cache is ignored: %s", path, error)


class _Building:
    """An index being built by a thread, from a snapshot of the rows."""

    def __init__(self, store: VectorStore) -> None:
        self._cancelled = threading.Event()
        self._blocks = list(store.table.blocks())
        self._live = store.table.live.copy()
        self._metric = store.catalog.record.metric
        self._began = time.monotonic()
        self.progress = 0.0
        self.result: AnnIndex | None = None
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, name="holdfast-index", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.result = AnnIndex.build(
                self._blocks,
                self._live,
                self._metric,
                progress=self._report,
                cancelled=self._cancelled.is_set,
            )
        except Exception as error:  # the store serves on without an index
            self.error = error
        else:
            if self.result is not None:
                log.info(
                    "index of %d rows built in %.1f s",
                    self.result.rows, time.monotonic() - self._began,
                )  # fmt: skip

    def _report(self, stage: str, done: int, total: int) -> None:
        self.progress = done / total if total else 0.0

    def cancel(self) -> None:
        """Stop at the next slice, and wait for that."""
        self._cancelled.set()
        self.thread.join()
