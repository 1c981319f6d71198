"""Snapshots of indexes: written byte by byte as specified, read back, refused when damaged."""

import struct
from collections.abc import Sequence
from dataclasses import astuple

import lz4.block
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from holdfast.formats import iqdb_core
from holdfast.formats.checksum import crc32
from holdfast.formats.errors import InvalidArgument
from holdfast.formats.iqdb_core import Batch, CoreHeader
from holdfast.formats.iqdb_snapshot import (
    STAMP_BYTES,
    Compression,
    Encoder,
    Stamp,
    check_region,
    decode_header,
    encode_header,
    encode_preamble,
    encode_stamp,
    open_payload,
    split_stamp,
)
from holdfast.formats.iqdb_values import (
    FlatParameters,
    Flaw,
    HnswParameters,
    Id,
    IndexFlaw,
    IvfParameters,
    Parameters,
    Value,
    canonical_metadata,
    check_id,
    decode_metadata,
    encode_metadata,
)
from tests.formats.iqdb_reader import read_snapshot

IDS = st.one_of(st.integers(0, (1 << 64) - 1), st.binary(min_size=1, max_size=5))
VALUES = st.one_of(
    st.text(max_size=4),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.booleans(),
    st.none(),
)
METADATA = st.one_of(st.none(), st.dictionaries(st.text(max_size=3), VALUES, max_size=4))
ROWS = st.lists(st.tuples(IDS, METADATA), max_size=40, unique_by=lambda row: row[0])
PARAMETERS = st.sampled_from(
    [
        FlatParameters(),
        HnswParameters(),
        IvfParameters(64, 8, 1000, True, 2, 4, 7),
        IvfParameters(64, 8, 1000, False, None, 4, 7),
    ]
)


def snapshot(payload: bytes, compression: Compression, *, rows: int, dimension: int = 3) -> bytes:
    """A whole file."""
    encoder = Encoder(compression, 3, len(payload))
    stored = bytes(encoder.add(payload)) + bytes(encoder.finish())
    region = encode_preamble(compression, len(payload)) + stored
    return encode_header("iqdb-core", dimension, "dot", rows, crc32(region)) + region


def payload_of(
    rows: Sequence[tuple[Id, dict[str, Value] | None]], dimension: int = 3, **header: object
) -> bytes:
    """A payload whose vectors count up."""
    vectors = np.arange(len(rows) * dimension, dtype=np.float32).reshape(-1, dimension)
    told = CoreHeader(FlatParameters(), dimension, "dot", len(rows))._replace(**header)  # type: ignore[arg-type]
    entries = [None if m is None else encode_metadata(m) for _, m in rows]
    ids = [id_ for id_, _ in rows]
    return iqdb_core.encode_header(told) + bytes(iqdb_core.encode_rows(ids, vectors, entries))


def batches(payload: bytes) -> tuple[CoreHeader, list[Batch]]:
    """The payload, decoded."""
    view = memoryview(payload)
    header, start = iqdb_core.decode_header(view)
    return header, list(iqdb_core.decode_rows(view, start, header))


@given(rows=ROWS, compression=st.sampled_from(list(Compression)), parameters=PARAMETERS)
def test_a_second_reader_finds_what_was_written(
    rows: list[tuple[Id, dict[str, Value] | None]],
    compression: Compression,
    parameters: Parameters,
) -> None:
    """Whatever the rows, codec and kind, an independent reader gets every field back."""
    payload = payload_of(rows, parameters=parameters) + encode_stamp(Stamp(5, 6))
    found = read_snapshot(snapshot(payload, compression, rows=len(rows)))
    assert (found.index_type, found.dimension, found.metric) == ("iqdb-core", 3, 1)
    assert (found.version, found.compression, found.vectors) == (2, compression, len(rows))
    assert [row[0] for row in found.rows] == [id_ for id_, _ in rows]
    floats = [f for row in found.rows for f in struct.unpack("<3f", row[1])]
    assert floats == list(range(3 * len(rows)))
    for (_, metadata), row in zip(rows, found.rows, strict=True):
        assert (row[2] is None) == (metadata is None)
        assert dict(row[2] or ()).keys() == (metadata or {}).keys()
    assert found.rest == encode_stamp(Stamp(5, 6))


