"""Finding the newest manifest: in whole files, torn ones, and in files made to deceive."""

import mmap
import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.formats.errors import InvalidFormat
from holdfast.formats.rvf import scan
from holdfast.formats.rvf.images import Kernel, encode_kernel
from holdfast.formats.rvf.manifest import Entry, Manifest, encode_manifest
from holdfast.formats.rvf.scan import Located, find_intact, find_manifest, skip_zeros, walk
from holdfast.formats.rvf.segment import (
    HEADER_BYTES,
    NO_HASH,
    SegmentType,
    content_hash,
    decode_header,
    encode_header,
    is_intact,
)
from holdfast.formats.rvf.vec import encode_vec
from tests.formats.rvf.reference import load, segments


class Writer:
    """A file as the original appends to it; every commit adds a manifest."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.entries: list[Entry] = []
        self.epoch = 0

    def put(self, kind: int, payload: bytes, hashed: bytes | None = None) -> int:
        """Append a segment; its offset."""
        offset = len(self.data)
        hashed = content_hash(payload) if hashed is None else hashed
        self.data += encode_header(kind, offset + 1, len(payload), hashed) + payload
        return offset

    def add(self, kind: int, payload: bytes) -> int:
        """Append a segment and list it."""
        offset = self.put(kind, payload)
        self.entries.append(Entry(offset + 1, offset, len(payload), kind))
        return offset

    def manifest(self, epoch: int | None = None) -> bytes:
        """The payload of a manifest of what is listed."""
        self.epoch = self.epoch + 1 if epoch is None else epoch
        no_ids = np.empty(0, np.uint64)
        return encode_manifest(
            Manifest(self.epoch, 4, 0, 0, 0, tuple(self.entries), no_ids, None, None)
        )

    def commit(self, epoch: int | None = None) -> int:
        """Append a manifest of all that is listed; its offset."""
        return self.put(SegmentType.MANIFEST, self.manifest(epoch))

    def rows(self, count: int) -> bytes:
        """The payload of some rows."""
        ids = np.arange(count, dtype=np.uint64)
        return bytes(encode_vec(ids, np.ones((count, 4), np.float32)))


def found_at(data: bytes | bytearray) -> int | None:
    """Offset of the manifest that is found."""
    located = find_manifest(memoryview(data))
    return None if located is None else located.offset


def small_file() -> tuple[Writer, list[int]]:
    """A file of three commits, and where their manifests lie."""
    writer = Writer()
    manifests = [writer.commit()]
    for count in (2, 3):
        writer.add(SegmentType.VEC, writer.rows(count))
        writer.add(SegmentType.WITNESS, b"w" * 45)
        manifests.append(writer.commit())
    return writer, manifests


# --- boundaries ----------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=40), st.integers(0, 70)), max_size=6)
)
def test_walk(parts: list[tuple[int, bytes, int]]) -> None:
    """Every segment is visited, with any number of zeros before and behind it."""
    writer, expected = Writer(), []
    end = 0
    for kind, payload, zeros in parts:
        expected.append((writer.put(kind, payload), kind, len(payload)))
        end = len(writer.data)
        writer.data += bytes(zeros)
    steps = walk(memoryview(writer.data))
    assert [(offset, step.type, step.payload_bytes) for offset, step in steps] == expected
    assert (steps.end, steps.broken_at, steps.reason) == (end, None, "")
    assert next(steps, None) is None  # and stays over
    if expected:
        middle = expected[-1][0]
        assert [offset for offset, _ in walk(memoryview(writer.data), middle)] == [middle]


def test_walk_of_every_length() -> None:
    """A file cut anywhere is walked up to the segment that is cut, and says where and why."""
    writer, _ = small_file()
    bounds = [offset for offset, _, _ in segments(bytes(writer.data))] + [len(writer.data)]
    for size in range(len(writer.data) + 1):
        steps = walk(memoryview(writer.data)[:size])
        visited = [offset for offset, _ in steps]
        whole = max(bound for bound in bounds if bound <= size)
        assert steps.end == whole
        assert len(visited) == bounds.index(whole)
        assert steps.broken_at == (None if whole == size else whole)
        if whole == size:
            assert not steps.reason
        else:
            cut_in_header = size - whole < HEADER_BYTES
            assert steps.reason.startswith("a header" if cut_in_header else "a payload of")


def test_walk_stops_at_foreign_bytes() -> None:
    """What is neither a header nor zeros ends the walk, also behind zeros."""
    writer, _ = small_file()
    end = len(writer.data)
    writer.data += bytes(100) + b"\1" + bytes(100)
    steps = walk(memoryview(writer.data))
    assert len(list(steps)) == 7
    assert (steps.end, steps.broken_at, steps.reason) == (end, end + 100, "no segment begins here")


@pytest.mark.parametrize("zeros", [0, 1, 1000, scan._ZEROS_PER_STEP - 1, 3 * scan._ZEROS_PER_STEP])
def test_skip_zeros(zeros: int) -> None:
    """The first byte that is not zero is found, whatever the distance."""
    for tail in (b"", b"\1", b"\xff\0\0"):
        assert skip_zeros(memoryview(b"x" + bytes(zeros) + tail), 1) == zeros + 1


def test_a_huge_length_is_no_segment() -> None:
    """A header that claims 2^64-1 bytes ends the walk like any that does not fit."""
    data = bytearray(encode_header(1, 1, 0, NO_HASH))
    data[16:24] = b"\xff" * 8
    steps = walk(memoryview(data))
    assert list(steps) == []
    assert steps.broken_at == 0


# --- whole and torn files ------------------------------------------------------------------------


def test_nothing_to_find() -> None:
    """A file without a manifest has none."""
    for data in (b"", b"\0", bytes(1000), b"SFVR", b"x" * 200, encode_header(5, 1, 0, NO_HASH)):
        assert find_manifest(memoryview(data)) is None


def test_newest() -> None:
    """The last commit counts, and its end is where the good part ends."""
    writer, manifests = small_file()
    end = len(writer.data)
    located = find_manifest(memoryview(writer.data))
    assert located is not None
    assert (located.offset, located.end, located.refused) == (manifests[-1], end, None)
    assert located.manifest.epoch == 3
    assert located.manifest.entries == tuple(writer.entries)
    writer.put(SegmentType.WITNESS, b"audit")  # listed by no manifest
    located = find_manifest(memoryview(writer.data))
    assert located is not None
    assert (located.offset, located.end) == (manifests[-1], end)


def test_segments_may_be_padded_to_any_alignment() -> None:
    """Zeros between segments, and a directory in any order without old manifests, are fine."""
    writer = Writer()
    for _ in range(3):
        writer.data += bytes(-len(writer.data) % 64)
        writer.add(SegmentType.VEC, writer.rows(1))
        writer.data += bytes(7)
        writer.entries.reverse()
        last = writer.commit()
    assert found_at(writer.data) == last


def test_equal_epochs() -> None:
    """Of manifests with the same epoch the last one counts."""
    writer, _ = small_file()
    again = writer.commit(epoch=writer.epoch)
    assert found_at(writer.data) == again


def test_every_truncation() -> None:
    """A file cut anywhere has the newest manifest that is whole."""
    for name in ("empty.rvf", "derived_grandchild.rvf", "reopened_writes.rvf"):
        data = load(name)
        manifests = segments(data, SegmentType.MANIFEST)
        for size in range(len(data) + 1):
            whole = [at for at, _, payload in manifests if at + HEADER_BYTES + len(payload) <= size]
            assert found_at(data[:size]) == (whole[-1] if whole else None)


@pytest.mark.parametrize("name", ["empty.rvf", "duplicate_ids.rvf", "nowitness_profile2.rvtext"])
def test_every_bit_flip(name: str) -> None:
    """With any bit flipped, the manifest found is a genuine one, and damaged rows are noticed.

    What is found is a state the file once had, or nothing; nothing is raised. A flip in a payload
    that the manifest lists shows in that segment's hash.
    """
    data = load(name)
    genuine = {at: payload for at, _, payload in segments(data, SegmentType.MANIFEST)}
    hashed = [
        set(range(at + 40, at + 56)) | set(range(at + HEADER_BYTES, at + HEADER_BYTES + size))
        for at, header, _ in segments(data)
        if header.type != SegmentType.MANIFEST
        for size in [header.payload_bytes]
    ]
    newest = 0
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        located = find_manifest(memoryview(damaged))
        if located is None:
            continue
        assert encode_manifest(located.manifest) == genuine[located.offset]
        newest += located.offset == max(genuine)
        in_hashed = any(bit // 8 in part for part in hashed if max(part) < located.offset)
        assert _listed_are_intact(bytes(damaged), located) != in_hashed
    assert newest  # a flip where nothing depends on it does not hide the newest


def _listed_are_intact(data: bytes, located: Located) -> bool:
    for entry in located.manifest.entries:
        start = entry.offset + HEADER_BYTES
        header = decode_header(data, entry.offset)
        if header is None or not is_intact(header, data[start : start + entry.payload_bytes]):
            # An old manifest with a damaged header or payload is listed, but nobody reads it.
            if entry.type == SegmentType.MANIFEST:
                continue
            return False
    return True


def test_nothing_keeps_a_file_mapped(tmp_path: Path) -> None:
    """Once the view is let go, the map can be closed, whatever had to be searched."""
    writer, _ = small_file()
    torn = bytes(writer.data) + b"torn" + encode_header(SegmentType.MANIFEST, 1, 30, b"x" * 16)
    for number, data in enumerate((bytes(writer.data), torn + bytes(30), torn, b"x" * 100)):
        path = tmp_path / str(number)
        path.write_bytes(data)
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        located = find_manifest(view)
        assert (located is None) == (number == 3)
        view.release()
        mapped.close()


# --- what the original would believe -------------------------------------------------------------


def test_a_manifest_without_a_hash_is_not_believed() -> None:
    """Sixteen zeros let a manifest pass with the original, and not here (falls short 9)."""
    writer, manifests = small_file()
    writer.put(SegmentType.MANIFEST, writer.manifest(), NO_HASH)
    assert found_at(writer.data) == manifests[-1]


@pytest.mark.parametrize(
    "wrong",
    [
        Entry(1, 1, 100, 1),
        Entry(1, 162, 99, 1),
        Entry(1, 1 << 63, 10, 1),
        Entry(1, (1 << 64) - 1, 10, 1),
        Entry(1, 0, (1 << 64) - 1, 1),
    ],
)
def test_a_directory_that_leads_nowhere_is_not_believed(wrong: Entry) -> None:
    """Neither another place nor another length nor one outside the file passes (falls short 9)."""
    writer, manifests = small_file()
    writer.entries.append(wrong)
    refused = writer.commit()
    located = find_manifest(memoryview(writer.data))
    assert located is not None
    assert (located.offset, located.refused) == (manifests[-1], refused)


def test_a_segment_of_another_type_is_not_believed() -> None:
    """A directory that says journal where a vector segment lies is refused; ids do not matter."""
    writer, manifests = small_file()
    first, *others = writer.entries
    writer.entries = [first._replace(type=SegmentType.JOURNAL), *others]
    writer.commit()
    assert found_at(writer.data) == manifests[-1]
    writer.entries = [first._replace(segment_id=77), *others]
    last = writer.commit()
    assert found_at(writer.data) == last


def _kernel(image: bytes) -> bytes:
    return encode_kernel(Kernel(image, arch=0, kernel_type=4))


@pytest.mark.parametrize("from_a_copy", [False, True])
def test_an_embedded_file_is_not_believed(from_a_copy: bool) -> None:
    """A torn image brings no manifest of its own, be it of this very file (falls short 10)."""
    writer, manifests = small_file()
    other, _ = small_file()
    other.add(SegmentType.VEC, other.rows(9))
    other.commit(epoch=1000)
    image = bytes(writer.data if from_a_copy else other.data)
    whole = len(writer.data)
    kernel = writer.add(SegmentType.KERNEL, _kernel(image))
    committed = writer.commit()
    for size in range(whole, len(writer.data)):
        assert found_at(writer.data[:size]) == manifests[-1]
    assert found_at(writer.data) == committed
    # With its header lost like the page it lay on, the image's first segment seems to be the
    # file's. The state that is found stays the newest one.
    for lost in range(kernel + 1, kernel + HEADER_BYTES + 128 + 1):
        damaged = bytearray(writer.data[:committed])
        damaged[kernel:lost] = bytes(lost - kernel)
        located = find_manifest(memoryview(damaged))
        assert located is not None
        assert located.manifest.epoch == 3
        assert located.manifest.entries == tuple(writer.entries[:-1])


# --- the original builds on torn tails -----------------------------------------------------------


@pytest.mark.parametrize("keep", [1, 63, 64, 65, 200])
def test_commits_behind_a_torn_one_are_found(keep: int) -> None:
    """Whatever was torn, what was committed behind it counts, and the last of it (falls short 8).

    Once enough was written to fill the length that the torn header claims, the jump over it leads
    into the middle of something, or to the zeros at the end of a manifest, or behind everything.
    """
    writer, _ = small_file()
    torn = len(writer.data)
    writer.put(SegmentType.VEC, writer.rows(60))  # 1510 bytes with its header
    del writer.data[torn + keep :]
    for _ in range(12):
        writer.add(SegmentType.VEC, writer.rows(1))
        writer.add(SegmentType.WITNESS, b"w" * 45)
        last = writer.commit()
        located = find_manifest(memoryview(writer.data))
        assert located is not None
        assert (located.offset, located.end) == (last, len(writer.data))
        for cut in range(1, 200, 7):
            assert (found_at(writer.data[:-cut]) or 0) < last


def test_a_torn_length_may_lead_anywhere() -> None:
    """The newest manifest is found wherever the jump over a torn segment lands."""
    for claimed in range(30, 900):
        writer, _ = small_file()
        torn = len(writer.data)
        writer.put(SegmentType.VEC, bytes(claimed))
        del writer.data[torn + HEADER_BYTES + 20 :]
        writer.data[torn + HEADER_BYTES :] = b"rows that were written"[:20]
        writer.add(SegmentType.JOURNAL, b"\0" * 28)
        writer.commit()
        writer.add(SegmentType.VEC, writer.rows(2))
        last = writer.commit()
        assert found_at(writer.data) == last, claimed


def test_behind_a_break_epochs_do_not_go_back() -> None:
    """A manifest behind a break that is older than one before it is not believed."""
    writer, manifests = small_file()
    writer.data += b"torn"
    writer.add(SegmentType.VEC, writer.rows(1))
    writer.commit(epoch=2)
    assert found_at(writer.data) == manifests[-1]
    last = writer.commit(epoch=3)
    assert found_at(writer.data) == last


def test_behind_a_break_something_must_be_new() -> None:
    """A manifest behind a break that lists nothing from there may be a copy: it does not count."""
    writer, manifests = small_file()
    writer.data += b"torn"
    writer.commit()
    assert found_at(writer.data) == manifests[-1]


def test_damage_in_the_middle_is_told_from_a_torn_tail() -> None:
    """Newer manifests that list the damaged segment are refused, and the newest one is named."""
    writer, manifests = small_file()
    listed = writer.add(SegmentType.VEC, writer.rows(1))
    writer.commit()
    last = writer.commit()
    writer.data[listed] ^= 1  # its magic
    located = find_manifest(memoryview(writer.data))
    assert located is not None
    assert (located.offset, located.refused) == (manifests[-1], last)
    writer.data[listed] ^= 1
    writer.data[listed + 16] ^= 1  # its length
    located = find_manifest(memoryview(writer.data))
    assert located is not None
    assert (located.offset, located.refused) == (manifests[-1], last)


def test_an_intact_manifest_tells_what_was_there() -> None:
    """Also when the only one lists a segment that is lost; else it is the one that is believed."""
    writer, manifests = small_file()
    intact = find_intact(memoryview(writer.data))
    assert intact is not None
    assert intact.offset == manifests[-1]
    assert find_intact(memoryview(b"")) is None
    writer = Writer()
    listed = writer.add(SegmentType.VEC, writer.rows(2))
    last = writer.commit()
    writer.data[listed] ^= 1
    assert find_manifest(memoryview(writer.data)) is None
    intact = find_intact(memoryview(writer.data))
    assert intact is not None
    assert (intact.offset, intact.end, intact.refused) == (last, len(writer.data), None)
    assert intact.manifest.entries == tuple(writer.entries)
    writer.data[last + HEADER_BYTES] ^= 1
    assert find_intact(memoryview(writer.data)) is None


# --- hostile files -------------------------------------------------------------------------------


def _headers(count: int, payload_bytes: int) -> bytes:
    return encode_header(SegmentType.MANIFEST, 1, payload_bytes, b"x" * 16) * count


@pytest.mark.parametrize(
    ("headers", "claimed", "limit"),
    [(2000, 1 << 20, "_CANDIDATES_MAX"), (2000, 1 << 20, "RESYNC_BYTES_MAX")],
)
def test_look_alikes_take_bounded_time(
    headers: int, claimed: int, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file full of headers that claim overlapping payloads is given up, not read for hours."""
    monkeypatch.setattr(scan, limit, 1000 if limit == "_CANDIDATES_MAX" else 100 << 20)
    ticks = []
    data = b"x" + _headers(headers, claimed) + bytes(claimed)
    with pytest.raises(InvalidFormat, match="behind the damage at 0"):
        find_manifest(memoryview(data), lambda: ticks.append(1))
    assert ticks


