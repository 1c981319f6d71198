"""Logs of indexes, byte for byte: written as specified, read back, and judged where damaged."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.fold_log import Ending, Verdict
from holdfast.formats.iqdb_values import Id, Value, decode_metadata, encode_metadata
from holdfast.formats.iqdb_wal import (
    HEADER,
    HEADER_BYTES,
    Damage,
    Delete,
    Frames,
    FrameStamp,
    Insert,
    encode_deletes,
    encode_inserts,
    find_intact,
    header_problem,
    insert_bytes_max,
    judge,
    read_frame,
    read_frames,
)
from tests.formats.iqdb_reader import read_log

IDS = st.one_of(st.integers(0, (1 << 64) - 1), st.binary(min_size=1, max_size=5))
METADATA = st.one_of(st.none(), st.dictionaries(st.text(max_size=3), st.integers(0, 9)))
ROWS = st.lists(st.tuples(IDS, METADATA), min_size=1, max_size=12)
WRITES = st.lists(
    st.one_of(ROWS.map(lambda rows: ("insert", rows)), ROWS.map(lambda rows: ("delete", rows))),
    max_size=6,
)
DIMENSION = 2
Change = tuple[str, Id, bytes, dict[str, Value] | None]


def vectors_of(count: int, first: int = 0) -> "np.typing.NDArray[np.float32]":
    """Vectors that count up."""
    numbers = np.arange(first, first + count * DIMENSION, dtype=np.float32)
    return numbers.reshape(count, DIMENSION)


def written(
    writes: Sequence[tuple[str, Sequence[tuple[Id, dict[str, Value] | None]]]], stamped: bool
) -> tuple[bytes, list[Change]]:
    """A log of these writes, and what it says."""
    log, sequence = HEADER, 1
    changes: list[Change] = []
    for kind, rows in writes:
        ids = [id_ for id_, _ in rows]
        stamp = FrameStamp(9, sequence, len(rows) - 1) if stamped else None
        sequence += len(rows)
        if kind == "delete":
            log += encode_deletes(ids, stamp)
            changes += [(kind, id_, b"", None) for id_ in ids]
            continue
        vectors = vectors_of(len(rows), sequence)
        entries = [None if m is None else encode_metadata(m) for _, m in rows]
        log += encode_inserts(ids, vectors, entries, stamp)
        changes += [(kind, id_, vectors[n].tobytes(), m) for n, (id_, m) in enumerate(rows)]
    return log, changes


def told(log: bytes) -> list[Change]:
    """What a log says, up to its damage."""
    changes: list[Change] = []
    for item in read_frames(memoryview(log), HEADER_BYTES, DIMENSION):
        if isinstance(item, Damage):
            break
        if isinstance(item.change, Delete):
            changes.append(("delete", item.change.id, b"", None))
            continue
        entries = item.change.metadata or [None] * item.records
        for id_, vector, encoded in zip(item.change.ids, item.change.vectors, entries, strict=True):
            metadata = None if encoded is None else decode_metadata(encoded)[0]
            changes.append(("insert", id_, vector.tobytes(), metadata))
    return changes


def verdict_on(log: bytes, unsynced_from: int | None = None) -> Verdict:
    """How a log ends."""
    view = memoryview(log)
    damage = None
    for item in read_frames(view, HEADER_BYTES, DIMENSION):
        if isinstance(item, Damage):
            damage = item
    return judge(view, damage, DIMENSION, unsynced_from=unsynced_from)


@given(writes=WRITES, stamped=st.booleans())
def test_what_is_written_reads_back_here_and_elsewhere(
    writes: list[tuple[str, list[tuple[Id, dict[str, Value] | None]]]], stamped: bool
) -> None:
    """Two readers, one of them independent, find the same records, and the end is clean."""
    log, changes = written(writes, stamped)
    assert told(log) == changes
    assert verdict_on(log).ending is Ending.CLEAN
    records = read_log(log)
    assert [record.id for record in records] == [change[1] for change in changes]
    assert [record.row is not None for record in records] == [c[0] == "insert" for c in changes]
    for number, record in enumerate(records):
        assert len(record.rest) == (24 if stamped else 0)
        if stamped:
            assert struct.unpack_from("<4sQQ", record.rest) == (b"HFwl", 9, number + 1)


@pytest.mark.parametrize("stamped", [True, False])
def test_arrays_and_rows_are_written_alike(stamped: bool) -> None:
    """Ids as an array, the fast way, give the bytes that a list of them gives."""
    stamp = FrameStamp(1 << 63, 7, 99) if stamped else None
    ids = np.arange(1000, 1100, dtype=np.uint64)
    listed: list[Id] = [*ids.tolist()]
    fast = encode_inserts(ids, vectors_of(100), None, stamp)
    assert fast == encode_inserts(listed, vectors_of(100), [None] * 100, stamp)


def test_the_bytes_are_those_of_the_format() -> None:
    """One insert and one delete, spelled out by hand."""
    body = b"\x01\x00" + struct.pack("<Q", 7) + struct.pack("<I2f", 2, 1.5, -2.0) + b"\x00"
    frame = struct.pack("<II", len(body), zlib.crc32(body)) + body
    assert encode_inserts([7], np.array([[1.5, -2.0]], np.float32), None, None) == frame
    body = b"\x02\x01" + struct.pack("<Q", 2) + b"id"
    assert encode_deletes([b"id"], None) == struct.pack("<II", 12, zlib.crc32(body)) + body


@pytest.mark.parametrize("stamped", [True, False])
def test_every_truncation_is_a_torn_tail(stamped: bool) -> None:
    """Wherever a log is cut, the records before are read, and the rest may be cut off."""
    log, changes = written([("insert", [(1, None), (b"x", {"a": 1}), (2, None)])] * 3, stamped)
    ends = [HEADER_BYTES]
    for item in read_frames(memoryview(log), HEADER_BYTES, DIMENSION):
        assert isinstance(item, Frames)
        stride = (item.stop - item.start) // item.records
        ends += range(item.start + stride, item.stop + 1, stride)
    for length in range(HEADER_BYTES, len(log)):
        whole = sum(end <= length for end in ends) - 1
        assert told(log[:length]) == changes[:whole]
        verdict = verdict_on(log[:length])
        assert verdict.ending is (Ending.CLEAN if length in ends else Ending.TORN)
        assert verdict.offset == ends[whole]


def test_every_flipped_bit_is_found() -> None:
    """A flip is corruption where intact records follow, a torn tail in the last; never silent."""
    log, changes = written([("insert", [(n, None) for n in range(6)])], True)
    stride = (len(log) - HEADER_BYTES) // 6
    for at in range(HEADER_BYTES, len(log)):
        for bit in range(8):
            flipped = bytearray(log)
            flipped[at] ^= 1 << bit
            number = (at - HEADER_BYTES) // stride
            assert told(bytes(flipped)) == changes[:number]
            verdict = verdict_on(bytes(flipped))
            assert verdict.offset == HEADER_BYTES + number * stride
            assert verdict.ending is (Ending.TORN if number == 5 else Ending.CORRUPT), (at, bit)


def test_damage_that_was_never_synced_is_torn() -> None:
    """After a power loss blocks may be missing before others: that is no corruption."""
    log = bytearray(written([("insert", [(n, None) for n in range(6)])], True)[0])
    log[HEADER_BYTES + 20] ^= 1
    assert verdict_on(bytes(log)).ending is Ending.CORRUPT
    assert verdict_on(bytes(log), HEADER_BYTES).ending is Ending.TORN
    assert verdict_on(bytes(log), HEADER_BYTES + 1).ending is Ending.CORRUPT


@pytest.mark.parametrize("zeros", [1, 7, 8, 9, 512, 100_000])
def test_a_tail_of_zeros_is_torn(zeros: int) -> None:
    """Zeros behind the last record, as a power cut leaves them, end the log."""
    log, changes = written([("insert", [(1, None)])], False)
    assert told(log + bytes(zeros)) == changes
    assert verdict_on(log + bytes(zeros)) == Verdict(
        Ending.TORN, len(log), verdict_on(log + bytes(zeros)).reason
    )


@pytest.mark.parametrize(
    "body",
    [
        b"\x03\x00" + bytes(8),
        b"\x02\x02" + bytes(8),
        b"\x01\x00" + bytes(8) + struct.pack("<I", 3) + bytes(13),
        b"\x01\x00" + bytes(8) + struct.pack("<I", 1 << 31) + bytes(9),
        b"\x01\x00" + bytes(8) + struct.pack("<I", 2) + bytes(8),
        b"\x01\x00" + bytes(8) + struct.pack("<I", 2) + bytes(8) + b"\x01\x01\x00\x00",
        b"\x01\x01" + bytes(8) + struct.pack("<I", 2) + bytes(9),
        b"\x01\x01" + struct.pack("<Q", 1 << 62) + bytes(20),
        b"\x02",
    ],
)
def test_intact_records_that_break_the_format_are_refused(body: bytes) -> None:
    """A record whose checksum holds and whose content does not is nobody's torn tail."""
    frame = struct.pack("<II", len(body), zlib.crc32(body)) + body
    assert verdict_on(HEADER + frame).ending is Ending.INVALID
    assert isinstance(read_frame(memoryview(HEADER + frame), HEADER_BYTES, DIMENSION), Damage)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_judged(data: bytes) -> None:
    """Whatever follows the header, reading ends with records or a damage, never an exception."""
    verdict = verdict_on(HEADER + data)
    assert HEADER_BYTES <= verdict.offset <= HEADER_BYTES + len(data)