@given(rows=ROWS, parameters=PARAMETERS)
def test_a_payload_reads_back(
    rows: list[tuple[Id, dict[str, Value] | None]], parameters: Parameters
) -> None:
    """Ids, vectors, metadata, parameters: all come back, in order."""
    header, found = batches(payload_of(rows, parameters=parameters))
    assert header == CoreHeader(parameters, 3, "dot", len(rows))
    assert [id_ for batch in found for id_ in batch.ids] == [id_ for id_, _ in rows]
    entries = [e for b in found for e in (b.metadata or [None] * len(b.ids))]
    decoded = [None if e is None else decode_metadata(e)[0] for e in entries]
    assert decoded == [metadata for _, metadata in rows]
    vectors = np.concatenate([np.empty((0, 3), np.float32), *(batch.vectors for batch in found)])
    assert vectors.reshape(-1).tolist() == list(range(3 * len(rows)))


@pytest.mark.parametrize("odd", [None, 0, 15, 16, 17, 4095, 4096, 4500, 8999])
def test_long_runs_of_plain_rows_read_back_around_an_odd_one(odd: int | None) -> None:
    """Runs are read as arrays, and a row of another shape inside one is not misread."""
    rows: list[tuple[Id, dict[str, Value] | None]] = [(n, None) for n in range(9000)]
    if odd is not None:
        rows[odd] = (b"odd", {"a": 1})
    _, found = batches(payload_of(rows))
    assert [id_ for batch in found for id_ in batch.ids] == [id_ for id_, _ in rows]
    vectors = np.concatenate([batch.vectors for batch in found]).reshape(-1)
    assert (vectors == np.arange(27000)).all()


