"""The command line on vector stores: what it prints, how it exits, and that looking is harmless."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast.cli_base import EXIT_BROKEN_PIPE, EXIT_ERROR
from tests.engine.cli_runner import PROGRAM, Cli, snapshot

DATA = Path(__file__).resolve().parent.parent / "data" / "rvf"
VECTORS = np.arange(40, dtype=np.float32).reshape(10, 4)


def make_store(directory: Path, name: str = "docs") -> Path:
    """A closed store of ids 0 to 9 but 4, with metadata of every kind; its file."""
    with holdfast.open(directory) as engine:
        vectors = engine.vectors(name, dimension=4, metric="ip")
        metadata = {
            "text": ["\x1b[31m", *"abcdefghi"],
            "raw": [b"\xff\x00"] * 10,
            "score": [float("nan"), float("inf"), *range(8)],
            "gone": [None] * 9 + [True],
        }
        vectors.ingest(range(10), VECTORS, metadata=metadata)
        vectors.delete([4])
    return directory / f"{name}.rvf"


def save(path: Path, array: Any) -> Path:
    """An array as a .npy file."""
    np.save(path, array)
    return path


# --- inspect and verify ------------------------------------------------------------------------


def test_inspect_prints_the_promised_object(cli: Cli) -> None:
    """Exactly the documented fields, the rows by id with their floats as they are in the file."""
    entry = json.loads((DATA / "expected.json").read_text())["files"]["branch_child.rvf"]
    result = cli("inspect", DATA / "branch_child.rvf", "--json", "--rows")
    assert (result.code, result.err) == (0, "")
    found = result.json
    rows = found.pop("rows")
    assert found == {
        "format": "rvf",
        "verdict": "clean",
        "opens": True,
        "dimension": 8,
        "metric": "l2",
        "epoch": 2,
        "file_id": entry["file_id"],
        "parent_id": entry["parent_id"],
        "parent_hash": entry["parent_hash"],
        "lineage_depth": 1,
        "live": 4,
        "deleted": [1004],
        "segments": [listed[:4] for listed in entry["segment_dir"]],
        "problems": [],
    }
    assert [row["id"] for row in rows] == [3, 1001, 1002, 1003]
    assert [set(row) for row in rows] == [{"id", "vector"}] * 4
    assert {len(bytes.fromhex(row["vector"])) for row in rows} == {32}


def test_inspect_prints_metadata(cli: Cli, tmp_path: Path) -> None:
    """What JSON has no way to say, in an object that does; nulls are left out."""
    path = make_store(tmp_path)
    found = cli("inspect", path, "--json", "--rows").json
    assert (found["metric"], found["live"], found["deleted"]) == ("ip", 9, [4])
    rows = {row["id"]: row for row in found["rows"]}
    assert bytes.fromhex(rows[3]["vector"]) == VECTORS[3].tobytes()
    assert rows[0]["metadata"] == {
        "text": "\x1b[31m", "raw": {"bytes": "ff00"}, "score": {"float": "nan"},
    }  # fmt: skip
    assert rows[1]["metadata"]["score"] == {"float": "inf"}
    assert rows[9]["metadata"]["gone"] is True
    assert "rows" not in cli("inspect", path, "--json").json


def test_inspect_as_text_escapes_what_it_shows(cli: Cli, tmp_path: Path) -> None:
    """Counts in place of lists, a beginning of each vector, and nothing that moves a cursor."""
    path = make_store(tmp_path)
    out = cli("inspect", path, "--rows").out
    assert "\x1b" not in out
    assert "\\u001b" in out
    assert "deleted        1\n" in out
    assert "1 vec" in out
    assert '1  [4, 5, 6, 7]  {"text": "a"' in out
    long = cli("inspect", DATA / "small_l2.rvf", "--rows").out
    assert ", ...]" in long


def test_inspect_shows_damage(cli: Cli) -> None:
    """What opening refuses is shown without what is damaged; exit code 0."""
    result = cli("inspect", DATA / "damaged" / "vec_flipped.rvf", "--json", "--rows")
    found = result.json
    assert (result.code, found["verdict"], found["opens"], found["offset"]) == (
        0, "corrupt", False, 162,
    )  # fmt: skip
    assert [row["id"] for row in found["rows"]] == list(range(61, 101))
    assert found["problems"] == [
        "offset 162: the vec segment does not match its hash; it has 60 rows"
    ]


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("small_l2.rvf", 0, "clean"),
        ("empty.rvf", 0, "clean"),
        ("nowitness_profile2.rvtext", 0, "clean"),
        ("npm-0.2.2/node_grandchild.rvf", 0, "clean"),
        ("damaged/zero_tail_70k.rvf", 1, "torn"),
        ("damaged/torn_vec.rvf", 1, "torn"),
        ("damaged/vec_flipped.rvf", 2, "damaged"),
        ("expected.json", 3, "not ours"),
        ("damaged", 3, "not ours"),
    ],
)
def test_verify_exits_with_the_verdict(cli: Cli, name: str, code: int, word: str) -> None:
    """The exit code and the text say the same, and JSON has the reason."""
    result = cli("verify", DATA / name)
    assert (result.code, result.err) == (code, "")
    assert word in result.out
    as_json = cli("verify", DATA / name, "--json")
    assert as_json.code == code
    assert ("reason" in as_json.json) == (code != 0)


def test_verify_names_every_problem(cli: Cli, tmp_path: Path) -> None:
    """One line each, behind the verdict; a name cannot move a terminal's cursor."""
    name = "node_branch_child.rvf"
    shutil.copyfile(DATA / "npm-0.2.2" / name, tmp_path / name)
    content = (
        (tmp_path / name).read_bytes().replace(b"node_branch_parent", b"node_\x1b[31m_parent!")
    )
    (tmp_path / name).write_bytes(content)
    result = cli("verify", tmp_path / name)
    assert (result.code, "\x1b" in result.out) == (2, False)
    lines = result.out.splitlines()
    assert len(lines) > 1
    assert all(line.startswith("  ") for line in lines[1:])


