"""Looking at RVF files: the original's, damaged ones, hostile ones, and those being written."""

import os
import random
import shutil
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from holdfast.formats import ledger
from holdfast.formats.errors import HoldfastError
from holdfast.formats.fold_log import Ending
from holdfast.formats.ledger import LedgerHeader
from holdfast.formats.rvf import scan
from holdfast.formats.rvf.manifest import Entry, Identity, Manifest, encode_manifest
from holdfast.formats.rvf.segment import HEADER_BYTES, SegmentType, content_hash, encode_header
from holdfast.formats.rvf.vec import encode_vec
from holdfast.formats.tables import ipc_to_table
from holdfast.workers import vector_messages as vm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk, OsFile
from holdfast.workers.inspection import examine
from holdfast.workers.ledger import SUFFIX
from holdfast.workers.standing import Standing
from holdfast.workers.vector_inspection import VectorReport, VectorRow
from holdfast.workers.vectors import VectorsActor
from tests.formats.rvf.reference import DATA, EXPECTED, NPM, recipe_vectors
from tests.workers import vector_files as files

NPM_METRICS = {"l2": "l2", "cosine": "cosine", "inner_product": "ip"}
TRUNCATIONS_AND_FLIPS = 200


class ReadOnlyDisk(OsDisk):
    """The real files, none of which may be changed."""

    def open(self, path: str, *, write: bool = False, create: bool = False) -> OsFile:
        assert not write
        assert not create
        return super().open(path)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("an inspection wrote")

    create = make_directory = remove_directory = remove = _refuse
    rename = copy_mode = sync_directory = _refuse


def look(path: Path) -> VectorReport:
    """The report on a path, made without changing anything."""
    report = examine(ReadOnlyDisk(), str(path))
    assert isinstance(report, VectorReport)
    return report


def vectors_in(rows: Iterable[VectorRow]) -> dict[int, list[float]]:
    """Vectors by id."""
    return {row.id: np.frombuffer(row.vector, "<f4").tolist() for row in rows}


def rows_of(actor: VectorsActor) -> list[VectorRow]:
    """The rows that an open store has."""
    page = actor.handle(vm.VectorsScan(), Caller(0, 0))
    assert isinstance(page, vm.VectorRows)
    assert not page.more
    assert page.vectors is not None
    assert page.metadata is not None
    ids = np.frombuffer(page.ids, "<u8").tolist()
    width = len(page.vectors) // max(1, len(ids))
    table = ipc_to_table(page.metadata)
    metadata = table.to_pylist() if table.num_columns else [None] * len(ids)
    return [
        VectorRow(id_, bytes(page.vectors[n * width : (n + 1) * width]), metadata[n])
        for n, id_ in enumerate(ids)
    ]


# --- the original's files ----------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_file_of_the_original_shows_what_it_holds(name: str) -> None:
    """Ids, identity, deleted ids and directory are those its own program wrote down."""
    expected = EXPECTED[name]
    report = look(DATA / name)
    fields = report.fields()
    assert (report.standing, report.opens, fields["problems"]) == (Standing.CLEAN, True, [])
    # Numbers in expected.json went through float64.
    assert [float(row.id) for row in report.rows()] == [float(n) for n in expected["live_ids"]]
    assert fields["live"] == len(expected["live_ids"])
    assert fields["deleted"] == expected["deleted_ids_in_manifest"]
    assert fields["segments"] == [entry[:4] for entry in expected["segment_dir"]]
    for field in ("dimension", "epoch", "file_id", "parent_id", "parent_hash", "lineage_depth"):
        assert fields[field] == expected[field], field


@pytest.mark.parametrize("name", ["small_l2.rvf", "deleted.rvf", "cosine.rvf", "compacted.rvf"])
def test_rows_are_the_vectors_by_id(name: str) -> None:
    """Bit for bit, in order of id."""
    expected = EXPECTED[name]
    rows = list(look(DATA / name).rows())
    ids = [row.id for row in rows]
    assert ids == expected["live_ids"]
    made = recipe_vectors(expected["seed"], ids, expected["dimension"])
    assert [row.vector for row in rows] == [vector.tobytes() for vector in made]
    assert {row.metadata for row in rows} == {None}


