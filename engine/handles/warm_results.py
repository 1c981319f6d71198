"""What a warm store answers with: Arrow tables, of rows that were sent and rows in mapped chunks.

A chunk's file never changes, so a part of an answer may be a place in one: the file is mapped here
and its rows are used where they lie. A result keeps the map, also when the file is removed. The
worker has checked the bytes it points to.
"""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from holdfast.call import AnswerOutdated
from holdfast.formats.errors import StoreCorrupt, from_os_error
from holdfast.formats.points import METADATA, METADATA_TYPE, metadata_from_ipc, no_metadata
from holdfast.formats.tables import ARROW_REFUSALS
from holdfast.formats.warm_chunk import (
    ENTITY,
    SPACE,
    TIMESTAMP,
    VECTOR,
    identity,
    identity_in,
    vector_type,
)
from holdfast.handles.warm_input import TemporalPoint
from holdfast.workers import warm_messages as wm
from holdfast.workers.disk import OsDisk
from holdfast.workers.warm_files import WarmFiles

_MAPS_MAX = 64
_DECOMPRESSED_MAX = 8
DISTANCE = "distance"


class ChunkMaps:
    """The chunks of a store that were mapped lately. Not thread-safe; losing one does no harm."""

    def __init__(self, directory: str, *, compressed: bool) -> None:
        self._most = _DECOMPRESSED_MAX if compressed else _MAPS_MAX
        self._files = WarmFiles(directory)
        self._maps: OrderedDict[bytes, pa.RecordBatch] = OrderedDict()
        self._seen = (b"", -1)

    def seen(self, store_id: bytes, generation: int) -> None:
        """This is the store now: let go of maps of files that it does not have."""
        if (store_id, generation) == self._seen:
            return
        self._seen = (store_id, generation)
        disk = OsDisk()
        for known in list(self._maps):
            of_store, _, number = known.partition(b"/")
            gone = disk.inode_at(self._files.chunk(int(number))) is None
            if gone or of_store != store_id.hex().encode():
                self._maps.pop(known, None)

    def rows(self, store_id: bytes, segment: wm.RowsInChunk) -> pa.RecordBatch:
        """The rows of a chunk; ``AnswerOutdated`` when it was merged away or dropped meanwhile."""
        meant = identity(store_id, segment.chunk)
        batch = self._maps.pop(meant, None)
        if batch is None:
            batch = self._open(segment.chunk, meant)
        self._maps[meant] = batch
        while len(self._maps) > self._most:
            self._maps.popitem(last=False)
        return batch.slice(segment.start, segment.stop - segment.start)

    def _open(self, number: int, meant: bytes) -> pa.RecordBatch:
        path = self._files.chunk(number)
        try:
            file = OsDisk().open(path)
        except FileNotFoundError:
            raise AnswerOutdated from None
        except OSError as error:
            raise from_os_error(error, "open", path) from error
        try:
            batch = pa.ipc.open_file(pa.py_buffer(file.map())).get_batch(0)
        except (*ARROW_REFUSALS, ValueError) as error:
            raise StoreCorrupt(
                f"{path!r} is damaged: {error}", path=path, reason=str(error)
            ) from error
        finally:
            file.close()
        if identity_in(batch) != meant:  # the store was dropped, and made anew
            raise AnswerOutdated
        return batch.replace_schema_metadata(None)


def schema_of(columns: Sequence[str], dimension: int) -> pa.Schema:
    """The schema of a table of these columns."""
    return pa.schema(
        [pa.field(name, _type_of(name, dimension), nullable=False) for name in columns]
    )


