"""Chunks on disk as runs: opened at their first use, checked before anything is made of them.

What is wrong with a chunk shows as ``StoreCorrupt`` naming the file and the offset, and stays with
that chunk: everything else can be read.
"""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.formats import dead_rows, warm_chunk, zone_map
from holdfast.formats.checksum import crc32, file_checksum
from holdfast.formats.errors import InvalidFormat, corrupt
from holdfast.formats.points import METADATA, check_metadata
from holdfast.formats.tables import ARROW_REFUSALS, numbers_of
from holdfast.formats.warm_chunk import ENTITY, SPACE, TIMESTAMP, VECTOR, Chunk
from holdfast.formats.warm_manifest import ChunkEntry, DeadFile
from holdfast.formats.zone_map import BLOCK_BYTES, Series, ZoneMap
from holdfast.workers.disk import Disk
from holdfast.workers.warm_files import WarmFiles
from holdfast.workers.warm_runs import Mask, Rows, Times, mark

_DECOMPRESSED_MAX = 16
_BLOCKS_PER_TICK = 1024


class ChunkFiles:
    """What the chunks of a store have in common. ``tick`` is called while much is checked."""

    def __init__(
        self,
        disk: Disk,
        files: WarmFiles,
        store_id: bytes,
        dimension: int,
        tick: Callable[[], None],
    ) -> None:
        self.disk = disk
        self.files = files
        self.store_id = store_id
        self.dimension = dimension
        self.tick = tick
        self._decompressed: OrderedDict[int, ChunkRun] = OrderedDict()

    def used(self, run: "ChunkRun") -> None:
        """A decompressed chunk is being used: others that were not lately may be let go of."""
        self._decompressed[run.entry.number] = run
        self._decompressed.move_to_end(run.entry.number)
        while len(self._decompressed) > _DECOMPRESSED_MAX:
            self._decompressed.popitem(last=False)[1].let_go()


