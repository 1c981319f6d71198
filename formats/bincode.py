"""Bincode 1 with its default options: how Rust programs write plain values one after the other.

Little-endian, fixed width, nothing between the values and no lengths but these::

    u32, u64      4 and 8 bytes; a usize is a u64
    f32           4 bytes, IEEE 754
    [u8; n]       n bytes
    String        u64 length in bytes, then that many bytes of UTF-8
    Vec<T>        u64 count, then the elements
    Option<T>     one byte, 0 or 1; after a 1 the value
    enum          u32 number of the variant
    struct        its fields in order

What is read may come from a damaged or hostile file: every count is compared with what is left of
the data before anything is made of it.
"""

import struct
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")

U64_MAX = (1 << 64) - 1
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_F32 = struct.Struct("<f")


class Malformed(Exception):
    """The data cannot be read from ``offset`` on; ``reason`` says why."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"at offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class Reader:
    """Reads values one after the other, from ``offset`` up to ``end`` and never beyond."""

    __slots__ = ("_end", "_view", "offset")

    def __init__(self, view: memoryview, offset: int = 0, end: int | None = None) -> None:
        self._view = view
        self._end = len(view) if end is None else end
        self.offset = offset

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return self._end - self.offset

    def skip(self, size: int, what: str) -> int:
        """Pass over ``size`` bytes; where they begin."""
        start = self.offset
        if size > self._end - start:
            raise Malformed(
                start, f"{size} bytes are needed for {what}, and {self._end - start} are left"
            )
        self.offset = start + size
        return start

    def raw(self, size: int, what: str) -> bytes:
        """``size`` bytes as they are."""
        start = self.skip(size, what)
        return bytes(self._view[start : start + size])

    def u32(self, what: str) -> int:
        """An unsigned integer of 4 bytes."""
        number: int = _U32.unpack_from(self._view, self.skip(4, what))[0]
        return number

    def u64(self, what: str) -> int:
        """An unsigned integer of 8 bytes."""
        number: int = _U64.unpack_from(self._view, self.skip(8, what))[0]
        return number

    def f32(self, what: str) -> float:
        """A float of 4 bytes."""
        number: float = _F32.unpack_from(self._view, self.skip(4, what))[0]
        return number

    def count(self, element_bytes_min: int, what: str) -> int:
        """The count of a Vec whose elements have at least so many bytes each."""
        start = self.offset
        count = self.u64(what)
        if count * element_bytes_min > self._end - self.offset:
            raise Malformed(
                start,
                f"{what} has {count} elements of at least {element_bytes_min} bytes and "
                f"{self._end - self.offset} bytes are left",
            )
        return count

    def text(self, what: str) -> str:
        """A String."""
        size = self.count(1, what)
        start = self.skip(size, what)
        try:
            return str(self._view[start : start + size], "utf-8")
        except UnicodeDecodeError as error:
            raise Malformed(start + error.start, f"{what} is not UTF-8") from None

    def optional(self, read: Callable[[str], T], what: str) -> T | None:
        """An Option of what ``read`` reads."""
        start = self.skip(1, what)
        tag = self._view[start]
        if tag > 1:
            raise Malformed(start, f"{what} is an option tagged {tag}, which is neither 0 nor 1")
        return read(what) if tag else None


def u64(number: int) -> bytes:
    """An unsigned integer of 8 bytes."""
    return _U64.pack(number)


def u32(number: int) -> bytes:
    """An unsigned integer of 4 bytes."""
    return _U32.pack(number)


def f32(number: float) -> bytes:
    """A float of 4 bytes."""
    return _F32.pack(number)


def text(value: str) -> bytes:
    """A String."""
    data = value.encode()
    return _U64.pack(len(data)) + data


def optional(value: T | None, write: Callable[[T], bytes]) -> bytes:
    """An Option."""
    return b"\0" if value is None else b"\1" + write(value)


def sequence(parts: Iterable[bytes]) -> bytes:
    """A Vec of elements that are written already."""
    listed = list(parts)
    return _U64.pack(len(listed)) + b"".join(listed)
