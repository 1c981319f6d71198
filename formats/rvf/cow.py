"""How a branch refers to its parent (RVF 5.9, 5.10), as the published binary writes it.

All integers little-endian::

    offset  size  COW_MAP                              offset  size  MEMBERSHIP
         0     4  magic "MCVR"                              0     4  magic "BMVR"
         4     2  version, 1                                4     2  version, 1
         6     1  map format, 0: flat                       6     1  filter type, 0: bitmap
         7     1  compression policy                        7     1  mode: 0 include, 1 exclude
         8     4  cluster length, a power of two            8     8  vectors: largest id + 1
        12     4  vectors in a cluster                     16     8  members: bits that are set
        16    16  parent's file id                         24     8  offset of the bitmap, 96
        32    32  parent's hash                            32     4  its length
        64     4  bytes of a vector                        36     4  generation
        68     1  frozen                                   40    32  its ADDROT
        69     4  snapshot epoch                           72    24  Bloom filter, never written
        73     4  length n of the parent's name            96        bitmap: u64 words, bit i of
        77     4  length m of the map                                word w is id 64 * w + i
        81     n  parent's file name, UTF-8
         .     m  map: format u8, 0; count u32; then tag u8 and offset u64 of each cluster

The parent's file lies beside the branch: its name is a name, and one that could lead elsewhere is
refused. The binary writes one cluster "in the parent" whatever happens, and keeps the rows of the
branch in ordinary vector segments; which rows of the parent it sees is for the bitmap to say.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.rvf.addrot import HASH_BYTES, addrot
from holdfast.formats.rvf.segment import PAYLOAD_BYTES_MAX, Buffer

_VERSION = 1

_COW_MAGIC = b"MCVR"
_COW = struct.Struct("<4sHBBII16s32sIBIII")
_MAP = struct.Struct("<BI")
_CLUSTER = struct.Struct("<BQ")
_FLAT = 0
assert _COW.size == 81

_MEMBERSHIP_MAGIC = b"BMVR"
_MEMBERSHIP = struct.Struct("<4sHBBQQQII32s24x")
_BITMAP = 0
_WORD_BITS = 64
_WORD_BYTES = 8
assert _MEMBERSHIP.size == 96

VECTOR_COUNT_MAX = (PAYLOAD_BYTES_MAX - _MEMBERSHIP.size) // _WORD_BYTES * _WORD_BITS
"""One more than the largest id that a bitmap has room for."""

_BITS_SET = np.array([number.bit_count() for number in range(256)], np.uint8)
_BYTES_PER_STEP = 1 << 20


def _no_tick() -> None:
    pass


class ClusterTag(IntEnum):
    """Where a cluster is."""

    UNALLOCATED = 0
    IN_PARENT = 1
    LOCAL = 2


class Cluster(NamedTuple):
    """One entry of the map; ``offset`` is 0 unless the cluster is local."""

    tag: int
    offset: int


@dataclass(frozen=True, slots=True)
class CowMap:
    """A branch's reference to its parent; the parent is known by id and hash, found by name."""

    parent_name: str
    parent_id: bytes
    parent_hash: bytes
    cluster_bytes: int
    vectors_per_cluster: int
    bytes_per_vector: int
    frozen: bool = False
    snapshot_epoch: int = 0
    compression_policy: int = 0
    clusters: tuple[Cluster, ...] = (Cluster(ClusterTag.IN_PARENT, 0),)


def encode_cow_map(cow: CowMap) -> bytes:
    """The payload. Raises ``InvalidArgument`` for values that ``decode_cow_map`` would refuse."""
    problem = _cow_problem(cow)
    if problem:
        raise InvalidArgument(problem)
    name = cow.parent_name.encode()
    clusters = b"".join([_CLUSTER.pack(*cluster) for cluster in cow.clusters])
    table = _MAP.pack(_FLAT, len(cow.clusters)) + clusters
    head = _COW.pack(
        _COW_MAGIC,
        _VERSION,
        _FLAT,
        cow.compression_policy,
        cow.cluster_bytes,
        cow.vectors_per_cluster,
        cow.parent_id,
        cow.parent_hash,
        cow.bytes_per_vector,
        cow.frozen,
        cow.snapshot_epoch,
        len(name),
        len(table),
    )
    return head + name + table


