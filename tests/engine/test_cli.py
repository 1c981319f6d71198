"""The command line: what it prints, how it exits, and that looking changes nothing."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import holdfast
from holdfast import Cursor, Put, Version
from holdfast.cli_base import EXIT_BROKEN_PIPE, EXIT_ERROR, EXIT_INTERRUPTED
from tests.engine.cli_runner import PROGRAM, Cli, snapshot

DATA = Path(__file__).resolve().parent.parent / "data" / "fold"


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory for temporary files, with a path as short as those usually have."""
    with tempfile.TemporaryDirectory(prefix="hf-") as path:
        yield Path(path)


def make_store(directory: Path, name: str = "config") -> None:
    """A closed store of two entries."""
    with holdfast.open(directory) as engine:
        version = Version.from_u64(7)
        updates = [Put("b", b"2", version), Put("a\n\u00e9", b"\x00\xff")]
        engine.fold(name).apply(updates, Cursor.from_u64(9))


# --- inspect and verify ------------------------------------------------------------------------


def test_inspect_prints_the_promised_object(cli: Cli) -> None:
    """A clean log's object has exactly the documented fields, its rows in key order."""
    result = cli("inspect", DATA / "base3.snap", "--json", "--rows")
    assert (result.code, result.err) == (0, "")
    found = result.json
    rows = found.pop("rows")
    cursor = "0000000000000004"
    assert found == {
        "format": "fold-log",
        "version": 2,
        "verdict": "clean",
        "entries": 3,
        "cursor": cursor,
    }
    assert [row["key"] for row in rows] == ["alpha", "charlie", "delta"]
    assert rows[0] == {
        "key": "alpha",
        "value": b"value-alpha-xxxxxxxx".hex(),
        "version": "0000000000000001",
    }


def test_inspect_leaves_rows_out_unless_asked(cli: Cli) -> None:
    """Without ``--rows`` there are none, and no such field."""
    assert "rows" not in cli("inspect", DATA / "base3.snap", "--json").json


def test_inspect_shows_damage(cli: Cli) -> None:
    """A log that opening refuses is shown up to the damage, with offset and reason; exit code 0."""
    result = cli("inspect", DATA / "midflip.snap", "--json", "--rows")
    found = result.json
    assert (result.code, found["verdict"], found["offset"]) == (0, "corrupt", 65)
    assert found["reason"]
    assert [row["key"] for row in found["rows"]] == ["alpha"]


def test_inspect_shows_an_empty_list_of_rows(cli: Cli) -> None:
    """No rows are an empty list."""
    assert cli("inspect", DATA / "fresh.snap", "--json", "--rows").json["rows"] == []


def test_inspect_shows_an_artifact(cli: Cli) -> None:
    """An artifact's object has its format, its manifest's fields and its rows."""
    result = cli("inspect", DATA / "artifacts" / "good", "--json", "--rows")
    found = result.json
    assert (result.code, found["format"], found["verdict"]) == (0, "fold-artifact", "clean")
    assert found["backend"] == "append-log"
    assert len(found["rows"]) == found["entries"] == 38


def test_inspect_as_text_escapes_what_it_shows(cli: Cli, tmp_path: Path) -> None:
    """Keys and values cannot move a terminal's cursor."""
    make_store(tmp_path)
    result = cli("inspect", tmp_path / "config.snap", "--rows")
    assert r"'a\n\xe9'  -  2  '\x00\xff'" in result.out
    assert "entries" in result.out


