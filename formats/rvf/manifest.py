"""The manifest: what of a file counts (RVF 5.2, 5.13), and what holdfast adds behind it.

All integers little-endian::

    offset  size  field
         0     4  epoch, u32
         4     2  dimension, u16
         6     8  total vectors, u64: rows that are not superseded, deleted ones included
        14     4  directory entries n, u32
        18     1  hardware profile
        19     1  metric: 0 L2, 1 inner product, 2 cosine; some writers of the original leave it 0
        20     2  zero
        22  25*n  entries: segment id u64, offset of the header u64, payload length u64, type u8
         .     4  deleted ids d, u32
         .   8*d  deleted ids, u64, ascending

    the file's identity, optional
         0     4  "IDIF"
         4    16  file id
        20    16  parent's file id, zero for none
        36    32  parent's hash
        68     4  depth of descent, u32

    holdfast's extension, optional
         0     4  "HFMX"
         4     2  version, u16, 1
         6     2  length in bytes of what follows, u16
         8     8  generation, u64
        16     8  offset of the previous manifest's header, u64; 2^64-1 for none
        24     8  next segment id, u64
        32    32  hash of the last witness
        64     8  number of witnesses, u64

Readers of the original ignore what follows the identity, and lose it when they write a manifest of
their own; its absence says so. A later version may make the extension longer.
"""

import struct
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, InvalidFormat
from holdfast.formats.rvf.segment import Buffer

NO_PREVIOUS = (1 << 64) - 1

_HEAD = struct.Struct("<IHQIBB2x")
HEAD_BYTES = _HEAD.size
_ENTRY = struct.Struct("<QQQB")
_COUNT = struct.Struct("<I")
_IDENTITY = struct.Struct("<4s16s16s32sI")
_EXTENSION_HEAD = struct.Struct("<4sHH")
_EXTENSION = struct.Struct("<QQQ32sQ")
_IDENTITY_MAGIC = b"IDIF"
_EXTENSION_MAGIC = b"HFMX"
_EXTENSION_VERSION = 1
assert HEAD_BYTES == 22
assert _IDENTITY.size == 72

# The directory as an array of records without gaps.
_DIRECTORY = np.dtype(
    [("segment_id", "<u8"), ("offset", "<u8"), ("payload_bytes", "<u8"), ("type", "u1")]
)
assert _DIRECTORY.itemsize == _ENTRY.size == 25


class Entry(NamedTuple):
    """Where a segment lies: ``offset`` is that of its header."""

    segment_id: int
    offset: int
    payload_bytes: int
    type: int


class Identity(NamedTuple):
    """Which file this is and which it comes from. A root has zeros for a parent and depth 0."""

    file_id: bytes
    parent_id: bytes
    parent_hash: bytes
    depth: int


class Extension(NamedTuple):
    """What only holdfast writes; a manifest without it was written by something else."""

    generation: int
    previous: int
    next_segment_id: int
    witness_hash: bytes
    witnesses: int


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """A manifest's payload. ``deleted`` is ascending, without repetitions."""

    epoch: int
    dimension: int
    total_vectors: int
    profile: int
    metric: int
    entries: tuple[Entry, ...]
    deleted: NDArray[np.uint64]
    identity: Identity | None
    extension: Extension | None


def manifest_bytes(entries: int, deleted: int) -> int:
    """Length of the payload with that many entries and deleted ids, identity and extension."""
    fixed = HEAD_BYTES + _COUNT.size + _IDENTITY.size + _EXTENSION_HEAD.size + _EXTENSION.size
    return fixed + entries * _ENTRY.size + deleted * 8