def test_looking_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    """``inspect``, ``verify``, ``query`` and ``stat`` leave a closed directory as it was."""
    path = make_store(tmp_path)
    queries = save(tmp_path / "q.npy", VECTORS[:2])
    for name in ("vec_flipped", "torn_vec"):
        shutil.copyfile(DATA / "damaged" / f"{name}.rvf", tmp_path / f"{name}.rvf")
    before = snapshot(tmp_path)
    for file in (path, tmp_path / "vec_flipped.rvf", tmp_path / "torn_vec.rvf"):
        cli("inspect", file, "--rows")
        cli("verify", file)
        cli("query", file, "--vector", queries)
    cli("stat", tmp_path)
    assert snapshot(tmp_path) == before


def test_a_running_engines_file_can_be_looked_at(cli: Cli, tmp_path: Path) -> None:
    """Inspected, verified and searched, while its owner goes on."""
    queries = save(tmp_path / "q.npy", VECTORS[0])
    with holdfast.open(tmp_path / "data") as engine:
        vectors = engine.vectors("docs", dimension=4)
        for number in range(3):
            vectors.ingest([number], VECTORS[number : number + 1])
            path = tmp_path / "data" / "docs.rvf"
            assert cli("verify", path).code == 0
            assert cli("inspect", path, "--json").json["live"] == number + 1
            found = cli("query", path, "--vector", queries, "--json").json["results"]
            assert [result["ids"] for result in found] == [list(range(number + 1))]