def test_holes_take_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros without end count as a break, and only so much is looked at behind one."""
    monkeypatch.setattr(scan, "_ZEROS_MAX", 1000)
    monkeypatch.setattr(scan, "_LOOK_BACK_BYTES_MAX", 3000)
    writer, manifests = small_file()
    steps = walk(memoryview(writer.data + bytes(1001)))
    assert len(list(steps)) == len(list(walk(memoryview(writer.data))))
    assert (steps.broken_at, steps.end) == (len(writer.data), len(writer.data))
    assert found_at(writer.data + bytes(1000)) == manifests[-1]
    assert found_at(writer.data + bytes(3000)) == manifests[-1]
    with pytest.raises(InvalidFormat, match=f"behind the damage at {len(writer.data)}"):
        find_manifest(memoryview(writer.data + bytes(3001)))
    intact = find_intact(memoryview(writer.data + bytes(3001)))
    assert intact is not None
    assert intact.offset == manifests[-1]
    writer.data += bytes(2000)
    writer.add(SegmentType.VEC, writer.rows(1))
    last = writer.commit()
    assert found_at(writer.data) == last


def test_a_directory_longer_than_the_file_is_not_believed() -> None:
    """One that lists the same rows again and again would have them read as often."""
    writer, manifests = small_file()
    writer.entries += [writer.entries[-1]] * 100
    writer.commit()
    assert found_at(writer.data) == manifests[-1]


def _mutated(data: bytes, rng: random.Random) -> Iterable[bytes]:
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(len(damaged))
            stop = min(len(damaged), start + rng.randrange(1, 200))
            match rng.randrange(4):
                case 0:
                    damaged[start:stop] = bytes(stop - start)
                case 1:
                    del damaged[start:stop]
                case 2:
                    damaged[start:start] = damaged[start:stop]
                case _:
                    damaged[start:stop] = rng.randbytes(stop - start)
        yield bytes(damaged)


@pytest.mark.parametrize("name", ["small_l2.rvf", "reingest_deleted.rvf", "kernel.rvf"])
def test_damaged_files(name: str) -> None:
    """Blocks lost, cut out, doubled or overwritten never bring a manifest the file never had."""
    data = load(name)
    genuine = {payload for _, _, payload in segments(data, SegmentType.MANIFEST)}
    for damaged in _mutated(data, random.Random(name)):
        located = find_manifest(memoryview(damaged))
        assert located is None or encode_manifest(located.manifest) in genuine


@given(st.binary(max_size=400), st.integers(0, 5))
def test_any_bytes(data: bytes, copies: int) -> None:
    """Whatever the bytes are, nothing but InvalidFormat is raised."""
    data = data + _headers(copies, 30) + data
    assert find_manifest(memoryview(data)) is None
