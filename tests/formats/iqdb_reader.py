"""A second reader of the index's files, written from the format alone: slow, plain, unforgiving.

It shares nothing with the product: ``struct``, ``zlib`` and the codecs, one field after the other.
"""

import struct
import zlib
from typing import NamedTuple

import lz4.block
import zstandard

Row = tuple[int | bytes, bytes, tuple[tuple[str, object], ...] | None]
"""Id, the vector's bytes, and metadata in the order of the file; floats as their 8 bytes."""


class Snapshot(NamedTuple):
    """All that a snapshot says."""

    version: int
    index_type: str
    dimension: int
    metric: int
    vectors: int
    compression: int
    kind: int
    rows: list[Row]
    rest: bytes


class Cursor:
    """Takes bytes off the front."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        """So many bytes."""
        assert self.at + count <= len(self.data), "the bytes end too early"
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form: str) -> int:
        """One little-endian integer."""
        (value,) = struct.unpack("<" + form, self.take(struct.calcsize(form)))
        assert isinstance(value, int)
        return value

    def metadata(self) -> tuple[tuple[str, object], ...]:
        """Entries, in order."""
        found: list[tuple[str, object]] = []
        for _ in range(self.number("I")):
            key = self.take(self.number("I")).decode()
            tag = self.number("B")
            value: object
            if tag == 0:
                value = self.take(self.number("I")).decode()
            elif tag == 1:
                value = self.number("q")
            elif tag == 2:
                value = self.take(8)
            elif tag == 3:
                value = {0: False, 1: True}[self.number("B")]
            else:
                assert tag == 4
                value = None
            found.append((key, value))
        keys = [key.encode() for key, _ in found]
        assert keys == sorted(set(keys))
        return tuple(found)


def read_snapshot(data: bytes) -> Snapshot:
    """A snapshot of version 1 or 2 with the built-in payload."""
    head = Cursor(data)
    assert head.take(8) == b"IQDBPRST"
    version = head.number("I")
    index_type = head.take(head.number("Q")).decode()
    dimension, metric, count = head.number("Q"), head.number("B"), head.number("Q")
    crc = head.number("I")
    region = data[head.at :]
    assert zlib.crc32(region) == crc
    compression, payload = 0, region
    if version == 2:
        compression, size = region[0], int.from_bytes(region[1:9], "little")
        payload = region[9:]
        if compression == 1:
            payload = zstandard.ZstdDecompressor().decompressobj().decompress(payload)
        elif compression == 2:
            payload = lz4.block.decompress(payload, uncompressed_size=size)
        assert len(payload) == size
    kind, rows, rest = _read_payload(payload, dimension, metric, count)
    return Snapshot(version, index_type, dimension, metric, count, compression, kind, rows, rest)


def _read_payload(
    payload: bytes, dimension: int, metric: int, count: int
) -> tuple[int, list[Row], bytes]:
    body = Cursor(payload)
    assert body.take(4) == b"IQDC"
    assert body.number("I") == 1
    kind = body.number("B")
    if kind == 1:
        body.take(40)
    elif kind == 2:
        body.take(25)
        if body.number("B"):
            body.take(8)
        body.take(12)
    assert (body.number("Q"), body.number("B"), body.number("Q")) == (dimension, metric, count)
    rows: list[Row] = []
    for _ in range(count):
        id_: int | bytes
        id_ = body.number("Q") if body.number("B") == 0 else body.take(body.number("I"))
        assert id_ != b""
        vector = body.take(4 * dimension)
        rows.append((id_, vector, body.metadata() if body.number("B") else None))
    return kind, rows, payload[body.at :]


class Record(NamedTuple):
    """One record of a log; an insert has a row, and ``rest`` is what follows its fields."""

    id: int | bytes
    row: Row | None
    rest: bytes


def read_log(data: bytes) -> list[Record]:
    """The records of a log that is whole."""
    file = Cursor(data)
    assert file.take(12) == b"IQDBWAL\0\x01\0\0\0"
    records: list[Record] = []
    while file.at < len(data):
        length, crc = file.number("I"), file.number("I")
        body = file.take(length)
        assert zlib.crc32(body) == crc
        records.append(_read_record(Cursor(body)))
    return records


def _read_record(body: Cursor) -> Record:
    operation = body.number("B")
    id_: int | bytes
    id_ = body.number("Q") if body.number("B") == 0 else body.take(body.number("Q"))
    row: Row | None = None
    if operation == 1:
        vector = body.take(4 * body.number("I"))
        row = (id_, vector, body.metadata() if body.number("B") == 1 else None)
    else:
        assert operation == 2
    return Record(id_, row, body.data[body.at :])


def replayed(rows: list[Row], records: list[Record]) -> list[Row]:
    """The rows in storage order once the records were applied, each as often as it comes."""
    found = list(rows)
    for record in records:
        places = {row[0]: place for place, row in enumerate(found)}
        place = places.get(record.id)
        if record.row is not None:
            if place is None:
                found.append(record.row)
            else:
                found[place] = record.row
        elif place is not None:
            last = found.pop()
            if place < len(found):
                found[place] = last
    return found
