"""The command line on indexes: what it prints, how it exits, and that looking is harmless."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import holdfast
from holdfast import PersistedIndex
from holdfast.cli_base import EXIT_ERROR
from tests.engine.cli_runner import Cli, snapshot
from tests.workers.test_index_own_class import Picky

DATA = Path(__file__).resolve().parent.parent / "data" / "iqdb"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text(encoding="utf-8"))
VECTORS = np.arange(40, dtype=np.float32).reshape(10, 4)


def copied(name: str, directory: Path) -> Path:
    """A golden snapshot with its log, in a directory of the test's."""
    for source in DATA.glob(f"{name}*"):
        shutil.copyfile(source, directory / source.name)
    return directory / name


def rows_of(rowset: str) -> list[dict[str, Any]]:
    """A row set as the command line has it."""
    rows = []
    for item in EXPECTED["rowsets"][rowset]:
        metadata = item["meta"]
        if metadata is not None:
            metadata = {
                key: value["f64"] if isinstance(value, dict) else value
                for key, value in metadata.items()
            }
        rows.append({"id": item["id"], "vector": item["hex"], "metadata": metadata})
    return rows


def test_inspect_prints_the_promised_object(cli: Cli) -> None:
    """Exactly the documented fields, the rows in file order with their floats as they are."""
    result = cli("inspect", DATA / "wal-live.iqdb", "--json", "--rows")
    assert (result.code, result.err) == (0, "")
    found = result.json
    assert found.pop("rows") == rows_of("rowset-0")
    assert found == {
        "format": "iqdb",
        "verdict": "clean",
        "version": 2,
        "index_type": "iqdb-core",
        "dim": 8,
        "metric": "cosine",
        "count": 50,
        "compression": "none",
        "wal": {"frames": 17, "verdict": "clean"},
    }


def test_inspect_with_the_log_shows_what_opening_gives(cli: Cli) -> None:
    """With ``--wal`` the rows and their number are those after the log."""
    found = cli("inspect", DATA / "wal-live.iqdb", "--json", "--rows", "--wal").json
    assert found["rows"] == rows_of("rowset-6")
    assert found["count"] == 55


def test_inspect_as_text_shows_fields_and_rows(cli: Cli) -> None:
    """Without ``--json``, one field and one row a line, bytes escaped."""
    result = cli("inspect", DATA / "wal-live.iqdb", "--rows")
    assert "17 records, clean; --wal counts and shows rows with these applied" in result.out
    assert "--wal" not in cli("inspect", DATA / "wal-live.iqdb", "--wal").out
    assert "b'key-004'  [-0.221649, -0.149485, -0.0773196, -0.00515464, ...]  {}" in result.out


def test_a_null_shows_among_the_metadata_in_text(cli: Cli, tmp_path: Path) -> None:
    """It means something in an index, in contrast to a field that is not there."""
    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4) as index:
        index.insert(1, VECTORS[0], {"a": None, "b": 2})
        index.checkpoint()
    assert '{"a": null, "b": 2}' in cli("inspect", tmp_path / "i.iqdb", "--rows").out


@pytest.mark.parametrize("content", [None, b"", bytes(20), b"something else"])
@pytest.mark.parametrize("command", ["inspect", "verify", "repair"])
def test_a_log_by_itself_is_called_one(
    command: str, content: bytes | None, cli: Cli, tmp_path: Path
) -> None:
    """The error says what it is, by its beginning or its name, and names the snapshot to give."""
    path = tmp_path / "i.iqdb.wal"
    path.write_bytes((DATA / "wal-live.iqdb.wal").read_bytes() if content is None else content)
    result = cli(command, path)
    assert result.code == EXIT_ERROR
    assert "the log of an index" in result.err
    assert repr(str(tmp_path / "i.iqdb")) in result.err
    assert list(tmp_path.iterdir()) == [path]


VERDICTS = {
    "snap-zstd19.iqdb": (0, "clean"),
    "snap-v1.iqdb": (0, "clean"),
    "snap-vec-example.iqdb": (0, "clean"),
    "odd-payload-trailing-junk.iqdb": (0, "clean"),
    "wal-live.iqdb": (0, "clean"),
    "wal-torn-body.iqdb": (1, "torn"),
    "wal-zero-padded-64.iqdb": (1, "torn"),
    "wal-short-header.iqdb": (1, "torn"),
    "wal-flip-midlog.iqdb": (2, "corrupt"),
    "wal-record-short.iqdb": (2, "invalid"),
    "wal-badmagic.iqdb": (2, "invalid"),
    "bad-payload-bitflip.iqdb": (2, "corrupt"),
    "bad-truncated-header.iqdb": (2, "corrupt"),
    "bad-zstd-garbage.iqdb": (2, "corrupt"),
    "bad-lz4-bomb-claim.iqdb": (2, "invalid"),
    "bad-header-n.iqdb": (2, "invalid"),
    "bad-metric5.iqdb": (2, "corrupt"),
    "bad-magic.iqdb": (3, "invalid"),
    "bad-version3.iqdb": (3, "invalid"),
}


