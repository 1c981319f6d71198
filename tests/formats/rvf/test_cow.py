"""What ties a branch to its parent: layouts, round trips, the bitmap, and hostile sizes."""

import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument, InvalidFormat, LimitExceeded
from holdfast.formats.rvf.addrot import addrot
from holdfast.formats.rvf.cow import (
    VECTOR_COUNT_MAX,
    Cluster,
    ClusterTag,
    CowMap,
    Membership,
    decode_cow_map,
    decode_membership,
    encode_cow_map,
    encode_membership,
)
from holdfast.formats.rvf.segment import PAYLOAD_BYTES_MAX

U8, U32, U64 = st.integers(0, 255), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
NAMES = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20)
COW_MAPS = st.builds(
    CowMap,
    parent_name=NAMES.filter(lambda name: name not in (".", "..")),
    parent_id=st.binary(min_size=16, max_size=16),
    parent_hash=st.binary(min_size=32, max_size=32),
    cluster_bytes=st.integers(0, 31).map(lambda power: 1 << power),
    vectors_per_cluster=st.integers(1, (1 << 32) - 1),
    bytes_per_vector=U32,
    frozen=st.booleans(),
    snapshot_epoch=U32,
    compression_policy=U8,
    clusters=st.lists(st.builds(Cluster, st.integers(0, 2), U64), max_size=5).map(tuple),
)
SAMPLE = CowMap("parent.rvf", b"I" * 16, b"H" * 32, 4096, 256, 16, frozen=True, snapshot_epoch=3)
IDS = st.sets(st.integers(0, 400), max_size=60)


def test_cow_map_layout() -> None:
    """Fields lie where the table says."""
    payload = encode_cow_map(replace(SAMPLE, clusters=(Cluster(ClusterTag.LOCAL, 77),)))
    assert payload[:4] == (0x5256434D).to_bytes(4, "little")
    assert struct.unpack_from("<HBBII", payload, 4) == (1, 0, 0, 4096, 256)
    assert payload[16:64] == b"I" * 16 + b"H" * 32
    assert struct.unpack_from("<IBIII", payload, 64) == (16, 1, 3, 10, 14)
    assert payload[81:91] == b"parent.rvf"
    assert struct.unpack_from("<BIBQ", payload, 91) == (0, 1, 2, 77)
    assert len(payload) == 105


@given(COW_MAPS)
def test_cow_map_round_trip(cow: CowMap) -> None:
    """What was written is read back."""
    payload = encode_cow_map(cow)
    assert decode_cow_map(payload) == decode_cow_map(memoryview(payload)) == cow


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../a", "/etc/passwd", "a\0b"])
def test_names_that_lead_elsewhere(name: str) -> None:
    """A parent is a file in the same directory, on the way in and out."""
    with pytest.raises(InvalidArgument, match="not the name of a file"):
        encode_cow_map(replace(SAMPLE, parent_name=name))
    good = encode_cow_map(replace(SAMPLE, parent_name="x" * max(1, len(name))))
    bad = bytearray(good)
    bad[81 : 81 + len(name)] = name.encode()
    if not name:
        bad[73:77] = bytes(4)
        del bad[81]
    with pytest.raises(InvalidFormat, match="not the name of a file"):
        decode_cow_map(bad)


@pytest.mark.parametrize(
    ("at", "field", "message"),
    [
        (0, b"XXXX", "bad cluster map magic 58 58 58 58"),
        (4, b"\2\0", "unsupported cluster map version 2"),
        (6, b"\1", "unsupported format 1"),
        (8, b"\1\x10\0\0", "4097 bytes, which is no power of two"),
        (8, b"\0\0\0\0", "0 bytes, which is no power of two"),
        (12, b"\0\0\0\0", "clusters of no vectors"),
        (68, b"\2", "frozen flag is 2"),
        (73, b"\xff\xff\xff\xff", "name and map end at 4294967390"),
        (77, b"\xff\xff\xff\xff", "name and map end at 4294967386"),
        (73, b"\x12\0\0\0\6\0\0\0", "6 bytes says 0 clusters, which are 5"),
        (73, b"\x16\0\0\0\2\0\0\0", "cluster table of 2 bytes"),
        (81, b"\xff", "not UTF-8"),
        (91, b"\2", "cluster table of format 2"),
        (92, b"\xff\xff\xff\xff", "says 4294967295 clusters"),
        (96, b"\3", "unknown tag 3"),
    ],
)
def test_cow_map_problems(at: int, field: bytes, message: str) -> None:
    """Values that make no sense, and sizes past the end, are named before anything is read."""
    payload = bytearray(encode_cow_map(SAMPLE))
    payload[at : at + len(field)] = field
    with pytest.raises(InvalidFormat, match=message):
        decode_cow_map(payload)


def test_cow_map_of_every_length() -> None:
    """A payload that is cut short or too long is refused."""
    payload = encode_cow_map(SAMPLE)
    for size in range(len(payload)):
        with pytest.raises(InvalidFormat):
            decode_cow_map(payload[:size])
    with pytest.raises(InvalidFormat, match="end at 105"):
        decode_cow_map(payload + b"\0")