@pytest.mark.parametrize("name", sorted(NPM))
def test_a_file_of_the_published_binary_shows_what_it_holds(name: str) -> None:
    """Identity, metric and directory; a branch shows its parent's rows as well."""
    expected = NPM[name]
    report = look(DATA / "npm-0.2.2" / name)
    fields = report.fields()
    assert (report.standing, fields["problems"]) == (Standing.CLEAN, [])
    assert fields["metric"] == NPM_METRICS[expected["metric"]]
    assert (fields["file_id"], fields["parent_id"]) == (expected["fileId"], expected["parentId"])
    assert (fields["lineage_depth"], fields["dimension"]) == (expected["depth"], 4)
    assert fields["epoch"] == expected["status"]["currentEpoch"]
    segments = [[s["id"], s["offset"], s["payloadLength"]] for s in expected["segments"]]
    assert [entry[:3] for entry in fields["segments"]] == segments  # type: ignore[attr-defined]
    ids = [row.id for row in report.rows()]
    assert {hit["id"] for hit in expected["top5"]} <= set(ids)
    if not expected["depth"]:
        assert len(ids) == expected["status"]["totalVectors"]


@pytest.mark.parametrize(
    ("name", "standing", "offset", "live", "epoch"),
    [
        ("torn_manifest", Standing.RECOVERABLE, 3001, 60, 1),
        ("torn_vec", Standing.RECOVERABLE, 3001, 60, 1),
        ("manifest_epoch_flipped", Standing.RECOVERABLE, 3001, 60, 1),
        ("vec_flipped", Standing.DAMAGED, 162, 40, 2),
        ("vec_flipped_zero_hash", Standing.CLEAN, None, 100, 2),
        ("zero_tail_60k", Standing.RECOVERABLE, 5115, 100, 2),
        ("zero_tail_70k", Standing.RECOVERABLE, 5115, 100, 2),
        ("big_delete_list", Standing.CLEAN, None, 850, 4),
    ],
)
def test_a_damaged_file_of_the_original_is_judged(
    name: str, standing: Standing, offset: int | None, live: int, epoch: int
) -> None:
    """As expected.json has the truth; of a file that opening refuses, the intact rows show."""
    report = look(DATA / "damaged" / f"{name}.rvf")
    fields = report.fields()
    assert (report.standing, fields["live"], fields["epoch"]) == (standing, live, epoch)
    assert len(list(report.rows())) == live
    assert fields.get("offset") == offset
    assert bool(report.problems) == (standing is not Standing.CLEAN)


# --- stores of ours ----------------------------------------------------------------------------


def test_metadata_are_part_of_the_rows(tmp_path: Path) -> None:
    """A store with columns shows them; a row without a value has a null."""
    path = tmp_path / "v.rvf"
    files.make(path)
    report = look(path)
    assert report.standing is Standing.CLEAN
    assert vectors_in(report.rows()) == files.ROWS
    notes = {row.id: row.metadata for row in report.rows()}
    assert notes[1] == {"note": "a"}
    assert notes[2] == {"note": None}
    assert report.fields()["deleted"] == [3]
    assert report.summary()["deleted"] == 1


def test_a_damaged_segment_hides_its_own_rows_only(tmp_path: Path) -> None:
    """The others are shown, older copies of lost rows among them, and the problem has a place."""
    path = tmp_path / "v.rvf"
    files.make(path)
    offset = files.damage_vec(path, 1)
    report = look(path)
    assert (report.standing, report.opens, report.verdict.offset) == (
        Standing.DAMAGED, False, offset,
    )  # fmt: skip
    shown = {n: files.vector_of(n) for n in (1, 2, 4, 7, 8, 9)}
    assert vectors_in(report.rows()) == shown
    [problem] = report.problems
    assert problem == f"offset {offset}: the vec segment does not match its hash; it has 4 rows"


@pytest.mark.parametrize("byte", [0, 5, 16])
def test_a_damaged_header_hides_its_own_rows_only(tmp_path: Path, byte: int) -> None:
    """Magic, type or length: the newest manifest still tells what else there is."""
    path = tmp_path / "v.rvf"
    files.make(path)
    offset = files.payload_start(path.read_bytes(), SegmentType.VEC, 0) - HEADER_BYTES
    files.flip(path, offset + byte)
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, False)
    assert vectors_in(report.rows()) == {n: v for n, v in files.ROWS.items() if n != 1}
    assert any(problem.startswith(f"offset {offset}: ") for problem in report.problems)


