"""The log of an index (.iqdb.wal): a header, then frames back to back until the end of the file.

All integers are little-endian. Header, 12 bytes::

    offset  size  field
         0     8  magic "IQDBWAL" and a zero byte
         8     4  version, u32, always 1

Frame; the CRC-32 is that of the body alone::

    frame   | body_len u32 | crc u32 | body |              body up to 256 MiB
    insert  | 01 | id | count u32 | count x f32 | 00 | more
            | 01 | id | count u32 | count x f32 | 01 | metadata | more
    delete  | 02 | id | more
    id      | 00 | u64 |  or  | 01 | length u64 | bytes |  (a snapshot's length is narrower)

An insert replaces a row of the same id, and a delete of an id that is not there means nothing: so a
log may be read again over a snapshot that has some of it already. What lies in a body behind its
fields is ignored by the original. Here a *stamp* may lie there::

    offset  size  field
         0     4  magic "HFwl"
         4     8  store, u64: the same as in the snapshot's stamp, or the log is of another store
        12     8  sequence number, u64, counting up by one
        20     4  how many more frames belong to the same request, u32

By it a log is read once only, never over a snapshot that is not its own, and requests of many rows
are kept or cut as wholes. Without it, as the original writes, none of that can be told.

How a log ends is judged as a fold's is. ``torn``: the last frame is cut short, or damaged and
nothing intact follows, or its length is 0, as where a disk was extended with zeros. ``corrupt``:
intact frames do follow. ``invalid``: a frame matches its checksum and breaks the format.
"""

import re
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.checksum import crc32
from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.iqdb_values import (
    Flaw,
    Id,
    IndexFlaw,
    canonical_metadata,
)
from holdfast.formats.limits import INDEX_RECORD_BYTES_MAX, RESYNC_BYTES_MAX

Floats = NDArray[np.float32]

MAGIC = b"IQDBWAL\0"
VERSION = 1
HEADER = MAGIC + VERSION.to_bytes(4, "little")
HEADER_BYTES = len(HEADER)
INSERT, DELETE = 1, 2
FRAME_HEAD_BYTES = 8
_FRAME = struct.Struct("<II")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_STAMP_MAGIC = b"HFwl"
_STAMP_MAGIC_U32 = int.from_bytes(_STAMP_MAGIC, "little")
_STAMP = struct.Struct("<4sQQI")
STAMP_BYTES = _STAMP.size
_RUN_FRAMES = 4096
_CANDIDATES_MAX = 1 << 18


class FrameStamp(NamedTuple):
    """Where a frame belongs: see the module's docstring."""

    store: int
    sequence: int
    left: int


class Insert(NamedTuple):
    """Inserts that follow each other: ids, vectors (n, d), and canonical metadata or None."""

    ids: list[Id]
    vectors: Floats
    metadata: list[bytes | None] | None


class Delete(NamedTuple):
    """The delete of one id."""

    id: Id


class Frames(NamedTuple):
    """Frames of equal length that follow each other, from ``start`` to ``stop``."""

    start: int
    stop: int
    records: int
    change: Insert | Delete
    whole_to: int
    """Where the last request ends that ends in here; ``start`` if none does."""
    first: FrameStamp | None
    """Stamp of the first; those behind it count up."""
    last: FrameStamp | None


class Damage(NamedTuple):
    """Bytes at ``offset`` that are no usable frame; ``ending`` if that alone decides the end."""

    offset: int
    reason: str
    ending: Ending | None = None


# --- writing ------------------------------------------------------------------------------------


@cache
def _plain_frame(dimension: int, stamped: bool) -> "np.dtype[np.void]":
    """An insert with a u64 id and no metadata."""
    fields: list[tuple[object, ...]] = [
        ("length", "<u4"),
        ("crc", "<u4"),
        ("operation", "u1"),
        ("kind", "u1"),
        ("id", "<u8"),
        ("count", "<u4"),
        ("vector", "<f4", (dimension,)),
        ("metadata", "u1"),
    ]
    if stamped:
        fields += [
            ("magic", "<u4"),
            ("store", "<u8"),
            ("sequence", "<u8"),
            ("left", "<u4"),
        ]
    return np.dtype(fields)


