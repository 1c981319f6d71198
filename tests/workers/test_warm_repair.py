"""Repairing warm stores: what is intact survives, what is lost is named, the source stays."""

import contextlib
import errno
import itertools
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from holdfast.bench.faults import Crash, Fail, FaultyDisk, Kill
from holdfast.bench.memory_disk import MemoryDisk
from holdfast.bench.power_loss import Sampled
from holdfast.formats import warm_manifest
from holdfast.formats.checksum import crc32
from holdfast.formats.errors import (
    HoldfastError,
    InvalidArgument,
    InvalidFormat,
    StoreExists,
    StoreFull,
    StoreLocked,
)
from holdfast.formats.warm_terms import Compression
from holdfast.formats.zone_map import BLOCK_BYTES
from holdfast.workers import warm_messages as wm
from holdfast.workers.actor import Caller
from holdfast.workers.disk import OsDisk
from holdfast.workers.inspection import examine
from holdfast.workers.repair import Repaired, repair
from holdfast.workers.standing import Standing
from holdfast.workers.warm_inspection import WarmReport
from tests.workers import warm_stores as stores

DATA = Path(__file__).resolve().parent.parent / "data"

Files = dict[str, bytes]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's store is."""
    return tmp_path / "s.warm"


def look(path: Path | str) -> WarmReport:
    """The report on a store."""
    report = examine(OsDisk(), str(path))
    assert isinstance(report, WarmReport)
    return report


def content_of(path: Path | str) -> stores.Content:
    """The points of a store that is as it should be."""
    report = look(path)
    assert (report.standing, report.problems) == (Standing.CLEAN, [])
    return stores.content(report.rows())


def files_in(path: Path) -> Files:
    """Every file of a directory."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


def place(path: Path, files: Files) -> None:
    """Make a directory of these files."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)


def repaired(path: Path, *, salvage: bool = False) -> tuple[Repaired, stores.Content]:
    """What a repair says, and what it wrote; the source is as it was."""
    before = files_in(path)
    done = repair(OsDisk(), str(path), salvage=salvage)
    assert files_in(path) == before
    assert done.output == f"{path}.repaired"
    found = content_of(done.output)
    assert len(found) == done.rows
    shutil.rmtree(done.output)
    assert not list(path.parent.glob("*.tmp"))
    return done, found


# --- what is intact -----------------------------------------------------------------------------


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_a_whole_store_is_written_anew(path: Path, compression: Compression, salvage: bool) -> None:
    """The same points without what is dead, in one chunk, under another id; nothing is lost."""
    points = stores.make(path, compression)
    done = repair(OsDisk(), str(path), salvage=salvage)
    assert (done.rows, done.salvaged_rows, done.lost, done.notes) == (len(points), 0, [], [])
    assert content_of(done.output) == points
    old, new = look(path).fields(), look(done.output).fields()
    assert (new["dimension"], new["compression"]) == (old["dimension"], compression)
    chunks = new["chunks"]
    assert isinstance(chunks, list)
    [chunk] = chunks
    assert (chunk["rows"], chunk["live"]) == (len(points), len(points))
    ids = [
        warm_manifest.decode((Path(place) / "MANIFEST").read_bytes()).store_id
        for place in (path, done.output)
    ]
    assert ids[0] != ids[1]


def test_an_empty_store_is_written_anew(path: Path) -> None:
    """It has a dimension, and that is kept."""
    stores.opened(path, dimension=7).close()
    done = repair(OsDisk(), str(path))
    assert (done.rows, look(done.output).fields()["dimension"]) == (0, 7)
    stores.opened(Path(done.output)).close()


def test_a_repaired_store_serves(path: Path) -> None:
    """It opens, and takes writes, deletes, flushes and compactions."""
    points = stores.make(path)
    output = Path(repair(OsDisk(), str(path)).output)
    actor = stores.opened(output)
    points |= stores.write(actor, 9, range(200), 3)
    points |= stores.write(actor, 1, [3], 4)
    stores.delete(actor, 2, [0])
    del points[0, 2, 0]
    stores.flush(actor)
    points |= stores.write(actor, 9, [5], 5)
    stores.ask(actor, wm.WarmCompact())
    actor.check_invariants()
    actor.close()
    assert content_of(output) == points