def decode_cow_map(payload: Buffer) -> CowMap:
    """The reference in ``payload``; raises ``InvalidFormat``."""
    if len(payload) < _COW.size:
        raise InvalidFormat(
            f"a cluster map of {len(payload)} bytes, shorter than its header of {_COW.size}"
        )
    (
        magic, version, map_format, policy, cluster_bytes, vectors_per_cluster, parent_id,
        parent_hash, bytes_per_vector, frozen, snapshot_epoch, name_bytes, map_bytes,
    ) = _COW.unpack_from(payload)  # fmt: skip
    _check_head("cluster map", magic, _COW_MAGIC, version)
    if map_format != _FLAT:
        raise InvalidFormat(f"a cluster map of the unsupported format {map_format}")
    if frozen > 1:
        raise InvalidFormat(f"a cluster map whose frozen flag is {frozen}")
    map_at = _COW.size + name_bytes
    if map_at + map_bytes != len(payload):
        raise InvalidFormat(
            f"a cluster map of {len(payload)} bytes says its name and map end at "
            f"{map_at + map_bytes}"
        )
    try:
        name = bytes(payload[_COW.size : map_at]).decode()
    except UnicodeDecodeError as error:
        raise InvalidFormat(f"the parent's file name is not UTF-8: {error}") from None
    cow = CowMap(
        parent_name=name,
        parent_id=parent_id,
        parent_hash=parent_hash,
        cluster_bytes=cluster_bytes,
        vectors_per_cluster=vectors_per_cluster,
        bytes_per_vector=bytes_per_vector,
        frozen=bool(frozen),
        snapshot_epoch=snapshot_epoch,
        compression_policy=policy,
        clusters=_decode_clusters(memoryview(payload)[map_at:]),
    )
    problem = _cow_problem(cow)
    if problem:
        raise InvalidFormat(problem)
    return cow


def _decode_clusters(table: memoryview) -> tuple[Cluster, ...]:
    if len(table) < _MAP.size:
        raise InvalidFormat(f"a cluster table of {len(table)} bytes")
    table_format, count = _MAP.unpack_from(table)
    if table_format != _FLAT:
        raise InvalidFormat(f"a cluster table of format {table_format}")
    needed = _MAP.size + count * _CLUSTER.size
    if needed != len(table):
        raise InvalidFormat(
            f"a cluster table of {len(table)} bytes says {count} clusters, which are {needed}"
        )
    return tuple(map(Cluster._make, _CLUSTER.iter_unpack(table[_MAP.size :])))


def _cow_problem(cow: CowMap) -> str | None:
    """What is wrong with a reference to a parent, or None."""
    if cow.parent_name in ("", ".", "..") or "/" in cow.parent_name or "\0" in cow.parent_name:
        return f"{cow.parent_name!r} is not the name of a file beside the branch"
    if len(cow.parent_id) != 16 or len(cow.parent_hash) != HASH_BYTES:
        return f"a parent's id of {len(cow.parent_id)} and hash of {len(cow.parent_hash)} bytes"
    if cow.cluster_bytes.bit_count() != 1:
        return f"clusters of {cow.cluster_bytes} bytes, which is no power of two"
    if not cow.vectors_per_cluster:
        return "clusters of no vectors"
    for cluster in cow.clusters:
        if not 0 <= cluster.tag <= ClusterTag.LOCAL:
            return f"a cluster has the unknown tag {cluster.tag}"
    return None