def insert_bytes_max(ids: "list[Id] | NDArray[np.uint64]", dimension: int, metadata: int) -> int:
    """An upper bound of the longest record of inserts, whose metadata has so many bytes at most."""
    longest = 8
    if isinstance(ids, list):
        longest = max((len(id_) for id_ in ids if isinstance(id_, bytes)), default=8)
    return 1 + 9 + longest + 4 + 4 * dimension + 1 + metadata + STAMP_BYTES


def encode_inserts(
    ids: "list[Id] | NDArray[np.uint64]",
    vectors: Floats,
    metadata: "list[bytes | None] | None",
    stamp: FrameStamp | None,
) -> bytes:
    """The frames of rows inserted together. ``stamp`` is that of the first."""
    if isinstance(ids, np.ndarray) and metadata is None:
        return _encode_plain(ids, vectors, stamp)
    width = 4 * vectors.shape[1]
    data = np.ascontiguousarray(vectors, "<f4").tobytes()
    count = _U32.pack(vectors.shape[1])
    listed: list[Id] = ids.tolist() if isinstance(ids, np.ndarray) else ids
    pieces: list[bytes] = []
    for place, id_ in enumerate(listed):
        entries = None if metadata is None else metadata[place]
        body = b"".join(
            (
                b"\x01",
                _encode_id(id_),
                count,
                data[place * width : (place + 1) * width],
                b"\x00" if entries is None else b"\x01",
                b"" if entries is None else entries,
                b"" if stamp is None else _encode_stamp(_following(stamp, place)),
            )
        )
        pieces += (_FRAME.pack(len(body), crc32(body)), body)
    return b"".join(pieces)


def _encode_plain(ids: NDArray[np.uint64], vectors: Floats, stamp: FrameStamp | None) -> bytes:
    layout = _plain_frame(vectors.shape[1], stamp is not None)
    frames = np.zeros(len(ids), layout)
    frames["length"] = layout.itemsize - FRAME_HEAD_BYTES
    frames["operation"] = INSERT
    frames["id"] = ids
    frames["count"] = vectors.shape[1]
    frames["vector"] = vectors
    if stamp is not None:
        steps = np.arange(len(ids))
        frames["magic"] = _STAMP_MAGIC_U32
        frames["store"] = stamp.store
        frames["sequence"] = np.uint64(stamp.sequence) + steps.astype(np.uint64)
        frames["left"] = stamp.left - steps
    frames["crc"] = _bodies_crc(frames.view(np.uint8).data, 0, len(ids), layout.itemsize)
    return frames.tobytes()


def _bodies_crc(view: memoryview, start: int, count: int, stride: int) -> "NDArray[np.uint32]":
    """The checksums of bodies that lie ``stride`` apart."""
    skip = FRAME_HEAD_BYTES
    crc = crc32
    return np.array(
        [crc(view[at + skip : at + stride]) for at in range(start, start + count * stride, stride)],
        np.uint32,
    )


def encode_deletes(ids: list[Id], stamp: FrameStamp | None) -> bytes:
    """The frames of rows deleted together. ``stamp`` is that of the first."""
    pieces: list[bytes] = []
    for place, id_ in enumerate(ids):
        body = b"\x02" + _encode_id(id_)
        if stamp is not None:
            body += _encode_stamp(_following(stamp, place))
        pieces += (_FRAME.pack(len(body), crc32(body)), body)
    return b"".join(pieces)


def _following(stamp: FrameStamp, place: int) -> FrameStamp:
    return FrameStamp(stamp.store, stamp.sequence + place, stamp.left - place)


def _encode_stamp(stamp: FrameStamp) -> bytes:
    return _STAMP.pack(_STAMP_MAGIC, *stamp)


def _encode_id(id_: Id) -> bytes:
    if isinstance(id_, bytes):
        return b"\x01" + _U64.pack(len(id_)) + id_
    return b"\x00" + _U64.pack(id_)


# --- reading ------------------------------------------------------------------------------------