@pytest.mark.parametrize("last", [1, 2])
def test_a_checksum_like_a_beginning_hides_no_frame(last: int) -> None:
    """Also a frame whose checksum ends like an operation is found behind a damage."""
    for number in range(10_000):
        frame = encode_inserts([number], vectors_of(1), None, None)
        if frame[7] == last:
            assert find_intact(memoryview(b"damage" + frame), 0, DIMENSION) == 6
            return
    raise AssertionError("none of these has such a checksum")


def test_look_alikes_cost_bounded_time() -> None:
    """A file of heads that claim much is given up on, and then counts as corrupt."""
    head = struct.pack("<II", 1 << 20, 0) + b"\x01\x00"
    log = HEADER + head * 400_000
    assert find_intact(memoryview(log), HEADER_BYTES + 1, DIMENSION) == -1
    assert verdict_on(log).ending is Ending.CORRUPT


def test_a_run_breaks_where_stamps_do() -> None:
    """Frames of equal length are read together only while store and numbers go on."""
    ids = np.arange(50, dtype=np.uint64)
    log = HEADER + b"".join(
        encode_inserts(ids, vectors_of(50), None, FrameStamp(store, first, 49))
        for store, first in ((1, 1), (1, 51), (1, 200), (2, 250))
    )
    found = list(read_frames(memoryview(log), HEADER_BYTES, DIMENSION))
    stamps = [(item.first, item.last) for item in found if isinstance(item, Frames)]
    assert stamps == [
        (FrameStamp(1, 1, 49), FrameStamp(1, 100, 0)),
        (FrameStamp(1, 200, 49), FrameStamp(1, 249, 0)),
        (FrameStamp(2, 250, 49), FrameStamp(2, 299, 0)),
    ]


