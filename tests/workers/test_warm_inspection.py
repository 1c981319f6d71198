"""Looking at warm stores: whole, torn and damaged ones, and those that are in use."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from holdfast.formats import warm_chunk, warm_log, warm_manifest, zone_map
from holdfast.formats.checksum import crc32
from holdfast.formats.errors import HoldfastError
from holdfast.formats.fold_log import Ending
from holdfast.formats.points import Points, metadata_array
from holdfast.formats.warm_terms import Compression
from holdfast.formats.zone_map import BLOCK_BYTES
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.fold_inspection import LogReport
from holdfast.workers.inspection import examine
from holdfast.workers.standing import Standing
from holdfast.workers.warm_inspection import WarmReport
from tests.workers import warm_stores as stores
from tests.workers.test_vector_inspection import ReadOnlyDisk

WARM_DATA = Path(__file__).resolve().parent.parent / "data" / "warm"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's store is."""
    return tmp_path / "s.warm"


def look(path: Path) -> WarmReport:
    """The report on a directory, made without changing anything."""
    report = examine(ReadOnlyDisk(), str(path))
    assert isinstance(report, WarmReport)
    return report


def agree(path: Path, report: WarmReport, copy: Path) -> None:
    """Check that a copy opens if the report says so, and that it has the points that it shows."""
    shutil.copytree(path, copy)
    try:
        try:
            actor = stores.opened(copy)
        except HoldfastError:
            assert not report.opens
            return
        assert report.opens
        actor.abandon()
        if report.standing is Standing.RECOVERABLE:
            assert look(copy).standing is Standing.CLEAN
            assert stores.content(look(copy).rows()) == stores.content(report.rows())
    finally:
        shutil.rmtree(copy)


# --- whole stores -------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_a_store_shows_what_it_holds(path: Path, compression: Compression) -> None:
    """Chunks without what is dead, merged with the log; the figures agree with the rows."""
    points = stores.make(path, compression)
    report = look(path)
    assert (report.standing, report.opens, report.problems) == (Standing.CLEAN, True, [])
    assert stores.content(report.rows()) == points
    fields = report.fields()
    json.dumps(fields)
    assert (fields["dimension"], fields["compression"]) == (3, compression)
    assert (fields["points"], fields["series"]) == (len(points), 4)
    assert (fields["first"], fields["last"]) == (0, 9)
    assert fields["log_records"] == 2
    chunks = fields["chunks"]
    assert isinstance(chunks, list)
    assert [(c["number"], c["rows"], c["live"], c["lost"]) for c in chunks] == [
        (1, 20, 14, 0), (2, 5, 4, 0), (3, 5, 5, 0),
    ]  # fmt: skip
    assert fields["bytes"] == sum(
        file.stat().st_size for file in path.iterdir() if not file.name.startswith("LOG.")
    )
    assert report.summary()["chunks"] == 3


def test_an_empty_store_is_whole(path: Path) -> None:
    """It has no points, and no times."""
    stores.opened(path, dimension=5).close()
    report = look(path)
    assert (report.standing, report.points, list(report.rows())) == (Standing.CLEAN, 0, [])
    fields = report.fields()
    assert (fields["dimension"], fields["series"], fields["first"]) == (5, 0, None)


def test_rows_are_in_key_order_over_many_chunks(path: Path) -> None:
    """However keys interleave, and wherever slices end."""
    actor = stores.opened(path, dimension=stores.DIMENSION)
    points: stores.Content = {}
    random = np.random.default_rng(5)
    for _ in range(12):
        for entity in random.choice(40, 6, replace=False).tolist():
            times = random.choice(3000, 900, replace=False).tolist()
            version = int(random.integers(1, 1000))
            points |= stores.write(actor, entity, times, version, space=entity % 3)
        stores.flush(actor)
    actor.close()
    assert stores.content(look(path).rows()) == points