def header_problem(head: bytes) -> IndexFlaw | None:
    """What is wrong with a log's first bytes, or None. A crash leaves a cut-short header."""
    head = head[:HEADER_BYTES]
    if HEADER.startswith(head):
        return None
    if not MAGIC.startswith(head[:8]):
        return IndexFlaw(Flaw.MAGIC, f"bad magic {head[:8]!r}, expected {MAGIC!r}")
    found = int.from_bytes(head[8:], "little")
    return IndexFlaw(Flaw.VERSION, f"unsupported version {found}, this release reads 1", 8)


def read_frames(
    view: memoryview,
    start: int,
    dimension: int,
    *,
    check: bool = True,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Frames | Damage]:
    """The frames from ``start`` on, those that follow each other alike together.

    Ends with a ``Damage`` unless the last frame ends at the end of the file. With ``check`` off
    checksums are not looked at: for what was read before. Vectors are views.
    """
    offset, end = start, len(view)
    while offset < end:
        tick()
        run = _plain_run(view, offset, dimension, check)
        if run is None:
            for _ in range(64):
                found = read_frame(view, offset, dimension, check=check)
                yield found
                if isinstance(found, Damage):
                    return
                offset = found.stop
                if offset >= end:
                    return
            continue
        yield run
        offset = run.stop


