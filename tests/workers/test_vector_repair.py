"""Repairing files: what is intact survives, what is lost is named, the source stays as it is."""

import contextlib
import errno
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from holdfast.bench.faults import Crash, Fail, FaultyDisk, Kill, MemoryDisk, Sampled
from holdfast.formats.errors import (
    HasBranches,
    HoldfastError,
    InvalidArgument,
    InvalidFormat,
    StoreExists,
    StoreFull,
    StoreIOError,
    StoreLocked,
)
from holdfast.formats.rvf.journal import Journal, encode_journal
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentType, content_hash, encode_header
from holdfast.formats.rvf.vec import encode_vec
from holdfast.workers import vector_messages as vm
from holdfast.workers import vector_salvage
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk
from holdfast.workers.fold_inspection import LogReport
from holdfast.workers.inspection import examine
from holdfast.workers.repair import Repaired, repair
from holdfast.workers.standing import Standing
from holdfast.workers.vector_inspection import VectorReport
from holdfast.workers.vector_salvage import find_pieces
from tests.formats.rvf.reference import DATA, EXPECTED, NPM
from tests.workers import vector_files as files

FOLDS = DATA.parent / "fold"
GOLDEN = sorted(EXPECTED) + [f"npm-0.2.2/{name}" for name in sorted(NPM)]
COPIED = {
    SegmentType.KERNEL, SegmentType.EBPF, SegmentType.WASM, SegmentType.DASHBOARD,
}  # fmt: skip