def test_memory_is_bounded_by_what_overlaps(path: Path) -> None:
    """The rows of a compressed store are read without holding all of it decompressed."""
    actor = stores.opened(path, dimension=512, compression="zstd")
    for entity in range(40):
        stores.write(actor, entity, range(512), dimension=512)
        stores.flush(actor)
    actor.close()
    before = pa.total_allocated_bytes()
    report = look(path)
    most = 0
    for number, _ in enumerate(report.rows()):
        if number % 512 == 0:
            most = max(most, pa.total_allocated_bytes() - before)
    assert number == 40 * 512 - 1
    assert most < 20 * 512 * 512 * 4


def test_a_store_in_use_can_be_looked_at(path: Path) -> None:
    """No lock is needed, what was written shows at once, and work in progress is no leftover."""
    actor = stores.opened(path, dimension=512)
    points = stores.write(actor, 1, range(3000), dimension=512)
    assert stores.content(look(path).rows()) == points
    reply = actor.handle(wm.WarmFlush(), Caller(9, 1))
    states = set()
    for _ in reply:  # type: ignore[union-attr]
        report = look(path)
        states.add(any(name.suffix == ".arrow" for name in path.iterdir()))
        assert (report.standing, report.points) == (Standing.CLEAN, 3000)
    assert states == {False, True}
    report = look(path)
    stores.write(actor, 2, range(3), dimension=512)
    stores.flush(actor)
    stores.ask(actor, wm.WarmCompact())
    assert stores.content(report.rows()) == points, "its files are mapped"
    actor.abandon()


def test_a_manifest_that_is_replaced_meanwhile_is_read_again(path: Path) -> None:
    """A compaction between reading the manifest and opening its chunks is not seen as damage."""
    points = stores.make(path)
    actor = stores.opened(path)

    class Interrupting(ReadOnlyDisk):
        def list(self, path: str) -> list[tuple[str, str]]:
            if not done and self.seen:
                done.append(1)
                stores.ask(actor, wm.WarmCompact())
            return super().list(path)

        seen = False

        def inode_at(self, path: str) -> int | None:
            self.seen = True
            return super().inode_at(path)

    done: list[int] = []
    report = examine(Interrupting(), str(path))
    assert isinstance(report, WarmReport)
    assert done
    assert (report.standing, stores.content(report.rows())) == (Standing.CLEAN, points)
    actor.abandon()


# --- what opening mends -------------------------------------------------------------------------


def test_a_torn_log_is_recoverable(path: Path) -> None:
    """Every cut of the last record leaves the points before it, and says where the log is good."""
    stores.make(path)
    data = (path / "LOG").read_bytes()
    header = warm_log.decode_header(data)
    assert not isinstance(header, str)
    records = warm_log.scan(memoryview(data), header).records
    start = records[-1].offset
    whole = None
    for end in range(start + 1, len(data), 7):
        (path / "LOG").write_bytes(data[:end])
        report = look(path)
        assert (report.standing, report.opens) == (Standing.RECOVERABLE, True)
        assert report.verdict.reason.startswith(f"LOG: offset {start}: {end - start} bytes: ")
        shown = stores.content(report.rows())
        assert whole in (None, shown)
        whole = shown
    agree(path, report, path.parent / "copy.warm")


@pytest.mark.parametrize(
    "name", ["0000000077.arrow", "0000000077.zone", "0000000077.dead", "MANIFEST.tmp", "LOG.tmp"]
)
def test_leftovers_are_recoverable(path: Path, name: str) -> None:
    """What no manifest lists is named, holds nothing, and goes when the store is opened."""
    points = stores.make(path)
    (path / name).write_bytes(b"half of it")
    report = look(path)
    assert report.standing is Standing.RECOVERABLE
    assert report.problems == [f"{name}: a leftover of an interrupted write"]
    assert stores.content(report.rows()) == points
    agree(path, report, path.parent / "copy.warm")


@pytest.mark.parametrize("log", [None, b"", b"HFWARMWL", "header"])
def test_a_store_that_was_never_finished_is_recoverable(
    path: Path, log: bytes | str | None
) -> None:
    """An empty directory, or one with a log without records: opening makes an empty store."""
    path.mkdir()
    if log is not None:
        data = warm_log.encode_header(3, bytes(16), 1) if isinstance(log, str) else log
        (path / "LOG").write_bytes(data)
    report = look(path)
    assert (report.standing, report.points) == (Standing.RECOVERABLE, 0)
    assert "nothing in it yet" in report.verdict.reason
    stores.opened(path, dimension=3).close()
    assert look(path).standing is Standing.CLEAN


