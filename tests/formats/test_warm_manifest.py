"""The warm store's manifest: its two lines, and that no damage or contradiction is believed."""

import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import warm_manifest
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.limits import CHUNK_ROWS_MAX, DIMENSION_MAX
from holdfast.formats.warm_manifest import ChunkEntry, DeadFile, Manifest
from holdfast.formats.warm_terms import Compression
from tests.formats.warm_samples import STORE_ID, flips

MANIFEST = Manifest(
    STORE_ID.hex(), 3, 12, 40, 41, 8, "zstd",
    [
        ChunkEntry(3, 3, 100, 5000, 400, 77, -5, 5),
        ChunkEntry(5, 4, 10, 600, 300, 78, 6, 6, DeadFile(7, 10, 62, 79)),
    ],
    1000, 2000,
)  # fmt: skip
SAMPLE = warm_manifest.encode(MANIFEST)


def _sealed(line: bytes) -> bytes:
    return line + b"crc32 %08x\n" % zlib.crc32(line)


def _with(chunk: int | None = None, /, **other: object) -> bytes:
    """The sample with some fields of it, or of one of its chunks, overridden."""
    fields = json.loads(SAMPLE.splitlines()[0])
    (fields if chunk is None else fields["chunks"][chunk]).update(other)
    return _sealed(json.dumps(fields).encode() + b"\n")


def test_layout() -> None:
    """The two lines are as the table says, for any reader of JSON."""
    line, check = SAMPLE.splitlines(keepends=True)
    assert check == b"crc32 %08x\n" % zlib.crc32(line)
    chunk = {
        "number": 3, "run": 3, "rows": 100, "bytes": 5000, "zone_bytes": 400, "checksum": 77,
        "min_time": -5, "max_time": 5, "dead": None,
    }  # fmt: skip
    dead = {"number": 7, "rows": 10, "bytes": 62, "checksum": 79}
    assert json.loads(line) == {
        "format": "holdfast-warm", "version": 1, "store_id": STORE_ID.hex(), "dimension": 3,
        "generation": 12, "flushed": 40, "logged": 41, "next_number": 8, "compression": "zstd",
        "chunks": [chunk, chunk | {
            "number": 5, "run": 4, "rows": 10, "bytes": 600, "zone_bytes": 300, "checksum": 78,
            "min_time": 6, "max_time": 6, "dead": dead,
        }],
        "ingested_bytes": 1000, "written_bytes": 2000, "dropped": False,
    }  # fmt: skip


NUMBER = st.integers(0, (1 << 63) - 1)
CHUNK = st.builds(
    ChunkEntry,
    number=st.integers(0, 50),
    run=NUMBER,
    rows=st.integers(100, CHUNK_ROWS_MAX),
    bytes=st.integers(1, 1 << 48),
    zone_bytes=st.integers(1, 1 << 48),
    checksum=st.integers(0, (1 << 32) - 1),
    min_time=st.integers(-(1 << 63), 0),
    max_time=st.integers(0, (1 << 63) - 1),
    dead=st.one_of(
        st.none(),
        st.builds(
            DeadFile, st.integers(51, 99), st.integers(1, 100), st.integers(1, 99), st.just(5)
        ),
    ),
)


def _files(chunk: ChunkEntry) -> tuple[int, int]:
    return chunk.number, chunk.dead.number if chunk.dead else -1 - chunk.number


@given(
    st.lists(CHUNK, max_size=5, unique_by=(lambda chunk: _files(chunk)[0],
                                           lambda chunk: _files(chunk)[1])),
    st.integers(1, DIMENSION_MAX),
    st.sampled_from(["none", "zstd", "lz4"]),
    st.tuples(NUMBER, NUMBER),
    st.booleans(),
)  # fmt: skip
def test_round_trip(
    some: list[ChunkEntry],
    dimension: int,
    compression: Compression,
    sequences: tuple[int, int],
    dropped: bool,
) -> None:
    """What was encoded is decoded."""
    flushed, logged = sequences  # either may be the larger: logs are not synced for a flush
    chunks = sorted(some, key=lambda chunk: chunk.number)
    manifest = Manifest(
        STORE_ID.hex(), dimension, 1, flushed, logged, 100, compression, chunks, dropped=dropped
    )
    assert warm_manifest.decode(warm_manifest.encode(manifest)) == manifest


