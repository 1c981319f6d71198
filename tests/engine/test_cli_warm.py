"""The command line on warm stores: what it prints, how it exits, and that looking is harmless."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import dataset, parquet

import holdfast
from holdfast.cli_base import EXIT_BROKEN_PIPE, EXIT_ERROR
from tests.engine.cli_runner import PROGRAM, Cli, snapshot

DATA = Path(__file__).resolve().parent.parent / "data" / "warm"
EXPECTED = json.loads((DATA / "expected.json").read_text())
VECTORS = np.arange(30, dtype=np.float32).reshape(10, 3)


def make_store(directory: Path, name: str = "s") -> Path:
    """A closed store of ten points of entity 7 in a chunk, and one of entity 2 in the log."""
    with holdfast.open(directory) as engine:
        warm = engine.warm(name, dimension=3)
        notes = [{"text": "\x1b[31m"}, *({} for _ in range(9))]
        warm.write(7, 1, range(10, 20), VECTORS, notes)
        warm.delete(7, 1, [14])
        warm.flush()
        warm.write(2, 1, [-5], VECTORS[:1])
    return directory / f"{name}.warm"


def flip(path: Path, offset: int) -> None:
    """Change a bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


# --- inspect and verify -------------------------------------------------------------------------


def test_inspect_prints_the_promised_object(cli: Cli, tmp_path: Path) -> None:
    """Exactly the documented fields, the points by key with their floats as they are on disk."""
    path = make_store(tmp_path)
    result = cli("inspect", path, "--json", "--rows")
    assert (result.code, result.err) == (0, "")
    found = result.json
    rows = found.pop("rows")
    size = sum(file.stat().st_size for file in path.iterdir())
    log = (path / "LOG").stat().st_size
    chunk = (path / "0000000001.arrow").stat().st_size
    assert found == {
        "format": "warm",
        "verdict": "clean",
        "opens": True,
        "dimension": 3,
        "compression": "none",
        "points": 10,
        "series": 2,
        "first": -5,
        "last": 19,
        "generation": 2,
        "chunks": [
            {
                "number": 1,
                "run": 1,
                "listed": True,
                "rows": 9,
                "live": 9,
                "lost": 0,
                "bytes": chunk,
                "series": 1,
                "first": 10,
                "last": 19,
            }
        ],
        "log_records": 1,
        "log_bytes": log,
        "bytes": size,
        "problems": [],
    }
    times = [time for time in range(10, 20) if time != 14]
    assert [(row["space"], row["entity"], row["timestamp"]) for row in rows] == [
        (1, 2, -5), *((1, 7, time) for time in times),
    ]  # fmt: skip
    assert [set(row) for row in rows] == [
        {"entity", "space", "timestamp", "vector", "metadata"}
    ] * 10
    assert bytes.fromhex(rows[3]["vector"]) == VECTORS[2].tobytes()
    assert [row["metadata"] for row in rows[:3]] == [{}, {"text": "\x1b[31m"}, {}]
    assert "rows" not in cli("inspect", path, "--json").json


def test_inspect_as_text_escapes_what_it_shows(cli: Cli, tmp_path: Path) -> None:
    """Counts in place of lists, a line for each point, and nothing that moves a cursor."""
    out = cli("inspect", make_store(tmp_path), "--rows").out
    assert "\x1b" not in out
    assert '7  1  10  [0, 1, 2]  {"text": "\\u001b[31m"}' in out
    assert "2  1  -5  [0, 1, 2]  {}" in out
    assert any(line.split() == ["chunks", "1"] for line in out.splitlines())