def test_a_dropped_store_is_none(path: Path) -> None:
    """A crash while it was removed leaves nothing that counts."""
    stores.make(path)
    manifest = warm_manifest.decode((path / "MANIFEST").read_bytes())
    dropped = warm_manifest.Manifest(manifest.store_id, 3, 9, 0, 0, 99, "none", [], dropped=True)
    (path / "MANIFEST").write_bytes(warm_manifest.encode(dropped))
    report = look(path)
    assert (report.standing, report.points) == (Standing.RECOVERABLE, 0)
    assert "dropped" in report.verdict.reason


# --- damage -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["0000000001.arrow", "0000000001.zone"])
def test_a_damaged_chunk_hides_its_own_points_only(path: Path, name: str) -> None:
    """The others show, and the problem names file, offset, points and times."""
    points = stores.make(path)
    stores.flip(path / name, 100)
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, name.endswith(".arrow"))
    kept = {key: v for key, v in points.items() if v[0][0] == 1.0 or key[1] in (3, 4)}
    assert stores.content(report.rows()) == kept
    [problem] = report.problems
    assert problem.startswith(f"{name}: offset 0: ")
    assert "14 " in problem
    assert report.verdict.reason == problem
    chunks = report.fields()["chunks"]
    assert isinstance(chunks, list)
    assert [(chunk["live"], chunk["lost"]) for chunk in chunks] == [(0, 14), (4, 0), (5, 0)]


def test_without_its_dead_rows_a_chunk_is_settled_by_the_others(path: Path) -> None:
    """What was written again elsewhere stays dead; what was deleted may be back, and it is said."""
    points = stores.make(path)
    [dead] = [name for name in path.iterdir() if name.suffix == ".dead"]
    stores.flip(dead, 20)
    report = look(path)
    assert report.standing is Standing.DAMAGED
    back: stores.Content = {(0, 2, 9): (stores.vector_of((0, 2, 9), 0), {})}
    assert stores.content(report.rows()) == points | back
    assert report.problems[-1] == "up to 1 deleted points of chunk 1 are back"
    assert report.problems[0].startswith(f"{dead.name}: offset 0: ")


@pytest.mark.parametrize("suffix", [".arrow", ".zone", ".dead"])
def test_a_missing_file_keeps_a_store_shut(path: Path, suffix: str) -> None:
    """It is named, and what the others have can be read."""
    stores.make(path)
    listed = warm_manifest.decode((path / "MANIFEST").read_bytes()).chunks[0]
    number = listed.dead.number if suffix == ".dead" and listed.dead else listed.number
    (path / f"{number:010d}{suffix}").unlink()
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, False)
    assert f"{number:010d}{suffix}: the file is missing" in report.verdict.reason
    assert {(0, 3, 0), (0, 4, 7), (0, 1, 2)} <= stores.content(report.rows()).keys()
    agree(path, report, path.parent / "copy.warm")


def test_intact_records_behind_damage_of_the_log_show(path: Path) -> None:
    """Opening refuses; the lost record is named with its rows, and the others count."""
    actor = stores.opened(path, dimension=stores.DIMENSION)
    first = stores.write(actor, 1, range(5))
    stores.write(actor, 2, range(6))
    last = stores.write(actor, 3, range(7))
    actor.close()
    data = (path / "LOG").read_bytes()
    header = warm_log.decode_header(data)
    assert not isinstance(header, str)
    lost = warm_log.scan(memoryview(data), header).records[1]
    stores.flip(path / "LOG", lost.offset + 60)
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, False)
    assert stores.content(report.rows()) == first | last
    assert report.reading is not None
    assert (report.reading.flaws[0].offset, report.reading.flaws[0].rows) == (lost.offset, 6)
    assert any("record 2 is not there before this" in problem for problem in report.problems)
    agree(path, report, path.parent / "copy.warm")


