"""The index cache's bytes: offsets as documented, and damage is an error, never another index."""

import struct
import zlib
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import ann_cache
from holdfast.formats.ann_cache import ABSENT, HEADER_BYTES, OUTSIDE, AnnCache
from holdfast.formats.errors import InvalidFormat


def _floats(*shape: int) -> ann_cache.Floats:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / np.float32(8)


CACHE = AnnCache(
    file_id=bytes(range(16)),
    fingerprint=bytes(range(32)),
    trained_rows=5,
    dimension=5,
    metric="cosine",
    residual=True,
    block_rows=2,
    block_bytes=3,
    library=b"faiss 1.2.3",
    scale=0.5,
    query_length=1.5,
    limit=16.0,
    usual=2.5,
    slant=0.25,
    recall=0.96875,
    breadths=(1, 3),
    depths=(10, 120),
    center=_floats(6),
    rotation=_floats(2, 2),
    centroids=_floats(3, 6),
    spreads=_floats(3),
    codebook=_floats(3, 16, 2),
    homes=np.array([2, 0, ABSENT, 2, OUTSIDE, 2, 0], np.uint32),
    codes=np.arange(9, dtype=np.uint8),  # lists of 2, 0 and 3 rows: 1, 0 and 2 blocks
)
DATA = ann_cache.encode(CACHE)


def _checked(data: bytearray) -> bytes:
    """The same bytes with checksums that are right for them."""
    struct.pack_into("<I", data, 108, zlib.crc32(data[:108]))
    struct.pack_into("<I", data, len(data) - 4, zlib.crc32(data[112:-4]))
    return bytes(data)


def test_layout() -> None:
    """Fields lie where the diagram says."""
    assert struct.unpack_from("<4sI16s32sQQ", DATA) == (
        b"HFVI", 1, CACHE.file_id, CACHE.fingerprint, 7, 5,
    )  # fmt: skip
    assert struct.unpack_from("<9I", DATA, 72) == (5, 2, 6, 2, 3, 3, 2, 3, 1)
    assert struct.unpack_from("<I", DATA, 108)[0] == zlib.crc32(DATA[:108])
    assert DATA[112:128] == b"faiss 1.2.3".ljust(16, b"\0")
    assert struct.unpack_from("<6f", DATA, 128) == (0.5, 1.5, 16, 2.5, 0.25, 0.96875)
    assert struct.unpack_from("<4I", DATA, 152) == (1, 3, 10, 120)
    offset = 168
    for array in (CACHE.center, CACHE.rotation, CACHE.centroids, CACHE.spreads, CACHE.codebook):
        assert DATA[offset : offset + array.nbytes] == array.tobytes()
        offset += array.nbytes
    assert DATA[offset : offset + 28] == CACHE.homes.tobytes()
    assert DATA[offset + 28 : -4] == bytes(range(9))
    assert struct.unpack("<I", DATA[-4:])[0] == zlib.crc32(DATA[112:-4])


def _assert_same(one: AnnCache, other: AnnCache) -> None:
    for field in fields(AnnCache):
        mine, theirs = getattr(one, field.name), getattr(other, field.name)
        if isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs, strict=True)
        else:
            assert mine == theirs, field.name


@given(st.data())
def test_round_trip(data: st.DataObject) -> None:
    """What was written is read back."""
    lists = data.draw(st.integers(1, 5))
    homes = data.draw(st.lists(st.sampled_from([*range(lists), ABSENT, OUTSIDE]), max_size=40))
    cache = replace(
        CACHE,
        residual=data.draw(st.booleans()),
        metric=data.draw(st.sampled_from(ann_cache.METRICS)),
        block_rows=data.draw(st.integers(1, 5)),
        block_bytes=data.draw(st.integers(1, 5)),
        breadths=(lists, lists),
        centroids=_floats(lists, 6),
        spreads=_floats(lists),
        homes=np.array(homes, np.uint32),
        codes=np.empty(0, np.uint8),
    )
    cache = replace(cache, codes=np.arange(cache.list_bytes.sum(), dtype=np.uint8))
    decoded = ann_cache.decode(ann_cache.encode(cache))
    _assert_same(cache, decoded)
    assert decoded.rows == len(homes)
    assert decoded.list_rows.tolist() == [homes.count(number) for number in range(lists)]