@pytest.mark.parametrize("run", [0, 1, 15, 16, 17, 80, 100])
def test_reading_rows_of_any_shape_looks_at_each_a_few_times(
    run: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short the runs of plain rows are, looking for them is not the square of the rows."""
    metadata: dict[str, Value] = {"a": 1}
    rows: list[tuple[Id, dict[str, Value] | None]] = [
        (n, metadata if n % (run + 1) == run else None) for n in range(20_000)
    ]
    payload = payload_of(rows)
    looked_at = 0
    frombuffer = np.frombuffer

    def counting(buffer: memoryview, dtype: str, count: int, offset: int) -> NDArray[np.generic]:
        nonlocal looked_at
        looked_at += count
        return frombuffer(buffer, dtype, count, offset)

    monkeypatch.setattr(np, "frombuffer", counting)
    _, found = batches(payload)
    assert sum(len(batch.ids) for batch in found) == len(rows)
    assert looked_at <= 10 * len(rows)


@pytest.mark.parametrize("compression", Compression)
def test_every_truncation_is_refused(compression: Compression) -> None:
    """Wherever a file is cut, header or checksum tell; nothing else is raised."""
    rows: list[tuple[Id, dict[str, Value] | None]] = [(1, {"a": 1}), (b"x", None)]
    whole = memoryview(snapshot(payload_of(rows), compression, rows=2))
    for length in range(len(whole)):
        with pytest.raises(IndexFlaw) as raised:
            check_region(whole[:length], decode_header(whole[:length]))
        header_bytes = 41 + len("iqdb-core")
        expected = Flaw.HEADER_CUT if length < header_bytes else Flaw.CHECKSUM
        assert raised.value.flaw is expected, length
    check_region(whole, decode_header(whole))


@pytest.mark.parametrize("compression", Compression)
def test_every_flipped_bit_is_refused_or_shows(compression: Compression) -> None:
    """A flip in the region fails the checksum; one in the header shows in what it says."""
    whole = snapshot(payload_of([(1, None), (2, None)]), compression, rows=2)
    right = decode_header(whole)
    for at in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            view = memoryview(flipped)
            try:
                header = decode_header(view)
            except IndexFlaw:
                continue
            if at < right.header_bytes - 4:
                assert astuple(header)[:5] != astuple(right)[:5], at
                continue
            with pytest.raises(IndexFlaw) as raised:
                check_region(view, header)
            assert raised.value.flaw is Flaw.CHECKSUM


@given(st.binary(min_size=3 * 15, max_size=200))
def test_arbitrary_bytes_are_rows_or_a_flaw(data: bytes) -> None:
    """Bytes behind a valid header give three rows or a typed flaw, never another exception."""
    view = memoryview(payload_of([(1, None)] * 3)[:26] + data)
    header = CoreHeader(FlatParameters(), 1, "dot", 3)
    outcome: object
    try:
        outcome = len([id_ for b in iqdb_core.decode_rows(view, 26, header) for id_ in b.ids])
    except IndexFlaw as flaw:
        outcome = flaw.flaw
    assert outcome in (3, Flaw.PAYLOAD, Flaw.PAYLOAD_CUT)


@pytest.mark.parametrize("at", range(26 + 15))
def test_a_payload_cut_anywhere_is_refused(at: int) -> None:
    """A header that promises more rows than there are bytes is refused before memory is taken."""
    payload = memoryview(payload_of([(1, {"k": "v"}), (b"id", None)]))
    with pytest.raises(IndexFlaw):
        list(iqdb_core.decode_rows(payload[:at], 26, CoreHeader(FlatParameters(), 3, "dot", 2)))
    with pytest.raises(IndexFlaw):
        iqdb_core.decode_header(payload[:at])


def test_a_claim_of_many_rows_takes_no_memory() -> None:
    """2^60 rows in a few bytes are refused at once, and so is dimension 0."""
    for rows, dimension in ((1 << 60, 3), (2, 1 << 60), (2, 0), (0, 1 << 60), (0, (1 << 20) + 1)):
        header = CoreHeader(FlatParameters(), dimension, "dot", rows)
        with pytest.raises(IndexFlaw) as raised:
            iqdb_core.decode_header(memoryview(iqdb_core.encode_header(header)))
        assert raised.value.flaw is Flaw.PAYLOAD


def test_a_header_of_a_dimension_beyond_all_bounds_is_refused() -> None:
    """Also of an index whose payload is its own class's: the log is read by it."""
    head = encode_header("own", (1 << 20) + 1, "dot", 0, 0)
    with pytest.raises(IndexFlaw) as raised:
        decode_header(head)
    assert raised.value.flaw is Flaw.PAYLOAD
    assert decode_header(encode_header("own", 1 << 20, "dot", 0, 0)).dimension == 1 << 20


# --- compression --------------------------------------------------------------------------------


def region(compression: Compression, size: int, stored: bytes) -> memoryview:
    """A file whose payload is these stored bytes."""
    body = encode_preamble(compression, size) + stored
    return memoryview(encode_header("iqdb-core", 3, "dot", 0, crc32(body)) + body)


@pytest.mark.parametrize(
    ("compression", "size", "stored"),
    [
        (Compression.ZSTD, 99, zstandard.compress(bytes(100))),
        (Compression.ZSTD, 101, zstandard.compress(bytes(100))),
        (Compression.ZSTD, 100, b"no frame"),
        (Compression.ZSTD, 100, zstandard.compress(bytes(100))[:-3]),
        (Compression.LZ4, 99, lz4.block.compress(bytes(100), store_size=False)),
        (Compression.LZ4, 101, lz4.block.compress(bytes(100), store_size=False)),
        (Compression.LZ4, 100, b"\xff" * 20),
        (Compression.LZ4, 0, b"x"),
    ],
)
def test_stored_bytes_must_give_the_recorded_length(
    compression: Compression, size: int, stored: bytes
) -> None:
    """Too many, too few or other bytes are a typed flaw, and no more than ``size`` is expanded."""
    view = region(compression, size, stored)
    with pytest.raises(IndexFlaw) as raised:
        open_payload(view, decode_header(view))
    assert raised.value.flaw is Flaw.COMPRESSION


def test_frames_one_after_the_other_and_without_a_size_are_read() -> None:
    """zstd frames as the original writes them, with no content size, also several of them."""
    frames = b""
    for part in (b"a" * 50, b"b" * 50):
        writer = zstandard.ZstdCompressor(level=3).compressobj()
        frames += writer.compress(part) + writer.flush()
    view = region(Compression.ZSTD, 100, frames)
    assert bytes(open_payload(view, decode_header(view))) == b"a" * 50 + b"b" * 50


@pytest.mark.parametrize("compression", [Compression.ZSTD, Compression.LZ4])
def test_the_ratio_guard_stops_bombs_and_can_be_lifted(compression: Compression) -> None:
    """A claim over 4096 times the stored bytes is refused unexpanded; an honest one can be read."""
    zeros = bytes(4096 * 64)
    encoder = Encoder(compression, 3, len(zeros))
    stored = bytes(encoder.add(zeros)) + bytes(encoder.finish())
    claim = region(compression, 4096 * len(stored) + 1, stored)
    with pytest.raises(IndexFlaw) as raised:
        open_payload(claim, decode_header(claim))
    assert "4096 times" in raised.value.reason
    view = region(compression, len(zeros), stored)
    assert open_payload(view, decode_header(view), ratio_max=None) == zeros


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("expected", [0, 100, 5_000, 1 << 20])
def test_a_payload_of_another_length_than_expected(compression: Compression, expected: int) -> None:
    """Whatever length was expected, and in whatever pieces it comes, what is stored is right."""
    payload = bytes(range(256)) * 40
    encoder = Encoder(compression, 3, expected)
    stored = b"".join(bytes(encoder.add(payload[n : n + 999])) for n in range(0, 10_240, 999))
    view = region(compression, len(payload), stored + bytes(encoder.finish()))
    assert open_payload(view, decode_header(view)) == payload


# --- the stamp ----------------------------------------------------------------------------------


def test_a_stamp_is_split_off_and_nothing_else() -> None:
    """A stamp at the end is taken; a damaged one, and whatever is no stamp, is the payload's."""
    stamped = memoryview(b"payload" + encode_stamp(Stamp(1 << 63, 7)))
    assert split_stamp(stamped) == (memoryview(b"payload"), Stamp(1 << 63, 7))
    for at in range(len(stamped) - STAMP_BYTES, len(stamped)):
        damaged = bytearray(stamped)
        damaged[at] ^= 1
        assert split_stamp(memoryview(damaged)) == (memoryview(damaged), None)
    assert split_stamp(memoryview(b"short")) == (memoryview(b"short"), None)


# --- values -------------------------------------------------------------------------------------


def test_metadata_of_other_writers_becomes_canonical() -> None:
    """A repeated key keeps its last value, keys are sorted, any byte but 0 is true."""

    def entry(key: bytes, value: bytes) -> bytes:
        return struct.pack("<I", len(key)) + key + value

    odd = struct.pack("<I", 3) + entry(b"b", b"\x03\x07") + entry(b"a", b"\x04")
    odd += entry(b"b", b"\x01" + struct.pack("<q", -1))
    canonical, stop = canonical_metadata(odd + b"rest")
    assert stop == len(odd)
    assert canonical == encode_metadata({"a": None, "b": -1})
    assert canonical_metadata(canonical) == (canonical, len(canonical))
    assert decode_metadata(struct.pack("<I", 1) + entry(b"t", b"\x03\x02"))[0] == {"t": True}


def test_metadata_cut_anywhere_is_a_flaw() -> None:
    """No truncation of metadata raises anything but a flaw, and none passes."""
    whole = encode_metadata({"s": "text", "i": 1, "f": 0.5, "b": True, "n": None})
    for length in range(len(whole)):
        with pytest.raises(IndexFlaw):
            decode_metadata(whole[:length])


@pytest.mark.parametrize(
    "metadata",
    [{1: "a"}, {"a": b"bytes"}, {"a": 1 << 63}, {"a": [1]}, {"a": "\ud800"}, {"\ud800": 1}, ["a"]],
)
def test_metadata_that_the_format_has_not_is_refused(metadata: object) -> None:
    """A key or value of another type or range is named in the error."""
    with pytest.raises(InvalidArgument):
        encode_metadata(metadata)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("id_", [-1, 1 << 64, b"", "text", 1.0, True, None])
def test_ids_that_the_format_has_not_are_refused(id_: object) -> None:
    """An id is a u64 or bytes that are not empty."""
    with pytest.raises(InvalidArgument):
        check_id(id_)
