"""The demonstration: it follows, resumes, survives, and notices when a promise is broken."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import holdfast
from holdfast import Cursor, Delete, Put, demo, following, storm
from holdfast.demo import Report
from holdfast.following import Follower, list_files
from holdfast.formats.limits import VALUE_BYTES_MAX
from holdfast.storm import Storm

HOUR_NS = 3600 * 10**9


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for temporary files, with a path as short as those usually have."""
    with tempfile.TemporaryDirectory(prefix="hf-") as path:
        yield Path(path)


def make_files(directory: Path, count: int = 50) -> None:
    """A directory of small files in folders."""
    for number in range(count):
        folder = directory / f"folder{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:02}.txt").write_bytes(b"content %d " % number * 20)


def run_demo(directory: Path, scratch: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Run the demonstration as a program; exit code and JSON object."""
    done = subprocess.run(
        [sys.executable, "-m", "holdfast", "demo", str(directory), "--json", *options],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(scratch)},
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


def tick(_: int) -> None:
    """Nobody watches the progress."""


def set_time(path: Path, time_ns: int) -> None:
    """Give a file a modification time."""
    os.utime(path, ns=(time_ns, time_ns))


def test_a_small_run_keeps_every_promise(tmp_path: Path, scratch: Path) -> None:
    """Fifty files: every promise kept, figures present, nothing left, the files untouched."""
    files = tmp_path / "files"
    make_files(files)
    before = {path: path.lstat().st_mtime_ns for path in files.rglob("*")}
    code, report = run_demo(files, scratch)
    assert (code, report["ok"], report["kept_in"]) == (0, True, None)
    assert all(report["promises"].values())
    size = sum(path.stat().st_size for path in files.rglob("*.txt"))
    assert (report["follow"]["files"], report["follow"]["bytes"]) == (50, size)
    assert report["resume"]["applied"] == 0
    assert report["lookups"]["entries"] == 50
    assert report["artifact"]["entries"] == 50
    schemas = report["schemas"]
    assert (schemas["files"], schemas["right"]) == (50, True)
    modes = (schemas["exact"], schemas["near"], schemas["far"])
    assert modes == ("WarmLoad", "WarmStart", "ColdStart")
    assert 0 < schemas["near_distance"] <= 0.25
    assert schemas["processes"] > 0
    figures = report["storm"]
    assert (figures["calls_failed"], figures["acknowledged_writes_lost"]) == (0, 0)
    assert figures["calls_made"] > figures["acknowledged_writes"] > 0
    for role in ("worker", "supervisor"):
        kills = figures[f"{role}_kills"]
        assert 0 < kills["first_reply_ms_median"] <= kills["first_reply_ms_max"]
        assert kills["count"] >= 4
    assert {path: path.lstat().st_mtime_ns for path in files.rglob("*")} == before
    assert list(scratch.iterdir()) == []


def test_an_empty_directory_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nothing to follow the promises still hold, and ``--keep`` says where the stores are."""
    monkeypatch.setattr(demo, "ROUNDS", ("worker",))
    (tmp_path / "files").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    report = demo.run(str(tmp_path / "files"), keep=True, quiet=True)
    assert report.ok
    assert report.kept_in is not None
    assert (Path(report.kept_in) / "stores" / "files.snap").exists()
    report.show()
    out = capsys.readouterr().out
    assert f"kept in {report.kept_in}" in out
    assert "acknowledged writes lost" in out


def test_a_broken_promise_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """One promise that was not kept makes the whole report not ok."""
    report = Report("files", None, promises={"this holds": True, "no call fails": False})
    report.show()
    assert not report.ok
    assert report.fields()["ok"] is False
    assert "BROKEN: no call fails" in capsys.readouterr().out


# --- following ---------------------------------------------------------------------------------


def test_only_what_changed_is_applied_again(tmp_path: Path) -> None:
    """Changed, new and removed files are applied; files with the same time as the last are not."""
    files = tmp_path / "files"
    make_files(files, 6)
    for path in files.rglob("*.txt"):
        set_time(path, HOUR_NS)
    follower = Follower()
    with holdfast.open(tmp_path / "data") as engine:
        fold = engine.fold("files")
        assert len(follower.follow(fold, list_files(str(files), ""), tick)) == 6
        assert fold.cursor() == Cursor.from_u64(HOUR_NS)
        assert follower.follow(fold, list_files(str(files), ""), tick) == set()
        (files / "folder0" / "00.txt").unlink()
        (files / "folder1" / "01.txt").write_bytes(b"changed")
        (files / "same.txt").write_bytes(b"as old as the cursor")
        set_time(files / "same.txt", HOUR_NS)
        (files / "older.txt").write_bytes(b"moved here, older than the cursor")
        set_time(files / "older.txt", HOUR_NS // 2)
        applied = follower.follow(fold, list_files(str(files), ""), tick)
        assert applied == {"folder0/00.txt", "folder1/01.txt", "same.txt", "older.txt"}
        assert follower.agrees_with(fold)
        cursor = fold.cursor().u64
        assert cursor is not None
        assert cursor > HOUR_NS


def test_a_time_in_the_future_hides_no_change(tmp_path: Path) -> None:
    """The cursor stays behind the time of listing, so later changes are still seen."""
    files = tmp_path / "files"
    make_files(files, 2)
    first, second = sorted(files.rglob("*.txt"))
    listed = list_files(str(files), "").listed_ns
    set_time(first, listed + 1000 * HOUR_NS)
    follower = Follower()
    with holdfast.open(tmp_path / "data") as engine:
        fold = engine.fold("files")
        follower.follow(fold, list_files(str(files), ""), tick)
        assert follower.follow(fold, list_files(str(files), ""), tick) == set()
        second.write_bytes(b"changed")
        set_time(second, listed + HOUR_NS)
        assert follower.follow(fold, list_files(str(files), ""), tick) == {"folder1/01.txt"}


def test_a_run_cut_short_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an interruption only what was not applied yet is applied."""

    class Interrupted(Exception):
        pass

    def interrupt(_: int) -> None:
        raise Interrupted

    files = tmp_path / "files"
    make_files(files, 10)
    monkeypatch.setattr(following, "_BATCH_FILES", 4)
    follower = Follower()
    with holdfast.open(tmp_path / "data") as engine:
        fold = engine.fold("files")
        with pytest.raises(Interrupted):
            follower.follow(fold, list_files(str(files), ""), interrupt)
        assert len(follower.follow(fold, list_files(str(files), ""), tick)) == 6
        assert follower.agrees_with(fold)


def test_what_cannot_be_followed_is_counted(tmp_path: Path) -> None:
    """Too large files and names that are not text are skipped; links and pipes are no files."""
    files = tmp_path / "files"
    make_files(files, 1)
    with (files / "large.bin").open("wb") as large:
        large.truncate(VALUE_BYTES_MAX + 1)
    with (files / "largest.bin").open("wb") as largest:
        largest.truncate(VALUE_BYTES_MAX)
    Path(os.fsdecode(os.fsencode(files) + b"/\xff.txt")).write_bytes(b"")
    (files / "link").symlink_to(files / "largest.bin")
    os.mkfifo(files / "pipe")
    (files / "work").mkdir()
    (files / "work" / "store.snap").write_bytes(b"")
    listing = list_files(str(files), str(files / "work"))
    assert {file.key for file in listing.files} == {"folder0/00.txt", "largest.bin"}
    assert (listing.too_large, listing.not_text, listing.unreadable) == (1, 1, 0)


def test_a_file_that_vanishes_is_counted(tmp_path: Path) -> None:
    """What was listed and cannot be read is counted as unreadable, and not in the fold."""
    files = tmp_path / "files"
    make_files(files, 2)
    listing = list_files(str(files), "")
    next(files.rglob("00.txt")).unlink()
    with holdfast.open(tmp_path / "data") as engine:
        fold = engine.fold("files")
        assert Follower().follow(fold, listing, tick) == {"folder1/01.txt"}
    assert listing.unreadable == 1


# --- the storm ---------------------------------------------------------------------------------


def test_the_storm_notices_a_lost_write(tmp_path: Path) -> None:
    """Acknowledged writes that are gone or changed afterwards are counted as lost."""
    with holdfast.open(tmp_path) as engine:
        weather = Storm(engine, "storm", ["worker"])
        weather.rage(tick)
        fold = engine.fold("storm")
        assert weather.lost(fold) == 0
        assert weather.fields()["calls_failed"] == 0
        fold.apply([Delete("all/0/1"), Put("all/1/1", b"?"), Put("latest/2", b"?")], Cursor())
        assert weather.lost(fold) == 3


def test_the_storm_counts_failed_calls(tmp_path: Path) -> None:
    """When calls fail the storm ends by itself and says how many and why."""
    engine = holdfast.open(tmp_path)
    weather = Storm(engine, "storm")
    engine.close()
    weather.rage(tick)
    fields = weather.fields()
    assert fields["calls_failed"] == storm.WRITERS
    assert str(fields["first_error"]).startswith("EngineClosed")