def test_a_reader_that_stops_is_no_error(tmp_path: Path) -> None:
    """When the pipe's reader goes away in the midst of the rows the program ends quietly."""
    with holdfast.open(tmp_path) as engine:
        vectors = engine.vectors("docs", dimension=256)
        vectors.ingest(range(2000), np.ones((2000, 256), np.float32))
    command = [*PROGRAM, "inspect", str(tmp_path / "docs.rvf"), "--rows", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == EXIT_BROKEN_PIPE


# --- query -------------------------------------------------------------------------------------


def test_query_finds_what_the_engine_finds(cli: Cli, tmp_path: Path) -> None:
    """One vector or several, of any number type, nearest first."""
    path = make_store(tmp_path / "data")
    given = np.array([[1, 0, 0, 0], [-1, 2, 0, 1]])
    with holdfast.open(tmp_path / "data") as engine:
        expected = engine.vectors("docs").query(given, 3)
    for dtype in (np.float32, np.float64, np.int64, ">f4"):
        queries = save(tmp_path / "q.npy", given.astype(dtype))
        found = cli("query", path, "--vector", queries, "-k", "3", "--json").json
        assert set(found) == {"results"}
        assert [r["ids"] for r in found["results"]] == expected.ids.tolist()
        assert [r["distances"] for r in found["results"]] == expected.distances.tolist()
    queries = save(tmp_path / "q.npy", given[0])
    found = cli("query", path, "--vector", queries, "-k", "3", "--exact", "--json").json
    assert [r["ids"] for r in found["results"]] == expected.ids[:1].tolist()
    out = cli("query", path, "--vector", queries, "-k", "3").out
    assert out.splitlines() == [
        f"{id_}  {distance}"
        for id_, distance in zip(expected.ids[0], expected.distances[0].tolist(), strict=True)
    ]


def test_query_answers_as_the_original_does(cli: Cli, tmp_path: Path) -> None:
    """The five nearest of a file of its own."""
    entry = json.loads((DATA / "expected.json").read_text())["files"]["small_l2.rvf"]
    queries = save(tmp_path / "q.npy", np.array(entry["query"], np.float32))
    found = cli("query", DATA / "small_l2.rvf", "--vector", queries, "-k", "5", "--json").json
    [result] = found["results"]
    assert result["ids"] == [id_ for id_, _ in entry["top5_live"]]
    assert result["distances"] == pytest.approx([d for _, d in entry["top5_live"]], rel=1e-5)


def test_a_distance_that_is_no_number_is_null(cli: Cli, tmp_path: Path) -> None:
    """JSON knows no NaN."""
    with holdfast.open(tmp_path) as engine:
        vectors = engine.vectors("docs", dimension=1)
        vectors.ingest([1, 2], [[1.0], [float("nan")]], non_finite="accept")
    queries = save(tmp_path / "q.npy", np.zeros(1, np.float32))
    out = cli("query", tmp_path / "docs.rvf", "--vector", queries, "--json").out
    found = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert found == {"results": [{"ids": [1, 2], "distances": [1.0, None]}]}


# --- repair ------------------------------------------------------------------------------------


def test_repair_writes_a_new_file(cli: Cli, tmp_path: Path) -> None:
    """What is intact, with a list of what is not; the source stays."""
    source = tmp_path / "v.rvf"
    shutil.copyfile(DATA / "damaged" / "vec_flipped.rvf", source)
    before = source.read_bytes()
    result = cli("repair", source, "--json")
    assert (result.code, result.err, source.read_bytes()) == (0, "", before)
    assert result.json == {
        "source": str(source),
        "output": f"{source}.repaired",
        "kept": None,
        "rows": 40,
        "salvaged_rows": 0,
        "lost": [{"offset": 162, "reason": "the vec segment does not match its hash", "rows": 60}],
        "notes": [],
    }
    assert cli("verify", f"{source}.repaired").code == 0
    out = cli("repair", source, "--output", tmp_path / "new.rvf").out
    assert out.startswith(f"wrote 40 rows to {tmp_path / 'new.rvf'}\n")
    assert "lost: offset 162" in out


def test_repair_in_place_and_salvage(cli: Cli, tmp_path: Path) -> None:
    """The damaged file is kept beside; uncommitted rows come along where asked."""
    source = tmp_path / "v.rvf"
    shutil.copyfile(DATA / "damaged" / "torn_manifest.rvf", source)
    before = source.read_bytes()
    out = cli("repair", source, "--in-place", "--salvage").out
    assert "40 of them belonged to no commit" in out
    assert Path(f"{source}.damaged").read_bytes() == before
    assert cli("inspect", source, "--json").json["live"] == 100
    with holdfast.open(tmp_path) as engine:
        assert engine.vectors("v").count() == 100


def test_repair_of_a_fold(cli: Cli, tmp_path: Path) -> None:
    """Its entries from before the damage, and its cursor."""
    source = tmp_path / "config.snap"
    shutil.copyfile(DATA.parent / "fold" / "midflip.snap", source)
    out = cli("repair", source).out
    assert out.startswith("wrote 1 rows to ")
    assert "the stream resumes" in out
    assert cli("verify", f"{source}.repaired").code == 0


# --- an engine's directory ---------------------------------------------------------------------


def test_stat_shows_both_kinds_of_store(cli: Cli, tmp_path: Path) -> None:
    """At rest by their files, damaged ones included; served ones by their workers."""
    path = make_store(tmp_path)
    shutil.copyfile(DATA / "damaged" / "vec_flipped.rvf", tmp_path / "bad.rvf")
    with holdfast.open(tmp_path) as engine:
        engine.fold("config")
    found = {store["name"]: store for store in cli("stat", tmp_path, "--json").json["stores"]}
    assert (found["bad"]["verdict"], found["bad"]["offset"]) == ("corrupt", 162)
    docs = found["docs"]
    assert (docs["kind"], docs["state"], docs["live_rows"]) == ("vectors", "closed", 9)
    assert (docs["dimension"], docs["file_bytes"]) == (4, path.stat().st_size)
    assert not {"segments", "deleted"} & set(docs)
    line = next(line for line in cli("stat", tmp_path).out.splitlines() if "docs" in line)
    assert {"docs", "vectors", "closed", "9", str(path.stat().st_size)} <= set(line.split())
    with holdfast.open(tmp_path) as engine:
        engine.vectors("docs", read_only=True)
        engine.vectors("more", dimension=2)
        found = {store["name"]: store for store in cli("stat", tmp_path, "--json").json["stores"]}
        assert (found["docs"]["state"], found["docs"]["live_rows"]) == ("running", 9)
        assert (found["docs"]["read_only"], found["more"]["dimension"]) == (True, 2)


def test_compact_makes_a_file_smaller(cli: Cli, tmp_path: Path) -> None:
    """Dead rows are gone afterwards, and both sizes are reported."""
    with holdfast.open(tmp_path) as engine:
        vectors = engine.vectors("docs", dimension=4)
        for _ in range(20):
            vectors.ingest(range(10), VECTORS)
    found = cli("compact", tmp_path, "docs", "--json").json
    assert found["bytes_after"] < found["bytes_before"]
    assert (tmp_path / "docs.rvf").stat().st_size == found["bytes_after"]
    assert cli("verify", tmp_path / "docs.rvf").code == 0


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["query", "v.rvf", "--vector", "absent.npy"], "InvalidArgument"),
        (["query", "v.rvf", "--vector", "pipe"], "InvalidArgument"),
        (["query", "v.rvf", "--vector", "v.rvf"], "InvalidFormat"),
        (["query", "v.rvf", "--vector", "pickled.npy"], "InvalidFormat"),
        (["query", "v.rvf", "--vector", "lies.npy"], "InvalidFormat"),
        (["query", "v.rvf", "--vector", "many.npz"], "InvalidFormat"),
        (["query", "v.rvf", "--vector", "short.npy"], "InvalidArgument"),
        (["query", "v.rvf", "--vector", "cube.npy"], "InvalidArgument"),
        (["query", "v.rvf", "--vector", "text.npy"], "InvalidArgument"),
        (["query", "v.rvf", "--vector", "q.npy", "-k", "0"], "InvalidArgument"),
        (["query", "v.rvf", "--vector", "q.npy", "-k", "x"], "UsageError"),
        (["query", "v.rvf"], "UsageError"),
        (["query", "bad.rvf", "--vector", "q.npy"], "StoreCorrupt"),
        (["query", "f.snap", "--vector", "q.npy"], "InvalidFormat"),
        (["query", "absent.rvf", "--vector", "q.npy"], "StoreNotFound"),
        (["query", "pipe", "--vector", "q.npy"], "StoreIOError"),
        (["repair", "absent.rvf"], "StoreIOError"),
        (["repair", "pipe"], "InvalidArgument"),
        (["repair", "v.rvf", "--output", "q.npy"], "StoreExists"),
        (["repair", "v.rvf", "--output", "w.rvf", "--in-place"], "InvalidArgument"),
        (["repair", "q.npy"], "InvalidFormat"),
        (["export", ".", "v", "out"], "WrongKind"),
        (["compact", ".", "bad"], "StoreCorrupt"),
        (["compact", ".", "absent"], "StoreNotFound"),
        (["import", ".", "v", "absent"], "WrongKind"),
    ],
)
def test_an_error_is_one_line_and_one_code(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: str
) -> None:
    """Errors of use and environment exit with 4, one line on stderr, and JSON where wanted."""
    shutil.copyfile(DATA / "small_l2.rvf", tmp_path / "v.rvf")
    shutil.copyfile(DATA / "damaged" / "vec_flipped.rvf", tmp_path / "bad.rvf")
    shutil.copyfile(DATA.parent / "fold" / "base3.snap", tmp_path / "f.snap")
    os.mkfifo(tmp_path / "pipe")
    save(tmp_path / "q.npy", np.zeros(8))
    save(tmp_path / "short.npy", np.zeros(7))
    save(tmp_path / "cube.npy", np.zeros((2, 2, 8)))
    save(tmp_path / "text.npy", np.array(["a"] * 8))
    np.save(tmp_path / "pickled.npy", np.array([{}] * 8), allow_pickle=True)
    np.savez(tmp_path / "many.npz", np.zeros(8))
    content = (tmp_path / "q.npy").read_bytes().replace(b"(8,), ", b"(8000000000,), ")
    (tmp_path / "lies.npy").write_bytes(content[:128] + content[138:])
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert (result.code, result.out) == (EXIT_ERROR, "")
    assert result.err.startswith("holdfast: ")
    assert len(result.err.splitlines()) == 1
    error = cli(*arguments, "--json").json["error"]
    assert error["type"] == kind
    assert {"message", "path", "offset"} <= error.keys()
    assert not (tmp_path / "w.rvf").exists()
    assert not (tmp_path / "v.rvf.repaired").exists()
