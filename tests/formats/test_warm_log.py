"""The warm store's log: its layout, and how every cut, flip and exchange of records is judged."""

import struct
import zlib
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import warm_log
from holdfast.formats.errors import InvalidFormat
from holdfast.formats.fold_log import Ending
from holdfast.formats.points import metadata_to_ipc
from holdfast.formats.warm_log import (
    HEADER_BYTES,
    LogHeader,
    LogScan,
    Record,
    RecordKind,
    decode_header,
    keys_of,
    range_of,
    scan,
    write_of,
)
from tests.formats.warm_samples import (
    DIMENSION,
    ENTITIES,
    SPACES,
    STORE_ID,
    TIMES,
    VALUES,
    Rows,
    flips,
    points_of,
    rows_in,
)

HEADER = warm_log.encode_header(DIMENSION, STORE_ID, 5)
FIRST = LogHeader(DIMENSION, STORE_ID, 5)


class Write(NamedTuple):
    """A write of these rows, which are all of one space."""

    rows: Rows


class Delete(NamedTuple):
    """A delete of these points of a space."""

    space: int
    keys: list[tuple[int, int]]


class DeleteRange(NamedTuple):
    """A delete of a range of time."""

    space: int | None
    entity: int | None
    start: int
    end: int


Change = Write | Delete | DeleteRange


def _entities(ids: list[int]) -> bytes:
    """One id where it is that of all."""
    one = len(set(ids)) == 1 and len(ids) != 1
    return np.array(ids[:1] if one else ids, "<u8").tobytes()


def _record(sequence: int, change: Change) -> bytes:
    match change:
        case Write(some):
            points = points_of(some)
            pieces = warm_log.encode_write(
                sequence,
                int(points.spaces[0]),
                _entities(points.entities.tolist()),
                points.timestamps.tobytes(),
                points.vectors.tobytes(),
                metadata_to_ipc(points.metadata),
            )
        case Delete(space, keys):
            times = np.array([time for _, time in keys], "<i8").tobytes()
            ids = _entities([entity for entity, _ in keys])
            pieces = warm_log.encode_delete(sequence, space, ids, times)
        case DeleteRange():
            pieces = warm_log.encode_delete_range(sequence, *change)
    return b"".join(pieces)


def _change(record: Record) -> Change:
    match record.kind:
        case RecordKind.WRITE:
            return Write(rows_in(write_of(record, DIMENSION)))
        case RecordKind.DELETE:
            entities, times = keys_of(record)
            keys = list(zip(entities.tolist(), times.tolist(), strict=True))
            return Delete(record.space, keys)
        case RecordKind.DELETE_RANGE:
            return DeleteRange(*range_of(record))


@st.composite
def _writes(draw: st.DrawFn) -> Write:
    space = draw(SPACES)
    ids = st.one_of(ENTITIES.map(st.just), st.just(ENTITIES))
    keys = st.tuples(st.just(space), draw(ids), TIMES)
    return Write(draw(st.dictionaries(keys, VALUES, min_size=1, max_size=6)))


CHANGES = st.one_of(
    _writes(),
    st.builds(Delete, SPACES, st.lists(st.tuples(ENTITIES, TIMES), min_size=1, max_size=6)),
    st.builds(
        DeleteRange, st.one_of(st.none(), SPACES), st.one_of(st.none(), ENTITIES), TIMES, TIMES
    ),
)

ONE = np.array([1, 2, 3], "<f4").tobytes()
SAMPLE: tuple[Change, ...] = (
    Write({(7, 9, 10): (ONE, {}), (7, 9, 11): (ONE, {"a": "ü"})}),
    Delete(7, [(9, 10), (8, -1)]),
    DeleteRange(None, 3, -5, 5),
    Write({(0, 1, 2): (ONE, {})}),
)
RECORDS = [_record(5 + n, change) for n, change in enumerate(SAMPLE)]
LOG = HEADER + b"".join(RECORDS)
BOUNDS = [HEADER_BYTES + sum(map(len, RECORDS[:n])) for n in range(len(RECORDS) + 1)]


def _scan(log: bytes, **known: int | None) -> LogScan:
    return scan(memoryview(log), FIRST, **known)  # type: ignore[arg-type]


def _sealed(kind: int, flags: int, space: int, rows: int, body: bytes, **other: int) -> bytes:
    """A record made by hand, as the table says; ``other`` overrides fields."""
    padded = body + bytes(-len(body) % 8)
    head = b"WREC" + struct.pack(
        "<QIBBHQIIQ", other.get("sequence", 5), zlib.crc32(padded), kind, flags, 0,
        other.get("length", len(body)), space, rows, other.get("metadata", 0),
    )  # fmt: skip
    return struct.pack("<I", zlib.crc32(head)) + head + padded