def table_of(
    reply: wm.WarmRows,
    maps: ChunkMaps,
    dimension: int,
    columns: Sequence[str],
    entity: int | None = None,
) -> pa.Table:
    """An answer as a table of these columns; ``entity`` is that of all rows, if only one is."""
    schema = schema_of(columns, dimension)
    maps.seen(reply.store_id, reply.generation)
    batches = []
    for segment in reply.segments:
        if isinstance(segment, wm.RowsInChunk):
            batches.append(maps.rows(reply.store_id, segment).select(columns))
        else:
            batches.append(_batch_of(segment, schema, dimension, entity))
    return pa.Table.from_batches(batches, schema)


def _batch_of(
    segment: wm.RowsHere, schema: pa.Schema, dimension: int, entity: int | None
) -> pa.RecordBatch:
    rows = len(segment.timestamps) // 8
    arrays = []
    for name in schema.names:
        if name == TIMESTAMP:
            arrays.append(_numbers(segment.timestamps, pa.int64()))
        elif name == VECTOR:
            arrays.append(vectors_of(segment.vectors, dimension))
        elif name == METADATA:
            column = metadata_from_ipc(segment.metadata, rows)
            arrays.append(no_metadata(rows) if column is None else column)
        elif name == ENTITY and entity is not None:
            arrays.append(pa.array(np.full(rows, entity, np.uint64)))
        else:
            raw = segment.entities if name == ENTITY else segment.spaces
            arrays.append(_numbers(raw, _type_of(name, dimension)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _numbers(raw: memoryview, type_: pa.DataType) -> pa.Array:
    buffer = pa.py_buffer(raw)
    if buffer.address % 8:  # Arrow computes on misaligned values, but warns on standard error
        buffer = pa.py_buffer(bytes(raw))
    return pa.Array.from_buffers(type_, len(raw) * 8 // type_.bit_width, [None, buffer])


def vectors_of(raw: memoryview, dimension: int) -> pa.FixedSizeListArray:
    """Vectors as an Arrow column."""
    values = _numbers(raw, pa.float32())
    type_ = vector_type(dimension)
    return pa.Array.from_buffers(type_, len(values) // dimension, [None], children=[values])


def _type_of(column: str, dimension: int) -> pa.DataType:
    if column == VECTOR:
        return vector_type(dimension)
    return _TYPES[column]


_TYPES = {
    SPACE: pa.uint32(),
    ENTITY: pa.uint64(),
    TIMESTAMP: pa.int64(),
    METADATA: METADATA_TYPE,
}


def point_of(reply: wm.WarmPoint, entity: int) -> TemporalPoint | None:
    """A point, or None."""
    if reply.vector is None:
        return None
    vector: NDArray[np.float32] = np.frombuffer(reply.vector, "<f4")
    return TemporalPoint(entity, reply.timestamp, vector, reply.metadata)


def hits_of(reply: wm.WarmHits, dimension: int) -> pa.Table:
    """The nearest points as a table."""
    metadata = metadata_from_ipc(reply.metadata, len(reply.timestamps) // 8)
    return pa.table(
        {
            SPACE: _numbers(reply.spaces, pa.uint32()),
            ENTITY: _numbers(reply.entities, pa.uint64()),
            TIMESTAMP: _numbers(reply.timestamps, pa.int64()),
            DISTANCE: _numbers(reply.distances, pa.float32()),
            VECTOR: vectors_of(reply.vectors, dimension),
            METADATA: no_metadata(len(reply.timestamps) // 8) if metadata is None else metadata,
        }
    )


def series_of(reply: wm.WarmSeriesAre) -> pa.Table:
    """Series as a table."""
    return pa.table(
        {
            SPACE: _numbers(reply.spaces, pa.uint32()),
            ENTITY: _numbers(reply.entities, pa.uint64()),
            "count": _numbers(reply.counts, pa.int64()),
            "first": _numbers(reply.first_times, pa.int64()),
            "last": _numbers(reply.last_times, pa.int64()),
        }
    )


def reversed_table(table: pa.Table) -> pa.Table:
    """The rows in opposite order; these are copied."""
    return table.take(pa.array(np.arange(table.num_rows - 1, -1, -1)))