@pytest.mark.parametrize("offset", [0, 9, 13, 20, 33, 41])
def test_a_damaged_header_of_the_log_hides_no_record(path: Path, offset: int) -> None:
    """The manifest knows what the header says."""
    points = stores.make(path)
    stores.flip(path / "LOG", offset)
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, False)
    assert stores.content(report.rows()) == points
    agree(path, report, path.parent / "copy.warm")


def test_without_a_log_the_chunks_show(path: Path) -> None:
    """What was written since the last flush is lost, and that is said."""
    points = stores.make(path)
    (path / "LOG").unlink()
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, False)
    assert "since the last flush" in report.verdict.reason
    shown = stores.content(report.rows())
    assert shown == {key: points[key] for key in points if key[1] != 4 and key != (0, 3, 2)} | {
        key: value for key, value in shown.items() if key == (0, 3, 2)
    }


@pytest.mark.parametrize("how", ["flipped", "absent", "torn"])
def test_without_a_manifest_the_chunks_are_found(path: Path, how: str) -> None:
    """By their zone maps, their dead rows too; with the log nothing is missing."""
    points = stores.make(path)
    manifest = path / "MANIFEST"
    if how == "flipped":
        stores.flip(manifest, 30)
    elif how == "torn":
        manifest.write_bytes(manifest.read_bytes()[:-9])
    else:
        manifest.unlink()
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, False)
    assert report.verdict.reason.startswith("MANIFEST: ")
    assert stores.content(report.rows()) == points
    agree(path, report, path.parent / "copy.warm")


def test_a_manifest_of_another_version_is_not_ours(path: Path) -> None:
    """It is not damaged: another release reads it."""
    stores.make(path)
    line = (path / "MANIFEST").read_bytes().split(b"\n")[0].replace(b'"version":1', b'"version":2')
    line += b"\n"
    (path / "MANIFEST").write_bytes(line + b"crc32 %08x\n" % crc32(line))
    report = look(path)
    assert (report.standing, report.verdict.ending) == (Standing.NOT_OURS, Ending.INVALID)
    assert "version 2" in report.verdict.reason


def test_a_file_of_another_store_counts_for_nothing(path: Path, tmp_path: Path) -> None:
    """A log or a zone map that was copied from elsewhere is refused by its store's id."""
    points = stores.make(path)
    other = tmp_path / "o.warm"
    stores.make(other)
    shutil.copy(other / "LOG", path / "LOG")
    report = look(path)
    assert report.standing is Standing.DAMAGED
    assert "another store" in report.verdict.reason
    assert (0, 4, 7) not in stores.content(report.rows())
    shutil.copy(other / "0000000002.zone", path)
    (path / "MANIFEST").unlink()
    (path / "LOG").unlink()
    report = look(path)
    assert any("zone map of another store" in problem for problem in report.problems)
    shown = stores.content(report.rows())
    assert shown == {key: value for key, value in points.items() if key[1] in (1, 2)}


# --- part of a chunk ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "dimension", "metadata"), [(1, 1, False), (7, 3, True), (1000, 33, True)]
)
def test_columns_lie_where_the_layout_has_them(rows: int, dimension: int, metadata: bool) -> None:
    """The places of an uncompressed chunk's columns are those that pyarrow finds."""
    points = Points(
        np.zeros(rows, np.uint32), np.zeros(rows, np.uint64), np.arange(rows),
        np.ones((rows, dimension), np.float32),
        metadata_array([{"a": "b" * (row % 5)} for row in range(rows)]) if metadata else None,
    )  # fmt: skip
    data = pa.py_buffer(b"".join(warm_chunk.encode(points, "none")))
    batch = warm_chunk.decode(data, dimension, rows).batch
    for name, place in warm_chunk.fixed_spans(dimension, rows).items():
        assert warm_chunk.buffer_span(batch.column(name), data)[0] == place