def test_every_length() -> None:
    """Cut anywhere, or with a byte too many, it is refused."""
    for size in range(len(DATA)):
        with pytest.raises(InvalidFormat):
            ann_cache.decode(DATA[:size])
    with pytest.raises(InvalidFormat):
        ann_cache.decode(DATA + b"\0")


def test_every_bit_flip() -> None:
    """With any bit flipped it is refused."""
    for bit in range(8 * len(DATA)):
        damaged = bytearray(DATA)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InvalidFormat):
            ann_cache.decode(damaged)


@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    """What is no cache is refused."""
    with pytest.raises(InvalidFormat):
        ann_cache.decode(data)


@given(st.integers(56, HEADER_BYTES - 4), st.integers(0, (1 << 32) - 1))
def test_a_header_with_the_right_checksum(offset: int, value: int) -> None:
    """Whatever its sizes say, it is refused, or it is consistent; nothing large is allocated."""
    data = bytearray(DATA)
    struct.pack_into("<I", data, offset, value)
    try:
        cache = ann_cache.decode(_checked(data))
    except InvalidFormat:
        return
    assert cache.homes.nbytes + cache.codes.nbytes + cache.centroids.nbytes <= len(DATA)
    assert int(cache.list_bytes.sum()) == len(cache.codes)
    assert max(cache.breadths) <= len(cache.centroids)


@pytest.mark.parametrize("offset", [56, 80, 84, 88, 92, 96, 100])
@pytest.mark.parametrize("value", [0, 1, 1 << 31, (1 << 32) - 1])
def test_hostile_sizes(offset: int, value: int) -> None:
    """Sizes that do not fit the bytes there are."""
    data = bytearray(DATA)
    as_good = (offset, value) == (92, 1)  # one subspace of all coordinates has as large a codebook
    if struct.unpack_from("<I", data, offset)[0] != value and not as_good:
        struct.pack_into("<I", data, offset, value)
        with pytest.raises(InvalidFormat):
            ann_cache.decode(_checked(data))


@pytest.mark.parametrize(
    "wrong",
    [
        {"homes": np.array([3], np.uint32), "codes": np.zeros(0, np.uint8)},
        {"codes": np.zeros(8, np.uint8)},
        {"codes": np.zeros(10, np.uint8)},
        {"breadths": (0, 1)},
        {"breadths": (1, 4)},
        {"depths": (0, 1)},
        {"scale": float("nan")},
        {"limit": float("inf")},
        {"center": np.full(6, np.nan, np.float32)},
        {"rotation": np.full((2, 2), np.inf, np.float32)},
        {"centroids": np.full((3, 6), -np.inf, np.float32)},
        {"spreads": np.full(3, np.nan, np.float32)},
        {"codebook": np.full((3, 16, 2), np.nan, np.float32)},
        {"dimension": 7},
        {"rotation": _floats(4, 4)},
    ],
)
def test_contradictions(wrong: dict[str, object]) -> None:
    """A cache that no index could have written is refused, though its checksum is right."""
    with pytest.raises(InvalidFormat):
        ann_cache.decode(ann_cache.encode(replace(CACHE, **wrong)))  # type: ignore[arg-type]


def test_other_files() -> None:
    """Another magic or version is refused by name."""
    for head in (b"HFVX\x01\0\0\0", b"HFVI\x02\0\0\0"):
        with pytest.raises(InvalidFormat, match="not an index cache of version 1"):
            ann_cache.decode(_checked(bytearray(head + DATA[8:])))