Content = dict[int, list[float]]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store as ``files.make`` leaves it."""
    path = tmp_path / "v.rvf"
    files.make(path)
    return path


def look(path: Path | str) -> VectorReport:
    """The report on a vector file."""
    report = examine(OsDisk(), str(path))
    assert isinstance(report, VectorReport)
    return report


def content_of(path: Path | str) -> Content:
    """Vectors by id, of a file that is as it should be."""
    report = look(path)
    assert (report.standing, report.problems) == (Standing.CLEAN, [])
    return {row.id: np.frombuffer(row.vector, "<f4").tolist() for row in report.rows()}


def repaired(path: Path, *, salvage: bool = False) -> tuple[Repaired, Content]:
    """What a repair says, and what it wrote; the source is as it was."""
    before = path.read_bytes()
    done = repair(OsDisk(), str(path), salvage=salvage)
    assert path.read_bytes() == before
    assert done.output == f"{path}.repaired"
    found = content_of(done.output)
    Path(done.output).unlink()
    assert not list(path.parent.glob("*.tmp"))
    return done, found


def places(done: Repaired) -> dict[int | None, int]:
    """Where something is lost, and how many rows."""
    return {flaw.offset: flaw.rows for flaw in done.lost}


# --- what is intact ----------------------------------------------------------------------------


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("name", GOLDEN)
def test_a_whole_file_is_written_anew(tmp_path: Path, name: str, salvage: bool) -> None:
    """Same rows, same identity, images and witnesses byte for byte; nothing is lost."""
    shutil.copytree((DATA / name).parent, tmp_path / "rvf")
    path = tmp_path / "rvf" / Path(name).name
    done = repair(OsDisk(), str(path), salvage=salvage)
    assert (done.lost, done.notes, done.salvaged_rows) == ([], [], 0)
    before, after = look(path), look(done.output)
    assert (after.standing, after.problems) == (Standing.CLEAN, [])
    assert list(after.rows()) == list(before.rows())
    same = ("dimension", "metric", "file_id", "parent_id", "parent_hash", "lineage_depth")
    old, new = before.fields(), after.fields()
    assert {field: old[field] for field in same} == {field: new[field] for field in same}
    assert new["epoch"] == before.manifest.epoch + 1  # type: ignore[union-attr]
    copied = COPIED | {SegmentType.WITNESS}
    whole = [payloads(Path(p).read_bytes(), copied) for p in (path, done.output)]
    assert whole[1][: len(whole[0])] == whole[0]
    assert len(whole[1]) == len(whole[0]) + 1  # the witness of the repair
    ids = [entry[0] for entry in new["segments"]]  # type: ignore[attr-defined]
    assert len(set(ids)) == len(ids)


def payloads(content: bytes, kinds: set[SegmentType]) -> list[bytes]:
    """The segments of some types, in order."""
    return [
        content[offset : offset + HEADER_BYTES + header.payload_bytes]
        for offset, header in files.segments(content)
        if header.type in kinds
    ]


def test_a_repaired_store_serves(store: Path) -> None:
    """It opens, has metadata and image, and takes writes."""
    before = list(look(store).rows())
    done = repair(OsDisk(), str(store))
    assert done.rows == len(files.ROWS)
    path = store.parent / "w.rvf"
    Path(done.output).rename(path)
    assert list(look(path).rows()) == before
    actor = files.opened(path)
    image = actor.handle(vm.VectorsExtract("kernel"), Caller(0, 0))
    assert isinstance(image, vm.Image)
    assert image.payload is not None
    assert bytes(image.payload).endswith(b"kernel" * 20)
    files.ingest(actor, [3], 5)
    actor.close()
    assert content_of(path) == files.ROWS | {3: files.vector_of(3, 5)}


def test_a_frozen_store_stays_frozen(store: Path) -> None:
    """Options are part of what is kept."""
    actor = files.opened(store)
    actor.handle(vm.VectorsFreeze(), Caller(1, 1))
    actor.close()
    done = repair(OsDisk(), str(store))
    loaded = look(done.output).loaded
    assert loaded is not None
    assert loaded.catalog.record.frozen


# --- what is damaged ---------------------------------------------------------------------------


def test_a_damaged_segment_costs_its_own_rows(store: Path) -> None:
    """Older copies of them come back; the deleted row does not, though its segment is intact."""
    offset = files.damage_vec(store, 1)
    done, found = repaired(store)
    assert found == {n: files.vector_of(n) for n in (1, 2, 4, 7, 8, 9)}
    assert places(done) == {offset: 4}
    assert (done.rows, done.notes) == (6, [])


@pytest.mark.parametrize("byte", [0, 5, 16])
def test_a_damaged_header_costs_its_own_rows(store: Path, byte: int) -> None:
    """Also where no manifest can be believed any more."""
    offset = files.payload_start(store.read_bytes(), SegmentType.VEC, 2) - HEADER_BYTES
    files.flip(store, offset + byte)
    done, found = repaired(store)
    assert found == {n: v for n, v in files.ROWS.items() if n < 7}
    assert places(done) == {offset: 3}


def test_damaged_metadata_cost_themselves(store: Path) -> None:
    """The rows stay."""
    start = files.payload_start(store.read_bytes(), SegmentType.META, 0)
    files.flip(store, start + 40)
    done, found = repaired(store)
    assert found == files.ROWS
    assert places(done) == {start - HEADER_BYTES: 0}


def test_a_damaged_image_costs_itself(store: Path) -> None:
    """A store that does not open for an image's sake does so again."""
    start = files.payload_start(store.read_bytes(), SegmentType.KERNEL, 0)
    files.flip(store, start + 130)
    assert look(store).standing is Standing.DAMAGED
    done, found = repaired(store)
    assert found == files.ROWS
    assert places(done) == {start - HEADER_BYTES: 0}


def test_a_lost_witness_ends_its_chain(store: Path) -> None:
    """Those behind it cannot be linked to anything: they are left out, and that is said."""
    content = store.read_bytes()
    witnesses = files.segments(content, SegmentType.WITNESS)
    files.flip(store, witnesses[1][0] + HEADER_BYTES + 20)
    done, found = repaired(store)
    assert found == files.ROWS
    assert set(places(done)) == {witnesses[1][0], witnesses[2][0]}
    assert "witnesses that do not follow" in done.lost[-1].reason


