"""The fold's log: records round trip, and no bytes raise or take for ever."""

import random
import struct
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats import fold_log
from holdfast.formats.errors import LimitExceeded
from holdfast.formats.fold_log import (
    DELETED,
    HEADER,
    HEADER_BYTES,
    DamagedRecord,
    Ending,
    Flaw,
    Record,
    Scan,
    encode_cursor,
    encode_delete,
    encode_put,
    pack_span,
    read_record,
    unpack_span,
)
from holdfast.formats.limits import KEY_BYTES_MAX, MIB, TOKEN_BYTES_MAX, VALUE_BYTES_MAX
from holdfast.formats.values import AnyUpdate, Delete, KvEntry, Purge, Put, Version

TOKENS = st.binary(max_size=TOKEN_BYTES_MAX)
KEYS = st.text(max_size=12)
UPDATES: st.SearchStrategy[list[AnyUpdate]] = st.lists(
    st.one_of(
        st.builds(Put, KEYS, st.binary(max_size=60), TOKENS.map(Version)),
        st.builds(Delete, KEYS, TOKENS.map(Version)),
        st.builds(Purge, KEYS, TOKENS.map(Version)),
    ),
    max_size=8,
)


def _scan(content: bytes) -> tuple[dict[bytes, int], Scan]:
    table: dict[bytes, int] = {}
    return table, fold_log.scan(content, HEADER_BYTES, table)


class TestRecords:
    """One record."""

    def test_layout(self) -> None:
        """The documented offsets are those in the bytes."""
        record = encode_put("kö".encode(), b"value", b"\x07")
        crc, kind, key_bytes = struct.unpack_from("<IBH", record)
        assert (crc, kind, key_bytes) == (zlib.crc32(record[4:]), 1, 3)
        assert record[7:10] == "kö".encode()
        assert struct.unpack_from("<I", record, 10) == (5,)
        assert record[14:] == b"value\x01\x07"
        assert len(record) == 12 + 3 + 5 + 1
        record = encode_delete(b"key", b"")
        assert record[4:] == b"\x02\x03\x00key\x00"
        assert len(record) == 8 + 3
        assert encode_cursor(b"12345678")[4:] == b"\x03\x0812345678"
        assert len(encode_cursor(b"")) == 6
        assert HEADER == b"PGSS\x02\x00"

    @given(KEYS, st.binary(max_size=300), TOKENS, st.binary(max_size=20))
    def test_round_trip(self, key: str, value: bytes, token: bytes, before: bytes) -> None:
        """What was encoded is read back, wherever it lies."""
        raw = key.encode()
        for encoded, expected in (
            (encode_put(raw, value, token), (fold_log.PUT, raw, value, token)),
            (encode_delete(raw, token), (fold_log.DELETE, raw, b"", token)),
            (encode_cursor(token), (fold_log.CURSOR, b"", b"", token)),
        ):
            record = read_record(memoryview(before + encoded + b"!"), len(before))
            assert isinstance(record, Record)
            assert (record.kind, record.key, bytes(record.value), record.token) == expected
            assert record.stop == len(before) + len(encoded)

    def test_spans(self) -> None:
        """Offset and length share one integer, and none of them is the mark of a deleted key."""
        for offset in (6, 1 << 20, 1 << 38):
            for length in (12, fold_log.RECORD_BYTES_MAX):
                assert unpack_span(pack_span(offset, length)) == (offset, length)
                assert pack_span(offset, length) != DELETED

    @pytest.mark.parametrize(
        ("record", "flaw"),
        [
            (encode_put(b"\xff", b"", b""), Flaw.ILLEGAL),
            (encode_cursor(b"eleven byte"), Flaw.ILLEGAL),
            (encode_put(b"k", b"v", b"")[:-1], Flaw.CUT),
            (b"\0\0\0\0\x01\xff\xff", Flaw.CUT),
            (bytes(40), Flaw.MALFORMED),
            (b"\0\0\0\0\x01\0\0\xff\xff\xff\xff" + bytes(9), Flaw.CHECKSUM),
            (encode_put(b"k", b"v", b"")[:-2] + b"w\0", Flaw.CHECKSUM),
            (encode_cursor(b"")[:-1] + b"\x0b" + bytes(11), Flaw.MALFORMED),
        ],
    )
    def test_flaws(self, record: bytes, flaw: Flaw) -> None:
        """Each way to be no record has its name."""
        found = read_record(memoryview(record), 0)
        assert isinstance(found, fold_log.Damage)
        assert found.flaw is flaw

    def test_decoded_entries_are_checked(self) -> None:
        """An entry whose record was damaged since is never handed out."""
        record = encode_put(b"key", b"value", b"\x01")
        good = fold_log.decode_puts(memoryview(record), [pack_span(0, len(record))])
        assert good == [KvEntry("key", b"value", Version(b"\x01"))]
        for bit in range(8 * len(record)):
            flipped = bytearray(record)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(DamagedRecord):
                fold_log.decode_puts(memoryview(flipped), [pack_span(0, len(record))])
        with pytest.raises(DamagedRecord):
            fold_log.decode_puts(memoryview(record)[:-1], [pack_span(0, len(record))])


