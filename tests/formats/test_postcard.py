"""Points in postcard: as the original writes them, and every other way bytes may turn out."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidArgument
from holdfast.formats.postcard import (
    PAIRS_MAX,
    Point,
    UndecodablePoint,
    decode_point,
    encode_point,
)

DATA = Path(__file__).parent.parent / "data" / "warm"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))

ENTITIES = st.integers(0, (1 << 64) - 1)
TIMESTAMPS = st.integers(-(1 << 63), (1 << 63) - 1)
# Every pattern of 32 bits is a float that has to come back, whichever NaN it is.
VECTORS = st.lists(st.integers(0, (1 << 32) - 1), max_size=40).map(
    lambda bits: np.array(bits, "<u4").view("<f4")
)
METADATA = st.dictionaries(st.text(max_size=20), st.text(max_size=200), max_size=4)
HUGE = bytes.fromhex("ffffffffffffffff7f")
"""A number that no buffer has bytes for."""

# The bytes of those edges that do not have them in their name.
EDGE_BYTES = {
    "bad_utf8_key": bytes.fromhex("0102000101ff0161"),
    "empty": b"",
    "u64_varint_11_bytes": b"\x80" * 10 + bytes.fromhex("01020000"),
    "u64_varint_overflow_last_byte_2": b"\xff" * 9 + bytes.fromhex("02020000"),
}


def described(point: Point) -> dict[str, Any]:
    """A point as ``expected.json`` has it."""
    return {
        "entity": point.entity,
        "point": {
            "t": point.timestamp,
            "v": [f"{bits:08x}" for bits in point.vector.view(np.uint32)],
            "m": sorted(map(list, point.metadata.items())),
        },
    }


@pytest.mark.parametrize("sample", EXPECTED["postcard_samples"], ids=lambda s: s["postcard_hex"])
def test_samples(sample: dict[str, Any]) -> None:
    """The original's points decode to their values, and the values encode to its bytes."""
    data = bytes.fromhex(sample["postcard_hex"])
    point = decode_point(data)
    assert described(point) == {"entity": sample["entity"], "point": sample["point"]}
    assert encode_point(*point) == data


@pytest.mark.parametrize("name", EXPECTED["postcard_decode_edges"])
def test_edges(name: str) -> None:
    """What the original decodes is decoded, to the same value, and what it refuses is refused."""
    expected = EXPECTED["postcard_decode_edges"][name]
    data = EDGE_BYTES.get(name)
    if data is None:
        data = bytes.fromhex(name.split(" ", 1)[1])
    if "error" in expected:
        with pytest.raises(UndecodablePoint):
            decode_point(data)
    else:
        assert described(decode_point(data)) == expected


@given(ENTITIES, TIMESTAMPS, VECTORS, METADATA, st.binary(max_size=5), st.binary(max_size=5))
def test_round_trip(
    entity: int,
    timestamp: int,
    vector: Any,
    metadata: dict[str, str],
    before: bytes,
    behind: bytes,
) -> None:
    """Every point comes back bit for bit, from wherever it lies in a buffer."""
    encoded = encode_point(entity, timestamp, vector, metadata)
    data = memoryview(before + encoded + behind)
    point = decode_point(data, len(before), len(before) + len(encoded))
    assert (point.entity, point.timestamp, point.metadata) == (entity, timestamp, metadata)
    assert point.vector.tobytes() == vector.tobytes()
    assert point.vector.dtype == np.float32


@given(ENTITIES, TIMESTAMPS, VECTORS, METADATA)
def test_every_cut_is_seen(
    entity: int, timestamp: int, vector: Any, metadata: dict[str, str]
) -> None:
    """No beginning of a point is a point, though more bytes follow in the buffer."""
    encoded = encode_point(entity, timestamp, vector, metadata)
    for end in range(len(encoded)):
        with pytest.raises(UndecodablePoint) as refused:
            decode_point(encoded, 0, end)
        assert 0 <= refused.value.offset <= end


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    """Any bytes are a point that encodes to one of the same value, or undecodable for a reason."""
    try:
        point = decode_point(data)
    except UndecodablePoint as error:
        refused = error
    else:
        again = decode_point(encode_point(*point))
        assert described(again) == described(point)
        return
    assert 0 <= refused.offset <= len(data)
    assert refused.reason


@pytest.mark.parametrize(
    ("data", "offset", "reason"),
    [
        (b"\x01\x02" + HUGE, 2, "a vector of 9223372036854775807 floats in the 0 bytes left"),
        (b"\x01\x02\x02" + bytes(7), 2, "a vector of 2 floats in the 7 bytes left"),
        (b"\x01\x02\x00" + HUGE, 3, "9223372036854775807 pairs of metadata in the 0 bytes left"),
        (b"\x01\x02\x00\x02\x00\x00\x00", 3, "2 pairs of metadata in the 3 bytes left"),
        (b"\x01\x02\x00\x01" + HUGE, 4, "a metadata key of 9223372036854775807 bytes in the 0"),
        (b"\x01\x02\x00\x01\x00\x02a", 5, "a metadata value of 2 bytes in the 1 left"),
        (b"\x01\x02\x00\x01\x00\x02a\xff", 7, "a metadata value that is not UTF-8"),
        (b"\x01\x80\x80", 1, "the timestamp is cut off"),
        (b"\x01" + b"\xff" * 11, 1, "the timestamp takes more than 64 bits"),
    ],
)
def test_reasons(data: bytes, offset: int, reason: str) -> None:
    """What cannot be decoded is said with the offset of the field, however large its number."""
    tracemalloc.start()
    try:
        with pytest.raises(UndecodablePoint) as refused:
            decode_point(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert refused.value.offset == offset
    assert refused.value.reason.startswith(reason)
    assert peak < 1 << 20


def test_the_most_pairs() -> None:
    """A point may have as much metadata as anybody writes, and not as much as takes minutes."""
    metadata = {str(number): "" for number in range(PAIRS_MAX)}
    assert decode_point(encode_point(1, 1, [], metadata)).metadata == metadata
    with pytest.raises(UndecodablePoint, match="65537 pairs of metadata, the most is 65536"):
        decode_point(encode_point(1, 1, [], metadata | {"one": "more"}))


@pytest.mark.parametrize(
    ("entity", "timestamp"), [(-1, 0), (1 << 64, 0), (0, 1 << 63), (0, -(1 << 63) - 1)]
)
def test_numbers_that_do_not_fit(entity: int, timestamp: int) -> None:
    """What has no encoding is refused, naming the value."""
    value = entity if entity else timestamp
    with pytest.raises(InvalidArgument, match=str(value)):
        encode_point(entity, timestamp, [])
