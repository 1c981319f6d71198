"""Manifests: the layout, round trips, and what is refused."""

import struct
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.formats.errors import InvalidArgument, InvalidFormat
from holdfast.formats.rvf.manifest import (
    NO_PREVIOUS,
    Entry,
    Extension,
    Identity,
    Manifest,
    decode_directory,
    decode_manifest,
    encode_manifest,
    manifest_bytes,
    peek_epoch,
)

U8, U16 = st.integers(0, 255), st.integers(0, (1 << 16) - 1)
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)


def _id_array(ids: set[int]) -> NDArray[np.uint64]:
    return np.array(sorted(ids), np.uint64)


def _bytes(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


MANIFESTS = st.builds(
    Manifest,
    epoch=U32,
    dimension=U16,
    total_vectors=U64,
    profile=U8,
    metric=U8,
    entries=st.lists(st.builds(Entry, U64, U64, U64, U8), max_size=5).map(tuple),
    deleted=st.sets(U64, max_size=8).map(_id_array),
    identity=st.none() | st.builds(Identity, _bytes(16), _bytes(16), _bytes(32), U32),
    extension=st.none() | st.builds(Extension, U64, U64, U64, _bytes(32), U64),
)
FULL = Manifest(
    epoch=3,
    dimension=8,
    total_vectors=100,
    profile=2,
    metric=1,
    entries=(Entry(1, 162, 500, 1), Entry(2, 1000, 60, 0xF1)),
    deleted=np.array([4, 9, (1 << 64) - 1], np.uint64),
    identity=Identity(b"F" * 16, b"P" * 16, b"H" * 32, 5),
    extension=Extension(7, NO_PREVIOUS, 12, b"W" * 32, 4),
)


def _fields(manifest: Manifest) -> tuple[object, ...]:
    """A manifest's fields in a form that can be compared."""
    return (
        manifest.epoch,
        manifest.dimension,
        manifest.total_vectors,
        manifest.profile,
        manifest.metric,
        manifest.entries,
        manifest.deleted.tolist(),
        manifest.identity,
        manifest.extension,
    )


def test_layout() -> None:
    """Fields lie where the table says."""
    payload = encode_manifest(FULL)
    assert struct.unpack_from("<IHQIBBH", payload) == (3, 8, 100, 2, 2, 1, 0)
    assert struct.unpack_from("<QQQB", payload, 22) == (1, 162, 500, 1)
    assert struct.unpack_from("<QQQB", payload, 47) == (2, 1000, 60, 0xF1)
    assert struct.unpack_from("<IQQQ", payload, 72) == (3, 4, 9, (1 << 64) - 1)
    assert payload[100:104] == (0x46494449).to_bytes(4, "little")
    assert payload[104:168] == b"F" * 16 + b"P" * 16 + b"H" * 32
    assert payload[168:172] == b"\5\0\0\0"
    assert payload[172:180] == b"HFMX\1\0\x40\0"
    assert struct.unpack_from("<QQQ32sQ", payload, 180) == (7, NO_PREVIOUS, 12, b"W" * 32, 4)
    assert len(payload) == 244 == manifest_bytes(2, 3)
    assert peek_epoch(payload) == 3


@given(MANIFESTS)
def test_round_trip(manifest: Manifest) -> None:
    """What was written is read back, from any kind of buffer."""
    payload = encode_manifest(manifest)
    for buffer in (payload, bytearray(payload), memoryview(payload)):
        assert _fields(decode_manifest(buffer)) == _fields(manifest)
    if manifest.identity is not None and manifest.extension is not None:
        assert len(payload) == manifest_bytes(len(manifest.entries), len(manifest.deleted))


@given(MANIFESTS, st.binary(max_size=90))
def test_what_follows_is_ignored(manifest: Manifest, tail: bytes) -> None:
    """Bytes behind the last part that is understood change nothing, as for the original."""
    if tail[:4] in (b"IDIF", b"HFMX"):
        tail = b""
    decoded = decode_manifest(encode_manifest(manifest) + tail)
    assert _fields(decoded) == _fields(manifest)


def test_every_length() -> None:
    """A payload cut short is refused, unless all that is missing is optional."""
    payload = encode_manifest(FULL)
    for size in range(100):
        with pytest.raises(InvalidFormat):
            decode_manifest(payload[:size])
    for size in range(100, len(payload)):
        manifest = decode_manifest(payload[:size])
        assert manifest.identity == (FULL.identity if size >= 172 else None)
        assert manifest.extension is None


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes are, they are a manifest or raise InvalidFormat."""
    for payload in (data, struct.pack("<IHQIBBH", 1, 2, 3, 1, 0, 0, 0) + data):
        try:
            decode_manifest(payload)
        except InvalidFormat:
            continue


@pytest.mark.parametrize(
    ("at", "field", "message"),
    [
        (14, b"\xff\xff\xff\xff", "a manifest says 4294967295 entries and has room for 8"),
        (72, b"\x16\0\0\0", "a manifest says 22 deleted ids and has room for 21"),
        (72, b"\xff\xff\xff\xff", "a manifest says 4294967295 deleted ids and has room for 21"),
    ],
)
def test_counts_that_do_not_fit(at: int, field: bytes, message: str) -> None:
    """A count past the end of the payload is named, and nothing of that size is allocated.

    The original takes a deleted list that is cut short for a short one, and shows rows again that
    were deleted.
    """
    payload = bytearray(encode_manifest(FULL))
    payload[at : at + 4] = field
    with pytest.raises(InvalidFormat, match=message):
        decode_manifest(payload)


def test_deleted_ids_out_of_order() -> None:
    """Another writer's list in any order, with repetitions, is read as the set it is."""
    head = struct.pack("<IHQIBBH", 1, 2, 3, 0, 0, 0, 0)
    payload = head + struct.pack("<I4Q", 4, 9, 2, 9, 5)
    assert decode_manifest(payload).deleted.tolist() == [2, 5, 9]


@pytest.mark.parametrize(
    ("at", "field"),
    [(172, b"hfmx"), (176, b"\2\0"), (178, b"\x3f\0"), (178, b"\x41\0"), (178, b"\xff\xff")],
)
def test_an_extension_of_another_kind(at: int, field: bytes) -> None:
    """Another magic or version, or a length that does not fit, is no extension, and no error."""
    payload = bytearray(encode_manifest(FULL))
    payload[at : at + len(field)] = field
    manifest = decode_manifest(payload)
    assert manifest.extension is None
    assert manifest.identity == FULL.identity


def test_a_longer_extension() -> None:
    """Fields that a later version adds behind these are passed over."""
    payload = bytearray(encode_manifest(FULL)) + b"later"
    payload[178:180] = (64 + 5).to_bytes(2, "little")
    assert decode_manifest(payload).extension == FULL.extension


def test_numbers_that_do_not_fit() -> None:
    """A number too large for its field is the caller's mistake."""
    wrong = Manifest(1 << 32, 8, 0, 0, 0, (), np.empty(0, np.uint64), None, None)
    with pytest.raises(InvalidArgument, match="does not fit"):
        encode_manifest(wrong)


def test_large_manifests() -> None:
    """A hundred thousand entries and deleted ids take a fraction of a second."""
    entries = tuple(Entry(n, n * 1000, 900, 1) for n in range(100_000))
    deleted = np.arange(0, 300_000, 3, dtype=np.uint64)
    large = Manifest(1, 8, 5, 0, 0, entries, deleted, FULL.identity, FULL.extension)
    began = time.process_time()
    payload = encode_manifest(large)
    decoded = decode_manifest(payload)
    assert time.process_time() - began < 2
    assert len(payload) == manifest_bytes(100_000, 100_000)
    assert decoded.entries == entries
    assert np.array_equal(decoded.deleted, deleted)
    directory = decode_directory(payload)
    assert np.array_equal(directory["offset"], np.arange(100_000) * 1000)