class TestBatches:
    """A batch of updates."""

    @given(UPDATES, TOKENS, st.integers(HEADER_BYTES, 1000))
    def test_scan_reads_what_was_encoded(
        self, updates: list[AnyUpdate], token: bytes, start: int
    ) -> None:
        """A scan finds every key's last record and the cursor, and ends clean."""
        records, items = fold_log.encode_updates(updates, start)
        content = bytes(start) + b"".join(records) + encode_cursor(token)
        table: dict[bytes, int] = {}
        scan = fold_log.scan(content, start, table)
        assert scan.verdict.ending is Ending.CLEAN
        assert table == dict(items)
        assert scan.end == len(content)
        assert scan.records == len(updates) + 1
        assert scan.last_record == len(content) - len(encode_cursor(token))
        assert scan.cursor is not None
        assert scan.cursor.token == token

    @pytest.mark.parametrize(
        ("update", "named"),
        [
            (Put("k" * (KEY_BYTES_MAX + 1), b""), "updates[1].key"),
            (Delete("ü" * (KEY_BYTES_MAX // 2 + 1)), "updates[1].key"),
            (Put("k", bytes(VALUE_BYTES_MAX + 1)), "updates[1].value"),
        ],
    )
    def test_what_could_not_be_read_back_is_refused(self, update: AnyUpdate, named: str) -> None:
        """The error names the update that is over a limit."""
        with pytest.raises(LimitExceeded) as caught:
            fold_log.encode_updates([Put("fine", b""), update], 6)
        assert named in str(caught.value)

    def test_the_largest_record_can_be_read(self) -> None:
        """Every limit is inclusive."""
        update = Put("k" * KEY_BYTES_MAX, bytes(VALUE_BYTES_MAX), Version(b"x" * TOKEN_BYTES_MAX))
        pieces, items = fold_log.encode_updates([update], HEADER_BYTES)
        records = [b"".join(pieces)]
        table, scan = _scan(HEADER + records[0])
        assert scan.verdict.ending is Ending.CLEAN
        assert table == dict(items)


class TestVerdicts:
    """How a log ends."""

    GOOD = encode_put(b"k", b"value", b"")

    def test_damage_before_intact_records_is_no_torn_tail(self) -> None:
        """Also when the damaged record seems to run past the end of the file."""
        grown = bytearray(self.GOOD)
        grown[8] = 0xFF  # the value's length
        _, scan = _scan(HEADER + bytes(grown) + self.GOOD)
        assert scan.verdict.ending is Ending.CORRUPT
        assert scan.verdict.offset == scan.end == HEADER_BYTES
        assert str(HEADER_BYTES + len(grown)) in scan.verdict.reason

    def test_unsynced_damage_is_torn(self) -> None:
        """Blocks reach a disk in any order: behind the last sync, intact records prove nothing."""
        content = HEADER + self.GOOD + bytes(len(self.GOOD)) + self.GOOD
        damage = HEADER_BYTES + len(self.GOOD)
        for unsynced_from, ending in (
            (None, Ending.INVALID),
            (damage + 1, Ending.INVALID),
            (damage, Ending.TORN),
            (HEADER_BYTES, Ending.TORN),
        ):
            table: dict[bytes, int] = {}
            scan = fold_log.scan(content, HEADER_BYTES, table, unsynced_from=unsynced_from)
            assert scan.verdict.ending is ending
            assert scan.end == damage

    def test_intact_and_illegal_is_never_cut(self) -> None:
        """A record with a good checksum was written as it is; dropping it would lose data."""
        for illegal in (encode_put(b"\xff", b"", b""), encode_cursor(b"x" * 11)):
            _, scan = _scan(HEADER + illegal)
            assert scan.verdict.ending is Ending.INVALID

    @pytest.mark.parametrize("byte", [1, 2, 3])
    def test_looking_behind_damage_costs_bounded_time(self, byte: int) -> None:
        """A file of look-alikes ends the search, which tells that it is alive, and is not cut."""
        ticks: list[int] = []
        content = HEADER + bytes([byte]) * (8 * MIB)
        began = time.process_time()
        scan = fold_log.scan(content, HEADER_BYTES, {}, tick=lambda: ticks.append(1))
        assert time.process_time() - began < 30
        assert scan.end == HEADER_BYTES
        assert scan.verdict.ending in (Ending.CORRUPT, Ending.INVALID)
        assert len(ticks) > 3

    def test_a_long_value_of_zeros_is_quick(self) -> None:
        """Zeros hold no candidates at all."""
        _, scan = _scan(HEADER + self.GOOD + bytes(64 * MIB))
        assert scan.verdict.ending is Ending.TORN

    def test_ticks(self) -> None:
        """A long scan tells that it is alive."""
        ticks: list[int] = []
        content = HEADER + encode_cursor(b"") * 40_000
        fold_log.scan(content, HEADER_BYTES, {}, tick=lambda: ticks.append(1))
        assert len(ticks) == 3


@given(st.binary(max_size=400))
def test_any_bytes(content: bytes) -> None:
    """No bytes raise; what is taken for good is what the records in it say."""
    table, scan = _scan(HEADER + content)
    assert HEADER_BYTES <= scan.end <= len(HEADER + content)
    assert (scan.verdict.ending is Ending.CLEAN) == (scan.end == len(HEADER + content))
    again, clean = _scan((HEADER + content)[: scan.end])
    assert clean.verdict.ending is Ending.CLEAN
    assert again == table


@given(UPDATES, st.binary(min_size=1, max_size=40), st.data())
def test_any_bytes_written_over_a_log(
    updates: list[AnyUpdate], junk: bytes, data: st.DataObject
) -> None:
    """Whatever is written over a log, what is read of it is a beginning of what was written."""
    records = [b"".join(fold_log.encode_updates([update], 0)[0]) for update in updates]
    records.append(encode_cursor(b"cursor"))
    content = HEADER + b"".join(records)
    at = data.draw(st.integers(HEADER_BYTES, len(content)))
    damaged = content[:at] + junk + content[at + len(junk) :]
    bounds = [HEADER_BYTES]
    for record in records:
        bounds.append(bounds[-1] + len(record))
    _, scan = _scan(damaged)
    untouched = max(bound for bound in bounds if bound <= at)
    assert scan.end >= untouched
    if damaged[: scan.end] != content[: scan.end]:
        # Junk that is a record with a good checksum is a record.
        assert isinstance(read_record(memoryview(damaged), untouched), Record)


def test_random_tails() -> None:
    """Random bytes behind a log are a torn tail, of whatever length."""
    dice = random.Random(7)
    content = HEADER + TestVerdicts.GOOD * 3
    for size in range(1, 300):
        _, scan = _scan(content + dice.randbytes(size))
        assert scan.verdict.ending is Ending.TORN
        assert scan.end == len(content)