def test_damage_that_nothing_depends_on_is_named(store: Path) -> None:
    """And it is gone."""
    start = files.payload_start(store.read_bytes(), SegmentType.MANIFEST, 1)
    files.flip(store, start)
    done, found = repaired(store)
    assert found == files.ROWS
    assert places(done) == {start - HEADER_BYTES: 0}
    assert "not in use" in done.lost[0].reason


def test_every_bit_that_is_flipped(store: Path) -> None:
    """What is written opens, holds rows as they once were, and none that was deleted."""
    good = store.read_bytes()
    segments = files.segments(good, SegmentType.VEC)
    spans = [(offset, offset + HEADER_BYTES + header.payload_bytes) for offset, header in segments]
    rng = random.Random(11)
    last_manifest = files.segments(good, SegmentType.MANIFEST)[-1][0]
    for place in sorted(rng.sample(range(len(good)), 300)):
        content = bytearray(good)
        content[place] ^= 1 << rng.randrange(8)
        store.write_bytes(content)
        done, found = repaired(store)
        for number, vector in found.items():
            assert number in files.ROWS or place >= last_manifest
            assert vector in (files.vector_of(number), files.vector_of(number, 1))
        hit = [number for number, (start, stop) in enumerate(spans) if start <= place < stop]
        if not hit and place < last_manifest:
            assert found == files.ROWS, place
        if found != files.ROWS and place < last_manifest:
            assert done.lost


@pytest.mark.parametrize("salvage", [False, True])
def test_any_damage(store: Path, salvage: bool) -> None:
    """Blocks lost, doubled, zeroed, overwritten: a file that opens, or one clear error."""
    rng = random.Random(13)
    good = store.read_bytes()
    written = 0
    for _ in range(150):
        content = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            start = rng.randrange(len(content) or 1)
            stop = min(len(content), start + rng.randrange(1, 400))
            match rng.randrange(4):
                case 0:
                    content[start:stop] = bytes(stop - start)
                case 1:
                    del content[start:stop]
                case 2:
                    content[start:start] = content[start:stop]
                case _:
                    content[start:stop] = rng.randbytes(stop - start)
        store.write_bytes(content)
        try:
            _, found = repaired(store, salvage=salvage)
        except InvalidFormat:
            assert not Path(f"{store}.repaired").exists()
            continue
        written += 1
        for number, vector in found.items():
            assert vector in (files.vector_of(number), files.vector_of(number, 1))
    assert written > 100


# --- salvaging ---------------------------------------------------------------------------------


def test_what_was_never_committed_is_taken_only_if_asked(tmp_path: Path) -> None:
    """Rows of a whole segment whose manifest is torn."""
    path = tmp_path / "v.rvf"
    shutil.copyfile(DATA / "damaged" / "torn_manifest.rvf", path)
    done, found = repaired(path)
    assert (done.rows, done.salvaged_rows, len(found)) == (60, 0, 60)
    assert any("40 rows of 1 whole vec segments" in note for note in done.notes)
    done, found = repaired(path, salvage=True)
    assert (done.rows, done.salvaged_rows, len(found)) == (100, 40, 100)
    assert found == content_of(DATA / "small_l2.rvf")


def test_salvaged_rows_count_as_newer(store: Path) -> None:
    """Than older copies and than deletes, in the order of the file; metadata come with them."""
    actor = files.opened(store)
    files.ingest(actor, [3, 1], 7, notes=["back", "new"])
    actor.close()
    content = store.read_bytes()
    store.write_bytes(content[: files.segments(content, SegmentType.MANIFEST)[-1][0] + 70])
    done, found = repaired(store)
    assert found == files.ROWS
    done = repair(OsDisk(), str(store), salvage=True)
    assert done.salvaged_rows == 2
    rows = {row.id: row for row in look(done.output).rows()}
    assert np.frombuffer(rows[1].vector, "<f4").tolist() == files.vector_of(1, 7)
    assert (rows[1].metadata, rows[3].metadata) == ({"note": "new"}, {"note": "back"})


