"""Directories of the original's warm tier made by hand: what is reported, refused and read."""

import errno
import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bench.faults import REACHING, Fail, FaultyDisk
from holdfast.formats.errors import InvalidFormat, StoreCorrupt, StoreIOError
from holdfast.workers.chronos import refuse_damage, survey
from holdfast.workers.chronos_points import BATCH_POINTS_MAX, Duplicates, points
from holdfast.workers.chronos_report import ChronosReport
from holdfast.workers.disk import OsDisk
from tests.workers.chronos_files import (
    ROOT,
    Row,
    frame,
    made,
    path_of,
    read,
    surveyed,
    tick,
    times,
)

POINTS = [
    frame(30, 1.0, metadata={"k": "v", "ü": ""}),
    frame(-10, 2.0),
    frame(1_700_000_000_000_000, 3.0, 4.0),
    frame(20, 5.0, metadata={"model": "x"}),
    frame(10, 6.0),
]
WHOLE = b"".join(POINTS)
MANIFEST = msgspec.json.encode(
    {
        "chunks": {
            "1:0": [
                {
                    "filename": "space_0000_chunk_000000.warm",
                    "min_timestamp": -10,
                    "max_timestamp": 1_700_000_000_000_000,
                    "point_count": 5,
                }
            ]
        }
    }
)


def damage(report: ChronosReport) -> StoreCorrupt | None:
    """What a report is refused with, if it is."""
    try:
        refuse_damage(report, ROOT)
    except StoreCorrupt as error:
        return error
    return None


# --- the report --------------------------------------------------------------------------------


def test_report() -> None:
    """A report has what each file holds, in the order of space, entity and chunk number."""
    _, report = surveyed(
        {
            "manifest.json": MANIFEST,
            path_of(): WHOLE,
            path_of(chunk=10): frame(1, float("nan"), 1.0) + frame(2, 1.0),
            path_of(chunk=9): frame(7),
            path_of(0, 3): frame(5, 1.0, entity=0),
            path_of(2, 0): frame(5, 1.0, entity=2),
        }
    )
    assert [file.path for file in report.files] == [
        path_of(),
        path_of(chunk=9),
        path_of(chunk=10),
        path_of(2, 0),
        path_of(0, 3),
    ]
    first, _, third = report.files[:3]
    assert (first.entity, first.space, first.chunk) == (1, 0, 0)
    assert (first.size_bytes, first.frames, first.points) == (len(WHOLE), 5, 5)
    assert (first.first, first.last) == (-10, 1_700_000_000_000_000)
    assert (first.dimensions, first.non_finite) == ({1: 4, 2: 1}, 0)
    assert (third.dimensions, third.non_finite) == ({1: 1, 2: 1}, 1)
    assert report.dimensions == {0: 1, 1: 7, 2: 2}
    assert report.points_of_other_dimensions(1) == 3
    assert not any(file.flaws for file in report.files)
    assert len(report.notes) == 4
    assert all("is not listed" in note for note in report.notes)


def test_flaws() -> None:
    """All kinds of damage in a file are counted, and listed by offset with their reasons."""
    parts = [
        frame(1, 1.0),
        frame(2, 1.0, more=b"\0\0"),
        frame(3, 1.0, entity=300),
        b"\x02\0\0\0\x01\x02",
        bytes(12),
        frame(4, 1.0),
        b"\xff\0\0\0half",
    ]
    _, report = surveyed({path_of(): b"".join(parts)})
    (file,) = report.files
    assert (file.frames, file.points, file.foreign, file.trailing) == (4, 3, 1, 1)
    assert (file.undecodable, file.tail_bytes) == (4, 8)
    assert (file.first, file.last) == (1, 4)
    starts = [sum(map(len, parts[:number])) for number in range(len(parts))]
    assert [(flaw.offset, flaw.reason) for flaw in file.flaws] == [
        (starts[1], "2 bytes behind the point within its frame"),
        (starts[2], "a point about entity 300 in the directory of entity 1"),
        (
            starts[3],
            f"a frame that is no point: the number of floats is cut off, at offset {starts[4]}",
        ),
        (starts[4], "a frame of length zero"),
        (starts[6], "8 bytes that are no whole frame"),
    ]