class ChunkRun:
    """A chunk that the manifest lists."""

    def __init__(self, common: ChunkFiles, entry: ChunkEntry) -> None:
        self.entry = entry
        self.late: list[Rows] | None = None
        self.dead_changed = False
        self._common = common
        self._files = common.files
        self._dimension = common.dimension
        self._zone: ZoneMap | None = None
        self._data: pa.Buffer | None = None
        self._checked = np.empty(0, np.bool_)
        self._chunk: Chunk | None = None
        self._metadata_checked = False
        self._dead: Mask | None = None
        self._dead_loaded = entry.dead is None
        self.dead_rows = 0 if entry.dead is None else entry.dead.rows

    def __repr__(self) -> str:
        return f"<chunk {self.entry.number} of {self.rows} rows>"

    # --- a run -----------------------------------------------------------------------------

    @property
    def lane(self) -> object:
        return self.entry.run

    @property
    def rows(self) -> int:
        return self.entry.rows

    @property
    def series(self) -> Series:
        return self.zone.series

    @property
    def timestamps(self) -> Times:
        return self.chunk.timestamps

    @property
    def dead(self) -> Mask | None:
        if not self._dead_loaded:
            assert self.entry.dead is not None
            self._dead = self._load_dead(self.entry.dead)
            self._dead_loaded = True
        return self._dead

    def vectors(self, start: int, stop: int) -> NDArray[np.float32]:
        chunk = self.chunk
        self._check_rows(chunk.batch.column(VECTOR), start, stop, 4 * self._dimension)
        return chunk.vectors[start:stop]

    def metadata(self, start: int, stop: int) -> pa.MapArray | None:
        if not self.zone.has_metadata:
            return None
        column = self.chunk.batch.column(METADATA)
        if not self._metadata_checked:
            self._check(*self._span(column))
            try:
                column.validate(full=True)
                check_metadata(column)
            except (*ARROW_REFUSALS, InvalidFormat) as error:
                raise corrupt(self.path, None, f"metadata: {error}") from error
            self._metadata_checked = True
        return column.slice(start, stop - start)

    def kill(self, rows: Rows) -> None:
        dead = self.dead
        if dead is None:
            dead = self._dead = np.zeros(self.rows, np.bool_)
        mark(self, dead, rows)
        self.dead_rows += len(rows)
        self.dead_changed = self.dead_changed or bool(len(rows))

    # --- the file --------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """Path of the Arrow file."""
        return self._files.chunk(self.entry.number)

    @property
    def is_compressed(self) -> bool:
        """Whether readers have to decompress it as a whole."""
        return self.zone.compressed

    @property
    def zone(self) -> ZoneMap:
        """The zone map, which is read at the first use."""
        if self._zone is None:
            self._zone = self._load_zone()
        return self._zone

    @property
    def chunk(self) -> Chunk:
        """The columns; times are checked, the others are when they are asked for."""
        if self._chunk is None:
            self._chunk = self._open()
        if self.zone.compressed:
            self._common.used(self)
        return self._chunk

    def check_again(self) -> None:
        """Open the file and check its bytes once more when they are next needed."""
        self.let_go()
        self._checked[:] = False

    def let_go(self) -> None:
        """Forget the columns, which can be made again; who uses them now keeps them.

        The file stays mapped, which costs no memory and outlives its removal.
        """
        self._chunk = None
        self._metadata_checked = False

    def check_whole(self) -> None:
        """Check every byte and every value; raises ``StoreCorrupt``."""
        self.check_rows()
        _ = self.dead

    def check_rows(self) -> None:
        """The same without the dead rows, which lie in a file of their own."""
        batch = self.chunk.batch
        self._check(0, self.entry.bytes)
        try:
            batch.validate(full=True)
            check_metadata(batch.column(METADATA))
        except (*ARROW_REFUSALS, InvalidFormat) as error:
            raise corrupt(self.path, None, str(error)) from error
        series = zone_map.series_of(
            numbers_of(batch.column(SPACE), np.uint32),
            numbers_of(batch.column(ENTITY), np.uint64),
            self.chunk.timestamps,
        )
        expected = self.zone.series
        for name in ("spaces", "entities", "starts", "first_times", "last_times"):
            if not np.array_equal(getattr(series, name), getattr(expected, name)):
                raise corrupt(self.path, None, "its rows are not those of the zone map")
        times = self.chunk.timestamps
        within_series = np.ones(self.rows, np.bool_)
        within_series[expected.starts[:-1]] = False
        if (times[1:] <= times[:-1])[within_series[1:]].any():
            raise corrupt(self.path, None, "its rows are not in order of time")

    def check_columns(
        self, start: int, stop: int, *, keys: bool, vectors: bool, metadata: bool
    ) -> None:
        """Check what another process is about to read of these rows."""
        if keys:
            batch = self.chunk.batch
            self._check_rows(batch.column(SPACE), start, stop, 4)
            self._check_rows(batch.column(ENTITY), start, stop, 8)
        if vectors:
            self.vectors(start, stop)
        if metadata:
            self.metadata(start, stop)

    def written(self, dead: DeadFile | None) -> None:
        """The dead rows are in this file now."""
        entry = self.entry
        self.entry = ChunkEntry(
            entry.number, entry.run, entry.rows, entry.bytes, entry.zone_bytes,
            entry.checksum, entry.min_time, entry.max_time, dead,
        )  # fmt: skip
        self.dead_changed = False

    # --- reading and checking --------------------------------------------------------------

    def _load_zone(self) -> ZoneMap:
        path = self._files.zone(self.entry.number)
        data = self._read(path, self.entry.zone_bytes, self.entry.checksum)
        try:
            zone = zone_map.decode(data)
        except InvalidFormat as error:
            raise corrupt(path, error.offset, error.reason or str(error)) from error
        expected = (self._common.store_id, self.entry.number, self.entry.rows, self.entry.bytes)
        if (zone.store_id, zone.chunk, zone.rows, zone.chunk_bytes) != expected:
            raise corrupt(path, 16, "it belongs to another chunk")
        if zone.run != self.entry.run:
            raise corrupt(path, 72, f"run {zone.run}, the manifest has {self.entry.run}")
        if zone.dimension != self._dimension:
            raise corrupt(path, 12, f"dimension {zone.dimension}, not {self._dimension}")
        return zone

    def _load_dead(self, file: DeadFile) -> Mask:
        path = self._files.dead(file.number)
        data = self._read(path, file.bytes, file.checksum)
        try:
            mask = dead_rows.decode(data, self._common.store_id, self.entry.number, self.entry.rows)
        except InvalidFormat as error:
            raise corrupt(path, error.offset, error.reason or str(error)) from error
        if np.count_nonzero(mask) != file.rows:
            raise corrupt(path, 48, f"the manifest has {file.rows} dead rows")
        return mask

    def _read(self, path: str, size: int, checksum: int) -> memoryview:
        view = self._map(path, size)
        if file_checksum(view) != checksum:
            raise corrupt(path, 0, "its checksum is not the one in the manifest")
        return view

    def _map(self, path: str, size: int) -> memoryview:
        try:
            file = self._common.disk.open(path)
        except FileNotFoundError:
            raise corrupt(path, None, "the file is missing") from None
        try:
            found = file.size()
            if found != size:
                raise corrupt(path, min(found, size), f"{found} bytes instead of {size}")
            return file.map()
        finally:
            file.close()

    def _open(self) -> Chunk:
        zone = self.zone
        size = self.entry.bytes
        if self._data is None:
            self._data = pa.py_buffer(self._map(self.path, size))
            self._checked = np.zeros(len(zone.checksums), np.bool_)
        if zone.compressed:
            self._check(0, size)
        else:  # the schema and the batch's head come first, the footer last
            self._check(0, 1)
            self._check(max(0, size - BLOCK_BYTES), size)
        try:
            chunk = warm_chunk.decode(self._data, self._dimension, self.rows)
        except InvalidFormat as error:
            raise corrupt(self.path, None, error.reason or str(error)) from error
        first, last = self._span(chunk.batch.column(TIMESTAMP))
        if first == last and not zone.compressed:  # or its bytes would never be checked
            raise corrupt(self.path, None, "it is compressed, and the zone map says it is not")
        self._check(first, last)
        return chunk

    def _span(self, column: pa.Array) -> tuple[int, int]:
        assert self._data is not None
        return warm_chunk.buffer_span(column, self._data)

    def _check_rows(self, column: pa.Array, start: int, stop: int, width: int) -> None:
        """Check the bytes of rows of a column of fixed width."""
        if not self._checked.all():
            first, last = self._span(column)
            if first != last:
                self._check(first + start * width, min(last, first + stop * width))

    def _check(self, start: int, stop: int) -> None:
        """Compare the blocks that hold these bytes with their checksums."""
        if start >= stop:
            return
        first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
        if self._checked[first:last].all():
            return
        assert self._data is not None
        data = memoryview(self._data)
        checksums = self.zone.checksums
        for block in (first + np.flatnonzero(~self._checked[first:last])).tolist():
            offset = block * BLOCK_BYTES
            if crc32(data[offset : offset + BLOCK_BYTES]) != checksums[block]:
                raise corrupt(self.path, offset, "a block does not match its checksum")
            self._checked[block] = True
            if not block % _BLOCKS_PER_TICK:
                self._common.tick()
