"""WITNESS: one entry of the audit chain (RVF 5.4).

All integers little-endian::

    offset  size  field
         0     1  type: 1 for an ingest, a query or a compaction, 0 for a delete
         1     8  timestamp, nanoseconds since 1970, u64
         9     4  length in bytes of the action n, u32
        13     n  action, UTF-8, such as "ingest:count=3,epoch=1"
         .    32  hash of the entry before, zero for the first

An entry's hash is the ADDROT of its whole payload. The original begins a new chain at every open
and every compaction, so a break in the chain of one of its files means nothing.
"""

import struct
from typing import NamedTuple

from holdfast.formats.errors import InvalidArgument, InvalidFormat
from holdfast.formats.rvf.addrot import HASH_BYTES, addrot
from holdfast.formats.rvf.segment import Buffer

_HEAD = struct.Struct("<BQI")

CHAIN_START = bytes(HASH_BYTES)
"""What the first entry of a chain has for a previous hash."""


class Witness(NamedTuple):
    """One entry; ``type`` says what kind of action, ``action`` what was done."""

    type: int
    timestamp_ns: int
    action: str
    previous_hash: bytes


def encode_witness(witness: Witness) -> bytes:
    """The payload."""
    if len(witness.previous_hash) != HASH_BYTES:
        raise InvalidArgument(
            f"a previous hash of {len(witness.previous_hash)} bytes, expected {HASH_BYTES}"
        )
    action = witness.action.encode()
    head = _HEAD.pack(witness.type, witness.timestamp_ns, len(action))
    return head + action + witness.previous_hash


def decode_witness(payload: Buffer) -> Witness:
    """The entry in ``payload``; raises ``InvalidFormat``."""
    if len(payload) < _HEAD.size + HASH_BYTES:
        raise InvalidFormat(
            f"a witness of {len(payload)} bytes, shorter than the least of "
            f"{_HEAD.size + HASH_BYTES}"
        )
    kind, timestamp_ns, length = _HEAD.unpack_from(payload)
    room = len(payload) - _HEAD.size - HASH_BYTES
    if length != room:
        raise InvalidFormat(f"a witness says {length} bytes of action and has room for {room}")
    end = _HEAD.size + length
    try:
        action = bytes(payload[_HEAD.size : end]).decode()
    except UnicodeDecodeError as error:
        raise InvalidFormat(f"a witness's action is not UTF-8: {error}") from None
    return Witness(kind, timestamp_ns, action, bytes(payload[end:]))


def entry_hash(payload: Buffer) -> bytes:
    """What the next entry of the chain names as its previous hash, 32 bytes."""
    return addrot(payload)
