"""Reading what Arrow's own headers say and its Python interface does not.

Arrow's messages and footers are FlatBuffers: a table is a position in the buffer, where a signed
offset leads back to its list of fields. Offsets of fields are relative to where they are stored::

    table:   i32 distance back to the field list, then the fields' values
    fields:  u16 own size, u16 size of the table, then one u16 a field: its place in the table, or 0
    vector:  u32 count, then the elements
    string:  u32 length, then UTF-8

The readers below check every access against the buffer, and raise ``struct.error`` or
``ValueError`` for what is no such structure. One result is never larger than the buffer; all
together may be, since nothing keeps many offsets from leading to the same place.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple, Self

_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_U16 = struct.Struct("<H")
_U8 = struct.Struct("<B")


class FlatTable(NamedTuple):
    """One table; fields are counted from 0, in the order of the schema."""

    data: memoryview
    position: int

    @classmethod
    def root(cls, data: memoryview) -> Self:
        """The table that a buffer begins with the offset of."""
        return cls(data, _U32.unpack_from(data)[0])

    def _place(self, field: int) -> int | None:
        """Where the value of a field is stored; None when it is left out."""
        fields = self.position - _I32.unpack_from(self.data, self.position)[0]
        if fields < 0:
            raise ValueError(f"field list at {fields}")
        entry = 4 + 2 * field
        if entry + 2 > _U16.unpack_from(self.data, fields)[0]:
            return None
        offset = _U16.unpack_from(self.data, fields + entry)[0]
        return self.position + offset if offset else None

    def has(self, field: int) -> bool:
        """Whether the field is there."""
        return self._place(field) is not None

    def byte(self, field: int) -> int:
        """A u8 field, 0 when left out."""
        place = self._place(field)
        return 0 if place is None else int(_U8.unpack_from(self.data, place)[0])

    def table(self, field: int) -> "FlatTable | None":
        """A field that is a table."""
        place = self._place(field)
        return None if place is None else FlatTable(self.data, _follow(self.data, place))

    def tables(self, field: int) -> Iterator["FlatTable"]:
        """A field that is a vector of tables."""
        place = self._place(field)
        if place is None:
            return
        vector = _follow(self.data, place)
        (count,) = _U32.unpack_from(self.data, vector)
        for element in range(vector + 4, vector + 4 + 4 * count, 4):
            yield FlatTable(self.data, _follow(self.data, element))

    def structs(self, field: int, form: struct.Struct) -> Iterator[tuple[int, ...]]:
        """A field that is a vector of structs of numbers, each of this form."""
        place = self._place(field)
        if place is None:
            return
        vector = _follow(self.data, place)
        (count,) = _U32.unpack_from(self.data, vector)
        for element in range(count):
            yield form.unpack_from(self.data, vector + 4 + element * form.size)

    def text(self, field: int) -> str:
        """A string field, empty when left out."""
        place = self._place(field)
        if place is None:
            return ""
        start = _follow(self.data, place)
        end = start + 4 + _U32.unpack_from(self.data, start)[0]
        if end > len(self.data):
            raise ValueError(f"string up to {end} in {len(self.data)} bytes")
        return str(self.data[start + 4 : end], "utf-8")


def _follow(data: memoryview, place: int) -> int:
    """Where the offset stored at ``place`` leads."""
    return place + int(_U32.unpack_from(data, place)[0])