@pytest.mark.parametrize(
    ("name", "code", "word"),
    [
        ("base3.snap", 0, "clean"),
        ("fresh.snap", 0, "clean"),
        ("torn-mid-value.snap", 1, "torn"),
        ("zero-length.snap", 1, "torn"),
        ("midflip.snap", 2, "damaged"),
        ("zero-hole.snap", 2, "damaged"),
        ("version3.snap", 3, "not ours"),
        ("badmagic.snap", 3, "not ours"),
        ("expected.json", 3, "not ours"),
        ("artifacts", 3, "not ours"),
        ("artifacts/good", 0, "clean"),
        ("artifacts/tampered-payload", 2, "damaged"),
        ("artifacts/malformed-json", 3, "not ours"),
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


def test_a_linked_log_is_judged_with_its_own_ledger(cli: Cli, tmp_path: Path) -> None:
    """A symbolic link is followed before a ledger is looked for."""
    make_store(tmp_path / "data")
    (tmp_path / "link.snap").symlink_to(tmp_path / "data" / "config.snap")
    assert cli("verify", tmp_path / "link.snap").code == 0


def test_looking_changes_nothing(cli: Cli, tmp_path: Path) -> None:
    """``inspect``, ``verify`` and ``stat`` leave a closed directory as it was, damage included."""
    make_store(tmp_path)
    shutil.copyfile(DATA / "midflip.snap", tmp_path / "bad.snap")
    shutil.copyfile(DATA / "torn-mid-key.snap", tmp_path / "torn.snap")
    before = snapshot(tmp_path)
    for name in ("config", "bad", "torn"):
        cli("inspect", tmp_path / f"{name}.snap", "--rows")
        cli("verify", tmp_path / f"{name}.snap")
    cli("stat", tmp_path)
    assert snapshot(tmp_path) == before


def test_a_running_engines_log_can_be_inspected(cli: Cli, tmp_path: Path) -> None:
    """No lock is needed: the owner goes on undisturbed."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("config")
        fold.apply([Put("k", b"v")], Cursor.from_u64(1))
        result = cli("inspect", tmp_path / "config.snap", "--json", "--rows")
        assert [row["key"] for row in result.json["rows"]] == ["k"]
        assert cli("verify", tmp_path / "config.snap").code == 0
        fold.apply([Put("l", b"v")], Cursor.from_u64(2))


# --- stat --------------------------------------------------------------------------------------


def test_stat_reads_files_when_nothing_runs(cli: Cli, tmp_path: Path) -> None:
    """A closed directory shows its stores' figures and no process, and starts none."""
    make_store(tmp_path)
    shutil.copyfile(DATA / "midflip.snap", tmp_path / "bad.snap")
    (tmp_path / "docs.rvf").write_bytes(b"")
    found = cli("stat", tmp_path, "--json").json
    assert (found["running"], found["processes"]) == (False, [])
    bad, config, docs = found["stores"]
    assert (bad["name"], bad["verdict"], bad["offset"]) == ("bad", "corrupt", 65)
    assert (config["name"], config["kind"], config["state"]) == ("config", "fold", "closed")
    assert (config["entries"], config["cursor"]) == (2, "0000000000000009")
    assert config["path"] == str(tmp_path / "config.snap")
    assert (docs["name"], docs["kind"]) == ("docs", "vectors")


def test_stat_joins_a_running_engine(cli: Cli, tmp_path: Path) -> None:
    """A served directory shows supervisor and workers, as ``engine.processes()`` has them."""
    make_store(tmp_path, "closed")
    elsewhere = tmp_path / "elsewhere.snap"
    with holdfast.open(tmp_path / "data") as engine:
        shutil.copyfile(tmp_path / "closed.snap", tmp_path / "data" / "closed.snap")
        engine.fold("config").apply([Put("k", b"v")], Cursor.from_u64(1))
        engine.fold("far", path=elsewhere)
        found = cli("stat", tmp_path / "data", "--json").json
        expected = [(p.role, p.store, p.pid) for p in engine.processes()]
    assert found["running"] is True
    assert [(p["role"], p["store"], p["pid"]) for p in found["processes"]] == expected
    stores = {store["name"]: store for store in found["stores"]}
    assert set(stores) == {"closed", "config", "far"}
    assert (stores["config"]["state"], stores["config"]["entries"]) == ("running", 1)
    assert stores["far"]["path"] == str(elsewhere)
    assert (stores["closed"]["state"], stores["closed"]["entries"]) == ("closed", 2)


def test_stat_prints_tables(cli: Cli, tmp_path: Path) -> None:
    """Text output names every store on one line."""
    make_store(tmp_path)
    out = cli("stat", tmp_path).out
    line = next(line for line in out.splitlines() if "config" in line)
    assert {"fold", "closed", "2", str(tmp_path / "config.snap")} <= set(line.split())
    assert "no processes" in out


# --- export, import, compact -------------------------------------------------------------------


def test_export_and_import_go_round(cli: Cli, tmp_path: Path) -> None:
    """What is exported can be imported elsewhere, and holds the same rows."""
    make_store(tmp_path / "one")
    exported = cli("export", tmp_path / "one", "config", tmp_path / "artifact", "--json")
    assert (exported.code, exported.json["entries"]) == (0, 2)
    assert exported.json["directory"] == str(tmp_path / "artifact")
    (tmp_path / "two").mkdir()
    imported = cli("import", tmp_path / "two", "copy", tmp_path / "artifact", "--json")
    assert (imported.code, imported.json["entries"]) == (0, 2)
    assert imported.json["cursor"] == "0000000000000009"
    files = (tmp_path / "one" / "config.snap", tmp_path / "two" / "copy.snap")
    one, two = (cli("inspect", file, "--json", "--rows").json["rows"] for file in files)
    assert one == two


def test_compact_makes_a_log_smaller(cli: Cli, tmp_path: Path) -> None:
    """Dead records are gone afterwards, and both sizes are reported."""
    with holdfast.open(tmp_path) as engine:
        fold = engine.fold("config")
        for number in range(20):
            fold.apply([Put("k", bytes(100))], Cursor.from_u64(number))
    found = cli("compact", tmp_path, "config", "--json").json
    assert found["bytes_after"] < found["bytes_before"]
    assert (tmp_path / "config.snap").stat().st_size == found["bytes_after"]


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["inspect", "absent.snap"], "StoreIOError"),
        (["verify", "absent.snap"], "StoreIOError"),
        (["stat", "absent"], "StoreNotFound"),
        (["export", "absent", "config", "out"], "StoreNotFound"),
        (["export", "data", "absent", "out"], "StoreNotFound"),
        (["export", "data", "config", "data"], "StoreExists"),
        (["import", "data", "copy", "absent"], "ArtifactInvalid"),
        (["import", "data", "co/py", "absent"], "InvalidName"),
        (["import", "absent", "copy", "artifact"], "StoreNotFound"),
        (["export", "data", "co/py", "out"], "InvalidName"),
        (["compact", "data", "co/py"], "InvalidName"),
        (["compact", "data", "absent"], "StoreNotFound"),
        (["compact", "data", "bad"], "StoreCorrupt"),
        (["demo", "absent"], "InvalidArgument"),
        (["verify"], "UsageError"),
        (["verify", "a", "--no-such-option"], "UsageError"),
        (["no-such-command"], "UsageError"),
    ],
)
def test_an_error_is_one_line_and_one_code(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], kind: str
) -> None:
    """Errors of use and environment exit with 4, one line on stderr, and JSON where wanted."""
    make_store(tmp_path / "data")
    shutil.copyfile(DATA / "midflip.snap", tmp_path / "data" / "bad.snap")
    monkeypatch.chdir(tmp_path)
    result = cli(*arguments)
    assert (result.code, result.out) == (EXIT_ERROR, "")
    assert result.err.startswith("holdfast: ")
    assert len(result.err.splitlines()) == 1
    error = cli(*arguments, "--json").json["error"]
    assert error["type"] == kind
    assert {"message", "path", "offset"} <= error.keys()
    assert (error["offset"] == 65) == (kind == "StoreCorrupt")
    assert not (tmp_path / "absent").exists()