def test_layout() -> None:
    """Header and records lie as the tables say."""
    head = b"HFWARMWL" + struct.pack("<II16sQ", 1, DIMENSION, STORE_ID, 5)
    assert head + struct.pack("<II", zlib.crc32(head), 0) == HEADER
    metadata = metadata_to_ipc(points_of(SAMPLE[0].rows).metadata)  # type: ignore[union-attr]
    body = struct.pack("<qqQ", 10, 11, 9) + ONE + ONE + metadata
    assert RECORDS[0] == _sealed(1, 1, 7, 2, body, metadata=len(metadata))
    body = struct.pack("<qqQQ", 10, -1, 9, 8)
    assert RECORDS[1] == _sealed(2, 0, 7, 2, body, sequence=6)
    body = struct.pack("<qqQ", -5, 5, 3)
    assert RECORDS[2] == _sealed(3, 4, 0, 1, body, sequence=7)
    body = struct.pack("<qQ", 2, 1) + ONE + bytes(4)
    assert RECORDS[3] == _sealed(1, 0, 0, 1, body, sequence=8)
    assert len(RECORDS[3]) % 8 == 0


@given(st.lists(CHANGES, max_size=6))
def test_round_trip(changes: list[Change]) -> None:
    """What was logged is read back, in order and numbered."""
    log = HEADER + b"".join(_record(5 + n, change) for n, change in enumerate(changes))
    found = _scan(log)
    assert [_change(record) for record in found.records] == changes
    assert [record.sequence for record in found.records] == list(range(5, 5 + len(changes)))
    assert found.verdict.ending is Ending.CLEAN
    assert found.end == len(log)


def test_arrays_are_views() -> None:
    """Reading a write copies no vector and no time."""
    view = memoryview(LOG)
    record = scan(view, FIRST).records[0]
    points = write_of(record, DIMENSION)
    log = np.frombuffer(view, np.uint8)
    assert np.shares_memory(points.vectors, log)
    assert np.shares_memory(points.timestamps, log)


def _fills(seed: int) -> list[bytes]:
    return [b"", bytes(600), np.random.default_rng(seed).bytes(90)]


def _shared(one: bytes, other: bytes) -> int:
    """How many bytes two logs have in common at their beginning."""
    pairs = zip(one, other, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def test_every_cut() -> None:
    """A log cut anywhere, with anything behind the cut, has the records before it, and is torn."""
    for cut in range(HEADER_BYTES, len(LOG) + 1):
        for fill in _fills(cut):
            log = LOG[:cut] + fill
            same = _shared(log, LOG)  # a fill may begin with what was cut
            whole = max(n for n, bound in enumerate(BOUNDS) if bound <= same)
            found = _scan(log)
            assert [_change(record) for record in found.records] == list(SAMPLE[:whole])
            assert found.end == BOUNDS[whole]
            clean = len(log) == BOUNDS[whole]
            assert found.verdict.ending is (Ending.CLEAN if clean else Ending.TORN)
            assert bool(found.verdict.reason) is not clean


def test_every_flip() -> None:
    """A flip in the last record is a torn write, and any before it corruption at that record."""
    for bit, log in flips(LOG):
        if bit // 8 < HEADER_BYTES:
            problem = decode_header(log)
            assert isinstance(problem, str)
            continue
        place = max(n for n, bound in enumerate(BOUNDS) if bound <= bit // 8)
        found = _scan(log)
        assert [_change(record) for record in found.records] == list(SAMPLE[:place])
        last = place == len(RECORDS) - 1
        assert found.verdict.ending is (Ending.TORN if last else Ending.CORRUPT)
        assert found.verdict.offset == BOUNDS[place]
        assert found.verdict.reason


def test_every_cut_of_the_header() -> None:
    """Less than a header is none, and says how long it is."""
    for size in range(HEADER_BYTES):
        problem = decode_header(HEADER[:size])
        assert problem == f"{size} bytes are no header, which has {HEADER_BYTES}"
    assert decode_header(HEADER) == FIRST


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (b"HFWARMWX" + struct.pack("<II16sQ", 1, 3, STORE_ID, 5), "magic"),
        (b"HFWARMWL" + struct.pack("<II16sQ", 2, 3, STORE_ID, 5), "format version 2"),
    ],
)
def test_foreign_headers(head: bytes, problem: str) -> None:
    """A header of something else or of a later version is named, though its checksum holds."""
    found = decode_header(head + struct.pack("<II", zlib.crc32(head), 0))
    assert isinstance(found, str)
    assert problem in found


def _order(*numbers: int) -> bytes:
    return HEADER + b"".join(RECORDS[n] for n in numbers)


