"""JOURNAL: the ids that one call asked to delete (RVF 5.3).

All integers little-endian::

    offset  size  field
         0     4  entries n, u32
         4     4  epoch, u32
         8     8  previous journal's id, u64; always 0
        16  12*n  entries: type u8, 1 for delete; zero u8; length u16, 8; id u64

Every id that was asked for is listed, in that order, those that no row has included. No reader of
the original ever looks at a journal: the manifest's deleted ids are the truth.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.rvf.segment import Buffer

_HEAD = struct.Struct("<IIQ")
_ENTRY = np.dtype([("type", "u1"), ("zero", "u1"), ("length", "<u2"), ("id", "<u8")])
assert _ENTRY.itemsize == 12

_DELETE = 1
_ID_BYTES = 8


class Journal(NamedTuple):
    """The ids (n,) of one delete, and the epoch it made."""

    epoch: int
    ids: NDArray[np.uint64]


def encode_journal(journal: Journal) -> bytes:
    """The payload."""
    entries = np.zeros(len(journal.ids), _ENTRY)
    entries["type"], entries["length"], entries["id"] = _DELETE, _ID_BYTES, journal.ids
    return _HEAD.pack(len(entries), journal.epoch, 0) + entries.tobytes()


def decode_journal(payload: Buffer) -> Journal:
    """The journal in ``payload``; raises ``InvalidFormat``."""
    if len(payload) < _HEAD.size:
        raise InvalidFormat(
            f"a journal of {len(payload)} bytes, shorter than its head of {_HEAD.size}"
        )
    count, epoch, _ = _HEAD.unpack_from(payload)
    room = (len(payload) - _HEAD.size) // _ENTRY.itemsize
    if count > room:
        raise InvalidFormat(f"a journal says {count} entries and has room for {room}")
    entries = np.frombuffer(payload, _ENTRY, count, _HEAD.size)
    if not ((entries["type"] == _DELETE) & (entries["length"] == _ID_BYTES)).all():
        raise InvalidFormat("a journal has entries other than deletes")
    return Journal(epoch, entries["id"].astype(np.uint64))
