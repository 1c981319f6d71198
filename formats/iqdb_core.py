"""The payload of index type "iqdb-core": parameters of the kind of index, and all rows.

All integers are little-endian::

    offset  size  field
         0     4  magic "IQDC"
         4     4  version, u32, always 1
         8     1  kind: 0 flat, 1 HNSW, 2 IVF
         9     k  HNSW: m, ef_construction, ef_search, filter_widen, seed, each u64 (k = 40)
                  IVF: n_clusters, n_probes, training_sample_size, each u64; use_pq u8;
                  pq_subvectors: 0, or 1 and u64; pq_refine_factor u32; seed u64 (k = 38 or 46)
       9+k     8  dim, u64
      17+k     1  metric code
      18+k     8  rows, u64
      26+k        rows, back to back

    row  | 00 | id u64                | dim x f32 | metadata |
         | 01 | id_len u32 | id bytes | dim x f32 | metadata |

    metadata: 00, or 01 and what ``iqdb_values`` describes

A graph or centroids are not stored: they are made again from the rows. Rows are in storage order:
the order of insertion, a replaced row in its old place, the last row moved into a deleted one's.
Bytes behind the last row belong to nobody here and are ignored.

Most files have rows of equal length one after the other (u64 ids, no metadata): such runs are
written and read as arrays, the rest row by row.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.iqdb_values import (
    METRICS,
    Buffer,
    FlatParameters,
    Flaw,
    HnswParameters,
    Id,
    IndexFlaw,
    IvfParameters,
    Metric,
    Parameters,
    canonical_metadata,
)
from holdfast.formats.limits import INDEX_DIMENSION_MAX, MIB

Floats = NDArray[np.float32]

INDEX_TYPE = "iqdb-core"
MAGIC = b"IQDC"
VERSION = 1
_HEAD = struct.Struct("<4sIB")
_HNSW = struct.Struct("<5Q")
_IVF = struct.Struct("<3QBB")
_IVF_END = struct.Struct("<IQ")
_SHAPE = struct.Struct("<QBQ")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_NUMBER_ID, _BYTES_ID = 0, 1
_RUN_BYTES_MAX = 64 * MIB  # a dictionary is made at once more cheaply than piece by piece
_MIXED_FLOATS = 1 << 22
_RUN_MIN = 16  # shorter runs are not worth an array


class CoreHeader(NamedTuple):
    """What the payload says ahead of its rows."""

    parameters: Parameters
    dimension: int
    metric: Metric
    rows: int


class Batch(NamedTuple):
    """Rows: ids, vectors (n, dimension), and canonical metadata, None where all have none."""

    ids: list[Id]
    vectors: Floats
    metadata: list[bytes | None] | None


def encode_header(header: CoreHeader) -> bytes:
    """The payload up to its first row."""
    parameters = header.parameters
    if isinstance(parameters, HnswParameters):
        kind, block = 1, _HNSW.pack(
            parameters.m, parameters.ef_construction, parameters.ef_search,
            parameters.filter_widen, parameters.seed,
        )  # fmt: skip
    elif isinstance(parameters, IvfParameters):
        subvectors = parameters.pq_subvectors
        kind, block = 2, b"".join((
            _IVF.pack(
                parameters.n_clusters, parameters.n_probes, parameters.training_sample_size,
                parameters.use_pq, subvectors is not None,
            ),
            b"" if subvectors is None else _U64.pack(subvectors),
            _IVF_END.pack(parameters.pq_refine_factor, parameters.seed),
        ))  # fmt: skip
    else:
        kind, block = 0, b""
    shape = _SHAPE.pack(header.dimension, METRICS.index(header.metric), header.rows)
    return _HEAD.pack(MAGIC, VERSION, kind) + block + shape


def decode_header(payload: memoryview) -> tuple[CoreHeader, int]:
    """The header, and where the first row begins. Raises ``IndexFlaw``."""
    try:
        magic, version, kind = _HEAD.unpack_from(payload)
        if magic != MAGIC:
            raise IndexFlaw(Flaw.PAYLOAD, f"payload magic is {magic!r}, expected {MAGIC!r}")
        if version != VERSION:
            raise IndexFlaw(Flaw.PAYLOAD, f"payload version is {version}, expected {VERSION}", 4)
        parameters, offset = _decode_parameters(payload, kind)
        dimension, metric, rows = _SHAPE.unpack_from(payload, offset)
    except (struct.error, IndexError):
        raise IndexFlaw(Flaw.PAYLOAD, "the payload ends inside its header", len(payload)) from None
    if metric >= len(METRICS):
        raise IndexFlaw(Flaw.METRIC, f"unknown metric code {metric} in the payload", offset + 8)
    start = offset + _SHAPE.size
    if not 0 < dimension <= INDEX_DIMENSION_MAX:
        reason = f"dimension {dimension} is not within 1 to {INDEX_DIMENSION_MAX}"
        raise IndexFlaw(Flaw.PAYLOAD, reason, offset)
    if rows * (_row_bytes_min(dimension)) > len(payload) - start:
        raise IndexFlaw(
            Flaw.PAYLOAD,
            f"{rows} rows of dimension {dimension} do not fit in {len(payload) - start} bytes",
            offset,
        )
    return CoreHeader(parameters, dimension, METRICS[metric], rows), start


def _decode_parameters(payload: memoryview, kind: int) -> tuple[Parameters, int]:
    offset = _HEAD.size
    if kind == 0:
        return FlatParameters(), offset
    if kind == 1:
        return HnswParameters(*_HNSW.unpack_from(payload, offset)), offset + _HNSW.size
    if kind != 2:
        raise IndexFlaw(Flaw.PAYLOAD, f"unknown kind of index {kind}", offset - 1)
    clusters, probes, sample, use_pq, has_subvectors = _IVF.unpack_from(payload, offset)
    offset += _IVF.size
    subvectors = None
    if has_subvectors > 1:
        raise IndexFlaw(Flaw.PAYLOAD, f"unknown option tag {has_subvectors}", offset - 1)
    if has_subvectors:
        subvectors = _U64.unpack_from(payload, offset)[0]
        offset += _U64.size
    refine, seed = _IVF_END.unpack_from(payload, offset)
    found = IvfParameters(clusters, probes, sample, use_pq != 0, subvectors, refine, seed)
    return found, offset + _IVF_END.size


def _row_bytes_min(dimension: int) -> int:
    return 1 + 4 + 1 + 4 * dimension + 1


# --- rows ---------------------------------------------------------------------------------------


@cache
def _plain_row(dimension: int) -> "np.dtype[np.void]":
    """A row with a u64 id and no metadata."""
    return np.dtype(
        [("kind", "u1"), ("id", "<u8"), ("vector", "<f4", (dimension,)), ("metadata", "u1")]
    )


def encode_rows(ids: Sequence[Id], vectors: Floats, metadata: Sequence[bytes | None]) -> Buffer:
    """Rows, back to back. ``metadata`` is canonical."""
    if not any(metadata) and bytes not in set(map(type, ids)):
        rows = np.empty(len(ids), _plain_row(vectors.shape[1]))
        rows["kind"] = _NUMBER_ID
        rows["id"] = np.array(ids, np.uint64)
        rows["vector"] = vectors
        rows["metadata"] = 0
        return rows.view(np.uint8).data
    pieces: list[bytes] = []
    little = np.ascontiguousarray(vectors, "<f4")
    data, width = little.tobytes(), 4 * vectors.shape[1]
    for place, (id_, entries) in enumerate(zip(ids, metadata, strict=True)):
        pieces += (
            encode_id(id_),
            data[place * width : (place + 1) * width],
            b"\x00" if entries is None else b"\x01" + entries,
        )
    return b"".join(pieces)


def encode_id(id_: Id) -> bytes:
    """An id as a snapshot has it; a log's length of bytes is wider."""
    if isinstance(id_, bytes):
        return b"\x01" + _U32.pack(len(id_)) + id_
    return b"\x00" + _U64.pack(id_)


