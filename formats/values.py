"""The values a fold holds and is told: frozen, typed, and the same on the wire as in memory.

``Put``, ``Delete`` and ``Purge`` are encoded as MessagePack arrays, so a batch of them crosses to
the worker without a Python-level loop.
"""

import operator
from typing import Annotated, Self, SupportsIndex, TypeAlias

import msgspec

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.limits import TOKEN_BYTES_MAX

_U64_END = 1 << 64


class Version(msgspec.Struct, frozen=True, array_like=True, gc=False, order=False):
    """A version token: 0 to 10 opaque bytes, compared by equality.

    No bytes mean *unknown*; exactly 8 are a big-endian u64; 10 are usually a versionstamp. The u64
    7 (8 bytes) and the single byte 07 are different tokens.
    """

    token: Annotated[bytes, msgspec.Meta(max_length=TOKEN_BYTES_MAX)] = b""

    @classmethod
    def none(cls) -> Self:
        """The empty token: unknown version, or for a cursor the start of the stream."""
        return cls(b"")

    @classmethod
    def from_u64(cls, number: SupportsIndex) -> Self:
        """The 8-byte big-endian token of ``number`` (0 to 2**64 - 1)."""
        try:
            if isinstance(number, bool):
                raise TypeError
            value = operator.index(number)
        except TypeError:
            raise InvalidArgument(f"from_u64 takes an int, got {type(number).__name__}") from None
        if not 0 <= value < _U64_END:
            raise LimitExceeded(f"{value} does not fit in a u64 (0 to {_U64_END - 1})")
        return cls(value.to_bytes(8, "big"))

    @classmethod
    def from_bytes(cls, token: bytes) -> Self:
        """The token of these 0 to 10 bytes."""
        if not isinstance(token, bytes | bytearray | memoryview):
            raise InvalidArgument(f"from_bytes takes bytes, got {type(token).__name__}")
        copy = bytes(token)
        if len(copy) > TOKEN_BYTES_MAX:
            raise LimitExceeded(
                f"a {cls.__name__} token of {len(copy)} bytes is over the limit of "
                f"{TOKEN_BYTES_MAX}"
            )
        return cls(copy)

    @property
    def u64(self) -> int | None:
        """The u64 reading, or None when the token is not 8 bytes long."""
        return int.from_bytes(self.token, "big") if len(self.token) == 8 else None

    @property
    def is_none(self) -> bool:
        """True for the empty token."""
        return not self.token

    def __repr__(self) -> str:
        if type(self.token) is not bytes:  # nothing has looked at it yet
            return f"{type(self).__name__}({self.token!r})"
        if self.is_none:
            return f"{type(self).__name__}.none()"
        if self.u64 is not None:
            return f"{type(self).__name__}.from_u64({self.u64})"
        return f"{type(self).__name__}.from_bytes({self.token!r})"


class Cursor(Version, frozen=True, array_like=True, gc=False, order=False):
    """A position in the update stream that a fold resumes from; the same tokens as ``Version``."""


_NO_VERSION = Version()


class KvEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One live entry of a fold: key, value bytes, and the version its last ``Put`` carried."""

    key: str
    value: bytes
    version: Version = _NO_VERSION


class Update(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a fold is told: one of ``Put``, ``Delete`` and ``Purge``, and never this class itself.

    It is their base so that a list of several of them is, to a type checker, a list of these.
    """

    key: str


class Put(Update, frozen=True, array_like=True, gc=False, tag=1):
    """Insert or replace the entry under ``key``.

    ``key`` is text of 0 to 65,535 UTF-8 bytes, ``value`` up to 16 MiB of bytes.
    """

    value: bytes
    version: Version = _NO_VERSION


class Delete(Update, frozen=True, array_like=True, gc=False, tag=2):
    """Remove the entry under ``key``; an absent key is no error."""

    version: Version = _NO_VERSION


class Purge(Update, frozen=True, array_like=True, gc=False, tag=3):
    """As ``Delete``; the two are one record on disk, as in the original format."""

    version: Version = _NO_VERSION


AnyUpdate: TypeAlias = Put | Delete | Purge
"""What ``Update`` stands for, as messages are checked against it."""