@pytest.mark.parametrize(
    ("log", "whole", "ending"),
    [
        (_order(0, 2, 1, 3), 1, Ending.CORRUPT),  # two exchanged
        (_order(0, 1, 3, 2), 2, Ending.CORRUPT),  # the last two exchanged
        (_order(1, 2, 3), 0, Ending.CORRUPT),  # the first one is gone
        (_order(0, 2, 3), 1, Ending.CORRUPT),  # one from the middle
        (_order(0, 1, 3), 2, Ending.CORRUPT),  # the last but one
        (_order(0, 0, 1, 2, 3), 1, Ending.CORRUPT),  # one twice
        (_order(0, 1, 1, 2, 3), 2, Ending.CORRUPT),
        (_order(0, 1, 2, 3, 3), 4, Ending.TORN),  # nothing that is not there is behind it
        (_order(0, 1, 2, 3, 0), 4, Ending.TORN),
        (_order(0, 1, 2), 3, Ending.CLEAN),  # whether there was more, others have to know
    ],
)
def test_records_out_of_order(log: bytes, whole: int, ending: Ending) -> None:
    """A record that is missing, or out of its place, is corruption as long as one is behind it."""
    found = _scan(log)
    assert [_change(record) for record in found.records] == list(SAMPLE[:whole])
    assert found.verdict.ending is ending
    if ending is not Ending.CLEAN:
        assert found.verdict.offset == BOUNDS[whole]
        assert f"where {5 + whole} was due" in found.verdict.reason


def test_what_was_synced_is_never_torn() -> None:
    """Damage before what was synced is corruption, and so is a log that ends before it."""
    for cut in range(BOUNDS[2], len(LOG)):
        found = _scan(LOG[:cut], synced_to=BOUNDS[3])
        assert found.verdict.ending is (Ending.CORRUPT if cut < BOUNDS[3] else (
            Ending.CLEAN if cut == BOUNDS[3] else Ending.TORN
        ))  # fmt: skip
        if cut < BOUNDS[3]:
            assert "synced" in found.verdict.reason


def test_what_was_not_synced_may_be_torn() -> None:
    """After a power loss, damage where nothing was synced is torn, whatever lies behind it."""
    damaged = bytearray(LOG)
    damaged[BOUNDS[2] + 50] ^= 1
    for unsynced_from, ending in (
        (BOUNDS[2], Ending.TORN),
        (BOUNDS[1], Ending.TORN),
        (BOUNDS[2] + 8, Ending.CORRUPT),
        (None, Ending.CORRUPT),
    ):
        found = _scan(bytes(damaged), unsynced_from=unsynced_from)
        assert found.verdict.ending is ending
        assert found.end == BOUNDS[2]


@pytest.mark.parametrize(
    "record",
    [
        _sealed(0, 0, 0, 0, b""),
        _sealed(4, 0, 0, 0, b""),
        _sealed(1, 0, 0, 1, bytes(16)),  # no vectors
        _sealed(1, 0, 0, (1 << 32) - 1, bytes(28)),
        _sealed(1, 0, 0, 1, bytes(32), metadata=(1 << 64) - 1),
        _sealed(1, 0, 0, 1, bytes(32), length=(1 << 64) - 1),
        _sealed(1, 0, 0, 1, bytes(32), length=40),
        _sealed(1, 0, 0, 1, bytes(32), length=25),
        _sealed(1, 1, 0, 2, bytes(56)),  # one entity for all, and yet two
        _sealed(2, 0, 0, 2, bytes(24)),  # two entities, and yet one
        _sealed(3, 0, 0, 1, bytes(16)),
        _sealed(3, 2, 0, 0, bytes(24)),
    ],
)
def test_contradictions(record: bytes) -> None:
    """A record whose sizes do not agree is none, whatever its checksums say."""
    found = _scan(HEADER + record)
    assert found.records == []
    assert found.verdict.ending is Ending.TORN
    assert found.verdict.offset == HEADER_BYTES
    assert found.verdict.reason


@pytest.mark.parametrize("metadata", [b"no stream.", metadata_to_ipc(points_of({
    (0, 0, 0): (ONE, {"a": "b"}), (0, 0, 1): (ONE, {}),
}).metadata)])  # fmt: skip
def test_broken_metadata(metadata: bytes) -> None:
    """A record whose metadata are none, or of more rows, is refused when it is read."""
    pieces = warm_log.encode_write(5, 0, bytes(8), bytes(8), ONE, metadata)
    found = _scan(HEADER + b"".join(pieces))
    assert found.verdict.ending is Ending.CLEAN
    with pytest.raises(InvalidFormat) as caught:
        write_of(found.records[0], DIMENSION)
    assert caught.value.offset == HEADER_BYTES + 48 + 32  # behind the arrays and their padding


def test_search_behind_damage_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads that each announce a long body make nobody compute checksums for ever."""
    monkeypatch.setattr(warm_log, "RESYNC_BYTES_MAX", 100_000)
    head = _sealed(1, 0, 0, 1, b"", length=1 << 14, sequence=6)
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1

    log = HEADER + bytes(8) + head * 2000
    found = scan(memoryview(log), FIRST, tick=tick)
    assert found.verdict.ending is Ending.CORRUPT
    assert "100000 bytes behind it were searched" in found.verdict.reason
    assert ticks < 10


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Nothing that follows a header raises anything."""
    found = _scan(HEADER + data)
    assert found.end <= HEADER_BYTES + len(data)
    assert isinstance(decode_header(data), str)
