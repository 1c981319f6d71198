"""Finding every segment, also where the original built on a torn tail."""

from holdfast.formats.rvf.segment import SegmentType, content_hash, encode_header
from holdfast.workers.vector_segments import segments_in


def _segment(number: int, length: int = 20, *, claimed: int | None = None) -> bytes:
    payload = bytes([number]) * length
    claimed = length if claimed is None else claimed
    return encode_header(SegmentType.WITNESS, number, claimed, content_hash(payload)) + payload


def _ids(data: bytes, known: list[int]) -> list[int]:
    return [header.segment_id for _, header in segments_in(memoryview(data), known)]


def test_without_a_break_all_segments_are_found() -> None:
    """Padding between segments is passed over, whether or not any offset is known."""
    first, second = _segment(1), _segment(2)
    data = first + bytes(7) + second
    assert _ids(data, []) == [1, 2]
    assert _ids(data, [0, len(first) + 7]) == [1, 2]


def test_a_torn_segment_does_not_hide_what_is_known_to_begin_inside_it() -> None:
    """It is passed over, and so is what only its claim would lead to."""
    first, torn = _segment(1), _segment(2, 5, claimed=100)
    known = len(first + torn)
    data = first + torn + _segment(3) + _segment(4)
    assert _ids(data, []) == [1, 2]
    assert _ids(data, [known]) == [1, 3, 4]


def test_the_way_goes_on_behind_bytes_that_are_no_segment() -> None:
    """At the next offset that is known; what lies between is lost."""
    first, second = _segment(1), _segment(2)
    data = first + b"rubbish" + second + _segment(3)
    assert _ids(data, [0]) == [1]
    assert _ids(data, [0, len(first) + 7]) == [1, 2, 3]


def test_a_known_segment_is_found_whatever_is_known_inside_it() -> None:
    """A directory may list what lies inside another segment it lists: both are there."""
    inner = _segment(2)
    outer = encode_header(SegmentType.KERNEL, 1, len(inner), content_hash(inner)) + inner
    data = outer + _segment(3)
    assert _ids(data, [0, len(outer) - len(inner)]) == [1, 2, 3]
    assert _ids(data, []) == [1, 3]


def test_an_offset_where_nothing_begins_ends_the_search() -> None:
    """Offsets beyond the file, or of rubbish, lead nowhere."""
    data = _segment(1) + b"rubbish"
    assert _ids(data, [len(data) - 7, len(data), len(data) + 1000]) == [1]