def test_requests_are_known_to_be_whole() -> None:
    """Of a request that was logged only in part it is known where the whole ones end."""
    ids = np.arange(50, dtype=np.uint64)
    log = HEADER + encode_inserts(ids, vectors_of(50), None, FrameStamp(1, 1, 49))
    stride = (len(log) - HEADER_BYTES) // 50
    log += encode_inserts(ids, vectors_of(50), None, FrameStamp(1, 51, 49))[: 20 * stride]
    (run,) = read_frames(memoryview(log), HEADER_BYTES, DIMENSION)
    assert isinstance(run, Frames)
    assert (run.records, run.whole_to) == (70, HEADER_BYTES + 50 * stride)


@pytest.mark.parametrize(("head", "bad"), [
    (b"", False), (HEADER[:7], False), (HEADER, False), (HEADER[:11], False),
    (b"IQDBWAL\x01", True), (b"X", True), (HEADER[:8] + b"\x02\0\0\0", True),
])  # fmt: skip
def test_headers(head: bytes, bad: bool) -> None:
    """A header may be cut short, as a crash leaves it, but not be another one."""
    assert (header_problem(head) is not None) == bad


def test_the_bound_of_a_record_holds() -> None:
    """No record is longer than what is checked against the limit."""
    entries = encode_metadata({"k": "v" * 100})
    frames = encode_inserts([b"i" * 40], vectors_of(1), [entries], FrameStamp(1, 1, 0))
    assert len(frames) - 8 <= insert_bytes_max([b"i" * 40], DIMENSION, len(entries))


def test_vectors_are_views_of_the_log() -> None:
    """Reading a log copies no vector."""
    log = bytearray(written([("insert", [(n, None) for n in range(100)])], False)[0])
    (run,) = read_frames(memoryview(log), HEADER_BYTES, DIMENSION)
    assert isinstance(run, Frames)
    assert isinstance(run.change, Insert)
    assert np.shares_memory(run.change.vectors, np.frombuffer(log, np.uint8))