def test_damaged_metadata_do_not_hide_rows(tmp_path: Path) -> None:
    """The rows lose what their damaged segment said."""
    path = tmp_path / "v.rvf"
    files.make(path)
    files.flip(path, files.payload_start(path.read_bytes(), SegmentType.META, 0) + 40)
    report = look(path)
    assert report.standing is Standing.DAMAGED
    assert vectors_in(report.rows()) == files.ROWS
    notes = {row.id: row.metadata for row in report.rows()}
    assert (notes[1], notes[7]) == ({"note": None}, {"note": "g"})


def test_damage_that_opening_passes_over_is_damage(tmp_path: Path) -> None:
    """A superseded manifest, a witness: the store opens, and is not called clean."""
    path = tmp_path / "v.rvf"
    files.make(path)
    good = path.read_bytes()
    for kind in (SegmentType.MANIFEST, SegmentType.WITNESS):
        path.write_bytes(good)
        start = files.payload_start(good, kind, 1)
        files.flip(path, start + 10)
        report = look(path)
        assert (report.standing, report.opens) == (Standing.DAMAGED, True)
        assert report.verdict.offset == start - HEADER_BYTES
        assert report.verdict.reason == f"the {kind.name.lower()} segment does not match its hash"
        assert vectors_in(report.rows()) == files.ROWS


def test_a_missing_parent_leaves_the_branch_its_own_rows(tmp_path: Path) -> None:
    """Opening refuses; the own rows can be read, and the problem names the parent."""
    parent, child = tmp_path / "v.rvf", tmp_path / "kid.rvf"
    files.make(parent)
    actor = files.opened(parent)
    files.branch(actor, child, exclude=[1])
    actor.close()
    actor = files.opened(child)
    files.ingest(actor, [2, 50], 9)
    actor.close()
    whole = {n: v for n, v in files.ROWS.items() if n != 1}
    whole |= {2: files.vector_of(2, 9), 50: files.vector_of(50, 9)}
    report = look(child)
    assert (report.standing, vectors_in(report.rows())) == (Standing.CLEAN, whole)
    parent.rename(tmp_path / "away.rvf")
    report = look(child)
    assert (report.standing, report.opens, report.verdict.offset) == (
        Standing.DAMAGED, False, None,
    )  # fmt: skip
    assert vectors_in(report.rows()) == {n: whole[n] for n in (2, 50)}
    assert any(str(parent) in problem for problem in report.problems)
    assert report.fields()["lineage_depth"] == 1


def test_a_derived_file_is_whole_without_its_parent(tmp_path: Path) -> None:
    """It only remembers where it comes from; that the parent is gone is said all the same."""
    path = tmp_path / "derived_child.rvf"
    shutil.copyfile(DATA / path.name, path)
    report = look(path)
    assert (report.standing, report.opens) == (Standing.CLEAN, True)
    [problem] = report.problems
    assert problem.startswith("parent ")


def test_a_store_in_use_can_be_looked_at(tmp_path: Path) -> None:
    """No lock is needed; every commit shows at once, and half of one is a torn tail."""
    path = tmp_path / "v.rvf"
    files.make(path)
    actor = files.opened(path)
    files.ingest(actor, [10, 11])
    assert {10, 11} < set(vectors_in(look(path).rows()))
    files.delete(actor, [10])
    report = look(path)
    assert (report.standing, 10 in vectors_in(report.rows())) == (Standing.CLEAN, False)
    before = path.stat().st_size
    files.ingest(actor, [12])
    with path.open("r+b") as file:
        file.truncate(before + 100)
    report = look(path)
    assert (report.standing, report.verdict.offset) == (Standing.RECOVERABLE, before)
    actor.abandon()


def test_what_was_synced_decides_what_is_torn(tmp_path: Path) -> None:
    """After a power loss, damage is a torn tail if it lies behind the last sync that is known."""
    path = tmp_path / "v.rvf"
    files.make(path)
    offset = files.damage_vec(path, 2)
    assert look(path).standing is Standing.DAMAGED
    for synced, standing in ((offset, Standing.RECOVERABLE), (offset + 1, Standing.DAMAGED)):
        content = bytearray(ledger.LEDGER_BYTES)
        header = LedgerHeader(b"another start...", path.stat().st_ino, synced)
        content[: len(ledger.encode_header(header))] = ledger.encode_header(header)
        Path(f"{path}{SUFFIX}").write_bytes(content)
        report = look(path)
        assert report.standing is standing
        agree(path, report)
    assert 7 not in vectors_in(look(path).rows())


