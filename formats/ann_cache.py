"""The cache of an approximate index over vectors: where every row was put, and its short code.

The index divides rotated space into lists by their nearest centroid and keeps a 4-bit product
code of every row (see ``holdfast.workers.ann``). The vectors themselves are not in here, and the
store's own file alone is the truth: a cache that is damaged or does not fit is left unused.

Little-endian throughout; every array starts at a multiple of 4 and follows the one before::

    offset  size  field
         0     4  magic "HFVI"
         4     4  format version, u32, 1
         8    16  file id of the store
        24    32  fingerprint of the commit covered, the caller's to choose
        56     8  rows covered, u64 (r)
        64     8  rows the index was trained on, u64
        72     4  dimension of the vectors, u32
        76     4  metric, u32: 0 l2, 1 ip, 2 cosine
        80     4  dimension in rotated space, u32 (D): a multiple of b and of s
        84     4  side of the rotation, u32 (b)
        88     4  lists, u32 (l)
        92     4  subspaces, u32 (s), each coded by 4 bits
        96     4  rows of a block of codes, u32 (w)
       100     4  bytes of a block of codes, u32 (c)
       104     4  1: codes are of the difference to the centroid; 0: of the vector itself
       108     4  crc of bytes 0 to 107, so that no size is believed unseen
       112    16  library and version that laid out the blocks, ASCII, zero-filled
       128     4  f32: vectors are multiplied by this (l2, ip; 1 for cosine)
       132     4  f32: length that an ip query is brought to
       136     4  f32: greatest squared length of a row in the index, in rotated space
       140     4  f32: squared distance within which most queries find ten rows, there
       144     4  f32: slant up to which further lists are looked at
       148     4  f32: recall at 10 as measured
       152    16  u32, four: lists probed for 10 and 100 results, candidates for 10 and 100
       168   4*D  center, f32
         . 4*b*b  rotation, f32, row-major; the same for every group of b coordinates
         . 4*l*D  centroids, f32
         .   4*l  spreads, f32: mean squared distance of a list's rows from its centroid
         . 64*D   codebook, f32: 16 codes of D/s coordinates for each subspace
         .   4*r  list of every row, u32: ABSENT was dead when its turn came, OUTSIDE is not finite
                  or too far off to be coded
         . c*...  for every list its blocks of codes, its rows in ascending order, the last block
                  padded: ceil(rows of the list / w) blocks of c bytes
         .     4  crc of everything from byte 112 on
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidFormat

Buffer = bytes | bytearray | memoryview
Floats = NDArray[np.float32]

MAGIC = b"HFVI"
FORMAT_VERSION = 1
ABSENT = 0xFFFF_FFFF
OUTSIDE = 0xFFFF_FFFE
CODES = 16  # of a subspace, as 4 bits can tell apart
Metric = Literal["l2", "ip", "cosine"]
METRICS: tuple[Metric, ...] = ("l2", "ip", "cosine")
LIBRARY_BYTES = 16

_HEAD = struct.Struct("<4sI16s32sQQIIIIIIIII")
_CRC = struct.Struct("<I")
_TUNING = struct.Struct("<16s6f4I")
HEADER_BYTES = _HEAD.size + _CRC.size + _TUNING.size
assert _HEAD.size == 108
assert HEADER_BYTES == 168


@dataclass(frozen=True, slots=True, eq=False)
class AnnCache:
    """An index as it is kept; arrays may be read-only views of the file's bytes."""

    file_id: bytes
    fingerprint: bytes
    trained_rows: int
    dimension: int
    metric: Metric
    residual: bool
    block_rows: int
    block_bytes: int
    library: bytes
    scale: float
    query_length: float
    limit: float
    usual: float
    slant: float
    recall: float
    breadths: tuple[int, int]
    depths: tuple[int, int]
    center: Floats
    """(D,)"""
    rotation: Floats
    """(b, b)"""
    centroids: Floats
    """(lists, D)"""
    spreads: Floats
    """(lists,)"""
    codebook: Floats
    """(subspaces, 16, D / subspaces)"""
    homes: NDArray[np.uint32]
    """(rows,): list, or ``ABSENT`` or ``OUTSIDE``"""
    codes: NDArray[np.uint8]
    """Blocks of all lists, one behind the other."""

    @property
    def rows(self) -> int:
        """Rows covered."""
        return len(self.homes)

    @property
    def list_rows(self) -> NDArray[np.int64]:
        """How many rows each list has, (lists,)."""
        inside = self.homes[self.homes < OUTSIDE]
        return np.bincount(inside, minlength=len(self.centroids))

    @property
    def list_bytes(self) -> NDArray[np.int64]:
        """How many bytes of codes each list has, (lists,)."""
        return -(-self.list_rows // self.block_rows) * self.block_bytes


def encode(cache: AnnCache) -> bytes:
    """The file's bytes."""
    assert len(cache.library) <= LIBRARY_BYTES
    lists, width = cache.centroids.shape
    head = _HEAD.pack(
        MAGIC,
        FORMAT_VERSION,
        cache.file_id,
        cache.fingerprint,
        len(cache.homes),
        cache.trained_rows,
        cache.dimension,
        METRICS.index(cache.metric),
        width,
        len(cache.rotation),
        lists,
        len(cache.codebook),
        cache.block_rows,
        cache.block_bytes,
        int(cache.residual),
    )
    tuning = _TUNING.pack(
        cache.library,
        cache.scale,
        cache.query_length,
        cache.limit,
        cache.usual,
        cache.slant,
        cache.recall,
        *cache.breadths,
        *cache.depths,
    )
    floats = (cache.center, cache.rotation, cache.centroids, cache.spreads, cache.codebook)
    body = [
        tuning,
        *(_bytes_of(np.ascontiguousarray(array, "<f4")) for array in floats),
        _bytes_of(np.ascontiguousarray(cache.homes, "<u4")),
        _bytes_of(np.ascontiguousarray(cache.codes)),
    ]
    crc = 0
    for piece in body:
        crc = crc32(piece, crc)
    return b"".join((head, _CRC.pack(crc32(head)), *body, _CRC.pack(crc)))


def _bytes_of(array: NDArray[np.generic]) -> bytes:
    return array.tobytes()


def decode(data: Buffer) -> AnnCache:
    """The index in ``data``, whose arrays are views of it.

    Raises ``InvalidFormat`` unless all of it is there, intact, and one index could have written it.
    """
    view = memoryview(data)
    sizes = _decode_head(view)
    arrays = _Reader(view, HEADER_BYTES)
    width, lists, subspaces = sizes.width, sizes.lists, sizes.subspaces
    end = len(view) - _CRC.size
    floats = 4 * (width + sizes.side**2 + lists * (width + 1) + CODES * width)
    if HEADER_BYTES + floats + 4 * sizes.rows > end:
        raise InvalidFormat(
            f"an index cache of {len(view)} bytes cannot hold {sizes.rows} rows in {lists} lists"
        )
    if crc32(view[_HEAD.size + _CRC.size : end]) != _CRC.unpack_from(view, end)[0]:
        raise InvalidFormat("the index cache's checksum is wrong", offset=end)
    library, scale, query_length, limit, usual, slant, recall, *counts = _TUNING.unpack_from(
        view, 112
    )
    cache = AnnCache(
        sizes.file_id,
        sizes.fingerprint,
        sizes.trained_rows,
        sizes.dimension,
        METRICS[sizes.metric],
        bool(sizes.residual),
        sizes.block_rows,
        sizes.block_bytes,
        library.rstrip(b"\0"),
        scale,
        query_length,
        limit,
        usual,
        slant,
        recall,
        (counts[0], counts[1]),
        (counts[2], counts[3]),
        arrays.floats(width),
        arrays.floats(sizes.side, sizes.side),
        arrays.floats(lists, width),
        arrays.floats(lists),
        arrays.floats(subspaces, CODES, width // subspaces),
        arrays.lists(sizes.rows),
        np.frombuffer(view[arrays.offset : end], np.uint8),
    )
    _check(cache)
    return cache


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The first 108 bytes."""

    file_id: bytes
    fingerprint: bytes
    rows: int
    trained_rows: int
    dimension: int
    metric: int
    width: int
    side: int
    lists: int
    subspaces: int
    block_rows: int
    block_bytes: int
    residual: int


def _decode_head(view: memoryview) -> _Sizes:
    if len(view) < HEADER_BYTES + _CRC.size:
        raise InvalidFormat(f"an index cache of {len(view)} bytes is cut short")
    magic, version, *fields = _HEAD.unpack_from(view)
    if magic != MAGIC or version != FORMAT_VERSION:
        raise InvalidFormat(f"not an index cache of version {FORMAT_VERSION}: {magic!r} {version}")
    if crc32(view[: _HEAD.size]) != _CRC.unpack_from(view, _HEAD.size)[0]:
        raise InvalidFormat("the checksum of the index cache's header is wrong", offset=_HEAD.size)
    sizes = _Sizes(*fields)
    fits = (
        sizes.metric < len(METRICS)
        and sizes.residual <= 1
        and 0 < sizes.lists < OUTSIDE
        and 0 < sizes.dimension <= sizes.width
        and 0 < sizes.side <= sizes.width
        and 0 < sizes.subspaces <= sizes.width
        and sizes.width % sizes.side == 0
        and sizes.width % sizes.subspaces == 0
        and sizes.block_rows > 0
        and sizes.block_bytes > 0
    )
    if not fits:
        raise InvalidFormat(f"the sizes in the index cache's header contradict each other: {sizes}")
    return sizes


class _Reader:
    """Takes arrays from a view, one behind the other."""

    def __init__(self, view: memoryview, offset: int) -> None:
        self._view = view
        self.offset = offset

    def _take(self, bytes_: int) -> memoryview:
        start = self.offset
        self.offset += bytes_
        return self._view[start : self.offset]

    def floats(self, *shape: int) -> Floats:
        count = int(np.prod(shape, dtype=object))
        return np.frombuffer(self._take(4 * count), "<f4").reshape(shape)

    def lists(self, count: int) -> NDArray[np.uint32]:
        return np.frombuffer(self._take(4 * count), "<u4")


def _check(cache: AnnCache) -> None:
    """Raise ``InvalidFormat`` for values that no index has, though their checksum is right."""
    for reason in _faults(cache):
        raise InvalidFormat(f"the index cache contradicts itself: {reason}")


def _faults(cache: AnnCache) -> Iterator[str]:
    lists = len(cache.centroids)
    numbers = (cache.scale, cache.query_length, cache.limit, cache.slant, cache.recall, cache.usual)
    if not np.isfinite(numbers).all():
        yield "a figure is not finite"
    floats = (cache.center, cache.rotation, cache.centroids, cache.spreads, cache.codebook)
    for array in floats:
        if not np.isfinite(array).all():
            yield "a coordinate is not finite"
    if not all(0 < breadth <= lists for breadth in cache.breadths) or not all(cache.depths):
        yield f"probing {cache.breadths} of {lists} lists for {cache.depths} candidates"
    wrong = (cache.homes >= lists) & (cache.homes < OUTSIDE)
    if wrong.any():
        yield f"row {int(wrong.argmax())} is in a list that does not exist"
    elif int(cache.list_bytes.sum(dtype=object)) != len(cache.codes):
        yield f"{len(cache.codes)} bytes of codes do not fit the lists"
