"""The least a Python program has to do for the same work: what the fold is a multiple of."""

import mmap
import os
import struct
import sys
from collections.abc import Iterable

import holdfast
from holdfast.formats.checksum import crc32
from holdfast.formats.fold_log import HEADER
from holdfast.formats.values import AnyUpdate

_KIND_KEY = struct.Struct("<BH")
_U32 = struct.Struct("<I")
_HEAD = struct.Struct("<IBH")
_PUT = 1


class BareLog:
    """A log and a dictionary in this process: encode, one write per batch, no sync, no checks."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._table: dict[bytes, bytes] = {}

    def apply(self, puts: list[AnyUpdate]) -> None:
        """Append the records of these puts and remember their values."""
        pack_head, pack_u32, table = _KIND_KEY.pack, _U32.pack, self._table
        pieces: list[bytes] = []
        append = pieces.append
        for put in puts:
            assert isinstance(put, holdfast.Put)
            key, value, token = put.key.encode(), put.value, put.version.token
            body = b"%b%b%b%b%c%b" % (
                pack_head(_PUT, len(key)), key, pack_u32(len(value)), value, len(token), token
            )  # fmt: skip
            append(pack_u32(crc32(body)))
            append(body)
            table[key] = value
        os.write(self._descriptor, b"".join(pieces))

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def read_log(path: str) -> dict[bytes, int]:
    """Slice the records of a fold's log, check each checksum, fill a dictionary; nothing else.

    The dictionary says where records lie, as the fold's does: keeping them would cost more.
    """
    with open(path, "rb") as file:
        log = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    table: dict[bytes, int] = {}
    read_head, read_u32 = _HEAD.unpack_from, _U32.unpack_from
    offset, end = len(HEADER), len(log)
    while offset < end:
        crc, kind, key_bytes = read_head(log, offset)
        if kind == _PUT:
            value_end = offset + 11 + key_bytes + read_u32(log, offset + 7 + key_bytes)[0]
            stop = value_end + 1 + log[value_end]
            record = log[offset + 4 : stop]
            if crc32(record) != crc:
                raise ValueError(f"damaged at {offset}")
            table[bytes(record[3 : 3 + key_bytes])] = offset
        else:
            stop = offset + 6 + log[offset + 5]
            if crc32(log[offset + 4 : stop]) != crc:
                raise ValueError(f"damaged at {offset}")
        offset = stop
    return table


def read_files(paths: Iterable[str]) -> None:
    """Read files as a whole, in pieces of 1 MiB, into memory that is there already."""
    piece = bytearray(1 << 20)
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(piece):
                pass


def write_and_sync(path: str, size: int) -> None:
    """Write ``size`` bytes in pieces of 1 MiB to a new file, and sync it."""
    piece = os.urandom(1 << 20)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for start in range(0, size, len(piece)):
            os.write(descriptor, piece[: size - start])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Have what was written to a file on the disk when this returns."""
    if sys.platform == "darwin":
        os.fsync(descriptor)
    else:
        os.fdatasync(descriptor)