@dataclass(frozen=True, slots=True, eq=False)
class Membership:
    """Which ids of its parent a branch shows; rows of its own it shows whatever this says.

    ``bitmap`` is uint8 of 8 bytes for each 64 ids begun, least significant bit first. With
    ``exclude``, the ids whose bit is set are the ones not shown, and any id without a bit is.
    """

    vector_count: int
    bitmap: NDArray[np.uint8]
    exclude: bool = False
    generation: int = 0

    @classmethod
    def of(
        cls,
        ids: NDArray[np.uint64],
        vector_count: int,
        *,
        exclude: bool = False,
        generation: int = 0,
    ) -> Self:
        """With the bits of ``ids`` (n,) set, in any order, of ``vector_count`` bits in all.

        Raises ``LimitExceeded`` for more bits than a segment holds: a parent with an id that large
        cannot have branches that the original reads. ``InvalidArgument`` for an id without a bit.
        """
        if vector_count > VECTOR_COUNT_MAX:
            raise LimitExceeded(
                f"a membership of {vector_count} ids is over the limit of {VECTOR_COUNT_MAX}"
            )
        ids = np.sort(ids)
        if len(ids) and int(ids[-1]) >= vector_count:
            raise InvalidArgument(f"id {ids[-1]} in a membership of {vector_count} ids")
        bitmap = np.zeros(_bitmap_bytes(vector_count), np.uint8)
        if len(ids):
            places = (ids >> np.uint64(3)).astype(np.intp)
            bits = np.left_shift(1, (ids & np.uint64(7)).astype(np.uint8), dtype=np.uint8)
            firsts = np.flatnonzero(np.diff(places, prepend=-1))
            bitmap[places[firsts]] = np.bitwise_or.reduceat(bits, firsts)
        return cls(vector_count, bitmap, exclude, generation)

    def members(self) -> int:
        """How many bits are set."""
        steps = range(0, len(self.bitmap), _BYTES_PER_STEP)
        return sum(
            int(_BITS_SET[self.bitmap[start : start + _BYTES_PER_STEP]].sum()) for start in steps
        )

    def ids(self) -> NDArray[np.uint64]:
        """The ids whose bits are set, ascending; 8 bytes each, so up to 64 times the bitmap."""
        places = np.flatnonzero(self.bitmap)
        parts = [np.empty(0, np.uint64)]
        for start in range(0, len(places), _BYTES_PER_STEP):
            part = places[start : start + _BYTES_PER_STEP]
            bits = np.flatnonzero(np.unpackbits(self.bitmap[part], bitorder="little"))
            parts.append((part[bits >> 3] * 8 + (bits & 7)).astype(np.uint64))
        return np.concatenate(parts)

    def shows(self, ids: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Whether the branch shows each of these ids of its parent, (n,)."""
        known = ids < self.vector_count
        inside = np.where(known, ids, 0)
        if len(self.bitmap):
            byte = self.bitmap[(inside >> np.uint64(3)).astype(np.intp)]
            known &= (byte >> (inside & np.uint64(7)).astype(np.uint8) & 1).astype(np.bool_)
        return ~known if self.exclude else known


def _bitmap_bytes(vector_count: int) -> int:
    return -(-vector_count // _WORD_BITS) * _WORD_BYTES


def encode_membership(membership: Membership, tick: Callable[[], None] = _no_tick) -> bytes:
    """The payload; hashing the bitmap calls ``tick`` now and then."""
    bitmap = membership.bitmap.tobytes()
    head = _MEMBERSHIP.pack(
        _MEMBERSHIP_MAGIC,
        _VERSION,
        _BITMAP,
        membership.exclude,
        membership.vector_count,
        membership.members(),
        _MEMBERSHIP.size,
        len(bitmap),
        membership.generation,
        addrot(bitmap, tick),
    )
    return head + bitmap


def decode_membership(payload: Buffer, tick: Callable[[], None] = _no_tick) -> Membership:
    """The membership in ``payload``, its bitmap copied; raises ``InvalidFormat``."""
    if len(payload) < _MEMBERSHIP.size:
        raise InvalidFormat(
            f"a membership of {len(payload)} bytes, shorter than its header of {_MEMBERSHIP.size}"
        )
    magic, version, kind, mode, count, members, start, length, generation, stored = (
        _MEMBERSHIP.unpack_from(payload)
    )
    _check_head("membership", magic, _MEMBERSHIP_MAGIC, version)
    if kind != _BITMAP:
        raise InvalidFormat(f"a membership of the unsupported type {kind}")
    if mode > 1:
        raise InvalidFormat(f"a membership of the unknown mode {mode}")
    if length != _bitmap_bytes(count):
        raise InvalidFormat(f"a bitmap of {length} bytes for {count} ids")
    if start + length > len(payload):
        raise InvalidFormat(f"a bitmap of {length} bytes at {start} in a payload of {len(payload)}")
    bitmap = np.frombuffer(payload, np.uint8, length, start).copy()
    membership = Membership(count, bitmap, bool(mode), generation)
    if addrot(bitmap.tobytes(), tick) != stored:
        raise InvalidFormat("a bitmap whose hash is not the one its header says")
    if membership.members() != members:
        raise InvalidFormat(f"a bitmap with {membership.members()} bits set says {members} members")
    last_word = int.from_bytes(bitmap[-_WORD_BYTES:].tobytes(), "little")
    if last_word >> (count - 1) % _WORD_BITS + 1:
        raise InvalidFormat(f"a bitmap has bits set behind its {count} ids")
    return membership


def _check_head(what: str, magic: bytes, expected: bytes, version: int) -> None:
    if magic != expected:
        raise InvalidFormat(f"bad {what} magic {magic.hex(' ')}, expected {expected.hex(' ')}")
    if version != _VERSION:
        raise InvalidFormat(f"unsupported {what} version {version}")