@pytest.mark.parametrize(
    ("how", "code", "word"),
    [
        ("whole", 0, "clean"),
        ("torn", 1, "torn"),
        ("leftover", 1, "leftover"),
        ("chunk", 2, "damaged"),
        ("manifest", 2, "damaged"),
        ("version", 3, "version 2"),
        ("chronos", 3, "holdfast import"),
        ("empty", 1, "nothing in it yet"),
    ],
)
def test_verify_exits_with_the_verdict(
    cli: Cli, tmp_path: Path, how: str, code: int, word: str
) -> None:
    """The exit code and the text say the same, JSON has the reason, and nothing is changed."""
    path = make_store(tmp_path)
    if how == "torn":
        (path / "LOG").write_bytes((path / "LOG").read_bytes()[:-3])
    elif how == "leftover":
        (path / "0000000009.arrow").write_bytes(b"half")
    elif how == "chunk":
        flip(path / "0000000001.arrow", 60)
    elif how == "manifest":
        flip(path / "MANIFEST", 60)
    elif how == "version":
        from holdfast.formats.checksum import crc32

        line = (path / "MANIFEST").read_bytes().split(b"\n")[0]
        line = line.replace(b'"version":1', b'"version":2') + b"\n"
        (path / "MANIFEST").write_bytes(line + b"crc32 %08x\n" % crc32(line))
    elif how == "chronos":
        path = DATA / "main"
    elif how == "empty":
        path = tmp_path / "new.warm"
        path.mkdir()
    before = snapshot(path)
    result = cli("verify", path)
    assert (result.code, result.err) == (code, "")
    assert word in result.out
    as_json = cli("verify", path, "--json")
    assert as_json.code == code
    assert ("reason" in as_json.json) == (code != 0)
    cli("inspect", path, "--rows")
    assert snapshot(path) == before


def test_inspect_shows_what_is_intact(cli: Cli, tmp_path: Path) -> None:
    """What is damaged is named with its file and offset, the rest is printed; exit code 0."""
    path = make_store(tmp_path)
    flip(path / "0000000001.arrow", 60)
    result = cli("inspect", path, "--json", "--rows")
    assert (result.code, result.json["verdict"], result.json["opens"]) == (0, "corrupt", True)
    assert [row["timestamp"] for row in result.json["rows"]] == [-5]
    [problem] = result.json["problems"]
    assert problem.startswith("0000000001.arrow: offset 0: a block does not match its checksum")
    assert "9 of 9 points are lost, of space 1 and entity 7, between the times 10 and 19" in problem


def test_a_running_engines_store_can_be_looked_at(cli: Cli, tmp_path: Path) -> None:
    """Inspected and verified while its owner goes on."""
    with holdfast.open(tmp_path) as engine:
        warm = engine.warm("s", dimension=3)
        for number in range(4):
            warm.write(number, 0, range(10), VECTORS)
            if number % 2:
                warm.flush()
            assert cli("verify", tmp_path / "s.warm").code == 0
            found = cli("inspect", tmp_path / "s.warm", "--json").json
            assert (found["points"], found["series"]) == (10 * (number + 1), number + 1)