# --- agreement with opening --------------------------------------------------------------------


def agree(path: Path, report: VectorReport) -> None:
    """Check that a copy of the file opens if the report says so, with the rows it shows."""
    copy = path.parent / f"copy-of-{path.name}"
    shutil.copyfile(path, copy)
    beside = Path(f"{path}{SUFFIX}")
    if beside.exists():  # bound to the file, not to its copy
        content = bytearray(beside.read_bytes())
        header, _ = ledger.decode(bytes(content)) or (None, [])
        assert header is not None
        inode = copy.stat().st_ino
        moved = ledger.encode_header(LedgerHeader(header.boot_id, inode, header.synced))
        content[: len(moved)] = moved
        Path(f"{copy}{SUFFIX}").write_bytes(content)
    try:
        actor = files.opened(copy)
    except HoldfastError:
        assert not report.opens
        return
    try:
        assert report.opens
        assert rows_of(actor) == list(report.rows())
    finally:
        actor.close()
    if report.standing is not Standing.DAMAGED:
        assert look(copy).standing is Standing.CLEAN


@pytest.mark.usefixtures("quiet")
def test_opening_does_what_the_verdict_says(tmp_path: Path) -> None:
    """Wherever a small file is cut, whatever bit of it is flipped."""
    path = tmp_path / "v.rvf"
    files.make(path)
    good = path.read_bytes()
    rng = random.Random(3)
    known = {(row.id, row.vector) for row in look(path).rows()}
    known |= {
        (n, np.array(files.vector_of(n), "<f4").tobytes()) for n in (2, 3, 4)
    }  # what is superseded or deleted
    for _ in range(TRUNCATIONS_AND_FLIPS):
        content = bytearray(good)
        place = rng.randrange(len(good))
        if rng.random() < 0.3:
            del content[max(1, place) :]
        else:
            content[place] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        report = look(path)
        assert report.standing is not Standing.NOT_OURS or len(content) < 4 or place < 8
        assert {(row.id, row.vector) for row in report.rows()} <= known
        agree(path, report)


# --- what is not what it seems -----------------------------------------------------------------


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    """The original leaves one behind when it finds the store locked."""
    path = tmp_path / "v.rvf"
    path.touch()
    report = look(path)
    assert (report.standing, report.verdict.ending) == (Standing.RECOVERABLE, Ending.TORN)
    assert list(report.rows()) == []
    files.opened(path, dimension=2).close()
    assert look(path).standing is Standing.CLEAN


def test_what_is_not_ours_is_said_to_be_so(tmp_path: Path) -> None:
    """By a name alone nothing is a vector store; without any manifest something may be."""
    path = tmp_path / "v.rvf"
    path.write_bytes(b"\xff\xd8\xff\xe0 some picture")
    report = look(path)
    assert (report.standing, report.fields()["dimension"]) == (Standing.NOT_OURS, None)
    small = (DATA / "small_l2.rvf").read_bytes()
    path.write_bytes(small[162:2632])  # one segment of rows
    assert look(path).standing is Standing.DAMAGED
    path.write_bytes(b"SFVR")
    assert look(path).standing is Standing.DAMAGED
    os.mkfifo(tmp_path / "pipe.rvf")
    (tmp_path / "folder.rvf").mkdir()
    for name in ("pipe.rvf", "folder.rvf"):
        assert examine(ReadOnlyDisk(), str(tmp_path / name)).standing is Standing.NOT_OURS


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    """Whatever it is called; zeros in front, as alignment leaves them, included."""
    for name, start in (("a.repaired", b""), ("b.snap", b""), ("c", bytes(2))):
        path = tmp_path / name
        path.write_bytes(start + (DATA / "empty.rvf").read_bytes())
        assert look(path).standing is Standing.CLEAN
    path = tmp_path / "fold.rvf"
    shutil.copyfile(DATA.parent / "fold" / "base3.snap", path)
    assert examine(ReadOnlyDisk(), str(path)).format == "fold-log"