def _no_tick() -> None:
    pass


def decode_rows(
    payload: memoryview, start: int, header: CoreHeader, tick: Callable[[], None] = _no_tick
) -> Iterator[Batch]:
    """The rows from ``start`` on, some at a time. Raises ``IndexFlaw`` where they end too early."""
    offset, left = start, header.rows
    most_plain = max(_RUN_MIN, _RUN_BYTES_MAX // _plain_row(header.dimension).itemsize)
    while left:
        tick()
        batch, stop = _plain_run(payload, offset, min(left, most_plain), header.dimension)
        if batch is None:
            most = min(left, 256, max(1, _MIXED_FLOATS // header.dimension))
            batch, stop = _mixed_rows(payload, offset, most, header.dimension)
        yield batch
        offset, left = stop, left - len(batch.ids)


def _plain_run(
    payload: memoryview, offset: int, most: int, dimension: int
) -> tuple[Batch | None, int]:
    """The rows with u64 ids and no metadata that come next, unless they are few."""
    row = _plain_row(dimension)
    plain = _plain_count(payload, offset, min(most, (len(payload) - offset) // row.itemsize), row)
    if plain < min(_RUN_MIN, most):
        return None, offset
    rows = np.frombuffer(payload, row, plain, offset)
    ids = rows["id"].copy().tolist()  # aligned numbers become a list faster
    return Batch(ids, rows["vector"], None), offset + plain * row.itemsize


def _plain_count(payload: memoryview, offset: int, most: int, row: "np.dtype[np.void]") -> int:
    """How many of the ``most`` rows that come next are plain.

    It looks ahead no further than some times as far as they go. Where plain rows are few, again and
    again, looking through all that is left each time would cost the square of the payload.
    """
    plain, ahead = 0, _RUN_MIN
    while plain < most:
        rows = np.frombuffer(payload, row, min(ahead, most - plain), offset + plain * row.itemsize)
        other = (rows["kind"] != _NUMBER_ID) | (rows["metadata"] != 0)
        if other.any():
            return plain + int(other.argmax())
        plain += len(rows)
        ahead *= 4
    return plain


def _mixed_rows(payload: memoryview, offset: int, most: int, dimension: int) -> tuple[Batch, int]:
    """The rows that come next, of any shape; those before a flaw, unless that is in the first."""
    ids: list[Id] = []
    vectors = np.empty((most, dimension), np.float32)
    metadata: list[bytes | None] = []
    for place in range(most):
        try:
            id_, entries, start, stop = _read_row(payload, offset, dimension)
        except IndexFlaw:
            if not place:
                raise
            break
        vectors[place] = np.frombuffer(payload, "<f4", dimension, start)
        ids.append(id_)
        metadata.append(entries)
        offset = stop
    return Batch(ids, vectors[: len(ids)], metadata), offset


def _read_row(
    payload: memoryview, offset: int, dimension: int
) -> tuple[Id, bytes | None, int, int]:
    """A row's id and metadata, where its vector begins, and where the row ends."""
    id_, start = _read_id(payload, offset)
    stop = start + 4 * dimension
    if stop >= len(payload):
        raise _cut(offset)
    flag, stop = payload[stop], stop + 1
    if not flag:
        return id_, None, start, stop
    if flag > 1:
        raise IndexFlaw(Flaw.PAYLOAD, f"unknown metadata flag {flag}", stop - 1)
    entries, stop = canonical_metadata(payload, stop)
    return id_, entries, start, stop


def _read_id(payload: memoryview, offset: int) -> tuple[Id, int]:
    try:
        kind = payload[offset]
        if kind == _NUMBER_ID:
            return _U64.unpack_from(payload, offset + 1)[0], offset + 9
        if kind != _BYTES_ID:
            raise IndexFlaw(Flaw.PAYLOAD, f"unknown kind of id {kind}", offset)
        length = _U32.unpack_from(payload, offset + 1)[0]
    except (struct.error, IndexError):
        raise _cut(offset) from None
    start = offset + 5
    if not length:
        raise IndexFlaw(Flaw.PAYLOAD, "an id of no bytes", offset)
    if start + length > len(payload):
        raise IndexFlaw(Flaw.PAYLOAD_CUT, "the payload ends inside an id", offset)
    return bytes(payload[start : start + length]), start + length


def _cut(offset: int) -> IndexFlaw:
    return IndexFlaw(Flaw.PAYLOAD, "the payload ends inside a row", offset)