@pytest.mark.parametrize("block", range(6))
def test_of_a_damaged_chunk_the_intact_blocks_show(path: Path, block: int) -> None:
    """Points that lie in intact blocks only are there, bit for bit; just the others are lost."""
    points = stores.make_large(path)
    [chunk] = path.glob("*.arrow")
    stores.flip(chunk, block * BLOCK_BYTES + 5)
    report = look(path)
    assert report.standing is Standing.DAMAGED
    shown = stores.content(report.rows())
    lost = points.keys() - shown.keys()
    assert shown == {key: points[key] for key in points if key not in lost}
    ordered = sorted(points)
    [zone_file] = path.glob("*.zone")
    zone = zone_map.decode(zone_file.read_bytes())
    identity = warm_chunk.identity(zone.store_id, zone.chunk)
    places = warm_chunk.fixed_spans(32, len(points), identity)
    damaged = range(block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES)
    expected = {
        key
        for row, key in enumerate(ordered)
        for at, width in ((places["timestamp"], 8), (places["vector"], 128))
        if at + row * width < damaged.stop and at + (row + 1) * width > damaged.start
    }
    assert lost == expected
    [problem] = report.problems
    if len(lost) < len(points):
        assert f"{len(lost)} of 40000 points are lost" in problem or not lost
    assert len(shown) > 0


def test_a_chunk_that_was_cut_short_keeps_its_beginning(path: Path) -> None:
    """The points whose blocks are whole are there."""
    points = stores.make_large(path)
    [chunk] = path.glob("*.arrow")
    size = chunk.stat().st_size
    os.truncate(chunk, size - 3 * BLOCK_BYTES)
    report = look(path)
    shown = stores.content(report.rows())
    assert 4_000 < len(shown) < len(points)
    assert all(points[key] == value for key, value in shown.items())
    assert f"{len(points) - len(shown)} of 40000 points are lost" in report.problems[0]