def test_a_large_store_is_cut_into_chunks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks end where they are full, and belong to one run, in order of key."""
    points = stores.make_large(path)
    monkeypatch.setattr("holdfast.workers.warm_repair.chunk_rows_max", lambda *_: 9_001)
    done = repair(OsDisk(), str(path))
    assert content_of(done.output) == points
    chunks = look(done.output).fields()["chunks"]
    assert isinstance(chunks, list)
    assert [chunk["rows"] for chunk in chunks] == [9_001] * 4 + [3_996]
    assert {chunk["run"] for chunk in chunks} == {1}


# --- what is lost -------------------------------------------------------------------------------


def test_a_damaged_chunk_costs_its_own_points(path: Path) -> None:
    """Which ones is said: file, offset, how many, times; old values do not come back."""
    points = stores.make(path)
    stores.flip(path / "0000000003.arrow", 700)
    done, found = repaired(path)
    assert found == {key: v for key, v in points.items() if not (key[1] == 1 and key[2] < 5)}
    [flaw] = done.lost
    assert (flaw.file, flaw.offset, flaw.rows) == ("0000000003.arrow", 0, 5)
    assert "5 of 5 points are lost, of space 0 and entity 1" in flaw.reason
    assert "between the times 0 and 4" in flaw.reason
    assert done.fields()["lost"] == [flaw._asdict()]


def test_of_a_damaged_chunk_intact_blocks_survive(path: Path) -> None:
    """Just the points in the damaged block are lost; deletes and the log count as ever."""
    points = stores.make_large(path)
    actor = stores.opened(path)
    stores.delete(actor, 2, range(0, 10_000, 3))
    for time in range(0, 10_000, 3):
        del points[0, 2, time]
    points |= stores.write(actor, 1, [5, 7], 8, dimension=32)
    stores.flush(actor)
    stores.delete(actor, 4, range(100))
    for time in range(100):
        del points[0, 4, time]
    actor.close()
    block = (min(path.glob("*.arrow")).stat().st_size // 2) // BLOCK_BYTES
    stores.flip(min(path.glob("*.arrow")), block * BLOCK_BYTES + 17)
    done, found = repaired(path)
    lost = points.keys() - found.keys()
    assert 0 < len(lost) <= BLOCK_BYTES // 128 + 1
    assert found == {key: points[key] for key in points if key not in lost}
    [flaw] = done.lost
    assert (flaw.offset, flaw.rows) == (block * BLOCK_BYTES, len(lost))


def test_intact_records_behind_damage_of_the_log_survive(path: Path) -> None:
    """Each is a change that was promised; the lost one is named with its points."""
    actor = stores.opened(path, dimension=stores.DIMENSION)
    points = stores.write(actor, 1, range(5))
    stores.write(actor, 2, range(6), 9)
    points |= stores.write(actor, 3, range(7))
    stores.delete(actor, 1, [0])
    del points[0, 1, 0]
    actor.close()
    data = (path / "LOG").read_bytes()
    second = data.index(b"WREC", data.index(b"WREC") + 1) - 4
    stores.flip(path / "LOG", second + 100)
    done, found = repaired(path)
    assert found == points
    assert (done.lost[0].file, done.lost[0].offset, done.lost[0].rows) == ("LOG", second, 6)


def test_a_torn_tail_is_no_loss(path: Path) -> None:
    """Nobody was told that it was written."""
    actor = stores.opened(path, dimension=stores.DIMENSION)
    points = stores.write(actor, 1, range(5))
    stores.write(actor, 2, range(5))
    actor.close()
    data = (path / "LOG").read_bytes()
    (path / "LOG").write_bytes(data[:-20])
    done, found = repaired(path)
    assert (done.lost, found) == ([], points)


def test_a_store_that_is_lost_as_a_whole_is_refused(path: Path) -> None:
    """Nothing tells of what it was: no store is made of that."""
    stores.make(path)
    for name in path.iterdir():
        if name.suffix == ".zone" or name.name in ("MANIFEST", "LOG"):
            stores.flip(name, 12)
    with pytest.raises(InvalidFormat, match="neither manifest, log nor zone map"):
        repair(OsDisk(), str(path))
    assert not list(path.parent.glob("*.repaired*"))


def test_other_versions_and_dropped_stores_are_refused(path: Path) -> None:
    """Neither is damaged."""
    stores.make(path)
    good = (path / "MANIFEST").read_bytes()
    line = good.split(b"\n")[0].replace(b'"version":1', b'"version":3') + b"\n"
    (path / "MANIFEST").write_bytes(line + b"crc32 %08x\n" % crc32(line))
    with pytest.raises(InvalidFormat, match="version 3"):
        repair(OsDisk(), str(path))
    line = good.split(b"\n")[0].replace(b'"dropped":false', b'"dropped":true') + b"\n"
    (path / "MANIFEST").write_bytes(line + b"crc32 %08x\n" % crc32(line))
    with pytest.raises(InvalidFormat, match="dropped"):
        repair(OsDisk(), str(path))


# --- without a manifest -------------------------------------------------------------------------


def steps(seed: int, path: Path) -> Iterator[tuple[Files, Files, stores.Content]]:
    """Random writes, deletes, flushes and compactions of a store.

    Yields its files before and after each flush or compaction, and its points.
    """
    chance = random.Random(seed)
    actor = stores.opened(path, dimension=stores.DIMENSION)
    points: stores.Content = {}
    for version in range(1, 60):
        entity, start = chance.randrange(4), chance.randrange(50)
        times = list(range(start, start + chance.choice([1, 5, 80])))
        if chance.random() < 0.3:
            stores.delete(actor, entity, times)
            points = {k: v for k, v in points.items() if k[1] != entity or k[2] not in times}
        else:
            points |= stores.write(actor, entity, times, version)
        if chance.random() < 0.4:
            for request in (wm.WarmFlush(), wm.WarmCompact())[: chance.choice([1, 1, 2])]:
                before = files_in(path)
                stores.ask(actor, request)
                yield before, files_in(path), dict(points)
    actor.abandon()


@pytest.mark.parametrize("seed", range(4))
def test_without_a_manifest_nothing_is_lost_and_nothing_comes_back(path: Path, seed: int) -> None:
    """Whatever crash left the files: those before and after a flush or merge, and either log."""
    tested = 0
    for before, after, points in steps(seed, path):
        for log in (before["LOG"], after["LOG"]):
            place(path.parent / "r.warm", {**before, **after, "LOG": log})
            (path.parent / "r.warm" / "MANIFEST").unlink()
            done, found = repaired(path.parent / "r.warm")
            assert found == points
            assert done.lost == []
            assert done.notes[0].startswith("there was no manifest")
            tested += 1
    assert tested > 20


@pytest.mark.parametrize("seed", range(3))
def test_without_a_manifest_unfinished_merges_change_nothing(path: Path, seed: int) -> None:
    """A merge that was cut off half-way, with writes meanwhile: newer runs and the log decide."""
    chance = random.Random(seed)
    actor = stores.opened(path, dimension=512)
    points: stores.Content = {}
    for version in range(1, 4):
        for entity in range(3):
            times = range(chance.randrange(500), 900 + chance.randrange(500))
            points |= stores.write(actor, entity, times, version, dimension=512)
        stores.flush(actor)
    merge = actor.handle(wm.WarmCompact(), Caller(7, 0))
    tested = 0
    for number, _ in enumerate(merge):  # type: ignore[arg-type]
        points |= stores.write(actor, 1, range(number * 7, number * 7 + 9), 99, dimension=512)
        stores.delete(actor, 2, [number * 3])
        points.pop((0, 2, number * 3), None)
        files = files_in(path)
        if len([name for name in files if name.endswith(".arrow")]) > 3:
            del files["MANIFEST"]
            place(path.parent / "r.warm", files)
            _, found = repaired(path.parent / "r.warm")
            assert found == points
            tested += 1
    assert tested
    actor.abandon()


def test_a_damaged_manifest_is_named_and_dispensable(path: Path) -> None:
    """It is what is lost, and nothing else is."""
    points = stores.make(path)
    stores.flip(path / "MANIFEST", 100)
    done, found = repaired(path)
    assert found == points
    assert [flaw.file for flaw in done.lost] == ["MANIFEST"]


def test_zone_maps_alone_are_enough(path: Path) -> None:
    """Without manifest and log the chunks are there; what was only in the log is not."""
    points = stores.make(path, "zstd")
    (path / "MANIFEST").unlink()
    (path / "LOG").unlink()
    done, found = repaired(path)
    points = {key: value for key, value in points.items() if key[1] != 4}
    points[0, 3, 2] = stores.vector_of((0, 3, 2), 0), {"note": "0:2"}
    assert found == points
    assert [flaw.file for flaw in done.lost] == ["LOG"]
    assert any("zstd is assumed" in note for note in done.notes)


# --- what no manifest lists ---------------------------------------------------------------------


def test_salvaging_takes_what_was_lost_elsewhere(path: Path) -> None:
    """From the chunks that a damaged one was merged from, while they are there."""
    points = stores.make(path)
    before = files_in(path)
    actor = stores.opened(path)
    stores.ask(actor, wm.WarmCompact())
    actor.close()
    place(path, {**before, **files_in(path)})
    [merged] = warm_manifest.decode((path / "MANIFEST").read_bytes()).chunks
    stores.flip(path / f"{merged.number:010d}.arrow", 900)
    done, found = repaired(path)
    assert (found, done.salvaged_rows) == ({}, 0)
    done, found = repaired(path, salvage=True)
    stale = {(0, 3, 2)}
    assert found.keys() == {key for key in points if key[1] != 4}
    assert all(found[key] == points[key] for key in found if key not in stale)
    assert done.salvaged_rows == len(found)
    assert done.lost[0].rows == len(points)


def test_salvaging_a_whole_store_takes_nothing(path: Path) -> None:
    """Leftovers say nothing that what is listed does not know better."""
    actor = stores.opened(path, dimension=stores.DIMENSION)
    stores.write(actor, 1, range(50))
    stores.flush(actor)
    before = files_in(path)
    points = stores.write(actor, 1, range(50), 1)
    stores.delete(actor, 1, range(10))
    points = {key: value for key, value in points.items() if key[2] >= 10}
    stores.ask(actor, wm.WarmCompact())
    actor.close()
    place(path, {**before, **files_in(path)})
    done, found = repaired(path, salvage=True)
    assert (found, done.salvaged_rows, done.lost) == (points, 0, [])


def test_salvaging_takes_from_an_unfinished_flush_what_a_lost_log_had(path: Path) -> None:
    """The chunks of the flush are whole, though no manifest was written to list them."""
    actor = stores.opened(path, dimension=stores.DIMENSION)
    points = stores.write(actor, 1, range(500))
    manifest = (path / "MANIFEST").read_bytes()
    stores.flush(actor)
    actor.close()
    (path / "MANIFEST").write_bytes(manifest)
    (path / "LOG").unlink()
    done, found = repaired(path)
    assert (found, [flaw.file for flaw in done.lost]) == ({}, ["LOG"])
    done, found = repaired(path, salvage=True)
    assert (found, done.salvaged_rows) == (points, 500)


def test_salvaging_looks_only_where_something_was_lost(path: Path) -> None:
    """Of a leftover those points are taken whose series and time the damaged chunk had."""
    actor = stores.opened(path, dimension=stores.DIMENSION)
    stores.write(actor, 1, range(50))
    stores.write(actor, 2, range(50))
    stores.flush(actor)
    before = files_in(path)
    stores.delete(actor, 1, range(50))
    stores.delete(actor, 2, range(40, 50))
    stores.write(actor, 3, [20])  # so that there is something to be flushed, with the log
    stores.ask(actor, wm.WarmCompact())
    actor.close()
    place(path, {**before, **files_in(path)})
    [merged] = warm_manifest.decode((path / "MANIFEST").read_bytes()).chunks
    for suffix in (".arrow", ".zone"):
        good = (path / f"{merged.number:010d}{suffix}").read_bytes()
        stores.flip(path / f"{merged.number:010d}{suffix}", 90)
        _, found = repaired(path, salvage=True)
        expected = {(0, 2, time) for time in range(40)}
        if suffix == ".zone":  # only the times are known
            expected |= {(0, 1, time) for time in range(40)}
        assert found.keys() == expected
        (path / f"{merged.number:010d}{suffix}").write_bytes(good)


# --- where it goes ------------------------------------------------------------------------------


def test_in_place_the_old_store_is_kept(path: Path) -> None:
    """Whole, under another name; the new one has its permissions and serves."""
    points = stores.make(path)
    stores.flip(path / "0000000002.arrow", 50)
    path.chmod(0o750)
    before = files_in(path)
    done = repair(OsDisk(), str(path), in_place=True)
    assert (done.output, done.kept) == (str(path), f"{path}.damaged")
    assert files_in(Path(f"{path}.damaged")) == before
    assert path.stat().st_mode & 0o777 == 0o750
    assert sorted(name.name for name in path.parent.iterdir()) == ["s.warm", "s.warm.damaged"]
    kept = {key: value for key, value in points.items() if key[1] != 3 or key[2] == 2}
    assert content_of(path) == kept
    stores.opened(path).close()
    with pytest.raises(StoreExists):
        repair(OsDisk(), str(path), in_place=True)


def test_a_store_in_use_is_not_replaced(path: Path) -> None:
    """Though it can be written anew beside."""
    points = stores.make(path)
    actor = stores.opened(path)
    with pytest.raises(StoreLocked):
        repair(OsDisk(), str(path), in_place=True)
    assert repair(OsDisk(), str(path)).rows == len(points)
    stores.write(actor, 99, [1])
    actor.close()


def test_nothing_is_overwritten(path: Path, tmp_path: Path) -> None:
    """A file that is there, the source itself; and what is no store is none of its business."""
    stores.make(path)
    (tmp_path / "s.warm.repaired").write_text("mine")
    for output in (None, str(path), str(tmp_path)):
        with pytest.raises(StoreExists):
            repair(OsDisk(), str(path), output)
    assert (tmp_path / "s.warm.repaired").read_text() == "mine"
    for other in (tmp_path, DATA / "warm" / "main"):
        with pytest.raises(InvalidArgument, match="no store"):
            repair(OsDisk(), str(other))


def test_what_an_interrupted_repair_left_is_replaced(path: Path) -> None:
    """A temporary directory holds nothing that counts."""
    points = stores.make(path)
    temporary = Path(f"{path}.repaired.tmp")
    temporary.mkdir()
    (temporary / "0000000001.arrow").write_bytes(b"half")
    _, found = repaired(path)
    assert found == points


PLACE = "/data/s.warm"


def on_memory(files: Files) -> MemoryDisk:
    """A disk that has a store, and has had it for long."""
    disk = MemoryDisk("/data")
    disk.make_directory(PLACE)
    for name, data in files.items():
        disk.place(f"{PLACE}/{name}", data)
    disk.sync_directory("/data")
    return disk


def store_on(disk: MemoryDisk, path: str) -> Files | None:
    """The files of a directory, if it is there."""
    if disk.inode_at(path) is None:
        return None
    found = {name: disk.content(f"{path}/{name}") for name, _ in disk.list(path)}
    return {name: data for name, data in found.items() if data is not None and name != "OWNER"}


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_failing_disk_or_a_crash_loses_nothing(path: Path, in_place: bool) -> None:
    """Whichever call is the last: the old store is there, and the new one is whole or is not."""
    points = stores.make(path)
    stores.flip(path / "0000000003.arrow", 700)
    kept = {key: v for key, v in points.items() if not (key[1] == 1 and key[2] < 5)}
    source = files_in(path)
    counting = FaultyDisk(on_memory(source))
    repair(counting, PLACE, in_place=in_place)
    made = PLACE if in_place else f"{PLACE}.repaired"
    outcomes = set()
    for number in range(len(counting.calls)):
        for fault in (Fail(number, errno.EIO), Kill(number), Kill(number, after=True)):
            disk = on_memory(source)
            with contextlib.suppress(HoldfastError, Crash):
                repair(FaultyDisk(disk, fault), PLACE, in_place=in_place)
            for left in (disk.crash(), disk.power_loss(Sampled(number))):
                olds = [p for p in (PLACE, f"{PLACE}.damaged") if store_on(left, p) == source]
                assert olds, (number, fault)
                assert olds[0] == PLACE or in_place
                new = made
                if in_place and store_on(left, PLACE) is None:  # between the two renames
                    new = f"{PLACE}.tmp"
                outcome = store_on(left, new)
                outcomes.add((olds[0], outcome is not None and outcome != source))
                if outcome is not None and outcome != source:
                    report = examine(left, new)
                    assert isinstance(report, WarmReport)
                    assert report.standing is Standing.CLEAN
                    assert stores.content(report.rows()) == kept
    assert len(outcomes) == 2


def test_a_failure_leaves_no_leftovers(path: Path) -> None:
    """A full disk: one error, and no temporary directory."""
    stores.make(path)
    source = files_in(path)
    counting = FaultyDisk(on_memory(source))
    repair(counting, PLACE)
    for call in counting.calls:
        if call.name in ("append", "write_at", "sync", "make_directory"):
            disk = on_memory(source)
            with pytest.raises(StoreFull):
                repair(FaultyDisk(disk, Fail(call.number, errno.ENOSPC)), PLACE)
            assert [name for name, _ in disk.list("/data")] == ["s.warm"]


# --- everything that can be wrong ---------------------------------------------------------------


def _cut(data: bytes, place: int) -> bytes:
    return data[:place]


def _flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ (1 << place % 8)]) + data[place + 1 :]


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("change", [_cut, _flipped])
def test_whatever_is_damaged_the_rest_survives(
    path: Path, change: Callable[[bytes, int], bytes], salvage: bool
) -> None:
    """A repair writes what inspection shows, in a store that is clean, or refuses with a reason."""
    points = stores.make(path)
    for name in sorted(path.iterdir()):
        good = name.read_bytes()
        for offset in itertools.islice(itertools.count(3, max(1, len(good) // 12)), 12):
            if offset >= len(good):
                break
            name.write_bytes(change(good, offset))
            shown = stores.content(look(path).rows())
            done, found = repaired(path, salvage=salvage)
            assert found == shown
            harmless = look(path).standing in (Standing.CLEAN, Standing.RECOVERABLE)
            assert harmless == (not done.lost)
            missing = len(points) - len(found.keys() & points.keys())
            assert missing <= 20
        name.write_bytes(good)
