"""Records by the thousand: checked and copied just as one by one."""

from array import array

import numpy as np
import pytest

from holdfast.formats import fold_log
from holdfast.formats.fold_canonical import canonical_log
from holdfast.formats.fold_log import HEADER, DamagedRecord, encode_cursor, pack_span
from holdfast.formats.fold_spans import all_intact, check_puts, put_keys, split_spans
from holdfast.formats.values import Cursor

ALIKE = [(b"key%d" % number, b"value") for number in range(10)]
SHAPES = {
    "alike": ALIKE,
    "of several lengths": [(b"k" * number, b"v" * (number % 3)) for number in range(10)],
    "as long as ten of the first": [(b"", b""), (b"a", b"b"), (b"", b"")],
    "one": ALIKE[:1],
}


def _log(entries: list[tuple[bytes, bytes]]) -> tuple[bytes, list[int]]:
    content, spans = HEADER, []
    for key, value in entries:
        record = fold_log.encode_put(key, value, b"12345678")
        spans.append(pack_span(len(content), len(record)))
        content += record
    return content, spans


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [1, -1, 2])
def test_every_flipped_byte_is_seen_in_its_record(shape: str, step: int) -> None:
    """Whatever the records' lengths and order, the first one that is damaged is named."""
    content, listed = _log(SHAPES[shape])
    spans = np.array(listed[::step], np.uint64)
    offsets, lengths = split_spans(spans)
    check_puts(memoryview(content), spans)
    for at in range(len(HEADER), len(content)):
        damaged = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        hit = [n for n in range(len(spans)) if offsets[n] <= at < offsets[n] + lengths[n]]
        if not hit:
            check_puts(memoryview(damaged), spans)
            continue
        with pytest.raises(DamagedRecord) as caught:
            check_puts(memoryview(damaged), spans)
        assert caught.value.offset == offsets[hit[0]]


@pytest.mark.parametrize("shape", SHAPES)
def test_one_checksum_sees_every_flipped_bit_of_many_records(shape: str) -> None:
    """Records back to back pass together only as they were written, and are left as they were."""
    content, listed = _log(SHAPES[shape])
    records = bytearray(content[len(HEADER) :])
    starts = split_spans(np.array(listed, np.uint64))[0] - len(HEADER)
    assert all_intact(records, starts)
    for bit in range(8 * len(records)):
        damaged = records.copy()
        damaged[bit // 8] ^= 1 << bit % 8
        before = bytes(damaged)
        assert not all_intact(damaged, starts)
        assert damaged == before
    assert records == content[len(HEADER) :]


def test_records_that_change_places_are_no_damage_but_exchanged_checksums_are() -> None:
    """One checksum of many records says of each what its own would say."""
    first, second = (fold_log.encode_put(key, b"v", b"") for key in (b"a", b"b"))
    starts = np.array([0, len(first)])
    assert all_intact(bytearray(second + first), starts)
    assert not all_intact(bytearray(second[:4] + first[4:] + first[:4] + second[4:]), starts)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_record_behind_the_end_is_damaged(shape: str) -> None:
    """So is one that the end cuts, however the rest would look."""
    content, listed = _log(SHAPES[shape])
    for end in (len(content) - 1, len(HEADER)):
        view = memoryview(content)[:end]
        with pytest.raises(DamagedRecord):
            check_puts(view, np.array(listed, np.uint64))
        with pytest.raises(DamagedRecord):
            list(canonical_log(view, listed, Cursor.none()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("step", [1, -1, 2])
def test_the_canonical_log_says_where_records_lie(shape: str, step: int) -> None:
    """Records are copied in the order given, then the cursor; keys are read where they lie now."""
    content, listed = _log(SHAPES[shape])
    cursor, placed = Cursor.from_u64(7), array("Q")
    made = b"".join(canonical_log(memoryview(content), listed[::step], cursor, placed))
    assert made == _log(SHAPES[shape][::step])[0] + encode_cursor(cursor.token)
    assert put_keys(made, placed, 0) == [key for key, _ in SHAPES[shape][::step]]
    assert put_keys(made[3:], placed, 3) == put_keys(made, placed, 0)


@pytest.mark.parametrize("count", [0, 3, 900])
@pytest.mark.parametrize("cursor", [Cursor.none(), Cursor.from_u64(1)])
def test_the_canonical_log_of_many_pieces(count: int, cursor: Cursor) -> None:
    """Pieces are of about 1 MiB, and together what one piece would have been."""
    content, listed = _log([(b"%d" % n, bytes([n % 256]) * (n * 17 % 9001)) for n in range(count)])
    placed = array("Q")
    pieces = list(canonical_log(memoryview(content), listed, cursor, placed))
    tail = b"" if cursor.is_none else encode_cursor(cursor.token)
    assert b"".join(pieces) == content + tail
    assert placed.tolist() == listed
    assert all(1 << 20 <= len(piece) < 1 << 21 for piece in pieces[:-1])


def test_nothing_to_check() -> None:
    """No spans are no damage."""
    check_puts(memoryview(b""), np.zeros(0, np.uint64))