def test_a_journal_behind_the_last_commit_is_heeded(tmp_path: Path) -> None:
    """Deletes that the original wrote down and did not commit, where its rows are salvaged."""
    path = tmp_path / "v.rvf"
    ids = np.array([1, 200, 201], np.uint64)
    rows = bytes(encode_vec(ids, np.ones((3, 8), np.float32)))
    gone = encode_journal(Journal(9, np.array([2, 201, 9999], np.uint64)))
    content = (DATA / "small_l2.rvf").read_bytes()
    for kind, payload in ((SegmentType.VEC, rows), (SegmentType.JOURNAL, gone)):
        content += encode_header(kind, 99, len(payload), content_hash(payload)) + payload
    path.write_bytes(content)
    _, found = repaired(path)
    assert len(found) == 100
    done, found = repaired(path, salvage=True)
    assert sorted(found) == [1, *range(3, 101), 200]
    assert (found[1], done.salvaged_rows) == ([1.0] * 8, 2)


def test_a_file_without_a_manifest_can_only_be_salvaged(store: Path) -> None:
    """Deleted rows are back then, the options survive, the identity does not; all that is said."""
    before = look(store)
    content = bytearray(store.read_bytes())
    for offset, _ in files.segments(bytes(content), SegmentType.MANIFEST):
        content[offset + HEADER_BYTES] ^= 1
    store.write_bytes(content)
    assert look(store).standing is Standing.DAMAGED
    with pytest.raises(InvalidFormat, match="only salvaging"):
        repair(OsDisk(), str(store))
    done, found = repaired(store, salvage=True)
    assert found == files.ROWS | {3: files.vector_of(3)}
    assert done.salvaged_rows == len(found)
    assert any("deleted rows may be back" in note for note in done.notes)
    done = repair(OsDisk(), str(store), salvage=True)
    after = look(done.output)
    assert after.fields()["file_id"] not in (before.fields()["file_id"], bytes(16).hex())
    assert [row.metadata for row in after.rows()][:2] == [{"note": "a"}, {"note": None}]
    assert any(entry[3] == SegmentType.KERNEL for entry in segments_of(after))
    store.write_bytes(b"SFVR" * 100)
    with pytest.raises(InvalidFormat):
        repair(OsDisk(), f"{store}", f"{store}.other", salvage=True)


def segments_of(report: VectorReport) -> Iterator[list[int]]:
    """The directory."""
    listed = report.fields()["segments"]
    assert isinstance(listed, list)
    yield from listed


def test_pieces_are_found_behind_any_damage(store: Path) -> None:
    """Every segment but the one that is hit, wherever it is hit; the gap is its place."""
    good = store.read_bytes()
    segments = files.segments(good)
    for offset, header in segments:
        for place in (0, 16, 17, 40, HEADER_BYTES):
            content = bytearray(good)
            content[offset + place] ^= 0x80
            pieces = find_pieces(memoryview(bytes(content)), set(), files.tick)
            assert list(pieces.offsets) == [other for other, _ in segments if other != offset]
            [gap] = pieces.gaps
            assert gap.start == offset
            end = offset + HEADER_BYTES + header.payload_bytes
            assert gap.stop in range(end, end + 4)  # zeros may follow, for alignment
            assert pieces.given_up_at is None


