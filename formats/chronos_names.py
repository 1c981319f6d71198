"""What names of the original's warm tier say, and its manifest: the zone map.

::

    DIR/manifest.json
    DIR/entity_<u64, at least 16 digits>/space_<u32, at least 4>_chunk_<number, at least 6>.warm

Digits are padded with zeros to a minimum and may be more; here any number of them is read.

``manifest.json`` is ``{"chunks": {"<entity>:<space>": [{"filename": ..., "min_timestamp": ...,
"max_timestamp": ..., "point_count": ...}]}}``: bounds (i64, microseconds) that only ever grow, and
the number of points ever written (u32). The original believes it when it looks for a range of time;
here it is only compared with the chunks, which are what was written.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Annotated, NamedTuple

import msgspec

from holdfast.formats.errors import InvalidFormat

MANIFEST_NAME = "manifest.json"
_ENTITY_MAX = (1 << 64) - 1
_SPACE_MAX = (1 << 32) - 1
_CHUNK_MAX = (1 << 64) - 1
_ENTITY = re.compile(r"entity_([0-9]+)")
_CHUNK = re.compile(r"space_([0-9]+)_chunk_([0-9]+)\.warm")
_SERIES = re.compile(r"([0-9]{1,20}):([0-9]{1,10})")
_SHOWN_CHARS = 80


def entity_directory(entity: int) -> str:
    """The name of the directory that the original makes for an entity."""
    return f"entity_{entity:016}"


def chunk_file(space: int, chunk: int) -> str:
    """The name that the original gives a chunk within its entity's directory."""
    return f"space_{space:04}_chunk_{chunk:06}.warm"


def parse_entity(name: str) -> int | None:
    """The entity that a directory is for; None for any other name."""
    matched = _ENTITY.fullmatch(name)
    if matched is None or (entity := int(matched[1])) > _ENTITY_MAX:
        return None
    return entity


def parse_chunk(name: str) -> tuple[int, int] | None:
    """Space and number of a chunk file; None for any other name."""
    matched = _CHUNK.fullmatch(name)
    if matched is None:
        return None
    space, chunk = int(matched[1]), int(matched[2])
    return (space, chunk) if space <= _SPACE_MAX and chunk <= _CHUNK_MAX else None


# --- the manifest ------------------------------------------------------------------------------

_Timestamp = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]


class Zone(msgspec.Struct, frozen=True, gc=False):
    """What the manifest says of one chunk. Both bounds belong to it."""

    filename: str
    min_timestamp: _Timestamp
    max_timestamp: _Timestamp
    point_count: _Count


class ZoneMap(msgspec.Struct, frozen=True):
    """The manifest: the chunks of each series, by ``<entity>:<space>``."""

    chunks: dict[str, list[Zone]]


class ChunkFacts(NamedTuple):
    """What a chunk file holds; its path relative to the directory, bounds None if nothing."""

    path: str
    space: int
    points: int
    first: int | None
    last: int | None


_DECODER = msgspec.json.Decoder(ZoneMap)


def parse_manifest(data: bytes | memoryview) -> ZoneMap:
    """The manifest of these bytes. Raises ``InvalidFormat`` without a path."""
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFormat(f"it is not the JSON of a zone map: {error}") from error


def listed_points(zones: ZoneMap) -> dict[str, int]:
    """How many points each chunk file should have, by its path relative to the directory."""
    listed: dict[str, int] = {}
    for key, chunks in zones.chunks.items():
        series = _parse_series(key)
        if series is not None:
            for zone in chunks:
                path = f"{entity_directory(series[0])}/{zone.filename}"
                listed[path] = max(zone.point_count, listed.get(path, 0))
    return listed


def differences(zones: ZoneMap, chunks: Iterable[ChunkFacts]) -> Iterator[str]:
    """Where the manifest does not say what the chunk files hold, each in a sentence."""
    facts = {chunk.path: chunk for chunk in chunks}
    listed = set()
    for key, entries in zones.chunks.items():
        series = _parse_series(key)
        if series is None:
            yield f"manifest.json has an entry {_shown(key)}, which names no series"
            continue
        for zone in entries:
            chunk = facts.get(f"{entity_directory(series[0])}/{zone.filename}")
            if chunk is None or chunk.space != series[1]:
                yield (
                    f"manifest.json lists {_shown(zone.filename)} with {zone.point_count} points "
                    f"for entity {series[0]} in space {series[1]}, which has no such file"
                )
            else:
                listed.add(chunk.path)
                yield from _compared(zone, chunk)
    for path in facts:
        if path not in listed:
            yield f"{path} is not listed by manifest.json"


def _compared(zone: Zone, chunk: ChunkFacts) -> Iterator[str]:
    if zone.point_count != chunk.points:
        yield f"{chunk.path} has {chunk.points} points, manifest.json says {zone.point_count}"
    if chunk.first is None or chunk.last is None:
        return
    if (zone.min_timestamp, zone.max_timestamp) != (chunk.first, chunk.last):
        narrow = zone.min_timestamp > chunk.first or zone.max_timestamp < chunk.last
        yield (
            f"{chunk.path} spans {chunk.first} to {chunk.last}, manifest.json says "
            f"{zone.min_timestamp} to {zone.max_timestamp}, which is too "
            + ("narrow" if narrow else "wide")
        )


def _parse_series(key: str) -> tuple[int, int] | None:
    matched = _SERIES.fullmatch(key)
    if matched is None:
        return None
    entity, space = int(matched[1]), int(matched[2])
    return (entity, space) if entity <= _ENTITY_MAX and space <= _SPACE_MAX else None


def _shown(text: str) -> str:
    """Text of a file that may hold anything, as a part of a message."""
    return repr(text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "...")
