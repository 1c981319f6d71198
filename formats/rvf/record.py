"""What holdfast keeps in an RVF file beyond the original format: a store record, and hidden ids.

Two extension segments, which readers of the original carry along byte for byte. Both begin alike;
all integers little-endian::

    offset  size  field
         0     4  magic: "HFST" for the store record (type 0xF1), "HFHD" for hidden ids (0xF2)
         4     2  version, u16, 1
         6     2  flags, u16; hidden ids: bit 0 says that all lists of a lower generation are void
         8     8  generation, u64
        16     8  count, u64: bytes of text, or ids
        24        the record as JSON (UTF-8), or the ids: u64 each, ascending

Of several store records the one with the highest generation counts: the original's compaction
brings superseded ones back into the directory. The hidden ids of a branch are the union of its
lists; they are ids of its parent that the branch does not show.
"""

import struct
from typing import NamedTuple, Self

import msgspec
import numpy as np
from msgspec import structs
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.rvf.terms import Metric, Origin, Profile

Buffer = bytes | bytearray | memoryview

STORE_MAGIC = b"HFST"
HIDDEN_MAGIC = b"HFHD"
FORMAT_VERSION = 1
_SNAPSHOT = 1
_HEAD = struct.Struct("<4sHHQQ")
HEAD_BYTES = _HEAD.size
assert HEAD_BYTES == 24


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The commit of a parent that a child was made from: its file name, its manifest, its end.

    ``name`` is relative to the child's directory. ``manifest`` and ``end`` are byte offsets.
    """

    name: str
    manifest: int
    end: int


class Child(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A branch of this file, which reads it: file name relative to this one's directory, and id."""

    name: str
    file_id: str


class StoreRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The persistent facts of a store that the original format has no room for."""

    metric: Metric
    profile: Profile = "generic"
    frozen: bool = False
    origin: Origin = "root"
    derivation: str | None = None
    """What a derived file says it is: free text."""
    parent: Pin | None = None
    children: tuple[Child, ...] = ()

    def with_children(self, children: tuple[Child, ...]) -> Self:
        """The record with other branches."""
        return structs.replace(self, children=children)

    def as_frozen(self) -> Self:
        """The record of a store that is never written again."""
        return structs.replace(self, frozen=True)


class HiddenIds(NamedTuple):
    """One list of hidden ids."""

    generation: int
    snapshot: bool
    ids: NDArray[np.uint64]


def encode_store(record: StoreRecord, generation: int) -> bytes:
    """Payload of a store record."""
    text = msgspec.json.encode(record)
    return _HEAD.pack(STORE_MAGIC, FORMAT_VERSION, 0, generation, len(text)) + text


def decode_store(payload: Buffer) -> tuple[int, StoreRecord] | None:
    """Generation and record; None for a segment of somebody else's. ``InvalidFormat`` if broken."""
    head = _head(payload, STORE_MAGIC)
    if head is None:
        return None
    _, generation, count = head
    if count != len(payload) - HEAD_BYTES:
        raise InvalidFormat(
            f"a store record says {count} bytes of text and has {len(payload) - HEAD_BYTES}"
        )
    try:
        record = msgspec.json.decode(memoryview(payload)[HEAD_BYTES:], type=StoreRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFormat(f"a store record is not what this release reads: {error}") from error
    return generation, record


def encode_hidden(ids: NDArray[np.uint64], generation: int, *, snapshot: bool) -> bytes:
    """Payload of a list of hidden ids, which must be ascending."""
    flags = _SNAPSHOT if snapshot else 0
    head = _HEAD.pack(HIDDEN_MAGIC, FORMAT_VERSION, flags, generation, len(ids))
    return head + ids.astype("<u8", copy=False).tobytes()


def decode_hidden(payload: Buffer) -> HiddenIds | None:
    """The list; None for a segment of somebody else's. ``InvalidFormat`` if broken."""
    head = _head(payload, HIDDEN_MAGIC)
    if head is None:
        return None
    flags, generation, count = head
    if count * 8 != len(payload) - HEAD_BYTES:
        raise InvalidFormat(
            f"a list of {count} hidden ids has {len(payload) - HEAD_BYTES} bytes for them"
        )
    ids = np.frombuffer(payload, "<u8", offset=HEAD_BYTES).astype(np.uint64)
    if np.any(ids[1:] <= ids[:-1]):
        raise InvalidFormat("a list of hidden ids is not ascending")
    return HiddenIds(generation, bool(flags & _SNAPSHOT), ids)


def _head(payload: Buffer, magic: bytes) -> tuple[int, int, int] | None:
    """Flags, generation and count; None when the magic or the size is another."""
    if len(payload) < HEAD_BYTES:
        return None
    found, version, flags, generation, count = _HEAD.unpack_from(payload)
    if found != magic:
        return None
    if version != FORMAT_VERSION:
        raise InvalidFormat(f"version {version} of {magic!r} is not {FORMAT_VERSION}")
    return flags, generation, count