@pytest.mark.parametrize(
    ("cow", "message"),
    [
        (replace(SAMPLE, parent_id=b"short"), "id of 5 and hash of 32 bytes"),
        (replace(SAMPLE, cluster_bytes=100), "no power of two"),
        (replace(SAMPLE, clusters=(Cluster(3, 0),)), "unknown tag 3"),
    ],
)
def test_cow_maps_that_cannot_be_written(cow: CowMap, message: str) -> None:
    """What would be refused when read is not written."""
    with pytest.raises(InvalidArgument, match=message):
        encode_cow_map(cow)


def _array(ids: set[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(sorted(ids), np.uint64)


def test_membership_layout() -> None:
    """Fields lie where the table says; the hash is the ADDROT of the bitmap alone."""
    membership = Membership.of(_array({0, 1, 64, 70}), 71, exclude=True, generation=5)
    payload = encode_membership(membership)
    assert payload[:4] == (0x52564D42).to_bytes(4, "little")
    assert struct.unpack_from("<HBBQQQII", payload, 4) == (1, 0, 1, 71, 4, 96, 16, 5)
    assert payload[40:72] == addrot(payload[96:])
    assert payload[72:96] == bytes(24)
    assert struct.unpack_from("<QQ", payload, 96) == (0b11, 1 | 1 << 6)
    assert len(payload) == 112


@given(IDS, st.integers(401, 600), st.booleans(), U32)
def test_membership_round_trip(ids: set[int], count: int, exclude: bool, generation: int) -> None:
    """What was written is read back, and says of every id what the set says."""
    shuffled = np.array(list(ids) * 2, np.uint64)
    membership = Membership.of(shuffled, count, exclude=exclude, generation=generation)
    payload = encode_membership(membership)
    decoded = decode_membership(memoryview(payload))
    assert encode_membership(decoded) == payload
    assert (decoded.vector_count, decoded.exclude) == (count, exclude)
    assert decoded.generation == generation
    assert decoded.ids().tolist() == sorted(ids)
    assert decoded.members() == len(ids)
    asked = np.array([*range(700), (1 << 64) - 1], np.uint64)
    expected = [(number in ids) != exclude for number in asked.tolist()]
    assert decoded.shows(asked).tolist() == expected


def test_an_empty_membership() -> None:
    """A parent without rows has a bitmap of no words."""
    for exclude in (False, True):
        membership = Membership.of(_array(set()), 0, exclude=exclude)
        decoded = decode_membership(encode_membership(membership))
        assert decoded.ids().tolist() == []
        assert decoded.shows(np.array([0, 5], np.uint64)).tolist() == [exclude, exclude]


def test_a_large_membership() -> None:
    """Ten million ids make a bitmap of 1.25 MB and come back."""
    ids = np.arange(0, 10_000_000, 3, dtype=np.uint64)
    membership = Membership.of(ids[::-1], 10_000_000)
    assert len(membership.bitmap) == 1_250_000
    assert np.array_equal(membership.ids(), ids)
    assert membership.members() == len(ids)


def test_membership_limits() -> None:
    """Ids past the bitmap are refused, as is a bitmap that no segment holds."""
    with pytest.raises(InvalidArgument, match="id 71 in a membership of 71 ids"):
        Membership.of(_array({71}), 71)
    with pytest.raises(
        LimitExceeded, match=f"4000000000 ids is over the limit of {VECTOR_COUNT_MAX}"
    ):
        Membership.of(_array({1}), 4_000_000_000)
    assert 96 + VECTOR_COUNT_MAX // 8 <= PAYLOAD_BYTES_MAX


def test_membership_of_every_length() -> None:
    """A payload that is cut short is refused."""
    payload = encode_membership(Membership.of(_array({3, 70}), 71))
    for size in range(len(payload)):
        with pytest.raises(InvalidFormat):
            decode_membership(payload[:size])


@pytest.mark.parametrize(
    ("at", "field", "message"),
    [
        (0, b"XXXX", "bad membership magic"),
        (4, b"\2\0", "unsupported membership version 2"),
        (6, b"\1", "unsupported type 1"),
        (7, b"\2", "unknown mode 2"),
        (8, b"\xff" * 8, "16 bytes for 18446744073709551615 ids"),
        (16, b"\3", "2 bits set says 3 members"),
        (24, b"\xff" * 8, "16 bytes at 18446744073709551615"),
        (24, b"\x61", "16 bytes at 97"),
        (32, b"\x18", "24 bytes for 71 ids"),
        (40, b"\xff", "hash is not the one"),
        (96, b"\xff", "hash is not the one"),
        (8, b"\x46", "bits set behind its 70 ids"),
    ],
)
def test_membership_problems(at: int, field: bytes, message: str) -> None:
    """Values that make no sense, and sizes past the end, are named before anything is read."""
    payload = bytearray(encode_membership(Membership.of(_array({3, 70}), 71)))
    payload[at : at + len(field)] = field
    with pytest.raises(InvalidFormat, match=message):
        decode_membership(payload)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes are, nothing but InvalidFormat is raised."""
    membership = encode_membership(Membership.of(_array({3, 70}), 71))
    cow_map = encode_cow_map(SAMPLE)
    for payload in (data, cow_map[:8] + data, cow_map[:90] + data):
        with suppress(InvalidFormat):
            decode_cow_map(payload)
    for payload in (data, membership[:8] + data, membership[:90] + data):
        with suppress(InvalidFormat):
            decode_membership(payload)