@pytest.mark.parametrize("content", [b"", (DATA / "small_l2.rvf").read_bytes()])
def test_a_huge_hole_is_not_read(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that says it is a terabyte is given up after a bounded part of it."""
    monkeypatch.setattr(scan, "_LOOK_BACK_BYTES_MAX", 1 << 24)
    path = tmp_path / "v.rvf"
    path.write_bytes(content)
    os.truncate(path, 1 << 40)
    report = look(path)
    assert report.standing is (Standing.DAMAGED if content else Standing.NOT_OURS)
    assert len(list(report.rows())) == (100 if content else 0)


def test_a_parent_that_is_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Nor one that is a directory, or the file itself."""
    name = "node_branch_child.rvf"
    path = tmp_path / name
    shutil.copyfile(DATA / "npm-0.2.2" / name, path)
    parent = tmp_path / "node_branch_parent.rvf"
    for make in (os.mkfifo, os.mkdir, lambda place: os.symlink(path, place)):
        make(parent)
        report = look(path)
        assert (report.standing, report.opens) == (Standing.DAMAGED, False)
        assert len(list(report.rows())) == 2
        parent.rmdir() if parent.is_dir() else parent.unlink()


def hostile_file(entries: int) -> bytes:
    """A file whose directory lists the same rows many times."""
    rows = bytes(encode_vec(np.arange(1000, dtype=np.uint64), np.ones((1000, 64), np.float32)))
    content = encode_header(SegmentType.VEC, 1, len(rows), content_hash(rows)) + rows
    manifest = encode_manifest(
        Manifest(
            epoch=1,
            dimension=64,
            total_vectors=1000,
            profile=0,
            metric=0,
            entries=(Entry(1, 0, len(rows), SegmentType.VEC),) * entries,
            deleted=np.empty(0, np.uint64),
            identity=Identity(b"i" * 16, bytes(16), bytes(32), 0),
            extension=None,
        )
    )
    return (
        content
        + encode_header(SegmentType.MANIFEST, 2, len(manifest), content_hash(manifest))
        + manifest
    )


def test_rows_that_are_listed_a_thousand_times_are_read_once(tmp_path: Path) -> None:
    """A directory of more than the file has room for is not believed, and costs nothing."""
    path = tmp_path / "v.rvf"
    path.write_bytes(hostile_file(1))
    assert (look(path).standing, look(path).live_rows) == (Standing.CLEAN, 1000)
    path.write_bytes(hostile_file(20_000))
    tracemalloc.start()
    try:
        report = look(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (report.standing, report.live_rows) == (Standing.DAMAGED, 1000)
    assert peak < 100 << 20


def test_any_bytes_get_a_report(tmp_path: Path) -> None:
    """Blocks lost, doubled, zeroed and overwritten: a report, and rows that were there once."""
    rng = random.Random(5)
    path = tmp_path / "v.rvf"
    files.make(path)
    good = path.read_bytes()
    for _ in range(300):
        content = bytearray(good)
        for _ in range(rng.randrange(1, 5)):
            start = rng.randrange(max(1, len(content)))
            stop = min(len(content), start + rng.randrange(1, 300))
            match rng.randrange(4):
                case 0:
                    content[start:stop] = bytes(stop - start)
                case 1:
                    del content[start:stop]
                case 2:
                    content[start:start] = content[start:stop]
                case _:
                    content[start:stop] = rng.randbytes(stop - start)
        path.write_bytes(content)
        report = look(path)
        for number, vector in vectors_in(report.rows()).items():
            assert vector in [files.vector_of(number, version) for version in (0, 1)]


# --- manners -----------------------------------------------------------------------------------


def test_rows_are_streamed(tmp_path: Path) -> None:
    """Going through the rows of a large file takes little more than one page of them."""
    path = tmp_path / "v.rvf"
    actor = files.opened(path, dimension=files.DIMENSION)
    for start in range(0, 100_000, 10_000):
        files.ingest(actor, range(start, start + 10_000))
    actor.close()
    report = look(path)
    tracemalloc.start()
    try:
        assert sum(1 for _ in report.rows()) == 100_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_nothing_is_changed(tmp_path: Path) -> None:
    """Looking at every golden file, without write permission, leaves bytes and times alone."""
    copy = tmp_path / "rvf"
    shutil.copytree(DATA, copy)
    found = sorted(copy.rglob("*.rv*"))
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}
    for path in found:
        list(look(path).rows())
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found} == before
    assert sorted(copy.rglob("*.rv*")) == found