def test_looking_for_pieces_takes_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of headers that claim overlapping payloads, and one of zeros, are given up."""
    monkeypatch.setattr(vector_salvage, "_BYTES_IN_VAIN_MAX", 1 << 20)
    claims = encode_header(SegmentType.VEC, 1, 1 << 18, b"x" * 16) * 5000
    pieces = find_pieces(memoryview(claims), set(), files.tick)
    assert pieces.given_up_at is not None
    assert not pieces.offsets
    pieces = find_pieces(memoryview(bytes(3 << 20)), set(), files.tick)
    assert (pieces.given_up_at, pieces.gaps) == (1 << 20, [])


# --- branches ----------------------------------------------------------------------------------


@pytest.fixture
def family(store: Path) -> tuple[Path, Path]:
    """A parent and a branch with a row of its own, that hides ids 1 and 7."""
    child = store.parent / "kid.rvf"
    actor = files.opened(store)
    files.branch(actor, child, exclude=[1])
    actor.close()
    actor = files.opened(child)
    files.ingest(actor, [2, 50], 9)
    files.ingest(actor, [51], 9)
    files.delete(actor, [7])
    actor.close()
    return store, child


def test_a_branch_stays_one(family: tuple[Path, Path]) -> None:
    """It shows its parent's rows but those it hides, and has its own that are intact."""
    _, child = family
    whole = content_of(child)
    done, found = repaired(child)
    assert (found, done.rows) == (whole, 3)
    offset = files.damage_vec(child, 1)
    done, found = repaired(child)
    assert found == {n: v for n, v in whole.items() if n != 51}
    assert places(done) == {offset: 1}
    with pytest.raises(InvalidArgument, match="branch"):
        repair(OsDisk(), str(child), str(child.parent.parent / "elsewhere.rvf"))


def test_a_branch_without_its_parent_keeps_its_own(family: tuple[Path, Path]) -> None:
    """And shows the parent's rows again when that is back."""
    parent, child = family
    whole = content_of(child)
    away = parent.rename(parent.parent / "away")
    done = repair(OsDisk(), str(child))
    assert done.rows == 3
    assert [flaw.offset for flaw in done.lost] == [None]
    away.rename(parent)
    assert content_of(done.output) == whole


def test_a_parent_is_not_replaced(family: tuple[Path, Path]) -> None:
    """Its branches read it at fixed places; a new file beside it does them no harm."""
    parent, _ = family
    before = parent.read_bytes()
    with pytest.raises(HasBranches):
        repair(OsDisk(), str(parent), in_place=True)
    assert parent.read_bytes() == before
    done, found = repaired(parent)
    assert found == files.ROWS
    assert any("branches read the old file" in note for note in done.notes)


# --- where it goes -----------------------------------------------------------------------------


def test_in_place_the_old_file_is_kept(store: Path) -> None:
    """Beside the new one, with what was bound to it gone."""
    files.damage_vec(store, 0)
    before = store.read_bytes()
    store.chmod(0o640)
    done = repair(OsDisk(), str(store), in_place=True)
    assert (done.output, done.kept) == (str(store), f"{store}.damaged")
    assert Path(f"{store}.damaged").read_bytes() == before
    assert store.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in store.parent.iterdir()) == ["v.rvf", "v.rvf.damaged"]
    assert content_of(store) == {n: v for n, v in files.ROWS.items() if n != 1}
    with pytest.raises(StoreExists):
        repair(OsDisk(), str(store), in_place=True)


def test_a_store_in_use_is_not_replaced(store: Path) -> None:
    """Though it can be written anew beside."""
    actor = files.opened(store)
    with pytest.raises(StoreLocked):
        repair(OsDisk(), str(store), in_place=True)
    assert repair(OsDisk(), str(store)).rows == len(files.ROWS)
    files.ingest(actor, [99])
    actor.close()


def test_nothing_is_overwritten(store: Path, tmp_path: Path) -> None:
    """A file that is there, the source itself, a directory."""
    (tmp_path / "v.rvf.repaired").write_text("mine")
    for output in (None, str(store), str(tmp_path)):
        with pytest.raises(StoreExists):
            repair(OsDisk(), str(store), output)
    assert (tmp_path / "v.rvf.repaired").read_text() == "mine"
    with pytest.raises(InvalidArgument):
        repair(OsDisk(), str(tmp_path))
    with pytest.raises(StoreIOError):
        repair(OsDisk(), str(tmp_path / "absent.rvf"))