def test_metadata_survive_where_they_are_intact(path: Path) -> None:
    """Damage to vectors leaves the metadata of the others; damage to these leaves the points."""
    points = stores.make_large(path, notes=True)
    [chunk] = path.glob("*.arrow")
    good = chunk.read_bytes()
    stores.flip(chunk, len(good) // 3)  # among the vectors
    shown = stores.content(look(path).rows())
    assert 0 < len(shown) < len(points)
    assert shown == {key: points[key] for key in shown}
    assert any(metadata for _, metadata in shown.values())
    chunk.write_bytes(good)
    stores.flip(chunk, good.rindex(b"0:9999"))
    report = look(path)
    shown = stores.content(report.rows())
    bare: stores.Content = {key: (vector, {}) for key, (vector, _) in points.items()}
    assert shown == {key: bare[key] for key in shown}
    assert "lost their metadata" in report.problems[0]


def test_a_compressed_chunk_is_lost_as_a_whole(path: Path) -> None:
    """Its blocks tell nothing one by one, which is said."""
    actor = stores.opened(path, dimension=32, compression="lz4")
    stores.write(actor, 1, range(3000), dimension=32)
    stores.flush(actor)
    actor.close()
    [chunk] = path.glob("*.arrow")
    stores.flip(chunk, 2000)
    report = look(path)
    assert (report.points, list(report.rows())) == (0, [])
    assert "3000 of 3000 points are lost" in report.problems[0]
    assert "compressed" in report.problems[0]


def test_checksums_that_hold_do_not_make_rows_true(path: Path) -> None:
    """A chunk with other times than its zone map has is lost, though every checksum matches."""
    stores.make_large(path)
    [chunk], [zone_file] = path.glob("*.arrow"), path.glob("*.zone")
    zone = zone_map.decode(zone_file.read_bytes())
    data = bytearray(chunk.read_bytes())
    identity = warm_chunk.identity(zone.store_id, zone.chunk)
    at = warm_chunk.fixed_spans(32, zone.rows, identity)["timestamp"]
    data[at : at + 8] = (77).to_bytes(8, "little")
    chunk.write_bytes(data)
    (path / "MANIFEST").unlink()
    forged = zone_map.ZoneMap(
        zone.dimension, zone.store_id, zone.chunk, zone.run, zone.chunk_bytes, False, False,
        zone.series, zone_map.block_checksums([memoryview(data)]),
    )  # fmt: skip
    zone_file.write_bytes(zone_map.encode(forged))
    assert look(path).points == 0
    stores.flip(chunk, 4 * BLOCK_BYTES)
    report = look(path)
    assert report.points == 0
    assert any("not those of the zone map" in problem for problem in report.problems)


# --- everything that can be wrong ---------------------------------------------------------------


def _cut(data: bytes, place: int) -> bytes:
    return data[:place]


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


@pytest.mark.parametrize("change", [_cut, _flipped])
@pytest.mark.parametrize("suffix", ["MANIFEST", "LOG", ".arrow", ".zone", ".dead"])
def test_no_damage_shows_a_wrong_point(
    path: Path, suffix: str, change: Callable[[bytes, int], bytes]
) -> None:
    """Whatever byte of whatever file is changed or cut off: what shows was written once.

    The report agrees with opening, and nothing but the damaged file's points is missing.
    """
    points = stores.make(path)
    deleted: stores.Content = {(0, 2, 9): (stores.vector_of((0, 2, 9), 0), {})}
    older: stores.Content = {(0, 1, n): (stores.vector_of((0, 1, n), 0), {}) for n in range(5)}
    older[0, 3, 2] = stores.vector_of((0, 3, 2), 0), {"note": "0:2"}
    names = sorted(name for name in path.iterdir() if name.name.endswith(suffix))
    assert names
    for name in names:
        good = name.read_bytes()
        for place in range(0, len(good), max(1, len(good) // 60)):
            name.write_bytes(change(good, place))
            report = look(path)
            shown = stores.content(report.rows())
            for key, value in shown.items():
                assert value in (points.get(key), deleted.get(key), older.get(key)), (name, place)
            assert len(shown) == report.points
            json.dumps(report.fields())
            if place % 5 == 0:
                agree(path, report, path.parent / "copy.warm")
            if suffix == "MANIFEST":
                assert shown == points
        name.write_bytes(good)
    assert look(path).standing is Standing.CLEAN


# --- what is no warm store ----------------------------------------------------------------------


def test_a_directory_of_the_original_is_told_apart() -> None:
    """It is not ours, and the report says how to read it."""
    for name in ("main", "no-manifest", "duplicates"):
        report = examine(ReadOnlyDisk(), str(WARM_DATA / name))
        assert isinstance(report, LogReport)
        assert report.standing is Standing.NOT_OURS
        assert "holdfast import" in report.verdict.reason


def test_a_directory_with_other_files_is_not_ours(path: Path) -> None:
    """Whatever its name: opening refuses it, too."""
    path.mkdir()
    (path / "notes.txt").write_text("hello")
    report = examine(ReadOnlyDisk(), str(path))
    assert report.standing is Standing.NOT_OURS
    with pytest.raises(HoldfastError):
        stores.opened(path, dimension=3)


def test_a_run_whose_chunks_overlap_is_not_believed(path: Path) -> None:
    """Zone maps that put two chunks of the same keys in one run: only one of them counts."""
    points = stores.make(path)
    (path / "MANIFEST").unlink()
    zone_file = path / "0000000003.zone"
    zone = zone_map.decode(zone_file.read_bytes())
    forged = zone_map.ZoneMap(
        zone.dimension, zone.store_id, zone.chunk, 1, zone.chunk_bytes, zone.has_metadata, False,
        zone.series, zone.checksums,
    )  # fmt: skip
    zone_file.write_bytes(zone_map.encode(forged))
    report = look(path)
    assert any("not behind those of chunk 1" in problem for problem in report.problems)
    shown = stores.content(report.rows())
    assert shown == {key: points[key] for key in points if key[1] != 1 or key[2] >= 5}


def test_a_record_that_contradicts_itself_is_passed_over(path: Path) -> None:
    """Its checksum holds, its metadata are none: the others count, and opening refuses."""
    actor = stores.opened(path, dimension=1)
    points = stores.write(actor, 1, range(3), dimension=1)
    actor.close()
    record = warm_log.encode_write(2, 0, bytes(8), bytes(8), bytes(4), b"no table")
    with (path / "LOG").open("ab") as log:
        log.write(b"".join(record))
    report = look(path)
    assert (report.standing, report.opens) == (Standing.DAMAGED, False)
    assert stores.content(report.rows()) == points
    agree(path, report, path.parent / "copy.warm")