def test_without_arguments_there_is_help(cli: Cli) -> None:
    """The bare command explains itself."""
    result = cli()
    assert result.code == 0
    assert "verify" in result.out


def test_the_version_is_printed() -> None:
    """``python -m holdfast --version`` works as a program."""
    done = subprocess.run([*PROGRAM, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"holdfast {holdfast.__version__}\n"
    assert done.stderr == ""


def test_a_reader_that_stops_is_no_error(tmp_path: Path) -> None:
    """When the pipe's reader goes away the program ends quietly."""
    path = tmp_path / "large.snap"
    with holdfast.open(tmp_path) as engine:
        engine.fold("large").apply([Put("k", bytes(1 << 20))], Cursor.none())
    command = [*PROGRAM, "inspect", str(path), "--rows", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == EXIT_BROKEN_PIPE


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no full device")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_output_that_cannot_be_written_is_one_line(tmp_path: Path, flags: list[str]) -> None:
    """With its output on a full disk a command says so, without a traceback, and exits with 4."""
    make_store(tmp_path)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*PROGRAM, "stat", str(tmp_path), *flags],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == EXIT_ERROR
    assert done.stderr.splitlines() == ["holdfast: [Errno 28] No space left on device"]


def test_control_c_ends_quietly(tmp_path: Path, scratch: Path) -> None:
    """An interrupted demonstration exits with 130, without a traceback, and cleans up."""
    files = tmp_path / "files"
    files.mkdir()
    (files / "a.txt").write_text("a")
    environment = {**os.environ, "TMPDIR": str(scratch)}
    command = [*PROGRAM, "demo", str(files)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        while not list(scratch.glob("holdfast-demo-*/stores/storm.snap")):
            assert process.poll() is None, "it ended before it could be interrupted"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (EXIT_INTERRUPTED, b"")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compact", "data", "absent"], "there is no store 'absent' in "),
        (["export", "data", "absent", "out"], "there is no store 'absent' in "),
        (["compact", "data", "models"], "store 'models' is a registry: each write makes its file"),
        (["query", "data", "--vector", "q.npy"], "data' is a directory, not a vector store's file"),
        (["import", "absent", "copy", "data"], "absent' is not a directory"),
        (
            ["import", "data", "w", "absent.parquet"],
            "absent.parquet': No such file or directory (E",
        ),
        (["verify", "data/w.warm/MANIFEST"], "MANIFEST' is a file of a warm store"),
        (["inspect", "data/w.warm/LOG"], "LOG' is a file of a warm store"),
        (["verify", "data/w.warm/0000000001.arrow"], "looked at as a whole: that is "),
        (["verify", "data/w.warm/0000000001.zone"], "data/w.warm'"),
    ],
)
def test_an_error_says_what_to_do_instead(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    """An error is about what was asked for, and nothing was made on the way to it."""
    with holdfast.open(tmp_path / "data") as engine:
        engine.registry("models")
        warm = engine.warm("w", dimension=1)
        warm.write(1, 0, [1], [[1.0]])
        warm.flush()
    (tmp_path / "q.npy").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    result = cli(*arguments)
    assert result.code == EXIT_ERROR
    assert said in result.err
    assert {path.name for path in tmp_path.iterdir()} == before