PLACE = "/data/v.rvf"


def on_memory(content: bytes) -> MemoryDisk:
    """A disk that has a file, and has had it for long."""
    disk = MemoryDisk("/data")
    disk.place(PLACE, content)
    return disk


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_failing_disk_or_a_crash_loses_nothing(store: Path, in_place: bool) -> None:
    """Whichever call is the last: the old file is there, and the new one is whole or is not."""
    files.damage_vec(store, 1)
    source = store.read_bytes()
    counting = FaultyDisk(on_memory(source))
    repair(counting, PLACE, in_place=in_place)
    whole = {PLACE, f"{PLACE}.repaired"} if not in_place else {PLACE, f"{PLACE}.damaged"}
    for number in range(len(counting.calls)):
        for fault in (Fail(number, errno.EIO), Kill(number), Kill(number, after=True)):
            disk = on_memory(source)
            with contextlib.suppress(HoldfastError, Crash):
                repair(FaultyDisk(disk, fault), PLACE, in_place=in_place)
            for left in (disk.crash(), disk.power_loss(Sampled(number))):
                found = {path: left.content(path) for path in whole if left.content(path)}
                assert source in found.values()
                assert found[PLACE] == source or in_place
                for path, content in found.items():
                    if content != source:
                        report = examine(left, path)
                        assert isinstance(report, VectorReport)
                        assert (report.standing, report.live_rows) == (Standing.CLEAN, 6)


def test_a_failure_leaves_no_leftovers(store: Path) -> None:
    """A full disk: one error, and no temporary file."""
    counting = FaultyDisk(on_memory(store.read_bytes()))
    repair(counting, PLACE)
    for call in counting.calls:
        if call.name in ("append", "sync"):
            disk = on_memory(store.read_bytes())
            with pytest.raises(StoreFull):
                repair(FaultyDisk(disk, Fail(call.number, errno.ENOSPC)), PLACE)
            assert [name for name, _ in disk.list("/data")] == ["v.rvf"]


# --- folds -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base3", "midflip", "torn-mid-value", "zero-length", "zero-hole"])
def test_a_fold_is_kept_up_to_the_damage(tmp_path: Path, name: str) -> None:
    """Entries and cursor as inspection shows them, in a clean log."""
    path = tmp_path / f"{name}.snap"
    shutil.copyfile(FOLDS / path.name, path)
    before = examine(OsDisk(), str(path))
    for in_place in (False, True):
        done = repair(OsDisk(), str(path), in_place=in_place)
        after = examine(OsDisk(), done.output)
        assert isinstance(before, LogReport)
        assert isinstance(after, LogReport)
        assert after.standing is Standing.CLEAN
        assert list(after.rows()) == list(before.rows())
        assert after.cursor == before.cursor
        assert done.rows == before.entries
        clean = before.standing is Standing.CLEAN
        expected = [] if clean else [before.verdict.offset]
        assert [flaw.offset for flaw in done.lost] == expected
        assert bool(done.notes) != clean


def test_what_is_no_store_is_not_repaired(tmp_path: Path) -> None:
    """Foreign logs and artifacts; and a log has nothing to salvage."""
    path = tmp_path / "f.snap"
    shutil.copyfile(FOLDS / "badmagic.snap", path)
    with pytest.raises(InvalidFormat):
        repair(OsDisk(), str(path))
    shutil.copyfile(FOLDS / "midflip.snap", path)
    with pytest.raises(InvalidArgument, match="salvage"):
        repair(OsDisk(), str(path), salvage=True)
    with pytest.raises(InvalidArgument, match="artifact"):
        repair(OsDisk(), str(FOLDS / "artifacts" / "good"))
    assert [path.name for path in tmp_path.iterdir()] == ["f.snap"]