def _plain_run(view: memoryview, offset: int, dimension: int, check: bool) -> Frames | None:
    """The inserts with u64 ids and no metadata that come next, unless they are few."""
    if dimension * 4 > len(view) - offset:  # as a damaged header may say, beyond all arrays
        return None
    for stamped in (True, False):
        layout = _plain_frame(dimension, stamped)
        stride = layout.itemsize
        if view[offset : offset + 4] == _U32.pack(stride - FRAME_HEAD_BYTES):
            break
    else:
        return None
    count = min(_RUN_FRAMES, (len(view) - offset) // stride)
    if count < 2:
        return None
    frames = np.frombuffer(view, layout, count, offset)
    fits = (
        (frames["length"] == stride - FRAME_HEAD_BYTES)
        & (frames["operation"] == INSERT)
        & (frames["kind"] == 0)
        & (frames["count"] == dimension)
        & (frames["metadata"] == 0)
    )
    first = last = None
    if stamped:
        sequence, left = int(frames["sequence"][0]), frames["left"]
        steps = np.arange(count, dtype=np.uint64)
        fits &= (
            (frames["magic"] == _STAMP_MAGIC_U32)
            & (frames["store"] == frames["store"][0])
            & (frames["sequence"] - np.uint64(sequence) == steps)
        )
    count = count if fits.all() else int(fits.argmin())
    if check and count:
        right = _bodies_crc(view, offset, count, stride) == frames["crc"][:count]
        count = count if right.all() else int(right.argmin())
    if count < 2:
        return None
    whole_to = offset + count * stride
    if stamped:
        ends = np.flatnonzero(left[:count] == 0)
        whole_to = offset + stride * (int(ends[-1]) + 1 if len(ends) else 0)
        store = int(frames["store"][0])
        first = FrameStamp(store, sequence, int(left[0]))
        last = FrameStamp(store, sequence + count - 1, int(left[count - 1]))
    insert = Insert(frames["id"][:count].tolist(), frames["vector"][:count], None)
    return Frames(offset, offset + count * stride, count, insert, whole_to, first, last)


def read_frame(
    view: memoryview, offset: int, dimension: int, *, check: bool = True
) -> Frames | Damage:
    """The frame at ``offset``; never raises, whatever the bytes are."""
    if len(view) - offset < FRAME_HEAD_BYTES:
        return Damage(offset, "the file ends inside a frame's head")
    length, stored = _FRAME.unpack_from(view, offset)
    if not length:
        return Damage(offset, "a frame of no bytes")
    if length > INDEX_RECORD_BYTES_MAX:
        reason = f"a frame of {length} bytes, over the limit of {INDEX_RECORD_BYTES_MAX}"
        return Damage(offset, reason)
    start = offset + FRAME_HEAD_BYTES
    stop = start + length
    if stop > len(view):
        return Damage(offset, "the file ends inside a frame")
    if check and (computed := crc32(view[start:stop])) != stored:
        reason = f"checksum mismatch: stored {stored:08x}, computed {computed:08x}"
        return Damage(offset, reason)
    try:
        change, at = _decode_body(view[start:stop], dimension)
    except IndexFlaw as flaw:
        return Damage(offset, flaw.reason, Ending.INVALID)
    stamp = None
    if length - at == STAMP_BYTES and view[start + at : start + at + 4] == _STAMP_MAGIC:
        stamp = FrameStamp(*_STAMP.unpack_from(view, start + at)[1:])
    whole_to = stop if stamp is None or not stamp.left else offset
    return Frames(offset, stop, 1, change, whole_to, stamp, stamp)


def _decode_body(body: memoryview, dimension: int) -> tuple[Insert | Delete, int]:
    """What a body says, and where its fields end. Raises ``IndexFlaw``."""
    operation = body[0]
    if operation not in (INSERT, DELETE):
        raise IndexFlaw(Flaw.PAYLOAD, f"unknown operation {operation}")
    try:
        id_, offset = _decode_id(body, 1)
        if operation == DELETE:
            return Delete(id_), offset
        count = _U32.unpack_from(body, offset)[0]
        offset += 4
        stop = offset + 4 * count
        flag = body[stop]
    except (struct.error, IndexError):
        raise IndexFlaw(Flaw.PAYLOAD, "a record ends inside a field") from None
    if count != dimension:
        raise IndexFlaw(Flaw.PAYLOAD, f"a vector of dimension {count}, the index has {dimension}")
    if id_ == b"":
        raise IndexFlaw(Flaw.PAYLOAD, "an insert with an id of no bytes")
    vector = np.frombuffer(body, "<f4", count, offset).reshape(1, count)
    entries = None
    stop += 1
    if flag == 1:  # any other number means none, as the original has it
        entries, stop = canonical_metadata(body, stop)
    return Insert([id_], vector, [entries]), stop


def _decode_id(body: memoryview, offset: int) -> tuple[Id, int]:
    kind = body[offset]
    number = _U64.unpack_from(body, offset + 1)[0]
    offset += 9
    if kind == 0:
        return number, offset
    if kind != 1:
        raise IndexFlaw(Flaw.PAYLOAD, f"unknown kind of id {kind}")
    if number > len(body) - offset:
        raise IndexError
    return bytes(body[offset : offset + number]), offset + number


def judge(
    view: memoryview,
    damage: Damage | None,
    dimension: int,
    *,
    unsynced_from: int | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Verdict:
    """Whether damage is a torn tail, which may be cut, or corruption, which may not."""
    if damage is None:
        return Verdict(Ending.CLEAN, len(view))
    if damage.ending is not None:
        return Verdict(damage.ending, damage.offset, damage.reason)
    if unsynced_from is not None and damage.offset >= unsynced_from:
        reason = f"{damage.reason}; nothing from {unsynced_from} on had been synced"
        return Verdict(Ending.TORN, damage.offset, reason)
    intact = find_intact(view, damage.offset + 1, dimension, tick)
    if intact is None:
        return Verdict(Ending.TORN, damage.offset, damage.reason)
    behind = (
        "too much lies behind it to be searched for intact frames"
        if intact < 0
        else f"an intact frame follows at {intact}"
    )
    return Verdict(Ending.CORRUPT, damage.offset, f"{damage.reason}; {behind}")


# Looking ahead only, so that one match does not hide the next, which begins inside it.
_BEGINNING = re.compile(rb"(?=[\x01\x02][\x00\x01])")


def find_intact(
    view: memoryview, start: int, dimension: int, tick: Callable[[], None] = lambda: None
) -> int | None:
    """Offset of the first intact frame at or behind ``start``; None if there is none.

    Gives up with -1 after so much work that a file made of look-alikes costs bounded time.
    """
    budget = RESYNC_BYTES_MAX
    candidates = 0
    for number, match in enumerate(_BEGINNING.finditer(view, start + FRAME_HEAD_BYTES)):
        if not number & 0xFFFF:
            tick()
        offset = match.start() - FRAME_HEAD_BYTES
        length = _U32.unpack_from(view, offset)[0]
        if not 10 <= length <= min(INDEX_RECORD_BYTES_MAX, len(view) - match.start()):
            continue
        candidates += 1
        if isinstance(read_frame(view, offset, dimension), Frames):
            return offset
        budget -= length
        if budget < 0 or candidates >= _CANDIDATES_MAX:
            return -1
    return None