@pytest.mark.parametrize(
    "flawed", [b"\x01\0\0\0\xff", frame(1, 1.0, entity=2), frame(1, more=b"x")]
)
def test_a_report_stays_small(flawed: bytes) -> None:
    """However many flaws a file has, the first are listed and all are counted."""
    _, report = surveyed({path_of(): POINTS[0] + flawed * 50_000})
    (file,) = report.files
    assert file.undecodable + file.foreign + file.trailing == 50_000
    assert [flaw.offset for flaw in file.flaws] == [
        len(POINTS[0]) + number * len(flawed) for number in range(len(file.flaws))
    ]
    assert 1 < len(file.flaws) < 100


def test_names_that_are_ignored(tmp_path: Path) -> None:
    """Names that are nothing of the original's are reported, in Unicode, and not looked into."""
    inner = tmp_path / "entity_0000000000000001"
    inner.mkdir()
    (tmp_path / "manifest.json").write_bytes(b'{"chunks":{}}')
    (tmp_path / "manifest.json.tmp").write_bytes(b"")
    (tmp_path / "entity_2").write_bytes(b"a file")
    (tmp_path / "notes").mkdir()
    os.symlink("nowhere", tmp_path / "entity_3")
    (inner / "space_0000_chunk_000000.warm").mkdir()
    (inner / "space_0000_chunk_000001.warm.bak").write_bytes(b"x")
    names = ["entity_2", "entity_3", "manifest.json.tmp", "notes"]
    try:
        with open(os.fsencode(tmp_path) + b"/x\xff", "wb"):
            names.append("x\\xff")
    except OSError:  # some file systems have only names in Unicode
        pass
    report = survey(OsDisk(), str(tmp_path), tick)
    assert not report.files
    names += [f"{inner.name}/space_0000_chunk_00000{end}" for end in ("0.warm", "1.warm.bak")]
    assert sorted(report.ignored) == sorted(names)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=ChronosReport) == report


def test_what_is_linked_is_read(tmp_path: Path) -> None:
    """Symbolic links to directories and chunk files are followed, as the original does."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "chunk").write_bytes(WHOLE)
    os.symlink("../elsewhere/chunk", tmp_path / "elsewhere" / "space_0_chunk_0.warm")
    root = tmp_path / "root"
    root.mkdir()
    os.symlink("../elsewhere", root / "entity_1")
    report = survey(OsDisk(), str(root), tick)
    assert [(file.path, file.frames) for file in report.files] == [
        ("entity_1/space_0_chunk_0.warm", 5)
    ]
    (tmp_path / "elsewhere" / "chunk").unlink()
    with pytest.raises(StoreIOError, match=r"space_0_chunk_0\.warm"):
        survey(OsDisk(), str(root), tick)


def test_only_the_first_lines_are_listed(tmp_path: Path) -> None:
    """A directory of a great many other names, or unlisted files, makes no great report."""
    (tmp_path / "manifest.json").write_bytes(b'{"chunks":{}}')
    (tmp_path / path_of()).parent.mkdir()
    for number in range(1100):
        (tmp_path / f"junk{number}").touch()
    for number in range(1200):
        (tmp_path / path_of(chunk=number)).write_bytes(POINTS[0])
    report = survey(OsDisk(), str(tmp_path), tick)
    assert (len(report.ignored), report.ignored_left_out) == (1000, 100)
    assert (len(report.notes), report.notes_left_out) == (1000, 200)


def test_a_directory_of_something_else() -> None:
    """A directory with nothing of the original's is refused, not taken for an empty store."""
    for files in ({}, {"readme": b"x"}, {"entity_1/readme": b"x"}):
        with pytest.raises(InvalidFormat, match=r"neither manifest\.json nor a chunk") as refused:
            surveyed(files)
        assert refused.value.path == ROOT
    _, report = surveyed({"manifest.json": b'{"chunks":{}}'})
    assert not report.files
    assert not report.notes


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("manifest", [MANIFEST, None])
def test_every_cut(manifest: bytes | None) -> None:
    """Every cut is refused where the last whole frame ends; between frames, if a manifest tells.

    Without one, what is left is read.
    """
    ends = [sum(map(len, POINTS[:number])) for number in range(len(POINTS) + 1)]
    files = {} if manifest is None else {"manifest.json": manifest}
    for size in range(len(WHOLE)):
        disk, report = surveyed({**files, path_of(): WHOLE[:size]})
        whole = max(number for number, end in enumerate(ends) if end <= size)
        refused = damage(report)
        if refused is None:
            assert manifest is None
            assert size in ends[1:]
        else:
            assert (refused.offset, refused.path) == (ends[whole], f"{ROOT}/{path_of()}")
        found, _ = read(disk, report, salvage=True)
        kept = [time for time in (30, -10, None, 20, 10)[:whole] if time is not None]
        assert times(found.get((0, 1), [])) == sorted(kept)


