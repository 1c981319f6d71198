"""The values a fold holds and is told."""

import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, LimitExceeded
from holdfast.formats.limits import TOKEN_BYTES_MAX
from holdfast.formats.values import AnyUpdate, Cursor, Delete, KvEntry, Purge, Put, Version

TOKEN_TYPES = pytest.mark.parametrize("cls", [Version, Cursor])


@TOKEN_TYPES
class TestTokens:
    """Versions and cursors."""

    def test_u64(self, cls: type[Version]) -> None:
        """Big-endian, 8 bytes, both limits inclusive."""
        assert cls.from_u64(7).token == bytes(7) + b"\x07"
        for number in (0, 1, 1 << 63, (1 << 64) - 1):
            assert cls.from_u64(number).u64 == number
        for number in (-1, 1 << 64):
            with pytest.raises(LimitExceeded):
                cls.from_u64(number)

    @pytest.mark.parametrize("wrong", [1.0, "1", None, True, b"1"])
    def test_u64_of_another_type(self, cls: type[Version], wrong: int) -> None:
        """A number is an int and nothing else."""
        with pytest.raises(InvalidArgument):
            cls.from_u64(wrong)

    def test_bytes(self, cls: type[Version]) -> None:
        """0 to 10 bytes; only 8 have a reading as a number."""
        for size in range(TOKEN_BYTES_MAX + 1):
            token = cls.from_bytes(bytes(range(size)))
            assert token.token == bytes(range(size))
            assert (token.u64 is None) == (size != 8)
            assert token.is_none == (size == 0)
        with pytest.raises(LimitExceeded):
            cls.from_bytes(bytes(TOKEN_BYTES_MAX + 1))

    @pytest.mark.parametrize("wrong", ["text", 7, None, [1, 2]])
    def test_bytes_of_another_type(self, cls: type[Version], wrong: bytes) -> None:
        """Bytes are bytes and nothing else."""
        with pytest.raises(InvalidArgument):
            cls.from_bytes(wrong)

    def test_equality(self, cls: type[Version]) -> None:
        """On length and bytes."""
        assert cls.none() == cls.from_bytes(b"")
        assert cls.from_u64(7) != cls.from_bytes(b"\x07")
        assert hash(cls.from_u64(7)) == hash(cls.from_bytes(bytes(7) + b"\x07"))

    def test_repr_is_code(self, cls: type[Version]) -> None:
        """What is shown can be pasted."""
        for token in (cls.none(), cls.from_u64(9), cls.from_bytes(b"ten bytes.")):
            assert eval(repr(token), {cls.__name__: cls}) == token

    def test_frozen_and_pickled(self, cls: type[Version]) -> None:
        """A token does not change, and travels."""
        token = cls.from_u64(3)
        with pytest.raises(AttributeError):
            token.token = b""  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(token)) == token


TOKENS = st.binary(max_size=10)
UPDATES = st.one_of(
    st.builds(Put, st.text(), st.binary(), TOKENS.map(Version)),
    st.builds(Delete, st.text(), TOKENS.map(Version)),
    st.builds(Purge, st.text(), TOKENS.map(Version)),
)


@given(st.lists(UPDATES))
def test_updates_cross_the_wire(updates: list[AnyUpdate]) -> None:
    """A batch is decoded as it was encoded, each update of its own type."""
    wire = msgspec.msgpack.encode(updates)
    found = msgspec.msgpack.decode(wire, type=list[AnyUpdate])
    assert found == updates
    assert [type(update) for update in found] == [type(update) for update in updates]


def test_over_long_tokens_do_not_cross_the_wire() -> None:
    """A peer cannot bring in what the constructors refuse."""
    wire = msgspec.msgpack.encode([1, "k", b"v", [bytes(11)]])
    with pytest.raises((msgspec.ValidationError, LimitExceeded)):
        msgspec.msgpack.decode(wire, type=AnyUpdate)


def test_defaults() -> None:
    """A version is optional and unknown then."""
    assert Put("k", b"v").version == Delete("k").version == Purge("k").version == Version.none()
    assert KvEntry("k", b"v") == KvEntry("k", b"v", Version.none())