@pytest.mark.parametrize("name", VERDICTS)
def test_verify_tells_and_touches_nothing(name: str, cli: Cli, tmp_path: Path) -> None:
    """The exit code and the verdict are those of opening, and no file changes."""
    path = copied(name, tmp_path)
    before = snapshot(tmp_path)
    result = cli("verify", path, "--json")
    assert (result.code, result.json["verdict"]) == VERDICTS[name]
    assert cli("verify", path).code == result.code
    assert cli("inspect", path, "--rows", "--json").json["verdict"] == VERDICTS[name][1]
    assert snapshot(tmp_path) == before


def opens(path: Path) -> list[int | bytes]:
    """The ids in an index, which opens."""
    with PersistedIndex.load(path) as index:
        return sorted(index.index.table.ids, key=str)  # type: ignore[attr-defined]


def test_repair_takes_what_lies_before_the_damage(cli: Cli, tmp_path: Path) -> None:
    """The snapshot and the log up to its damage make a new snapshot; the old files stay."""
    path = copied("wal-flip-midlog.iqdb", tmp_path)
    before = path.read_bytes()
    result = cli("repair", path, "--json").json
    assert result["output"] == f"{path}.repaired"
    assert len(result["lost"]) == 1
    assert path.read_bytes() == before
    assert len(opens(Path(result["output"]))) == result["rows"] == 55
    assert cli("repair", path).code == EXIT_ERROR  # the output exists


def test_repair_with_salvage_takes_what_lies_behind_it_too(cli: Cli, tmp_path: Path) -> None:
    """Of the log only the damaged record is missing then."""
    path = copied("wal-flip-midlog.iqdb", tmp_path)
    plain = cli("repair", path, "--json").json
    salvaged = cli("repair", path, "--salvage", "--output", tmp_path / "s.iqdb", "--json").json
    assert salvaged["salvaged_rows"] == 11
    with PersistedIndex.load(tmp_path / "s.iqdb") as index:
        assert 1055 not in index  # the damaged record
        assert 1056 in index
    with PersistedIndex.load(plain["output"]) as index:
        assert 1056 not in index
    assert plain["salvaged_rows"] == 0


def test_repair_in_place_makes_it_open_and_keeps_both_files(cli: Cli, tmp_path: Path) -> None:
    """Snapshot and log are replaced, and the damaged ones lie beside them."""
    path = copied("wal-flip-midlog.iqdb", tmp_path)
    wal = Path(f"{path}.wal")
    old = path.read_bytes(), wal.read_bytes()
    result = cli("repair", path, "--in-place", "--json").json
    assert result["kept"] == f"{path}.damaged"
    assert (Path(f"{path}.damaged").read_bytes(), Path(f"{wal}.damaged").read_bytes()) == old
    assert len(opens(path)) == 55
    assert cli("verify", path).code == 0


@pytest.mark.parametrize("how", ["missing", "one bit"])
def test_what_a_closed_log_lost_is_told_and_repaired(cli: Cli, tmp_path: Path, how: str) -> None:
    """After a clean close ``verify`` knows what is missing; ``repair`` makes it open without."""
    path = tmp_path / "i.iqdb"
    wal = Path(f"{path}.wal")
    with PersistedIndex.open(path, dimension=4) as index:
        index.insert(1, VECTORS[0])
        index.checkpoint()
        index.insert(2, VECTORS[1])
    if how == "missing":
        wal.unlink()
    else:
        log = bytearray(wal.read_bytes())
        log[-40] ^= 1
        wal.write_bytes(log)
    assert cli("verify", path).code == 2
    with pytest.raises(holdfast.StoreCorrupt):
        PersistedIndex.open(path)
    assert cli("repair", path, "--in-place").code == 0
    assert cli("verify", path).code == 0
    assert len(opens(path)) == 1


