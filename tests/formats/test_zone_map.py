"""Zone maps: the layout, the series of rows, and that no damage or contradiction is believed."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import zone_map
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.limits import CHUNK_ROWS_MAX
from holdfast.formats.zone_map import BLOCK_BYTES, HEADER_BYTES, ZoneMap, block_checksums, series_of
from tests.formats.warm_samples import STORE_ID, Rows, flips, points_of, rows

ARRAYS = ("spaces", "entities", "starts", "first_times", "last_times")


def _zone(some: Rows, chunk_bytes: int = BLOCK_BYTES + 1, **flags: bool) -> ZoneMap:
    points = points_of(some)
    blocks = -(-chunk_bytes // BLOCK_BYTES)
    return ZoneMap(
        3, STORE_ID, 9, 8, chunk_bytes, flags.get("has_metadata", False),
        flags.get("compressed", False),
        series_of(points.spaces, points.entities, points.timestamps),
        np.arange(100, 100 + blocks, dtype=np.uint32),
    )  # fmt: skip


def _facts(zone: ZoneMap) -> tuple[object, ...]:
    arrays = [getattr(zone.series, name).tolist() for name in ARRAYS]
    return (
        zone.dimension, zone.store_id, zone.chunk, zone.run, zone.rows, zone.chunk_bytes,
        zone.has_metadata, zone.compressed, arrays, zone.checksums.tolist(),
    )  # fmt: skip


SAMPLE_ROWS: Rows = {
    (0, 7, -5): (bytes(12), {}),
    (0, 7, 3): (bytes(12), {}),
    (0, 1 << 63, 0): (bytes(12), {}),
    (4, 7, 1): (bytes(12), {}),
}
SAMPLE = zone_map.encode(_zone(SAMPLE_ROWS, has_metadata=True))


def _head(**other: int | bytes) -> bytes:
    """The head of the sample as the table has it; ``other`` overrides fields."""
    fields: dict[str, int | bytes] = {
        "magic": b"HFWZONE\0", "version": 1, "dimension": 3, "store": STORE_ID, "chunk": 9,
        "rows": 4, "bytes": BLOCK_BYTES + 1, "series": 3, "block": BLOCK_BYTES, "flags": 1,
        "run": 8,
    }  # fmt: skip
    assert other.keys() <= fields.keys()
    packed = struct.pack("<8sII16sQQQQIIQ", *(fields | other).values())
    return packed + struct.pack("<II", zlib.crc32(packed), 0)


def _body(**other: list[int]) -> bytes:
    fields: dict[str, list[int]] = {
        "entities": [7, 1 << 63, 7],
        "first_rows": [0, 2, 3],
        "first_times": [-5, 0, 1],
        "last_times": [3, 0, 1],
        "spaces": [0, 0, 4],
        "checksums": [100, 101],
    }
    assert other.keys() <= fields.keys()
    arrays = (fields | other).values()
    packed = b""
    for form, values in zip("QQqqII", arrays, strict=True):
        packed += struct.pack(f"<{len(values)}{form}", *values)
        packed += bytes(-len(packed) % 8)
    return packed + struct.pack("<II", zlib.crc32(packed), 0)


def test_layout() -> None:
    """Fields lie where the table says."""
    assert _head() + _body() == SAMPLE
    assert len(SAMPLE) == 88 + 4 * 24 + 16 + 8 + 8


@given(rows(min_size=1), st.integers(1, 3 * BLOCK_BYTES), st.booleans(), st.booleans())
def test_round_trip(some: Rows, size: int, has_metadata: bool, compressed: bool) -> None:
    """What was encoded is decoded."""
    zone = _zone(some, size, has_metadata=has_metadata, compressed=compressed)
    assert _facts(zone_map.decode(zone_map.encode(zone))) == _facts(zone)


@given(rows())
def test_series_of_rows(some: Rows) -> None:
    """Each series has its rows, its first time and its last."""
    points = points_of(some)
    found = series_of(points.spaces, points.entities, points.timestamps)
    expected: dict[tuple[int, int], list[int]] = {}
    for space, entity, time in some:
        expected.setdefault((space, entity), []).append(time)
    assert list(zip(found.spaces.tolist(), found.entities.tolist(), strict=True)) == list(expected)
    assert np.diff(found.starts).tolist() == [len(times) for times in expected.values()]
    assert found.first_times.tolist() == [times[0] for times in expected.values()]
    assert found.last_times.tolist() == [times[-1] for times in expected.values()]
    assert found.rows == len(some)
    assert len(found) == len(expected)


def test_every_flip_and_cut() -> None:
    """Every damage is refused, but for that of the eight bytes that are padding."""
    expected = _facts(zone_map.decode(SAMPLE))
    padding = {*range(84, 88), *range(len(SAMPLE) - 4, len(SAMPLE))}
    for bit, data in flips(SAMPLE):
        if bit // 8 in padding:
            assert _facts(zone_map.decode(data)) == expected
            continue
        with pytest.raises(InvalidFormat) as caught:
            zone_map.decode(data)
        assert caught.value.offset == (0 if bit // 8 < HEADER_BYTES else HEADER_BYTES)
        assert caught.value.reason
    for size in range(len(SAMPLE)):
        with pytest.raises(InvalidFormat):
            zone_map.decode(SAMPLE[:size])
        with pytest.raises(InvalidFormat):
            zone_map.decode(SAMPLE + bytes(size + 1))


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_head(magic=b"HFWZONE\1") + _body(), "magic"),
        (_head(version=2) + _body(), "format version 2, this release reads 1"),
        (_head(block=BLOCK_BYTES // 2) + _body(), "blocks of 32768 bytes"),
        (_head(block=0) + _body(), "blocks of 0 bytes"),
        (_head(series=2) + _body(), "do not hold 2 series"),
        (_head(series=HUGE) + _body(), f"do not hold {HUGE} series"),
        (_head(bytes=BLOCK_BYTES) + _body(checksums=[1, 2, 3]), "and 1 blocks"),
        (_head(bytes=HUGE) + _body(), "blocks"),
        (_head(rows=HUGE) + _body(), f"{HUGE} rows"),
        (_head(rows=CHUNK_ROWS_MAX + 1) + _body(), "rows are not within"),
        (_head(rows=0) + _body(), "rows are not within"),
        (_head(rows=3) + _body(), "not one behind the other"),
        (_head(rows=2) + _body(), "begins behind the last row"),
        (_head() + _body(first_rows=[1, 2, 3]), "not one behind the other"),
        (_head() + _body(first_rows=[0, 0, 3]), "not one behind the other"),
        (_head() + _body(first_rows=[0, 3, 2]), "not one behind the other"),
        (_head() + _body(first_rows=[0, HUGE, 3]), "begins behind the last row"),
        (_head() + _body(first_rows=[0, (1 << 63) - 1, HUGE - 1]), "begins behind the last row"),
        (_head() + _body(spaces=[0, 4, 0]), "not in order"),
        (_head() + _body(entities=[8, 7, 7]), "not in order"),
        (_head() + _body(entities=[7, 7, 7]), "not in order"),
        (_head() + _body(first_times=[4, 0, 1]), "ends before it begins"),
    ],
)
def test_contradictions(data: bytes, reason: str) -> None:
    """Numbers that cannot be are refused though every checksum holds, and why is told."""
    with pytest.raises(InvalidFormat) as caught:
        zone_map.decode(data)
    assert reason in (caught.value.reason or "")


def test_no_series() -> None:
    """A chunk without rows is none."""
    empty: dict[str, list[int]] = {
        "entities": [],
        "first_rows": [],
        "first_times": [],
        "last_times": [],
        "spaces": [],
    }
    with pytest.raises(InvalidFormat, match="a chunk without series"):
        zone_map.decode(_head(series=0) + _body(**empty))


@given(st.lists(st.binary(max_size=40), max_size=8), st.integers(1, 30))
def test_block_checksums(pieces: list[bytes], block: int) -> None:
    """However a file is cut into pieces, each of its blocks has its own checksum."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zone_map, "BLOCK_BYTES", block)
        found = block_checksums([memoryview(piece) for piece in pieces])
    whole = b"".join(pieces)
    assert found.tolist() == [
        zlib.crc32(whole[at : at + block]) for at in range(0, len(whole), block)
    ]


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(data: bytes, with_head: bool) -> None:
    """Bytes that are no zone map are refused, behind a good head, too."""
    with pytest.raises(InvalidFormat):
        zone_map.decode((_head() if with_head else b"") + data)