def encode_manifest(manifest: Manifest) -> bytes:
    """The payload. Raises ``InvalidArgument`` for a number that its field cannot hold."""
    entries, deleted = manifest.entries, np.ascontiguousarray(manifest.deleted, "<u8")
    assert bool((deleted[1:] > deleted[:-1]).all()), "deleted ids are not ascending"
    try:
        head = _HEAD.pack(
            manifest.epoch,
            manifest.dimension,
            manifest.total_vectors,
            len(entries),
            manifest.profile,
            manifest.metric,
        )
        pack = _ENTRY.pack
        directory = b"".join([pack(*entry) for entry in entries])
        pieces = [head, directory, _COUNT.pack(len(deleted)), deleted.tobytes()]
        if manifest.identity is not None:
            pieces.append(_IDENTITY.pack(_IDENTITY_MAGIC, *manifest.identity))
        if manifest.extension is not None:
            pieces.append(
                _EXTENSION_HEAD.pack(_EXTENSION_MAGIC, _EXTENSION_VERSION, _EXTENSION.size)
            )
            pieces.append(_EXTENSION.pack(*manifest.extension))
    except struct.error as error:
        raise InvalidArgument(f"a number does not fit its field of the manifest: {error}") from None
    return b"".join(pieces)


def peek_epoch(payload: Buffer) -> int:
    """The epoch of a payload of at least ``HEAD_BYTES``, unchecked."""
    epoch: int = _COUNT.unpack_from(payload)[0]
    return epoch


def decode_directory(payload: Buffer) -> NDArray[np.void]:
    """The directory as a view of the payload, fields as of ``Entry``; raises ``InvalidFormat``."""
    if len(payload) < HEAD_BYTES:
        raise InvalidFormat(
            f"a manifest of {len(payload)} bytes, shorter than its head of {HEAD_BYTES}"
        )
    count: int = _HEAD.unpack_from(payload)[3]
    room = (len(payload) - HEAD_BYTES) // _ENTRY.size
    if count > room:
        raise InvalidFormat(f"a manifest says {count} entries and has room for {room}")
    return np.frombuffer(payload, _DIRECTORY, count, HEAD_BYTES)


def decode_manifest(payload: Buffer) -> Manifest:
    """The manifest in ``payload``; raises ``InvalidFormat`` saying what does not fit.

    Stricter than the original, which takes a deleted list that is cut short for a short one. What
    is neither identity nor extension is ignored, as there.
    """
    count = len(decode_directory(payload))
    epoch, dimension, total_vectors, _, profile, metric = _HEAD.unpack_from(payload)
    end = HEAD_BYTES + count * _ENTRY.size
    entries = tuple(map(Entry._make, _ENTRY.iter_unpack(memoryview(payload)[HEAD_BYTES:end])))
    deleted, end = _decode_deleted(payload, end)
    identity = extension = None
    if payload[end : end + 4] == _IDENTITY_MAGIC and end + _IDENTITY.size <= len(payload):
        identity = Identity._make(_IDENTITY.unpack_from(payload, end)[1:])
        end += _IDENTITY.size
    if payload[end : end + 4] == _EXTENSION_MAGIC:
        extension = _decode_extension(payload, end)
    return Manifest(
        epoch, dimension, total_vectors, profile, metric, entries, deleted, identity, extension
    )


def _decode_deleted(payload: Buffer, start: int) -> tuple[NDArray[np.uint64], int]:
    """The deleted ids, copied and put in order if they are not, and where they end."""
    room = len(payload) - start - _COUNT.size
    if room < 0:
        raise InvalidFormat("a manifest ends before its deleted ids")
    count: int = _COUNT.unpack_from(payload, start)[0]
    if count > room // 8:
        raise InvalidFormat(f"a manifest says {count} deleted ids and has room for {room // 8}")
    ids = np.frombuffer(payload, "<u8", count, start + _COUNT.size).astype(np.uint64)
    if not (ids[1:] > ids[:-1]).all():
        ids.sort()
        ids = ids[np.diff(ids, prepend=~ids[:1]) != 0]
    return ids, start + _COUNT.size + count * 8


def _decode_extension(payload: Buffer, start: int) -> Extension | None:
    """The extension, or None for one of another version or shorter than this one."""
    body = start + _EXTENSION_HEAD.size
    if body > len(payload):
        return None
    _, version, length = _EXTENSION_HEAD.unpack_from(payload, start)
    whole = _EXTENSION.size <= length <= len(payload) - body
    if version != _EXTENSION_VERSION or not whole:
        return None
    return Extension._make(_EXTENSION.unpack_from(payload, body))