def test_repair_of_a_damaged_snapshot_needs_salvage(cli: Cli, tmp_path: Path) -> None:
    """Rows without a checksum are only taken on request, and then the report says so."""
    path = copied("bad-payload-bitflip.iqdb", tmp_path)
    refused = cli("repair", path)
    assert refused.code == EXIT_ERROR
    assert "salvage takes what rows are legible" in refused.err
    result = cli("repair", path, "--salvage", "--json").json
    assert 0 < result["rows"] == result["salvaged_rows"] < 50
    assert result["lost"][0]["rows"] == 50 - result["rows"]
    assert "may be wrong" in result["notes"][0]
    assert len(opens(Path(result["output"]))) == result["rows"]


def test_repair_refuses_what_it_cannot_read(cli: Cli, tmp_path: Path) -> None:
    """Another's payload, and a file that is none, give an error and no output."""
    for name in ("snap-vec-example.iqdb", "bad-magic.iqdb", "bad-zstd-garbage.iqdb"):
        path = copied(name, tmp_path)
        assert cli("repair", path, "--salvage").code == EXIT_ERROR
        assert not Path(f"{path}.repaired").exists()


@pytest.mark.parametrize("content", [b"", bytes(5000), b"IQDBPRST"])
def test_repair_promises_nothing_where_nothing_is_left(
    content: bytes, cli: Cli, tmp_path: Path
) -> None:
    """Without a legible header of rows the error does not suggest to salvage them."""
    path = tmp_path / "i.iqdb"
    path.write_bytes(content)
    for arguments in ((), ("--salvage",)):
        result = cli("repair", path, *arguments)
        assert result.code == EXIT_ERROR
        assert "nothing of the snapshot can be trusted" in result.err
        assert "salvage" not in result.err


def test_stat_counts_what_opening_gives(cli: Cli, tmp_path: Path) -> None:
    """Closed, an index has as many rows as in use: those of snapshot and log."""
    with holdfast.open(tmp_path) as engine:
        index = engine.index("i", dimension=4)
        for _ in range(2):
            index.upsert_batch(range(10), VECTORS)
            index.delete_batch([1, 2])
            index.save()
        index.upsert(1, VECTORS[0])
        (served,) = cli("stat", tmp_path, "--json").json["stores"]
    (closed,) = cli("stat", tmp_path, "--json").json["stores"]
    assert served["live_rows"] == closed["live_rows"] == 9
    assert "9" in cli("stat", tmp_path).out.splitlines()[1].split()


def test_stat_does_not_guess_at_rows_that_only_a_class_knows(cli: Cli, tmp_path: Path) -> None:
    """An index of a class of one's own has no count while records are in its log."""
    index = PersistedIndex.open_with(Picky(4, "euclidean"), tmp_path / "i.iqdb")
    (store,) = cli("stat", tmp_path, "--json").json["stores"]
    assert store["live_rows"] == 0
    index.insert(1, VECTORS[0])
    index.close()
    (store,) = cli("stat", tmp_path, "--json").json["stores"]
    assert store["live_rows"] is None
    PersistedIndex.load(tmp_path / "i.iqdb", Picky).checkpoint()
    (store,) = cli("stat", tmp_path, "--json").json["stores"]
    assert store["live_rows"] == 1


def test_stat_and_compact_know_indexes(cli: Cli, tmp_path: Path) -> None:
    """An index at rest shows its rows; ``compact`` is a checkpoint; ``export`` is refused."""
    with PersistedIndex.open(tmp_path / "i.iqdb", dimension=4) as index:
        index.insert_batch(range(10), VECTORS)
    (store,) = cli("stat", tmp_path, "--json").json["stores"]
    assert (store["name"], store["kind"], store["live_rows"]) == ("i", "index", 10)
    done = cli("compact", tmp_path, "i", "--json").json
    assert (done["bytes_before"] > 500, done["bytes_after"]) == (True, 12)
    (store,) = cli("stat", tmp_path, "--json").json["stores"]
    assert store["live_rows"] == 10
    assert cli("export", tmp_path, "i", tmp_path / "out").code == EXIT_ERROR
    with holdfast.open(tmp_path) as engine:
        engine.index("i").count()
        (store,) = cli("stat", tmp_path, "--json").json["stores"]
        assert (store["state"], store["live_rows"]) == ("running", 10)
    assert cli("inspect", tmp_path / "i.iqdb", "--wal").code == 0
    assert cli("inspect", DATA / "expected.json", "--wal").code == EXIT_ERROR
