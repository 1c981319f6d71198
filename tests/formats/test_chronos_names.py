"""Names and the zone map of the original's warm tier."""

import contextlib
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.chronos_names import (
    ChunkFacts,
    Zone,
    ZoneMap,
    chunk_file,
    differences,
    entity_directory,
    listed_points,
    parse_chunk,
    parse_entity,
    parse_manifest,
)
from holdfast.formats.errors import InvalidFormat

DATA = Path(__file__).parent.parent / "data" / "warm"
PATH = "entity_0000000000000001/space_0002_chunk_000003.warm"
FACTS = ChunkFacts(PATH, space=2, points=5, first=-3, last=20)


def zone_map(*zones: Zone, series: str = "1:2") -> ZoneMap:
    """A manifest of one series."""
    return ZoneMap({series: list(zones)})


def zone(name: str = PATH.split("/")[1], low: int = -3, high: int = 20, count: int = 5) -> Zone:
    """The entry for the chunk above, unless told otherwise."""
    return Zone(name, low, high, count)


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1))
def test_names_round_trip(entity: int, space: int, chunk: int) -> None:
    """Ids of every length come back from the names made of them."""
    assert parse_entity(entity_directory(entity)) == entity
    assert parse_chunk(chunk_file(space, chunk)) == (space, chunk)


def test_names_of_the_original() -> None:
    """Digits are padded as the original pads them, and read with any padding."""
    assert f"{entity_directory(1)}/{chunk_file(2, 3)}" == PATH
    assert entity_directory(1234567890123456789) == "entity_1234567890123456789"
    assert chunk_file(12345, 1234567) == "space_12345_chunk_1234567.warm"
    assert parse_entity("entity_7") == parse_entity("entity_" + "0" * 40 + "7") == 7
    assert parse_chunk("space_7_chunk_8.warm") == (7, 8)


@pytest.mark.parametrize(
    "name",
    [
        "entity_", "entity_-1", "entity_1x", "xentity_1", "Entity_1", "entity_1\n", "entity_\u0661",
        "entity_18446744073709551616", "space_0000_chunk_000000.warm", "",
    ],
)  # fmt: skip
def test_names_that_are_no_entity(name: str) -> None:
    """Anything else, also a number over 64 bits, is no entity's directory."""
    assert parse_entity(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "space_1_chunk_2.warm.tmp", "space_1_chunk_.warm", "space__chunk_1.warm", "space_1.warm",
        "space_4294967296_chunk_0.warm", "space_0_chunk_18446744073709551616.warm",
        "space_\u0661_chunk_0.warm", "space_1_chunk_2.warm\n", "space_1_chunk_2xwarm", "",
    ],
)  # fmt: skip
def test_names_that_are_no_chunk(name: str) -> None:
    """Anything else, also numbers that are too large, is no chunk file."""
    assert parse_chunk(name) is None


def test_a_manifest_of_the_original() -> None:
    """A manifest is read with whole numbers of 64 bits, and its unknown fields are passed over."""
    zones = parse_manifest((DATA / "odd" / "manifest.json").read_bytes())
    assert zones.chunks["128:0"] == [Zone("space_0000_chunk_000000.warm", -65, 64, 4)]
    assert listed_points(zones)["entity_18446744073709551615/space_0000_chunk_000000.warm"] == 1
    ends = (
        b'{"new": [1.5], "chunks": {"1:2": [{"filename": "x", "min_timestamp":'
        b' -9223372036854775808, "max_timestamp": 9223372036854775807, "point_count":'
        b" 4294967295}]}}"
    )
    assert parse_manifest(ends) == zone_map(Zone("x", -(1 << 63), (1 << 63) - 1, (1 << 32) - 1))


ENTRY = (
    '{"chunks":{"1:0":[{"filename":"x","min_timestamp":%s,"max_timestamp":1,"point_count":%s}]}}'
)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", "{}", '{"chunks":[]}', '{"chunks":{"1:0":{}}}',
        '{"chunks":{"1:0":[{"filename":"x"}]}}', ENTRY % ("1.0", 1), ENTRY % ("1e3", 1),
        ENTRY % (1 << 63, 1), ENTRY % (0, -1), ENTRY % (0, 1 << 32), ENTRY % ('"1"', 1),
        ENTRY % (0, 1) + "x", '{"x":' + "[" * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_manifest(text: str) -> None:
    """What is no JSON, lacks a field, or has numbers that do not fit is refused with a reason."""
    with pytest.raises(InvalidFormat, match=r"not the JSON of a zone map: ."):
        parse_manifest(text.encode())


@given(st.binary(max_size=80))
def test_any_bytes_as_manifest(data: bytes) -> None:
    """Any bytes are a zone map or refused as none."""
    with contextlib.suppress(InvalidFormat):
        parse_manifest(data)


def test_every_change_to_a_manifest() -> None:
    """Every cut and flipped bit of a manifest leaves a zone map that can be compared, or none."""
    whole = (DATA / "duplicates" / "manifest.json").read_bytes()
    cut = [whole[:end] for end in range(len(whole))]
    for data in cut:
        with pytest.raises(InvalidFormat):
            parse_manifest(data)
    for bit in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            zones = parse_manifest(bytes(changed))
        except InvalidFormat:
            continue
        assert all(line.isprintable() for line in differences(zones, [FACTS]))


def test_a_manifest_that_is_right() -> None:
    """There is nothing to say when it has just what the file holds."""
    assert not list(differences(zone_map(zone()), [FACTS]))
    empty = FACTS._replace(points=0, first=None, last=None)
    assert not list(differences(zone_map(zone(count=0)), [empty]))


@pytest.mark.parametrize(
    ("zones", "said"),
    [
        (zone_map(zone(count=6)), ["has 5 points, manifest.json says 6"]),
        (zone_map(zone(low=-2)), ["spans -3 to 20, .* -2 to 20, which is too narrow"]),
        (zone_map(zone(high=19)), ["says -3 to 19, which is too narrow"]),
        (zone_map(zone(low=-4)), ["says -4 to 20, which is too wide"]),
        (zone_map(zone(high=21, count=4)), ["has 5 points", "says -3 to 21, which is too wide"]),
        (ZoneMap({}), [f"{PATH} is not listed"]),
        (zone_map(), [f"{PATH} is not listed"]),
        (zone_map(zone(), zone("gone")), ["'gone' with 5 points for entity 1 in space 2"]),
        (zone_map(zone(), series="1:0"), ["in space 0, which has no such file", "not listed"]),
        (zone_map(zone(), series="2:2"), ["for entity 2 in space 2", "not listed"]),
        (zone_map(zone(), series="1"), ["entry '1', which names no series", "not listed"]),
        (zone_map(series="99999999999999999999:0"), ["names no series", "not listed"]),
        (zone_map(zone(), zone("x" * 1000)), [r"'x{80}\.\.\.' with"]),
    ],
)
def test_differences(zones: ZoneMap, said: list[str]) -> None:
    """Each way in which a manifest may differ is said, with both numbers where there are two."""
    lines = list(differences(zones, [FACTS]))
    assert len(lines) == len(said)
    for line, pattern in zip(lines, said, strict=True):
        assert re.search(pattern, line)


def test_a_file_that_is_listed_twice() -> None:
    """Of two entries for a file the larger number of points is what was written to it."""
    assert listed_points(zone_map(zone(count=3), zone(count=9), zone(count=4))) == {PATH: 9}
    assert not listed_points(zone_map(zone(), series="x"))