def test_a_reader_that_stops_is_no_error(tmp_path: Path) -> None:
    """When the pipe's reader goes away in the midst of the rows the program ends quietly."""
    with holdfast.open(tmp_path) as engine:
        engine.warm("s", dimension=256).write(1, 1, range(2000), np.ones((2000, 256), np.float32))
    command = [*PROGRAM, "inspect", str(tmp_path / "s.warm"), "--rows", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == EXIT_BROKEN_PIPE


# --- repair -------------------------------------------------------------------------------------


def test_repair_writes_a_new_store(cli: Cli, tmp_path: Path) -> None:
    """What is intact goes to ``DIR.repaired``, which opens; what is lost is said by file."""
    path = make_store(tmp_path)
    flip(path / "0000000001.arrow", 60)
    before = snapshot(path)
    result = cli("repair", path)
    assert result.code == 0
    lines = result.out.splitlines()
    assert lines[0] == f"wrote 1 rows to {path}.repaired"
    assert lines[1].startswith("  lost: 0000000001.arrow: offset 0: ")
    assert snapshot(path) == before
    assert cli("verify", f"{path}.repaired").code == 0
    Path(f"{path}.repaired").rename(tmp_path / "again.warm")
    with holdfast.open(tmp_path) as engine:
        point = engine.warm("again").get(2, 1, -5)
        assert point is not None
        assert point.vector.tolist() == VECTORS[0].tolist()


def test_repair_in_place_as_json(cli: Cli, tmp_path: Path) -> None:
    """The old directory is kept; counts, losses and notes are in the object."""
    path = make_store(tmp_path)
    (path / "MANIFEST").unlink()
    found = cli("repair", path, "--in-place", "--json").json
    assert found == {
        "source": str(path),
        "output": str(path),
        "kept": f"{path}.damaged",
        "rows": 10,
        "salvaged_rows": 0,
        "lost": [],
        "notes": ["there was no manifest: the chunks were found by their zone maps"],
    }
    assert cli("verify", path).code == 0
    assert cli("verify", f"{path}.damaged").code == 2
    with holdfast.open(tmp_path) as engine:
        assert engine.stores() == {"s": "warm"}
        assert len(engine.warm("s")) == 10


# --- an engine's directory ----------------------------------------------------------------------


def test_stat_shows_warm_stores(cli: Cli, tmp_path: Path) -> None:
    """At rest by their files, damaged ones included; served ones by their workers."""
    path = make_store(tmp_path)
    bad = make_store(tmp_path, "bad")
    flip(bad / "0000000001.arrow", 60)
    found = {store["name"]: store for store in cli("stat", tmp_path, "--json").json["stores"]}
    assert (found["s"]["kind"], found["s"]["state"], found["s"]["points"]) == ("warm", "closed", 10)
    assert (found["s"]["chunks"], found["s"]["series"]) == (1, 2)
    assert (found["bad"]["verdict"], found["bad"]["points"]) == ("corrupt", 1)
    line = next(line for line in cli("stat", tmp_path).out.splitlines() if "closed" in line)
    size = sum(file.stat().st_size for file in path.iterdir())
    assert {"s", "warm", "closed", "10", str(size)} <= set(line.split())
    with holdfast.open(tmp_path) as engine:
        engine.warm("s")
        found = {store["name"]: store for store in cli("stat", tmp_path, "--json").json["stores"]}
        assert (found["s"]["state"], found["s"]["points"]) == ("running", 10)
        assert found["s"]["bytes"] > found["s"]["log_bytes"]
        line = next(line for line in cli("stat", tmp_path).out.splitlines() if "running" in line)
        assert {"10", str(found["s"]["bytes"])} <= set(line.split())


def test_compact_leaves_one_chunk(cli: Cli, tmp_path: Path) -> None:
    """What was in several, too few to be merged by themselves; both sizes are reported."""
    with holdfast.open(tmp_path) as engine:
        warm = engine.warm("s", dimension=3)
        for entity in range(3):
            warm.write(entity, 0, range(10), VECTORS)
            warm.flush()
    found = cli("compact", tmp_path, "s", "--json").json
    assert found["bytes_after"] < found["bytes_before"]
    report = cli("inspect", tmp_path / "s.warm", "--json").json
    assert [chunk["rows"] for chunk in report["chunks"]] == [30]


# --- export and import --------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_what_was_exported_can_be_imported(cli: Cli, tmp_path: Path, file_format: str) -> None:
    """All points come back, into a store whose dimension the files tell."""
    path = make_store(tmp_path)
    found = cli("export", tmp_path, "s", tmp_path / "out", "--format", file_format, "--json").json
    assert (found["points"], found["directory"]) == (10, str(tmp_path / "out"))
    assert dataset.dataset(tmp_path / "out", format=file_format).count_rows() == 10
    assert [Path(file).suffix for file in found["files"]] == [f".{file_format}"]
    result = cli("import", tmp_path, "t", tmp_path / "out")
    assert (result.code, result.out) == (0, "imported 10 points as 't'\n")
    rows = [
        cli("inspect", place, "--json", "--rows").json["rows"]
        for place in (path, tmp_path / "t.warm")
    ]
    assert rows[0] == rows[1]


def test_a_plain_file_is_imported(cli: Cli, tmp_path: Path) -> None:
    """Its lists need a dimension, and without a column of spaces it needs one."""
    table = pa.table(
        {"entity": pa.array([1, 2], pa.uint64()), "timestamp": [5, 6], "vector": [[1.0], [2.0]]}
    )
    parquet.write_table(table, tmp_path / "p.parquet")
    source = tmp_path / "p.parquet"
    (tmp_path / "d").mkdir()
    assert "--dimension" in cli("import", tmp_path / "d", "s", source).err
    arguments = ("import", tmp_path / "d", "s", source, "--dimension", "1")
    assert "space" in cli(*arguments).err
    assert cli(*arguments, "--space", "4", "--json").json == {"name": "s", "points": 2}
    rows = cli("inspect", tmp_path / "d" / "s.warm", "--rows", "--json").json["rows"]
    assert [(row["space"], row["entity"], row["timestamp"]) for row in rows] == [
        (4, 1, 5), (4, 2, 6),
    ]  # fmt: skip


def test_a_directory_of_the_original_is_imported(cli: Cli, tmp_path: Path) -> None:
    """With the dimension that its points have; the source stays as it is."""
    before = snapshot(DATA / "duplicates")
    found = cli("import", tmp_path, "s", DATA / "duplicates", "--json").json
    assert found["points"] + found["duplicates"] == sum(
        file["frames"] - file["foreign"] for file in found["report"]["files"]
    )
    assert found["duplicates"]
    last = cli("inspect", tmp_path / "s.warm", "--json", "--rows").json["rows"]
    again = cli("import", tmp_path, "t", DATA / "duplicates", "--duplicates", "first", "--json")
    first = cli("inspect", tmp_path / "t.warm", "--json", "--rows").json["rows"]
    keys = [[(row["space"], row["entity"], row["timestamp"]) for row in rows]
            for rows in (first, last)]  # fmt: skip
    assert keys[0] == keys[1]
    assert first != last
    assert len(first) == again.json["points"]
    assert snapshot(DATA / "duplicates") == before


def test_damage_of_the_original_is_refused_or_salvaged(cli: Cli, tmp_path: Path) -> None:
    """With file and offset; salvaged, the text says what was found."""
    source = DATA / "bad-frame-middle"
    error = cli("import", tmp_path, "s", source, "--json").json["error"]
    assert error["type"] == "StoreCorrupt"
    assert error["offset"] is not None
    result = cli("import", tmp_path, "s", source, "--damaged", "salvage")
    assert result.code == 0
    assert f"offset {error['offset']}: " in result.out
    assert cli("verify", tmp_path / "s.warm").code == 0


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["export", ".", "f", "out", "--format", "arrow"], "InvalidArgument"),
        (["export", ".", "s", "s.warm"], "StoreExists"),
        (["export", ".", "s", "out", "--format", "csv"], "UsageError"),
        (["export", ".", "absent", "out"], "StoreNotFound"),
        (["import", ".", "s", "absent.parquet"], "StoreIOError"),
        (["import", ".", "s", "junk.parquet"], "InvalidArgument"),
        (["import", ".", "new", "art", "--space", "1"], "InvalidArgument"),
        (["import", ".", "s", "junk.parquet", "--duplicates", "first"], "InvalidArgument"),
        (["import", ".", "s", "chronos", "--space", "1"], "InvalidArgument"),
        (["import", ".", "s", "chronos", "--dimension", "4096"], "OptionsConflict"),
        (["import", ".", "f", "chronos"], "WrongKind"),
        (["repair", "chronos"], "InvalidArgument"),
        (["repair", "art"], "InvalidArgument"),
        (["repair", "nothing.warm"], "InvalidFormat"),
        (["query", "s.warm", "--vector", "q.npy"], "InvalidArgument"),
    ],
)
def test_an_error_is_one_line_and_one_code(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: str
) -> None:
    """Errors of use and environment exit with 4, one line on stderr, and JSON where wanted."""
    make_store(tmp_path)
    with holdfast.open(tmp_path) as engine:
        engine.fold("f").export(str(tmp_path / "art"))
    shutil.copytree(DATA / "main", tmp_path / "chronos")
    (tmp_path / "junk.parquet").write_bytes(b"no parquet")
    (tmp_path / "nothing.warm").mkdir()
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert (result.code, result.out) == (EXIT_ERROR, "")
    assert len(result.err.splitlines()) == 1
    assert cli(*arguments, "--json").json["error"]["type"] == kind
    assert not (tmp_path / "out").exists()