def test_every_flip_and_cut() -> None:
    """Every damage is refused, with a place that is not behind it, and a reason."""
    for bit, data in flips(SAMPLE):
        with pytest.raises(InvalidFormat) as caught:
            warm_manifest.decode(data)
        assert caught.value.offset is not None
        assert caught.value.offset <= max(bit // 8, len(SAMPLE) - 15)
        assert caught.value.reason
    for size in range(len(SAMPLE)):
        for fill in (b"", bytes(20), b"\n", SAMPLE):
            if SAMPLE[:size] + fill == SAMPLE:
                continue
            with pytest.raises(InvalidFormat):
                warm_manifest.decode(SAMPLE[:size] + fill)


DEAD = {"number": 7, "rows": 10, "bytes": 62, "checksum": 79}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_with(format="holdfast-cold"), "format 'holdfast-cold'"),
        (_with(version=2), "version 2"),
        (_with(version=2, chunks="of another form"), "version 2"),
        (_with(store_id="00"), "not of 16 bytes"),
        (_with(store_id="z" * 32), "not hexadecimal"),
        (_with(dimension=0), "dimension"),
        (_with(dimension=DIMENSION_MAX + 1), "dimension"),
        (_with(dimension=3.5), "dimension"),
        (_with(generation=-1), "generation"),
        (_with(generation=True), "generation"),
        (_with(generation=1 << 63), "generation"),
        (_with(next_number=10**40), "next_number"),
        (_with(compression="gzip"), "gzip"),
        (_with(unknown=1), "unknown"),
        (_with(0, unknown=1), "unknown"),
        (_with(0, number=5), "listed twice"),
        (_with(0, dead=DEAD), "listed twice"),
        (_with(0, number=7), "listed twice"),
        (_with(0, number=8), "file 8 is not below the next number 8"),
        (_with(1, dead=DEAD | {"number": 9}), "file 9 is not below the next number 8"),
        (_with(1, dead=DEAD | {"rows": 11}), "chunk 5 has 11 dead rows of 10"),
        (_with(1, dead=DEAD | {"rows": 0}), "rows"),
        (_with(0, run=4, number=6), "chunk 5 of run 4 is not in order"),
        (_with(0, min_time=6), "chunk 3 ends before it begins"),
        (_with(0, rows=0), "rows"),
        (_with(0, rows=CHUNK_ROWS_MAX + 1), "rows"),
        (_with(0, bytes=1 << 60), "bytes"),
        (_with(0, checksum=1 << 32), "checksum"),
        (_with(0, max_time=1 << 63), "max_time"),
        (_sealed(b"[]\n"), "Expected"),
        (_sealed(b"\n"), "Input data was truncated"),
        (_sealed(b'{"format": "\xff"}\n'), "utf-8"),
        (_sealed(SAMPLE.splitlines()[0].replace(b"000102", b"\xff00102") + b"\n"), "utf-8"),
        (_sealed(b'{"a": ' + b"[" * 100_000 + b"\n"), "recursion"),
        (_sealed(SAMPLE.splitlines()[0]), "does not end with its checksum"),
        (b"", "does not end with its checksum"),
    ],
)
def test_contradictions(data: bytes, reason: str) -> None:
    """What cannot be is refused though the checksum holds, and why is told."""
    with pytest.raises(InvalidFormat) as caught:
        warm_manifest.decode(data)
    assert reason in (caught.value.reason or "")


@given(st.binary(max_size=100), st.booleans())
def test_any_bytes(data: bytes, sealed: bool) -> None:
    """Bytes that are no manifest are refused, with a good checksum, too."""
    with pytest.raises(InvalidFormat):
        warm_manifest.decode(_sealed(data) if sealed else data)


@pytest.mark.parametrize(
    "line", [b'{"format":"\xf7"}\n', b"[" * 100_000 + b"\n", b'{"version":{}}\n']
)
def test_what_is_intact_and_no_json_is_of_no_version(line: bytes) -> None:
    """Behind a right checksum may be anything: a manifest of no version, this one or another."""
    data = line + b"crc32 %08x\n" % zlib.crc32(line)
    assert not warm_manifest.is_of_another_version(data)
    with pytest.raises(InvalidFormat):
        warm_manifest.decode(data)