def test_every_flipped_bit() -> None:
    """A flipped bit is refused, or changes no more than the one point whose bytes it is in."""
    disk, report = surveyed({"manifest.json": MANIFEST, path_of(): WHOLE})
    right = [row for dimension in (1, 2) for row in read(disk, report, dimension)[0][0, 1]]
    refusals = 0
    for bit in range(8 * len(WHOLE)):
        changed = bytearray(WHOLE)
        changed[bit // 8] ^= 1 << bit % 8
        disk, report = surveyed({"manifest.json": MANIFEST, path_of(): bytes(changed)})
        found: list[Row] = []
        for dimension in report.dimensions.keys() - {0}:
            found += read(disk, report, dimension, salvage=True)[0].get((0, 1), [])
        refused = damage(report)
        if refused is None:
            assert len([row for row in right if row not in found]) <= 1
            assert len([row for row in found if row not in right]) <= 1
        else:
            refusals += 1
            assert refused.path == f"{ROOT}/{path_of()}"
            assert refused.offset is not None
            assert 0 <= refused.offset <= bit // 8
    # Of a length or an entity no bit can change unseen, and these are 40 bits of every frame.
    assert refusals >= 40 * len(POINTS)


def test_every_change_to_the_manifest() -> None:
    """Whatever the manifest says, the points are those of the files, or too few for it."""
    disk, report = surveyed({"manifest.json": MANIFEST, path_of(): WHOLE})
    right = read(disk, report)
    for bit in range(8 * len(MANIFEST)):
        changed = bytearray(MANIFEST)
        changed[bit // 8] ^= 1 << bit % 8
        disk, report = surveyed({"manifest.json": bytes(changed), path_of(): WHOLE})
        assert read(disk, report, salvage=True) == right
        refused = damage(report)
        assert refused is None or "points, and it ends after 5" in str(refused.reason)
        assert report.notes


def test_a_missing_file_is_noted() -> None:
    """A file that only the manifest knows of was removed on purpose, and hinders nothing."""
    _, report = surveyed({"manifest.json": MANIFEST, path_of(2): frame(1, 1.0, entity=2)})
    assert "which has no such file" in report.notes[0]
    assert damage(report) is None


def test_points_of_another_entity_stay_out() -> None:
    """A salvage takes no point that names another entity than its directory."""
    files = {path_of(): frame(1, 1.0) + frame(2, 2.0, entity=2) + frame(3, 3.0)}
    disk, report = surveyed(files)
    with pytest.raises(StoreCorrupt, match="about entity 2 in the directory of entity 1"):
        points(disk, ROOT, report, "last", False, 1, tick)
    found, _ = read(disk, report, salvage=True)
    assert {series: times(rows) for series, rows in found.items()} == {(0, 1): [1, 3]}


# --- the points --------------------------------------------------------------------------------

WRITES = st.lists(
    st.tuples(
        st.integers(0, 1),  # space
        st.integers(0, 2),  # entity
        st.integers(0, 11),  # chunk
        st.integers(-4, 4),  # timestamp
        st.integers(0, 2),  # dimension
        st.booleans(),  # metadata
    ),
    max_size=60,
)


@given(WRITES, st.sampled_from(["first", "last"]))
def test_against_a_dictionary(
    writes: list[tuple[int, int, int, int, int, bool]], duplicates: Duplicates
) -> None:
    """Points come as a dictionary has them that is filled in the order of chunks and positions."""
    files: dict[str, bytes] = {"manifest.json": b'{"chunks":{}}'}
    model: dict[int, dict[tuple[int, int], dict[int, Row]]] = {1: {}, 2: {}}
    met = {1: 0, 2: 0}
    order = sorted(enumerate(writes), key=lambda item: (item[1][2], item[0]))
    for number, (space, entity, chunk, timestamp, dimension, described) in order:
        floats = [float(number)] * dimension
        metadata = {"n": str(number)} if described else {}
        path = path_of(entity, space, chunk)
        added = frame(timestamp, *floats, entity=entity, metadata=metadata)
        files[path] = files.get(path, b"") + added
        if dimension:
            met[dimension] += 1
            series = model[dimension].setdefault((space, entity), {})
            row = Row(timestamp, np.array(floats, "<f4").tobytes(), metadata)
            if duplicates == "last" or timestamp not in series:
                series[timestamp] = row
    disk, report = surveyed(files)
    for dimension, expected in model.items():
        found, dropped = read(disk, report, dimension, duplicates=duplicates)
        assert found == {
            series: [rows[time] for time in sorted(rows)] for series, rows in expected.items()
        }
        assert dropped == met[dimension] - sum(map(len, found.values()))


def test_two_directories_of_one_entity() -> None:
    """Names that differ only in their padding are one series, in the order of chunk and path."""
    disk, report = surveyed(
        {
            "entity_1/space_0_chunk_0.warm": frame(1, 1.0) + frame(2, 1.0),
            "entity_01/space_00_chunk_1.warm": frame(2, 2.0),
            "entity_01/space_0_chunk_0.warm": frame(1, 3.0),
        }
    )
    found, dropped = read(disk, report)
    values = [np.frombuffer(row.vector, "<f4").item() for row in found[0, 1]]
    assert (values, dropped) == ([1.0, 2.0], 2)


@pytest.mark.parametrize("dimension", [1, 20_000])
def test_large_series(dimension: int) -> None:
    """A series of many points and more files than are mapped at once comes in bounded batches."""
    count = 3 * BATCH_POINTS_MAX // 2 if dimension == 1 else 450
    shuffled = np.random.default_rng(3).permutation(count)
    vector = np.zeros(dimension, np.float32)
    files: dict[str, list[bytes]] = {}
    for number in shuffled.tolist():
        vector[0] = number
        files.setdefault(path_of(chunk=number % 23), []).append(frame(number, *vector.tolist()))
    disk, report = surveyed({path: b"".join(frames) for path, frames in files.items()})
    batches = list(points(disk, ROOT, report, "last", False, dimension, tick))
    assert len(batches) > 1
    assert all(len(batch.timestamps) <= BATCH_POINTS_MAX for batch in batches)
    assert all(batch.vectors.nbytes <= 32 << 20 for batch in batches)
    stamps = np.concatenate([batch.timestamps for batch in batches])
    assert np.array_equal(stamps, np.arange(count))
    values = np.concatenate([batch.vectors[:, 0] for batch in batches])
    assert np.array_equal(values, np.arange(count))
    assert all(batch.metadata is None for batch in batches)


@pytest.mark.parametrize("duplicates", ["first", "last"])
def test_many_duplicates(duplicates: Duplicates) -> None:
    """Of many points with the same time it is the very first or last that counts."""
    order = np.random.default_rng(4).integers(0, 3, 5000).tolist()
    content = b"".join(frame(time, float(number)) for number, time in enumerate(order))
    disk, report = surveyed({path_of(): content})
    found, dropped = read(disk, report, duplicates=duplicates)
    values = [np.frombuffer(row.vector, "<f4").item() for row in found[0, 1]]
    places = [[number for number, at in enumerate(order) if at == time] for time in range(3)]
    assert values == [place[0 if duplicates == "first" else -1] for place in places]
    assert dropped == 5000 - 3


# --- what the world may do meanwhile -----------------------------------------------------------


def test_nothing_is_written() -> None:
    """The directory is only looked at: no call but those that read."""
    disk = FaultyDisk(made({"manifest.json": MANIFEST, path_of(): WHOLE}))
    read(disk, survey(disk, ROOT, tick))
    assert {call.name for call in disk.calls} == {
        "list", "open", "size", "map", "read_at", "close",
    }  # fmt: skip


def test_every_failing_call() -> None:
    """A file or directory that cannot be read is a typed error with its path; a manifest a note."""
    files = {"manifest.json": MANIFEST, path_of(): WHOLE, path_of(2): frame(1, 1.0, entity=2)}
    inner = made(files)
    whole = FaultyDisk(inner)
    report = survey(whole, ROOT, tick)
    right = read(whole, report)
    failing = [(number, call) for number, call in enumerate(whole.calls) if call.name in REACHING]
    for number, call in failing:
        disk = FaultyDisk(inner, Fail(number, errno.EIO))
        if call.path.endswith("manifest.json"):
            noted = survey(disk, ROOT, tick)
            assert [note.split(":")[0] for note in noted.notes] == ["manifest.json cannot be read"]
            assert noted.files == report.files
            assert read(disk, noted) == right
        else:
            with pytest.raises(StoreIOError) as failed:
                read(disk, survey(disk, ROOT, tick))
            assert (failed.value.path, failed.value.errno) == (call.path, errno.EIO)
        assert disk.struck == 1


@pytest.mark.parametrize(
    "now", [WHOLE[:-3], WHOLE + POINTS[0], WHOLE + b"\0", b"", b"\xff" + WHOLE[1:]]
)
def test_files_that_change_after_the_survey(now: bytes) -> None:
    """A file that is not what was surveyed any more is refused, even when salvaging."""
    _, report = surveyed({path_of(): WHOLE})
    with pytest.raises(StoreCorrupt, match="it changed while it was being read") as refused:
        read(made({path_of(): now}), report, salvage=True)
    assert refused.value.path == f"{ROOT}/{path_of()}"


def test_a_file_that_goes_after_the_survey() -> None:
    """A file that is not there any more is an error with its path."""
    disk, report = surveyed({path_of(): WHOLE})
    disk.remove(f"{ROOT}/{path_of()}")
    with pytest.raises(StoreIOError) as failed:
        read(disk, report)
    assert failed.value.path == f"{ROOT}/{path_of()}"


def test_a_file_that_changes_between_batches() -> None:
    """Metadata that cannot be decoded any more is refused as well."""
    content = b"".join(frame(number, 1.0) for number in range(BATCH_POINTS_MAX))
    content += frame(BATCH_POINTS_MAX, 1.0, metadata={"key": "value"})
    disk, report = surveyed({path_of(): content})
    batches = points(disk, ROOT, report, "last", False, 1, tick)
    assert next(batches).metadata is None
    file = disk.open(f"{ROOT}/{path_of()}", write=True)
    file.write_at(len(content) - 1, b"\xff")
    file.close()
    with pytest.raises(StoreCorrupt, match="it changed while it was being read"):
        next(batches)


def test_progress() -> None:
    """Both passes tell of progress block by block, so a great file is no silence."""
    ticks = 0

    def count() -> None:
        nonlocal ticks
        ticks += 1

    disk = made({path_of(): b"".join(frame(number, 1.0) for number in range(40_000))})
    report = survey(disk, ROOT, count)
    assert ticks >= 4
    ticks = 0
    assert sum(1 for _ in points(disk, ROOT, report, "last", False, 1, count)) == 3
    assert ticks >= 6
